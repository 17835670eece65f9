//! Numbers on the command line, refused in words that say which would be right.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::str::FromStr;

/// A whole number of 32 bits.
pub(crate) fn natural_32(word: &str) -> Result<u32, String> {
    whole(word, 0, u32::MAX)
}

/// A count of at least one.
pub(crate) fn positive(word: &str) -> Result<NonZeroUsize, String> {
    let most = u32::MAX;
    let refused = || format!("it must be a whole number from 1 to {most}");
    let number: u32 = word.parse().map_err(|_| refused())?;
    NonZeroUsize::new(number as usize).ok_or_else(refused)
}

/// A whole number of 64 bits.
pub(crate) fn natural_64(word: &str) -> Result<u64, String> {
    whole(word, 0, u64::MAX)
}

/// A whole number of 64 bits with a sign.
pub(crate) fn integer_64(word: &str) -> Result<i64, String> {
    whole(word, i64::MIN, i64::MAX)
}

/// Any number, NaN and infinities among them: whoever takes it says which are in range.
pub(crate) fn real(word: &str) -> Result<f32, String> {
    word.parse().map_err(|_| "it must be a number such as `0.8`".to_owned())
}

fn whole<T: FromStr>(word: &str, least: impl Display, most: impl Display) -> Result<T, String> {
    word.parse().map_err(|_| format!("it must be a whole number from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_refused_with_the_range() {
        assert_eq!(natural_32("7"), Ok(7));
        assert_eq!(natural_64("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(integer_64("-3"), Ok(-3));
        assert_eq!(real("1e-3"), Ok(1e-3));
        for word in ["", "x", "-1", "1.5", "4294967296"] {
            assert_eq!(natural_32(word).unwrap_err(), "it must be a whole number from 0 to 4294967295", "{word}");
        }
        for word in ["0", "-1", "x", "4294967296"] {
            assert_eq!(positive(word).unwrap_err(), "it must be a whole number from 1 to 4294967295", "{word}");
        }
        assert!(real("warm").is_err());
    }
}

//! One number that is the whole trade between graphs and padding: how far apart neighbouring sizes may lie.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use thiserror::Error;

use crate::words::serde_as_word;

/// A finite number above 1: the largest factor between a size and the next smaller one.
///
/// A ladder of ratio r has about ln(largest) / ln(r) sizes, pads token counts that are spread evenly by
/// (r - 1) / (r + 1) on average, and no count by more than r.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Ratio(f64);

/// A number, or a word, that is no ratio.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the ratio is `{word}`; it must be a finite number above 1")]
pub struct RatioError {
    word: String,
}

impl Ratio {
    /// Halving downwards, doubling upwards.
    pub const TWO: Self = Self(2.0);

    /// Checks the number.
    ///
    /// # Errors
    /// 1 and less, infinity, not a number.
    pub fn new(ratio: f64) -> Result<Self, RatioError> {
        if ratio.is_finite() && ratio > 1.0 { Ok(Self(ratio)) } else { Err(RatioError { word: ratio.to_string() }) }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// The next size below `size`: the least multiple of `multiple` that is at least `size / ratio`, or the multiple just
    /// below `size` where that is not smaller. 0 where no multiple is below `size`.
    pub(crate) fn below(self, size: u64, multiple: u64) -> u64 {
        let least = ((size as f64 / self.0).ceil() as u64).max(1).next_multiple_of(multiple);
        if least < size {
            return least;
        }
        let below = size.saturating_sub(1);
        below - below % multiple
    }

    /// The next size above `size`: at most `size * ratio`, but at least one more.
    pub(crate) fn above(self, size: u64) -> u64 {
        ((size as f64 * self.0).floor() as u64).max(size.saturating_add(1))
    }
}

// Never not a number, and never zero: equality is that of the bits.
impl Eq for Ratio {}

impl Hash for Ratio {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Ratio {
    type Err = RatioError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let error = || RatioError { word: word.to_owned() };
        Self::new(word.parse().map_err(|_| error())?).map_err(|_| error())
    }
}

serde_as_word!(Ratio);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_numbers_above_one_are_ratios() {
        for word in ["", "1", "1.0", "0.5", "0", "-2", "nan", "NaN", "inf", "-inf", "1e999", "two", "2x", " 2"] {
            let error = word.parse::<Ratio>().expect_err(word);
            assert_eq!(error.to_string(), format!("the ratio is `{word}`; it must be a finite number above 1"));
        }
        assert!(Ratio::new(f64::NAN).is_err());
        for ratio in [1.0 + f64::EPSILON, 1.1, 2.0, std::f64::consts::SQRT_2, f64::MAX] {
            let ratio = Ratio::new(ratio).expect("a ratio");
            assert_eq!(ratio.to_string().parse(), Ok(ratio));
        }
    }

    #[test]
    fn steps_stay_within_the_ratio_and_always_move() {
        for ratio in [1.0 + f64::EPSILON, 1.25, 2.0, 1e9, f64::MAX].map(|ratio| Ratio::new(ratio).expect("a ratio")) {
            for size in [1, 2, 3, 10, 4096, u64::from(u32::MAX), 1 << 33] {
                assert!(ratio.above(size) > size);
                for multiple in [1, 2, 7, 64, u64::from(u32::MAX)] {
                    let below = ratio.below(size, multiple);
                    assert!(below < size && below % multiple == 0, "{ratio} {size} {multiple}");
                    let bounded = below as f64 >= size as f64 / ratio.get();
                    assert!(bounded || size - below <= multiple, "{ratio} {size} {multiple}: {below}");
                }
            }
        }
    }
}

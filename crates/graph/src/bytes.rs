//! Sizes as people read them.

use std::fmt;

/// A number of bytes, or a change of one; prints with one decimal and the unit that fits, as in `36.3 mb` or `-512 bytes`
/// (the form of Megatron-LM's capture log).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(
    /// The number.
    pub i128,
);

impl From<u64> for Bytes {
    fn from(bytes: u64) -> Self {
        Self(i128::from(bytes))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        let units = [(1_u128 << 40, "tb"), (1 << 30, "gb"), (1 << 20, "mb"), (1 << 10, "kb")];
        match units.into_iter().find(|&(unit, _)| size >= unit) {
            Some((unit, name)) => write!(formatter, "{sign}{:.1} {name}", size as f64 / unit as f64),
            None => write!(formatter, "{sign}{size} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_fits_the_size() {
        let text = |bytes| Bytes(bytes).to_string();
        assert_eq!(text(0), "0 bytes");
        assert_eq!(text(-1023), "-1023 bytes");
        assert_eq!(text(1024), "1.0 kb");
        assert_eq!(text(38_063_309), "36.3 mb");
        assert_eq!(text(-(3 << 30)), "-3.0 gb");
        assert_eq!(text(5 << 40), "5.0 tb");
    }
}

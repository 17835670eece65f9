//! Durations as people read them.

use std::fmt;
use std::time::Duration;

/// A duration in seconds; prints with two decimals, or with as many as show two digits that count, as in `0.41` or `0.00084`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(
    /// The duration.
    pub Duration,
);

impl fmt::Display for Seconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nine decimals are nanoseconds, the finest that a duration has.
        const MOST: usize = 9;
        let seconds = self.0.as_secs_f64();
        let decimals = (2..MOST).find(|&decimals| seconds * 10_f64.powi(decimals as i32) >= 9.5).unwrap_or(MOST);
        let decimals = if self.0.is_zero() { 2 } else { decimals };
        write!(formatter, "{seconds:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_count() {
        let text = |nanoseconds| Seconds(Duration::from_nanos(nanoseconds)).to_string();
        assert_eq!(text(0), "0.00");
        assert_eq!(text(1), "0.000000001");
        assert_eq!(text(839_404), "0.00084");
        assert_eq!(text(99_900_000), "0.10");
        assert_eq!(text(410_000_000), "0.41");
        assert_eq!(text(12_345_000_000), "12.35");
    }
}

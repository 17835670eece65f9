//! Classes of products that share an entry of a table of measured choices.

use std::fmt;
use std::str::FromStr;

use super::Epilogue;
use crate::weight_plan::ElementType;

impl Epilogue {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Logits, Self::Residual, Self::SwiGlu, Self::Rotary];
}

impl fmt::Display for Epilogue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Logits => "logits",
            Self::Residual => "residual",
            Self::SwiGlu => "swiglu",
            Self::Rotary => "rotary",
        })
    }
}

/// A word that names nothing that a table of products knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no {what}: it must be one of {known}")]
pub struct UnknownWord {
    pub(super) word: String,
    pub(super) what: &'static str,
    pub(super) known: String,
}

/// The value whose text form `word` is.
pub(super) fn named<T: fmt::Display>(
    word: &str,
    what: &'static str,
    mut all: impl Iterator<Item = T> + Clone,
) -> Result<T, UnknownWord> {
    let known = all.clone();
    all.find(|one| one.to_string() == word).ok_or_else(|| UnknownWord {
        word: word.chars().take(64).collect(),
        what,
        known: known.map(|one| one.to_string()).collect::<Vec<_>>().join(", "),
    })
}

impl FromStr for Epilogue {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        named(word, "epilogue", Self::ALL.into_iter())
    }
}

/// A capacity of rows, rounded up to a power of two: 1, 2, 4, ... Rounded up, 64 rows and fewer, which the product of few rows takes, never
/// share a class with more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowClass(u32);

impl RowClass {
    /// The class of a capacity; that of 0 is that of 1, those beyond 2^31 are that of 2^31.
    #[must_use]
    pub fn of(rows: u32) -> Self {
        Self(rows.max(1).checked_next_power_of_two().unwrap_or(1 << 31))
    }

    /// The largest capacity of the class, as far as 32 bits hold it.
    #[must_use]
    pub fn rows(self) -> u32 {
        self.0
    }
}

/// What products that share an entry have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProductClass {
    /// Type of activations and weights.
    pub element: ElementType,
    /// What happens to the sums.
    pub epilogue: Epilogue,
    /// Columns of the product.
    pub n: u32,
    /// Values of each sum.
    pub k: u32,
    /// Capacity of rows.
    pub rows: RowClass,
}

impl fmt::Display for ProductClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { element, epilogue, n, k, rows } = self;
        write!(formatter, "{element} {epilogue} [{n}, {k}] of {} rows", rows.rows())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_rounded_up_to_powers_of_two() {
        let class = |rows| RowClass::of(rows).rows();
        assert_eq!([0, 1, 2, 3, 64, 65, 396, 8192].map(class), [1, 1, 2, 4, 64, 128, 512, 8192]);
        assert_eq!([(1 << 31) + 1, u32::MAX].map(class), [1 << 31; 2]);
    }

    #[test]
    fn epilogues_have_names() {
        for epilogue in Epilogue::ALL {
            assert_eq!(epilogue.to_string().parse(), Ok(epilogue));
        }
        let error = "bias".parse::<Epilogue>().expect_err("no epilogue");
        assert_eq!(error.to_string(), "`bias` is no epilogue: it must be one of logits, residual, swiglu, rotary");
    }
}

//! The second and the third axis of the grid: P and D of the points with prefills.

use std::fmt;
use std::str::FromStr;

use crate::error::{ParseAxisError, PlanError};
use crate::ladder::check_candidates;
use crate::planner::MAX_CANDIDATES;
use crate::ratio::Ratio;
use crate::sizing::Sizing;
use crate::words::{ascending, read_list, serde_as_word, write_list};

/// Which P the points of one token count take. Beside these, each token count T has the point `(T, min(T, max_requests), 0)`,
/// which every step of up to T tokens fits, decodes sharing its prefill slots.
///
/// It is written `auto`, `off`, `geometric:R` or `list:1,4,16`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum PrefillAxis {
    /// The sizing's own: {1, 2, 4, ..., max_requests} (Megatron-LM PR #3509), and under [`Sizing::Linear`] the mixed prefill
    /// count alone.
    #[default]
    Auto,
    /// One P: all the slots that the tokens and `max_requests` allow, which surplus decodes share (vLLM's full graphs of
    /// mixed batches). Under [`Matching::Strict`](crate::Matching::Strict) only steps without decodes find such points.
    Off,
    /// 1 and then each next P at most `ratio` times the one before, up to `max_requests`. Ratio 2 is the PR's.
    Geometric(Ratio),
    /// These, each from 1 to `max_requests`, in any order.
    List(Vec<u32>),
}

impl PrefillAxis {
    /// The values, ascending, before the points that they would make are checked.
    pub(crate) fn values(&self, sizing: &Sizing, max_requests: u32, mixed: u64) -> Result<Vec<u64>, PlanError> {
        let most = u64::from(max_requests);
        match self {
            Self::Auto if *sizing == Sizing::Linear => Ok(vec![mixed.min(most)]),
            Self::Auto => geometric(Ratio::TWO, most),
            Self::Off => Ok(vec![most]),
            Self::Geometric(ratio) => geometric(*ratio, most),
            Self::List(list) => {
                if list.is_empty() {
                    return Err(PlanError::EmptyPrefillAxis);
                }
                let list = ascending(list.clone());
                if let Some(&prefills) = list.iter().find(|&&prefills| prefills == 0 || prefills > max_requests) {
                    return Err(PlanError::PrefillsOutOfRange { prefills, max_requests });
                }
                Ok(list.into_iter().map(u64::from).collect())
            }
        }
    }

    /// The least P of a prefill-only point.
    pub(crate) fn fewest(&self, sizing: &Sizing, mixed: u64) -> u64 {
        if *self == Self::Auto && *sizing == Sizing::Linear { mixed } else { 1 }
    }
}

fn geometric(ratio: Ratio, most: u64) -> Result<Vec<u64>, PlanError> {
    let values = std::iter::successors(Some(1), |&prefills| Some(ratio.above(prefills)));
    let below = values.take_while(|&prefills| prefills < most).take(MAX_CANDIDATES as usize + 1);
    let values: Vec<u64> = below.chain([most]).collect();
    check_candidates(values.len() as u64)?;
    Ok(values)
}

impl fmt::Display for PrefillAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Off => f.pad("off"),
            Self::Geometric(ratio) => write!(f, "geometric:{ratio}"),
            Self::List(list) => write!(f, "list:{}", write_list(list)),
        }
    }
}

impl FromStr for PrefillAxis {
    type Err = ParseAxisError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let unknown = || ParseAxisError::UnknownPrefillAxis { word: word.to_owned() };
        match (word, word.split_once(':')) {
            ("auto", _) => Ok(Self::Auto),
            ("off", _) => Ok(Self::Off),
            (_, Some(("geometric", ratio))) => Ok(Self::Geometric(ratio.parse()?)),
            (_, Some(("list", list))) => match read_list(list).map_err(|entry| ParseAxisError::Prefills { entry })? {
                list if list.is_empty() => Err(unknown()),
                list => Ok(Self::List(list)),
            },
            _ => Err(unknown()),
        }
    }
}

/// Which D the mixed points of one `(T, P)` take. It is written `rest` or `geometric:R`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DecodeAxis {
    /// The most that fits beside P (Megatron-LM PR #3509): request slots are then not bounded by the batch's requests.
    #[default]
    Rest,
    /// The most that fits, from there down to 1 with neighbours within the ratio, and 0: for kernels whose cost grows with the
    /// slots of the point.
    Geometric(Ratio),
}

impl DecodeAxis {
    /// The values, from `rest` down.
    pub(crate) fn values(self, rest: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(rest), move |&decodes| match self {
            Self::Rest => None,
            Self::Geometric(ratio) => (decodes > 0).then(|| ratio.below(decodes, 1)),
        })
    }
}

impl fmt::Display for DecodeAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rest => f.pad("rest"),
            Self::Geometric(ratio) => write!(f, "geometric:{ratio}"),
        }
    }
}

impl FromStr for DecodeAxis {
    type Err = ParseAxisError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match (word, word.split_once(':')) {
            ("rest", _) => Ok(Self::Rest),
            (_, Some(("geometric", ratio))) => Ok(Self::Geometric(ratio.parse()?)),
            _ => Err(ParseAxisError::UnknownDecodeAxis { word: word.to_owned() }),
        }
    }
}

serde_as_word!(PrefillAxis, DecodeAxis);

#[cfg(test)]
mod tests {
    use super::*;

    fn geometric_axis(ratio: f64, max_requests: u32) -> Result<Vec<u64>, PlanError> {
        let axis = PrefillAxis::Geometric(Ratio::new(ratio).expect("a ratio"));
        axis.values(&Sizing::Hybrid, max_requests, 16)
    }

    #[test]
    fn ratio_two_is_the_references_axis() {
        assert_eq!(geometric_axis(2.0, 20), Ok(vec![1, 2, 4, 8, 16, 20]));
        assert_eq!(geometric_axis(4.0, 396), Ok(vec![1, 4, 16, 64, 256, 396]));
        assert_eq!(geometric_axis(1.5, 8), Ok(vec![1, 2, 3, 4, 6, 8]));
        assert_eq!(geometric_axis(f64::MAX, u32::MAX), Ok(vec![1, u64::from(u32::MAX)]));
        assert!(matches!(geometric_axis(1.0 + 1e-15, u32::MAX), Err(PlanError::TooManyCandidates { .. })));
        for sizing in [Sizing::Exponential, Sizing::Hybrid] {
            assert_eq!(PrefillAxis::Auto.values(&sizing, 396, 16), geometric_axis(2.0, 396));
        }
        assert_eq!(PrefillAxis::Auto.values(&Sizing::Linear, 396, 16), Ok(vec![16]));
    }

    #[test]
    fn lists_are_within_the_requests() {
        let values = |list: &[u32]| PrefillAxis::List(list.to_vec()).values(&Sizing::Hybrid, 16, 1);
        assert_eq!(values(&[16, 1, 4, 4]), Ok(vec![1, 4, 16]));
        assert_eq!(values(&[]), Err(PlanError::EmptyPrefillAxis));
        assert_eq!(values(&[1, 0]), Err(PlanError::PrefillsOutOfRange { prefills: 0, max_requests: 16 }));
        assert_eq!(values(&[17]), Err(PlanError::PrefillsOutOfRange { prefills: 17, max_requests: 16 }));
    }

    #[test]
    fn decodes_descend_from_the_rest() {
        let values =
            |ratio, rest| DecodeAxis::Geometric(Ratio::new(ratio).expect("a ratio")).values(rest).collect::<Vec<_>>();
        assert_eq!(values(2.0, 255), [255, 128, 64, 32, 16, 8, 4, 2, 1, 0]);
        assert_eq!(values(4.0, 100), [100, 25, 7, 2, 1, 0]);
        assert_eq!(values(2.0, 0), [0]);
        assert_eq!(DecodeAxis::Rest.values(7).collect::<Vec<_>>(), [7]);
    }
}

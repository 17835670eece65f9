//! How often each step occurred.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::point::StepShape;

/// The most steps that a histogram counts: sums over them stay within 128 bits.
const MOST_STEPS: u64 = 1 << 62;

/// Real steps `(t, p, d)` and how often each occurred. It may be empty.
///
/// Serialised it is `{"steps":[[t,p,d,count],..]}` in ascending order of (t, p, d); read back, steps that no batch can have
/// are refused ([`HistogramError`]), rows of the same step are added up, and fields that are not known are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "HistogramFile", into = "HistogramFile")]
pub struct StepHistogram {
    counts: BTreeMap<StepShape, u64>,
    total: u64,
}

/// Why numbers are no step that occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HistogramError {
    /// A row of the file with numbers that no step has.
    #[error("steps[{index}] has {field} `{value}`; it must be at most {}", u32::MAX)]
    OutOfRange {
        /// Its position in the list.
        index: usize,
        /// `t`, `p` or `d`.
        field: &'static str,
        /// The number.
        value: u64,
    },
    /// A step that no batch has: it has no request, or more requests than tokens.
    #[error("a step has t `{}`, p `{}` and d `{}`; it has at least one request and at least one token for each",
        .step.tokens, .step.prefills, .step.decodes)]
    ImpossibleStep {
        /// The step.
        step: StepShape,
    },
    /// A step that did not occur.
    #[error("the step `{step}` has the count `0`; it must be at least 1")]
    NoCount {
        /// The step.
        step: StepShape,
    },
    /// More steps than can be summed up.
    #[error("the counts add up to more than `{MOST_STEPS}` steps; they can add up to that at most")]
    TooManySteps,
}

impl StepHistogram {
    /// Counts `count` more steps of this shape.
    ///
    /// # Errors
    /// A step without requests or with more requests than tokens, a count of 0, more than 2^62 steps altogether.
    pub fn add(&mut self, step: StepShape, count: u64) -> Result<(), HistogramError> {
        let requests = u64::from(step.prefills) + u64::from(step.decodes);
        if !(1..=u64::from(step.tokens)).contains(&requests) {
            return Err(HistogramError::ImpossibleStep { step });
        }
        if count == 0 {
            return Err(HistogramError::NoCount { step });
        }
        let total = self.total.checked_add(count).filter(|&total| total <= MOST_STEPS);
        self.total = total.ok_or(HistogramError::TooManySteps)?;
        *self.counts.entry(step).or_insert(0) += count;
        Ok(())
    }

    /// The number of steps.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.total
    }

    /// Whether no step occurred.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Each step with its count, ascending by (t, p, d).
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (StepShape, u64)> {
        self.counts.iter().map(|(&step, &count)| (step, count))
    }

    /// How many steps executed each number of tokens, of those with prefills or of those without: ascending by tokens.
    pub(crate) fn token_counts(&self, with_prefills: bool) -> BTreeMap<u32, u64> {
        let mut tokens = BTreeMap::new();
        for (step, count) in self.iter().filter(|(step, _)| (step.prefills > 0) == with_prefills) {
            *tokens.entry(step.tokens).or_insert(0) += count;
        }
        tokens
    }
}

/// What a histogram is written as.
#[derive(Serialize, Deserialize)]
struct HistogramFile {
    steps: Vec<(u64, u64, u64, u64)>,
}

impl From<StepHistogram> for HistogramFile {
    fn from(histogram: StepHistogram) -> Self {
        let row =
            |(step, count): (StepShape, u64)| (step.tokens.into(), step.prefills.into(), step.decodes.into(), count);
        Self { steps: histogram.iter().map(row).collect() }
    }
}

impl TryFrom<HistogramFile> for StepHistogram {
    type Error = HistogramError;

    fn try_from(file: HistogramFile) -> Result<Self, HistogramError> {
        let mut histogram = Self::default();
        for (index, &(tokens, prefills, decodes, count)) in file.steps.iter().enumerate() {
            let narrow = |field, value: u64| {
                u32::try_from(value).map_err(|_| HistogramError::OutOfRange { index, field, value })
            };
            let (tokens, prefills) = (narrow("t", tokens)?, narrow("p", prefills)?);
            let decodes = narrow("d", decodes)?;
            histogram.add(StepShape { tokens, prefills, decodes }, count)?;
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<StepHistogram, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn json_reads_back() {
        let mut histogram = StepHistogram::default();
        let step = |tokens, prefills, decodes| StepShape { tokens, prefills, decodes };
        for (step, count) in [(step(300, 1, 40), 2), (step(7, 0, 7), 5), (step(300, 1, 40), 1)] {
            histogram.add(step, count).expect("a step");
        }
        let json = serde_json::to_string(&histogram).expect("json");
        assert_eq!(json, r#"{"steps":[[7,0,7,5],[300,1,40,3]]}"#);
        assert_eq!(read(&json), Ok(histogram.clone()));
        assert_eq!(read(r#"{"engine":"x","steps":[[300,1,40,3],[7,0,7,4],[7,0,7,1]]}"#), Ok(histogram.clone()));
        assert_eq!((histogram.steps(), histogram.iter().len()), (8, 2));
        assert_eq!(histogram.token_counts(true).into_iter().collect::<Vec<_>>(), [(300, 3)]);
        assert_eq!(read(r#"{"steps":[]}"#), Ok(StepHistogram::default()));
    }

    #[test]
    fn hostile_json_is_a_sentence() {
        let starts = |json: &str, sentence: &str| {
            let error = read(json).expect_err(json);
            assert!(error.starts_with(sentence), "{json}: {error}");
        };
        starts(r#"{"steps":[[7,0,7,1],[0,0,0,1]]}"#, "a step has t `0`, p `0` and d `0`; it has at least one request");
        starts(r#"{"steps":[[4,0,0,1]]}"#, "a step has t `4`, p `0` and d `0`");
        starts(r#"{"steps":[[4,3,2,1]]}"#, "a step has t `4`, p `3` and d `2`");
        starts(r#"{"steps":[[4294967295,4294967295,4294967295,1]]}"#, "a step has t");
        starts(r#"{"steps":[[4,1,2,0]]}"#, "the step `4:1:2` has the count `0`");
        starts(
            r#"{"steps":[[4,1,2,9],[4294967296,1,2,1]]}"#,
            "steps[1] has t `4294967296`; it must be at most 4294967295",
        );
        starts(
            r#"{"steps":[[4,0,4,4611686018427387904],[4,0,4,1]]}"#,
            "the counts add up to more than `4611686018427387904`",
        );
        let deep = "[".repeat(100_000);
        for json in
            ["", "null", "[]", "{}", r#"{"steps":3}"#, r#"{"steps":[[1,0]]}"#, r#"{"steps":[[-1,0,1,1]]}"#, &deep]
        {
            assert!(read(json).is_err(), "{json}");
        }
    }
}

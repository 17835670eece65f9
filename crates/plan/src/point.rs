//! Captured shapes, real batches, and what lies between the two.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ParseStepError;

/// A captured shape `(T, P, D)`: capacities, which a replay may leave partly unused.
///
/// The order is lexicographic in (T, P, D), the one by which [`Matcher`](crate::Matcher) prefers points. It prints as in
/// the capture log, `[396]: 1 P + 395 D`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GridPoint {
    /// T: token rows.
    pub tokens: u32,
    /// P: slots that hold a prefill, or a surplus decode under [`Matching::NonStrict`](crate::Matching::NonStrict).
    pub prefills: u32,
    /// D: slots that hold a decode.
    pub decodes: u32,
}

/// The three kinds of points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PointKind {
    /// P = 0: the only points that a batch without prefills may replay.
    DecodeOnly,
    /// P > 0 and D > 0.
    Mixed,
    /// P > 0 and D = 0.
    PrefillOnly,
}

impl GridPoint {
    /// P + D, the request slots.
    #[must_use]
    pub fn requests(&self) -> u64 {
        u64::from(self.prefills) + u64::from(self.decodes)
    }

    /// Whether the point is for decodes, prefills or both.
    #[must_use]
    pub fn kind(&self) -> PointKind {
        match (self.prefills, self.decodes) {
            (0, _) => PointKind::DecodeOnly,
            (_, 0) => PointKind::PrefillOnly,
            _ => PointKind::Mixed,
        }
    }
}

impl fmt::Display for GridPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]: {} P + {} D", self.tokens, self.prefills, self.decodes)
    }
}

impl fmt::Display for PointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::DecodeOnly => "decode-only",
            Self::Mixed => "mixed",
            Self::PrefillOnly => "prefill-only",
        })
    }
}

/// A real batch `(t, p, d)`. It is written and read as `t:p:d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepShape {
    /// t: tokens of the batch.
    pub tokens: u32,
    /// p: requests in prefill, a chunk of a prompt included.
    pub prefills: u32,
    /// d: requests in decode.
    pub decodes: u32,
}

impl fmt::Display for StepShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.tokens, self.prefills, self.decodes)
    }
}

impl FromStr for StepShape {
    type Err = ParseStepError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| {
            // `u32::from_str` alone would take a leading plus sign.
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u32>().ok()).flatten()
        };
        let mut parts = word.split(':').map(number);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(tokens)), Some(Some(prefills)), Some(Some(decodes)), None) => {
                Ok(Self { tokens, prefills, decodes })
            }
            _ => Err(ParseStepError { word: word.to_owned() }),
        }
    }
}

/// What a replay pads: the point's capacities less the batch's counts.
///
/// `tokens` and `prefills` cannot be negative: a point always has T >= t and P >= p. `decodes` is negative where surplus
/// decodes took prefill slots ([`Matching::NonStrict`](crate::Matching::NonStrict)); [`Slack::requests`] never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slack {
    /// T - t.
    pub tokens: u32,
    /// P - p.
    pub prefills: u32,
    /// D - d.
    pub decodes: i64,
}

impl Slack {
    /// Empty request slots: (P + D) - (p + d).
    #[must_use]
    pub fn requests(&self) -> i64 {
        i64::from(self.prefills) + self.decodes
    }
}

impl fmt::Display for Slack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} T, {} P, {} D", self.tokens, self.prefills, self.decodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_prints_as_in_the_capture_log() {
        let point = GridPoint { tokens: 396, prefills: 1, decodes: 395 };
        assert_eq!(point.to_string(), "[396]: 1 P + 395 D");
    }

    #[test]
    fn points_are_ordered_by_tokens_then_prefills_then_decodes() {
        let point = |tokens, prefills, decodes| GridPoint { tokens, prefills, decodes };
        assert!(point(1, 9, 9) < point(2, 0, 0));
        assert!(point(2, 0, 9) < point(2, 1, 0));
        assert!(point(2, 1, 0) < point(2, 1, 1));
    }

    #[test]
    fn a_step_reads_back_what_it_prints() {
        let step = StepShape { tokens: 300, prefills: 3, decodes: 120 };
        assert_eq!(step.to_string().parse(), Ok(step));
        assert_eq!("0:0:4294967295".parse(), Ok(StepShape { tokens: 0, prefills: 0, decodes: u32::MAX }));
    }

    #[test]
    fn other_words_are_no_steps() {
        for word in [
            "",
            ":",
            "::",
            "1:2",
            "1:2:",
            "1:2:3:4",
            "1:2:3:",
            "-1:0:1",
            "+1:0:1",
            "1.0:0:1",
            " 1:0:1",
            "4294967296:0:1",
        ] {
            let error = word.parse::<StepShape>().expect_err(word);
            assert!(error.to_string().starts_with(&format!("`{word}` is not a step")), "{error}");
        }
    }
}

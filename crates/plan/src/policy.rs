//! What a plan is made from: the engine's limits and the user's policy.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::axes::{DecodeAxis, PrefillAxis};
use crate::error::{ParseCeilingError, ParseCountError};
use crate::sizing::Sizing;
use crate::words::serde_as_word;

/// What the engine can hold. Any value may be given; what makes no plan is a [`PlanError`](crate::PlanError).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// R: request slots.
    pub max_requests: u32,
    /// Token rows of one step.
    pub max_tokens: u32,
    /// Tokens of one request, prompt and output together.
    pub max_sequence_length: u32,
    /// Every T is a multiple of it.
    pub tensor_parallel: u32,
    /// s: a decode takes s + 1 tokens of a step.
    pub speculative_tokens: u32,
}

impl Limits {
    /// u = s + 1, the tokens of one decode in a step.
    #[must_use]
    pub fn tokens_per_decode(&self) -> u64 {
        u64::from(self.speculative_tokens) + 1
    }

    /// Tokens of a step in which every request decodes.
    #[must_use]
    pub fn decode_tokens(&self) -> u64 {
        u64::from(self.max_requests) * self.tokens_per_decode()
    }
}

impl Default for Limits {
    /// 396 requests, 16384 tokens, sequences of 4096, no tensor parallelism, no speculation.
    fn default() -> Self {
        Self {
            max_requests: 396,
            max_tokens: 16384,
            max_sequence_length: 4096,
            tensor_parallel: 1,
            speculative_tokens: 0,
        }
    }
}

/// How many token counts each ladder of the plan has. It bounds ladders, not graphs: one token count may have several points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GraphCount {
    /// No graphs: the plan is empty.
    None,
    /// As many as the sizing needs to reach from the ceiling to the smallest count.
    #[default]
    Auto,
    /// At most so many. A plan takes 0 and negative numbers as 1, and numbers above its ceiling as the ceiling. -1 is the
    /// reference's word for [`GraphCount::Auto`], and means that here too.
    Count(i64),
}

impl GraphCount {
    /// The same, with -1 written as [`GraphCount::Auto`].
    pub(crate) fn normalised(self) -> Self {
        if self == Self::Count(-1) { Self::Auto } else { self }
    }
}

impl fmt::Display for GraphCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Auto => f.pad("auto"),
            Self::Count(count) => fmt::Display::fmt(count, f),
        }
    }
}

impl FromStr for GraphCount {
    type Err = ParseCountError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "none" => Ok(Self::None),
            "auto" => Ok(Self::Auto),
            _ => match word.parse() {
                Ok(count) => Ok(Self::Count(count).normalised()),
                Err(_) => Err(ParseCountError { word: word.to_owned() }),
            },
        }
    }
}

/// The largest T that is captured. It is written `decodes`, `all-prefills` or as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TokenCeiling {
    /// The tokens of a full decode batch, `max_requests * (speculative_tokens + 1)`.
    #[default]
    Decodes,
    /// `max_tokens`, so that every prefill step finds a point.
    AllPrefills,
    /// So many. 0, negative numbers and numbers above `max_tokens` mean `max_tokens`.
    Tokens(i64),
}

impl TokenCeiling {
    /// The ceiling that a pair of switches asks for: a number sets it, whatever `all_prefills` says; without one,
    /// `all_prefills` raises it to `max_tokens`.
    #[must_use]
    pub fn new(all_prefills: bool, graph_max_tokens: Option<i64>) -> Self {
        match (graph_max_tokens, all_prefills) {
            (Some(tokens), _) => Self::Tokens(tokens),
            (None, true) => Self::AllPrefills,
            (None, false) => Self::Decodes,
        }
    }

    /// The number of tokens under these limits, at most `max_tokens`.
    #[must_use]
    pub fn resolve(self, limits: &Limits) -> u32 {
        let wanted = match self {
            Self::Decodes => limits.decode_tokens(),
            Self::AllPrefills => u64::from(limits.max_tokens),
            Self::Tokens(tokens) => u64::try_from(tokens).unwrap_or(0),
        };
        match u32::try_from(wanted) {
            Ok(tokens) if (1..=limits.max_tokens).contains(&tokens) => tokens,
            _ => limits.max_tokens,
        }
    }
}

impl fmt::Display for TokenCeiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decodes => f.pad("decodes"),
            Self::AllPrefills => f.pad("all-prefills"),
            Self::Tokens(tokens) => fmt::Display::fmt(tokens, f),
        }
    }
}

impl FromStr for TokenCeiling {
    type Err = ParseCeilingError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "decodes" => Ok(Self::Decodes),
            "all-prefills" => Ok(Self::AllPrefills),
            _ => word.parse().map(Self::Tokens).map_err(|_| ParseCeilingError { word: word.to_owned() }),
        }
    }
}

serde_as_word!(GraphCount, TokenCeiling);

/// Which points to choose.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The law of the token counts.
    pub sizing: Sizing,
    /// The P axis of points with prefills.
    #[serde(default)]
    pub prefill_axis: PrefillAxis,
    /// The D axis of mixed points.
    #[serde(default)]
    pub decode_axis: DecodeAxis,
    /// The length of the ladders.
    pub graph_count: GraphCount,
    /// The largest T.
    pub token_ceiling: TokenCeiling,
    /// Absent, 0 or negative: no points with prefills. Above 0 it is only a switch, except that [`Sizing::Linear`] under
    /// [`PrefillAxis::Auto`] takes it for the P of mixed points and the least P of prefill-only ones.
    pub mixed_prefill_count: Option<i64>,
    /// No points with prefills, whatever `mixed_prefill_count` says.
    pub decode_only: bool,
    /// Align every T to 64 tokens, so that a token's tile does not depend on its batch.
    pub batch_invariant: bool,
}

impl Policy {
    /// The mixed prefill count where points with prefills are wanted.
    pub(crate) fn mixed_prefills(&self) -> Option<u64> {
        let count = self.mixed_prefill_count.and_then(|count| u64::try_from(count).ok());
        count.filter(|&count| count > 0 && !self.decode_only)
    }
}

impl Default for Policy {
    /// Exponential, automatic ladders up to a full decode batch, with mixed points (count 16), without 64-token alignment.
    fn default() -> Self {
        Self {
            sizing: Sizing::default(),
            prefill_axis: PrefillAxis::default(),
            decode_axis: DecodeAxis::default(),
            graph_count: GraphCount::default(),
            token_ceiling: TokenCeiling::default(),
            mixed_prefill_count: Some(16),
            decode_only: false,
            batch_invariant: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_as_they_print() {
        for ceiling in [TokenCeiling::Decodes, TokenCeiling::AllPrefills, TokenCeiling::Tokens(-3)] {
            assert_eq!(ceiling.to_string().parse(), Ok(ceiling));
        }
        assert!("all".parse::<TokenCeiling>().is_err());
        for count in [GraphCount::None, GraphCount::Auto, GraphCount::Count(16), GraphCount::Count(-2)] {
            assert_eq!(count.to_string().parse(), Ok(count));
        }
        assert_eq!("-1".parse(), Ok(GraphCount::Auto));
        assert!("1.5".parse::<GraphCount>().is_err());
        assert!("".parse::<GraphCount>().is_err());
    }

    #[test]
    fn a_number_sets_the_ceiling_whatever_the_other_switch_says() {
        let limits = Limits { max_requests: 100, max_tokens: 1000, speculative_tokens: 1, ..Limits::default() };
        let resolve = |all_prefills, tokens| TokenCeiling::new(all_prefills, tokens).resolve(&limits);
        assert_eq!(resolve(false, None), 200);
        assert_eq!(resolve(true, None), 1000);
        for all_prefills in [false, true] {
            assert_eq!(resolve(all_prefills, Some(300)), 300);
            for meaningless in [0, -1, i64::MIN, 1001, i64::MAX] {
                assert_eq!(resolve(all_prefills, Some(meaningless)), 1000);
            }
        }
    }
}

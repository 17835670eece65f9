//! How the token counts of the two phases descend.

use std::fmt;
use std::str::FromStr;

use crate::error::ParseSizingError;
use crate::ratio::Ratio;
use crate::words::{ascending, read_list, serde_as_word, write_list};

/// The two kinds of steps that have token counts of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Steps in which every request decodes.
    Decode,
    /// Steps with prefills, mixed ones included.
    Prefill,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
        })
    }
}

/// How token counts descend from the largest.
///
/// It is written `exponential`, `linear`, `hybrid`, `geometric:R` or `geometric:R/R`, `list:1,2,4` or `list:1,2,4/512,1024`;
/// of two parts the first is for decodes, the second for steps with prefills, and one part is for both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Sizing {
    /// Halving from the largest in both phases (Megatron-LM PR #3509).
    #[default]
    Exponential,
    /// Even steps in both phases (Megatron-LM before that PR).
    Linear,
    /// Halving for steps with prefills, even steps for decodes, whose counts cluster near the concurrency (the default of
    /// Megatron-LM since PR #6667).
    Hybrid,
    /// Neighbouring sizes within a ratio of each other, or adjacent multiples of the alignment. The largest size is the most
    /// tokens that a step can have, where that is below the ceiling.
    Geometric {
        /// The ratio of decode-only token counts.
        decode: Ratio,
        /// The ratio of token counts with prefills.
        prefill: Ratio,
    },
    /// These token counts, in any order. A list is its own ceiling: [`Policy::token_ceiling`](crate::Policy::token_ceiling)
    /// does not apply, and steps above its largest size run eagerly. Decode sizes above a full decode batch stand for it.
    List {
        /// Token counts of decode-only points. A decode takes `speculative_tokens + 1` of them.
        decode: Vec<u32>,
        /// Token counts of points with prefills.
        prefill: Vec<u32>,
    },
}

/// How the token counts of one phase follow from the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LadderLaw {
    /// Halving, as in Megatron-LM PR #3509.
    Exponential,
    /// Even steps, as in Megatron-LM before that PR.
    Linear,
    /// Neighbours within the ratio.
    Geometric(Ratio),
}

impl Sizing {
    /// The law of a phase. None for lists, which follow none.
    #[must_use]
    pub fn law(&self, phase: Phase) -> Option<LadderLaw> {
        match (self, phase) {
            (Self::Exponential, _) | (Self::Hybrid, Phase::Prefill) => Some(LadderLaw::Exponential),
            (Self::Linear, _) | (Self::Hybrid, Phase::Decode) => Some(LadderLaw::Linear),
            (Self::Geometric { decode, .. }, Phase::Decode) => Some(LadderLaw::Geometric(*decode)),
            (Self::Geometric { prefill, .. }, Phase::Prefill) => Some(LadderLaw::Geometric(*prefill)),
            (Self::List { .. }, _) => None,
        }
    }

    /// A list, each size once and ascending: what [`Sizing::List`] reads back as.
    #[must_use]
    pub fn list(decode: Vec<u32>, prefill: Vec<u32>) -> Self {
        Self::List { decode: ascending(decode), prefill: ascending(prefill) }
    }
}

impl fmt::Display for Sizing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exponential => f.pad("exponential"),
            Self::Linear => f.pad("linear"),
            Self::Hybrid => f.pad("hybrid"),
            Self::Geometric { decode, prefill } if decode == prefill => write!(f, "geometric:{decode}"),
            Self::Geometric { decode, prefill } => write!(f, "geometric:{decode}/{prefill}"),
            Self::List { decode, prefill } if decode == prefill => write!(f, "list:{}", write_list(decode)),
            Self::List { decode, prefill } => write!(f, "list:{}/{}", write_list(decode), write_list(prefill)),
        }
    }
}

impl FromStr for Sizing {
    type Err = ParseSizingError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "exponential" => return Ok(Self::Exponential),
            "linear" => return Ok(Self::Linear),
            "hybrid" => return Ok(Self::Hybrid),
            _ => {}
        }
        let (law, parts) = word.split_once(':').ok_or_else(|| ParseSizingError::Unknown { word: word.to_owned() })?;
        let (decode, prefill) = parts.split_once('/').unwrap_or((parts, parts));
        match law {
            "geometric" => Ok(Self::Geometric { decode: decode.parse()?, prefill: prefill.parse()? }),
            "list" => {
                let sizes = |word| read_list(word).map_err(|entry| ParseSizingError::Size { entry });
                match (sizes(decode)?, sizes(prefill)?) {
                    (decode, prefill) if decode.is_empty() && prefill.is_empty() => Err(ParseSizingError::EmptyList),
                    (decode, prefill) => Ok(Self::List { decode, prefill }),
                }
            }
            _ => Err(ParseSizingError::Unknown { word: word.to_owned() }),
        }
    }
}

serde_as_word!(Sizing);

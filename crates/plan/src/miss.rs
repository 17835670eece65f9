//! Why a step runs eagerly.

use thiserror::Error;

use crate::matcher::Matching;

/// Why no point fits a step: the first of the step's counts that no point reaches, or that no point reaches all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum MissReason {
    /// Nothing was captured.
    #[error("the plan has no points")]
    NoPoints,
    /// A step without prefills replays decode-only points alone.
    #[error("the plan has no decode-only point")]
    NoDecodeOnlyPoints,
    /// Too many prefills for every point, as where mixed graphs are off.
    #[error("no point has P >= {prefills}")]
    Prefills {
        /// p.
        prefills: u64,
    },
    /// Too many tokens for every point that has the prefill slots.
    #[error("tokens {tokens} above the ceiling {ceiling}{}", of_points(*.prefills))]
    Tokens {
        /// t.
        tokens: u64,
        /// The largest T among the points considered.
        ceiling: u32,
        /// Which points were considered: those with P >= this or, at 0, the decode-only ones.
        prefills: u64,
    },
    /// Too many decodes for every point considered.
    #[error("no {} D >= {decodes}", points_with(*.prefills))]
    Decodes {
        /// d.
        decodes: u64,
        /// Which points were considered: those with P >= this or, at 0, the decode-only ones.
        prefills: u64,
    },
    /// Too many requests for every point that has the prefill slots.
    #[error("no {} P + D >= {requests}", points_with(*.prefills))]
    Requests {
        /// p + d.
        requests: u64,
        /// Which points were considered: those with P >= this.
        prefills: u64,
    },
    /// Each count is within some point's, but all are within none's.
    #[error("{}", together(*.tokens, *.prefills, *.decodes, *.matching))]
    Together {
        /// t.
        tokens: u64,
        /// p.
        prefills: u64,
        /// d.
        decodes: u64,
        /// Whether surplus decodes could take prefill slots.
        matching: Matching,
    },
    /// Ranks that must run the same T run eagerly together as soon as one of them has a prefill.
    #[error("a rank of the expert-parallel group has prefills")]
    PrefillInGroup,
}

impl MissReason {
    /// The kind of reason, without its numbers, in snake_case: a key for counts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoPoints => "no_points",
            Self::NoDecodeOnlyPoints => "no_decode_only_points",
            Self::Prefills { .. } => "prefills",
            Self::Tokens { .. } => "tokens",
            Self::Decodes { .. } => "decodes",
            Self::Requests { .. } => "requests",
            Self::Together { .. } => "together",
            Self::PrefillInGroup => "prefill_in_group",
        }
    }
}

fn of_points(prefills: u64) -> String {
    match prefills {
        0 => " of the decode-only points".to_owned(),
        1 => String::new(),
        _ => format!(" of the points with P >= {prefills}"),
    }
}

fn points_with(prefills: u64) -> String {
    match prefills {
        0 => "decode-only point has".to_owned(),
        _ => format!("point has P >= {prefills} and"),
    }
}

fn together(tokens: u64, prefills: u64, decodes: u64, matching: Matching) -> String {
    match (prefills, matching) {
        (0, _) => format!("no decode-only point has T >= {tokens} and D >= {decodes} together"),
        (_, Matching::Strict) => format!("no point has T >= {tokens}, P >= {prefills} and D >= {decodes} together"),
        (_, Matching::NonStrict) => {
            let requests = prefills.saturating_add(decodes);
            format!("no point has T >= {tokens}, P >= {prefills} and P + D >= {requests} together")
        }
    }
}

//! What can be wrong with limits, policies, words and plan files, one sentence each.

use thiserror::Error;

use crate::ratio::RatioError;
use crate::sizing::Phase;

/// Why limits and a policy make no plan.
///
/// Everything that the reference planner rejects with an assertion is one of these, and so is what it would answer with a
/// division by zero or an endless computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Token counts cannot be aligned to 0.
    #[error("the tensor-parallel size is `0`; it must be at least 1")]
    NoTensorParallel,
    /// A plan for no requests at all.
    #[error("max_requests is `0`; it must be at least 1")]
    NoRequests,
    /// A ladder without a largest token count, or a plan for no tokens at all.
    #[error("the largest token count is `0`; it must be at least 1")]
    NoTokens,
    /// A ladder of fewer than one token count. (A plan raises such a count to 1.)
    #[error("the number of token counts is `{count}`; a ladder has at least 1")]
    GraphCountTooSmall {
        /// The number asked for.
        count: i64,
    },
    /// Not every decode batch would find a point.
    #[error(
        "the token ceiling is `{ceiling}`, below the {needed} tokens of {max_requests} decode requests with \
         {speculative_tokens} speculative tokens each; it must be at least {needed}"
    )]
    CeilingBelowDecodes {
        /// The ceiling in force, after the limits.
        ceiling: u64,
        /// Tokens of a full decode batch: `max_requests * (speculative_tokens + 1)`.
        needed: u64,
        /// [`Limits::max_requests`](crate::Limits::max_requests).
        max_requests: u32,
        /// [`Limits::speculative_tokens`](crate::Limits::speculative_tokens).
        speculative_tokens: u32,
    },
    /// The automatic linear ladder keeps its largest size as it is, and mixed points need every size aligned.
    #[error(
        "the token ceiling is `{tokens}`, which the tensor-parallel size {tensor_parallel} does not divide; linear sizing \
         with mixed graphs needs a multiple of {tensor_parallel}, or an explicit number of graphs"
    )]
    CeilingNotAligned {
        /// The token count that is not a multiple.
        tokens: u32,
        /// [`Limits::tensor_parallel`](crate::Limits::tensor_parallel).
        tensor_parallel: u32,
    },
    /// More candidates than a plan can usefully have.
    #[error("the plan would have `{candidates}` candidates for points; it can have at most {limit}")]
    TooManyCandidates {
        /// How many the limits and the policy ask for.
        candidates: u64,
        /// [`MAX_CANDIDATES`](crate::MAX_CANDIDATES).
        limit: u64,
    },
    /// A list of token counts for nothing.
    #[error("the list of token counts is empty; it must have at least one")]
    EmptyList,
    /// A token count of a list that no step can have.
    #[error(
        "the list of {phase} token counts has `{tokens}`; each must be from 1 to max_tokens, which is {max_tokens}"
    )]
    ListedTokensOutOfRange {
        /// The list.
        phase: Phase,
        /// The token count.
        tokens: u32,
        /// [`Limits::max_tokens`](crate::Limits::max_tokens).
        max_tokens: u32,
    },
    /// Every T must be a multiple of the tensor-parallel size, and lists are not rounded.
    #[error(
        "the list of {phase} token counts has `{tokens}`, which the tensor-parallel size {tensor_parallel} does not divide"
    )]
    ListedTokensNotAligned {
        /// The list.
        phase: Phase,
        /// The token count.
        tokens: u32,
        /// [`Limits::tensor_parallel`](crate::Limits::tensor_parallel).
        tensor_parallel: u32,
    },
    /// A list of P without any.
    #[error("the list of the prefill axis is empty; it must have at least one P")]
    EmptyPrefillAxis,
    /// A P that no point can have.
    #[error("the prefill axis has `{prefills}`; each P must be from 1 to max_requests, which is {max_requests}")]
    PrefillsOutOfRange {
        /// The P.
        prefills: u32,
        /// [`Limits::max_requests`](crate::Limits::max_requests).
        max_requests: u32,
    },
    /// A token count that alignment raised beyond the range of a point.
    #[error("an aligned token count is `{tokens}`; it can be at most {}", u32::MAX)]
    TokensOutOfRange {
        /// The aligned token count.
        tokens: u64,
    },
}

/// Why a list of points, read from a file for example, is not a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidPlan {
    /// A point that no batch can have: it has no request, or more requests than tokens.
    #[error(
        "points[{index}] has tokens `{tokens}`, prefills `{prefills}` and decodes `{decodes}`; a point has at least one \
         request and at least one token for each"
    )]
    ImpossiblePoint {
        /// Its position in the list.
        index: usize,
        /// Its T.
        tokens: u32,
        /// Its P.
        prefills: u32,
        /// Its D.
        decodes: u32,
    },
    /// Token counts that are not those of the points.
    #[error(
        "token_counts differs from the points' token counts at index `{index}`; it lists each of them once, largest first"
    )]
    TokenCountsDiffer {
        /// The first position at which they differ.
        index: usize,
    },
    /// More points than a plan can have.
    #[error("the plan has `{points}` points; it can have at most {limit}")]
    TooManyPoints {
        /// How many there are.
        points: usize,
        /// [`MAX_CANDIDATES`](crate::MAX_CANDIDATES).
        limit: u64,
    },
}

/// A word that names no sizing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseSizingError {
    /// No law of that name.
    #[error(
        "`{word}` is not a sizing; it is `exponential`, `linear`, `hybrid`, `geometric:R`, `geometric:R/R`, `list:N,N` or \
         `list:N,N/N,N`, of two parts the first for decodes"
    )]
    Unknown {
        /// The word.
        word: String,
    },
    /// A geometric sizing without a ratio.
    #[error(transparent)]
    Ratio(#[from] RatioError),
    /// A list with something else than sizes.
    #[error("`{entry}` is not a token count; it is a number from 1 to {}", u32::MAX)]
    Size {
        /// What stands in the list.
        entry: String,
    },
    /// A list for neither phase.
    #[error("the list of token counts is empty; it must have at least one")]
    EmptyList,
}

/// A word that names no axis.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseAxisError {
    /// No P axis of that name.
    #[error("`{word}` is not a prefill axis; it is `auto`, `off`, `geometric:R` or `list:N,N`")]
    UnknownPrefillAxis {
        /// The word.
        word: String,
    },
    /// No D axis of that name.
    #[error("`{word}` is not a decode axis; it is `rest` or `geometric:R`")]
    UnknownDecodeAxis {
        /// The word.
        word: String,
    },
    /// A geometric axis without a ratio.
    #[error(transparent)]
    Ratio(#[from] RatioError),
    /// A list with something else than numbers of prefills.
    #[error("`{entry}` is not a number of prefills; it is a number from 1 to {}", u32::MAX)]
    Prefills {
        /// What stands in the list.
        entry: String,
    },
}

/// A word that is no token ceiling.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{word}` is not a token ceiling; it is `decodes`, `all-prefills` or an integer")]
pub struct ParseCeilingError {
    pub(crate) word: String,
}

/// A word that is no number of graphs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{word}` is not a number of graphs; it is `auto`, `none` or an integer")]
pub struct ParseCountError {
    pub(crate) word: String,
}

/// A word that is no step.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{word}` is not a step; it is `t:p:d`, tokens, prefills and decodes from 0 to {}", u32::MAX)]
pub struct ParseStepError {
    pub(crate) word: String,
}

/// A word that names no preset.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{word}` is not a preset; it is `megatron`, `vllm`, `sglang` or `tensorrt-llm`, the last three also with the largest \
     size, as in `vllm:1024`"
)]
pub struct ParsePresetError {
    pub(crate) word: String,
}

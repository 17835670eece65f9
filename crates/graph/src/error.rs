//! What can go wrong between a step and its replay.

use gridpoint_plan::GridPoint;
use gridpoint_runtime::RuntimeError;

/// A step that does not fit its block, or a device that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The device layer failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Offsets of a block are 32-bit.
    #[error(
        "a step block for {point} with `{page_columns}` pages a request exceeds 2^32 bytes; a shorter longest sequence fits"
    )]
    BlockTooLarge {
        /// The point.
        point: GridPoint,
        /// Pages of a page-table row.
        page_columns: u32,
    },
    /// The block is larger than the memory that was set aside for it.
    #[error("a step block of `{needed}` bytes exceeds the `{capacity}` bytes set aside")]
    BlockOverflow {
        /// Bytes of the layout.
        needed: u32,
        /// Bytes of the slot.
        capacity: u64,
    },
    /// A count went above the layout's capacity.
    #[error("a step for {point} has room for `{capacity}` {what}, and one more was added")]
    Full {
        /// The point.
        point: GridPoint,
        /// What there are too many of.
        what: &'static str,
        /// How many fit.
        capacity: u32,
    },
    /// A request's pages do not hold its tokens.
    #[error("request row `{request}` has `{pages}` pages for `{kv_length}` tokens, it needs `{needed}`")]
    Pages {
        /// The row.
        request: u32,
        /// Pages given.
        pages: usize,
        /// Tokens of the sequence after the step.
        kv_length: u32,
        /// Pages that those take.
        needed: u32,
    },
    /// Decodes come before prefills.
    #[error("a decode was added after a prefill; decodes come first")]
    Order,
    /// A row of the language-model head reads a token row that the step has not.
    #[error("a logit row reads token row `{row}` of a step with `{tokens}` tokens")]
    TokenRow {
        /// The row asked for.
        row: u32,
        /// Tokens of the step so far.
        tokens: u32,
    },
    /// The ticket's slot was used again.
    #[error("the results of this step are gone: its slot was used by a later step")]
    Stale,
}

/// Why a point has no graph.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureCause {
    /// The closure that records the point failed.
    #[error(transparent)]
    Record(Box<dyn std::error::Error + Send + Sync>),
    /// The closure that records the point panicked.
    #[error("recording it panicked: {0}")]
    Panicked(String),
    /// The device layer failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// A point that could not be recorded or captured.
#[derive(Debug, thiserror::Error)]
#[error("graph {number} of {total}, {point}, cannot be captured: {cause}")]
pub struct CaptureError {
    /// The point.
    pub point: GridPoint,
    /// Which point of the plan, from 1.
    pub number: usize,
    /// Points of the plan.
    pub total: usize,
    /// Why.
    #[source]
    pub cause: CaptureCause,
}

//! What can be wrong with limits, requests and steps, each in one sentence.

use crate::lifecycle::Memory;
use crate::request::{RequestId, SamplingParameters};

/// Why an engine could not be made, or a step not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The model's memory or weights.
    #[error(transparent)]
    Model(#[from] gridpoint_model::ModelError),
    /// The device.
    #[error(transparent)]
    Runtime(#[from] gridpoint_runtime::RuntimeError),
    /// A point of the plan that cannot be captured.
    #[error(transparent)]
    Capture(#[from] gridpoint_graph::CaptureError),
    /// A step's block or its replay.
    #[error(transparent)]
    Block(#[from] gridpoint_graph::StepError),
    /// Points of which there is nothing to prove.
    #[error(
        "{eager} of {points} points have no graph: replay must be on and every graph captured for a proof of replay"
    )]
    NotCaptured {
        /// Points without a graph.
        eager: usize,
        /// All points.
        points: usize,
    },
    /// Limits that no scheduler can work under.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// The engine sleeps or lacks weights.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// Weights were to change under requests whose keys and values are those of the old ones.
    #[error(
        "`{running}` requests are running with keys and values of the old weights: finish or cancel them, or say whether they are computed again (InFlight::Recompute) or go on as they are (InFlight::KeepStale)"
    )]
    RequestsRunning {
        /// How many.
        running: usize,
    },
    /// Outputs that are not those of the step: a defect, never of an input.
    #[error(transparent)]
    Commit(#[from] StepError),
    /// Graphs are proved with the memory of requests.
    #[error("`{running}` requests are running: graphs can be verified only while none is")]
    Busy {
        /// Requests running.
        running: usize,
    },
    /// The device failed while graphs were verified.
    #[error(transparent)]
    Verify(#[from] Box<gridpoint_graph::verify::VerifyFailure<EngineError>>),
    /// Positions beyond the model's have no rotary angles that it was trained with.
    #[error(
        "the longest sequence is `{given}` tokens: it must be at least 1 and at most the model's `max_position_embeddings`, {longest}"
    )]
    SequenceLength {
        /// Asked for.
        given: u32,
        /// The model's.
        longest: u32,
    },
    /// Less memory than an engine takes.
    #[error(
        "the budget of device memory is `{budget}` bytes: the model with its largest step and the least kv cache takes {needed}, graphs not counted"
    )]
    MemoryBudget {
        /// Bytes that may be taken.
        budget: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// No part of the plan that serves every step is within its budget.
    #[error("the plan's graphs do not fit: {0}")]
    PlanBudget(#[source] gridpoint_plan::BudgetError),
    /// The part of memory to use is no fraction.
    #[error("memory_utilization is `{given}`: it must be above 0 and at most 1")]
    MemoryUtilization {
        /// Asked for.
        given: f64,
    },
}

/// Why no step may run now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// Memory is given back.
    #[error("the engine is asleep, the memory of {memory} is released: it must be woken first (Engine::wake)")]
    Asleep {
        /// What is missing.
        memory: Memory,
    },
    /// The memory of the weights is there again, and they are not.
    #[error("the weights were released and are lost: they must be written first (Engine::update_weights)")]
    WeightsLost,
    /// An update failed in the middle.
    #[error(
        "the last update of the weights failed in the middle, they are of two models: an update must succeed first (Engine::update_weights)"
    )]
    WeightsMixed,
}

/// Limits that no scheduler can work under.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// A limit is zero.
    #[error("{name} is `0`: it must be at least 1")]
    Zero {
        /// The limit's name.
        name: &'static str,
    },
    /// The pool has no page beside the dummy page.
    #[error("the kv cache has `{pages}` pages: it must have at least 2, of which one is the dummy page")]
    TooFewPages {
        /// Pages given, the dummy page among them.
        pages: u32,
    },
}

/// Sampling parameters out of range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// The temperature is negative, not finite or so small that its reciprocal leaves float32.
    #[error(
        "temperature is `{value}`: it must be 0 (greedy) or a finite number of at least {}",
        SamplingParameters::MIN_TEMPERATURE
    )]
    Temperature {
        /// Value given.
        value: f32,
    },
    /// The nucleus is empty, more than everything, or not a number.
    #[error("top_p is `{value}`: it must be above 0 and at most 1 (1 = off)")]
    TopP {
        /// Value given.
        value: f32,
    },
}

/// Why a request was not taken. Nothing else has changed: no other request notices.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// There is nothing to continue.
    #[error("the prompt is empty: it must have at least 1 token")]
    EmptyPrompt,
    /// A prompt token that the model has no embedding for.
    #[error(
        "prompt token `{token}` at position `{position}` is outside the vocabulary: it must be below `{vocabulary}`"
    )]
    TokenOutsideVocabulary {
        /// The token id given.
        token: u32,
        /// Its index in the prompt.
        position: usize,
        /// Number of token ids.
        vocabulary: u32,
    },
    /// The prompt and one new token exceed the longest sequence.
    #[error(
        "the prompt has `{length}` tokens: at most `{longest}` leave room for a new one within the longest sequence of `{max_sequence_length}` tokens"
    )]
    PromptTooLong {
        /// Tokens given.
        length: usize,
        /// Most tokens this request's prompt may have.
        longest: u32,
        /// The limit behind it.
        max_sequence_length: u32,
    },
    /// Nothing is asked for.
    #[error("max_new_tokens is `0`: it must be at least 1, or logprobs of the prompt must be asked for")]
    NothingToDo,
    /// The request would not fit even if it were alone.
    #[error(
        "the request needs `{needed}` kv pages for its prompt and `{max_new_tokens}` new tokens: the whole cache has `{capacity}`, so the prompt or max_new_tokens must be smaller"
    )]
    TooManyPages {
        /// Pages of prompt and new tokens.
        needed: u32,
        /// Pages that requests can have, the dummy page not counted.
        capacity: u32,
        /// New tokens asked for, after the clamp to the longest sequence.
        max_new_tokens: u32,
    },
    /// Sampling parameters out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

/// Outputs that cannot be those of the step. Nothing of the step is committed; it may be planned anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The step is not the one planned last.
    #[error("step `{number}` is not the step planned last: only that one can be committed")]
    Stale {
        /// Number of the step given.
        number: u64,
    },
    /// One output a row is needed.
    #[error("the step has `{rows}` rows and `{outputs}` outputs came: there must be one output for each row")]
    OutputCount {
        /// Rows of the step.
        rows: usize,
        /// Outputs given.
        outputs: usize,
    },
    /// A row that samples came without a token.
    #[error("row `{row}` of request {request} came without a token: it samples its next one")]
    TokenMissing {
        /// Index of the row.
        row: usize,
        /// Its request.
        request: RequestId,
    },
    /// A row that does not sample came with a token.
    #[error("row `{row}` of request {request} came with a token: it computes a part of the prompt and samples none")]
    TokenUnexpected {
        /// Index of the row.
        row: usize,
        /// Its request.
        request: RequestId,
    },
    /// The device sampled an id that does not exist.
    #[error(
        "row `{row}` of request {request} sampled token `{token}`: it must be below the vocabulary of `{vocabulary}`"
    )]
    TokenOutsideVocabulary {
        /// Index of the row.
        row: usize,
        /// Its request.
        request: RequestId,
        /// The id.
        token: u32,
        /// Number of token ids.
        vocabulary: u32,
    },
    /// Prompt log-probabilities must answer the row's targets one by one.
    #[error("row `{row}` of request {request} came with `{got}` prompt log-probabilities: it has `{expected}` targets")]
    PromptLogprobCount {
        /// Index of the row.
        row: usize,
        /// Its request.
        request: RequestId,
        /// Targets of the row.
        expected: usize,
        /// Values given.
        got: usize,
    },
}

/// A broken promise of the bookkeeping: always a defect of this crate, never of its input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntegrityError {
    /// A page is listed free twice.
    #[error("page `{page}` is free twice")]
    FreeTwice {
        /// The page.
        page: u32,
    },
    /// A page is listed free and marked used.
    #[error("page `{page}` is both free and used")]
    FreeAndUsed {
        /// The page.
        page: u32,
    },
    /// A page is neither free nor used.
    #[error("page `{page}` is lost: neither free nor used")]
    Lost {
        /// The page.
        page: u32,
    },
    /// The dummy page or an id beyond it is listed free or used.
    #[error("page `{page}` is not a page for requests: ids end below the dummy page `{dummy}`")]
    NotForRequests {
        /// The page.
        page: u32,
        /// The dummy page.
        dummy: u32,
    },
    /// A page belongs to two requests.
    #[error("page `{page}` belongs to request {first} and to request {second}")]
    Shared {
        /// The page.
        page: u32,
        /// One owner.
        first: RequestId,
        /// The other owner.
        second: RequestId,
    },
    /// A request holds a page that the pool calls free.
    #[error("page `{page}` of request {request} is free in the pool")]
    OwnedButFree {
        /// The page.
        page: u32,
        /// Its owner.
        request: RequestId,
    },
    /// A page is used and no request holds it.
    #[error("`{used}` pages are used: requests hold `{owned}`")]
    UsedButNotOwned {
        /// Pages the pool calls used.
        used: u32,
        /// Pages that requests hold.
        owned: u32,
    },
    /// A request holds another number of pages than its length needs.
    #[error("request {request} holds `{held}` pages: its prompt and new tokens need `{needed}`")]
    WrongReservation {
        /// The request.
        request: RequestId,
        /// Pages it holds.
        held: u32,
        /// Pages it needs.
        needed: u32,
    },
    /// A request's counts are out of order.
    #[error(
        "request {request} has `{cached}` tokens cached of `{known}` known and a limit of `{limit}`: they must not descend"
    )]
    Counts {
        /// The request.
        request: RequestId,
        /// Tokens in the kv cache.
        cached: u32,
        /// Prompt and sampled tokens.
        known: u32,
        /// Most tokens it may reach.
        limit: u32,
    },
    /// Requests are not in order of arrival.
    #[error("request {second} stands behind request {first}: requests must stand in order of arrival")]
    Order {
        /// The one in front.
        first: RequestId,
        /// The one behind it.
        second: RequestId,
    },
    /// More requests run than there are slots.
    #[error("`{running}` requests are running: at most `{max_requests}` may")]
    TooManyRunning {
        /// Requests running.
        running: usize,
        /// Slots.
        max_requests: u32,
    },
}

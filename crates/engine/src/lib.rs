//! Requests in, tokens out: which request computes which tokens in which step, and where its kv cache lies.
//!
//! A request's life, one type per stage:
//!
//! ```text
//! NewRequest --add--> waiting --next_step--> running --commit--> FinishedRequest --take--> the caller
//!             (checked)        (slot, pages)          (tokens)
//! ```
//!
//! A step is planned by [`Scheduler::next_step`], computed by somebody else, and made true by [`Scheduler::commit`]; until
//! then nothing but admission has happened, so a step that failed may be dropped and is planned anew.
//!
//! * **Order.** First come, first served, with the head of the line blocking: a request is admitted when it has a slot
//!   (`max_requests`) and the pages of its prompt and all its new tokens. So no running request ever lacks a page.
//! * **A step** serves every decode first, one token each, then prefills in order of arrival under what is left of the
//!   token budget. Only the last prefill of a step may be a part of a prompt (chunked prefill).
//! * **Fairness.** A decode count above the budget (it takes a budget lowered by [`Scheduler::next_step_within`]) is
//!   served least recently served first, so each gets a token within `ceil(decodes / budget)` steps.
//!
//! The crate's scheduling half is pure: no clock, no randomness, no thread, no device; equal calls give equal steps.
//!
//! ```
//! use gridpoint_engine::{Event, NewRequest, RowOutput, Sampled, Scheduler, SchedulerLimits};
//!
//! let limits = SchedulerLimits { max_requests: 4, step_budget: 8, max_sequence_length: 64, vocabulary: 100, pages: 9 };
//! let mut scheduler = Scheduler::new(limits)?;
//! let id = scheduler.add(NewRequest::greedy(vec![1, 2, 3], 2))?;
//! while let Some(step) = scheduler.next_step() {
//!     // A model that always answers 7.
//!     let answer = RowOutput { sampled: Some(Sampled { token: 7, logprob: -0.5 }), prompt_logprobs: &[] };
//!     let outputs = vec![answer; step.rows().len()];
//!     for event in scheduler.commit(step, &outputs)? {
//!         if let Event::Token { token, .. } = event {
//!             assert_eq!(*token, 7);
//!         }
//!     }
//! }
//! assert_eq!(scheduler.take(id).map(|finished| finished.tokens), Some(vec![7, 7]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where the kv cache is lost ([`Scheduler::forget_cache`]), running requests go back to the front of the line and are computed again.
//!
//! The device half is [`Engine`]: it hands the model's launches to the graph set to capture, packs each planned step into a block,
//! and replays. It sees no device pointer. [`Engine::sleep`], [`Engine::wake`] and [`Engine::update_weights`] give memory back, take it
//! again and replace weights under graphs that stay valid.
//!
//! The scheduling half does not know what a model, a graph, a device or a text is: tokens are numbers, pages are numbers,
//! and a step is a list of rows.

mod budget;
mod engine;
mod error;
mod lifecycle;
mod memory;
mod pages;
mod phases;
mod request;
mod runner;
mod scheduler;
mod step;
mod verify;

pub use budget::GraphMemory;
pub use engine::{Engine, EngineOptions, StepOutcome};
pub use error::{EngineError, IntegrityError, LimitsError, NotReady, RequestError, SamplingError, StepError};
pub use lifecycle::{InFlight, Memory, SleepReport, UpdateReport};
pub use memory::MemoryReport;
pub use pages::{PAGE_TOKENS, PagePool, Pages, pages_for};
pub use request::{FinishReason, FinishedRequest, Logprobs, NewRequest, RequestId, RequestStatus, SamplingParameters};
pub use scheduler::{Scheduler, SchedulerLimits};
pub use step::{Event, RowKind, RowOutput, Sampled, Step, StepRow};
pub use verify::ModelSubject;

/// The page's examples are compiled with this crate's own.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/rl.md")]
struct PageOfTheContract;

//! The planned grid of CUDA graphs: capture every point, lay out a step's metadata, replay, account.
//!
//! The life of a captured step:
//!
//! ```text
//! Plan --record--> RecordedPlan --capture--> GraphSet     launches of every point recorded once, equal ones share an executable graph
//!
//! StepShape --find--> point --StepLayout--> StepRing::pack --submit--> Ticket --wait--> LogitResult per logit row
//!                                           (pinned slot)   (one copy, one launch)
//! ```
//!
//! * **Nothing that varies is in a graph.** Launches hold the address of the step block and of the arena; counts, lengths, tokens
//!   and page tables are in the block, whose header says where each section lies.
//! * **Capacities, not shapes.** T, P and D of a point bound the sections; real rows are compact and kernels stop at the counts.
//! * **The host runs ahead.** A slot of the ring is written again only when the event behind its last step has completed.
//!
//! This crate does not know what a layer, a request or a token's text is: whoever captures gives the launches, whoever replays
//! gives the rows.

mod background;
mod bytes;
mod capture;
mod cost;
mod describe;
mod error;
mod layout;
mod meta;
mod progress;
mod ranges;
mod recorded;
mod report;
mod ring;
mod seconds;
mod set;
pub mod verify;

pub use bytes::Bytes;
pub use capture::{CaptureMode, CaptureOptions, Incomplete};
pub use cost::GraphCosts;
pub use describe::{Edge, GraphDescription, NodeDescription};
pub use error::{CaptureCause, CaptureError, StepError};
pub use layout::StepLayout;
pub use meta::{LogitRequest, RequestKind, StepWriter};
pub use progress::{CaptureProgress, CaptureSummary, CaptureTimes, PoolUse};
pub use ranges::step_range;
pub use recorded::{PointRecording, RecordedPlan};
pub use report::{EagerReason, PointTotals, StepKind, StepReport, StepTotals};
pub use ring::{PackedStep, RING_SLOTS, StepRing, Ticket};
pub use seconds::Seconds;
pub use set::{GraphSet, Launched};

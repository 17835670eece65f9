//! Decides which CUDA graphs an inference engine captures, and which of them a step replays.
//!
//! A captured graph has a fixed shape, a *point* `(T, P, D)`: T token rows, P prefill slots, D decode slots
//! ([`GridPoint`]). [`plan`] turns [`Limits`] and a [`Policy`] into the ordered list of points to capture ([`Plan`]), and
//! [`Matcher`] answers for every real batch `(t, p, d)` ([`StepShape`]) which point replays it and what that pads
//! ([`Slack`]), or why none does ([`MissReason`]).
//!
//! The law is the one of Megatron-LM PR #3509. Under [`Sizing::Exponential`] the token counts halve from the largest down
//! and mixed points take P from {1, 2, 4, ..., max_requests}, so that a batch finds a graph whose P is within 2x of its own;
//! [`Sizing::Linear`] is what stood before. A ladder is otherwise one [`Ratio`] a phase ([`Sizing::Geometric`]), a list
//! ([`Sizing::List`]), or that of another engine ([`Preset`]); [`PrefillAxis`] and [`DecodeAxis`] say which P and D stand
//! beside each T, [`Plan::merge_identical`] leaves out points whose kernels another point launches too, [`Budget`] those that
//! are missed the least, and [`PlanFile`] keeps a plan with what it was made for. The crate knows nothing of GPUs and is usable alone.
//!
//! [`traffic`] says which steps an engine runs, from a trace of requests or from its own record, what a plan makes of them,
//! and which token sizes suit them best.
//!
//! # The headline: 60 graphs instead of 123
//!
//! ```
//! use gridpoint_plan::{Limits, Match, Matcher, Matching, Policy, Sizing, StepShape, plan};
//!
//! let limits = Limits { max_requests: 396, ..Limits::default() };
//! let exponential = plan(&limits, &Policy::default())?;
//! let linear = plan(&limits, &Policy { sizing: Sizing::Linear, ..Policy::default() })?;
//! assert_eq!((exponential.len(), linear.len()), (60, 123));
//!
//! let matcher = Matcher::new(exponential.points());
//! // 40 decodes and 3 prefills of 120 tokens in all replay a graph with 4 prefill slots.
//! let step = StepShape { tokens: 160, prefills: 3, decodes: 40 };
//! let Match::Replay { point, slack, .. } = matcher.find(step, Matching::NonStrict) else { panic!("no point") };
//! assert_eq!(point.to_string(), "[198]: 4 P + 194 D");
//! assert_eq!((slack.tokens, slack.prefills, slack.decodes), (38, 1, 154));
//!
//! // A step above the ceiling runs eagerly, and the answer says why.
//! let step = StepShape { tokens: 700, prefills: 3, decodes: 40 };
//! let Match::Eager { reason } = matcher.find(step, Matching::NonStrict) else { panic!("no miss") };
//! assert_eq!(reason.to_string(), "tokens 700 above the ceiling 396");
//! # Ok::<(), gridpoint_plan::PlanError>(())
//! ```

mod axes;
mod budget;
mod dropping;
mod error;
mod expert_parallel;
mod file;
mod ladder;
mod matcher;
mod merge;
mod miss;
mod plan;
mod planner;
mod point;
mod policy;
mod presets;
mod ratio;
mod sizing;
mod successor;
mod token_counts;
pub mod traffic;
mod words;

pub use axes::{DecodeAxis, PrefillAxis};
pub use budget::{Budget, BudgetError, Budgeted, Dropped, GraphCost, MAX_BUDGETED_POINTS};
pub use error::{
    InvalidPlan, ParseAxisError, ParseCeilingError, ParseCountError, ParsePresetError, ParseSizingError,
    ParseStepError, PlanError,
};
pub use expert_parallel::match_expert_parallel;
pub use file::{PLAN_FILE_VERSION, PlanFile, PlanFileError};
pub use ladder::ladder;
pub use matcher::{Match, Matcher, Matching};
pub use merge::KernelKey;
pub use miss::MissReason;
pub use plan::{Plan, PointCounts};
pub use planner::{MAX_CANDIDATES, plan};
pub use point::{GridPoint, PointKind, Slack, StepShape};
pub use policy::{GraphCount, Limits, Policy, TokenCeiling};
pub use presets::Preset;
pub use ratio::{Ratio, RatioError};
pub use sizing::{LadderLaw, Phase, Sizing};

#![doc = include_str!("../README.md")]
//!
//! # Where to begin
//!
//! [`plan`] turns [`Limits`] and a [`Policy`] into a [`Plan`], an ordered list of [`GridPoint`]s; [`Matcher`] answers for every
//! [`StepShape`] which point replays it and with which [`Slack`], or gives the [`MissReason`]. [`traffic`] says which steps an
//! engine runs, from a trace of requests or from its own record, what a plan makes of them, and which token counts suit them.

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

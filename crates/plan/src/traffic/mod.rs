//! Traffic: which steps an engine runs, what they cost, and which token sizes suit them.
//!
//! A [`Trace`] of requests becomes the steps of an engine ([`simulate`]), these a [`StepHistogram`], which an engine can
//! also record; [`fit`] chooses token sizes for it by a [`CostCurve`], and [`evaluate`] says what any plan makes of it.

mod cost;
mod evaluate;
mod fit;
mod histogram;
mod segment;
mod simulate;
mod table;
mod trace;

pub use cost::{CostCurve, CostError};
pub use evaluate::{Evaluation, evaluate};
pub use fit::{FitError, TokenSizes, exponential_sizes, fit};
pub use histogram::{HistogramError, StepHistogram};
pub use simulate::{ArrivalRate, Simulation, SimulationError, SimulationOptions, StepRun, simulate};
pub use table::{TableError, TableProblem};
pub use trace::{Request, Trace};

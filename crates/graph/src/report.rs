//! What a step did, and what all steps of a run did.

use std::fmt;

use gridpoint_plan::{GridPoint, MissReason, Slack, StepShape};

/// Why a step was launched kernel by kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EagerReason {
    /// No captured point fits.
    Miss(MissReason),
    /// Replay is switched off; the kernels are those of the point that fits.
    SwitchedOff,
}

impl fmt::Display for EagerReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Miss(reason) => reason.fmt(formatter),
            Self::SwitchedOff => formatter.write_str("replay is switched off"),
        }
    }
}

/// How a step ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// One launch of a captured graph.
    Replay {
        /// The point.
        point: GridPoint,
        /// What the replay padded.
        slack: Slack,
    },
    /// Kernels launched one by one.
    Eager {
        /// Why.
        reason: EagerReason,
    },
}

/// What a step was and how it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// The real batch.
    pub shape: StepShape,
    /// How it ran.
    pub kind: StepKind,
}

impl fmt::Display for StepReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            StepKind::Replay { point, slack } => {
                write!(formatter, "step {} replays {point}, padding {slack}", self.shape)
            }
            StepKind::Eager { reason } => write!(formatter, "step {} runs eagerly: {reason}", self.shape),
        }
    }
}

/// Steps of a run, by how they ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTotals {
    /// All steps.
    pub total: u64,
    /// Those that were one launch of a captured graph.
    pub replayed: u64,
    /// Those launched kernel by kernel.
    pub eager: u64,
}

impl StepTotals {
    /// Counts a step.
    pub fn add(&mut self, report: &StepReport) {
        self.total += 1;
        match report.kind {
            StepKind::Replay { .. } => self.replayed += 1,
            StepKind::Eager { .. } => self.eager += 1,
        }
    }
}

//! What a step did, and what all steps of a run did.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use gridpoint_plan::{GridPoint, MissReason, Slack, StepShape};

/// Why a step was launched kernel by kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EagerReason {
    /// No point of the plan fits.
    Miss(MissReason),
    /// Replay is switched off; the kernels are those of the point that fits.
    SwitchedOff,
    /// The graph of the point that fits is still to be made in the background.
    NotYetCaptured,
    /// The graph of the point that fits could not be made.
    CaptureFailed,
}

impl EagerReason {
    /// The kind of reason, without its numbers, in snake_case: a key for counts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Miss(reason) => reason.name(),
            Self::SwitchedOff => "switched_off",
            Self::NotYetCaptured => "not_yet_captured",
            Self::CaptureFailed => "capture_failed",
        }
    }
}

impl fmt::Display for EagerReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Miss(reason) => reason.fmt(formatter),
            Self::SwitchedOff => formatter.write_str("replay is switched off"),
            Self::NotYetCaptured => formatter.write_str("its graph is not captured yet"),
            Self::CaptureFailed => formatter.write_str("its graph could not be captured"),
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
        /// The point whose kernels they were, with its padding; none where no point fits: then nothing was padded.
        point: Option<(GridPoint, Slack)>,
        /// Why.
        reason: EagerReason,
    },
}

impl StepKind {
    /// The point of the plan whose kernels ran, and what it padded.
    #[must_use]
    pub fn point(&self) -> Option<(GridPoint, Slack)> {
        match *self {
            Self::Replay { point, slack } => Some((point, slack)),
            Self::Eager { point, .. } => point,
        }
    }
}

/// What a step was, how it ran, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// The real batch.
    pub shape: StepShape,
    /// How it ran.
    pub kind: StepKind,
    /// What the host spent on it: choosing requests and point, packing, copying, launching, committing; not the wait for the device.
    pub host: Duration,
    /// From before the copy of the step block to the end of the last kernel, by the device's events.
    pub device: Duration,
}

impl fmt::Display for StepReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            StepKind::Replay { point, slack } => {
                write!(formatter, "step {} replays {point}, padding {slack}", self.shape)?;
            }
            StepKind::Eager { reason, .. } => write!(formatter, "step {} runs eagerly: {reason}", self.shape)?,
        }
        write!(formatter, "; {} µs on the device, {} µs on the host", self.device.as_micros(), self.host.as_micros())
    }
}

/// Steps of one point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PointTotals {
    /// Steps that were one launch of its graph.
    pub replayed: u64,
    /// Steps that were its kernels, launched one by one.
    pub eager: u64,
    /// Real tokens of both.
    pub tokens: u64,
    /// Padded ones.
    pub padded_tokens: u64,
    /// Empty request slots.
    pub padded_requests: u64,
    /// What they took on the device.
    pub device: Duration,
}

/// Steps of a run, by how they ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepTotals {
    /// All steps.
    pub total: u64,
    /// Those that were one launch of a captured graph.
    pub replayed: u64,
    /// Those launched kernel by kernel.
    pub eager: u64,
    /// Real tokens of all steps.
    pub tokens: u64,
    /// Tokens that were padded.
    pub padded_tokens: u64,
    /// What the host spent on them.
    pub host: Duration,
    /// What the device spent on them.
    pub device: Duration,
    /// By point; steps that no point fits are in none.
    pub points: BTreeMap<GridPoint, PointTotals>,
    /// Eager steps by the kind of their reason, [`EagerReason::name`].
    pub reasons: BTreeMap<&'static str, u64>,
}

impl StepTotals {
    /// Counts a step.
    pub fn add(&mut self, report: &StepReport) {
        let tokens = u64::from(report.shape.tokens);
        self.total += 1;
        self.tokens += tokens;
        self.host += report.host;
        self.device += report.device;
        match report.kind {
            StepKind::Replay { .. } => self.replayed += 1,
            StepKind::Eager { reason, .. } => {
                self.eager += 1;
                *self.reasons.entry(reason.name()).or_default() += 1;
            }
        }
        let Some((point, slack)) = report.kind.point() else { return };
        let padded = u64::from(slack.tokens);
        self.padded_tokens += padded;
        let of_point = self.points.entry(point).or_default();
        match report.kind {
            StepKind::Replay { .. } => of_point.replayed += 1,
            StepKind::Eager { .. } => of_point.eager += 1,
        }
        of_point.tokens += tokens;
        of_point.padded_tokens += padded;
        of_point.padded_requests += u64::try_from(slack.requests()).unwrap_or(0);
        of_point.device += report.device;
    }

    /// The part of all steps that were replays; 1 where there were none.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        if self.total == 0 { 1.0 } else { self.replayed as f64 / self.total as f64 }
    }

    /// Padded tokens for each real one.
    #[must_use]
    pub fn token_padding(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.padded_tokens as f64 / self.tokens as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: GridPoint = GridPoint { tokens: 8, prefills: 2, decodes: 6 };
    const SHAPE: StepShape = StepShape { tokens: 5, prefills: 1, decodes: 3 };
    const SLACK: Slack = Slack { tokens: 3, prefills: 1, decodes: 3 };

    fn report(kind: StepKind) -> StepReport {
        StepReport { shape: SHAPE, kind, host: Duration::from_micros(7), device: Duration::from_micros(90) }
    }

    #[test]
    fn totals_count_by_point_and_by_reason() {
        let mut totals = StepTotals::default();
        assert_eq!((totals.hit_rate(), totals.token_padding()), (1.0, 0.0));
        totals.add(&report(StepKind::Replay { point: POINT, slack: SLACK }));
        totals.add(&report(StepKind::Eager { point: Some((POINT, SLACK)), reason: EagerReason::NotYetCaptured }));
        totals.add(&report(StepKind::Eager { point: None, reason: EagerReason::Miss(MissReason::NoPoints) }));
        assert_eq!((totals.total, totals.replayed, totals.eager), (3, 1, 2));
        assert_eq!((totals.tokens, totals.padded_tokens), (15, 6));
        let expected = PointTotals {
            replayed: 1,
            eager: 1,
            tokens: 10,
            padded_tokens: 6,
            padded_requests: 8,
            device: Duration::from_micros(180),
        };
        assert_eq!(totals.points, BTreeMap::from([(POINT, expected)]));
        assert_eq!(totals.reasons, BTreeMap::from([("no_points", 1), ("not_yet_captured", 1)]));
        assert!((totals.hit_rate() - 1.0 / 3.0).abs() < 1e-12);
        assert!((totals.token_padding() - 0.4).abs() < 1e-12);
    }

    #[test]
    fn a_report_says_how_the_step_ran_and_how_long() {
        let replay = report(StepKind::Replay { point: POINT, slack: SLACK });
        assert_eq!(
            replay.to_string(),
            "step 5:1:3 replays [8]: 2 P + 6 D, padding 3 T, 1 P, 3 D; 90 µs on the device, 7 µs on the host"
        );
        let eager = report(StepKind::Eager { point: Some((POINT, SLACK)), reason: EagerReason::CaptureFailed });
        assert_eq!(
            eager.to_string(),
            "step 5:1:3 runs eagerly: its graph could not be captured; 90 µs on the device, 7 µs on the host"
        );
    }
}

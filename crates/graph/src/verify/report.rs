//! What a proof came to.

use std::fmt;
use std::time::Duration;

use gridpoint_plan::{GridPoint, StepShape};

use super::difference::Difference;
use super::{Case, Context, Element, Padding};

/// What was compared with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// The launches of which the graph was captured, with those recorded now: a stale pointer, or another scalar.
    Launches,
    /// Replays of one step whose padding alone differs: padding is read.
    Padding,
    /// The replay with eager launches of the exact shape, which launches of the point that are recorded now equal: something is frozen
    /// in the graph, or its memory has moved.
    Fresh,
    /// The same, and launches of the point that are recorded now are as wrong as the replay: a capacity stands for a count.
    Exact,
    /// A chain of replays with the same steps launched eagerly in their exact shapes: something is left from step to step.
    Soak,
}

impl Comparison {
    /// One word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Launches => "launches",
            Self::Padding => "padding",
            Self::Fresh => "fresh",
            Self::Exact => "exact",
            Self::Soak => "soak",
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Launches => "was captured of other launches than those recorded now",
            Self::Padding => "depends on what lies in the padding",
            Self::Fresh => "differs from launches recorded now: something is frozen in it or its memory has moved",
            Self::Exact => {
                "differs from the exact shape, as its launches recorded now do: a capacity stands for a count"
            }
            Self::Soak => "differs from the same steps launched eagerly, one after another",
        })
    }
}

/// A place where a graph is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The point that was replayed.
    pub point: GridPoint,
    /// The real step and its contexts; none where only launches were compared.
    pub step: Option<(StepShape, Context)>,
    /// What lay in the padding.
    pub padding: Option<Padding>,
    /// What was compared.
    pub comparison: Comparison,
    /// The first tensor that differs, as in `token`, `logits`, `key_cache`; `launches` where those were compared.
    pub tensor: &'static str,
    /// Names of its dimensions.
    pub axes: &'static [&'static str],
    /// The first element of it that differs.
    pub index: Vec<u64>,
    /// How its bits are read.
    pub element: Element,
    /// The replay's bits; `None` where it wrote nothing.
    pub found: Option<u64>,
    /// The bits of the eager launches; `None` where they wrote nothing.
    pub expected: Option<u64>,
    /// The kernel, where launches were compared.
    pub kernel: Option<&'static str>,
}

impl Mismatch {
    pub(super) fn of_launches(point: GridPoint, difference: Difference) -> Self {
        Self::new(point, None, None, Comparison::Launches, difference)
    }

    pub(super) fn of_step(
        point: GridPoint,
        case: &Case,
        padding: Padding,
        comparison: Comparison,
        difference: Difference,
    ) -> Self {
        Self::new(point, Some((case.shape, case.context)), Some(padding), comparison, difference)
    }

    fn new(
        point: GridPoint,
        step: Option<(StepShape, Context)>,
        padding: Option<Padding>,
        comparison: Comparison,
        difference: Difference,
    ) -> Self {
        let Difference { tensor, axes, index, element, found, expected, kernel } = difference;
        Self { point, step, padding, comparison, tensor, axes, index, element, found, expected, kernel }
    }

    /// Bits and, where it says more, the number that they are.
    fn written(&self, bits: Option<u64>) -> String {
        match bits {
            None => "not written".to_owned(),
            Some(bits) if self.element == Element::Unsigned => format!("{bits:#x}"),
            Some(bits) => format!("{bits:#x} ({})", self.element.value(bits)),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "graph {}", self.point)?;
        if let Some((shape, context)) = self.step {
            write!(formatter, ", replayed with the step {shape} ({context} contexts")?;
            if let Some(padding) = self.padding {
                write!(formatter, ", {padding} in the padding")?;
            }
            formatter.write_str("),")?;
        }
        write!(formatter, " {}: {}[", self.comparison, self.tensor)?;
        for (number, (axis, place)) in self.axes.iter().zip(&self.index).enumerate() {
            write!(formatter, "{}{axis} {place}", if number == 0 { "" } else { ", " })?;
        }
        formatter.write_str("]")?;
        if let Some(kernel) = self.kernel {
            write!(formatter, " of kernel `{kernel}`")?;
        }
        let Self { found, expected, .. } = *self;
        write!(formatter, " is {}, eagerly {}", self.written(found), self.written(expected))
    }
}

/// What a proof has seen so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VerifyReport {
    /// Points of the graph set.
    pub graphs: usize,
    /// Different lists of launches among them: executable graphs.
    pub distinct: usize,
    /// Pairs of a point and a real step that were compared, those of chains left out.
    pub shapes: u64,
    /// Replays of graphs, those of chains among them.
    pub replays: u64,
    /// Replays in chains.
    pub soaked: u64,
    /// Replays that were wrong, and points whose launches were.
    pub mismatches: u64,
    /// Points whose full shape was not replayed: the bound on tokens or the memory is smaller.
    pub reduced: usize,
    /// The first mismatch.
    pub first: Option<Mismatch>,
    /// The first mismatch of each comparison, in the order in which they came, and how many there were.
    pub kinds: Vec<(Mismatch, u64)>,
    /// Wall time.
    pub time: Duration,
}

impl VerifyReport {
    /// Counts a mismatch and keeps the first.
    pub(super) fn add(&mut self, mismatch: Mismatch) {
        self.mismatches += 1;
        tracing::debug!("{mismatch}");
        self.first.get_or_insert_with(|| mismatch.clone());
        match self.kinds.iter_mut().find(|(first, _)| first.comparison == mismatch.comparison) {
            Some((_, count)) => *count += 1,
            None => self.kinds.push((mismatch, 1)),
        }
    }

    /// The first mismatch of a comparison.
    #[must_use]
    pub fn first_of(&self, comparison: Comparison) -> Option<&Mismatch> {
        self.kinds.iter().map(|(first, _)| first).find(|first| first.comparison == comparison)
    }
}

/// One point, or one chain of replays, is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Points and replays of chains so far.
    pub done: u64,
    /// Points and replays of chains in all.
    pub total: u64,
    /// The point.
    pub point: GridPoint,
    /// Replays so far.
    pub replays: u64,
    /// Mismatches so far.
    pub mismatches: u64,
}

/// The device, or the subject, failed in the middle of a proof.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub struct VerifyFailure<E: std::error::Error> {
    /// What was going on, with the point and the step.
    pub doing: String,
    /// What was seen before.
    pub report: Box<VerifyReport>,
    /// Why it ended.
    #[source]
    pub source: E,
}

//! Proof of replay: every captured graph replays real steps and is compared, bit for bit, with eager launches.
//!
//! A captured graph can be wrong in ways that its own launches hide, since they are wrong alike. So the eager side is *recorded anew*, and
//! it runs the step *as a point of its own*, with no slot empty. What is compared is all that a step leaves: tokens and
//! log-probabilities, and whatever else the [`Subject`] names (rows of logits, every element of a cache that changed, also where
//! nothing should have). Which comparison finds which fault:
//!
//! | fault | found by |
//! |---|---|
//! | a frozen scalar: something of the captured step baked into a launch | the launches differ from those recorded now ([`Comparison::Launches`]); and replays of other shapes differ from the exact shape, while the point's launches recorded now do not ([`Comparison::Fresh`]) |
//! | one that is baked in anew with each recording, as where a capacity of the point stands for a count of the step | replays differ from the exact shape, and so do the point's launches recorded now ([`Comparison::Exact`]) |
//! | a stale pointer: memory moved since the capture | the launches differ, before anything is replayed ([`Comparison::Launches`]); and the results do ([`Comparison::Fresh`]) |
//! | padding that is read | replays of one step differ among themselves when the padding of the step block, the workspace and the cache holds other bytes ([`Padding`]), and the point's launches recorded now are wrong, too ([`Comparison::Padding`]) |
//! | something that a replay leaves for the next one | chains of replays of random points, without the host in between ([`Comparison::Soak`]) |
//!
//! **Bounds.** A graph is shared by points whose launches are equal. Every point replays its own full shape; the first point of each
//! graph replays fewer tokens, other counts of prefills and decodes, long and short contexts, scored prompts and empty slots as well.
//! [`VerifyOptions::most_tokens`] bounds the real tokens of a step, for devices on which a full one takes long: what it leaves out is
//! in [`VerifyReport::reduced`].

mod case;
mod compare;
mod difference;
mod random;
mod report;
mod soak;
mod step;
mod tensor;

use gridpoint_plan::GridPoint;
use gridpoint_runtime::{Launches, RuntimeError, Stream};

pub use case::{Case, Context};
pub use compare::{VerifyOptions, verify};
pub use random::Random;
pub use report::{Comparison, Mismatch, VerifyFailure, VerifyProgress, VerifyReport};
pub use step::{RealStep, RequestRow};
pub use tensor::{Bits, Element, Tensor};

use crate::{GraphSet, StepError};

/// The largest step that the subject's memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Token rows of a step.
    pub tokens: u32,
    /// Requests of a step.
    pub requests: u32,
    /// Rows of the language-model head in a step.
    pub logit_rows: u32,
    /// Tokens of a sequence.
    pub sequence_length: u32,
    /// Pages of the cache that steps may use: ids `[0, pages)`. No page is shared by two requests.
    pub pages: u32,
    /// Token ids are below this.
    pub vocabulary: u32,
}

/// What lies wherever a step wrote nothing: behind the counts of the step block, in activations and scratch, in cache slots of no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// Another step of the same point ran before, and its rows are still there.
    OtherRequests,
    /// Every byte is 0.
    Zeros,
    /// Every byte is 0xFF: NaN in any float format, -1 in any integer.
    Poison,
}

impl Padding {
    /// The byte of a fill; `None` where a step's own data is left.
    #[must_use]
    pub fn byte(self) -> Option<u8> {
        match self {
            Self::OtherRequests => None,
            Self::Zeros => Some(0),
            Self::Poison => Some(0xFF),
        }
    }
}

impl std::fmt::Display for Padding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::OtherRequests => "other requests' data",
            Self::Zeros => "zeros",
            Self::Poison => "NaN",
        })
    }
}

/// The kernels and the memory behind a graph set: what a proof asks of whoever wrote them.
pub trait Subject {
    /// What its memory, its kernels or the device can fail with.
    type Error: From<StepError> + From<RuntimeError> + std::error::Error;

    /// The largest step.
    fn room(&self) -> Room;

    /// The launches of a step of `point`, recorded now.
    ///
    /// # Errors
    /// Why there are none.
    fn record(&self, point: GridPoint) -> Result<Launches, Self::Error>;

    /// Makes the memory ready for `step`: the same contents of the cache before every step, of which the slots that hold no token
    /// of the step's requests get the padding, like the workspace. With [`Padding::OtherRequests`] the workspace stays as it is.
    ///
    /// # Errors
    /// The device's error.
    fn prepare(&mut self, padding: Padding, step: &RealStep) -> Result<(), Self::Error>;

    /// What the step that ran last left, beside its results: the same tensors in the same order every time. Padding is none of it.
    ///
    /// # Errors
    /// The device's error.
    fn collect(&mut self, logit_rows: u32) -> Result<Vec<Tensor>, Self::Error>;
}

/// Captured graphs: a [`GraphSet`], or one of somebody else.
pub trait Captured {
    /// The points.
    fn points(&self) -> &[GridPoint];

    /// The launches that point `index` was captured from; none where they are not known by value, which leaves out
    /// [`Comparison::Launches`].
    fn launches(&self, index: usize) -> Option<&Launches>;

    /// Enqueues the replay of point `index`, which has a graph.
    ///
    /// # Errors
    /// The device's error.
    fn replay(&mut self, index: usize, stream: &Stream) -> Result<(), RuntimeError>;
}

impl<M> Captured for GraphSet<M> {
    fn points(&self) -> &[GridPoint] {
        Self::points(self)
    }

    fn launches(&self, index: usize) -> Option<&Launches> {
        Self::launches(self, index)
    }

    fn replay(&mut self, index: usize, stream: &Stream) -> Result<(), RuntimeError> {
        Self::replay(self, index, stream).map(|_launched| ())
    }
}

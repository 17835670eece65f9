//! Whole steps on every device: equal to the reference results, to eager launches, to unpadded shapes, to any other batching.

mod batching;
mod models;
mod reference;
mod replay;
mod rig;
mod shapes;

use crate::support::Case;

/// All cases of whole steps.
pub(crate) fn all() -> Vec<Case> {
    [models::cases(), replay::cases(), batching::cases(), reference::cases(), shapes::cases()].concat()
}

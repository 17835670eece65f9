//! Whole steps on every device: equal to the reference results, to eager launches, to launches one after another, to unpadded shapes, to any other batching.

mod batching;
mod capture;
pub(crate) mod chain;
mod contract;
mod models;
mod products;
mod reference;
mod replay;
mod rig;
pub(crate) mod shapes;
pub(crate) mod verify;

use crate::support::Case;

/// All cases of whole steps.
pub(crate) fn all() -> Vec<Case> {
    [
        models::cases(),
        replay::cases(),
        chain::cases(),
        contract::cases(),
        batching::cases(),
        capture::cases(),
        reference::cases(),
        products::cases(),
        shapes::cases(),
        verify::cases(),
    ]
    .concat()
}

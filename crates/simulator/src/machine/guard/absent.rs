//! Hosts on which nobody guards kernels.

use super::super::fiber::Place;
use super::{Ended, Guard};

/// Runs `body`.
///
/// # Safety
/// None is needed here.
pub(in super::super) unsafe fn run(_: (Guard, bool), _: usize, _: *mut Place, body: impl FnOnce()) -> Option<Ended> {
    body();
    None
}

/// Whether the running cluster's time is over.
pub(in super::super) fn expired() -> bool {
    false
}

//! What an observer is told of asynchronous instructions. The write of a bulk copy counts for the thread that issued it, and is before
//! whatever waits for its mbarrier; so is what threads did before they arrived there.

use super::block::Block;
use super::observer::{Place, Touch};
use crate::fault::{Reason, Space};

/// The token of a phase of an mbarrier.
pub(super) fn phase(address: u32, parity: bool) -> u64 {
    u64::from(address) << 1 | u64::from(parity)
}

/// The token of a named barrier, for warps that arrive without waiting.
pub(super) fn named(id: u32) -> u64 {
    1 << 40 | u64::from(id)
}

/// The token of the cluster's barrier.
pub(super) const CLUSTER: u64 = 1 << 41;

/// `thread` releases what it did to `token`.
///
/// # Safety
/// `block` lives and nobody borrows it.
pub(super) unsafe fn release(block: *mut Block, thread: u32, token: u64) {
    // SAFETY: by this function's contract.
    if let Some(observer) = unsafe { &mut (*block).observer } {
        observer.release(thread, token);
    }
}

/// `thread` acquires what was released to `token`.
///
/// # Safety
/// As [`release`].
pub(super) unsafe fn acquire(block: *mut Block, thread: u32, token: u64) {
    // SAFETY: by this function's contract.
    if let Some(observer) = unsafe { &mut (*block).observer } {
        observer.acquire(thread, token);
    }
}

/// `thread` touches shared memory.
///
/// # Safety
/// As [`release`].
pub(super) unsafe fn shared(
    block: *mut Block,
    thread: u32,
    address: u32,
    bytes: u32,
    touch: Touch,
) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        access(block, thread, Place { space: Space::Shared, address: address as usize, bytes: bytes as usize }, touch)
    }
}

/// `thread` touches global memory.
///
/// # Safety
/// As [`release`].
pub(super) unsafe fn global(
    block: *mut Block,
    thread: u32,
    address: usize,
    bytes: u32,
    touch: Touch,
) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe { access(block, thread, Place { space: Space::Global, address, bytes: bytes as usize }, touch) }
}

/// # Safety
/// As [`release`].
unsafe fn access(block: *mut Block, thread: u32, place: Place, touch: Touch) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    match unsafe { &mut (*block).observer } {
        Some(observer) => observer.access(thread, place, touch).map_err(|reason| *reason),
        None => Ok(()),
    }
}

//! What an observer is told of asynchronous instructions and of other blocks of a cluster. The write of a bulk copy is before whatever waits
//! for its mbarrier; so is what threads did before they arrived there.

use super::block::Block;
use super::observer::{Meeting, Multiply, Observer, Place, Reader, RunId, Touch, Who};
use super::thread::WARP_THREADS;
use super::warp::Deposit;
use crate::fault::{Reason, Space};

/// Who watches a block, and what it calls it.
#[derive(Clone, Copy)]
pub(crate) struct Watcher {
    /// Lives as long as blocks run that it watches.
    observer: *mut dyn Observer,
    pub(crate) run: RunId,
}

impl Watcher {
    /// # Safety
    /// The observer outlives the block's run and is only reached through watchers of blocks of one OS thread meanwhile.
    pub(crate) unsafe fn new(observer: *mut dyn Observer, run: RunId) -> Self {
        Self { observer, run }
    }

    /// The observer. Nobody keeps the borrow over a switch or another call of this.
    #[allow(clippy::mut_from_ref, reason = "the observer lies elsewhere; who asks for it uses it at once")]
    pub(crate) fn observer(&self) -> &mut dyn Observer {
        // SAFETY: by the contract of `new`; each use ends before the next begins, since all are on one OS thread and an observer calls
        // nobody back.
        unsafe { &mut *self.observer }
    }

    /// Thread `thread` of the block.
    pub(crate) fn who(&self, thread: u32) -> Who {
        Who { run: self.run, thread }
    }
}

/// The token of a phase of an mbarrier.
pub(super) fn phase(address: u32, parity: bool) -> u64 {
    u64::from(address) << 1 | u64::from(parity)
}

/// The token of a named barrier, for warps that arrive without waiting.
pub(super) fn named(id: u32) -> u64 {
    1 << 40 | u64::from(id)
}

/// The token of the cluster's barrier, which belongs to the block of rank 0: even and odd phases.
pub(super) fn cluster(phase: u32) -> u64 {
    1 << 41 | u64::from(phase)
}

/// `thread` of `block` releases what it did to `token` of the block `home`, of the same cluster.
///
/// # Safety
/// Both blocks live and nobody borrows them.
pub(super) unsafe fn release(block: *mut Block, thread: u32, home: *mut Block, token: u64) {
    // SAFETY: by this function's contract.
    unsafe {
        if let (Some(watcher), Some(home)) = ((*block).watcher, (*home).watcher) {
            watcher.observer().release(watcher.who(thread), home.run, token);
        }
    }
}

/// `thread` of `block` acquires what was released to `token` of the block `home`.
///
/// # Safety
/// As [`release`].
pub(super) unsafe fn acquire(block: *mut Block, thread: u32, home: *mut Block, token: u64) {
    // SAFETY: by this function's contract.
    unsafe {
        if let (Some(watcher), Some(home)) = ((*block).watcher, (*home).watcher) {
            watcher.observer().acquire(watcher.who(thread), home.run, token);
        }
    }
}

/// `thread` of `block` touches shared memory of the block `home`, of the same cluster.
///
/// # Safety
/// As [`release`].
pub(super) unsafe fn shared(
    block: *mut Block,
    thread: u32,
    home: *mut Block,
    address: u32,
    bytes: u32,
    touch: Touch,
) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        let (Some(watcher), Some(home)) = ((*block).watcher, (*home).watcher) else { return Ok(()) };
        let place = Place { space: Space::Shared, home: home.run, address: address as usize, bytes: bytes as usize };
        watcher.observer().access(watcher.who(thread), place, touch).map_err(|reason| *reason)
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
    unsafe {
        let Some(watcher) = (*block).watcher else { return Ok(()) };
        let place = Place { space: Space::Global, home: watcher.run, address, bytes: bytes as usize };
        watcher.observer().access(watcher.who(thread), place, touch).map_err(|reason| *reason)
    }
}

/// A bulk copy of `thread` out of shared memory has written global memory; it touched it when it was issued.
///
/// # Safety
/// As [`release`].
pub(super) unsafe fn store_lands(block: *mut Block, thread: u32, address: usize, bytes: u32) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        let Some(watcher) = (*block).watcher else { return Ok(()) };
        let place = Place { space: Space::Global, home: watcher.run, address, bytes: bytes as usize };
        watcher.observer().store_lands(watcher.who(thread), place).map_err(|reason| *reason)
    }
}

/// `thread` of `block` issues a bulk copy that writes shared memory of the block `home`, of the same cluster.
///
/// # Safety
/// As [`release`].
pub(super) unsafe fn bulk_begins(
    block: *mut Block,
    thread: u32,
    home: *mut Block,
    address: u32,
    bytes: u32,
) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        let (Some(watcher), Some(home)) = ((*block).watcher, (*home).watcher) else { return Ok(()) };
        let place = Place { space: Space::Shared, home: home.run, address: address as usize, bytes: bytes as usize };
        watcher.observer().bulk_begins(watcher.who(thread), place).map_err(|reason| *reason)
    }
}

/// A bulk copy has landed, which completes bytes of the phase that `token` stands for: as [`bulk_begins`].
///
/// # Safety
/// As [`release`].
pub(super) unsafe fn bulk_ends(
    (block, thread): (*mut Block, u32),
    home: *mut Block,
    address: u32,
    bytes: u32,
    token: u64,
) {
    // SAFETY: by this function's contract.
    unsafe {
        if let (Some(watcher), Some(home)) = ((*block).watcher, (*home).watcher) {
            let place =
                Place { space: Space::Shared, home: home.run, address: address as usize, bytes: bytes as usize };
            watcher.observer().bulk_ends(watcher.who(thread), place, token);
        }
    }
}

/// The token of what a warpgroup has issued and waited for.
pub(super) fn warpgroup(group: u32) -> u64 {
    1 << 42 | u64::from(group)
}

/// `thread` issues operation `number` of a kind, which reads shared memory of its block until it is waited for.
///
/// # Safety
/// As [`release`].
pub(super) unsafe fn read_begins(
    block: *mut Block,
    thread: u32,
    (reader, number): (Reader, u64),
    address: u32,
    bytes: u32,
) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        let Some(watcher) = (*block).watcher else { return Ok(()) };
        let place = Place { space: Space::Shared, home: watcher.run, address: address as usize, bytes: bytes as usize };
        watcher.observer().read_begins(watcher.who(thread), reader, number, place).map_err(|reason| *reason)
    }
}

/// `thread` has waited for the operations of a kind with numbers below `end`.
///
/// # Safety
/// As [`release`].
pub(super) unsafe fn reads_end(block: *mut Block, thread: u32, reader: Reader, end: u64) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        let Some(watcher) = (*block).watcher else { return Ok(()) };
        watcher.observer().reads_end(watcher.who(thread), reader, end).map_err(|reason| *reason)
    }
}

/// Warp `warp` executes `ldmatrix` or `stmatrix`, whose rows' lanes brought their host addresses second.
pub(super) fn matrices(block: &Block, warp: u32, lanes: &[Deposit]) {
    let Some(watcher) = block.watcher else { return };
    let mut rows = [0; WARP_THREADS as usize];
    for (row, lane) in rows.iter_mut().zip(lanes) {
        *row = block.shared.address(lane.pointers[1]).unwrap_or(0);
    }
    watcher.observer().matrices(watcher.who(warp * WARP_THREADS), &rows[..lanes.len()]);
}

/// Warp `warp` executes matrix multiplications.
pub(super) fn multiplied(block: &Block, warp: u32, kind: Multiply, instructions: u32) {
    if let Some(watcher) = block.watcher {
        watcher.observer().multiplied(watcher.who(warp * WARP_THREADS), kind, instructions.into());
    }
}

/// A barrier of `block` has opened.
pub(super) fn met(block: &Block, meeting: Meeting) {
    if let Some(watcher) = block.watcher {
        watcher.observer().met(watcher.run, meeting);
    }
}

//! A CUDA thread: who it is, and what it alone holds.

use super::copies::Copies;
use super::fiber::Place;

/// Lanes of a warp (PTX ISA 2.2.1).
pub(crate) const WARP_THREADS: u32 = 32;

/// `%tid`, `%ctaid`, `%ntid` and `%nctaid`: `GridpointThread` of `include/gridpoint_simulator.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadIdentity {
    /// Index in the block in x, y, z.
    pub thread: [u32; 3],
    /// The block's index in the grid.
    pub block: [u32; 3],
    /// Threads of the block.
    pub block_size: [u32; 3],
    /// Blocks of the grid.
    pub grid_size: [u32; 3],
}

/// A thread of the running block.
pub(crate) struct Thread {
    pub(crate) identity: ThreadIdentity,
    /// `index / 32`; threads are numbered x first, then y, then z.
    pub(crate) warp: u32,
    /// `index % 32`.
    pub(crate) lane: u32,
    /// Where its fiber stands, which lives as long as the block runs.
    pub(crate) place: *mut Place,
    /// First address of its fiber's stack, by which it is told from other memory.
    pub(crate) stack: usize,
    /// Asynchronous copies under way.
    pub(crate) copies: Copies,
    /// The address of its last atomic instruction, for a report of threads that wait in loops.
    pub(crate) polled: usize,
}

impl Thread {
    /// The thread `index` of a block, without an identity yet.
    pub(crate) fn new(index: u32) -> Self {
        Self {
            identity: ThreadIdentity::default(),
            warp: index / WARP_THREADS,
            lane: index % WARP_THREADS,
            place: std::ptr::null_mut(),
            stack: 0,
            copies: Copies::default(),
            polled: 0,
        }
    }

    /// The thread's number in its block.
    pub(crate) fn index(&self) -> u32 {
        self.warp * WARP_THREADS + self.lane
    }
}

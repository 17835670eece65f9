//! The block that an OS thread runs, as its threads see it.

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;

use super::LaunchDescription;
use super::asynchronous::Asynchronous;
use super::barrier::{BARRIERS, NamedBarrier};
use super::fiber::Place;
use super::memory::{GlobalMemory, SharedMemory};
use super::mma::{self, Multiply, Panels};
use super::random::Random;
use super::schedule::Turns;
use super::static_shared::{StaticShared, window_bytes};
use super::thread::{Thread, ThreadIdentity, WARP_THREADS};
use super::warp::{FULL_MASK, Warp};
use super::watch::Watcher;
use crate::fault::Reason;
use crate::memory::Snapshot;
use crate::module::Entry;

/// Yields of a block without any event (a collective, an open barrier, an exit) after which it counts as spinning.
pub(crate) const SPIN_LIMIT: u32 = 1 << 22;
/// Atomics, or plain reads that the machine is told of, of a block after which the running thread gives the others a turn, and how many yields that counts as.
const ATOMICS_PER_TURN: u32 = 1 << 12;
const ATOMICS_TURN_SPINS: u32 = 64;

thread_local! {
    static CURRENT: Cell<*mut Block> = const { Cell::new(ptr::null_mut()) };
}

/// The block that this OS thread runs. A fiber asks for it anew after every switch.
#[inline(always)]
pub(crate) fn current() -> *mut Block {
    CURRENT.get()
}

pub(crate) fn set_current(block: *mut Block) {
    CURRENT.set(block);
}

extern "C" fn no_kernel(_: *const std::ffi::c_void) {}

/// A running block. It is only touched by its OS thread: by the scheduler between turns and by the running fiber during one, each
/// through borrows that end before the switch.
pub(crate) struct Block {
    /// The running thread, one of `threads`.
    pub(crate) current: *mut Thread,
    /// The block has faulted: nobody runs any more.
    pub(crate) stopped: bool,
    /// Where the OS thread's own stack stands while fibers run.
    pub(crate) host: Place,
    /// Who runs next.
    pub(crate) turns: Turns,
    spins: u32,
    atomics: u32,
    pub(crate) live: u32,
    pub(crate) shared: SharedMemory,
    pub(crate) global: GlobalMemory,
    pub(crate) warps: Vec<Warp>,
    pub(crate) barriers: [NamedBarrier; BARRIERS as usize],
    pub(crate) entry: Entry,
    pub(crate) parameters: *const u8,
    pub(crate) parameter_bytes: u32,
    pub(crate) block_threads: u32,
    /// Whoever watches the launch.
    pub(crate) watcher: Option<Watcher>,
    pub(crate) panels: Box<Panels>,
    pub(crate) multiply: Multiply,
    /// Clusters and what runs beside the threads.
    pub(crate) asynchronous: Asynchronous,
    fault: Option<(u32, Reason)>,
    /// The fault's thread does not stand where it happened.
    beside: bool,
    threads: Vec<Thread>,
    first: *mut Thread,
}

impl Block {
    /// A block without threads; none when the host has no memory left.
    pub(crate) fn new() -> Option<Box<Self>> {
        Some(Box::new(Self {
            current: ptr::null_mut(),
            stopped: false,
            host: Place::host(),
            turns: Turns::new(None),
            spins: 0,
            atomics: 0,
            live: 0,
            shared: SharedMemory::new()?,
            global: GlobalMemory::new(Arc::new(Snapshot::default())),
            warps: Vec::new(),
            barriers: [NamedBarrier::default(); BARRIERS as usize],
            entry: no_kernel,
            parameters: ptr::null(),
            parameter_bytes: 0,
            block_threads: 0,
            watcher: None,
            panels: Panels::new(),
            multiply: mma::fastest(),
            asynchronous: Asynchronous::new(),
            fault: None,
            beside: false,
            threads: Vec::new(),
            first: ptr::null_mut(),
        }))
    }

    /// Makes this the block `index` of a launch, all of whose threads may run.
    pub(crate) fn begin(
        &mut self,
        launch: &LaunchDescription<'_>,
        index: [u32; 3],
        random: Option<Random>,
    ) -> Result<(), Reason> {
        let [x, y, z] = launch.block;
        let count = x * y * z;
        let observed = self.watcher.is_some();
        let statics = StaticShared::of(launch.kernel, launch.shared_bytes);
        // SAFETY: `run` holds the lock for a kernel that has any, and this block has not begun.
        unsafe { statics.poison() };
        if !self.shared.begin(launch.shared_bytes, statics, observed) {
            return Err(Reason::Host {
                detail: format!("no memory for {} bytes of shared memory", launch.shared_bytes),
            });
        }
        self.global.begin(&launch.memory, observed);
        self.stopped = false;
        self.turns = Turns::new(random);
        self.spins = 0;
        self.atomics = 0;
        self.live = count;
        self.block_threads = count;
        self.barriers = [NamedBarrier::default(); BARRIERS as usize];
        self.entry = launch.kernel.entry();
        self.parameters = launch.parameters.as_ptr();
        self.parameter_bytes = launch.kernel.parameter_bytes();
        self.asynchronous.begin(count, window_bytes(launch.kernel, launch.shared_bytes));
        self.fault = None;
        while self.threads.len() < count as usize {
            self.threads.push(Thread::new(self.threads.len() as u32));
        }
        let mut threads = self.threads.iter_mut();
        for (z, y) in (0..z).flat_map(|z| (0..y).map(move |y| (z, y))) {
            for (x, thread) in (0..x).zip(&mut threads) {
                thread.identity = ThreadIdentity {
                    thread: [x, y, z],
                    block: index,
                    block_size: launch.block,
                    grid_size: launch.grid,
                };
            }
        }
        self.first = self.threads.as_mut_ptr();
        self.current = self.first;
        let warps = count.div_ceil(WARP_THREADS);
        self.warps.truncate(warps as usize);
        self.warps.resize_with(warps as usize, Warp::new);
        for (warp, first) in self.warps.iter_mut().zip((0..count).step_by(WARP_THREADS as usize)) {
            let lanes = (count - first).min(WARP_THREADS);
            warp.begin(FULL_MASK >> (WARP_THREADS - lanes));
        }
        Ok(())
    }

    /// The thread `index`, which exists in this block. Nothing but these pointers is used to reach threads while fibers run.
    #[inline(always)]
    pub(crate) fn thread(&self, index: u32) -> *mut Thread {
        self.first.wrapping_add(index as usize)
    }

    /// Something other than a yield happened.
    #[inline(always)]
    pub(crate) fn progress(&mut self) {
        self.spins = 0;
    }

    /// Counts a yield of the running thread; false when the block has only yielded for too long.
    #[inline(always)]
    pub(crate) fn count_yield(&mut self, spins: u32) -> bool {
        self.turns.yields();
        self.spins = self.spins.saturating_add(spins);
        self.spins < SPIN_LIMIT
    }

    /// Counts an atomic, or a plain read that the machine is told of: the answer is the spins of the yield that is due now.
    #[inline(always)]
    pub(crate) fn count_atomic(&mut self) -> Option<u32> {
        self.atomics = self.atomics.wrapping_add(1);
        self.atomics.is_multiple_of(ATOMICS_PER_TURN).then_some(ATOMICS_TURN_SPINS)
    }

    /// Lets all lanes of `warps` go on, out of a barrier.
    pub(crate) fn release(&mut self, warps: u32) {
        for (index, warp) in self.warps.iter_mut().enumerate() {
            if warps >> index & 1 != 0 {
                warp.ready = warp.exists;
                warp.barrier = None;
                self.asynchronous.proxy.meet(index as u32);
            }
        }
    }

    /// Ends the block with the fault of thread `index`; the first one counts.
    #[cold]
    pub(crate) fn stop(&mut self, index: u32, reason: Reason) {
        self.stopped = true;
        self.fault.get_or_insert((index, reason));
    }

    /// As [`Block::stop`], with the fault of something that thread `index` began and that runs beside the threads.
    #[cold]
    pub(crate) fn stop_beside(&mut self, index: u32, reason: Reason) {
        self.beside = self.fault.is_none();
        self.stop(index, reason);
    }

    /// Ends the running thread. An instruction that waits for it never completes.
    pub(crate) fn end_thread(&mut self) {
        // SAFETY: the running thread is one of this block's.
        let (warp, lane) = unsafe { ((*self.current).warp, (*self.current).lane) };
        self.live -= 1;
        self.progress();
        if let Err((waiting, reason)) = self.warps[warp as usize].exit(lane) {
            self.stop(warp * WARP_THREADS + waiting, reason);
        }
    }

    /// The number of the thread that a fault names, if it stands where the fault happened.
    pub(crate) fn fault_place(&self) -> Option<u32> {
        self.fault.as_ref().filter(|_| !self.beside).map(|(index, _)| *index)
    }

    /// The fault, and the index of the thread that it names.
    pub(crate) fn take_fault(&mut self) -> Option<([u32; 3], Reason)> {
        let (index, reason) = self.fault.take()?;
        self.beside = false;
        let thread = self.threads.get(index as usize).map(|thread| thread.identity.thread).unwrap_or_default();
        Some((thread, reason))
    }
}

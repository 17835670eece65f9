//! What an OS thread runs clusters with: the state of each block and a fiber for each of its threads, kept from cluster to cluster.

use std::cell::Cell;

use super::block::{self, Block};
use super::cluster::Cluster;
use super::fiber::Fiber;
use super::observer::Observer;
use super::random::Random;
use super::{LaunchDescription, asynchronous, fault, turn};
use crate::fault::Reason;

thread_local! {
    static IDLE: Cell<Option<Multiprocessor>> = const { Cell::new(None) };
}

/// The place and reason of a fault in a block.
pub(super) type BlockFault = ([u32; 3], Reason);

/// A block and its threads' fibers.
struct Core {
    /// Owned; a raw pointer because fibers reach the block too.
    block: *mut Block,
    fibers: Vec<Fiber>,
}

impl Core {
    fn new() -> Result<Self, Reason> {
        let block = Block::new().ok_or_else(|| Reason::Host { detail: "no memory for a block".to_owned() })?;
        Ok(Self { block: Box::into_raw(block), fibers: Vec::new() })
    }

    /// Makes this the block `index` of a launch, whose threads have fibers.
    fn begin(
        &mut self,
        launch: &LaunchDescription<'_>,
        index: [u32; 3],
        random: Option<Random>,
    ) -> Result<(), BlockFault> {
        // SAFETY: this core owns the block, and no fiber runs.
        let block = unsafe { &mut *self.block };
        block.begin(launch, index, random).map_err(|reason| ([0; 3], reason))?;
        let count = block.block_threads as usize;
        while self.fibers.len() < count {
            let fiber = Fiber::new(self.fibers.len(), thread_body).map_err(|error| {
                let detail = format!("no stack for thread {} of a block: {error}", self.fibers.len());
                ([0; 3], Reason::Host { detail })
            })?;
            self.fibers.push(fiber);
        }
        for (index, fiber) in (0..).zip(&mut self.fibers[..count]) {
            // SAFETY: the block has so many threads.
            unsafe { (*block.thread(index)).place = fiber.place() };
        }
        if block.observer.is_some() {
            for (index, fiber) in (0..).zip(&self.fibers[..count]) {
                // SAFETY: the block has so many threads.
                unsafe { (*block.thread(index)).stack = fiber.stack() };
            }
        }
        Ok(())
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.fibers.clear();
        // SAFETY: made by `Box::into_raw` in `new`, and no fiber is left to reach it.
        drop(unsafe { Box::from_raw(self.block) });
    }
}

/// Runs the blocks of one cluster at a time, on one OS thread.
pub(super) struct Multiprocessor {
    cores: Vec<Core>,
    /// Owned; a raw pointer because blocks reach it too.
    cluster: *mut Cluster,
}

impl Multiprocessor {
    /// The OS thread's own one, or a new one.
    pub(super) fn take() -> Result<Self, Reason> {
        if let Some(idle) = IDLE.take() {
            return Ok(idle);
        }
        Ok(Self { cores: Vec::new(), cluster: Box::into_raw(Cluster::new()) })
    }

    /// Keeps this one for the OS thread's next cluster.
    pub(super) fn put_back(self) {
        IDLE.set(Some(self));
    }

    /// Runs the blocks of a cluster by their ranks, each with its index in the grid and its randomness. A fault comes with the rank of
    /// its block. An observer watches a cluster of one block.
    pub(super) fn run(
        &mut self,
        launch: &LaunchDescription<'_>,
        blocks: &[([u32; 3], Option<Random>)],
        observer: &mut Option<Box<dyn Observer>>,
    ) -> Result<(), (usize, BlockFault)> {
        while self.cores.len() < blocks.len() {
            self.cores.push(Core::new().map_err(|reason| (0, ([0; 3], reason)))?);
        }
        // SAFETY: this multiprocessor owns the blocks, and no fiber runs before or after the call.
        unsafe { (*self.cores[0].block).observer = observer.take() };
        let answer = self.run_observed(launch, blocks);
        // SAFETY: as above.
        *observer = unsafe { (*self.cores[0].block).observer.take() };
        answer
    }

    fn run_observed(
        &mut self,
        launch: &LaunchDescription<'_>,
        blocks: &[([u32; 3], Option<Random>)],
    ) -> Result<(), (usize, BlockFault)> {
        let cores = &mut self.cores[..blocks.len()];
        for (rank, (core, (index, random))) in cores.iter_mut().zip(blocks).enumerate() {
            core.begin(launch, *index, random.clone()).map_err(|fault| (rank, fault))?;
            // SAFETY: this multiprocessor owns block and cluster, and no fiber runs.
            unsafe {
                let asynchronous = &mut (*core.block).asynchronous;
                asynchronous.cluster = self.cluster;
                asynchronous.rank = rank as u32;
                asynchronous.shares = blocks.len() > 1;
            }
        }
        let first = cores[0].block;
        // SAFETY: the blocks have begun and the first is the current one; their fibers are new or ended their last thread.
        unsafe {
            (*self.cluster).begin(cores.iter().map(|core| core.block), (*first).block_threads);
            block::set_current(first);
            turn::start(first);
            let stopped = cores.iter().any(|core| (*core.block).stopped);
            for core in cores.iter().filter(|_| !stopped) {
                finish(&mut *core.block);
            }
        }
        block::set_current(std::ptr::null_mut());
        for rank in 0..blocks.len() {
            // SAFETY: no fiber runs any more.
            if let Some(fault) = unsafe { (*self.cores[rank].block).take_fault() } {
                // Fibers in the middle of a thread cannot be used again.
                self.cores.iter_mut().for_each(|core| core.fibers.clear());
                return Err((rank, fault));
            }
        }
        Ok(())
    }
}

impl Drop for Multiprocessor {
    fn drop(&mut self) {
        self.cores.clear();
        // SAFETY: made by `Box::into_raw` in `take`, and no block is left to reach it.
        drop(unsafe { Box::from_raw(self.cluster) });
    }
}

/// What is to be said of a block in which no thread can run any more.
fn finish(block: &mut Block) {
    if !block.stopped && block.live != 0 {
        let (index, reason) = fault::deadlock(block);
        block.stop(index, reason);
    }
    if !block.stopped
        && let Err(reason) = block.shared.intact()
    {
        block.stop(0, reason);
    }
}

/// What a fiber does: one thread after another.
extern "C" fn thread_body() -> ! {
    loop {
        let block = block::current();
        // SAFETY: whoever switched here has set the current block and thread; the kernel's entry takes the launch's parameters. No borrow
        // lives while the kernel runs or at the switch.
        unsafe {
            (*(*block).current).copies.forget();
            ((*block).entry)((*block).parameters.cast());
            if let Err(reason) = asynchronous::end_thread(block) {
                turn::raise(block, reason);
            }
            (*block).end_thread();
            turn::suspend(block);
        }
    }
}

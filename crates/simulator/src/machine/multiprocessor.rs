//! What an OS thread runs a cluster with: the state of each block and a fiber for each of its threads, kept from cluster to cluster.

use std::cell::RefCell;

use super::block::Block;
use super::cluster::{self, Cluster, Pause};
use super::fiber::Fiber;
use super::random::Random;
use super::watch::Watcher;
use super::{LaunchDescription, asynchronous, block, dependency, fault, guard, turn};
use crate::fault::{Reason, SourceLine};
use crate::source::Kernel;

thread_local! {
    static IDLE: RefCell<Vec<Multiprocessor>> = const { RefCell::new(Vec::new()) };
}

/// A fault in a block.
#[derive(Debug)]
pub(super) struct BlockFault {
    /// The thread's index in the block.
    pub(super) thread: [u32; 3],
    /// Why.
    pub(super) reason: Reason,
    /// Where the thread stood.
    pub(super) source: Vec<SourceLine>,
}

impl From<Reason> for BlockFault {
    /// A fault of no thread of its own.
    fn from(reason: Reason) -> Self {
        Self { thread: [0; 3], reason, source: Vec::new() }
    }
}

/// A block that begins.
#[derive(Clone)]
pub(super) struct NewBlock {
    /// Its index in the grid.
    pub(super) index: [u32; 3],
    /// What its order is drawn from.
    pub(super) random: Option<Random>,
    /// Whoever watches it.
    pub(super) watcher: Option<Watcher>,
}

/// What a cluster finds around it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Surroundings {
    /// Other clusters may be resident on this OS thread.
    pub(super) others: bool,
    /// A later launch may begin once this one's blocks let it.
    pub(super) dependents: bool,
    /// The launch before this one may still run.
    pub(super) incomplete: bool,
}

/// How a cluster's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// All its threads have exited.
    Ended,
    /// It waits for the end of the launch before its own.
    Waits,
    /// It gave up its turn.
    Paused(Pause),
}

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

    /// Makes this a block of a launch, whose threads have fibers.
    fn begin(&mut self, launch: &LaunchDescription<'_>, new: &NewBlock) -> Result<(), BlockFault> {
        // SAFETY: this core owns the block, and no fiber runs.
        let block = unsafe { &mut *self.block };
        block.watcher = new.watcher;
        block.begin(launch, new.index, new.random.clone())?;
        let count = block.block_threads as usize;
        let known = self.fibers.len();
        while self.fibers.len() < count {
            let fiber = Fiber::new(self.fibers.len(), thread_body).map_err(|error| {
                let detail = format!("no stack for thread {} of a block: {error}", self.fibers.len());
                Reason::Host { detail }
            })?;
            self.fibers.push(fiber);
        }
        if self.fibers.len() > known {
            // All of them may have moved.
            for (index, fiber) in (0..).zip(&mut self.fibers) {
                // SAFETY: the block has so many threads.
                let thread = unsafe { &mut *block.thread(index) };
                (thread.place, thread.stack) = (fiber.place(), fiber.stack());
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
    /// Blocks of the cluster that runs.
    count: usize,
    /// The block that ran last.
    last: *mut Block,
    /// Owned; a raw pointer because blocks reach it too.
    cluster: *mut Cluster,
}

impl Multiprocessor {
    /// One that the OS thread keeps, or a new one.
    pub(super) fn take() -> Self {
        if let Some(idle) = IDLE.with_borrow_mut(Vec::pop) {
            return idle;
        }
        Self { cores: Vec::new(), count: 0, last: std::ptr::null_mut(), cluster: Box::into_raw(Cluster::new()) }
    }

    /// Keeps this one, whose cluster has ended or faulted, for the OS thread's next cluster.
    pub(super) fn put_back(self) {
        IDLE.with_borrow_mut(|idle| idle.push(self));
    }

    /// Begins a cluster of these blocks, by their ranks. A fault comes with the rank of its block.
    pub(super) fn begin(
        &mut self,
        launch: &LaunchDescription<'_>,
        blocks: &[NewBlock],
        surroundings: Surroundings,
    ) -> Result<(), (usize, BlockFault)> {
        while self.cores.len() < blocks.len() {
            self.cores.push(Core::new().map_err(|reason| (0, reason.into()))?);
        }
        let cores = &mut self.cores[..blocks.len()];
        for (rank, (core, new)) in cores.iter_mut().zip(blocks).enumerate() {
            core.begin(launch, new).map_err(|fault| (rank, fault))?;
            // SAFETY: this multiprocessor owns block and cluster, and no fiber runs.
            unsafe {
                let asynchronous = &mut (*core.block).asynchronous;
                asynchronous.cluster = self.cluster;
                asynchronous.rank = rank as u32;
                *asynchronous.shares.get_mut() = blocks.len() > 1 || surroundings.others || surroundings.dependents;
                asynchronous.dependency.begin(surroundings.incomplete);
            }
        }
        self.count = blocks.len();
        self.last = cores[0].block;
        // SAFETY: as above.
        unsafe {
            let threads = (*self.last).block_threads;
            let around = (surroundings.others, surroundings.dependents);
            (*self.cluster).begin(cores.iter().map(|core| core.block), threads, around);
        }
        Ok(())
    }

    fn blocks(&self) -> impl Iterator<Item = *mut Block> + '_ {
        self.cores[..self.count].iter().map(|core| core.block)
    }

    /// Gives the cluster, of this launch, a turn. Its time counts on from the turn before on this OS thread where it `continues`. A fault,
    /// which ends the cluster, comes with the rank of its block.
    pub(super) fn advance(
        &mut self,
        launch: &LaunchDescription<'_>,
        continues: bool,
    ) -> Result<Turn, (usize, BlockFault)> {
        let entry = launch.kernel.entry() as usize;
        // SAFETY: the blocks have begun on this OS thread and their fibers are theirs; none runs before or after the call, and after a
        // fault they are thrown away. The blocks are touched one at a time.
        unsafe {
            let last = self.last;
            let leader = &raw mut (*self.cores[0].block).host;
            let ended = guard::run((launch.guard, continues), entry, leader, || cluster::resume(last));
            self.last = cluster::take_last(last);
            let lives = self.blocks().any(|block| (*block).live != 0);
            if let Some(ended) = ended.as_ref().filter(|_| lives) {
                let block = &mut *self.last;
                block.stop((*block.current).index(), ended.reason(block));
            }
            if !self.blocks().any(|block| (*block).stopped) {
                if let Some(pause) = (*self.cluster).pause.filter(|_| lives) {
                    return Ok(Turn::Paused(pause));
                }
                if self.blocks().any(|block| (*block).asynchronous.dependency.waits()) {
                    return Ok(Turn::Waits);
                }
                self.blocks().for_each(|block| finish(&mut *block));
            }
            let interrupted = ended.filter(|ended| !ended.stack.is_empty()).map(|ended| ended.stack);
            match self.take_fault(entry, interrupted.as_deref()) {
                None => Ok(Turn::Ended),
                Some(fault) => {
                    self.abandon();
                    Err(fault)
                }
            }
        }
    }

    /// The first fault, with the rank of its block. `interrupted` are the return addresses of the running thread where it was interrupted.
    ///
    /// # Safety
    /// The blocks have begun, and no fiber runs.
    unsafe fn take_fault(&mut self, entry: usize, interrupted: Option<&[usize]>) -> Option<(usize, BlockFault)> {
        let last = self.last;
        self.cores[..self.count].iter_mut().enumerate().find_map(|(rank, core)| {
            // SAFETY: by this function's contract.
            unsafe {
                let place = (*core.block).fault_place();
                let (thread, reason) = (*core.block).take_fault()?;
                let stack = match (interrupted, place.map(|index| &mut core.fibers[index as usize])) {
                    (Some(stack), _) if last == core.block => stack.to_vec(),
                    (_, Some(fiber)) => fiber.trace(),
                    (_, None) => Vec::new(),
                };
                let source = Kernel::new(entry).lines(&stack);
                Some((rank, BlockFault { thread, reason, source }))
            }
        })
    }

    /// The launch before that of the cluster is complete.
    pub(super) fn complete_dependency(&mut self) {
        for block in self.blocks() {
            // SAFETY: this multiprocessor owns the block, and no fiber runs.
            dependency::complete(unsafe { &mut *block });
        }
    }

    /// Whether every block of the cluster has let dependent launches begin.
    pub(super) fn triggered(&self) -> bool {
        // SAFETY: this multiprocessor owns the blocks, and no fiber runs.
        self.blocks().all(|block| unsafe { (*block).asynchronous.dependency.triggered })
    }

    /// Leaves a cluster whose threads will not go on: fibers in the middle of a thread cannot be used again.
    pub(super) fn abandon(&mut self) {
        self.cores.iter_mut().for_each(|core| core.fibers.clear());
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
            (*(*block).current).polled = 0;
            ((*block).entry)((*block).parameters.cast());
            if let Err(reason) = asynchronous::end_thread(block) {
                turn::raise(block, reason);
            }
            (*block).end_thread();
            turn::suspend(block);
        }
    }
}

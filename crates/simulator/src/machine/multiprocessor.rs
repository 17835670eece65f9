//! What an OS thread runs blocks with: the state of one block and a fiber for each of its threads, kept from block to block.

use std::cell::Cell;

use super::block::{self, Block};
use super::fiber::Fiber;
use super::random::Random;
use super::{LaunchDescription, fault, turn};
use crate::fault::Reason;

thread_local! {
    static IDLE: Cell<Option<Multiprocessor>> = const { Cell::new(None) };
}

/// The place and reason of a fault in a block.
pub(super) type BlockFault = ([u32; 3], Reason);

/// Runs one block at a time, on one OS thread.
pub(super) struct Multiprocessor {
    /// Owned; a raw pointer because fibers reach the block too.
    block: *mut Block,
    fibers: Vec<Fiber>,
}

impl Multiprocessor {
    /// The OS thread's own one, or a new one.
    pub(super) fn take() -> Result<Self, Reason> {
        if let Some(idle) = IDLE.take() {
            return Ok(idle);
        }
        let block = Block::new().ok_or_else(|| Reason::Host { detail: "no memory for a block".to_owned() })?;
        Ok(Self { block: Box::into_raw(block), fibers: Vec::new() })
    }

    /// Keeps this one for the OS thread's next block.
    pub(super) fn put_back(self) {
        IDLE.set(Some(self));
    }

    /// Runs the block `index` of a launch.
    pub(super) fn run(
        &mut self,
        launch: &LaunchDescription<'_>,
        index: [u32; 3],
        random: Option<Random>,
    ) -> Result<(), BlockFault> {
        // SAFETY: this multiprocessor owns the block, and no fiber runs.
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
        block::set_current(self.block);
        // SAFETY: the block has begun and is the current one; its fibers are new or ended their last thread.
        unsafe {
            turn::start(self.block);
            finish(&mut *self.block);
        }
        block::set_current(std::ptr::null_mut());
        // SAFETY: no fiber runs any more.
        let fault = unsafe { (*self.block).take_fault() };
        match fault {
            None => Ok(()),
            Some(fault) => {
                // Fibers in the middle of a thread cannot be used again.
                self.fibers.clear();
                Err(fault)
            }
        }
    }
}

impl Drop for Multiprocessor {
    fn drop(&mut self) {
        self.fibers.clear();
        // SAFETY: made by `Box::into_raw` in `take`, and no fiber is left to reach it.
        drop(unsafe { Box::from_raw(self.block) });
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
            (*block).end_thread();
            turn::suspend(block);
        }
    }
}

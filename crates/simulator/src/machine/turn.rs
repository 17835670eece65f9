//! How a running thread gives up its turn: waiting in a collective, yielding, or ending the block with a fault.

use std::sync::atomic::Ordering;

use super::block::{self, Block};
use super::cluster;
use super::fiber;
use super::thread::Thread;
use super::warp::{Arrival, Deposit, Operation, Warp};
use crate::fault::Reason;

/// Lets others run until this thread is picked again. Once the block has stopped it is never picked again.
///
/// # Safety
/// Called by a fiber of `block`; no borrow of the block or of anything in it lives across the call.
#[inline(always)]
pub(crate) unsafe fn suspend(block: *mut Block) {
    // SAFETY: the running thread and the one that is picked are the block's, whose fibers stand at their places and live as long as the
    // block runs; the host's stack stands where it started this block.
    unsafe {
        let me = (*block).current;
        let leaves = (*block).stopped || (*block).asynchronous.shares.load(Ordering::Relaxed);
        let next = if leaves { None } else { (*block).turns.next(&(*block).warps) };
        match next {
            Some(index) => {
                let thread = (*block).thread(index);
                (*block).current = thread;
                if thread != me {
                    fiber::switch((*me).place, (*thread).place);
                }
            }
            None => cluster::leave(block),
        }
    }
}

/// Ends the block with a fault of its running thread.
///
/// # Safety
/// Called by a fiber of `block`, and no borrow of the block lives.
#[cold]
pub(crate) unsafe fn raise(block: *mut Block, reason: Reason) -> ! {
    // SAFETY: by this function's contract.
    unsafe { raise_for(block, (*(*block).current).index(), reason) }
}

/// As [`raise`], naming thread `index`.
///
/// # Safety
/// As [`raise`].
#[cold]
pub(crate) unsafe fn raise_for(block: *mut Block, index: u32, reason: Reason) -> ! {
    // SAFETY: by this function's contract. The reason has moved into the block: the stack, which is abandoned here, owns nothing.
    unsafe {
        (*block).stop(index, reason);
        loop {
            suspend(block);
        }
    }
}

/// A thread inside a collective instruction of its warp.
#[derive(Clone, Copy)]
pub(crate) struct Participant {
    pub(crate) block: *mut Block,
    pub(crate) thread: *mut Thread,
    pub(crate) warp: *mut Warp,
    pub(crate) lane: u32,
}

impl Participant {
    /// The running thread.
    ///
    /// # Safety
    /// Called by a fiber of a block.
    #[inline(always)]
    pub(crate) unsafe fn running() -> Self {
        let block = block::current();
        // SAFETY: the current block and its running thread are valid while a fiber runs, and its warp exists.
        unsafe {
            let thread = (*block).current;
            let warp = (*block).warps.as_mut_ptr().add((*thread).warp as usize);
            Self { block, thread, warp, lane: (*thread).lane }
        }
    }

    /// Meets the lanes of `mask` in `operation`: the last to arrive executes it for all. Returns when that is done.
    ///
    /// # Safety
    /// `self` is the running thread, no borrow of the block lives, and what the deposit points to is what `execute` needs.
    #[inline(always)]
    pub(crate) unsafe fn meet(
        self,
        operation: Operation,
        mask: u32,
        deposit: Deposit,
        execute: impl FnOnce(&mut Block, &mut Warp) -> Result<(), (u32, Reason)>,
    ) {
        // SAFETY: by this function's contract; the warp lies in memory of its own, so it and the block can be borrowed together, and
        // both borrows end before a switch. `execute` does not reach the warp through the block.
        unsafe {
            match (*self.warp).arrive(self.lane, operation, mask, deposit) {
                Ok(Arrival::Waits) => suspend(self.block),
                Ok(Arrival::Last) => {
                    if let Err((lane, reason)) = execute(&mut *self.block, &mut *self.warp) {
                        let index = (*self.thread).index() - self.lane + lane;
                        raise_for(self.block, index, reason);
                    }
                    (*self.warp).ready |= mask;
                    (*self.block).asynchronous.proxy.meet((*self.thread).warp);
                    (*self.block).progress();
                    self.maybe_switch(2);
                }
                Err(reason) => raise(self.block, *reason),
            }
        }
    }

    /// As [`Participant::meet`], but `execute` also says whether the lanes may go on. If not, none of them is ready, and the last to
    /// arrive comes back from here all the same.
    ///
    /// # Safety
    /// As [`Participant::meet`].
    pub(crate) unsafe fn meet_and(
        self,
        operation: Operation,
        mask: u32,
        deposit: Deposit,
        execute: impl FnOnce(&mut Block, &mut Warp) -> Result<bool, (u32, Reason)>,
    ) {
        // SAFETY: as in `meet`.
        unsafe {
            match (*self.warp).arrive(self.lane, operation, mask, deposit) {
                Ok(Arrival::Waits) => suspend(self.block),
                Ok(Arrival::Last) => match execute(&mut *self.block, &mut *self.warp) {
                    Ok(goes_on) => {
                        if goes_on {
                            (*self.warp).ready |= mask;
                        } else {
                            (*self.warp).ready &= !mask;
                        }
                        (*self.block).asynchronous.proxy.meet((*self.thread).warp);
                        (*self.block).progress();
                    }
                    Err((lane, reason)) => {
                        let index = (*self.thread).index() - self.lane + lane;
                        raise_for(self.block, index, reason);
                    }
                },
                Err(reason) => raise(self.block, *reason),
            }
        }
    }

    /// A place where a seeded schedule may switch to another thread, with one chance in `chances`.
    ///
    /// # Safety
    /// `self` is the running thread and ready, and no borrow of the block lives.
    #[inline(always)]
    pub(crate) unsafe fn maybe_switch(self, chances: u32) {
        // SAFETY: by this function's contract.
        unsafe {
            if (*self.block).turns.switches(chances) {
                suspend(self.block);
            }
        }
    }

    /// Gives the other threads a turn, which counts as `spins` towards the bound of a block that does nothing else.
    ///
    /// # Safety
    /// As [`Participant::maybe_switch`].
    #[inline(always)]
    pub(crate) unsafe fn give_turn(self, spins: u32) {
        // SAFETY: by this function's contract.
        unsafe {
            cluster::count_yield(self.block);
            if (*self.block).count_yield(spins) {
                suspend(self.block);
            } else {
                spinning(self.block);
            }
        }
    }
}

/// Kept out of the frame of every thread that yields.
///
/// # Safety
/// As [`raise`].
#[cold]
#[inline(never)]
unsafe fn spinning(block: *mut Block) -> ! {
    // SAFETY: by this function's contract.
    unsafe {
        let waiting = super::fault::spinning(&*block);
        raise(block, Reason::Spinning { waiting })
    }
}

//! Programmatic dependent launch (CUDA C++ Programming Guide, "Programmatic Dependent Launch and Synchronization"; PTX ISA 9.7.13.13,
//! `griddepcontrol`): a launch may begin once every block of the launch before it has let it or has exited, and waits for that launch's
//! end where it says so.

use super::block::Block;
use super::cluster;
use super::turn::{Participant, suspend};

/// A block's part of it.
#[derive(Default)]
pub(crate) struct Dependency {
    /// The launch before this one may still run.
    pub(crate) incomplete: bool,
    /// Threads that wait for its end.
    waiting: Vec<u32>,
    /// The block has let dependent launches begin.
    pub(crate) triggered: bool,
}

impl Dependency {
    /// A block begins, while the launch before its own may still run or not.
    pub(crate) fn begin(&mut self, incomplete: bool) {
        self.incomplete = incomplete;
        self.waiting.clear();
        self.triggered = false;
    }

    /// Whether threads wait.
    pub(crate) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// The launch before that of `block` is complete: whoever waits for it may run.
pub(crate) fn complete(block: &mut Block) {
    let Dependency { incomplete, waiting, .. } = &mut block.asynchronous.dependency;
    *incomplete = false;
    for thread in waiting.drain(..) {
        let warp = &mut block.warps[(thread / super::thread::WARP_THREADS) as usize];
        let bit = 1 << (thread % super::thread::WARP_THREADS);
        warp.parked &= !bit;
        warp.ready |= bit;
    }
    block.progress();
}

/// `griddepcontrol.wait`: the launches that this one depends on are complete, and what they wrote is visible.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_grid_dependency_wait() {
    // SAFETY: a fiber runs; no borrow lives at a switch.
    unsafe {
        let me = Participant::running();
        let index = (*me.thread).index();
        if (*me.block).asynchronous.dependency.incomplete {
            (*me.block).asynchronous.dependency.waiting.push(index);
            (*me.warp).ready &= !(1 << me.lane);
            (*me.warp).parked |= 1 << me.lane;
            suspend(me.block);
        }
        if let Some(watcher) = (*me.block).watcher {
            watcher.observer().dependency_waited(watcher.who(index));
        }
        me.maybe_switch(4);
    }
}

/// `griddepcontrol.launch_dependents`: dependent launches may begin once all blocks have come here or have exited. Orders nothing.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_grid_launch_dependents() {
    // SAFETY: a fiber runs; no borrow lives at a switch.
    unsafe {
        let me = Participant::running();
        if let Some(watcher) = (*me.block).watcher {
            watcher.observer().dependents_launched(watcher.who((*me.thread).index()));
        }
        if !std::mem::replace(&mut (*me.block).asynchronous.dependency.triggered, true) && cluster::triggers(me.block) {
            suspend(me.block);
        } else {
            me.maybe_switch(4);
        }
    }
}

//! Detectors: what a GPU would let pass in silence ends a launch with a report.
//!
//! | what | how it is found |
//! |---|---|
//! | races in shared memory, between blocks and between threads in global memory | two accesses, not both reads or both atomics, that no barrier, fence and atomic, or `bar.warp.sync` orders, whatever the schedule that ran |
//! | reads of what nothing wrote | a block's shared memory begins empty; device memory is what kernels and copies wrote, and a fill with [`crate::POISON`] empties it again |
//! | races between the blocks of a cluster in each other's shared memory | as above; `barrier.cluster` and mbarriers order |
//! | access to the target of a `cp.async` or bulk copy before it was waited for | the target belongs to the copy from issue to wait, or until the copy lands |
//! | a write to what a `wgmma` or a bulk copy may still read | its source belongs to it from issue to wait, and then to whoever comes after the wait |
//! | an access that conflicts with a launch that may run at the same time | a launch knows of those it programmatically depends on what its threads have waited for, whatever overlapped |
//! | a source that changes under a `cp.async` | its bytes at issue and at the wait are compared |
//! | a write to what the launch reads as non-coherent, and such a read of what a launch wrote that may still run | marks on the words |
//! | plain accesses out of bounds or misaligned | in kernels compiled with `-fsanitize=thread`, whose plain loads and stores come here |
//!
//! Shuffles, votes, `ldmatrix` and `mma` order no memory (CUDA C++ Programming Guide, "Warp Shuffle Functions": they "do not imply a memory
//! barrier"); `bar.warp.sync` and `bar.sync` do (PTX ISA 9.7.13).
//!
//! Limits. Races of other blocks' readers are found among the latest few readers of a word. Between the blocks of a chain that come
//! after its first four million nothing is found. A source that is overwritten with equal bytes under a copy passes. Memory that the host writes by itself, mapped or managed, counts as written. Atomics that order are told apart by
//! block scope and wider ones only. `griddepcontrol.launch_dependents` orders nothing, also where the launch that executes it has waited
//! itself: what the launch before that one wrote may be read only after a wait of one's own. A copy between the shared memories of a
//! cluster reads its source when it lands; an overwrite before shows in the data alone.
//! An `atom.exch` of memory that nothing wrote counts as a read of it. Marks of non-coherent reads are per word of four bytes. What a block
//! of a launch hands to a later launch's block by an atomic is its own knowledge and that of its launch's blocks, not its waits. A fence by each
//! writer, a barrier and then a relaxed atomic by another thread without a fence of its own is no release pattern (PTX ISA 8.7), and is
//! reported.

mod clock;
mod copies;
mod plain;
mod readers;
mod shadow;
mod watch;

use std::sync::OnceLock;

use crate::machine::LaunchDescription;
use crate::machine::observer::Observer;

/// Makes an observer. Set by whoever asks for detectors, so that a program that never does has none of their code.
static MAKE: OnceLock<Make> = OnceLock::new();

type Make = fn(&LaunchDescription<'_>) -> Box<dyn Observer>;

/// Makes sure that kernels compiled to tell of their plain accesses have somebody to tell.
pub(crate) fn keep_plain() {
    plain::keep();
}

/// Which detectors watch a launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detectors {
    on: bool,
    uninitialised: bool,
}

impl Detectors {
    /// None.
    pub const NONE: Self = Self { on: false, uninitialised: false };

    /// All of them.
    pub fn all() -> Self {
        MAKE.get_or_init(|| watch::make);
        plain::keep();
        Self { on: true, uninitialised: true }
    }

    /// All but the reads of what nothing wrote.
    pub fn without_uninitialised(self) -> Self {
        Self { uninitialised: false, ..self }
    }

    /// Whether reads of what nothing wrote are reported.
    pub(crate) fn uninitialised(self) -> bool {
        self.uninitialised
    }

    /// The observer of a launch.
    pub(crate) fn observer(self, launch: &LaunchDescription<'_>) -> Option<Box<dyn Observer>> {
        if self.on { MAKE.get().map(|make| make(launch)) } else { None }
    }
}

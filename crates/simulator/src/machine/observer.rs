//! What a launch may be watched by: the machine tells an observer of every access and of everything that orders threads.
//!
//! The machine has checked bounds and alignment before it tells of an access. An observer that answers with a reason ends the block with
//! it. Under an observer a launch's blocks run one after another on one OS thread.

use crate::fault::{Reason, Space};

/// What an observer says of an access.
pub(crate) type Verdict = Result<(), Box<Reason>>;

/// An access to memory: which bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which memory.
    pub(crate) space: Space,
    /// A device address, or an address in the block's shared window.
    pub(crate) address: usize,
    /// How many bytes.
    pub(crate) bytes: usize,
}

/// A read or write by one thread, with which nothing but program order comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// A read.
    Read,
    /// A read through the non-coherent cache: nothing may write there during the launch (PTX ISA 9.7.9.9, `ld.global.nc`).
    NonCoherent,
    /// A write.
    Write,
}

/// The qualifiers of an atomic instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strength {
    /// Its scope is the block.
    pub(crate) block_scope: bool,
    /// It is acquire and release; otherwise relaxed.
    pub(crate) ordered: bool,
}

/// A `cp.async` (PTX ISA 9.7.9.25.3.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyPlace {
    /// The target in the block's shared window.
    pub(crate) target: u32,
    /// The source, of which `source_bytes` are read.
    pub(crate) source: usize,
    /// Bytes written.
    pub(crate) bytes: u32,
    /// Bytes read.
    pub(crate) source_bytes: u32,
}

/// Watches one launch. Threads are named by their index in the running block.
pub(crate) trait Observer {
    /// The next block begins: its number in the grid, x fastest.
    fn begin_block(&mut self, block: u64);

    /// `thread` reads or writes.
    fn access(&mut self, thread: u32, place: Place, touch: Touch) -> Verdict;

    /// `thread` executes an atomic instruction.
    fn atomic(&mut self, thread: u32, place: Place, strength: Strength) -> Verdict;

    /// `thread` executes `fence.acq_rel` (PTX ISA 9.7.13.4), with the block's scope or a wider one.
    fn fence(&mut self, thread: u32, block_scope: bool);

    /// All of `threads` have arrived at a barrier that orders what each did before it before what each does after it
    /// (`bar.sync`, `bar.warp.sync`).
    fn barrier(&mut self, threads: &mut dyn Iterator<Item = u32>);

    /// `thread` issues an asynchronous copy.
    fn copy_issued(&mut self, thread: u32, copy: CopyPlace) -> Verdict;

    /// `thread` closes a group of copies.
    fn copy_committed(&mut self, thread: u32);

    /// `thread` has waited for all but its newest `pending` groups, whose copies are not yet done.
    fn copy_waited(&mut self, thread: u32, pending: u32) -> Verdict;

    /// What `thread` did so far is before what anybody does who acquires `token` later: an arrival at an mbarrier phase, say. Tokens
    /// are the block's own.
    fn release(&mut self, thread: u32, token: u64);

    /// Whatever was released to `token` is before what `thread` does from now on: the end of a wait for an mbarrier phase, say.
    fn acquire(&mut self, thread: u32, token: u64);
}

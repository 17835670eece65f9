//! What a launch may be watched by: the machine tells an observer of every access and of everything that orders threads.
//!
//! The machine has checked bounds and alignment before it tells of an access. An observer that answers with a reason ends the block with
//! it. Under an observer all blocks run on one OS thread; those that are resident at a time take turns, also blocks of launches that
//! overlap. Each gets a [`RunId`] when it begins, by which it is named until it ends.

use crate::fault::{Reason, Space};

/// What an observer says of an access.
pub(crate) type Verdict = Result<(), Box<Reason>>;

/// A resident block. Numbers of blocks that have ended are given out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RunId(pub(crate) u32);

/// A thread of a resident block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    /// The block.
    pub(crate) run: RunId,
    /// Its index in the block.
    pub(crate) thread: u32,
}

/// An access to memory: which bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which memory.
    pub(crate) space: Space,
    /// Of shared memory, the block whose it is.
    pub(crate) home: RunId,
    /// A device address, or an address in the home block's shared window.
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

/// What reads shared memory beside the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// `wgmma.mma_async` of a warpgroup, by its number.
    Wgmma(u32),
    /// `cp.async.bulk` out of shared memory of a thread, by its index.
    BulkStore(u32),
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

/// Where an access of a lane stands, by which it is found to be one of its warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// A line of the source, of a wrapped access.
    Line(u32),
    /// The code behind a plain access.
    Code(usize),
}

/// A kind of matrix multiplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Multiply {
    /// `mma.sync.m16n8k16` on bfloat16.
    Bf16,
    /// `mma.sync.m16n8k16` on float16.
    F16,
    /// `wgmma.mma_async.m64nNk16`.
    Warpgroup {
        /// N.
        columns: u32,
    },
}

/// A barrier that has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// `bar.sync` of all warps of the block.
    Block,
    /// `bar.sync` and `bar.arrive` of some of them.
    Named,
    /// `bar.warp.sync`.
    Warp,
    /// A phase of the cluster's barrier, told of its first block.
    Cluster,
    /// A thread's wait for an mbarrier's phase.
    MbarrierWait,
}

/// What an observer has to know of a launch.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The kernel's name.
    pub(crate) kernel: String,
    /// Blocks in x, y, z.
    pub(crate) grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub(crate) block: [u32; 3],
    /// Blocks of a cluster in x, y, z.
    pub(crate) cluster: [u32; 3],
    /// Bytes of a block's shared window.
    pub(crate) shared_bytes: u32,
}

/// Watches a chain of launches, each of which may overlap those before it.
pub(crate) trait Observer {
    /// The next launch of the chain may begin: the first, or one that is programmatically dependent on the launch before it.
    fn begin_launch(&mut self, launch: &Launch);

    /// A block of launch `launch`, counted from 0, begins: its number in the grid, x fastest.
    fn begin_block(&mut self, launch: usize, block: u64) -> RunId;

    /// A block has ended.
    fn end_block(&mut self, run: RunId);

    /// `who` lets dependent launches begin (`griddepcontrol.launch_dependents`).
    fn dependents_launched(&mut self, who: Who);

    /// The launches before that of `who` are complete, as `griddepcontrol.wait` says (PTX ISA 9.7.13.13).
    fn dependency_waited(&mut self, who: Who);

    /// `who` reads or writes.
    fn access(&mut self, who: Who, place: Place, touch: Touch) -> Verdict;

    /// A bulk copy out of shared memory, an access of `who` when it was issued, has written this place: another access at another time, of
    /// the same bytes.
    fn store_lands(&mut self, who: Who, place: Place) -> Verdict {
        self.access(who, place, Touch::Write)
    }

    /// `who` executes an atomic instruction.
    fn atomic(&mut self, who: Who, place: Place, strength: Strength) -> Verdict;

    /// `who` executes `fence.acq_rel` (PTX ISA 9.7.13.4), with the block's scope or a wider one.
    fn fence(&mut self, who: Who, block_scope: bool);

    /// All of `threads` of a block have arrived at a barrier that orders what each did before it before what each does after it
    /// (`bar.sync`, `bar.warp.sync`).
    fn barrier(&mut self, run: RunId, threads: &mut dyn Iterator<Item = u32>);

    /// `who` issues an asynchronous copy.
    fn copy_issued(&mut self, who: Who, copy: CopyPlace) -> Verdict;

    /// `who` closes a group of copies.
    fn copy_committed(&mut self, who: Who);

    /// `who` has waited for all but its newest `pending` groups, whose copies are not yet done.
    fn copy_waited(&mut self, who: Who, pending: u32) -> Verdict;

    /// `who` issues a bulk copy that writes this place of shared memory.
    fn bulk_begins(&mut self, who: Who, place: Place) -> Verdict;

    /// A bulk copy of `who` has written this place, which is before what anybody does who acquires `token` of the place's block later. What
    /// `who` did itself is not.
    fn bulk_ends(&mut self, who: Who, place: Place, token: u64);

    /// `who` issues operation `number` of this kind, which reads this place of shared memory until it is waited for. Numbers ascend.
    fn read_begins(&mut self, who: Who, reader: Reader, number: u64, place: Place) -> Verdict;

    /// `who` has waited for the operations of this kind with numbers below `end`.
    fn reads_end(&mut self, who: Who, reader: Reader, end: u64) -> Verdict;

    /// What `who` did so far is before what anybody does who acquires `token` later: an arrival at an mbarrier phase, say. Tokens
    /// belong to the block `home`.
    fn release(&mut self, who: Who, home: RunId, token: u64);

    /// Whatever was released to `token` is before what `who` does from now on: the end of a wait for an mbarrier phase, say.
    fn acquire(&mut self, who: Who, home: RunId, token: u64);

    /// All launches of the chain have ended, none with a fault.
    fn end_chain(&mut self) {}

    /// Where the next access of `who` to shared memory stands.
    fn site(&mut self, _who: Who, _site: Site) {}

    /// The warp of `who` executes `ldmatrix` or `stmatrix` on matrices whose rows, eight each, lie at these shared addresses.
    fn matrices(&mut self, _who: Who, _rows: &[u32]) {}

    /// The warp of `who` executes so many matrix multiplications, or its warpgroup does, of which `who` is the first thread then.
    fn multiplied(&mut self, _who: Who, _kind: Multiply, _instructions: u64) {}

    /// `who` executes a transcendental operation: `kind` is that of `gridpoint_transcendental`.
    fn transcendental(&mut self, _who: Who, _kind: u32) {}

    /// A barrier of the block has opened.
    fn met(&mut self, _run: RunId, _meeting: Meeting) {}
}

//! Thread block clusters (PTX ISA 2.2.3): blocks that run side by side, here on one OS thread, and reach each other's shared memory.
//!
//! An address of another block's shared memory (`shared::cluster`) carries the block's rank plus one in its upper eight bits; an
//! address without them is one of the own block. A block may only be reached once it runs and as long as it runs: the blocks of a
//! cluster meet at `barrier.cluster` before the first access and after the last.

use super::block::{self, Block};
use super::fiber;
use super::observer::{Meeting, Touch};
use super::turn::{Participant, raise, suspend};
use super::warp::{Deposit, FULL_MASK, Operation};
use super::{bulk, fault, guard, watch};
use crate::fault::{Access, Reason};

/// Blocks of the largest cluster, which needs a kernel's permission (CUDA C++ Programming Guide, "Thread Block Clusters").
pub const MAXIMUM_BLOCKS: u32 = 16;
/// Where an address holds its block.
const RANK_SHIFT: u32 = 24;
/// Yields of a block after which a bulk copy lands although threads still run.
const YIELDS_PER_COPY: u32 = 256;
/// Yields of a block after which another resident cluster gets a turn.
const YIELDS_PER_PAUSE: u32 = 64;
/// Under a seeded schedule, one of so many changes of threads gives another resident cluster a turn.
const CHANGES_PER_PAUSE: u32 = 64;

/// A running cluster.
pub(crate) struct Cluster {
    /// Its blocks by rank.
    pub(crate) blocks: Vec<*mut Block>,
    /// Threads that have arrived at `barrier.cluster`.
    arrived: u32,
    /// Phases of the barrier that have completed.
    phase: u32,
    /// By rank and thread: the phase in which the thread arrived last, plus one; whether it waits.
    threads: Vec<Vec<(u32, bool)>>,
    /// Other clusters are resident, which get turns.
    others: bool,
    /// Another launch waits for this one's blocks to let it begin.
    dependents: bool,
    /// Why the cluster gives up its turn, although threads of it may run.
    pub(crate) pause: Option<Pause>,
}

/// Why a cluster gives up its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// All its blocks have let dependent launches begin.
    Triggered,
    /// Its threads only yield.
    Yielding,
    /// By chance.
    Drawn,
}

impl Cluster {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            blocks: Vec::new(),
            arrived: 0,
            phase: 0,
            threads: Vec::new(),
            others: false,
            dependents: false,
            pause: None,
        })
    }

    /// Starts a cluster of blocks of `threads` threads each, where `others` may be resident and `dependents` may begin early.
    pub(crate) fn begin(
        &mut self,
        blocks: impl Iterator<Item = *mut Block>,
        threads: u32,
        (others, dependents): (bool, bool),
    ) {
        self.blocks.clear();
        self.blocks.extend(blocks);
        (self.others, self.dependents) = (others, dependents);
        self.pause = None;
        self.arrived = 0;
        self.phase = 0;
        self.threads.resize(self.blocks.len(), Vec::new());
        for threads_of_block in &mut self.threads {
            threads_of_block.clear();
            threads_of_block.resize(threads as usize, (0, false));
        }
    }
}

/// Shared memory of a block of the running cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) block: *mut Block,
    /// The address in the block's own window.
    pub(crate) address: u32,
}

/// The block that a `shared::cluster` address names, which must run.
///
/// # Safety
/// `block` is a block of the running cluster.
pub(crate) unsafe fn find(block: *mut Block, address: u32, operation: &str) -> Result<Place, Reason> {
    let Some(rank) = (address >> RANK_SHIFT).checked_sub(1) else { return Ok(Place { block, address }) };
    // SAFETY: by this function's contract.
    let block = unsafe { peer(block, rank, operation)? };
    Ok(Place { block, address: address & ((1 << RANK_SHIFT) - 1) })
}

/// The block of `rank`, which must run.
///
/// # Safety
/// `block` is a block of the running cluster.
pub(crate) unsafe fn peer(block: *mut Block, rank: u32, operation: &str) -> Result<*mut Block, Reason> {
    // SAFETY: by this function's contract; the blocks of a cluster live while it runs.
    unsafe {
        let cluster = &*(*block).asynchronous.cluster;
        let Some(&peer) = cluster.blocks.get(rank as usize) else {
            let rule = format!("{operation} names rank {rank} of a cluster of {} blocks", cluster.blocks.len());
            return Err(Reason::Cluster { rule });
        };
        if !(*peer).asynchronous.started {
            let rule = format!(
                "{operation} reaches the block of rank {rank}, which may not run yet: barrier.cluster comes first"
            );
            return Err(Reason::Cluster { rule });
        }
        if (*peer).live == 0 {
            let rule =
                format!("{operation} reaches the block of rank {rank}, which has exited with its shared memory in use");
            return Err(Reason::Cluster { rule });
        }
        Ok(peer)
    }
}

/// Gives the turn to another block of the cluster or, where nobody can run, lets an asynchronous operation finish. When nothing is left
/// the cluster's run is over.
///
/// # Safety
/// Called by a fiber of `block`, with no borrow of the cluster alive.
pub(crate) unsafe fn leave(block: *mut Block) {
    // SAFETY: by this function's contract; the blocks and their fibers live as long as the cluster runs, and the host's stack stands
    // where it started the first block.
    unsafe {
        let me = (*block).current;
        let cluster = (*block).asynchronous.cluster;
        if (*cluster).others && (*cluster).pause.is_none() && (*block).turns.switches(CHANGES_PER_PAUSE) {
            (*cluster).pause = Some(Pause::Drawn);
        }
        let next = if guard::expired() || (*cluster).pause.is_some() { None } else { next(cluster, block) };
        match next {
            Some((other, index)) => {
                let thread = (*other).thread(index);
                (*other).current = thread;
                block::set_current(other);
                if thread != me {
                    fiber::switch((*me).place, (*thread).place);
                }
            }
            None => fiber::switch((*me).place, &raw mut (*leader(cluster)).host),
        }
    }
}

/// Gives the cluster a turn, which ends when it pauses or when nobody in it can run.
///
/// # Safety
/// Called on the host's stack of the OS thread that the cluster belongs to. Its blocks have begun, `block` is one of them, and each of
/// their threads has a fiber of its own. Nothing else reaches them meanwhile.
pub(crate) unsafe fn resume(block: *mut Block) {
    // SAFETY: by this function's contract.
    unsafe {
        let cluster = (*block).asynchronous.cluster;
        (*cluster).pause = None;
        block::set_current(block);
        if let Some((next, index)) = next(cluster, block) {
            let thread = (*next).thread(index);
            (*next).current = thread;
            block::set_current(next);
            fiber::switch(&raw mut (*leader(cluster)).host, (*thread).place);
        }
    }
}

/// The block that ran last in the turn that has just ended, or `block` where none did. No block is the current one then.
pub(crate) fn take_last(block: *mut Block) -> *mut Block {
    let last = block::current();
    block::set_current(std::ptr::null_mut());
    if last.is_null() { block } else { last }
}

/// A block of the cluster has let dependent launches begin: whether the cluster now pauses.
///
/// # Safety
/// As [`leave`].
pub(crate) unsafe fn triggers(block: *mut Block) -> bool {
    // SAFETY: by this function's contract.
    unsafe {
        let cluster = &mut *(*block).asynchronous.cluster;
        let all = cluster.blocks.iter().all(|&block| (*block).asynchronous.dependency.triggered);
        if all && cluster.dependents {
            cluster.pause = Some(Pause::Triggered);
        }
        all && cluster.dependents
    }
}

/// The block of rank 0, on whose run the host waits.
///
/// # Safety
/// `cluster` is the running cluster.
unsafe fn leader(cluster: *mut Cluster) -> *mut Block {
    // SAFETY: by this function's contract; a cluster has a block.
    unsafe { (&(*cluster).blocks)[0] }
}

/// Who runs next in the cluster.
///
/// # Safety
/// As [`leave`].
unsafe fn next(cluster: *mut Cluster, current: *mut Block) -> Option<(*mut Block, u32)> {
    // SAFETY: by this function's contract.
    unsafe {
        let count = (*cluster).blocks.len();
        let mut first = (*current).asynchronous.rank as usize;
        if count > 1 && ((*current).turns.yielded() || (*current).turns.switches(16)) {
            first += 1;
        }
        loop {
            if (*cluster).blocks.iter().any(|&block| (*block).stopped) {
                return None;
            }
            for rank in first..first + count {
                let block = (&(*cluster).blocks)[rank % count];
                if let Some(index) = (*block).turns.next(&(*block).warps) {
                    (*block).asynchronous.started = true;
                    return Some((block, index));
                }
            }
            if !bulk::land_one(cluster) {
                return None;
            }
        }
    }
}

/// Counts a yield of the running thread: copies also land when threads only poll.
///
/// # Safety
/// As [`leave`].
#[inline(always)]
pub(crate) unsafe fn count_yield(block: *mut Block) {
    // SAFETY: by this function's contract.
    unsafe {
        let asynchronous = &mut (*block).asynchronous;
        asynchronous.yields = asynchronous.yields.wrapping_add(1);
        if asynchronous.yields.is_multiple_of(YIELDS_PER_PAUSE) {
            let (cluster, lands) = (asynchronous.cluster, asynchronous.yields.is_multiple_of(YIELDS_PER_COPY));
            if (*cluster).others {
                (*cluster).pause.get_or_insert(Pause::Yielding);
            }
            if lands {
                bulk::land_one(cluster);
            }
        }
    }
}

/// A place where, under a seeded schedule, a bulk copy may land before it has to.
///
/// # Safety
/// As [`leave`].
pub(crate) unsafe fn land_early(block: *mut Block) {
    // SAFETY: by this function's contract.
    unsafe {
        if (*block).turns.switches(4) {
            bulk::land_one((*block).asynchronous.cluster);
        }
    }
}

/// The running thread ends: the cluster's barrier no longer waits for it.
///
/// # Safety
/// As [`leave`].
pub(crate) unsafe fn end_thread(block: *mut Block) {
    // SAFETY: by this function's contract.
    unsafe {
        let cluster = (*block).asynchronous.cluster;
        let rank = (*block).asynchronous.rank as usize;
        let thread = (*(*block).current).index() as usize;
        let (arrival, _) = (&(*cluster).threads)[rank][thread];
        if arrival == (*cluster).phase + 1 {
            (*cluster).arrived -= 1;
        }
        complete(cluster, 1);
    }
}

/// Completes the barrier's phase when all threads that live, but for `leaving` that end now, have arrived.
///
/// # Safety
/// As [`leave`].
unsafe fn complete(cluster: *mut Cluster, leaving: u32) {
    // SAFETY: by this function's contract.
    unsafe {
        let live: u32 = (*cluster).blocks.iter().map(|&block| (*block).live).sum();
        if (*cluster).arrived == 0 || (*cluster).arrived + leaving < live {
            return;
        }
        (*cluster).arrived = 0;
        (*cluster).phase += 1;
        watch::met(&*leader(cluster), Meeting::Cluster);
        for (rank, threads) in (*cluster).threads.iter_mut().enumerate() {
            let block: *mut Block = (&(*cluster).blocks)[rank];
            let block = &mut *block;
            for (index, (_, waits)) in (0u32..).zip(threads) {
                if std::mem::take(waits) {
                    let warp = index / super::thread::WARP_THREADS;
                    let bit = 1 << (index % super::thread::WARP_THREADS);
                    block.warps[warp as usize].parked &= !bit;
                    block.warps[warp as usize].ready |= bit;
                    block.asynchronous.proxy.meet(warp);
                }
            }
            block.progress();
        }
    }
}

/// Appends who waits at the cluster's barrier to a report of a deadlock.
pub(crate) fn describe(block: &Block, waiting: &mut String) {
    use std::fmt::Write;
    // SAFETY: the cluster lives while its blocks are reported on, and no fiber runs.
    let cluster = unsafe { &*block.asynchronous.cluster };
    let waits = cluster.threads[block.asynchronous.rank as usize].iter().filter(|(_, waits)| *waits).count();
    if waits != 0 {
        let _ = write!(waiting, "; {waits} threads wait at barrier.cluster, {} have arrived", cluster.arrived);
    }
}

/// `barrier.cluster.arrive.aligned`: `waits` 0; `barrier.cluster.wait.aligned`: `waits` 1 (PTX ISA 9.7.13.3).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_cluster_barrier(waits: u32) {
    // SAFETY: a fiber runs; no borrow lives at a switch.
    unsafe {
        let me = Participant::running();
        let operation = if waits == 0 { Operation::CLUSTER_ARRIVE } else { Operation::CLUSTER_WAIT };
        me.meet(operation, (*me.warp).exists, Deposit::default(), |_, _| Ok(()));
        let cluster = (*me.block).asynchronous.cluster;
        let (rank, index) = ((*me.block).asynchronous.rank as usize, (*me.thread).index() as usize);
        let thread = &raw mut (&mut (*cluster).threads)[rank][index];
        let refuse = |rule: &str| -> ! { raise(me.block, Reason::Cluster { rule: rule.to_owned() }) };
        if waits == 0 {
            if (*thread).0 > (*cluster).phase {
                refuse("a thread arrives at barrier.cluster twice in a phase");
            }
            watch::release(me.block, index as u32, leader(cluster), watch::cluster((*cluster).phase));
            (*thread).0 = (*cluster).phase + 1;
            (*cluster).arrived += 1;
            complete(cluster, 0);
            land_early(me.block);
            me.maybe_switch(4);
            return;
        }
        let arrival = (*thread).0;
        match arrival {
            0 => refuse("a thread waits at barrier.cluster before it arrives there"),
            arrival if arrival <= (*cluster).phase => me.maybe_switch(4),
            _ => {
                (*thread).1 = true;
                (*me.warp).ready &= !(1 << me.lane);
                (*me.warp).parked |= 1 << me.lane;
                suspend(me.block);
            }
        }
        watch::acquire(me.block, index as u32, leader(cluster), watch::cluster(arrival - 1));
        (*me.block).asynchronous.proxy.meet((*me.thread).warp);
    }
}

/// `%cluster_ctarank` in the lower and `%cluster_nctarank` in the upper half (PTX ISA 10.18 and 10.19).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_cluster_place() -> u32 {
    // SAFETY: a fiber runs.
    unsafe {
        let asynchronous = &(*block::current()).asynchronous;
        asynchronous.rank | ((*asynchronous.cluster).blocks.len() as u32) << 16
    }
}

/// `mapa.shared::cluster` (PTX ISA 9.7.9.23): the address of the same place in the block of `rank`.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_map_shared(address: u32, rank: u32) -> u32 {
    // SAFETY: a fiber runs.
    unsafe {
        let block = block::current();
        let count = (*(*block).asynchronous.cluster).blocks.len() as u32;
        if rank >= count {
            raise(block, fault::operand("mapa rank", rank, "below the blocks of the cluster"));
        }
        if address >> RANK_SHIFT != 0 {
            raise(block, fault::operand("mapa address", address, "an address of the own block"));
        }
        address | (rank + 1) << RANK_SHIFT
    }
}

/// Host address of `bytes` bytes of shared memory in the cluster, checked (`ld` and `st` on `.shared::cluster`). `access` is 0 for a
/// read; anything else is a write, of the generic proxy.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_shared_cluster(
    address: u32,
    bytes: u32,
    alignment: u32,
    access: u32,
) -> *mut std::ffi::c_void {
    // SAFETY: a fiber runs, and no borrow of the cluster lives.
    unsafe {
        let me = Participant::running();
        let operation = if access == 0 { "ld.shared::cluster" } else { "st.shared::cluster" };
        let Place { block, address } = match find(me.block, address, operation) {
            Ok(place) => place,
            Err(reason) => raise(me.block, reason),
        };
        let Some(pointer) = (*block).shared.find_observed(address, bytes, alignment) else {
            let access = if access == 0 { Access::Read } else { Access::Write };
            raise(me.block, (*block).shared.refusal(access, address, bytes, alignment));
        };
        let thread = (*me.thread).index();
        let touch = if access == 0 { Touch::Read } else { Touch::Write };
        if let Err(reason) = watch::shared(me.block, thread, block, address, bytes, touch) {
            raise(me.block, reason);
        }
        if access != 0 && block == me.block {
            (*block).asynchronous.proxy.write(thread, address - super::SHARED_BASE, bytes);
        }
        me.maybe_switch(8);
        pointer.cast()
    }
}

/// `elect.sync` (PTX ISA 9.7.13.14): 1 in the lowest lane of `mask`, 0 in the others.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_elect(mask: u32) -> u32 {
    // SAFETY: a fiber runs; the deposit is empty.
    unsafe {
        let me = Participant::running();
        me.meet(Operation::ELECT, mask & FULL_MASK, Deposit::default(), |_, _| Ok(()));
        u32::from(me.lane == mask.trailing_zeros())
    }
}

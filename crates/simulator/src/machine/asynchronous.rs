//! What a block holds beside threads, warps and memory: its place in a cluster, and the operations that run beside its threads.

use std::sync::atomic::AtomicBool;

use super::block::Block;
use super::bulk::{Loads, Stores};
use super::cluster::Cluster;
use super::dependency::Dependency;
use super::mbarrier::Mbarriers;
use super::proxy::Proxy;
use super::registers::Registers;
use super::wgmma::Warpgroups;
use crate::fault::Reason;

/// A block's part of the asynchronous instructions.
pub(crate) struct Asynchronous {
    /// The running cluster, which lives as long as the block runs.
    pub(crate) cluster: *mut Cluster,
    /// The block's rank in it.
    pub(crate) rank: u32,
    /// A switch is not an ordinary one: the cluster has more than one block or is one of several resident ones, and turns go around, or its
    /// time is over. A signal handler on the block's OS thread sets it.
    pub(crate) shares: AtomicBool,
    /// A thread of the block has run.
    pub(crate) started: bool,
    pub(crate) proxy: Proxy,
    pub(crate) mbarriers: Mbarriers,
    /// Bulk copies that end at an mbarrier, issued by this block.
    pub(crate) loads: Loads,
    /// By thread: bulk copies that end in groups.
    pub(crate) stores: Vec<Stores>,
    pub(crate) warpgroups: Warpgroups,
    pub(crate) registers: Registers,
    pub(crate) dependency: Dependency,
    /// Yields of the block, which let copies land when nobody else does.
    pub(crate) yields: u32,
}

impl Asynchronous {
    pub(crate) fn new() -> Self {
        Self {
            cluster: std::ptr::null_mut(),
            rank: 0,
            shares: AtomicBool::new(false),
            started: false,
            proxy: Proxy::default(),
            mbarriers: Mbarriers::default(),
            loads: Loads::default(),
            stores: Vec::new(),
            warpgroups: Warpgroups::new(),
            registers: Registers::default(),
            dependency: Dependency::default(),
            yields: 0,
        }
    }

    /// Starts a block of `threads` threads with `shared_bytes` bytes of shared memory. The cluster is set by whoever runs it.
    pub(crate) fn begin(&mut self, threads: u32, shared_bytes: u32) {
        self.started = false;
        self.proxy.begin(threads, shared_bytes);
        self.mbarriers.begin();
        self.loads.begin();
        while self.stores.len() < threads as usize {
            self.stores.push(Stores::default());
        }
        self.stores.iter_mut().for_each(Stores::begin);
        self.warpgroups.begin(threads);
        self.registers.begin(threads);
        self.yields = 0;
    }
}

/// The running thread comes to its end: what it issued and must wait for has been waited for.
///
/// # Safety
/// Called by a fiber of `block`, and no borrow of the block lives.
pub(crate) unsafe fn end_thread(block: *mut Block) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        let index = (*(*block).current).index();
        let stores = &raw mut (&mut (*block).asynchronous.stores)[index as usize];
        (*stores).end(block, index)?;
        let warp = &(&(*block).warps)[(index / super::thread::WARP_THREADS) as usize];
        if warp.exited == 0 {
            (*block).asynchronous.warpgroups.end_warp(index / super::thread::WARP_THREADS)?;
        }
        super::cluster::end_thread(block);
    }
    Ok(())
}

//! Bulk copies (PTX ISA 9.7.9.25.4, `cp.async.bulk`, and 9.7.9.25.5, `cp.async.bulk.tensor`) through the asynchronous proxy.
//!
//! Those into shared memory end at an mbarrier. They land as late as the rules allow: when no thread of the cluster can run, or, under
//! a seeded schedule, at a random moment before, in any order. Until then their target holds poison. Those out of shared memory end in
//! groups of the thread that issued them: they read their source when its read is waited for and write when the group is, or, under a
//! seeded schedule, earlier.

use std::collections::VecDeque;

use super::block::Block;
use super::cluster::{self, Cluster, Place};
use super::copy_issue::Source;
use super::mbarrier;
use super::tensor_map::{MAXIMUM_RANK, TensorMap};
use super::watch;
use crate::fault::Reason;
use crate::memory::POISON;

/// What a copy moves, besides one stretch of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    pub(crate) map: TensorMap,
    pub(crate) coordinates: [i32; MAXIMUM_RANK],
}

/// A copy into shared memory under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// The thread that issued it.
    pub(crate) thread: u32,
    pub(crate) source: Source,
    /// Ranks of the blocks that it writes to, as bits.
    pub(crate) ranks: u32,
    /// Where in each of them.
    pub(crate) target: u32,
    /// The mbarrier in each of them.
    pub(crate) mbarrier: u32,
    /// How many bytes.
    pub(crate) bytes: u32,
}

/// The loads that a block issued.
#[derive(Default)]
pub(crate) struct Loads {
    pending: VecDeque<Load>,
}

impl Loads {
    /// Forgets what is under way: a block begins.
    pub(crate) fn begin(&mut self) {
        self.pending.clear();
    }

    /// Takes a checked load.
    pub(crate) fn push(&mut self, load: Load) {
        self.pending.push_back(load);
    }
}

/// Lands one load of the cluster: the oldest of the first block that has one, or any of them under a seeded schedule. False when there
/// is none. A fault stops the block that issued it.
///
/// # Safety
/// `cluster` is the running cluster, with no borrow of it alive; its loads were checked when they were issued.
pub(crate) unsafe fn land_one(cluster: *mut Cluster) -> bool {
    // SAFETY: by this function's contract.
    unsafe {
        let count = (*cluster).blocks.len();
        let mut first = 0;
        if count > 1 {
            let leader = (&(*cluster).blocks)[0];
            first = (*leader).turns.draw(count as u32) as usize;
        }
        for rank in first..first + count {
            let block = (&(*cluster).blocks)[rank % count];
            let pending = (*block).asynchronous.loads.pending.len() as u32;
            if pending == 0 {
                continue;
            }
            let index = (*block).turns.draw(pending);
            let Some(load) = (*block).asynchronous.loads.pending.remove(index as usize) else { return false };
            if let Err(reason) = land(block, &load) {
                (*block).stop_beside(load.thread, reason);
            }
            return true;
        }
        false
    }
}

/// # Safety
/// As [`land_one`]; `block` issued the load.
unsafe fn land(block: *mut Block, load: &Load) -> Result<(), Reason> {
    for rank in (0..32).filter(|rank| load.ranks >> rank & 1 != 0) {
        // SAFETY: by this function's contract; the target was checked to lie in every block's window, which all have one size, and the
        // global rows of the source were checked.
        unsafe {
            let target = cluster::peer(block, rank, "a bulk copy")?;
            match &load.source {
                Source::Bytes(source) => {
                    let pointer = window(target, load.target, load.bytes)?;
                    pointer.copy_from_nonoverlapping(*source, load.bytes as usize);
                }
                Source::Tile(tile) => load_tile(target, load.target, tile)?,
            }
            (*target).asynchronous.proxy.overwrite(load.target - super::SHARED_BASE, load.bytes);
            let landed = |token| watch::bulk_ends((block, load.thread), target, load.target, load.bytes, token);
            mbarrier::complete(target, load.mbarrier, load.bytes, landed)?;
        }
    }
    Ok(())
}

/// # Safety
/// `block` is a block of the running cluster.
unsafe fn window(block: *mut Block, address: u32, bytes: u32) -> Result<*mut u8, Reason> {
    // SAFETY: by this function's contract.
    let shared = unsafe { &(*block).shared };
    shared
        .find_observed(address, bytes, 1)
        .ok_or_else(|| shared.refusal(crate::fault::Access::Write, address, bytes, 1))
}

/// Writes a box into the shared memory of `block` at `address`.
///
/// # Safety
/// The box's rows inside the tensor may be read.
unsafe fn load_tile(block: *mut Block, address: u32, tile: &Tile) -> Result<(), Reason> {
    let Tile { map, coordinates } = tile;
    let fill = map.fill_element();
    let element = map.element_bytes as usize;
    let mut row_data = [0u8; 256 * 8];
    map.rows(*coordinates, |row| {
        let bytes = map.row_bytes() as usize;
        let data = &mut row_data[..bytes];
        let (before, inside) = (row.before as usize, row.inside as usize);
        if before != 0 || row.behind != 0 {
            for element_data in data.chunks_exact_mut(element) {
                element_data.copy_from_slice(&fill[..element]);
            }
        }
        // SAFETY: by this function's contract; the row has `bytes` bytes, of which `inside` lie after `before`.
        unsafe {
            (row.address as *const u8).copy_to_nonoverlapping(data[before..].as_mut_ptr(), inside);
        }
        for (chunk, data) in (0u32..).zip(data.chunks(16)) {
            let place = map.swizzle.place(address + row.offset + chunk * 16);
            // SAFETY: `block` runs; `window` checks the target.
            unsafe { window(block, place, data.len() as u32)?.copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        }
        Ok(())
    })
}

/// Poisons the target of a load until it lands. Of a box, the whole stretch of shared memory that it fills.
///
/// # Safety
/// As [`land`].
pub(crate) unsafe fn poison(block: *mut Block, load: &Load) -> Result<(), Reason> {
    for rank in (0..32).filter(|rank| load.ranks >> rank & 1 != 0) {
        // SAFETY: by this function's contract.
        unsafe {
            let target = cluster::peer(block, rank, "a bulk copy")?;
            window(target, load.target, load.bytes)?.write_bytes(POISON, load.bytes as usize);
        }
    }
    Ok(())
}

/// Where a copy out of shared memory writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// One stretch of global memory.
    Bytes(*mut u8),
    /// A box of a tensor.
    Tile(Tile),
}

/// A copy out of shared memory under way.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) target: Target,
    /// Shared address of the source.
    pub(crate) source: u32,
    pub(crate) bytes: u32,
    /// The source, once it was read: a box's rows in order, without swizzle.
    pub(crate) data: Option<Box<[u8]>>,
}

impl Store {
    /// Reads the source.
    ///
    /// # Safety
    /// `block` issued the copy and runs.
    unsafe fn read(&mut self, block: *mut Block) -> Result<(), Reason> {
        if self.data.is_some() {
            return Ok(());
        }
        let mut data = vec![0; self.bytes as usize].into_boxed_slice();
        for (chunk, data) in (0u32..).zip(data.chunks_mut(16)) {
            let address = self.source + chunk * 16;
            let place = match &self.target {
                Target::Bytes(_) => address,
                Target::Tile(tile) => tile.map.swizzle.place(address),
            };
            // SAFETY: by this function's contract; `window` checks the source.
            unsafe { window(block, place, data.len() as u32)?.copy_to_nonoverlapping(data.as_mut_ptr(), data.len()) };
        }
        self.data = Some(data);
        Ok(())
    }

    /// Writes what was read. An observer is told now: whoever was told of the copy before it was waited for knows nothing of this write.
    ///
    /// # Safety
    /// `thread` of `block` issued the copy; the target was checked and stays for the launch's time.
    unsafe fn write(self, block: *mut Block, thread: u32) -> Result<(), Reason> {
        let Some(data) = self.data else { return Ok(()) };
        let write = |target: *mut u8, data: &[u8]| {
            // SAFETY: by this function's contract.
            unsafe {
                watch::store_lands(block, thread, target as usize, data.len() as u32)?;
                target.copy_from_nonoverlapping(data.as_ptr(), data.len());
            }
            Ok(())
        };
        match self.target {
            Target::Bytes(target) => write(target, &data),
            Target::Tile(Tile { map, coordinates }) => map.rows(coordinates, |row| match row.inside {
                0 => Ok(()),
                inside => write(row.address as *mut u8, &data[(row.offset + row.before) as usize..][..inside as usize]),
            }),
        }
    }
}

/// A thread's copies out of shared memory.
#[derive(Default)]
pub(crate) struct Stores {
    /// Committed groups, oldest first.
    groups: VecDeque<Vec<Store>>,
    /// Copies after the last commit.
    open: Vec<Store>,
    /// Groups that were ever committed.
    committed: u64,
}

impl Stores {
    /// Forgets what is under way: a block begins.
    pub(crate) fn begin(&mut self) {
        self.groups.clear();
        self.open.clear();
        self.committed = 0;
    }

    /// The number of the group that the next copy belongs to.
    pub(crate) fn group(&self) -> u64 {
        self.committed
    }

    /// The number of the first group that a wait for all but `pending` groups does not cover.
    pub(crate) fn waited(&self, pending: u32) -> u64 {
        self.committed.saturating_sub(pending.into())
    }

    /// Takes a checked copy.
    pub(crate) fn push(&mut self, store: Store) {
        self.open.push(store);
    }

    /// `cp.async.bulk.commit_group` (PTX ISA 9.7.9.25.6.1): the copies since the last one become a group, which may be empty.
    pub(crate) fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
        self.committed += 1;
    }

    /// `cp.async.bulk.wait_group` (PTX ISA 9.7.9.25.6.2): all groups but the newest `pending` have read their sources and, without
    /// `read`, written.
    ///
    /// # Safety
    /// `thread` of `block` issued and checked the copies.
    pub(crate) unsafe fn wait(
        &mut self,
        block: *mut Block,
        thread: u32,
        pending: u32,
        read: bool,
    ) -> Result<(), Reason> {
        let done = self.groups.len().saturating_sub(pending as usize);
        for store in self.groups.iter_mut().take(done).flatten() {
            // SAFETY: by this function's contract.
            unsafe { store.read(block)? };
        }
        if !read {
            for store in self.groups.drain(..done).flatten() {
                // SAFETY: by this function's contract.
                unsafe { store.write(block, thread)? };
            }
        }
        Ok(())
    }

    /// Reads the source of the newest copies, or writes all that have been read: what may happen at any time.
    ///
    /// # Safety
    /// As [`Stores::wait`].
    pub(crate) unsafe fn run_ahead(&mut self, block: *mut Block) -> Result<(), Reason> {
        for store in self.groups.iter_mut().flatten().chain(&mut self.open) {
            // SAFETY: by this function's contract.
            unsafe { store.read(block)? };
        }
        Ok(())
    }

    /// The thread ends: sources have been read, since the block's shared memory may go, and what was read is written.
    ///
    /// # Safety
    /// As [`Stores::wait`].
    pub(crate) unsafe fn end(&mut self, block: *mut Block, thread: u32) -> Result<(), Reason> {
        let unread = |store: &&Store| store.data.is_none();
        if let Some(store) = self.groups.iter().flatten().chain(&self.open).find(unread) {
            let what = format!("a bulk copy from shared address `{:#x}`, whose read was not waited for", store.source);
            return Err(Reason::Unfinished { what });
        }
        for store in self.groups.drain(..).flatten().chain(self.open.drain(..)) {
            // SAFETY: by this function's contract.
            unsafe { store.write(block, thread)? };
        }
        Ok(())
    }
}

/// The place of a bulk copy's mbarrier and target, which are in one block.
pub(crate) fn same_block(target: Place, mbarrier: Place) -> Result<(), Reason> {
    if target.block == mbarrier.block {
        return Ok(());
    }
    Err(Reason::Cluster { rule: "a bulk copy's target and its mbarrier lie in different blocks".to_owned() })
}

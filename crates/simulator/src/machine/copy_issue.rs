//! The instructions that issue bulk copies and wait for them: operands are checked here, what they do stands in [`super::bulk`].

use std::ffi::c_void;

use super::SHARED_BASE;
use super::block::Block;
use super::bulk::{self, Load, Store, Target, Tile};
use super::cluster::{self, Place};
use super::fault;
use super::mbarrier;
use super::observer::{Reader, Touch};
use super::tensor_map::{ALIGNMENT, BOX_ALIGNMENT, BYTES, MAXIMUM_RANK, TensorMap};
use super::turn::{Participant, raise};
use super::watch;
use crate::fault::{Access, Reason};
use crate::machine::swizzle::Swizzle;

/// What bulk copies are made of.
const CHUNK: u32 = 16;

/// Where a load reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// One stretch of memory.
    Bytes(*const u8),
    /// A box of a tensor.
    Tile(Tile),
}

/// The tensor map at `pointer`, which lies in the launch's parameters or in global memory.
///
/// # Safety
/// `block` is the running block.
unsafe fn tensor_map(block: *mut Block, pointer: *const c_void) -> Result<TensorMap, Reason> {
    let refuse = |detail: &str| Err(Reason::InvalidOperand { detail: format!("tensor map `{pointer:p}`: {detail}") });
    // SAFETY: by this function's contract; the object lies in the parameters or in a live range.
    unsafe {
        let parameters = (*block).parameters as usize;
        let offset = (pointer as usize).wrapping_sub(parameters);
        let inside = offset < (*block).parameter_bytes as usize && BYTES <= (*block).parameter_bytes as usize - offset;
        if inside {
            if !offset.is_multiple_of(ALIGNMENT) {
                return refuse("its place among the parameters is no multiple of 64");
            }
        } else if !(*block).global.allows_observed(pointer as usize, BYTES, ALIGNMENT as u32) {
            return Err((*block).global.refusal(Access::Read, pointer as usize, BYTES as u32, ALIGNMENT as u32));
        }
        let words = pointer.cast::<[u64; BYTES / 8]>().read_unaligned();
        match TensorMap::decode(&words) {
            Some(map) => Ok(map),
            None => refuse("was not made by cuTensorMapEncodeTiled"),
        }
    }
}

/// The box of `map` at `coordinates`: its rows inside the tensor lie in live memory.
///
/// # Safety
/// `block` is the running block; `coordinates` is valid for the map's rank.
unsafe fn tile(
    block: *mut Block,
    pointer: *const c_void,
    rank: u32,
    coordinates: *const i32,
    access: Access,
) -> Result<Tile, Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        let map = tensor_map(block, pointer)?;
        if map.rank != rank as usize {
            let detail = format!("a copy of {rank} dimensions with a tensor map of {}", map.rank);
            return Err(Reason::InvalidOperand { detail });
        }
        if map.swizzle != Swizzle::None && map.row_bytes() != map.swizzle.span() {
            let detail = format!(
                "rows of {} bytes with a swizzle of {}: rows shorter than the swizzle are not modelled",
                map.row_bytes(),
                map.swizzle.span()
            );
            return Err(Reason::InvalidOperand { detail });
        }
        let mut place = [0; MAXIMUM_RANK];
        for (dimension, coordinate) in place.iter_mut().enumerate().take(map.rank) {
            *coordinate = coordinates.add(dimension).read();
        }
        map.rows(place, |row| {
            let (address, bytes) = (row.address as usize, row.inside);
            if bytes == 0 {
                return Ok(());
            }
            if (*block).global.allows_observed(address, bytes as usize, 1) {
                let touch = if access == Access::Write { Touch::Write } else { Touch::Read };
                return watch::global(block, (*(*block).current).index(), address, bytes, touch);
            }
            Err((*block).global.refusal(access, address, bytes, 1))
        })?;
        Ok(Tile { map, coordinates: place })
    }
}

/// Issues a load whose source is checked.
///
/// # Safety
/// As [`tile`].
unsafe fn load(
    me: Participant,
    source: Source,
    bytes: u32,
    target: u32,
    alignment: u32,
    mbarrier: u32,
    multicast: Option<u32>,
) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        let target = cluster::find(me.block, target, "a bulk copy")?;
        let mbarrier = cluster::find(me.block, mbarrier, "a bulk copy")?;
        bulk::same_block(target, mbarrier)?;
        let ranks = multicast.unwrap_or(1 << (*target.block).asynchronous.rank);
        for rank in (0..32).filter(|rank| ranks >> rank & 1 != 0) {
            let block = cluster::peer(me.block, rank, "a bulk copy")?;
            let Place { address, .. } = target;
            if (*block).shared.find_observed(address, bytes, alignment).is_none() {
                return Err((*block).shared.refusal(Access::Write, address, bytes, alignment));
            }
            mbarrier::check_visible(block, mbarrier.address)?;
            let hidden = (*block).asynchronous.proxy.unfenced(address - SHARED_BASE, bytes);
            unfenced("a bulk copy's write", hidden)?;
        }
        let thread = (*me.thread).index();
        if let Source::Bytes(source) = source
            && (*me.block).shared.address(source as usize).is_none()
        {
            watch::global(me.block, thread, source as usize, bytes, Touch::Read)?;
        }
        for rank in (0..32).filter(|rank| ranks >> rank & 1 != 0) {
            let home = cluster::peer(me.block, rank, "a bulk copy")?;
            watch::bulk_begins(me.block, thread, home, target.address, bytes)?;
        }
        let load = Load { thread, source, ranks, target: target.address, mbarrier: mbarrier.address, bytes };
        bulk::poison(me.block, &load)?;
        (*me.block).asynchronous.loads.push(load);
        cluster::land_early(me.block);
    }
    Ok(())
}

/// The fault of an asynchronous operation that may not see a generic write.
pub(crate) fn unfenced(operation: &'static str, hidden: Option<(u32, u32)>) -> Result<(), Reason> {
    match hidden {
        None => Ok(()),
        Some((offset, thread)) => Err(Reason::ProxyFence { operation, address: SHARED_BASE + offset, thread }),
    }
}

/// # Safety
/// A fiber runs, and no borrow of its block lives.
unsafe fn answer(me: Participant, answer: Result<(), Reason>) {
    // SAFETY: by this function's contract.
    unsafe {
        match answer {
            Ok(()) => me.maybe_switch(4),
            Err(reason) => raise(me.block, reason),
        }
    }
}

fn check_size(bytes: u32) -> Result<(), Reason> {
    match bytes != 0 && bytes.is_multiple_of(CHUNK) && bytes < 1 << 20 {
        true => Ok(()),
        false => Err(fault::operand("bulk copy size", bytes, "a multiple of 16 from 16 to 1048560")),
    }
}

/// `cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes` (PTX ISA 9.7.9.25.4.1). `ranks` is 0, or the mask of
/// `.multicast::cluster`.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_bulk_load(
    target: u32,
    source: *const c_void,
    bytes: u32,
    mbarrier: u32,
    ranks: u32,
) {
    // SAFETY: a fiber runs; the source is checked here.
    unsafe {
        let me = Participant::running();
        let issue = || {
            check_size(bytes)?;
            if !(*me.block).global.allows_observed(source as usize, bytes as usize, CHUNK) {
                return Err((*me.block).global.refusal(Access::Read, source as usize, bytes, CHUNK));
            }
            let multicast = (ranks != 0).then_some(ranks);
            load(me, Source::Bytes(source.cast()), bytes, target, CHUNK, mbarrier, multicast)
        };
        answer(me, issue());
    }
}

/// `cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes` (PTX ISA 9.7.9.25.4.1).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_bulk_copy_cluster(target: u32, source: u32, bytes: u32, mbarrier: u32) {
    // SAFETY: a fiber runs; the source is checked here and lives as long as the block.
    unsafe {
        let me = Participant::running();
        let issue = || {
            check_size(bytes)?;
            let Some(pointer) = (*me.block).shared.find_observed(source, bytes, CHUNK) else {
                return Err((*me.block).shared.refusal(Access::Read, source, bytes, CHUNK));
            };
            unfenced("a bulk copy's read", (*me.block).asynchronous.proxy.unfenced(source - SHARED_BASE, bytes))?;
            load(me, Source::Bytes(pointer), bytes, target, CHUNK, mbarrier, None)
        };
        answer(me, issue());
    }
}

/// `cp.async.bulk.global.shared::cta.bulk_group` (PTX ISA 9.7.9.25.4.1).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_bulk_store(target: *mut c_void, source: u32, bytes: u32) {
    // SAFETY: a fiber runs; both ends are checked here.
    unsafe {
        let me = Participant::running();
        let issue = || {
            check_size(bytes)?;
            if !(*me.block).global.allows_observed(target as usize, bytes as usize, CHUNK) {
                return Err((*me.block).global.refusal(Access::Write, target as usize, bytes, CHUNK));
            }
            store(me, Target::Bytes(target.cast()), source, bytes, CHUNK)
        };
        answer(me, issue());
    }
}

/// Issues a store whose target is checked.
///
/// # Safety
/// As [`tile`].
unsafe fn store(me: Participant, target: Target, source: u32, bytes: u32, alignment: u32) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        if (*me.block).shared.find_observed(source, bytes, alignment).is_none() {
            return Err((*me.block).shared.refusal(Access::Read, source, bytes, alignment));
        }
        unfenced("a bulk copy's read", (*me.block).asynchronous.proxy.unfenced(source - SHARED_BASE, bytes))?;
        let thread = (*me.thread).index();
        let stores = &raw mut (&mut (*me.block).asynchronous.stores)[thread as usize];
        watch::read_begins(me.block, thread, (Reader::BulkStore(thread), (*stores).group()), source, bytes)?;
        if let Target::Bytes(target) = target {
            watch::global(me.block, thread, target as usize, bytes, Touch::Write)?;
        }
        (*stores).push(Store { target, source, bytes, data: None });
        if (*me.block).turns.switches(4) {
            (*stores).run_ahead(me.block)?;
        }
    }
    Ok(())
}

/// `cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes` (PTX ISA 9.7.9.25.5.2). `ranks` is 0, or the
/// mask of `.multicast::cluster`.
///
/// # Safety
/// The contract of [`super::instructions`]: `coordinates` is valid for `rank` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_tensor_load(
    target: u32,
    map: *const c_void,
    rank: u32,
    coordinates: *const i32,
    mbarrier: u32,
    ranks: u32,
) {
    // SAFETY: a fiber runs; the source is checked here.
    unsafe {
        let me = Participant::running();
        let issue = || {
            let tile = tile(me.block, map, rank, coordinates, Access::Read)?;
            let multicast = (ranks != 0).then_some(ranks);
            load(me, Source::Tile(tile), tile.map.box_bytes(), target, BOX_ALIGNMENT, mbarrier, multicast)
        };
        answer(me, issue());
    }
}

/// `cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group` (PTX ISA 9.7.9.25.5.2).
///
/// # Safety
/// As [`gridpoint_tensor_load`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_tensor_store(map: *const c_void, rank: u32, coordinates: *const i32, source: u32) {
    // SAFETY: a fiber runs; both ends are checked here.
    unsafe {
        let me = Participant::running();
        let issue = || {
            let tile = tile(me.block, map, rank, coordinates, Access::Write)?;
            store(me, Target::Tile(tile), source, tile.map.box_bytes(), BOX_ALIGNMENT)
        };
        answer(me, issue());
    }
}

/// `cp.async.bulk.prefetch.tensor` (PTX ISA 9.7.9.25.5.4), or with rank 0 `prefetch.tensormap` (9.7.9.16): operands are checked.
///
/// # Safety
/// As [`gridpoint_tensor_load`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_tensor_prefetch(map: *const c_void, rank: u32, coordinates: *const i32) {
    // SAFETY: a fiber runs.
    unsafe {
        let me = Participant::running();
        let check = match rank {
            0 => tensor_map(me.block, map).map(|_| ()),
            _ => tile(me.block, map, rank, coordinates, Access::Read).map(|_| ()),
        };
        answer(me, check);
    }
}

/// `cp.async.bulk.commit_group` (PTX ISA 9.7.9.25.6.1).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_bulk_commit() {
    // SAFETY: a fiber runs.
    unsafe {
        let me = Participant::running();
        let thread = (*me.thread).index() as usize;
        (&mut (*me.block).asynchronous.stores)[thread].commit();
    }
}

/// `cp.async.bulk.wait_group`, with `read` `.read` (PTX ISA 9.7.9.25.6.2).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_bulk_wait(pending: u32, read: u32) {
    // SAFETY: a fiber runs; its copies were checked.
    unsafe {
        let me = Participant::running();
        let thread = (*me.thread).index();
        let stores = &raw mut (&mut (*me.block).asynchronous.stores)[thread as usize];
        let waited = (*stores).wait(me.block, thread, pending, read != 0);
        let end = (*stores).waited(pending);
        answer(me, waited.and_then(|()| watch::reads_end(me.block, thread, Reader::BulkStore(thread), end)));
    }
}

//! Occupancy (CUDA driver API, "Occupancy"), from threads and shared memory; registers never limit a host kernel.

use std::ffi::{c_int, c_uint};

use gridpoint_driver::{CUfunction, CUoccupancyB2DSize, CUresult, Table};

use super::device::{
    BLOCK_SHARED_OPT_IN, BLOCK_THREADS, MULTIPROCESSOR_BLOCKS, MULTIPROCESSOR_SHARED, MULTIPROCESSOR_THREADS,
    RESERVED_SHARED, WARP,
};
use super::functions::Function;
use super::work::in_host_function;
use super::{Answer, in_context, put};

pub(super) fn fill(table: &mut Table) {
    table.cuOccupancyAvailableDynamicSMemPerBlock = available_dynamic_shared;
    table.cuOccupancyMaxActiveBlocksPerMultiprocessor = max_active_blocks;
    table.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags = max_active_blocks_with_flags;
    table.cuOccupancyMaxPotentialBlockSize = max_potential_block_size;
}

/// Blocks of `threads` threads and `shared` bytes that fit a multiprocessor at once; none for a block that cannot run.
fn active_blocks(function: &Function, threads: u32, shared: usize) -> u32 {
    if threads > function.kernel.maximum_threads() || shared > function.dynamic_shared as usize {
        return 0;
    }
    let by_threads = MULTIPROCESSOR_THREADS / threads.next_multiple_of(WARP);
    let by_shared = MULTIPROCESSOR_SHARED / (shared as u32 + RESERVED_SHARED);
    by_threads.min(by_shared).min(MULTIPROCESSOR_BLOCKS)
}

fn block_threads(size: c_int) -> Answer<u32> {
    u32::try_from(size).ok().filter(|size| (1..=BLOCK_THREADS).contains(size)).ok_or(CUresult::ERROR_INVALID_VALUE)
}

unsafe extern "C" fn max_active_blocks(
    blocks: *mut c_int,
    function: CUfunction,
    block_size: c_int,
    dynamic_shared: usize,
) -> CUresult {
    in_context(|state| {
        let found = active_blocks(state.function(function)?, block_threads(block_size)?, dynamic_shared);
        put!(blocks, found as c_int)
    })
}

unsafe extern "C" fn max_active_blocks_with_flags(
    blocks: *mut c_int,
    function: CUfunction,
    block_size: c_int,
    dynamic_shared: usize,
    flags: c_uint,
) -> CUresult {
    // CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE is the only flag.
    if flags > 1 {
        return in_context(|_| Err(CUresult::ERROR_INVALID_VALUE));
    }
    // SAFETY: the caller's promise is the one asked for.
    unsafe { max_active_blocks(blocks, function, block_size, dynamic_shared) }
}

unsafe extern "C" fn available_dynamic_shared(
    bytes: *mut usize,
    function: CUfunction,
    blocks: c_int,
    block_size: c_int,
) -> CUresult {
    in_context(|state| {
        state.function(function)?;
        let threads = block_threads(block_size)?.next_multiple_of(WARP);
        let blocks = u32::try_from(blocks).ok().filter(|&blocks| blocks > 0).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        if blocks > MULTIPROCESSOR_BLOCKS || blocks.saturating_mul(threads) > MULTIPROCESSOR_THREADS {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let share = (MULTIPROCESSOR_SHARED / blocks).saturating_sub(RESERVED_SHARED);
        put!(bytes, share.min(BLOCK_SHARED_OPT_IN) as usize)
    })
}

/// The block size, a multiple of a warp, with the most threads on a multiprocessor; the largest of several.
unsafe extern "C" fn max_potential_block_size(
    min_grid_size: *mut c_int,
    block_size: *mut c_int,
    function: CUfunction,
    shared_of: CUoccupancyB2DSize,
    dynamic_shared: usize,
    limit: c_int,
) -> CUresult {
    in_context(|state| {
        let multiprocessors = state.options.multiprocessors;
        let function = state.function(function)?;
        let mut most = function.kernel.maximum_threads().min(BLOCK_THREADS);
        if limit > 0 {
            most = most.min(limit as u32);
        }
        let mut best = (0, 0);
        let mut threads = most;
        while threads > 0 {
            let shared = match shared_of {
                // SAFETY: the contract of the call: the function may be called with any block size.
                Some(shared_of) => in_host_function(|| unsafe { shared_of(threads as c_int) }),
                None => dynamic_shared,
            };
            let blocks = active_blocks(function, threads, shared);
            if blocks * threads > best.0 * best.1 {
                best = (blocks, threads);
            }
            threads = (threads - 1) / WARP * WARP;
        }
        put!(min_grid_size, c_int::try_from(best.0.saturating_mul(multiprocessors)).unwrap_or(c_int::MAX))?;
        put!(block_size, best.1 as c_int)
    })
}

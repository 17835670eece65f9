//! Warp collectives beside shuffles and ballots: `redux.sync`, `vote.sync`, `mma.sync` on float16, `bar.arrive` and `stmatrix`.

use super::barrier;
use super::collective::MATRIX_ROW_BYTES;
use super::fault;
use super::mma::{self, MAXIMUM_TILES};
use super::observer::{Multiply, Touch};
use super::stmatrix::store_matrix;
use super::thread::WARP_THREADS;
use super::turn::{Participant, raise};
use super::warp::{Deposit, FULL_MASK, Operation};
use super::watch;
use crate::fault::Access;

/// `redux.sync` (PTX ISA 9.7.13.12): operation 0 add, 1 min, 2 max of unsigned numbers, 3 min, 4 max of signed ones, 5 and, 6 or, 7 xor.
/// Every lane of the mask gets the result.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_reduce(operation: u32, mask: u32, value: u32) -> u32 {
    // SAFETY: a fiber runs; no pointers are used.
    unsafe {
        let me = Participant::running();
        let function: fn(u32, u32) -> u32 = match operation {
            0 => u32::wrapping_add,
            1 => u32::min,
            2 => u32::max,
            3 => |a, b| a.cast_signed().min(b.cast_signed()).cast_unsigned(),
            4 => |a, b| a.cast_signed().max(b.cast_signed()).cast_unsigned(),
            5 => |a, b| a & b,
            6 => |a, b| a | b,
            7 => |a, b| a ^ b,
            _ => raise(me.block, fault::operand("redux operation", operation, "0 to 7")),
        };
        let deposit = Deposit { value, ..Deposit::default() };
        me.meet(Operation::reduce(operation), mask, deposit, |_, warp| {
            let lanes = (0..WARP_THREADS as usize).filter(|lane| mask >> lane & 1 != 0);
            let result = lanes.clone().map(|lane| warp.deposits[lane].value).reduce(function).unwrap_or(0);
            for lane in lanes {
                warp.results[lane] = result;
            }
            Ok(())
        });
        (&(*me.warp).results)[me.lane as usize]
    }
}

/// `vote.sync` (PTX ISA 9.7.13.9): mode 0 any, 1 all.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_vote(mode: u32, mask: u32, predicate: u32) -> u32 {
    // SAFETY: a fiber runs; no pointers are used.
    unsafe {
        let me = Participant::running();
        if mode > 1 {
            raise(me.block, fault::operand("vote mode", mode, "0 or 1"));
        }
        let deposit = Deposit { value: predicate, ..Deposit::default() };
        me.meet(Operation::vote(mode), mask, deposit, |_, warp| {
            let lanes = (0..WARP_THREADS as usize).filter(|lane| mask >> lane & 1 != 0);
            let mut votes = lanes.clone().map(|lane| warp.deposits[lane].value != 0);
            let result = if mode == 0 { votes.any(|vote| vote) } else { votes.all(|vote| vote) };
            for lane in lanes {
                warp.results[lane] = result.into();
            }
            Ok(())
        });
        (&(*me.warp).results)[me.lane as usize]
    }
}

/// `m_tiles * n_tiles` times `mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32` (PTX ISA 9.7.14.5.14).
///
/// # Safety
/// As [`super::instructions::gridpoint_mma_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_mma_f16(d: *mut f32, a: *const u32, b: *const u32, m_tiles: u32, n_tiles: u32) {
    // SAFETY: a fiber runs; the deposits hold registers by the module's contract, and the number of tiles was checked.
    unsafe {
        let me = Participant::running();
        if !(1..=u64::from(MAXIMUM_TILES)).contains(&(u64::from(m_tiles) * u64::from(n_tiles))) {
            raise(me.block, fault::tiles(m_tiles, n_tiles));
        }
        let deposit = Deposit { pointers: [d as usize, a as usize, b as usize], ..Deposit::default() };
        let index = (*me.thread).warp;
        me.meet(Operation::multiply_f16(m_tiles, n_tiles), FULL_MASK, deposit, |block, warp| {
            watch::multiplied(block, index, Multiply::F16, m_tiles * n_tiles);
            let groups = &mut block.asynchronous.warpgroups;
            mma::multiply_f16(&mut groups.panels, groups.multiply, &warp.deposits, m_tiles as usize, n_tiles as usize);
            Ok(())
        });
    }
}

/// `stmatrix.sync.aligned.m8n8.x{count}[.trans].shared.b16` (PTX ISA 9.7.14.5.16). Lanes from `8 * count` on may give any address.
///
/// # Safety
/// The module's contract: `registers` is valid for `count` words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_stmatrix(registers: *const u32, count: u32, transposed: u32, address: u32) {
    // SAFETY: a fiber runs; the deposits hold registers by the module's contract and checked rows of shared memory.
    unsafe {
        let me = Participant::running();
        if !matches!(count, 1 | 2 | 4) {
            raise(me.block, fault::operand("stmatrix count", count, "1, 2 or 4"));
        }
        let row = if me.lane < 8 * count {
            let row =
                super::checked::shared(me.block, (Touch::Write, true), address, MATRIX_ROW_BYTES, MATRIX_ROW_BYTES);
            let thread = (*me.thread).index();
            (*me.block).asynchronous.proxy.write(thread, address - super::SHARED_BASE, MATRIX_ROW_BYTES);
            row as usize
        } else {
            0
        };
        let deposit = Deposit { pointers: [registers as usize, row, 0], ..Deposit::default() };
        let index = (*me.thread).warp;
        me.meet(Operation::store_matrix(count, transposed != 0), FULL_MASK, deposit, |block, warp| {
            store_matrix(warp, count, transposed != 0);
            watch::matrices(block, index, &warp.deposits[..8 * count as usize]);
            Ok(())
        });
    }
}

/// `bar.arrive id, threads` (PTX ISA 9.7.13.1): the warp counts at the barrier and goes on.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_barrier_arrive(id: u32, threads: u32) {
    // SAFETY: a fiber runs; the deposit is empty. The warps that are released are others than the one that `meet` borrows.
    unsafe {
        let me = Participant::running();
        let threads = match barrier::count(id, threads, (*me.block).block_threads) {
            Ok(threads) => threads,
            Err(reason) => raise(me.block, *reason),
        };
        let warp = (*me.thread).warp;
        let mask = (*me.warp).exists;
        watch::release(me.block, (*me.thread).index(), me.block, watch::named(id));
        me.meet(Operation::barrier_arrive(id, threads), mask, Deposit::default(), |block, _| {
            match block.barriers[id as usize].count_arrival(id, warp, threads) {
                Ok(Some(warps)) => {
                    barrier::open(block, id, warps, threads);
                    block.release(warps);
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(reason) => Err((0, reason)),
            }
        });
    }
}

/// A generic write of `bytes` bytes of shared memory that went around the other functions: later asynchronous operations need a
/// `fence.proxy.async` to see it.
///
/// # Safety
/// The contract of [`super::instructions`]; the address is checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_shared_written(address: u32, bytes: u32) {
    // SAFETY: a fiber runs.
    unsafe {
        let me = Participant::running();
        if (*me.block).shared.find_observed(address, bytes, 1).is_none() {
            raise(me.block, (*me.block).shared.refusal(Access::Write, address, bytes, 1));
        }
        let thread = (*me.thread).index();
        (*me.block).asynchronous.proxy.write(thread, address - super::SHARED_BASE, bytes);
    }
}

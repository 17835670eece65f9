//! The instructions of a warpgroup: `wgmma` and `setmaxnreg`. What they do stands in [`super::wgmma`] and [`super::registers`].

use super::asynchronous::Asynchronous;
use super::block::Block;
use super::fault;
use super::mma::Half;
use super::observer::{Multiply, Reader, Touch};
use super::operands::{self, Shape, WARPS};
use super::thread::WARP_THREADS;
use super::turn::{Participant, raise, suspend};
use super::warp::{Deposit, FULL_MASK, Operation};
use super::watch;
use super::wgmma;

/// Flags of `gridpoint_wgmma`, as in include/gridpoint_simulator.h.
const F16: u32 = 1;
const A_IN_REGISTERS: u32 = 2;
const A_TRANSPOSED: u32 = 4;
const B_TRANSPOSED: u32 = 8;
const A_NEGATED: u32 = 16;
const B_NEGATED: u32 = 32;
const SCALE_D: u32 = 64;

/// `wgmma.fence.sync.aligned` (PTX ISA 9.7.15.7.1).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_wgmma_fence() {
    // SAFETY: a fiber runs; the deposit is empty.
    unsafe {
        let me = Participant::running();
        let warp = (*me.thread).warp;
        me.meet(Operation::WGMMA_FENCE, FULL_MASK, Deposit::default(), |block, _| {
            block.asynchronous.warpgroups.fence(warp)
        });
    }
}

/// `wgmma.mma_async.sync.aligned.m64n{columns}k16.f32` (PTX ISA 9.7.15.5.2). `a` is the address of four registers or a matrix
/// descriptor.
///
/// # Safety
/// The contract of [`super::instructions`]: `d` is valid for `columns / 2` floats until the group is waited for, `a`, where it is an
/// address, for four words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_wgmma(d: *mut f32, a: u64, b: u64, columns: u32, flags: u32) {
    // SAFETY: a fiber runs; the deposits hold registers by the module's contract, and the shape is checked.
    unsafe {
        let me = Participant::running();
        if !columns.is_multiple_of(8) || !(8..=256).contains(&columns) {
            raise(me.block, fault::operand("wgmma columns", columns, "a multiple of 8 from 8 to 256"));
        }
        let flag = |bit: u32| flags & bit != 0;
        let shape = Shape {
            columns: columns as usize,
            half: if flag(F16) { Half::F16 } else { Half::Bf16 },
            a_in_registers: flag(A_IN_REGISTERS),
            a_transposed: flag(A_TRANSPOSED),
            b_transposed: flag(B_TRANSPOSED),
            a_negated: flag(A_NEGATED),
            b_negated: flag(B_NEGATED),
            scale_d: flag(SCALE_D),
        };
        let deposit = Deposit { pointers: [d as usize, a as usize, b as usize], ..Deposit::default() };
        let warp = (*me.thread).warp;
        me.meet(Operation::wgmma(columns, flags), FULL_MASK, deposit, |block, warp_state| {
            let Asynchronous { warpgroups, proxy, .. } = &mut block.asynchronous;
            warpgroups.issue(proxy, warp, shape, &warp_state.deposits)?;
            if (warp as usize).is_multiple_of(operands::WARPS) {
                watch::multiplied(block, warp, Multiply::Warpgroup { columns }, 1);
            }
            if block.watcher.is_some() {
                let [_, a, b] = warp_state.deposits[0].pointers;
                let (number, first) = block.asynchronous.warpgroups.newest(warp);
                let (block, thread): (*mut Block, u32) = (block, warp * WARP_THREADS);
                for (address, bytes) in operands::stretches(shape, a as u64, b as u64) {
                    let begun = if first {
                        let reader = Reader::Wgmma(warp / WARPS as u32);
                        watch::read_begins(block, thread, (reader, number), address, bytes)
                    } else {
                        watch::shared(block, thread, block, address, bytes, Touch::Read)
                    };
                    begun.map_err(|reason| (0, reason))?;
                }
                watch::release(block, thread, block, watch::warpgroup(warp / WARPS as u32));
            }
            Ok(())
        });
    }
}

/// `wgmma.commit_group.sync.aligned` (PTX ISA 9.7.15.7.2).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_wgmma_commit() {
    // SAFETY: a fiber runs; the deposit is empty. Warps of the group that wait have valid registers, and they are other warps than the one
    // that `meet` borrows.
    unsafe {
        let me = Participant::running();
        let warp = (*me.thread).warp;
        me.meet(Operation::WGMMA_COMMIT, FULL_MASK, Deposit::default(), |block, _| {
            block.asynchronous.warpgroups.commit(warp)?;
            wgmma::run_early(block, warp).map_err(|reason| (0, reason))?;
            for waiting in block.asynchronous.warpgroups.waiting(warp) {
                wgmma::finish(block, waiting).map_err(|reason| (0, reason))?;
                let waiting = block.warps.as_mut_ptr().add(waiting as usize);
                (*waiting).ready |= (*waiting).parked;
                (*waiting).parked = 0;
            }
            Ok(())
        });
    }
}

/// `wgmma.wait_group.sync.aligned` (PTX ISA 9.7.15.7.3).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_wgmma_wait(pending: u32) {
    // SAFETY: a fiber runs; no borrow lives at a switch.
    unsafe {
        let me = Participant::running();
        let warp = (*me.thread).warp;
        let mut parks = false;
        me.meet_and(Operation::wgmma_wait(pending), FULL_MASK, Deposit::default(), |block, warp_state| {
            if block.asynchronous.warpgroups.wait(warp, pending)? {
                wgmma::finish(block, warp).map_err(|reason| (0, reason))?;
            } else {
                // All lanes wait, this one included, until another warp of the group has issued what is missing.
                warp_state.parked = FULL_MASK;
                parks = true;
            }
            Ok(!parks)
        });
        if parks {
            suspend(me.block);
        }
    }
}

/// `setmaxnreg.{inc,dec}.sync.aligned.u32` (PTX ISA 9.7.19.5): `increases` 1 or 0.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_set_registers(count: u32, increases: u32) {
    // SAFETY: a fiber runs; the deposit is empty.
    unsafe {
        let me = Participant::running();
        let warp = (*me.thread).warp;
        me.meet(Operation::set_registers(count, increases), FULL_MASK, Deposit::default(), |block, _| {
            block.asynchronous.registers.set(warp, count, increases != 0).map_err(|reason| (0, reason))
        });
    }
}

//! The instructions that kernels call: the functions of `include/gridpoint_simulator.h`.
//!
//! Each may switch to another thread of the block, and none returns once the block has faulted. All of them have one contract: they are
//! called by a kernel that [`super::run`] runs, and pointers to registers are valid for what the instruction reads or writes. Addresses
//! in shared and global memory are checked.

use std::ffi::{CStr, c_char, c_void};

use super::block;
use super::checked::{global, shared};
use super::collective::{self, BUTTERFLY, MATRIX_ROW_BYTES};
use super::copies::PendingCopy;
use super::memory::SHARED_BASE;
use super::mma::MAXIMUM_TILES;
use super::observer::{CopyPlace, Meeting, Multiply, Touch};
use super::thread::{ThreadIdentity, WARP_THREADS};
use super::turn::{Participant, raise, suspend};
use super::warp::{Arrival, Deposit, FULL_MASK, Operation};
use super::{barrier, fault, watch};
use crate::fault::Reason;

pub use super::atomics::{
    gridpoint_atomic, gridpoint_atomic_add, gridpoint_atomic_add64, gridpoint_atomic_compare_exchange,
    gridpoint_atomic_compare_exchange64, gridpoint_atomic_exchange, gridpoint_atomic_max, gridpoint_atomic64,
    gridpoint_fence,
};
pub use super::dependency::{gridpoint_grid_dependency_wait, gridpoint_grid_launch_dependents};

/// Identity of the running thread; valid while the thread lives.
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_thread() -> *const ThreadIdentity {
    // SAFETY: a fiber runs, so there is a current block and thread.
    unsafe { &raw const (*(*block::current()).current).identity }
}

/// Host address of `bytes` bytes of the block's shared memory.
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_shared(address: u32, bytes: u32, alignment: u32) -> *mut c_void {
    // SAFETY: a fiber runs, so there is a current block.
    unsafe { shared(block::current(), (Touch::Read, false), address, bytes, alignment).cast() }
}

/// `cvta.to.shared`: the shared address of a host address inside the block's shared memory, or of its end.
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_shared_address(pointer: *const c_void) -> u32 {
    // SAFETY: a fiber runs, so there is a current block.
    unsafe {
        let block = block::current();
        match (*block).shared.address(pointer as usize) {
            Some(address) => address,
            None => raise(block, fault::not_shared(pointer as usize)),
        }
    }
}

/// First shared address of the dynamic shared memory.
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_shared_base() -> u32 {
    SHARED_BASE
}

/// Bytes of the block's dynamic shared memory (`%dynamic_smem_size`).
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_shared_bytes() -> u32 {
    // SAFETY: a fiber runs, so there is a current block.
    unsafe { (*block::current()).shared.bytes() }
}

/// Checks an access to global memory. `access` is 0 for a read and 2 for a non-coherent read; anything else is a write.
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_global(pointer: *const c_void, bytes: u32, alignment: u32, access: u32) {
    // SAFETY: a fiber runs, so there is a current block.
    unsafe {
        let touch = match access {
            0 => Touch::Read,
            2 => Touch::NonCoherent,
            _ => Touch::Write,
        };
        global(block::current(), (touch, true), pointer as usize, bytes, alignment);
    }
}

/// `bar.sync id, threads` (PTX ISA 9.7.13.1); 0 threads are all of the block.
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_barrier(id: u32, threads: u32) {
    // SAFETY: a fiber runs, so the participant is valid; borrows of block and warp end before each switch.
    unsafe {
        let me = Participant::running();
        let (block, warp) = (me.block, me.warp);
        let threads = match barrier::count(id, threads, (*block).block_threads) {
            Ok(threads) => threads,
            Err(reason) => raise(block, *reason),
        };
        let mask = (*warp).exists;
        match (*warp).arrive(me.lane, Operation::barrier(id, threads), mask, Deposit::default()) {
            Ok(Arrival::Waits) => suspend(block),
            Ok(Arrival::Last) => match (&mut (*block).barriers)[id as usize].arrive(id, (*me.thread).warp, threads) {
                Ok(None) => {
                    (*warp).ready = 0;
                    (*warp).barrier = Some(id);
                    suspend(block);
                }
                Ok(Some(warps)) => {
                    barrier::open(&*block, id, warps, threads);
                    (*block).release(warps);
                    (*block).progress();
                    me.maybe_switch(2);
                }
                Err(reason) => raise(block, reason),
            },
            Err(reason) => raise(block, *reason),
        }
    }
}

/// `bar.warp.sync` (PTX ISA 9.7.13.2).
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_warp_sync(mask: u32) {
    // SAFETY: a fiber runs; the deposit is empty.
    unsafe {
        let me = Participant::running();
        let index = (*me.thread).warp;
        me.meet(Operation::WARP_SYNC, mask, Deposit::default(), |block, _| {
            if let Some(watcher) = block.watcher {
                watcher.observer().barrier(watcher.run, &mut lanes_of(index, mask));
                watcher.observer().met(watcher.run, Meeting::Warp);
            }
            Ok(())
        });
    }
}

/// `shfl.sync` (PTX ISA 9.7.9.6): mode 0 idx, 1 up, 2 down, 3 bfly.
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_shuffle(mode: u32, mask: u32, value: u32, operand: u32) -> u32 {
    // SAFETY: a fiber runs; a shuffle uses no pointers. The result stays until this lane's next collective instruction.
    unsafe {
        let me = Participant::running();
        if mode > BUTTERFLY {
            raise(me.block, fault::operand("shuffle mode", mode, "0 to 3"));
        }
        let deposit = Deposit { value, operand, ..Deposit::default() };
        me.meet(Operation::shuffle(mode), mask, deposit, |_, warp| collective::shuffle(warp, mode, mask));
        (&(*me.warp).results)[me.lane as usize]
    }
}

/// `vote.sync.ballot` (PTX ISA 9.7.13.9).
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_ballot(mask: u32, predicate: u32) -> u32 {
    // SAFETY: as in `gridpoint_shuffle`.
    unsafe {
        let me = Participant::running();
        let deposit = Deposit { value: predicate, ..Deposit::default() };
        me.meet(Operation::BALLOT, mask, deposit, |_, warp| {
            collective::ballot(warp, mask);
            Ok(())
        });
        (&(*me.warp).results)[me.lane as usize]
    }
}

/// `ldmatrix` (PTX ISA 9.7.14.5.15). Lanes from `8 * count` on may give any address.
///
/// # Safety
/// The module's contract: `registers` is valid for `count` words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_ldmatrix(registers: *mut u32, count: u32, transposed: u32, address: u32) {
    // SAFETY: a fiber runs; the deposits hold registers by the module's contract and checked rows of shared memory.
    unsafe {
        let me = Participant::running();
        if !matches!(count, 1 | 2 | 4) {
            raise(me.block, fault::operand("ldmatrix count", count, "1, 2 or 4"));
        }
        let row = if me.lane < 8 * count {
            shared(me.block, (Touch::Read, true), address, MATRIX_ROW_BYTES, MATRIX_ROW_BYTES) as usize
        } else {
            0
        };
        let deposit = Deposit { pointers: [registers as usize, row, 0], ..Deposit::default() };
        let index = (*me.thread).warp;
        me.meet(Operation::load_matrix(count, transposed != 0), FULL_MASK, deposit, |block, warp| {
            collective::load_matrix(warp, count, transposed != 0);
            watch::matrices(block, index, &warp.deposits[..8 * count as usize]);
            Ok(())
        });
    }
}

/// `m_tiles * n_tiles` times `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32` (PTX ISA 9.7.14.5.14).
///
/// # Safety
/// The module's contract: `d`, `a` and `b` are valid for `m_tiles * n_tiles * 4` floats, `m_tiles * 4` and `n_tiles * 2` words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_mma_bf16(d: *mut f32, a: *const u32, b: *const u32, m_tiles: u32, n_tiles: u32) {
    // SAFETY: a fiber runs; the deposits hold registers by the module's contract, and the number of tiles was checked.
    unsafe {
        let me = Participant::running();
        if !(1..=u64::from(MAXIMUM_TILES)).contains(&(u64::from(m_tiles) * u64::from(n_tiles))) {
            raise(me.block, fault::tiles(m_tiles, n_tiles));
        }
        let deposit = Deposit { pointers: [d as usize, a as usize, b as usize], ..Deposit::default() };
        let index = (*me.thread).warp;
        me.meet(Operation::multiply(m_tiles, n_tiles), FULL_MASK, deposit, |block, warp| {
            (block.multiply)(&mut block.panels, &warp.deposits, m_tiles as usize, n_tiles as usize);
            watch::multiplied(block, index, Multiply::Bf16, m_tiles * n_tiles);
            Ok(())
        });
    }
}

/// `cp.async` (PTX ISA 9.7.9.25.3.1): checked now, done at the wait that covers it.
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_cp_async(address: u32, source: *const c_void, bytes: u32, source_bytes: u32) {
    // SAFETY: a fiber runs. The copy's addresses are checked here; shared memory stays for the block's time and the launch's snapshot
    // names memory that stays for the launch's time.
    unsafe {
        let block = block::current();
        if !matches!(bytes, 4 | 8 | 16) {
            raise(block, fault::operand("cp.async size", bytes, "4, 8 or 16"));
        }
        if source_bytes > bytes {
            raise(block, fault::operand("cp.async source size", source_bytes, "at most the size"));
        }
        let target = shared(block, (Touch::Write, false), address, bytes, bytes);
        if source_bytes != 0 {
            global(block, (Touch::Read, false), source as usize, source_bytes, bytes);
        }
        if let Some(watcher) = (*block).watcher {
            let copy = CopyPlace { target: address, source: source as usize, bytes, source_bytes };
            if let Err(reason) = watcher.observer().copy_issued(watcher.who((*(*block).current).index()), copy) {
                raise(block, *reason);
            }
        }
        let copy = PendingCopy { target, source: source.cast(), bytes: bytes as u8, source_bytes: source_bytes as u8 };
        (*(*block).current).copies.issue(copy);
    }
}

/// `cp.async.commit_group` (PTX ISA 9.7.9.25.3.2).
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_cp_async_commit() {
    // SAFETY: a fiber runs.
    unsafe {
        let block = block::current();
        if let Some(watcher) = (*block).watcher {
            watcher.observer().copy_committed(watcher.who((*(*block).current).index()));
        }
        (*(*block).current).copies.commit();
    }
}

/// `cp.async.wait_group pending` (PTX ISA 9.7.9.25.3.3).
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_cp_async_wait(pending: u32) {
    // SAFETY: a fiber runs, and no borrow lives when it switches.
    unsafe {
        let me = Participant::running();
        if let Some(watcher) = (*me.block).watcher
            && let Err(reason) = watcher.observer().copy_waited(watcher.who((*me.thread).index()), pending)
        {
            raise(me.block, *reason);
        }
        let thread = (*me.thread).index();
        let (block, copies) = (me.block, &raw mut (*me.thread).copies);
        // What they write is written through the generic proxy (8.3).
        (*copies).wait(pending, |target, bytes| {
            if let Some(address) = (*block).shared.address_around(target as usize) {
                (*block).asynchronous.proxy.write(thread, address - SHARED_BASE, bytes);
            }
        });
        me.maybe_switch(4);
    }
}

/// Gives the block's other threads a turn.
///
/// # Safety
/// The module's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_yield() {
    // SAFETY: a fiber runs.
    unsafe { Participant::running().give_turn(1) }
}

/// Ends the launch: a contract of the kernel was broken.
///
/// # Safety
/// The module's contract: `reason` is null or a terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_fault(reason: *const c_char) {
    // SAFETY: a fiber runs, and `reason` is a string by the module's contract.
    unsafe {
        let words =
            if reason.is_null() { String::new() } else { CStr::from_ptr(reason).to_string_lossy().into_owned() };
        raise(block::current(), Reason::Contract { words })
    }
}

/// Makes the linker take the instructions along with the machine, wherever the kernels' archive stands on its command line.
pub(super) fn keep() {
    /// An address that nobody calls through.
    #[repr(transparent)]
    struct Kept(*const ());
    // SAFETY: nothing is done with the pointer.
    unsafe impl Sync for Kept {}
    #[used]
    static INSTRUCTIONS: [Kept; 28] = [
        Kept(gridpoint_thread as *const ()),
        Kept(gridpoint_shared as *const ()),
        Kept(gridpoint_shared_address as *const ()),
        Kept(gridpoint_shared_base as *const ()),
        Kept(gridpoint_shared_bytes as *const ()),
        Kept(gridpoint_global as *const ()),
        Kept(gridpoint_barrier as *const ()),
        Kept(gridpoint_warp_sync as *const ()),
        Kept(gridpoint_shuffle as *const ()),
        Kept(gridpoint_ballot as *const ()),
        Kept(gridpoint_ldmatrix as *const ()),
        Kept(gridpoint_mma_bf16 as *const ()),
        Kept(gridpoint_cp_async as *const ()),
        Kept(gridpoint_cp_async_commit as *const ()),
        Kept(gridpoint_cp_async_wait as *const ()),
        Kept(gridpoint_atomic_add as *const ()),
        Kept(gridpoint_atomic_add64 as *const ()),
        Kept(gridpoint_atomic_max as *const ()),
        Kept(gridpoint_atomic_exchange as *const ()),
        Kept(gridpoint_atomic as *const ()),
        Kept(gridpoint_atomic64 as *const ()),
        Kept(gridpoint_atomic_compare_exchange as *const ()),
        Kept(gridpoint_atomic_compare_exchange64 as *const ()),
        Kept(gridpoint_fence as *const ()),
        Kept(gridpoint_grid_dependency_wait as *const ()),
        Kept(gridpoint_grid_launch_dependents as *const ()),
        Kept(gridpoint_yield as *const ()),
        Kept(gridpoint_fault as *const ()),
    ];
    std::hint::black_box(&INSTRUCTIONS);
}

/// Threads of a block: the lanes of `mask` in warp `warp`.
fn lanes_of(warp: u32, mask: u32) -> impl Iterator<Item = u32> {
    (0..WARP_THREADS).filter(move |lane| mask >> lane & 1 != 0).map(move |lane| warp * WARP_THREADS + lane)
}

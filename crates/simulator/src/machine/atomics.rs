//! Atomic instructions and fences (PTX ISA 9.7.13.4 and 9.7.13.5): the host's own, since a grid's blocks run in parallel.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::block;
use super::checked::{global, shared};
use super::fault;
use super::observer::{Place, Strength, Touch};
use super::turn::{Participant, raise};
use crate::fault::Space;

/// atom.add.u32: the value before.
///
/// # Safety
/// The contract of [`super::instructions`]; the address is checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_atomic_add(pointer: *mut u32, value: u32, scope: u32, order: u32) -> u32 {
    // SAFETY: the word was checked; whatever accesses it at the same time does so by atomics or is the kernel's own race.
    unsafe {
        let order = begin(pointer as usize, 4, scope, order);
        end(AtomicU32::from_ptr(pointer).fetch_add(value, order))
    }
}

/// atom.add.u64: the value before.
///
/// # Safety
/// As [`gridpoint_atomic_add`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_atomic_add64(pointer: *mut u64, value: u64, scope: u32, order: u32) -> u64 {
    // SAFETY: as in `gridpoint_atomic_add`.
    unsafe {
        let order = begin(pointer as usize, 8, scope, order);
        end(AtomicU64::from_ptr(pointer).fetch_add(value, order))
    }
}

/// atom.max.u32: the value before.
///
/// # Safety
/// As [`gridpoint_atomic_add`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_atomic_max(pointer: *mut u32, value: u32, scope: u32, order: u32) -> u32 {
    // SAFETY: as in `gridpoint_atomic_add`.
    unsafe {
        let order = begin(pointer as usize, 4, scope, order);
        end(AtomicU32::from_ptr(pointer).fetch_max(value, order))
    }
}

/// atom.exch.b32: the value before.
///
/// # Safety
/// As [`gridpoint_atomic_add`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_atomic_exchange(pointer: *mut u32, value: u32, scope: u32, order: u32) -> u32 {
    // SAFETY: as in `gridpoint_atomic_add`.
    unsafe {
        let order = begin(pointer as usize, 4, scope, order);
        end(AtomicU32::from_ptr(pointer).swap(value, order))
    }
}

/// fence.acq_rel. The scope only matters to a GPU: here every fence is as wide as the host.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_fence(scope: u32) {
    // SAFETY: a fiber runs, and no borrow of the block lives.
    unsafe {
        if scope > 2 {
            raise(block::current(), fault::operand("scope", scope, "0 to 2"));
        }
        fence(Ordering::SeqCst);
        let me = Participant::running();
        if let Some(watcher) = (*me.block).watcher {
            watcher.observer().fence(watcher.who((*me.thread).index()), scope == 0);
        }
        me.maybe_switch(4);
    }
}

/// Checks an atomic's word, in shared or global memory, and its qualifiers.
///
/// # Safety
/// Called by a fiber of the current block.
#[inline(always)]
unsafe fn begin(address: usize, bytes: u32, scope: u32, order: u32) -> Ordering {
    let block = block::current();
    // SAFETY: by this function's contract; no borrow lives when it faults.
    unsafe {
        if scope > 2 || order > 1 {
            raise(block, fault::operand("scope and order", scope << 4 | order, "scope 0 to 2, order 0 or 1"));
        }
        (*(*block).current).polled = address;
        let (space, address) = match (*block).shared.address(address) {
            Some(window) => {
                shared(block, (Touch::Write, false), window, bytes, bytes);
                (Space::Shared, window as usize)
            }
            None => {
                global(block, (Touch::Write, false), address, bytes, bytes);
                (Space::Global, address)
            }
        };
        if let Some(watcher) = (*block).watcher {
            let place = Place { space, home: watcher.run, address, bytes: bytes as usize };
            let strength = Strength { block_scope: scope == 0, ordered: order != 0 };
            if let Err(reason) = watcher.observer().atomic(watcher.who((*(*block).current).index()), place, strength) {
                raise(block, *reason);
            }
        }
    }
    if order == 0 { Ordering::Relaxed } else { Ordering::AcqRel }
}

/// Hands `value` back, giving others a turn where one is due.
///
/// # Safety
/// As [`begin`].
#[inline(always)]
unsafe fn end<T>(value: T) -> T {
    // SAFETY: by this function's contract.
    unsafe {
        let me = Participant::running();
        if let Some(spins) = (*me.block).count_atomic() {
            me.give_turn(spins);
        } else {
            me.maybe_switch(4);
        }
    }
    value
}

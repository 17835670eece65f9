//! Atomic instructions and fences (PTX ISA 9.7.13.4 and 9.7.13.5): the host's own, since a grid's blocks run in parallel.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

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

/// The operations of `gridpoint_atomic` and `gridpoint_atomic64` (PTX ISA 9.7.13.5, `atom`).
const INCREMENT: u32 = 9;
const DECREMENT: u32 = 10;
const ADD_FLOAT: u32 = 11;

/// `atom` on 32 bits: operation 0 add, 1 min, 2 max of unsigned numbers, 3 min, 4 max of signed ones, 5 and, 6 or, 7 xor, 8 exch, 9 inc,
/// 10 dec, 11 add of float32, rounded to nearest even with subnormal numbers kept. The value before.
///
/// # Safety
/// As [`gridpoint_atomic_add`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_atomic(
    operation: u32,
    pointer: *mut u32,
    value: u32,
    scope: u32,
    order: u32,
) -> u32 {
    // SAFETY: as in `gridpoint_atomic_add`.
    unsafe {
        if operation > ADD_FLOAT {
            raise(block::current(), fault::operand("atomic operation", operation, "0 to 11"));
        }
        let order = begin(pointer as usize, 4, scope, order);
        let word = AtomicU32::from_ptr(pointer);
        end(match operation {
            0 => word.fetch_add(value, order),
            1 => word.fetch_min(value, order),
            2 => word.fetch_max(value, order),
            3 => AtomicI32::from_ptr(pointer.cast()).fetch_min(value.cast_signed(), order).cast_unsigned(),
            4 => AtomicI32::from_ptr(pointer.cast()).fetch_max(value.cast_signed(), order).cast_unsigned(),
            5 => word.fetch_and(value, order),
            6 => word.fetch_or(value, order),
            7 => word.fetch_xor(value, order),
            INCREMENT => update32(word, order, |before| if before >= value { 0 } else { before + 1 }),
            DECREMENT => update32(word, order, |before| if before == 0 || before > value { value } else { before - 1 }),
            ADD_FLOAT => update32(word, order, |before| (f32::from_bits(before) + f32::from_bits(value)).to_bits()),
            _ => word.swap(value, order),
        })
    }
}

/// As [`gridpoint_atomic`] on 64 bits, where inc and dec do not exist and 11 is add of float64.
///
/// # Safety
/// As [`gridpoint_atomic_add`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_atomic64(
    operation: u32,
    pointer: *mut u64,
    value: u64,
    scope: u32,
    order: u32,
) -> u64 {
    // SAFETY: as in `gridpoint_atomic_add`.
    unsafe {
        if operation > ADD_FLOAT || matches!(operation, INCREMENT | DECREMENT) {
            raise(block::current(), fault::operand("atomic operation on 64 bits", operation, "0 to 8, or 11"));
        }
        let order = begin(pointer as usize, 8, scope, order);
        let word = AtomicU64::from_ptr(pointer);
        end(match operation {
            0 => word.fetch_add(value, order),
            1 => word.fetch_min(value, order),
            2 => word.fetch_max(value, order),
            3 => AtomicI64::from_ptr(pointer.cast()).fetch_min(value.cast_signed(), order).cast_unsigned(),
            4 => AtomicI64::from_ptr(pointer.cast()).fetch_max(value.cast_signed(), order).cast_unsigned(),
            5 => word.fetch_and(value, order),
            6 => word.fetch_or(value, order),
            7 => word.fetch_xor(value, order),
            ADD_FLOAT => {
                let sum = |before| Some((f64::from_bits(before) + f64::from_bits(value)).to_bits());
                word.fetch_update(order, Ordering::Relaxed, sum).unwrap_or_else(|before| before)
            }
            _ => word.swap(value, order),
        })
    }
}

/// The value before; `change` gives the one after.
fn update32(word: &AtomicU32, order: Ordering, change: impl Fn(u32) -> u32) -> u32 {
    word.fetch_update(order, Ordering::Relaxed, |before| Some(change(before))).unwrap_or_else(|before| before)
}

/// atom.cas.b32: the value before; `value` is stored where that is `expected`.
///
/// # Safety
/// As [`gridpoint_atomic_add`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_atomic_compare_exchange(
    pointer: *mut u32,
    expected: u32,
    value: u32,
    scope: u32,
    order: u32,
) -> u32 {
    // SAFETY: as in `gridpoint_atomic_add`.
    unsafe {
        let order = begin(pointer as usize, 4, scope, order);
        let answer = AtomicU32::from_ptr(pointer).compare_exchange(expected, value, order, on_failure(order));
        end(answer.unwrap_or_else(|before| before))
    }
}

/// atom.cas.b64: as [`gridpoint_atomic_compare_exchange`].
///
/// # Safety
/// As [`gridpoint_atomic_add`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_atomic_compare_exchange64(
    pointer: *mut u64,
    expected: u64,
    value: u64,
    scope: u32,
    order: u32,
) -> u64 {
    // SAFETY: as in `gridpoint_atomic_add`.
    unsafe {
        let order = begin(pointer as usize, 8, scope, order);
        let answer = AtomicU64::from_ptr(pointer).compare_exchange(expected, value, order, on_failure(order));
        end(answer.unwrap_or_else(|before| before))
    }
}

/// The order of a comparison that fails, which stores nothing.
fn on_failure(order: Ordering) -> Ordering {
    if order == Ordering::Relaxed { order } else { Ordering::Acquire }
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
        // It may have told of other threads' writes, which a proxy fence covers from now on.
        (*me.block).asynchronous.proxy.meet((*me.thread).warp);
        if let Some(spins) = (*me.block).count_atomic() {
            me.give_turn(spins);
        } else {
            me.maybe_switch(4);
        }
    }
    value
}

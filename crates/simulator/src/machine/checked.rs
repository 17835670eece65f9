//! Addresses that an instruction is given: checked against what lives, and told to whoever observes the launch.

use super::block::Block;
use super::observer::{Place, Touch};
use super::turn::raise;
use crate::fault::{Access, Space};

/// A checked shared address. An observer is told of the access if `tell` says so.
///
/// # Safety
/// Called by a fiber of `block`, and no borrow of the block lives.
#[inline(always)]
pub(super) unsafe fn shared(
    block: *mut Block,
    (touch, tell): (Touch, bool),
    address: u32,
    bytes: u32,
    alignment: u32,
) -> *mut u8 {
    // SAFETY: by this function's contract.
    unsafe {
        match (*block).shared.find(address, bytes, alignment) {
            Some(pointer) => pointer,
            None => shared_otherwise(block, (touch, tell), address, bytes, alignment),
        }
    }
}

/// # Safety
/// As [`shared`].
#[cold]
unsafe fn shared_otherwise(
    block: *mut Block,
    (touch, tell): (Touch, bool),
    address: u32,
    bytes: u32,
    alignment: u32,
) -> *mut u8 {
    // SAFETY: by this function's contract.
    unsafe {
        let Some(pointer) = (*block).shared.find_observed(address, bytes, alignment) else {
            let reason = (*block).shared.refusal(access_of(touch), address, bytes, alignment);
            raise(block, reason)
        };
        if tell {
            observe(block, Space::Shared, address as usize, bytes as usize, touch);
        }
        pointer
    }
}

/// Checks a global address. An observer is told of the access if `tell` says so.
///
/// # Safety
/// As [`shared`].
#[inline(always)]
pub(super) unsafe fn global(
    block: *mut Block,
    (touch, tell): (Touch, bool),
    address: usize,
    bytes: u32,
    alignment: u32,
) {
    // SAFETY: by this function's contract.
    unsafe {
        if !(*block).global.allows(address, bytes, alignment) {
            global_otherwise(block, (touch, tell), address, bytes, alignment);
        }
    }
}

/// # Safety
/// As [`shared`].
#[cold]
unsafe fn global_otherwise(
    block: *mut Block,
    (touch, tell): (Touch, bool),
    address: usize,
    bytes: u32,
    alignment: u32,
) {
    // SAFETY: by this function's contract.
    unsafe {
        if (*block).watcher.is_none() || !(*block).global.allows_observed(address, bytes as usize, alignment) {
            let reason = (*block).global.refusal(access_of(touch), address, bytes, alignment);
            raise(block, reason);
        }
        if tell {
            observe(block, Space::Global, address, bytes as usize, touch);
        }
    }
}

/// Tells the observer, if there is one, of an access whose place was checked; ends the block if it objects.
///
/// # Safety
/// As [`shared`].
pub(super) unsafe fn observe(block: *mut Block, space: Space, address: usize, bytes: usize, touch: Touch) {
    // SAFETY: by this function's contract.
    unsafe {
        if let Some(watcher) = (*block).watcher {
            let who = watcher.who((*(*block).current).index());
            let place = Place { space, home: watcher.run, address, bytes };
            if let Err(reason) = watcher.observer().access(who, place, touch) {
                raise(block, *reason);
            }
        }
    }
}

fn access_of(touch: Touch) -> Access {
    if touch == Touch::Write { Access::Write } else { Access::Read }
}

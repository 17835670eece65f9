//! Plain loads and stores of a kernel, as far as somebody tells the machine of them.

use super::block::{self, Block};
use super::checked::observe;
use super::fiber::STACK_BYTES;
use super::observer::{Site, Touch};
use super::turn::{Participant, raise};
use crate::fault::{Access, Space};

/// A plain access of the running thread to `bytes` bytes of any memory: its own stack, its parameters, shared or global memory.
/// Nothing happens where no fiber runs or nobody observes the launch. `site` is the code behind the access, or 0 where that is unknown.
///
/// # Safety
/// Called by a fiber of the current block or where there is none; no borrow of the block lives.
#[inline(always)]
pub(crate) unsafe fn plain_access((address, bytes): (usize, usize), alignment: u32, touch: Touch, site: usize) {
    let block = block::current();
    // SAFETY: by this function's contract, a block that is not null runs this fiber.
    unsafe {
        if block.is_null() || address.wrapping_sub((*(*block).current).stack) < STACK_BYTES {
            return;
        }
        plain_access_elsewhere(block, (address, bytes), alignment, touch, site);
    }
}

/// # Safety
/// As [`plain_access`], with a block.
#[inline(never)]
unsafe fn plain_access_elsewhere(
    block: *mut Block,
    (address, bytes): (usize, usize),
    alignment: u32,
    touch: Touch,
    site: usize,
) {
    // SAFETY: by this function's contract.
    unsafe {
        let Some(watcher) = (*block).watcher.filter(|_| bytes != 0) else { return };
        let identity = &raw const (*(*block).current).identity;
        if touch == Touch::Read
            && (within(address, bytes, identity as usize, size_of_val(&*identity))
                || within(address, bytes, (*block).parameters as usize, (*block).parameter_bytes as usize))
        {
            return;
        }
        let access = if touch == Touch::Write { Access::Write } else { Access::Read };
        let length = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Some(shared) = (*block).shared.address_around(address) {
            if (*block).shared.find_observed(shared, length, alignment).is_none() {
                let reason = (*block).shared.refusal(access, shared, length, alignment);
                raise(block, reason);
            }
            if site != 0 {
                watcher.observer().site(watcher.who((*(*block).current).index()), Site::Code(site));
            }
            observe(block, Space::Shared, shared as usize, bytes, touch);
            if touch == Touch::Write {
                let thread = (*(*block).current).index();
                (*block).asynchronous.proxy.write(thread, shared - super::SHARED_BASE, length);
            }
            let_others(block, address, touch);
            return;
        }
        if !(*block).global.allows_observed(address, bytes, alignment) {
            let reason = (*block).global.refusal(access, address, length, alignment);
            raise(block, reason);
        }
        observe(block, Space::Global, address, bytes, touch);
        let_others(block, address, touch);
    }
}

/// A loop of reads that waits for what others write has to let them.
///
/// # Safety
/// As [`plain_access`], with a block.
unsafe fn let_others(block: *mut Block, address: usize, touch: Touch) {
    // SAFETY: by this function's contract.
    unsafe {
        if touch == Touch::Read && (*block).count_atomic().is_some() {
            (*(*block).current).polled = address;
            Participant::running().give_turn(1);
        }
    }
}

fn within(address: usize, bytes: usize, start: usize, length: usize) -> bool {
    let offset = address.wrapping_sub(start);
    offset < length && bytes <= length - offset
}

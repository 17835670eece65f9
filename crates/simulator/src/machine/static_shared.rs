//! Static shared memory: `__shared__` variables, which a host compiler can only make static, so that the process has one copy of them.
//!
//! Blocks that use it therefore run one at a time, under a lock. In the block's shared window it lies behind the dynamic part, with a gap
//! between them, and its addresses agree with the host's modulo the window's alignment. It is found where the dynamic part was not: on
//! the slow path. Where the module lists its variables, an access has to lie in one of them, and what lies between them keeps its poison.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::memory::{SHARED_ALIGNMENT, SHARED_BASE};
use crate::fault::{Nearby, Reason};
use crate::memory::POISON;
use crate::module::{HostKernel, Variable};

/// Bytes around the variables in which an address counts as one of shared memory that is out of bounds.
const AROUND: usize = 256;

/// Who holds this runs a block of a kernel with static shared memory.
static ONE_BLOCK: Mutex<()> = Mutex::new(());

/// The right to run a kernel that has static shared memory; none where it has none.
pub(super) fn lock(kernel: &HostKernel) -> Option<MutexGuard<'static, ()>> {
    // What a launch that panicked left behind is poisoned by the next block.
    kernel.static_shared().map(|_| ONE_BLOCK.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Bytes of the shared window of a block of `kernel`: dynamic and static part and what lies between.
pub(crate) fn window_bytes(kernel: &HostKernel, dynamic_bytes: u32) -> u32 {
    let window = StaticShared::of(kernel, dynamic_bytes);
    if window.bytes == 0 { dynamic_bytes } else { window.base - SHARED_BASE + window.bytes }
}

/// The static part of a block's shared window; empty where the kernel has none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StaticShared {
    /// Host address.
    start: usize,
    bytes: u32,
    /// Shared address of `start`.
    base: u32,
    /// In any order; none where they are not told apart.
    variables: &'static [Variable],
}

impl StaticShared {
    /// That of a block of `kernel` with so much dynamic shared memory.
    pub(super) fn of(kernel: &HostKernel, dynamic_bytes: u32) -> Self {
        let Some((start, bytes)) = kernel.static_shared() else { return Self::default() };
        let start = start.expose_provenance();
        let alignment = SHARED_ALIGNMENT as u32;
        let behind = SHARED_BASE + dynamic_bytes.next_multiple_of(alignment) + alignment;
        let base = behind + (start % SHARED_ALIGNMENT) as u32;
        Self { start, bytes, base, variables: kernel.static_variables() }
    }

    /// Fills it with poison.
    ///
    /// # Safety
    /// The lock is held, and no thread of a block runs.
    pub(super) unsafe fn poison(&self) {
        let start = std::ptr::with_exposed_provenance_mut::<u8>(self.start);
        // SAFETY: the module's table says that these bytes are its variables; by this function's contract nobody else uses them.
        unsafe { start.write_bytes(POISON, self.bytes as usize) };
    }

    /// The host address of `bytes` bytes at a shared address.
    pub(super) fn find(&self, address: u32, bytes: u32, alignment: u32) -> Option<*mut u8> {
        let offset = address.wrapping_sub(self.base);
        let inside = self.bytes != 0 && offset <= self.bytes && bytes <= self.bytes - offset;
        let aligned = address & alignment.wrapping_sub(1) == 0;
        let host = self.start.wrapping_add(offset as usize);
        let in_one = |variable: &Variable| {
            let (start, length) = variable.range();
            host >= start && host + bytes as usize <= start + length
        };
        let found = inside && aligned && (self.variables.is_empty() || self.variables.iter().any(in_one));
        found.then(|| std::ptr::with_exposed_provenance_mut(host))
    }

    /// The shared address of a host address inside or at the end.
    #[inline(always)]
    pub(super) fn address(&self, pointer: usize) -> Option<u32> {
        let offset = pointer.wrapping_sub(self.start);
        (self.bytes != 0 && offset <= self.bytes as usize).then(|| self.base + offset as u32)
    }

    /// The shared address of a host address inside or close to it.
    pub(super) fn address_around(&self, pointer: usize) -> Option<u32> {
        let offset = pointer.wrapping_sub(self.start).wrapping_add(AROUND);
        let inside = self.bytes != 0 && offset < self.bytes as usize + 2 * AROUND;
        inside.then(|| self.base + offset as u32 - AROUND as u32)
    }

    /// What is to be said of a shared address outside, where it is closer to this part than to the dynamic one.
    pub(super) fn nearby(&self, address: u64) -> Option<Nearby> {
        let offset = address as i64 - i64::from(self.base);
        if self.bytes == 0 || offset < -(AROUND as i64) {
            return None;
        }
        let host = self.start as i64 + offset;
        let near = self.variables.iter().map(|variable| variable.range()).min_by_key(|&(start, bytes)| {
            // How far it is to the variable's first or last byte, whichever is closer; none inside.
            (start as i64 - host).max(host - (start + bytes) as i64 + 1).max(0)
        });
        let (start, bytes) = near.unwrap_or((self.start, self.bytes as usize));
        Some(Nearby::Live { offset: host - start as i64, bytes })
    }

    /// Whether nothing was written between the variables, where they are told apart.
    ///
    /// # Safety
    /// The lock is held, no thread of a block runs, and the block began with [`StaticShared::poison`].
    pub(super) unsafe fn intact(&self) -> Result<(), Reason> {
        let mut variables: Vec<(usize, usize)> = self.variables.iter().map(|variable| variable.range()).collect();
        variables.sort_unstable();
        let Some(&first) = variables.first() else { return Ok(()) };
        let (mut from, mut before) = (self.start, first);
        let end = (self.start + self.bytes as usize, 0);
        for variable in variables.into_iter().chain([end]) {
            let gap = variable.0.saturating_sub(from);
            // SAFETY: inside the module's variables and what lies between them; by this function's contract nobody else uses it.
            let gap = unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(from), gap) };
            if gap.iter().any(|&byte| byte != POISON) {
                let address = u64::from(self.base) + (before.0 - self.start) as u64;
                return Err(Reason::RedZone { address, bytes: before.1 });
            }
            (from, before) = (variable.0 + variable.1, variable);
        }
        Ok(())
    }
}

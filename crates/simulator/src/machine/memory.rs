//! What a thread may access: the block's shared window, and the live ranges of global memory.

use std::alloc::{Layout, alloc, dealloc};
use std::sync::Arc;

use super::static_shared::StaticShared;
use crate::fault::{Access, Nearby, Reason, Space};
use crate::memory::{POISON, Range, Snapshot};

/// First shared address of a block's window: not zero, so that a null address is out of bounds.
pub(crate) const SHARED_BASE: u32 = 0x400;
/// Shared addresses and host addresses agree modulo this.
pub(super) const SHARED_ALIGNMENT: usize = 0x400;
/// Bytes on both sides of the window that nothing may write.
const RED_ZONE: usize = 256;
const RED_ZONE_BYTE: u8 = 0xFD;

/// A block's shared memory.
pub(crate) struct SharedMemory {
    allocation: *mut u8,
    layout: Layout,
    bytes: u32,
    /// What [`SharedMemory::find`] gives out: `bytes`, or nothing when an observer has to be told of each access.
    direct_bytes: u32,
    /// What lies behind the dynamic part. Set by [`SharedMemory::begin`].
    statics: StaticShared,
}

impl SharedMemory {
    /// An empty window; none when the host has no memory left.
    pub(crate) fn new() -> Option<Self> {
        Self::allocate(0)
    }

    fn allocate(bytes: u32) -> Option<Self> {
        let total = (bytes as usize).checked_add(2 * SHARED_ALIGNMENT)?;
        let layout = Layout::from_size_align(total, SHARED_ALIGNMENT).ok()?;
        // SAFETY: the size is not zero.
        let allocation = unsafe { alloc(layout) };
        (!allocation.is_null()).then_some(Self {
            allocation,
            layout,
            bytes,
            direct_bytes: bytes,
            statics: StaticShared::default(),
        })
    }

    /// Starts a block with `bytes` bytes of poison and its static part, `observed` or not; false when the host has no memory left.
    pub(crate) fn begin(&mut self, bytes: u32, statics: StaticShared, observed: bool) -> bool {
        if self.layout.size() < bytes as usize + 2 * SHARED_ALIGNMENT {
            match Self::allocate(bytes) {
                Some(larger) => *self = larger,
                None => return false,
            }
        }
        self.bytes = bytes;
        self.statics = statics;
        self.direct_bytes = if observed { 0 } else { bytes };
        // SAFETY: the window and a red zone on each side of it lie inside the allocation, as `allocate` reserves `SHARED_ALIGNMENT`
        // bytes on each side.
        unsafe {
            self.window().sub(RED_ZONE).write_bytes(RED_ZONE_BYTE, RED_ZONE);
            self.window().write_bytes(POISON, bytes as usize);
            self.window().add(bytes as usize).write_bytes(RED_ZONE_BYTE, RED_ZONE);
        }
        true
    }

    /// Bytes of the dynamic part.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    #[inline(always)]
    fn window(&self) -> *mut u8 {
        self.allocation.wrapping_add(SHARED_ALIGNMENT)
    }

    /// Whether nothing was written around the window.
    pub(crate) fn intact(&self) -> Result<(), Reason> {
        // SAFETY: both red zones lie inside the allocation and were written by `begin`.
        let zones = unsafe {
            [
                std::slice::from_raw_parts(self.window().sub(RED_ZONE), RED_ZONE),
                std::slice::from_raw_parts(self.window().add(self.bytes as usize), RED_ZONE),
            ]
        };
        if zones.iter().all(|zone| zone.iter().all(|&byte| byte == RED_ZONE_BYTE)) {
            // SAFETY: a block that was begun has ended.
            return unsafe { self.statics.intact() };
        }
        Err(Reason::RedZone { address: SHARED_BASE.into(), bytes: self.bytes as usize })
    }

    /// The host address of `bytes` bytes at a shared address that may be accessed without telling anybody.
    #[inline(always)]
    pub(crate) fn find(&self, address: u32, bytes: u32, alignment: u32) -> Option<*mut u8> {
        self.find_below(self.direct_bytes, address, bytes, alignment)
    }

    /// The host address of `bytes` bytes at a shared address.
    pub(crate) fn find_observed(&self, address: u32, bytes: u32, alignment: u32) -> Option<*mut u8> {
        self.find_below(self.bytes, address, bytes, alignment).or_else(|| self.statics.find(address, bytes, alignment))
    }

    #[inline(always)]
    fn find_below(&self, limit: u32, address: u32, bytes: u32, alignment: u32) -> Option<*mut u8> {
        let offset = address.wrapping_sub(SHARED_BASE);
        let inside = offset <= limit && bytes <= limit - offset;
        let aligned = address & alignment.wrapping_sub(1) == 0;
        (inside && aligned).then(|| self.window().wrapping_add(offset as usize))
    }

    /// Why [`SharedMemory::find_observed`] found nothing.
    #[cold]
    pub(crate) fn refusal(&self, access: Access, address: u32, bytes: u32, alignment: u32) -> Reason {
        let (space, address) = (Space::Shared, u64::from(address));
        if address & u64::from(alignment.wrapping_sub(1)) != 0 {
            return Reason::Misaligned { space, address, alignment };
        }
        Reason::OutOfBounds { space, access, address, bytes, nearby: self.nearby(address) }
    }

    fn nearby(&self, address: u64) -> Nearby {
        if let Some(nearby) = self.statics.nearby(address) {
            return nearby;
        }
        if self.bytes == 0 {
            return Nearby::Nothing;
        }
        Nearby::Live { offset: address as i64 - i64::from(SHARED_BASE), bytes: self.bytes as usize }
    }

    /// The shared address of a host address inside the window or at its end.
    #[inline(always)]
    pub(crate) fn address(&self, pointer: usize) -> Option<u32> {
        let offset = pointer.wrapping_sub(self.window() as usize);
        if offset <= self.bytes as usize { Some(SHARED_BASE + offset as u32) } else { self.statics.address(pointer) }
    }
}

impl SharedMemory {
    /// The shared address of a host address in the window or in what is kept free around it.
    pub(crate) fn address_around(&self, pointer: usize) -> Option<u32> {
        let offset = pointer.wrapping_sub(self.allocation as usize);
        let inside = offset < self.bytes as usize + 2 * SHARED_ALIGNMENT;
        if !inside {
            return self.statics.address_around(pointer);
        }
        Some(SHARED_BASE + offset as u32 - SHARED_ALIGNMENT as u32)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.allocation, self.layout) };
    }
}

const CACHED_RANGES: usize = 8;

/// The launch's live ranges, those hit last in front.
pub(crate) struct GlobalMemory {
    recent: [Range; CACHED_RANGES],
    snapshot: Arc<Snapshot>,
    /// An observer has to be told of each access.
    observed: bool,
}

impl GlobalMemory {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { recent: [Range { start: 0, bytes: 0 }; CACHED_RANGES], snapshot, observed: false }
    }

    /// Takes the ranges of another launch, or keeps what is known of the same one.
    pub(crate) fn begin(&mut self, snapshot: &Arc<Snapshot>, observed: bool) {
        if !Arc::ptr_eq(&self.snapshot, snapshot) || self.observed != observed {
            *self = Self { observed, ..Self::new(snapshot.clone()) };
        }
    }

    /// Whether `bytes` bytes at `address` lie in one live range and `address` is a multiple of `alignment`, as long as nobody has to be
    /// told of it.
    #[inline(always)]
    pub(crate) fn allows(&mut self, address: usize, bytes: u32, alignment: u32) -> bool {
        let aligned = address & (alignment as usize).wrapping_sub(1) == 0;
        aligned && (holds(self.recent[0], address, bytes) || self.search(address, bytes))
    }

    /// As [`GlobalMemory::allows`], for accesses that an observer is told of.
    pub(crate) fn allows_observed(&mut self, address: usize, bytes: usize, alignment: u32) -> bool {
        let aligned = address & (alignment as usize).wrapping_sub(1) == 0;
        aligned && self.snapshot.find(address, bytes).is_some()
    }

    #[inline(never)]
    fn search(&mut self, address: usize, bytes: u32) -> bool {
        if self.observed {
            return false;
        }
        for index in 1..CACHED_RANGES {
            if holds(self.recent[index], address, bytes) {
                self.recent.swap(0, index);
                return true;
            }
        }
        let Some(range) = self.snapshot.find(address, bytes as usize) else { return false };
        self.recent.rotate_right(1);
        self.recent[0] = range;
        true
    }

    /// Why [`GlobalMemory::allows_observed`] said no.
    #[cold]
    pub(crate) fn refusal(&self, access: Access, address: usize, bytes: u32, alignment: u32) -> Reason {
        let space = Space::Global;
        if address & (alignment as usize).wrapping_sub(1) != 0 {
            return Reason::Misaligned { space, address: address as u64, alignment };
        }
        Reason::OutOfBounds { space, access, address: address as u64, bytes, nearby: self.snapshot.nearby(address) }
    }
}

#[inline(always)]
fn holds(range: Range, address: usize, bytes: u32) -> bool {
    let offset = address.wrapping_sub(range.start);
    offset < range.bytes && bytes as usize <= range.bytes - offset
}

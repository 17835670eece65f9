//! Memory that kernels can reach: which address ranges live, which were freed, and the backing of each.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::fault::Nearby;
use crate::initialised::Initialised;

/// What fresh and freed memory holds: in bfloat16, float16 and float32 this is a NaN.
pub const POISON: u8 = 0xFF;
/// Bytes before and after an allocation that nothing may write.
const RED_ZONE: usize = 256;
const RED_ZONE_BYTE: u8 = 0xFD;
/// Alignment of every allocation, as the driver gives it.
const ALIGNMENT: usize = 256;
/// Freed memory is kept back from reuse up to this many bytes, so that a use after free is named as such.
const QUARANTINE_BYTES: usize = 64 << 20;
const QUARANTINE_ENTRIES: usize = 4096;

/// An address range that kernels may access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: usize,
    /// Bytes.
    pub bytes: usize,
}

/// The live ranges at one moment, ascending.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Live ranges, ascending and disjoint.
    pub live: Vec<Range>,
    /// Ranges that were freed, oldest first.
    pub freed: Vec<Range>,
    /// Reserved addresses, mapped or not, ascending.
    pub reserved: Vec<Range>,
    /// What is mapped of them, accessible or not, ascending.
    pub mapped: Vec<Range>,
    /// What was written in each live range, where that is tracked.
    initialised: Vec<Option<Arc<Initialised>>>,
}

impl Snapshot {
    /// A snapshot of `live` ranges.
    pub fn new(mut live: Vec<Range>) -> Self {
        live.sort_unstable_by_key(|range| range.start);
        Self { live, ..Self::default() }
    }

    /// As [`Snapshot::new`], for launches under detectors: nothing was written but the ranges of `written`.
    pub fn tracked(live: Vec<Range>, written: &[Range]) -> Self {
        let mut snapshot = Self::new(live);
        let track = |range: &Range| Some(Arc::new(Initialised::new(range.bytes)));
        snapshot.initialised = snapshot.live.iter().map(track).collect();
        for range in written {
            if let Some((live, Some(initialised))) = snapshot.find_tracked(range.start, range.bytes) {
                initialised.set(range.start - live.start, range.bytes);
            }
        }
        snapshot
    }

    /// The live range that holds `bytes` bytes at `address`.
    pub fn find(&self, address: usize, bytes: usize) -> Option<Range> {
        self.index(address, bytes).map(|index| self.live[index])
    }

    fn index(&self, address: usize, bytes: usize) -> Option<usize> {
        let index = self.live.partition_point(|range| range.start <= address).checked_sub(1)?;
        let range = self.live[index];
        let offset = address - range.start;
        (offset < range.bytes && bytes <= range.bytes - offset).then_some(index)
    }

    /// As [`Snapshot::find`], with what was written there.
    pub(crate) fn find_tracked(&self, address: usize, bytes: usize) -> Option<(Range, Option<&Arc<Initialised>>)> {
        let index = self.index(address, bytes)?;
        Some((self.live[index], self.initialised.get(index)?.as_ref()))
    }

    /// What lies near `address`, for a report.
    pub fn nearby(&self, address: usize) -> Nearby {
        let within = |range: &&Range| address >= range.start && address - range.start < range.bytes;
        if let Some(range) = self.live.iter().find(within) {
            return Nearby::Live { offset: (address - range.start) as i64, bytes: range.bytes };
        }
        if let Some(range) = self.freed.iter().rev().find(within) {
            return Nearby::Freed { offset: (address - range.start) as i64, bytes: range.bytes };
        }
        if let Some(range) = self.reserved.iter().find(within) {
            let mapped = self.mapped.iter().any(|mapping| within(&mapping));
            return Nearby::Reserved { offset: (address - range.start) as i64, bytes: range.bytes, mapped };
        }
        let distance = |range: &&Range| {
            if address < range.start { range.start - address } else { address - range.start - (range.bytes - 1) }
        };
        match self.live.iter().min_by_key(distance) {
            Some(range) if distance(&range) <= 1 << 20 => {
                Nearby::Live { offset: address as i64 - range.start as i64, bytes: range.bytes }
            }
            _ => Nearby::Nothing,
        }
    }
}

/// The kind of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Counts against the device's memory.
    Device,
    /// Pinned host memory, mapped into the device's address space.
    Host,
    /// Physical memory behind reserved addresses; found as one range with its accessible neighbours.
    Mapped,
}

struct Allocation {
    base: *mut u8,
    layout: Layout,
    bytes: usize,
    kind: Kind,
    /// Its place in the order in which things were made.
    number: u64,
    initialised: Option<Arc<Initialised>>,
}

// SAFETY: the allocation owns its memory; the pointer is only used by its owner or through device addresses, whose races are
// those of the simulated program.
unsafe impl Send for Allocation {}

impl Allocation {
    fn new(bytes: usize, kind: Kind, number: u64) -> Option<Self> {
        let total = bytes.checked_add(2 * RED_ZONE)?;
        let layout = Layout::from_size_align(total, ALIGNMENT).ok()?;
        // SAFETY: the layout's size is at least twice the red zone, never zero.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            return None;
        }
        // SAFETY: `base` is valid for `total` bytes.
        unsafe {
            base.write_bytes(RED_ZONE_BYTE, RED_ZONE);
            base.add(RED_ZONE).write_bytes(POISON, bytes);
            base.add(RED_ZONE + bytes).write_bytes(RED_ZONE_BYTE, RED_ZONE);
        }
        Some(Self { base, layout, bytes, kind, number, initialised: None })
    }

    fn start(&self) -> usize {
        self.base as usize + RED_ZONE
    }

    fn range(&self) -> Range {
        Range { start: self.start(), bytes: self.bytes }
    }

    fn intact(&self) -> bool {
        // SAFETY: both red zones lie inside the allocation, and no kernel runs while one is checked.
        let (before, after) = unsafe {
            (
                std::slice::from_raw_parts(self.base, RED_ZONE),
                std::slice::from_raw_parts(self.base.add(RED_ZONE + self.bytes), RED_ZONE),
            )
        };
        before.iter().chain(after).all(|&byte| byte == RED_ZONE_BYTE)
    }

    fn poison(&mut self) {
        // SAFETY: the bytes lie inside the allocation, which nobody may use any more.
        unsafe { self.base.add(RED_ZONE).write_bytes(POISON, self.bytes) };
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.base, self.layout) };
    }
}

/// A red zone was found written: the allocation it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged(pub(crate) Range);

/// All allocations of a device.
#[derive(Default)]
pub(crate) struct Memory {
    live: BTreeMap<usize, Allocation>,
    quarantine: VecDeque<Allocation>,
    quarantined: usize,
    device_bytes: usize,
    virtual_ranges: VirtualRanges,
    snapshot: Arc<Snapshot>,
    tracked: bool,
}

/// What the device's reserved addresses look like: see [`Snapshot`].
#[derive(Clone, Debug, Default)]
pub(crate) struct VirtualRanges {
    /// What kernels may access, ascending, neighbours merged.
    pub(crate) accessible: Vec<Range>,
    pub(crate) reserved: Vec<Range>,
    pub(crate) mapped: Vec<Range>,
}

impl Memory {
    /// No allocations; with `tracked` it is known of device memory which bytes were written. Host memory may be written at any time
    /// by the host, and of mapped memory nothing is known.
    pub(crate) fn new(tracked: bool) -> Self {
        Self { tracked, ..Self::default() }
    }

    /// Bytes of device memory in use.
    pub(crate) fn device_bytes(&self) -> usize {
        self.device_bytes
    }

    /// The live ranges now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    /// Kind, address, size and number of every live allocation, by address.
    pub(crate) fn allocations(&self) -> impl Iterator<Item = (Kind, Range, u64)> {
        self.live.values().map(|allocation| (allocation.kind, allocation.range(), allocation.number))
    }

    /// Takes note of what reserved addresses look like now.
    pub(crate) fn set_virtual_ranges(&mut self, ranges: VirtualRanges) {
        self.virtual_ranges = ranges;
        self.refresh();
    }

    /// Allocates `bytes` poisoned bytes, as thing `number` that was made; none when the host has no memory left.
    pub(crate) fn allocate(&mut self, bytes: usize, kind: Kind, number: u64) -> Option<usize> {
        let mut allocation = Allocation::new(bytes, kind, number)?;
        if self.tracked && kind == Kind::Device {
            allocation.initialised = Some(Arc::new(Initialised::new(bytes)));
        }
        let start = allocation.start();
        if kind == Kind::Device {
            self.device_bytes += bytes;
        }
        self.live.insert(start, allocation);
        self.refresh();
        Some(start)
    }

    /// Frees the allocation of `kind` that starts at `start`: none where there is no such allocation.
    pub(crate) fn free(&mut self, start: usize, kind: Kind) -> Option<Result<(), Damaged>> {
        if self.live.get(&start)?.kind != kind {
            return None;
        }
        let mut allocation = self.live.remove(&start)?;
        if kind == Kind::Device {
            self.device_bytes -= allocation.bytes;
        }
        let answer = if allocation.intact() { Ok(()) } else { Err(Damaged(allocation.range())) };
        allocation.poison();
        self.quarantined += allocation.bytes;
        self.quarantine.push_back(allocation);
        while self.quarantined > QUARANTINE_BYTES || self.quarantine.len() > QUARANTINE_ENTRIES {
            let Some(oldest) = self.quarantine.pop_front() else { break };
            self.quarantined -= oldest.bytes;
        }
        self.refresh();
        Some(answer)
    }

    /// The kind and range of the live allocation that holds `bytes` bytes at `address`.
    pub(crate) fn find(&self, address: usize, bytes: usize) -> Option<(Kind, Range)> {
        let holds = |range: &Range| {
            let offset = address.wrapping_sub(range.start);
            offset <= range.bytes && bytes <= range.bytes - offset
        };
        let allocated = self.live.range(..=address).next_back();
        let allocated = allocated.map(|(_, allocation)| (allocation.kind, allocation.range()));
        let mapped =
            || self.virtual_ranges.accessible.iter().find(|range| holds(range)).map(|&range| (Kind::Mapped, range));
        allocated.filter(|(_, range)| holds(range)).or_else(mapped)
    }

    fn tracked(&self, address: usize, bytes: usize) -> Option<(&Initialised, usize)> {
        let (range, initialised) = self.snapshot.find_tracked(address, bytes)?;
        Some((initialised?, address - range.start))
    }

    /// Takes note that the bytes were written.
    pub(crate) fn written(&self, address: usize, bytes: usize) {
        if let Some((initialised, first)) = self.tracked(address, bytes) {
            initialised.set(first, bytes);
        }
    }

    /// Takes note that the bytes hold nothing any more.
    pub(crate) fn unwritten(&self, address: usize, bytes: usize) {
        if let Some((initialised, first)) = self.tracked(address, bytes) {
            initialised.clear(first, bytes);
        }
    }

    /// Takes note of a copy: the target holds what the source does, and memory that is not tracked was written.
    pub(crate) fn copied(&self, to: usize, from: Option<usize>, bytes: usize) {
        match (self.tracked(to, bytes), from.and_then(|from| self.tracked(from, bytes))) {
            (Some((target, first)), Some((source, from_first))) => target.copy(first, source, from_first, bytes),
            (Some((target, first)), None) => target.set(first, bytes),
            (None, _) => {}
        }
    }

    /// The first allocation whose red zone was written.
    pub(crate) fn damaged(&self) -> Option<Damaged> {
        self.live.values().find(|allocation| !allocation.intact()).map(|allocation| Damaged(allocation.range()))
    }

    fn refresh(&mut self) {
        let VirtualRanges { accessible, reserved, mapped } = &self.virtual_ranges;
        let own = self.live.values().map(|allocation| (allocation.range(), allocation.initialised.clone()));
        let mut live: Vec<_> = own.chain(accessible.iter().map(|&range| (range, None))).collect();
        live.sort_unstable_by_key(|(range, _)| range.start);
        let (live, initialised) = live.into_iter().unzip();
        self.snapshot = Arc::new(Snapshot {
            live,
            freed: self.quarantine.iter().map(Allocation::range).collect(),
            initialised,
            reserved: reserved.clone(),
            mapped: mapped.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_memory_is_poison_and_exactly_bounded() {
        let mut memory = Memory::default();
        let start = memory.allocate(100, Kind::Device, 0).unwrap();
        // SAFETY: 100 bytes were allocated.
        let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, 100) };
        assert!(bytes.iter().all(|&byte| byte == POISON));
        let snapshot = memory.snapshot();
        assert!(snapshot.find(start, 100).is_some() && snapshot.find(start + 96, 4).is_some());
        assert!(snapshot.find(start, 101).is_none() && snapshot.find(start + 97, 4).is_none());
        assert!(snapshot.find(start - 1, 1).is_none() && snapshot.find(start + 100, 1).is_none());
        assert_eq!(snapshot.nearby(start + 104), Nearby::Live { offset: 104, bytes: 100 });
        assert_eq!(snapshot.nearby(start - 4), Nearby::Live { offset: -4, bytes: 100 });
    }

    #[test]
    fn freed_memory_is_recognised() {
        let mut memory = Memory::default();
        let start = memory.allocate(64, Kind::Device, 0).unwrap();
        assert_eq!(memory.free(start, Kind::Host), None);
        assert_eq!(memory.free(start, Kind::Device), Some(Ok(())));
        assert_eq!(memory.free(start, Kind::Device), None);
        assert_eq!(memory.device_bytes(), 0);
        assert_eq!(memory.snapshot().find(start, 4), None);
        assert_eq!(memory.snapshot().nearby(start + 8), Nearby::Freed { offset: 8, bytes: 64 });
    }

    #[test]
    fn a_write_past_the_end_is_seen_at_free() {
        let mut memory = Memory::default();
        let start = memory.allocate(64, Kind::Device, 0).unwrap();
        assert!(memory.damaged().is_none());
        // SAFETY: the byte lies in the red zone, which is part of the allocation.
        unsafe { ((start + 64) as *mut u8).write(0) };
        assert_eq!(memory.damaged(), Some(Damaged(Range { start, bytes: 64 })));
        assert_eq!(memory.free(start, Kind::Device), Some(Err(Damaged(Range { start, bytes: 64 }))));
    }
}

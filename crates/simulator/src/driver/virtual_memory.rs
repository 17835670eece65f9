//! Virtual memory (CUDA driver API, "Virtual Memory Management"): reserved addresses, physical memory, and the mappings between them.
//!
//! | rule | otherwise |
//! |---|---|
//! | sizes, addresses and mappings are multiples of 2 MiB; a reservation's size is one of the host's page size | `INVALID_VALUE` |
//! | physical memory is mapped from its start, into a reservation, where nothing is mapped | `INVALID_VALUE` |
//! | access is set for whole mappings without a gap, and again after every mapping | `INVALID_VALUE`, or a fault at the access |
//! | unmapping takes whole mappings, one or several neighbours | `INVALID_VALUE` |
//! | a reservation is freed whole, with nothing mapped | `INVALID_VALUE` |
//! | a handle is released once; its memory goes with the last mapping | `INVALID_VALUE` |
//!
//! An address stays the same whatever is mapped there, and physical memory keeps its contents while nothing maps it. Nothing here waits for
//! queued work: what uses a range that was unmapped meanwhile is a fault (CUDA only says that cuMemUnmap is synchronous "for most
//! use cases"). Read-only access and memory that other processes share are not supported. In a capture these calls are as unsafe as
//! other memory calls. What CUDA ties to no context dies here with the primary context.

use std::collections::BTreeMap;

use gridpoint_driver::{
    CUdeviceptr, CUmemAccess_flags as Access, CUmemAccessDesc, CUmemAllocationGranularity_flags as Granularity,
    CUmemAllocationProp, CUmemAllocationType, CUmemGenericAllocationHandle, CUmemLocation, CUmemLocationType, CUresult,
    Table,
};

use super::device::check_device;
use super::state::{Id, State};
use super::{Answer, get, initialised, put};
use crate::memory::{Range, VirtualRanges};
use crate::pages::{Backing, Reservation};

/// What physical memory and mappings are multiples of, as on NVIDIA's data-centre devices.
const GRANULARITY: usize = 2 << 20;
/// The host's page size.
const PAGE: usize = 4 << 10;

/// Physical memory.
#[derive(Debug)]
struct Physical {
    backing: Backing,
    bytes: usize,
    /// How often it is mapped.
    mappings: usize,
    released: bool,
}

/// A piece of a reservation with physical memory behind it.
#[derive(Debug)]
struct Mapping {
    bytes: usize,
    physical: Id,
    reservation: usize,
    accessible: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct VirtualMemory {
    physical: BTreeMap<Id, Physical>,
    /// By address, with the number of each.
    reservations: BTreeMap<usize, (Reservation, Id)>,
    /// By address.
    mappings: BTreeMap<usize, Mapping>,
}

impl VirtualMemory {
    /// Bytes of device memory in use.
    pub(super) fn physical_bytes(&self) -> u64 {
        self.physical.values().map(|physical| physical.bytes as u64).sum()
    }

    /// Number and bytes of all physical memory, released or not.
    pub(super) fn physical(&self) -> impl Iterator<Item = (Id, usize)> {
        self.physical.iter().map(|(&number, physical)| (number, physical.bytes))
    }

    /// Number and range of all reservations.
    pub(super) fn reservations(&self) -> impl Iterator<Item = (Id, Range)> {
        self.reservations.values().map(|(own, number)| (*number, Range { start: own.start(), bytes: own.bytes() }))
    }

    fn ranges(&self) -> VirtualRanges {
        let mut ranges = VirtualRanges {
            reserved: self.reservations().map(|(_, range)| range).collect(),
            mapped: self.mappings.iter().map(|(&start, mapping)| Range { start, bytes: mapping.bytes }).collect(),
            accessible: Vec::new(),
        };
        for (&start, mapping) in self.mappings.iter().filter(|(_, mapping)| mapping.accessible) {
            match ranges.accessible.last_mut() {
                Some(last) if last.start + last.bytes == start => last.bytes += mapping.bytes,
                _ => ranges.accessible.push(Range { start, bytes: mapping.bytes }),
            }
        }
        ranges
    }

    /// The reservation that holds a range.
    fn reservation(&self, start: usize, bytes: usize) -> Answer<&Reservation> {
        let found = self.reservations.range(..=start).next_back().map(|(_, (found, _))| found);
        found.filter(|found| found.holds(start, bytes)).ok_or(CUresult::ERROR_INVALID_VALUE)
    }

    /// The addresses of the mappings that together are exactly the range.
    fn whole_mappings(&self, start: usize, bytes: usize) -> Answer<Vec<usize>> {
        let end = start.checked_add(bytes).filter(|_| bytes > 0).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        let (mut next, mut found) = (start, Vec::new());
        while next < end {
            let mapping = self.mappings.get(&next).ok_or(CUresult::ERROR_INVALID_VALUE)?;
            found.push(next);
            next += mapping.bytes;
        }
        if next == end { Ok(found) } else { Err(CUresult::ERROR_INVALID_VALUE) }
    }

    fn map(&mut self, start: usize, bytes: usize, physical: Id) -> Answer {
        if bytes == 0 || !start.is_multiple_of(GRANULARITY) || !bytes.is_multiple_of(GRANULARITY) {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let reservation = self.reservation(start, bytes)?;
        let before = self.mappings.range(..start + bytes).next_back();
        if before.is_some_and(|(&other, mapping)| other + mapping.bytes > start) {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let known = self.physical.get(&physical).filter(|known| !known.released && bytes <= known.bytes);
        let known = known.ok_or(CUresult::ERROR_INVALID_VALUE)?;
        if !reservation.map(start, bytes, &known.backing) {
            return Err(CUresult::ERROR_OUT_OF_MEMORY);
        }
        let reservation = reservation.start();
        self.mappings.insert(start, Mapping { bytes, physical, reservation, accessible: false });
        if let Some(known) = self.physical.get_mut(&physical) {
            known.mappings += 1;
        }
        Ok(())
    }

    fn set_access(&mut self, start: usize, bytes: usize, accessible: bool) -> Answer {
        for at in self.whole_mappings(start, bytes)? {
            let Some(mapping) = self.mappings.get_mut(&at) else { continue };
            let reservation = self.reservations.get(&mapping.reservation).map(|(found, _)| found);
            if !reservation.is_some_and(|found| found.allow(at, mapping.bytes, accessible)) {
                return Err(CUresult::ERROR_OPERATING_SYSTEM);
            }
            mapping.accessible = accessible;
        }
        Ok(())
    }

    fn unmap(&mut self, start: usize, bytes: usize) -> Answer {
        for at in self.whole_mappings(start, bytes)? {
            let Some(Mapping { bytes, physical, reservation, .. }) = self.mappings.remove(&at) else { continue };
            let reservation = self.reservations.get(&reservation).map(|(found, _)| found);
            if !reservation.is_some_and(|found| found.unmap(at, bytes)) {
                return Err(CUresult::ERROR_UNMAP_FAILED);
            }
            if let Some(known) = self.physical.get_mut(&physical) {
                known.mappings -= 1;
            }
            self.physical.retain(|_, known| known.mappings > 0 || !known.released);
        }
        Ok(())
    }

    fn release(&mut self, physical: Id) -> Answer {
        let known = self.physical.get_mut(&physical).filter(|known| !known.released);
        known.ok_or(CUresult::ERROR_INVALID_VALUE)?.released = true;
        self.physical.retain(|_, known| known.mappings > 0 || !known.released);
        Ok(())
    }

    fn free(&mut self, start: usize, bytes: usize) -> Answer {
        let known = self.reservations.get(&start).is_some_and(|(found, _)| found.bytes() == bytes);
        if !known || self.mappings.values().any(|mapping| mapping.reservation == start) {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        self.reservations.remove(&start);
        Ok(())
    }
}

pub(super) fn fill(table: &mut Table) {
    table.cuMemAddressReserve = address_reserve;
    table.cuMemAddressFree = address_free;
    table.cuMemCreate = create;
    table.cuMemRelease = release;
    table.cuMemMap = map;
    table.cuMemUnmap = unmap;
    table.cuMemSetAccess = set_access;
    table.cuMemGetAllocationGranularity = get_allocation_granularity;
}

/// Changes reserved addresses, physical memory or mappings, and tells the memory that kernels see.
fn change(body: impl FnOnce(&mut State) -> Answer) -> CUresult {
    initialised(|state| {
        state.check_unsafe_call()?;
        let answer = body(state);
        state.memory.set_virtual_ranges(state.virtual_memory.ranges());
        answer
    })
}

fn check_location(location: CUmemLocation) -> Answer {
    match location.kind {
        CUmemLocationType::DEVICE => check_device(location.id),
        CUmemLocationType::INVALID => Err(CUresult::ERROR_INVALID_VALUE),
        _ => Err(CUresult::ERROR_NOT_SUPPORTED),
    }
}

fn check_properties(properties: &CUmemAllocationProp) -> Answer {
    if properties.kind != CUmemAllocationType::PINNED {
        return Err(CUresult::ERROR_INVALID_VALUE);
    }
    if properties.requested_handle_types != 0 {
        return Err(CUresult::ERROR_NOT_SUPPORTED);
    }
    check_location(properties.location)
}

/// An alignment of 0 is 2 MiB; the wanted address is a hint.
unsafe extern "C" fn address_reserve(
    pointer: *mut CUdeviceptr,
    bytes: usize,
    alignment: usize,
    wanted: CUdeviceptr,
    flags: u64,
) -> CUresult {
    change(|state| {
        let aligned = alignment == 0 || alignment.is_power_of_two();
        let wanted = usize::try_from(wanted).map_err(|_| CUresult::ERROR_INVALID_VALUE)?;
        if bytes == 0 || !bytes.is_multiple_of(PAGE) || !wanted.is_multiple_of(PAGE) || !aligned || flags != 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        put!(pointer, 0)?;
        let reservation = Reservation::new(bytes, alignment.max(GRANULARITY), wanted);
        let reservation = reservation.ok_or(CUresult::ERROR_OUT_OF_MEMORY)?;
        let (start, number) = (reservation.start(), state.fresh());
        state.virtual_memory.reservations.insert(start, (reservation, number));
        put!(pointer, start as u64)
    })
}

unsafe extern "C" fn address_free(pointer: CUdeviceptr, bytes: usize) -> CUresult {
    change(|state| state.virtual_memory.free(pointer as usize, bytes))
}

unsafe extern "C" fn create(
    handle: *mut CUmemGenericAllocationHandle,
    bytes: usize,
    properties: *const CUmemAllocationProp,
    flags: u64,
) -> CUresult {
    change(|state| {
        check_properties(&get!(properties)?)?;
        if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) || flags != 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        put!(handle, 0)?;
        state.reserve(bytes as u64)?;
        let backing = Backing::new(bytes).map_err(|_| CUresult::ERROR_OUT_OF_MEMORY)?;
        let created = state.fresh();
        state.virtual_memory.physical.insert(created, Physical { backing, bytes, mappings: 0, released: false });
        put!(handle, created)
    })
}

unsafe extern "C" fn release(handle: CUmemGenericAllocationHandle) -> CUresult {
    change(|state| state.virtual_memory.release(handle))
}

unsafe extern "C" fn map(
    pointer: CUdeviceptr,
    bytes: usize,
    offset: usize,
    handle: CUmemGenericAllocationHandle,
    flags: u64,
) -> CUresult {
    change(|state| {
        if offset != 0 || flags != 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        state.virtual_memory.map(pointer as usize, bytes, handle)
    })
}

unsafe extern "C" fn unmap(pointer: CUdeviceptr, bytes: usize) -> CUresult {
    change(|state| state.virtual_memory.unmap(pointer as usize, bytes))
}

/// The last of several descriptions of the device holds.
unsafe extern "C" fn set_access(
    pointer: CUdeviceptr,
    bytes: usize,
    descriptions: *const CUmemAccessDesc,
    count: usize,
) -> CUresult {
    change(|state| {
        let mut accessible = None;
        for index in 0..count {
            let CUmemAccessDesc { location, flags } = get!(descriptions.wrapping_add(index))?;
            check_location(location)?;
            accessible = Some(match flags {
                Access::PROT_NONE => false,
                Access::PROT_READWRITE => true,
                Access::PROT_READ => return Err(CUresult::ERROR_NOT_SUPPORTED),
                _ => return Err(CUresult::ERROR_INVALID_VALUE),
            });
        }
        let accessible = accessible.ok_or(CUresult::ERROR_INVALID_VALUE)?;
        state.virtual_memory.set_access(pointer as usize, bytes, accessible)
    })
}

unsafe extern "C" fn get_allocation_granularity(
    granularity: *mut usize,
    properties: *const CUmemAllocationProp,
    option: Granularity,
) -> CUresult {
    initialised(|_| {
        check_properties(&get!(properties)?)?;
        if option > Granularity::RECOMMENDED {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        put!(granularity, GRANULARITY)
    })
}

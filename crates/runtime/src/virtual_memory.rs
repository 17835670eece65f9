//! Device memory at reserved addresses, which can be given back and taken again (CUDA driver API, "Virtual Memory Management").
//!
//! Addresses are reserved once and stay; physical memory comes and goes behind them. So captured graphs, tensor maps and parameter structs
//! that hold the addresses stay right.
//!
//! **Few large handles.** Every piece of physical memory is created, mapped and unmapped by calls of its own, whose cost goes with their
//! number: engines that made a handle of 2 MiB or so for each block of memory saw 6 to 9 seconds go into unmapping a cache (vLLM, issue
//! 45648). Here a range is one piece, or as many as `largest_handle` makes necessary. A handle is released as soon as it is mapped: the
//! mapping keeps the memory, so giving it back is one call for each piece, and there is nothing else to lose track of.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gridpoint_driver as driver;
use gridpoint_driver::{
    CUdeviceptr, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationGranularity_flags, CUmemAllocationProp,
    CUmemAllocationType, CUmemGenericAllocationHandle, CUmemLocation, CUmemLocationType, CUresult, CUstream,
};

use crate::stream::report;
use crate::{Device, RuntimeError};

/// The largest piece of physical memory that one handle stands for, unless the caller says otherwise: the memory of any GPU of today is a
/// handful of pieces, and no call asks the driver for more than this at once.
pub(crate) const LARGEST_HANDLE: u64 = 16 << 30;

/// What is known of a piece of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Empty,
    Mapped,
    /// The driver failed at unmapping it. It may have done so all the same, so it is unmapped again before anything else happens to it.
    Uncertain,
}

/// A reserved range of addresses, and the physical memory behind it.
#[derive(Debug)]
pub(crate) struct VirtualMemory {
    address: CUdeviceptr,
    bytes: u64,
    piece_bytes: u64,
    properties: CUmemAllocationProp,
    pieces: Mutex<Vec<Piece>>,
}

// SAFETY: the pointer among the properties is null; all else is plain numbers, and the driver's calls may come from any thread.
unsafe impl Send for VirtualMemory {}
// SAFETY: as above; what changes is behind a lock.
unsafe impl Sync for VirtualMemory {}

/// Physical memory of `device` that no other process sees.
fn properties(device: &Device) -> CUmemAllocationProp {
    CUmemAllocationProp {
        kind: CUmemAllocationType::PINNED,
        location: CUmemLocation { kind: CUmemLocationType::DEVICE, id: device.ordinal() },
        ..CUmemAllocationProp::default()
    }
}

/// What sizes and addresses of physical memory on `device` are multiples of, in bytes.
pub(crate) fn granularity(device: &Device) -> Result<u64, RuntimeError> {
    let mut bytes = 0;
    // The recommended one: it is never below the least, and mappings of it have the large pages that the device is fastest with.
    let option = CUmemAllocationGranularity_flags::RECOMMENDED;
    // SAFETY: both pointers are those of live values.
    let code = unsafe { (driver::table().cuMemGetAllocationGranularity)(&mut bytes, &properties(device), option) };
    driver::check("cuMemGetAllocationGranularity", code)?;
    Ok((bytes as u64).max(1))
}

impl VirtualMemory {
    /// Reserves addresses for `bytes` bytes, rounded up to the device's granularity, with nothing behind them yet.
    ///
    /// # Errors
    /// The driver's error.
    pub(crate) fn reserve(device: &Device, bytes: u64, largest_handle: u64) -> Result<Self, RuntimeError> {
        let granularity = granularity(device)?;
        let bytes = bytes.max(1).next_multiple_of(granularity);
        let piece_bytes = (largest_handle / granularity * granularity).clamp(granularity, bytes);
        let mut address = CUdeviceptr::default();
        // SAFETY: the pointer is that of a live integer. No address is wished for.
        let code =
            unsafe { (driver::table().cuMemAddressReserve)(&mut address, bytes as usize, granularity as usize, 0, 0) };
        driver::check("cuMemAddressReserve", code)?;
        let pieces = vec![Piece::Empty; bytes.div_ceil(piece_bytes) as usize];
        Ok(Self { address, bytes, piece_bytes, properties: properties(device), pieces: Mutex::new(pieces) })
    }

    /// The first address; it never changes.
    pub(crate) fn address(&self) -> CUdeviceptr {
        self.address
    }

    /// Bytes of the range, and of the physical memory when it is there.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether physical memory is there.
    pub(crate) fn is_held(&self) -> bool {
        self.pieces().iter().all(|&piece| piece == Piece::Mapped)
    }

    /// Puts physical memory behind the whole range; its contents are unspecified. Does nothing where it is there.
    ///
    /// # Errors
    /// The driver's error: the range is released then, whatever had been mapped.
    pub(crate) fn restore(&self) -> Result<(), driver::Error> {
        let mut pieces = self.pieces();
        if pieces.iter().all(|&piece| piece == Piece::Mapped) {
            return Ok(());
        }
        // Also what an earlier call could not unmap for certain.
        self.unmap_all(&mut pieces)?;
        let mapped = (0..pieces.len()).try_for_each(|index| self.map(index, &mut pieces));
        // Access is part of a mapping: a range that was mapped anew has none.
        let restored = mapped.and_then(|()| self.allow_access());
        if restored.is_err()
            && let Err(error) = self.unmap_all(&mut pieces)
        {
            tracing::warn!("{error}");
        }
        restored
    }

    /// Gives the physical memory back. The addresses stay reserved. No work that uses the range may be on its way: unmapping waits for
    /// none.
    ///
    /// # Errors
    /// The driver's first error. All pieces were unmapped, as far as the driver does it, and the range counts as released.
    pub(crate) fn release(&self) -> Result<(), driver::Error> {
        self.unmap_all(&mut self.pieces())
    }

    fn pieces(&self) -> MutexGuard<'_, Vec<Piece>> {
        // Each change of an entry stands for a call that was made, so a panic elsewhere leaves the list right.
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// First address and bytes of a piece.
    fn place(&self, index: usize) -> (CUdeviceptr, usize) {
        let first = index as u64 * self.piece_bytes;
        (self.address + first, (self.bytes - first).min(self.piece_bytes) as usize)
    }

    fn map(&self, index: usize, pieces: &mut [Piece]) -> Result<(), driver::Error> {
        let table = driver::table();
        let (address, bytes) = self.place(index);
        let mut handle = CUmemGenericAllocationHandle::default();
        // SAFETY: both pointers are those of live values.
        driver::check("cuMemCreate", unsafe { (table.cuMemCreate)(&mut handle, bytes, &self.properties, 0) })?;
        // SAFETY: the piece lies in the reserved range, nothing is mapped there, and the handle is live and of that size.
        let mapped = driver::check("cuMemMap", unsafe { (table.cuMemMap)(address, bytes, 0, handle, 0) });
        if mapped.is_ok() {
            pieces[index] = Piece::Mapped;
        }
        // SAFETY: the handle is live and not used again; a mapping keeps its memory.
        let released = driver::check("cuMemRelease", unsafe { (table.cuMemRelease)(handle) });
        mapped.and(released)
    }

    fn allow_access(&self) -> Result<(), driver::Error> {
        let access = CUmemAccessDesc { location: self.properties.location, flags: CUmemAccess_flags::PROT_READWRITE };
        // SAFETY: the whole range is mapped, and the description lives until the call returns.
        let code = unsafe { (driver::table().cuMemSetAccess)(self.address, self.bytes as usize, &access, 1) };
        driver::check("cuMemSetAccess", code)
    }

    fn unmap_all(&self, pieces: &mut [Piece]) -> Result<(), driver::Error> {
        let mut first = Ok(());
        for (index, piece) in pieces.iter_mut().enumerate() {
            let known = *piece;
            if known == Piece::Empty {
                continue;
            }
            let (address, bytes) = self.place(index);
            // SAFETY: the piece was mapped by one call. Where it is not mapped any more, the driver refuses and changes nothing.
            let code = unsafe { (driver::table().cuMemUnmap)(address, bytes) };
            // A second call may find that the first had done it.
            let nothing_there = known == Piece::Uncertain && code == CUresult::ERROR_INVALID_VALUE;
            *piece = if code.is_success() || nothing_there { Piece::Empty } else { Piece::Uncertain };
            if !nothing_there && first.is_ok() {
                first = driver::check("cuMemUnmap", code);
            }
        }
        first
    }
}

impl Drop for VirtualMemory {
    fn drop(&mut self) {
        // Freeing an allocation waits for the device, unmapping does not: a copy from pageable memory may be on its way although its call
        // has returned (CUDA driver API, "API synchronization behavior").
        let table = driver::table();
        // SAFETY: the calls have no arguments that could be wrong; null is the default stream, on which such copies run.
        let code = unsafe { (table.cuCtxSynchronize)() };
        if !code.is_success() {
            report("cuCtxSynchronize", code);
            // SAFETY: as above.
            report("cuStreamSynchronize", unsafe { (table.cuStreamSynchronize)(CUstream::null()) });
        }
        let pieces = &mut *self.pieces();
        if let Err(error) = self.unmap_all(pieces) {
            tracing::warn!("{error}");
            let _ = self.unmap_all(pieces);
        }
        // SAFETY: the range was reserved with this size, nothing is mapped in it, and it is not used again.
        let code = unsafe { (driver::table().cuMemAddressFree)(self.address, self.bytes as usize) };
        report("cuMemAddressFree", code);
    }
}

//! One device allocation, laid out before it is made.
//!
//! Everything a run needs on the device is reserved in an [`ArenaLayout`] first, so that the bytes are known before a single one is
//! allocated; [`Arena::new`] then makes one allocation. Regions start at multiples of 256 bytes. Graphs hold addresses inside the
//! arena, so a [`crate::Graph`] keeps its arena alive.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;
use cust::memory::{CopyDestination, DeviceBuffer};
use gridpoint_driver as driver;

use crate::error::from_cust;
use crate::{Device, RuntimeError};

/// Every region starts at a multiple of this many bytes: a sector-aligned start for any vector access or tensor map.
pub const REGION_ALIGNMENT: u64 = 256;

/// A named piece of an arena: `count` elements of `T`.
#[derive(Debug)]
pub struct Region<T> {
    offset: u64,
    count: u64,
    element: PhantomData<fn() -> T>,
}

impl<T> Clone for Region<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Region<T> {}

impl<T> Region<T> {
    /// Elements of the region.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of the region.
    pub fn bytes(&self) -> u64 {
        self.count * size_of::<T>() as u64
    }
}

/// Regions and the size of the arena that holds them.
#[derive(Clone, Debug, Default)]
pub struct ArenaLayout {
    bytes: u64,
    regions: Vec<(&'static str, u64)>,
}

impl ArenaLayout {
    /// An empty layout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reserves `count` elements of `T` under a name that the memory report shows.
    ///
    /// # Errors
    /// [`RuntimeError::LayoutOverflow`] when the layout's size would not fit.
    pub fn reserve<T>(&mut self, name: &'static str, count: u64) -> Result<Region<T>, RuntimeError> {
        let overflow = || RuntimeError::LayoutOverflow { region: name };
        let bytes = count.checked_mul(size_of::<T>() as u64).ok_or_else(overflow)?;
        let padded = bytes.checked_next_multiple_of(REGION_ALIGNMENT).ok_or_else(overflow)?;
        let offset = self.bytes;
        self.bytes = offset.checked_add(padded).filter(|&end| end <= i64::MAX as u64).ok_or_else(overflow)?;
        self.regions.push((name, bytes));
        Ok(Region { offset, count, element: PhantomData })
    }

    /// Bytes of an arena with this layout.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Name and bytes of every region, in order.
    pub fn regions(&self) -> &[(&'static str, u64)] {
        &self.regions
    }
}

/// One device allocation.
pub struct Arena {
    buffer: DeviceBuffer<u8>,
    bytes: u64,
    // Declared last: the allocation is freed before its device may go.
    device: Arc<Device>,
}

impl Arena {
    /// Allocates an arena; its contents are unspecified.
    ///
    /// # Errors
    /// [`RuntimeError::OutOfMemory`] naming `what`, the bytes asked for and the bytes free.
    pub fn new(device: &Arc<Device>, what: &str, layout: &ArenaLayout) -> Result<Self, RuntimeError> {
        let memory = device.memory()?;
        let exhausted = || RuntimeError::OutOfMemory {
            what: what.to_owned(),
            needed: layout.bytes,
            free: memory.free,
            total: memory.total,
        };
        if layout.bytes > memory.free {
            return Err(exhausted());
        }
        let length = usize::try_from(layout.bytes.max(1)).map_err(|_| exhausted())?;
        // SAFETY: the contents are raw bytes for which every pattern is valid, and they reach the host only as such.
        let buffer = unsafe { DeviceBuffer::uninitialized(length) }.map_err(|error| match error {
            cust::error::CudaError::OutOfMemory => exhausted(),
            other => from_cust("cuMemAlloc_v2")(other),
        })?;
        Ok(Self { buffer, bytes: layout.bytes, device: Arc::clone(device) })
    }

    /// Bytes of the allocation.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The device that holds it.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Device address of a region's first element.
    pub fn pointer<T>(&self, region: Region<T>) -> *mut T {
        let base = self.buffer.as_device_ptr().as_raw();
        std::ptr::with_exposed_provenance_mut((base + region.offset) as usize)
    }

    /// Copies `values` to a region, from element `first` on; the copy is done when this returns.
    ///
    /// # Errors
    /// [`RuntimeError::CopyOutOfRegion`] when it does not fit, or the driver's error.
    pub fn upload<T: Pod>(&self, region: Region<T>, first: u64, values: &[T]) -> Result<(), RuntimeError> {
        let range = self.range(region, first, values.len())?;
        self.buffer
            .index(range)
            .copy_from(bytemuck::cast_slice::<T, u8>(values))
            .map_err(from_cust("cuMemcpyHtoD_v2"))?;
        finish_default_stream()
    }

    /// Copies a region's elements from `first` on into `values`.
    ///
    /// # Errors
    /// [`RuntimeError::CopyOutOfRegion`] when it does not fit, or the driver's error.
    pub fn download<T: Pod>(&self, region: Region<T>, first: u64, values: &mut [T]) -> Result<(), RuntimeError> {
        let range = self.range(region, first, values.len())?;
        self.buffer
            .index(range)
            .copy_to(bytemuck::cast_slice_mut::<T, u8>(values))
            .map_err(from_cust("cuMemcpyDtoH_v2"))
    }

    /// Fills a region with one byte value.
    ///
    /// # Errors
    /// The driver's error.
    pub fn fill<T>(&self, region: Region<T>, byte: u8) -> Result<(), RuntimeError> {
        let start = region.offset as usize;
        let mut slice = self.buffer.index(start..start + region.bytes() as usize);
        slice.set_8(byte).map_err(from_cust("cuMemsetD8_v2"))?;
        finish_default_stream()
    }

    fn range<T>(&self, region: Region<T>, first: u64, length: usize) -> Result<std::ops::Range<usize>, RuntimeError> {
        let size = size_of::<T>() as u64;
        let refuse = || RuntimeError::CopyOutOfRegion {
            offset: first.saturating_mul(size),
            bytes: (length as u64).saturating_mul(size),
            capacity: region.bytes(),
        };
        let end = first.checked_add(length as u64).filter(|&end| end <= region.count).ok_or_else(refuse)?;
        Ok((region.offset + first * size) as usize..(region.offset + end * size) as usize)
    }
}

/// Waits for the legacy default stream. A copy from pageable memory and a fill may return before the device is done (CUDA driver API, "API
/// synchronization behavior"), and streams of this crate do not wait for that stream.
fn finish_default_stream() -> Result<(), RuntimeError> {
    // SAFETY: the null handle is the legacy default stream.
    let code = unsafe { (driver::table().cuStreamSynchronize)(driver::CUstream::null()) };
    Ok(driver::check("cuStreamSynchronize", code)?)
}

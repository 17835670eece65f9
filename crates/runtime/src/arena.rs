//! Device memory, laid out before it is taken.
//!
//! Everything a run needs on the device is reserved in an [`ArenaLayout`] first, so that the bytes are known before a single one is
//! allocated; [`Arena::new`] then makes one allocation. Regions start at multiples of 256 bytes. Graphs hold addresses inside the
//! arena, so a [`crate::Graph`] keeps its arena alive.
//!
//! An arena of [`Arena::releasable`] lies at reserved addresses: its memory can be given back and taken again, and every address that
//! a graph, a tensor map or a parameter struct holds stays right.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::Pod;
use cust::memory::DeviceBuffer;
use gridpoint_driver::{self as driver, CUdeviceptr, CUresult};

use crate::error::from_cust;
use crate::virtual_memory::{LARGEST_HANDLE, VirtualMemory, granularity};
use crate::{Device, MemoryInfo, RuntimeError};

/// Every region starts at a multiple of this many bytes: a sector-aligned start for any vector access or tensor map.
pub const REGION_ALIGNMENT: u64 = 256;

/// Which layout this is, in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LayoutId(u64);

impl LayoutId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A named piece of an arena: `count` elements of `T`. It knows its layout: an arena of another one refuses it.
#[derive(Debug)]
pub struct Region<T> {
    layout: LayoutId,
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
#[derive(Debug)]
pub struct ArenaLayout {
    id: LayoutId,
    bytes: u64,
    regions: Vec<(&'static str, u64)>,
}

impl Default for ArenaLayout {
    fn default() -> Self {
        Self { id: LayoutId::next(), bytes: 0, regions: Vec::new() }
    }
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
        Ok(Region { layout: self.id, offset, count, element: PhantomData })
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

/// What an arena's memory is.
enum Backing {
    /// One allocation, there for as long as the arena is.
    Allocated(DeviceBuffer<u8>),
    /// Physical memory behind reserved addresses.
    Reserved(VirtualMemory),
}

/// Device memory of one layout.
///
/// Whoever drops an arena has waited for the work that uses it, as [`crate::Stream`] does when it is dropped.
pub struct Arena {
    layout: LayoutId,
    backing: Backing,
    bytes: u64,
    what: String,
    // Declared last: the memory is freed before its device may go.
    device: Arc<Device>,
}

/// The sentence for memory that is not there.
fn exhausted(what: &str, needed: u64, memory: MemoryInfo) -> RuntimeError {
    RuntimeError::OutOfMemory { what: what.to_owned(), needed, free: memory.free, total: memory.total }
}

impl Arena {
    /// Allocates an arena; its contents are unspecified.
    ///
    /// # Errors
    /// [`RuntimeError::OutOfMemory`] naming `what`, the bytes asked for and the bytes free.
    pub fn new(device: &Arc<Device>, what: &str, layout: &ArenaLayout) -> Result<Self, RuntimeError> {
        let memory = device.memory()?;
        let exhausted = || exhausted(what, layout.bytes, memory);
        if layout.bytes > memory.free {
            return Err(exhausted());
        }
        let length = usize::try_from(layout.bytes.max(1)).map_err(|_| exhausted())?;
        // SAFETY: the contents are raw bytes for which every pattern is valid, and they reach the host only as such.
        let buffer = unsafe { DeviceBuffer::uninitialized(length) }.map_err(|error| match error {
            cust::error::CudaError::OutOfMemory => exhausted(),
            other => from_cust("cuMemAlloc_v2")(other),
        })?;
        Ok(Self {
            layout: layout.id,
            backing: Backing::Allocated(buffer),
            bytes: layout.bytes,
            what: what.to_owned(),
            device: Arc::clone(device),
        })
    }

    /// An arena whose memory can be given back ([`Arena::release`]) and taken again at the same addresses ([`Arena::restore`]); its
    /// contents are unspecified. On a device without virtual memory management ([`Device::has_virtual_memory`]) it is one of
    /// [`Arena::new`], and only the release is refused.
    ///
    /// # Errors
    /// [`RuntimeError::OutOfMemory`] naming `what`, the bytes asked for and the bytes free, or the driver's error.
    pub fn releasable(device: &Arc<Device>, what: &str, layout: &ArenaLayout) -> Result<Self, RuntimeError> {
        Self::releasable_in_pieces(device, what, layout, LARGEST_HANDLE)
    }

    /// As [`Arena::releasable`], of physical memory in pieces of at most `largest_handle` bytes, in whole units of the device's granularity:
    /// few large ones, since each costs calls of its own.
    ///
    /// # Errors
    /// As there.
    pub fn releasable_in_pieces(
        device: &Arc<Device>,
        what: &str,
        layout: &ArenaLayout,
        largest_handle: u64,
    ) -> Result<Self, RuntimeError> {
        if !device.has_virtual_memory()? {
            return Self::new(device, what, layout);
        }
        let memory = device.memory()?;
        if layout.bytes > memory.free {
            return Err(exhausted(what, layout.bytes, memory));
        }
        let reserved = VirtualMemory::reserve(device, layout.bytes, largest_handle)?;
        let bytes = reserved.bytes();
        let arena = Self {
            layout: layout.id,
            backing: Backing::Reserved(reserved),
            bytes,
            what: what.to_owned(),
            device: Arc::clone(device),
        };
        arena.restore()?;
        Ok(arena)
    }

    /// Bytes that [`Arena::releasable`] takes for a layout of `bytes` bytes: a multiple of the device's granularity.
    ///
    /// # Errors
    /// The driver's error.
    pub fn releasable_bytes(device: &Device, bytes: u64) -> Result<u64, RuntimeError> {
        if !device.has_virtual_memory()? {
            return Ok(bytes);
        }
        // A layout is below 2^63 bytes.
        Ok(bytes.max(1).next_multiple_of(granularity(device)?))
    }

    /// Gives the memory back; what it held is lost, the addresses stay. Waits for the device first: unmapping does not, and besides launches
    /// a copy from pageable memory may still be on its way after its call. Does nothing where the memory is given back.
    ///
    /// # Errors
    /// [`RuntimeError::NotReleasable`] where the device cannot. The driver's error otherwise: from the wait, with nothing changed, or from
    /// unmapping, and then the arena counts as released ([`Arena::is_released`] says so), since what it held cannot be relied on.
    pub fn release(&self) -> Result<(), RuntimeError> {
        let Backing::Reserved(reserved) = &self.backing else {
            let device = self.device.properties().name.clone();
            return Err(RuntimeError::NotReleasable { what: self.what.clone(), device });
        };
        if self.is_released() {
            return Ok(());
        }
        self.device.synchronize()?;
        Ok(reserved.release()?)
    }

    /// Takes memory again after [`Arena::release`], at the same addresses; its contents are unspecified. Does nothing where it is there.
    ///
    /// # Errors
    /// [`RuntimeError::OutOfMemory`], or the driver's error; the arena is released then, as before.
    pub fn restore(&self) -> Result<(), RuntimeError> {
        let Backing::Reserved(reserved) = &self.backing else { return Ok(()) };
        if reserved.is_held() {
            return Ok(());
        }
        let memory = self.device.memory()?;
        if self.bytes > memory.free {
            return Err(exhausted(&self.what, self.bytes, memory));
        }
        reserved.restore().map_err(|error| match error.code {
            CUresult::ERROR_OUT_OF_MEMORY => exhausted(&self.what, self.bytes, self.device.memory().unwrap_or(memory)),
            _ => error.into(),
        })
    }

    /// Whether the memory is given back.
    pub fn is_released(&self) -> bool {
        matches!(&self.backing, Backing::Reserved(reserved) if !reserved.is_held())
    }

    /// Bytes that the arena takes of the device, or takes again when it is restored.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The device that holds it.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Device address of a region's first element; it stays the same while the memory is given back.
    ///
    /// # Panics
    /// If the region is of another layout: a defect of the caller.
    pub fn pointer<T>(&self, region: Region<T>) -> *mut T {
        assert_eq!(region.layout, self.layout, "a region of another layout than that of {}", self.what);
        std::ptr::with_exposed_provenance_mut((self.base() + region.offset) as usize)
    }

    /// Copies `values` to a region, from element `first` on; the copy is done when this returns.
    ///
    /// # Errors
    /// [`RuntimeError::CopyOutOfRegion`] when it does not fit, [`RuntimeError::Released`], or the driver's error.
    pub fn upload<T: Pod>(&self, region: Region<T>, first: u64, values: &[T]) -> Result<(), RuntimeError> {
        let target = self.range(region, first, values.len() as u64)?;
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: the device's range lies in a region that is there, and the host's is that of the slice.
        let code = unsafe { (driver::table().cuMemcpyHtoD_v2)(target, values.as_ptr().cast(), size_of_val(values)) };
        driver::check("cuMemcpyHtoD_v2", code)?;
        finish_default_stream()
    }

    /// Copies a region's elements from `first` on into `values`.
    ///
    /// # Errors
    /// [`RuntimeError::CopyOutOfRegion`] when it does not fit, [`RuntimeError::Released`], or the driver's error.
    pub fn download<T: Pod>(&self, region: Region<T>, first: u64, values: &mut [T]) -> Result<(), RuntimeError> {
        let source = self.range(region, first, values.len() as u64)?;
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: as in `upload`; every pattern of bytes is a value of a plain type.
        let code =
            unsafe { (driver::table().cuMemcpyDtoH_v2)(values.as_mut_ptr().cast(), source, size_of_val(values)) };
        Ok(driver::check("cuMemcpyDtoH_v2", code)?)
    }

    /// Fills a region with one byte value.
    ///
    /// # Errors
    /// [`RuntimeError::Released`], or the driver's error.
    pub fn fill<T>(&self, region: Region<T>, byte: u8) -> Result<(), RuntimeError> {
        let target = self.range(region, 0, region.count)?;
        if region.bytes() == 0 {
            return Ok(());
        }
        // SAFETY: the range lies in a region that is there.
        let code = unsafe { (driver::table().cuMemsetD8_v2)(target, byte, region.bytes() as usize) };
        driver::check("cuMemsetD8_v2", code)?;
        finish_default_stream()
    }

    /// The device address of `count` elements of a region from `first` on, which are there.
    pub(crate) fn range<T>(&self, region: Region<T>, first: u64, count: u64) -> Result<CUdeviceptr, RuntimeError> {
        let size = size_of::<T>() as u64;
        let refuse = || RuntimeError::CopyOutOfRegion {
            offset: first.saturating_mul(size),
            bytes: count.saturating_mul(size),
            capacity: region.bytes(),
        };
        if region.layout != self.layout {
            return Err(RuntimeError::OtherLayout { what: self.what.clone() });
        }
        first.checked_add(count).filter(|&end| end <= region.count).ok_or_else(refuse)?;
        if self.is_released() {
            return Err(RuntimeError::Released { what: self.what.clone() });
        }
        Ok(self.base() + region.offset + first * size)
    }

    fn base(&self) -> CUdeviceptr {
        match &self.backing {
            Backing::Allocated(buffer) => buffer.as_device_ptr().as_raw(),
            Backing::Reserved(reserved) => reserved.address(),
        }
    }
}

/// Waits for the legacy default stream. A copy from pageable memory and a fill may return before the device is done (CUDA driver API, "API
/// synchronization behavior"), and streams of this crate do not wait for that stream.
fn finish_default_stream() -> Result<(), RuntimeError> {
    // SAFETY: the null handle is the legacy default stream.
    let code = unsafe { (driver::table().cuStreamSynchronize)(driver::CUstream::null()) };
    Ok(driver::check("cuStreamSynchronize", code)?)
}

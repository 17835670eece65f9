//! Bytes on the device that somebody else keeps: read, and never written.

use std::marker::PhantomData;

use gridpoint_driver::{self as driver, CUdeviceptr};

use crate::{Arena, Region, RuntimeError};

/// A run of bytes on the device, borrowed to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceBytes<'a> {
    address: CUdeviceptr,
    bytes: u64,
    owner: PhantomData<&'a ()>,
}

impl<'a> DeviceBytes<'a> {
    /// Memory that an arena does not own: a trainer's tensor, by its address (`tensor.data_ptr()`).
    ///
    /// # Safety
    /// For as long as `'a`, the `bytes` bytes from `address` on are device memory that the device's primary context can read (CUDA
    /// runtime programs and PyTorch allocate in it), and nothing writes them: what computes them has ended, which the caller has waited for.
    ///
    /// # Errors
    /// [`RuntimeError::DeviceRange`] for a range that no device has.
    pub unsafe fn from_address(address: u64, bytes: u64) -> Result<Self, RuntimeError> {
        let refuse = |expected| Err(RuntimeError::DeviceRange { address, region: bytes, expected });
        if address == 0 {
            return refuse("an address on the device is not 0");
        }
        if address.checked_add(bytes).is_none_or(|end| end > i64::MAX as u64) {
            return refuse("it must end below 2^63");
        }
        Ok(Self { address, bytes, owner: PhantomData })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its first address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The first `at` bytes, at most all of them, and the rest.
    #[must_use]
    pub fn split_at(self, at: u64) -> (Self, Self) {
        let at = at.min(self.bytes);
        (Self { bytes: at, ..self }, Self { address: self.address + at, bytes: self.bytes - at, ..self })
    }

    /// Copies the bytes to the host; the copy is done when this returns.
    ///
    /// # Errors
    /// [`RuntimeError::CopyOutOfRegion`] for a slice of another length, or the driver's error.
    pub fn download(&self, out: &mut [u8]) -> Result<(), RuntimeError> {
        if out.len() as u64 != self.bytes {
            return Err(RuntimeError::CopyOutOfRegion { offset: 0, bytes: out.len() as u64, capacity: self.bytes });
        }
        if out.is_empty() {
            return Ok(());
        }
        // SAFETY: the device's range is readable (contract of `from_address`, or a region of an arena), the host's is that of the slice.
        let code = unsafe { (driver::table().cuMemcpyDtoH_v2)(out.as_mut_ptr().cast(), self.address, out.len()) };
        Ok(driver::check("cuMemcpyDtoH_v2", code)?)
    }
}

impl Arena {
    /// A region's bytes, to be read. Where the arena is released meanwhile, reading them is the driver's error.
    ///
    /// # Errors
    /// [`RuntimeError::Released`].
    pub fn bytes_of<T>(&self, region: Region<T>) -> Result<DeviceBytes<'_>, RuntimeError> {
        let address = self.range(region, 0, region.count())?;
        Ok(DeviceBytes { address, bytes: region.bytes(), owner: PhantomData })
    }
}

//! Page-locked host memory that the device can copy from and write to.

use bytemuck::{Pod, Zeroable};
use cust::memory::LockedBuffer;

use crate::RuntimeError;
use crate::error::from_cust;

/// Page-locked host memory of a fixed length, zeroed at first. With unified addressing its host address is also its device address
/// (CUDA driver API, "Unified Addressing": memory of cuMemAllocHost is mapped for all devices).
pub struct PinnedBuffer<T: Pod> {
    buffer: LockedBuffer<Element<T>>,
}

/// cust asks for its own marker; every `Pod` type has its properties.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Element<T>(T);

// SAFETY: transparent over a type for which all-zero bytes are valid.
unsafe impl<T: Zeroable> Zeroable for Element<T> {}
// SAFETY: transparent over a plain-data type.
unsafe impl<T: Pod> Pod for Element<T> {}
// SAFETY: plain data holds no host references.
unsafe impl<T: Pod> cust::memory::DeviceCopy for Element<T> {}

impl<T: Pod> PinnedBuffer<T> {
    /// Allocates `length` elements.
    ///
    /// # Errors
    /// The driver's error.
    pub fn new(length: usize) -> Result<Self, RuntimeError> {
        // SAFETY: it is zeroed before anything reads it.
        let buffer = unsafe { LockedBuffer::<Element<T>>::uninitialized(length.max(1)) };
        let mut buffer = buffer.map_err(from_cust("cuMemAllocHost_v2"))?;
        let elements = buffer.as_mut_slice();
        // SAFETY: the slice is that of the allocation, and all-zero bytes are a value of its elements (`Zeroable`).
        unsafe { elements.as_mut_ptr().write_bytes(0, elements.len()) };
        Ok(Self { buffer })
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.buffer.as_slice().len()
    }

    /// Whether there are no elements; never so.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, to write.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.buffer.as_mut_slice())
    }

    /// The elements. Valid to read once the event behind the work that writes them has completed.
    pub fn as_slice(&self) -> &[T] {
        bytemuck::cast_slice(self.buffer.as_slice())
    }

    pub(crate) fn as_ptr(&self) -> *const T {
        self.as_slice().as_ptr()
    }

    /// The address at which the device sees the buffer.
    pub fn device_address(&self) -> u64 {
        self.as_ptr().expose_provenance() as u64
    }
}

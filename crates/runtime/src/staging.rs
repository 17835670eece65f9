//! Page-locked memory through which bytes of the host go to the device: one half is filled while the other is on its way.

use std::sync::Arc;

use gridpoint_driver as driver;

use crate::{Arena, Device, DeviceBytes, Event, PinnedBuffer, Region, RuntimeError, Stream};

/// Two halves and the stream that empties them.
pub struct Staging {
    halves: [Half; 2],
    next: usize,
    // Declared last: it keeps the device, which the halves need to be given back. The copies that read them are waited for before.
    stream: Stream,
}

struct Half {
    buffer: PinnedBuffer<u8>,
    /// Behind the copy that read the half last.
    read: Event,
}

impl Staging {
    /// Two halves of `bytes` bytes each.
    ///
    /// # Errors
    /// The driver's error.
    pub fn new(device: &Arc<Device>, bytes: usize) -> Result<Self, RuntimeError> {
        let half =
            || Ok::<_, RuntimeError>(Half { buffer: PinnedBuffer::new(bytes)?, read: Event::new(device, false)? });
        Ok(Self { stream: Stream::new(device)?, halves: [half()?, half()?], next: 0 })
    }

    /// Bytes of a half: the most that goes at once.
    pub fn capacity(&self) -> usize {
        self.halves[0].buffer.len()
    }

    /// The stream of the copies.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Sends `bytes` bytes, which `fill` writes, to a region from byte `first` on. The copy is enqueued when this returns, and over with
    /// [`Staging::finish`].
    ///
    /// # Errors
    /// [`RuntimeError::CopyOutOfRegion`] for more than the region or a half has, that of `fill`, or the driver's error, with some of the
    /// bytes maybe sent.
    pub fn send<T, E: From<RuntimeError>>(
        &mut self,
        (arena, region, first): (&Arena, Region<T>, u64),
        bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let target = target(arena, region, first, bytes as u64)?;
        let capacity = self.capacity();
        let Half { buffer, read } = &mut self.halves[self.next];
        if bytes > capacity {
            return Err(
                RuntimeError::CopyOutOfRegion { offset: 0, bytes: bytes as u64, capacity: capacity as u64 }.into()
            );
        }
        read.synchronize()?;
        fill(&mut buffer.as_mut_slice()[..bytes])?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the device's range lies in a region that is there. The half is not written before the event behind this copy has
        // completed, and the destructor waits for the copy.
        let code =
            unsafe { (driver::table().cuMemcpyHtoDAsync_v2)(target, buffer.as_ptr().cast(), bytes, self.stream.raw()) };
        driver::check("cuMemcpyHtoDAsync_v2", code).map_err(RuntimeError::from)?;
        if let Err(error) = read.record(&self.stream) {
            // Without an event nothing guards the half.
            self.stream.synchronize()?;
            return Err(error.into());
        }
        self.next = 1 - self.next;
        Ok(())
    }

    /// Copies bytes of the device to a region from byte `first` on, on the device. The copy is enqueued when this returns, and over with
    /// [`Staging::finish`].
    ///
    /// # Errors
    /// [`RuntimeError::CopyOutOfRegion`] when it does not fit, or the driver's error.
    pub fn copy<T>(
        &self,
        (arena, region, first): (&Arena, Region<T>, u64),
        source: DeviceBytes<'_>,
    ) -> Result<(), RuntimeError> {
        let target = target(arena, region, first, source.bytes())?;
        if source.bytes() == 0 {
            return Ok(());
        }
        // SAFETY: the target lies in a region that is there; the source is readable by its contract.
        let code = unsafe {
            (driver::table().cuMemcpyDtoDAsync_v2)(target, source.address(), source.bytes() as usize, self.stream.raw())
        };
        Ok(driver::check("cuMemcpyDtoDAsync_v2", code)?)
    }

    /// Waits until everything sent is there.
    ///
    /// # Errors
    /// The driver's error, also of a copy.
    pub fn finish(&self) -> Result<(), RuntimeError> {
        self.stream.synchronize()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Either wait alone keeps a copy from reading memory that is freed next. A destructor has no caller to tell.
        let waits = self.halves.iter().map(|half| half.read.synchronize()).chain([self.stream.synchronize()]);
        for error in waits.filter_map(Result::err) {
            tracing::warn!("{error}");
        }
    }
}

/// The address of `bytes` bytes of a region from byte `first` on.
fn target<T>(arena: &Arena, region: Region<T>, first: u64, bytes: u64) -> Result<u64, RuntimeError> {
    let capacity = region.bytes();
    if first.checked_add(bytes).is_none_or(|end| end > capacity) {
        return Err(RuntimeError::CopyOutOfRegion { offset: first, bytes, capacity });
    }
    Ok(arena.range(region, 0, region.count())? + first)
}

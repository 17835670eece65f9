//! Streams and events.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;
use cust::event::EventFlags;
use cust::stream::StreamFlags;
use gridpoint_driver as driver;
use gridpoint_driver::{CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, CUstream};

use crate::error::from_cust;
use crate::{Arena, Device, Launch, PinnedBuffer, Recording, Region, RuntimeError};

/// An ordered queue of device work.
pub struct Stream {
    inner: cust::stream::Stream,
    // Declared last: the stream is destroyed before its device may go.
    device: Arc<Device>,
}

impl Stream {
    /// A new stream of `device`.
    ///
    /// # Errors
    /// The driver's error.
    pub fn new(device: &Arc<Device>) -> Result<Self, RuntimeError> {
        let inner =
            cust::stream::Stream::new(StreamFlags::DEFAULT, None).map_err(from_cust("cuStreamCreateWithPriority"))?;
        Ok(Self { inner, device: Arc::clone(device) })
    }

    /// The raw handle, for kernels of other libraries.
    pub fn raw(&self) -> CUstream {
        CUstream(self.inner.as_inner().cast())
    }

    /// The stream's device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Enqueues one launch.
    ///
    /// # Errors
    /// The driver's error.
    pub fn launch(&self, launch: &Launch) -> Result<(), RuntimeError> {
        let mut argument: *mut c_void = launch.parameters.as_ptr().cast_mut().cast();
        if launch.cluster_blocks != 1 || launch.programmatic {
            return self.launch_with_attributes(launch, &mut argument);
        }
        // SAFETY: the function belongs to a module that the device keeps loaded and takes exactly the one struct that the launch was
        // made from (contract of `Parameters`); the driver copies the struct before it returns.
        let code = unsafe {
            (driver::table().cuLaunchKernel)(
                launch.function,
                launch.blocks,
                1,
                1,
                launch.threads,
                1,
                1,
                launch.shared_bytes,
                self.raw(),
                &mut argument,
                std::ptr::null_mut(),
            )
        };
        Ok(driver::check("cuLaunchKernel", code)?)
    }

    fn launch_with_attributes(&self, launch: &Launch, argument: &mut *mut c_void) -> Result<(), RuntimeError> {
        let mut value = CUlaunchAttributeValue { pad: [0; 64] };
        value.cluster = [launch.cluster_blocks, 1, 1];
        let mut attributes = [
            CUlaunchAttribute { id: CUlaunchAttributeID::CLUSTER_DIMENSION, pad: [0; 4], value },
            CUlaunchAttribute::number(CUlaunchAttributeID::PROGRAMMATIC_STREAM_SERIALIZATION, 1),
        ];
        // Only what the launch has: devices without clusters or programmatic launches do not know the attribute either.
        let wanted = &mut attributes[usize::from(launch.cluster_blocks == 1)..1 + usize::from(launch.programmatic)];
        let config = CUlaunchConfig {
            grid_dim_x: launch.blocks,
            grid_dim_y: 1,
            grid_dim_z: 1,
            block_dim_x: launch.threads,
            block_dim_y: 1,
            block_dim_z: 1,
            shared_mem_bytes: launch.shared_bytes,
            stream: self.raw(),
            attrs: wanted.as_mut_ptr(),
            num_attrs: wanted.len() as u32,
        };
        // SAFETY: as in `launch`; the attributes live until the call returns.
        let code =
            unsafe { (driver::table().cuLaunchKernelEx)(&config, launch.function, argument, std::ptr::null_mut()) };
        Ok(driver::check("cuLaunchKernelEx", code)?)
    }

    /// Enqueues a copy of the first `count` elements of `source` to the start of a region. The caller leaves `source` unchanged until an
    /// event recorded behind the copy has completed; [`PinnedBuffer`] is only writable through `&mut`, and the ring of steps guards it.
    ///
    /// # Errors
    /// [`RuntimeError::CopyOutOfRegion`] when it does not fit, [`RuntimeError::Released`], or the driver's error.
    pub fn upload<T: Pod>(
        &self,
        arena: &Arena,
        region: Region<T>,
        source: &PinnedBuffer<T>,
        count: usize,
    ) -> Result<(), RuntimeError> {
        let size = size_of::<T>() as u64;
        if count as u64 > region.count() || count > source.len() {
            let capacity = region.bytes().min(source.len() as u64 * size);
            return Err(RuntimeError::CopyOutOfRegion { offset: 0, bytes: count as u64 * size, capacity });
        }
        let target = arena.range(region, 0, count as u64)?;
        // SAFETY: both sides hold `count` elements, as checked above, and the pinned memory outlives the stream's work: whoever drops it
        // first waits for the stream (`PinnedBuffer` belongs to the ring that owns the events).
        let code = unsafe {
            (driver::table().cuMemcpyHtoDAsync_v2)(target, source.as_ptr().cast(), count * size_of::<T>(), self.raw())
        };
        Ok(driver::check("cuMemcpyHtoDAsync_v2", code)?)
    }

    /// Waits until everything enqueued so far is done.
    ///
    /// # Errors
    /// The driver's error, also of work that failed.
    pub fn synchronize(&self) -> Result<(), RuntimeError> {
        self.inner.synchronize().map_err(from_cust("cuStreamSynchronize"))
    }

    /// Starts a capture: launches on this stream become nodes of a graph until the recording is finished.
    ///
    /// # Errors
    /// The driver's error.
    pub fn record(&self) -> Result<Recording<'_>, RuntimeError> {
        Recording::begin(self)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Memory that enqueued work uses may be freed next. A destructor has no caller to tell.
        if let Err(error) = self.synchronize() {
            tracing::warn!("{error}");
        }
    }
}

/// A point in a stream's work.
pub struct Event {
    inner: cust::event::Event,
    recorded: bool,
}

impl Event {
    /// A new event, not recorded; `timing` says whether times between events are wanted.
    ///
    /// # Errors
    /// The driver's error.
    pub fn new(timing: bool) -> Result<Self, RuntimeError> {
        let flags = if timing { EventFlags::DEFAULT } else { EventFlags::DISABLE_TIMING };
        Ok(Self { inner: cust::event::Event::new(flags).map_err(from_cust("cuEventCreate"))?, recorded: false })
    }

    /// Marks the end of the work enqueued on `stream` so far.
    ///
    /// # Errors
    /// The driver's error.
    pub fn record(&mut self, stream: &Stream) -> Result<(), RuntimeError> {
        self.inner.record(&stream.inner).map_err(from_cust("cuEventRecord"))?;
        self.recorded = true;
        Ok(())
    }

    /// Waits until the marked work is done; returns at once when nothing was marked.
    ///
    /// # Errors
    /// The driver's error, also of work that failed.
    pub fn synchronize(&self) -> Result<(), RuntimeError> {
        if !self.recorded {
            return Ok(());
        }
        self.inner.synchronize().map_err(from_cust("cuEventSynchronize"))
    }

    /// Device time from `earlier` to this event; both must have been recorded with timing and be complete.
    ///
    /// # Errors
    /// The driver's error.
    pub fn since(&self, earlier: &Self) -> Result<Duration, RuntimeError> {
        let milliseconds = self.inner.elapsed_time_f32(&earlier.inner).map_err(from_cust("cuEventElapsedTime"))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

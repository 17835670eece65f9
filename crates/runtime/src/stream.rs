//! Streams and events.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;
use gridpoint_driver as driver;
use gridpoint_driver::{
    CUevent, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, CUstream,
};

use crate::{Arena, Device, Launch, PinnedBuffer, Recording, Region, RuntimeError};

/// `CU_STREAM_NON_BLOCKING`: no implicit order with the legacy default stream, whose work would else stall a step, and
/// which may not be used by anybody while a stream without the flag captures.
const NON_BLOCKING: u32 = 1;

/// An ordered queue of device work. It does not wait for the legacy default stream, nor that for it. A clone is the same queue.
///
/// `Send` and `Sync`: the driver orders the calls of several threads on one stream. A capture belongs to the thread that began it.
#[derive(Clone)]
pub struct Stream {
    queue: Arc<Queue>,
}

/// The driver's stream.
struct Queue {
    raw: CUstream,
    /// Whether it was made here, so that it is destroyed here.
    own: bool,
    // Declared last: the stream is destroyed before its device may go.
    device: Arc<Device>,
}

impl Stream {
    /// A new stream of `device`.
    ///
    /// # Errors
    /// The driver's error.
    pub fn new(device: &Arc<Device>) -> Result<Self, RuntimeError> {
        let mut raw = CUstream::null();
        // SAFETY: the pointer is that of a live handle.
        let code = unsafe { (driver::table().cuStreamCreateWithPriority)(&mut raw, NON_BLOCKING, 0) };
        driver::check("cuStreamCreateWithPriority", code)?;
        Ok(Self { queue: Arc::new(Queue { raw, own: true, device: Arc::clone(device) }) })
    }

    /// A stream that somebody else made, in the primary context of `device`. It is never destroyed here; dropping the last clone waits
    /// for its work.
    ///
    /// # Safety
    /// `raw` is a stream of the device's primary context, lives until the last clone of the result is dropped (whoever replays on it, such as
    /// a set of graphs, may keep one), and is not the legacy default stream, which cannot be captured.
    pub unsafe fn borrowed(device: &Arc<Device>, raw: CUstream) -> Self {
        Self { queue: Arc::new(Queue { raw, own: false, device: Arc::clone(device) }) }
    }

    /// The raw handle, for kernels of other libraries.
    pub fn raw(&self) -> CUstream {
        self.queue.raw
    }

    /// The stream's device.
    pub fn device(&self) -> &Arc<Device> {
        &self.queue.device
    }

    /// Whether `other` is a clone of this one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.queue, &other.queue)
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
        self.queue.synchronize()
    }

    /// Starts a capture: launches on this stream become nodes of a graph until the recording is finished.
    ///
    /// # Errors
    /// The driver's error.
    pub fn record(&self) -> Result<Recording<'_>, RuntimeError> {
        Recording::begin(self)
    }
}

impl Queue {
    fn synchronize(&self) -> Result<(), RuntimeError> {
        // SAFETY: the stream's handle is live.
        let code = unsafe { (driver::table().cuStreamSynchronize)(self.raw) };
        Ok(driver::check("cuStreamSynchronize", code)?)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Memory that enqueued work uses may be freed next. A destructor has no caller to tell.
        if let Err(error) = self.synchronize() {
            tracing::warn!("{error}");
        }
        if self.own {
            // SAFETY: the handle was made here and is not used again.
            let code = unsafe { (driver::table().cuStreamDestroy_v2)(self.raw) };
            report("cuStreamDestroy_v2", code);
        }
    }
}

/// A destructor has no caller to tell.
pub(crate) fn report(call: &'static str, code: driver::CUresult) {
    if let Err(error) = driver::check(call, code) {
        tracing::warn!("{error}");
    }
}

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;

/// A point in a stream's work.
pub struct Event {
    raw: CUevent,
    recorded: bool,
    // Held for its lifetime: an event goes before its device.
    _device: Arc<Device>,
}

impl Event {
    /// A new event of `device`, not recorded; `timing` says whether times between events are wanted.
    ///
    /// # Errors
    /// The driver's error.
    pub fn new(device: &Arc<Device>, timing: bool) -> Result<Self, RuntimeError> {
        let mut raw = CUevent::null();
        // SAFETY: the pointer is that of a live handle.
        let code = unsafe { (driver::table().cuEventCreate)(&mut raw, if timing { 0 } else { DISABLE_TIMING }) };
        driver::check("cuEventCreate", code)?;
        Ok(Self { raw, recorded: false, _device: Arc::clone(device) })
    }

    /// Marks the end of the work enqueued on `stream` so far.
    ///
    /// # Errors
    /// The driver's error.
    pub fn record(&mut self, stream: &Stream) -> Result<(), RuntimeError> {
        // SAFETY: both handles are live.
        let code = unsafe { (driver::table().cuEventRecord)(self.raw, stream.raw()) };
        driver::check("cuEventRecord", code)?;
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
        // SAFETY: the handle is live.
        let code = unsafe { (driver::table().cuEventSynchronize)(self.raw) };
        Ok(driver::check("cuEventSynchronize", code)?)
    }

    /// Device time from `earlier` to this event; both must have been recorded with timing and be complete.
    ///
    /// # Errors
    /// The driver's error.
    pub fn since(&self, earlier: &Self) -> Result<Duration, RuntimeError> {
        let mut milliseconds = 0.0_f32;
        // SAFETY: both handles are live and the pointer is that of a live number.
        let code = unsafe { (driver::table().cuEventElapsedTime)(&mut milliseconds, earlier.raw, self.raw) };
        driver::check("cuEventElapsedTime", code)?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the handle was made here and is not used again; the driver defers the destruction of an event that is pending.
        let code = unsafe { (driver::table().cuEventDestroy_v2)(self.raw) };
        report("cuEventDestroy_v2", code);
    }
}

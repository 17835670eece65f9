//! What the device tests stand on: a device with buffers of exact sizes, cases that take one, and the trials made of them.
//!
//! A case knows nothing of the device it runs on: `tests/kernels.rs` hands it the simulated one, `tests/gpu.rs` a GPU.
#![allow(dead_code, reason = "each test target uses some of it")]

pub(crate) mod random;

use std::any::Any;
use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytemuck::Pod;
use cust::context::CurrentContext;
use cust::memory::{CopyDestination, DeviceBuffer};
use gridpoint_runtime::{Device, Parameters, RuntimeError, Stream};

/// What poisoned memory holds in every byte: a NaN in any float format, -1 in any integer.
const POISON: u8 = 0xff;

/// One thing to check on a device; it panics where that fails.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// `suite/what_holds`.
    pub(crate) name: &'static str,
    /// The check.
    pub(crate) run: fn(&TestDevice),
}

impl Case {
    /// A case of that name.
    pub(crate) fn new(name: &'static str, run: fn(&TestDevice)) -> Self {
        Self { name, run }
    }

    /// Runs the case on a stream of its own. Gives a digest of everything that it downloaded, in order, or the words of its panic.
    pub(crate) fn check(&self, device: &Arc<Device>) -> Result<u64, String> {
        let device = TestDevice::new(device).map_err(|error| error.to_string())?;
        // The case only gets a shared reference, and nothing of the device is used after a panic.
        panic::catch_unwind(AssertUnwindSafe(|| (self.run)(&device))).map_err(|payload| words(payload.as_ref()))?;
        Ok(device.digest.get())
    }
}

/// What a panic said.
fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

/// Memory of a device that holds exactly `length` elements, so that a device that checks bounds sees an access right behind them.
pub(crate) struct DeviceVec<T> {
    // None without elements: the driver allocates no zero bytes.
    buffer: Option<DeviceBuffer<u8>>,
    length: usize,
    element: PhantomData<T>,
}

impl<T> DeviceVec<T> {
    /// Device address of the first element; null without elements.
    pub(crate) fn as_ptr(&self) -> *const T {
        self.as_mut_ptr()
    }

    /// As [`Self::as_ptr`]: what a kernel writes is not the host's to borrow.
    pub(crate) fn as_mut_ptr(&self) -> *mut T {
        let address = self.buffer.as_ref().map_or(0, |buffer| buffer.as_device_ptr().as_raw());
        std::ptr::with_exposed_provenance_mut(usize::try_from(address).expect("device addresses have 64 bits"))
    }
}

/// A device, and a stream on which one case launches.
pub(crate) struct TestDevice {
    stream: Stream,
    device: Arc<Device>,
    digest: Cell<u64>,
}

impl TestDevice {
    /// A stream of `device`, whose context becomes current on this thread.
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self, RuntimeError> {
        device.make_current()?;
        Ok(Self { stream: Stream::new(device)?, device: Arc::clone(device), digest: Cell::new(0) })
    }

    /// The device.
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The stream.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Memory that holds `values`.
    pub(crate) fn upload<T: Pod>(&self, values: &[T]) -> DeviceVec<T> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = (!bytes.is_empty()).then(|| {
            DeviceBuffer::from_slice(bytes)
                .unwrap_or_else(|error| panic!("{} bytes of device memory: {error}", bytes.len()))
        });
        settle();
        DeviceVec { buffer, length: values.len(), element: PhantomData }
    }

    /// Memory of `length` elements, every byte 0xFF.
    pub(crate) fn poisoned<T: Pod>(&self, length: usize) -> DeviceVec<T> {
        let mut bytes = self.upload(&vec![POISON; length * size_of::<T>()]).buffer;
        if let Some(buffer) = &mut bytes {
            // To the simulated device a fill, unlike an upload, says that nothing is there.
            buffer.set_8(POISON).unwrap_or_else(|error| panic!("a fill of {} bytes: {error}", buffer.len()));
            settle();
        }
        DeviceVec { buffer: bytes, length, element: PhantomData }
    }

    /// Launches a kernel and waits for it.
    ///
    /// `threads` must be what the kernel was compiled for. Errors are those of the launch, and those of work before it.
    pub(crate) fn launch<P: Parameters>(
        &self,
        name: &'static str,
        blocks: u32,
        threads: u32,
        shared_bytes: u32,
        parameters: &P,
    ) -> Result<(), RuntimeError> {
        let kernel = self.device.kernel::<P>(name, shared_bytes)?;
        assert_eq!(kernel.threads(), threads, "{name} is compiled for another number of threads");
        self.stream.launch(&kernel.launch(blocks, parameters))?;
        self.stream.synchronize()
    }

    /// What the memory holds now.
    pub(crate) fn download<T: Pod>(&self, source: &DeviceVec<T>) -> Vec<T> {
        let mut values = vec![T::zeroed(); source.length];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        if let Some(buffer) = &source.buffer {
            buffer
                .copy_to(bytes)
                .unwrap_or_else(|error| panic!("a copy of {} bytes from the device: {error}", bytes.len()));
        }
        let mut hasher = DefaultHasher::new();
        (self.digest.get(), bytes).hash(&mut hasher);
        self.digest.set(hasher.finish());
        values
    }
}

/// Waits for copies and fills on the legacy default stream, which may go on behind their calls, and for which our streams do not wait.
fn settle() {
    CurrentContext::synchronize().unwrap_or_else(|error| panic!("the device fails: {error}"));
}

/// A file or folder of the repository that tests read: below `GRIDPOINT_TEST_DATA` where that is set, else below the repository.
pub(crate) fn data(path: &str) -> PathBuf {
    let root = std::env::var_os("GRIDPOINT_TEST_DATA").filter(|root| !root.is_empty());
    root.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).to_owned(), PathBuf::from).join(path)
}

/// Whether a variable is set to something other than nothing or `0`.
pub(crate) fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
}

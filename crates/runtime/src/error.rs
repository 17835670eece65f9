//! What can go wrong between this crate and a device.

use std::path::PathBuf;

use gridpoint_driver as driver;

/// An error of the device layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// A driver call failed.
    #[error(transparent)]
    Driver(#[from] driver::Error),
    /// There is no driver library, or no device behind it.
    #[error("no CUDA device: {looked_for}")]
    NoDevice {
        /// What was looked for and what was found instead.
        looked_for: String,
    },
    /// The driver is older than the kernels' images need.
    #[error(
        "the CUDA driver is version {found}; kernels built with nvcc {built_with} need driver version {needed} or newer"
    )]
    DriverTooOld {
        /// What the driver reports, as `12.4`.
        found: String,
        /// The compiler's version, as `13.0`.
        built_with: String,
        /// The least version that loads such images.
        needed: String,
    },
    /// The device lacks instructions that every kernel uses.
    #[error(
        "`{device}` has compute capability {major}.{minor}; the kernels need {needed_major}.{needed_minor} or newer"
    )]
    DeviceTooOld {
        /// The device's name.
        device: String,
        /// Its compute capability: the 7 of 7.5.
        major: i32,
        /// The 5 of 7.5.
        minor: i32,
        /// The least compute capability that will do: the 8 of 8.0.
        needed_major: i32,
        /// The 0 of 8.0.
        needed_minor: i32,
    },
    /// The build found no nvcc, so there are no images for a GPU.
    #[error(
        "no kernels for `{device}`: this build found no nvcc; run scripts/get-nvcc.sh or set NVCC or CUDA_HOME, then build again"
    )]
    KernelsNotBuilt {
        /// The device's name.
        device: String,
    },
    /// The images hold nothing for this device.
    #[error(
        "the kernels of module `{module}` were built for {architectures}, which `{device}` (compute capability {major}.{minor}) cannot \
         run; build again with CUDA_COMPUTE_CAP={major}{minor}"
    )]
    NoImageForDevice {
        /// The module.
        module: String,
        /// What the images were built for.
        architectures: String,
        /// The device's name.
        device: String,
        /// Its compute capability: the 7 of 7.5.
        major: i32,
        /// The 5 of 7.5.
        minor: i32,
    },
    /// Launches that overlap were asked for on a device that has none.
    #[error(
        "`{device}` has compute capability {major}.{minor} and no programmatic launches, which need 9.0: launches must be serial"
    )]
    NoProgrammaticLaunches {
        /// The device's name.
        device: String,
        /// Its compute capability: the 8 of 8.6.
        major: i32,
        /// The 6 of 8.6.
        minor: i32,
    },
    /// A module lacks a kernel.
    #[error("module `{module}` has no kernel `{kernel}`")]
    NoKernel {
        /// The module.
        module: String,
        /// The kernel.
        kernel: String,
    },
    /// A kernel's parameter struct has another size on the device than in this program.
    #[error("kernel `{kernel}` takes {on_device} bytes of parameters; the program's struct has {in_program}")]
    ParameterSize {
        /// The kernel.
        kernel: String,
        /// Bytes the device expects.
        on_device: usize,
        /// Bytes of the struct.
        in_program: usize,
    },
    /// More memory was asked for than the device has free.
    #[error("{what} needs {needed} bytes of device memory; {free} of {total} bytes are free")]
    OutOfMemory {
        /// What was to be placed.
        what: String,
        /// Bytes asked for.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// Bytes of the device.
        total: u64,
    },
    /// Memory was to be given back that the device cannot take again at the same addresses.
    #[error(
        "the memory of {what} cannot be released: `{device}` or its driver has no virtual memory management, so it was allocated for good"
    )]
    NotReleasable {
        /// What lies there.
        what: String,
        /// The device's name.
        device: String,
    },
    /// Memory was to be used that is given back.
    #[error("the memory of {what} is released: it must be restored before it is used")]
    Released {
        /// What lies there when it is restored.
        what: String,
    },
    /// Device memory of another length than what is said to lie there.
    #[error("a region of {region} bytes begins at `{address:#x}`: {expected}")]
    DeviceRange {
        /// The address given.
        address: u64,
        /// The bytes given.
        region: u64,
        /// What would be right.
        expected: &'static str,
    },
    /// A layout's size does not fit 64 bits.
    #[error("region `{region}` makes the layout larger than 2^63 bytes")]
    LayoutOverflow {
        /// The region that was being reserved.
        region: &'static str,
    },
    /// A region that is not this arena's.
    #[error("a region of another layout was used with {what}")]
    OtherLayout {
        /// What the arena is for.
        what: String,
    },
    /// A copy does not fit its region.
    #[error("a copy of {bytes} bytes at byte {offset} does not fit a region of {capacity} bytes")]
    CopyOutOfRegion {
        /// First byte in the region.
        offset: u64,
        /// Bytes to copy.
        bytes: u64,
        /// Bytes of the region.
        capacity: u64,
    },
    /// A capture was broken from inside.
    #[error(
        "the capture was invalidated: an allocation, a synchronisation or a use of the legacy default stream was made inside it"
    )]
    CaptureInvalidated,
    /// The driver did not write a graph's picture.
    #[error("the graph could not be written to `{}`: {error}", path.display())]
    GraphNotPrinted {
        /// The file.
        path: PathBuf,
        /// The driver's error.
        error: driver::Error,
    },
    /// What was captured holds a node that a replay must not have.
    #[error("a captured step holds {memory_nodes} memory nodes; only kernel nodes are allowed")]
    MemoryNodes {
        /// How many nodes are no kernel nodes.
        memory_nodes: usize,
    },
}

/// Turns cust's error into the driver's code under the name of the call.
pub(crate) fn from_cust(call: &'static str) -> impl Fn(cust::error::CudaError) -> RuntimeError {
    move |error| RuntimeError::Driver(driver::Error { call, code: driver::CUresult(error as i32) })
}

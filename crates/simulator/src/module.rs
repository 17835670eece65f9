//! Kernels compiled for the host: the tables that `GRIDPOINT_MODULE` in `kernels/ptx.cuh` defines.

use std::ffi::{CStr, c_char, c_void};
use std::fmt;

/// Where a kernel starts. It takes the address of the launch's parameter struct.
pub type Entry = unsafe extern "C" fn(parameters: *const c_void);

/// A kernel compiled for the host: `GridpointKernel` of `kernels/simulator.h`.
#[repr(C)]
pub struct HostKernel {
    name: *const c_char,
    entry: Entry,
    parameter_bytes: u32,
    maximum_threads: u32,
}

// SAFETY: the name is a constant string, never written, and the rest is plain data.
unsafe impl Send for HostKernel {}
// SAFETY: as for `Send`.
unsafe impl Sync for HostKernel {}

impl HostKernel {
    /// A kernel written in Rust.
    ///
    /// # Safety
    /// `entry` may be called with the address of any `parameter_bytes` bytes that a launch gives. Its stack never holds anything that has
    /// to be dropped, nor a lock, because a faulting launch abandons its threads: where they call an instruction of
    /// [`crate::machine::instructions`] and, if they hang or crash ([`crate::machine::Guard`]), anywhere.
    pub const unsafe fn new(name: &'static CStr, entry: Entry, parameter_bytes: u32, maximum_threads: u32) -> Self {
        Self { name: name.as_ptr(), entry, parameter_bytes, maximum_threads }
    }

    /// The kernel's name.
    pub fn name(&self) -> &str {
        // SAFETY: the table's names are constant, terminated strings.
        text(unsafe { CStr::from_ptr(self.name) })
    }

    /// Where the kernel starts.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// Size of the parameter struct.
    pub fn parameter_bytes(&self) -> u32 {
        self.parameter_bytes
    }

    /// The most threads a block may have.
    pub fn maximum_threads(&self) -> u32 {
        self.maximum_threads
    }
}

impl fmt::Debug for HostKernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HostKernel")
            .field("name", &self.name())
            .field("parameter_bytes", &self.parameter_bytes)
            .field("maximum_threads", &self.maximum_threads)
            .finish_non_exhaustive()
    }
}

/// The kernels of one `.cu` file: `GridpointModule` of `kernels/simulator.h`.
#[repr(C)]
pub struct HostModule {
    name: *const c_char,
    kernels: *const HostKernel,
    kernel_count: u32,
}

// SAFETY: the name and the kernels are constants, never written.
unsafe impl Send for HostModule {}
// SAFETY: as for `Send`.
unsafe impl Sync for HostModule {}

impl HostModule {
    /// A module of kernels written in Rust. A list longer than `u32::MAX` is cut there.
    pub const fn new(name: &'static CStr, kernels: &'static [HostKernel]) -> Self {
        let most = u32::MAX as usize;
        let count = if kernels.len() < most { kernels.len() } else { most };
        Self { name: name.as_ptr(), kernels: kernels.as_ptr(), kernel_count: count as u32 }
    }

    /// The module's name: that of the `.cu` file.
    pub fn name(&self) -> &str {
        // SAFETY: the table's names are constant, terminated strings.
        text(unsafe { CStr::from_ptr(self.name) })
    }

    /// The module's kernels, in the order of its list.
    pub fn kernels(&self) -> &[HostKernel] {
        // SAFETY: the table holds `kernel_count` constant kernels.
        unsafe { std::slice::from_raw_parts(self.kernels, self.kernel_count as usize) }
    }

    /// The kernel of this name.
    pub fn kernel(&self, name: &str) -> Option<&HostKernel> {
        self.kernels().iter().find(|kernel| kernel.name() == name)
    }
}

impl fmt::Debug for HostModule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HostModule").field("name", &self.name()).field("kernels", &self.kernels()).finish()
    }
}

/// C++ identifiers are ASCII in practice; one that is not UTF-8 is shown as `?`.
fn text(name: &CStr) -> &str {
    name.to_str().unwrap_or("?")
}

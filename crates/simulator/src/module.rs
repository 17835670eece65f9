//! Kernels compiled for the host: the tables that `GRIDPOINT_EXPORT` of `include/gridpoint_cuda.h` defines, or a macro of one's own.

use std::ffi::{CStr, c_char, c_void};
use std::fmt;

/// Where a kernel starts. It takes the address of the launch's parameter block.
pub type Entry = unsafe extern "C" fn(parameters: *const c_void);

/// A kernel compiled for the host: `GridpointKernel` of `include/gridpoint_simulator.h`.
#[repr(C)]
pub struct HostKernel {
    name: *const c_char,
    entry: Entry,
    parameter_bytes: u32,
    maximum_threads: u32,
    parameters: *const Parameter,
    parameter_count: u32,
    static_shared: *const StaticShared,
}

/// Where a parameter lies in a launch's parameter block, in bytes: `GridpointParameter` of `include/gridpoint_simulator.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// From the block's start.
    pub offset: u32,
    /// Size.
    pub bytes: u32,
}

/// Where the static shared memory of a module lies in host memory: `GridpointStaticShared` of `include/gridpoint_simulator.h`.
#[repr(C)]
struct StaticShared {
    start: *mut u8,
    end: *mut u8,
    variables: *const Variable,
    variable_count: *const u64,
}

/// A variable in host memory: `GridpointVariable` of `include/gridpoint_simulator.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variable {
    start: *mut u8,
    bytes: u64,
}

impl Variable {
    /// The host address, and how many bytes.
    pub(crate) fn range(self) -> (usize, usize) {
        (self.start.expose_provenance(), self.bytes as usize)
    }
}

// SAFETY: the name and the lists are constants, never written, and the rest is plain data; what is written is static shared memory, which
// only a launch does that holds the lock for it.
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
        Self {
            name: name.as_ptr(),
            entry,
            parameter_bytes,
            maximum_threads,
            parameters: std::ptr::null(),
            parameter_count: 0,
            static_shared: std::ptr::null(),
        }
    }

    /// The same kernel with a list of parameters instead of one that is the whole block.
    ///
    /// # Panics
    /// A parameter does not lie inside the block.
    pub const fn with_parameters(mut self, parameters: &'static [Parameter]) -> Self {
        let mut index = 0;
        while index < parameters.len() {
            let Parameter { offset, bytes } = parameters[index];
            assert!(
                offset <= self.parameter_bytes && bytes <= self.parameter_bytes - offset,
                "a parameter outside the block"
            );
            index += 1;
        }
        self.parameters = parameters.as_ptr();
        self.parameter_count = index as u32;
        self
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

    /// Size of the parameter block.
    pub fn parameter_bytes(&self) -> u32 {
        self.parameter_bytes
    }

    /// How many parameters a launch gives.
    pub fn parameter_count(&self) -> usize {
        if self.parameters.is_null() { usize::from(self.parameter_bytes != 0) } else { self.parameter_count as usize }
    }

    /// Where the parameters lie in the block, in the order of the kernel's declaration.
    pub fn parameters(&self) -> impl Iterator<Item = Parameter> + '_ {
        let whole = Parameter { offset: 0, bytes: self.parameter_bytes };
        (0..self.parameter_count()).map(move |index| {
            if self.parameters.is_null() {
                return whole;
            }
            // SAFETY: the table's list holds `parameter_count` constant entries.
            unsafe { self.parameters.add(index).read() }
        })
    }

    /// Where the module's static shared memory lies in host memory: the first address, and how many bytes; none without it.
    pub(crate) fn static_shared(&self) -> Option<(*mut u8, u32)> {
        // SAFETY: null, or the module's constant.
        let shared = unsafe { self.static_shared.as_ref() }?;
        let bytes = shared.end.addr().checked_sub(shared.start.addr())?;
        u32::try_from(bytes).ok().filter(|&bytes| bytes != 0).map(|bytes| (shared.start, bytes))
    }

    /// The variables of the module's static shared memory; none where they are not told apart.
    pub(crate) fn static_variables(&self) -> &'static [Variable] {
        // SAFETY: null, or the module's constants; the count's pointer is null or points to a constant, and the list holds as many entries.
        unsafe {
            let Some(shared) = self.static_shared.as_ref() else { return &[] };
            let count = shared.variable_count.as_ref().copied().unwrap_or(0);
            if shared.variables.is_null() || count == 0 {
                return &[];
            }
            std::slice::from_raw_parts(shared.variables, count as usize)
        }
    }

    /// Bytes of static shared memory of the kernel's module, of which there is one copy in the process.
    pub fn static_shared_bytes(&self) -> u32 {
        let variables = self.static_variables();
        if variables.is_empty() {
            return self.static_shared().map_or(0, |(_, bytes)| bytes);
        }
        variables.iter().map(|variable| variable.range().1 as u32).sum()
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
            .field("parameters", &self.parameters().collect::<Vec<_>>())
            .field("static_shared_bytes", &self.static_shared_bytes())
            .finish_non_exhaustive()
    }
}

/// The kernels of one `.cu` file: `GridpointModule` of `include/gridpoint_simulator.h`.
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

//! Shared by the driver tests: a device in this process, test kernels written in Rust, and short forms of driver calls.
//!
//! The tests of a file share the device and run one after another: [`device`] holds a lock and starts from an empty context.

// Each file uses its own part.
#![allow(dead_code, unreachable_pub, unused_macros)]

use std::ffi::{CStr, c_void};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use gridpoint_driver::*;
use gridpoint_simulator::machine::instructions::{
    gridpoint_global, gridpoint_grid_dependency_wait, gridpoint_grid_launch_dependents,
};
use gridpoint_simulator::module::{HostKernel, HostModule, Parameter};
use gridpoint_simulator::{Options, image, table};

/// Parameters of the test kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    pub data: u64,
    pub count: u32,
    pub value: u32,
}

unsafe extern "C" fn mix(parameters: *const c_void) {
    // SAFETY: the launch's parameters are `Parameters`, whose data are `count` numbers that only this thread uses now.
    unsafe {
        let Parameters { data, count, value } = *parameters.cast::<Parameters>();
        for index in 0..count as usize {
            let element = std::ptr::with_exposed_provenance_mut::<u32>(data as usize).add(index);
            element.write(step(element.read(), value));
        }
    }
}

/// What [`mix`] makes of an element: the order of two launches shows in the result.
pub fn step(element: u32, value: u32) -> u32 {
    element.wrapping_mul(3).wrapping_add(value)
}

unsafe extern "C" fn outside(parameters: *const c_void) {
    // SAFETY: the launch's parameters are `Parameters`; the instruction checks the address and nothing is accessed.
    unsafe { gridpoint_global(std::ptr::without_provenance((*parameters.cast::<Parameters>()).data as usize), 4, 4, 1) }
}

unsafe extern "C" {
    fn __tsan_write4(pointer: *const c_void);
}

/// A plain store, as code that tells makes it.
unsafe extern "C" fn told(parameters: *const c_void) {
    // SAFETY: the launch's parameters are `Parameters`; whoever is told checks the address and nothing is accessed.
    unsafe { __tsan_write4(std::ptr::without_provenance((*parameters.cast::<Parameters>()).data as usize)) }
}

unsafe extern "C" fn stray(parameters: *const c_void) {
    // SAFETY: the tests give an address in the red zone of an allocation.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>((*parameters.cast::<Parameters>()).data as usize).write(0) }
}

/// Lets dependent launches begin, waits for the launch before where `count` is 1, and makes element `value` one more than the one before it.
unsafe extern "C" fn relay(parameters: *const c_void) {
    // SAFETY: the launch's parameters are `Parameters`, whose data are at least `value + 1` numbers; the instruction checks addresses.
    unsafe {
        let Parameters { data, count, value } = *parameters.cast::<Parameters>();
        gridpoint_grid_launch_dependents();
        if count == 1 {
            gridpoint_grid_dependency_wait();
        }
        let element = std::ptr::with_exposed_provenance_mut::<u32>(data as usize).add(value as usize);
        gridpoint_global(element.sub(1).cast(), 4, 4, 0);
        gridpoint_global(element.cast(), 4, 4, 1);
        element.write(element.sub(1).read() + 1);
    }
}

unsafe extern "C" fn nothing(_: *const c_void) {}

const BYTES: u32 = size_of::<Parameters>() as u32;

/// The fields of [`Parameters`] as parameters of their own.
static APART: [Parameter; 3] =
    [Parameter { offset: 0, bytes: 8 }, Parameter { offset: 8, bytes: 4 }, Parameter { offset: 12, bytes: 4 }];

// SAFETY: the kernels take `Parameters` or nothing and hold nothing that has to be dropped.
static KERNELS: [HostKernel; 7] = unsafe {
    [
        HostKernel::new(c"mix", mix, BYTES, 64),
        HostKernel::new(c"outside", outside, BYTES, 64),
        HostKernel::new(c"told", told, BYTES, 64),
        HostKernel::new(c"stray", stray, BYTES, 64),
        HostKernel::new(c"relay", relay, BYTES, 64),
        HostKernel::new(c"nothing", nothing, 0, 1024),
        HostKernel::new(c"mix_of_three", mix, BYTES, 64).with_parameters(&APART),
    ]
};

/// The module of the test kernels.
pub static MODULE: HostModule = HostModule::new(c"driver_test", &KERNELS);

/// Options of most test files.
pub fn options() -> Options {
    Options { memory_bytes: 64 << 20, ..Options::default() }
}

static OPTIONS: OnceLock<Options> = OnceLock::new();
static TURN: Mutex<()> = Mutex::new(());

/// The table in use, made with [`options`] unless [`device_with`] came first.
pub fn t() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let table = table(OPTIONS.get_or_init(options).clone(), &[&MODULE]);
        // cust's symbols and this table are the same device.
        install(table).unwrap();
        table
    })
}

/// Asserts that a call succeeds.
macro_rules! ok {
    ($name:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: the tests pass pointers to live memory, or plain numbers.
        assert_eq!(unsafe { ($crate::driver_support::t().$name)($($argument),*) }, gridpoint_driver::CUresult::SUCCESS, stringify!($name))
    };
}

/// What a call answers.
macro_rules! answer {
    ($name:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: the tests pass pointers to live memory, or plain numbers.
        unsafe { ($crate::driver_support::t().$name)($($argument),*) }
    };
}

/// A launch of `blocks` blocks of one thread. The attributes must live as long as it is used.
pub fn config(blocks: u32, stream: CUstream, attributes: &mut [CUlaunchAttribute]) -> CUlaunchConfig {
    CUlaunchConfig {
        grid_dim_x: blocks,
        grid_dim_y: 1,
        grid_dim_z: 1,
        block_dim_x: 1,
        block_dim_y: 1,
        block_dim_z: 1,
        shared_mem_bytes: 0,
        stream,
        attrs: attributes.as_mut_ptr(),
        num_attrs: attributes.len() as u32,
    }
}

/// The device, with an empty primary context current on this thread.
pub struct Device {
    _turn: MutexGuard<'static, ()>,
    module: CUmodule,
}

pub fn device() -> Device {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    ok!(cuInit(0));
    let mut mode = CUstreamCaptureMode::GLOBAL;
    ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
    ok!(cuDevicePrimaryCtxReset_v2(0));
    make_current();
    let mut module = CUmodule::null();
    ok!(cuModuleLoadData(&mut module, image("driver_test").as_ptr().cast()));
    Device { _turn: turn, module }
}

pub fn device_with(options: Options) -> Device {
    let _ = OPTIONS.set(options);
    device()
}

/// Retains the primary context and makes it current on this thread.
pub fn make_current() {
    let mut context = CUcontext::null();
    ok!(cuDevicePrimaryCtxRetain(&mut context, 0));
    ok!(cuCtxSetCurrent(context));
}

impl Device {
    pub fn function(&self, name: &CStr) -> CUfunction {
        let mut function = CUfunction::null();
        ok!(cuModuleGetFunction(&mut function, self.module, name.as_ptr()));
        function
    }

    pub fn module(&self) -> CUmodule {
        self.module
    }

    /// Device memory that holds `values`.
    pub fn buffer(&self, values: &[u32]) -> u64 {
        let mut pointer = 0;
        ok!(cuMemAlloc_v2(&mut pointer, size_of_val(values)));
        ok!(cuMemcpyHtoD_v2(pointer, values.as_ptr().cast(), size_of_val(values)));
        // Also for streams that do not synchronise with the legacy stream.
        ok!(cuStreamSynchronize(CU_STREAM_LEGACY));
        pointer
    }

    /// Pinned memory that holds `values`.
    pub fn pinned(&self, values: &[u32]) -> *mut u32 {
        let mut pointer = std::ptr::null_mut();
        ok!(cuMemAllocHost_v2(&mut pointer, size_of_val(values)));
        // SAFETY: as many bytes were allocated.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), pointer.cast(), values.len()) };
        pointer.cast()
    }

    pub fn stream(&self, flags: u32) -> CUstream {
        let mut stream = CUstream::null();
        ok!(cuStreamCreate(&mut stream, flags));
        stream
    }

    pub fn event(&self, flags: u32) -> CUevent {
        let mut event = CUevent::null();
        ok!(cuEventCreate(&mut event, flags));
        event
    }

    /// Launches a test kernel as one thread.
    pub fn launch(&self, name: &CStr, stream: CUstream, parameters: Parameters) -> CUresult {
        let mut parameters = parameters;
        let mut addresses = [(&raw mut parameters).cast::<c_void>()];
        let function = self.function(name);
        answer!(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, addresses.as_mut_ptr(), std::ptr::null_mut()))
    }

    /// Enqueues [`step`] for `count` elements.
    pub fn mix(&self, stream: CUstream, data: u64, count: u32, value: u32) {
        assert_eq!(self.launch(c"mix", stream, Parameters { data, count, value }), CUresult::SUCCESS);
    }

    /// Device memory now, without waiting for anything: host addresses are device addresses.
    pub fn peek(&self, data: u64) -> u32 {
        // SAFETY: the tests give addresses of live allocations, and no work runs between two calls.
        unsafe { std::ptr::with_exposed_provenance::<u32>(data as usize).read() }
    }

    pub fn begin(&self, stream: CUstream, mode: CUstreamCaptureMode) {
        ok!(cuStreamBeginCapture_v2(stream, mode));
    }

    pub fn end(&self, stream: CUstream) -> Result<CUgraph, CUresult> {
        // Not null, to see that an error sets it.
        let mut graph = CUgraph(std::ptr::without_provenance_mut(1));
        let answer = answer!(cuStreamEndCapture(stream, &mut graph));
        if answer.is_success() {
            assert!(!graph.is_null());
            return Ok(graph);
        }
        assert!(graph.is_null() || answer == CUresult::ERROR_INVALID_HANDLE, "{answer:?} left a graph");
        Err(answer)
    }

    pub fn instantiate(&self, graph: CUgraph) -> CUgraphExec {
        let mut executable = CUgraphExec::null();
        ok!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        executable
    }

    pub fn nodes(&self, graph: CUgraph) -> Vec<CUgraphNode> {
        let mut count = 0;
        ok!(cuGraphGetNodes(graph, std::ptr::null_mut(), &mut count));
        let mut nodes = vec![CUgraphNode::null(); count];
        ok!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
        nodes
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        ok!(cuDevicePrimaryCtxReset_v2(0));
        ok!(cuDevicePrimaryCtxRelease_v2(0));
    }
}

//! The driver half of the simulator: CUDA's driver API over one device in software.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | options, the filling of the table, how a call enters the device |
//! | `state.rs` | everything the device knows; handles as numbers; the sticky error |
//! | `work.rs` | what a stream can hold, and how it is executed |
//! | `queue.rs` | streams as queues: as late as the rules allow, or interleaved at random |
//! | `kernels.rs` | kernels that run, with those that may overlap them |
//! | `device.rs`, `contexts.rs` | devices, the primary context, the thread's stack of contexts |
//! | `allocation.rs`, `copies.rs` | memory calls |
//! | `tensor_maps.rs` | tensor maps |
//! | `modules.rs`, `functions.rs`, `occupancy.rs`, `launch.rs` | modules, functions and launches |
//! | `virtual_memory.rs` | reserved addresses, physical memory, and the mappings between them |
//! | `streams.rs`, `events.rs` | stream and event calls |
//! | `capture.rs`, `capturing.rs` | the rules of stream capture, and its calls |
//! | `graphs.rs`, `nodes.rs`, `attributes.rs`, `executables.rs`, `update.rs`, `dot.rs` | graphs |
//! | `edges.rs`, `dependencies.rs` | what a graph's edges stand for, and their calls |
//! | `gate.rs`, `injection.rs` | calls that fail from outside; counted calls; addresses of functions by name |
//! | `leaks.rs` | what was made and not given back |
//!
//! What is not filled answers `NOT_FOUND`, as a driver that lacks the function: arrays, textures, surfaces, memory of other
//! interfaces, the linker and two-dimensional copies.
//!
//! There is one device lock. Queued work runs under it, on the thread of the call that waits: a kernel or a host function must not
//! wait for another thread that is inside a driver call.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use gridpoint_driver::{AlreadyInstalled, CUresult, Table};

use crate::detectors::Detectors;
use crate::fault::Fault;
use crate::machine::Guard;
use crate::module::HostModule;

mod allocation;
mod attributes;
mod capture;
mod capturing;
mod contexts;
mod copies;
mod dependencies;
mod device;
mod dot;
mod edges;
mod events;
mod executables;
mod functions;
mod gate;
mod graphs;
mod injection;
mod kernels;
mod launch;
mod leaks;
mod modules;
mod nodes;
mod occupancy;
mod queue;
mod state;
mod streams;
mod tensor_maps;
mod update;
mod virtual_memory;
mod work;

use crate::counters::{Recorded, Recorder};
pub use injection::{CallCounts, Injected, Injection, UnknownFunction};
pub use leaks::{Leak, LeakKind, leaks};
pub use modules::image;
use state::State;

/// What the simulated device is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// Streaming multiprocessors. Under a seed the blocks of a launch are dealt out to them.
    pub multiprocessors: u32,
    /// Blocks that a multiprocessor has resident at a time under a seed or detectors: they take turns.
    pub resident_blocks: u32,
    /// Seed of the schedules of threads, of streams and of graph nodes; none for round-robin threads and streams that run as late as
    /// the rules allow.
    pub seed: Option<u64>,
    /// Whether the memory around every allocation is checked after each kernel. It is always checked when an allocation is freed.
    pub check_red_zones: bool,
    /// What watches launches.
    pub detectors: Detectors,
    /// Seconds of processor time after which a block counts as hung, zero for never: [`crate::machine::Guard::block_seconds`].
    pub block_seconds: u32,
    /// Whether a crash in a kernel's code becomes a fault: [`crate::machine::Guard::crashes`].
    pub catch_crashes: bool,
}

impl Default for Options {
    /// 8 GiB, 4 multiprocessors of 4 blocks, round-robin, red zones checked, [`Guard::default`].
    fn default() -> Self {
        let guard = Guard::default();
        Self {
            memory_bytes: 8 << 30,
            multiprocessors: 4,
            resident_blocks: 4,
            seed: None,
            check_red_zones: true,
            detectors: Detectors::NONE,
            block_seconds: guard.block_seconds,
            catch_crashes: guard.crashes,
        }
    }
}

static DEVICE: OnceLock<Mutex<State>> = OnceLock::new();

thread_local! {
    /// Whether this thread runs a host function in stream order, which may not call the driver.
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// The result of a call's body: a driver code where it failed.
type Answer<T = ()> = Result<T, CUresult>;

/// A filling of the driver table: one simulated device that can load `modules`.
///
/// A process has one device: the first call makes it, and later calls answer the same functions and leave it as it is.
pub fn table(options: Options, modules: &[&'static HostModule]) -> Table {
    DEVICE.get_or_init(|| Mutex::new(State::new(options, modules)));
    let mut table = Table::missing();
    device::fill(&mut table);
    contexts::fill(&mut table);
    allocation::fill(&mut table);
    copies::fill(&mut table);
    modules::fill(&mut table);
    functions::fill(&mut table);
    occupancy::fill(&mut table);
    launch::fill(&mut table);
    streams::fill(&mut table);
    tensor_maps::fill(&mut table);
    events::fill(&mut table);
    capturing::fill(&mut table);
    graphs::fill(&mut table);
    nodes::fill(&mut table);
    attributes::fill(&mut table);
    dependencies::fill(&mut table);
    executables::fill(&mut table);
    update::fill(&mut table);
    dot::fill(&mut table);
    virtual_memory::fill(&mut table);
    gate::fill(&mut table);
    gate::gated(table)
}

/// Puts a simulated device behind every `cu*` symbol of this process.
///
/// # Errors
/// [`AlreadyInstalled`] when a table was installed or a driver function was called before.
pub fn install(options: Options, modules: &[&'static HostModule]) -> Result<(), AlreadyInstalled> {
    gridpoint_driver::install(table(options, modules))
}

/// What the last failed kernel did; none before the first failure and after `cuDevicePrimaryCtxReset`.
pub fn last_fault() -> Option<Fault> {
    lock()?.last_fault.clone()
}

/// Clears the sticky error that a kernel left, as no CUDA call can: memory, streams, events, modules and graphs stay. Work that was
/// queued when the kernel failed was dropped. [`last_fault`] keeps its report.
pub fn reset() {
    if let Some(mut state) = lock() {
        state.fault = None;
    }
}

/// Starts the schedules of another seed; what has run and what is queued stay. Equal calls from here on give equal schedules.
pub fn reseed(seed: Option<u64>) {
    if let Some(mut state) = lock() {
        state.reseed(seed);
    }
}

/// Begins to count what launches on the simulated device do, and forgets what was counted before. Until [`take`] every launch runs on one
/// OS thread. Without a device nothing happens.
pub fn record() {
    if let Some(mut state) = lock() {
        state.recorder = Some(Recorder::new());
    }
}

/// Ends the recording that [`record`] began: what has run since then. Work that is still queued is not among it.
pub fn take() -> Recorded {
    let recorder = lock().and_then(|mut state| state.recorder.take());
    recorder.map(|recorder| recorder.take()).unwrap_or_default()
}

fn lock() -> Option<MutexGuard<'static, State>> {
    // A panic inside a call aborts the process, since no unwinding leaves `extern "C"`; the lock is never poisoned in practice.
    DEVICE.get().map(|device| device.lock().unwrap_or_else(PoisonError::into_inner))
}

fn code(answer: Answer) -> CUresult {
    answer.err().unwrap_or(CUresult::SUCCESS)
}

/// A call that needs nothing, not even `cuInit`.
fn enter(body: impl FnOnce(&mut State) -> Answer) -> CUresult {
    // A host function runs under the device lock; CUDA forbids it to call the driver (cuLaunchHostFunc).
    if IN_HOST_FUNCTION.get() {
        return CUresult::ERROR_NOT_PERMITTED;
    }
    lock().map_or(CUresult::ERROR_NOT_INITIALIZED, |mut state| code(body(&mut state)))
}

/// A call that needs `cuInit`.
fn initialised(body: impl FnOnce(&mut State) -> Answer) -> CUresult {
    enter(|state| if state.initialised { body(state) } else { Err(CUresult::ERROR_NOT_INITIALIZED) })
}

/// A call that needs a current context whose kernels have not failed.
fn in_context(body: impl FnOnce(&mut State) -> Answer) -> CUresult {
    initialised(|state| {
        state.current_context()?;
        state.fault.map_or(Ok(()), Err)?;
        body(state)
    })
}

/// A call that gives something back: it does so also after a kernel failed, and then answers that failure.
fn releasing(body: impl FnOnce(&mut State) -> Answer) -> CUresult {
    initialised(|state| {
        state.current_context()?;
        let sticky = state.fault;
        let answer = body(state);
        sticky.map_or(answer, Err)
    })
}

/// Writes an answer; a null pointer answers `INVALID_VALUE`.
///
/// # Safety
/// `pointer` is null or points to memory that may be written as a `T`; alignment is not needed.
unsafe fn write<T>(pointer: *mut T, value: T) -> Answer {
    if pointer.is_null() {
        return Err(CUresult::ERROR_INVALID_VALUE);
    }
    // SAFETY: not null, and the caller promises that it can be written.
    unsafe { pointer.write_unaligned(value) };
    Ok(())
}

/// Reads an argument struct; a null pointer answers `INVALID_VALUE`.
///
/// # Safety
/// `pointer` is null or points to an initialised `T`; alignment is not needed.
unsafe fn read<T: Copy>(pointer: *const T) -> Answer<T> {
    if pointer.is_null() {
        return Err(CUresult::ERROR_INVALID_VALUE);
    }
    // SAFETY: not null, and the caller promises that it can be read.
    Ok(unsafe { pointer.read_unaligned() })
}

/// Writes an answer of a driver call through the caller's pointer; see [`write()`].
macro_rules! put {
    ($pointer:expr, $value:expr) => {{
        let (pointer, value) = ($pointer, $value);
        // SAFETY: the contract of the driver call: an output pointer is null or can be written.
        unsafe { $crate::driver::write(pointer, value) }
    }};
}

/// Reads an argument of a driver call through the caller's pointer; see [`read()`].
macro_rules! get {
    ($pointer:expr) => {{
        let pointer = $pointer;
        // SAFETY: the contract of the driver call: an input pointer is null or points to an initialised value.
        unsafe { $crate::driver::read(pointer) }
    }};
}
use {get, put};

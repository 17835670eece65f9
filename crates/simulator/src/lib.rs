//! A CUDA device in software.
//!
//! The machine ([`machine`]) runs kernels that were compiled for the host: each CUDA thread is a fiber, and every instruction of
//! `include/gridpoint_simulator.h` is a function here that checks what a GPU would not. A fault is typed and names kernel, block, thread and, by
//! the program's line tables, the line of the kernel's source. A block that hangs and a thread that crashes are faults too
//! ([`machine::Guard`]): for that the first launch starts a thread and installs handlers of signals, which [`Options`] can switch off.
//!
//! The driver ([`table()`], [`install`]) is CUDA's driver API in front of it, for one simulated device: memory, streams, events, modules,
//! launches, stream capture and graphs with CUDA's own rules and codes. Work runs as late as those rules allow, or, with a
//! seed, in any order that they allow. Calls can be made to fail ([`Injection`]), and what was not given back is listed ([`leaks()`]).
//!
//! Launches can be watched: by [`detectors`], which end a launch where a GPU would go on in silence, and by [`counters`], which say exactly
//! what each launch and each graph read, wrote, multiplied and waited for.
//!
//! Kernels of anybody, written in ordinary CUDA C++, are compiled by `gridpoint-simulator-build`: README.md says how.

pub mod counters;
pub mod detectors;
mod driver;
pub mod fault;
mod initialised;
pub mod machine;
mod memory;
pub mod module;
mod pages;
mod source;

pub use detectors::Detectors;
pub use driver::{
    CallCounts, Injected, Injection, Leak, LeakKind, Options, UnknownFunction, image, install, last_fault, leaks,
    reseed, reset, table,
};
pub use fault::{Fault, SourceLine};
pub use memory::{POISON, Range, Snapshot};

/// The folder of `gridpoint_simulator.h` and `gridpoint_cuda.h` where this crate was built. Build scripts of packages that depend on it
/// are told as `DEP_GRIDPOINT_SIMULATOR_INCLUDE`.
pub const INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include");

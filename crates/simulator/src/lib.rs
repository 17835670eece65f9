//! A CUDA device in software.
//!
//! The machine ([`machine`]) runs kernels that were compiled for the host: each CUDA thread is a fiber, and every instruction of
//! `kernels/simulator.h` is a function here that checks what a GPU would not. A fault is typed and names kernel, block and thread.
//!
//! The driver ([`table()`], [`install`]) is CUDA's driver API in front of it, for one simulated device: memory, streams, events, modules,
//! launches, stream capture and graphs with CUDA's own rules and codes. Work runs as late as those rules allow, or, with a
//! seed, in any order that they allow. Calls can be made to fail ([`Injection`]), and what was not given back is listed ([`leaks()`]).

pub mod detectors;
mod driver;
pub mod fault;
mod initialised;
pub mod machine;
mod memory;
pub mod module;
mod pages;

pub use detectors::Detectors;
pub use driver::{
    CallCounts, Injected, Injection, Leak, LeakKind, Options, UnknownFunction, image, install, last_fault, leaks,
    reseed, reset, table,
};
pub use fault::Fault;
pub use memory::{POISON, Range, Snapshot};

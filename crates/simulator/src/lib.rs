//! A CUDA device in software.
//!
//! The machine ([`machine`]) runs kernels that were compiled for the host: each CUDA thread is a fiber, and every instruction of
//! `kernels/simulator.h` is a function here that checks what a GPU would not. A fault is typed and names kernel, block and thread.
//!
//! The driver ([`table()`], [`install`]) is CUDA's driver API in front of it, for one simulated device: memory, streams, events, modules,
//! launches, stream capture and graphs with CUDA's own rules and codes. Work runs as late as those rules allow.

mod driver;
pub mod fault;
pub mod machine;
mod memory;
pub mod module;

pub use driver::{Options, image, install, last_fault, reset, table};
pub use fault::Fault;
pub use memory::{POISON, Range, Snapshot};

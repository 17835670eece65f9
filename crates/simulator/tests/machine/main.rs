//! The machine: every instruction against a plain reference, every fault, and every schedule.
#![expect(clippy::result_large_err, reason = "as in the crate")]

mod asynchronous;
mod counters;
mod dependency;
mod detectors;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod guard;
mod identity;
mod matrices;
mod memory;
mod speed;
mod support;
mod synchronisation;

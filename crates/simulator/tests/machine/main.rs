//! The machine: every instruction against a plain reference, every fault, and every schedule.

mod asynchronous;
mod dependency;
mod detectors;
mod identity;
mod matrices;
mod memory;
mod speed;
mod support;
mod synchronisation;

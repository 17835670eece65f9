//! What the program embeds: the kernels, compiled for GPUs and for the simulated device.

pub mod captures;
pub mod counted;
pub mod devices;
pub mod kernels;
pub mod profile;
pub mod rig;
pub mod tables;
pub mod timed;

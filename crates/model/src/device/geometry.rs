//! Grids: how many blocks a launch gets.
//!
//! Everything here follows the point's capacities and the device's size, never live counts: a grid is frozen at capture. No
//! choice changes a bit of the results; kernels walk what is live with whatever grid they get.

use gridpoint_runtime::{DeviceProperties, Kernel, Parameters, RuntimeError};

/// A kernel and the blocks of it that fill the device at once.
#[derive(Debug)]
pub(crate) struct Resident<P> {
    pub(crate) kernel: Kernel<P>,
    blocks: u32,
}

impl<P> Clone for Resident<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Resident<P> {}

impl<P: Parameters> Resident<P> {
    /// Asks the device how many blocks of `kernel` it holds.
    pub(crate) fn new(kernel: Kernel<P>, properties: &DeviceProperties) -> Result<Self, RuntimeError> {
        let blocks = kernel.blocks_per_multiprocessor()?.saturating_mul(properties.multiprocessors);
        Ok(Self { kernel, blocks })
    }

    /// Blocks for `work` units of which a block takes `each`: at least one, and no more than the device holds at once, since
    /// every kernel walks its work with the grid as stride.
    pub(crate) fn blocks_for(&self, work: u64, each: u64) -> u32 {
        work.div_ceil(each.max(1)).clamp(1, u64::from(self.blocks.max(1))) as u32
    }

    /// Blocks that fill the device.
    pub(crate) fn all_blocks(&self) -> u32 {
        self.blocks.max(1)
    }
}

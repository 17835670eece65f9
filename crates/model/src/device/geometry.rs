//! Grids: how many blocks a launch gets, and which tile a matrix product takes.
//!
//! Everything here follows the point's capacities and the device's size, never live counts: a grid is frozen at capture. No
//! choice changes a bit of the results; kernels walk what is live with whatever grid they get.

use gridpoint_runtime::{DeviceProperties, Kernel, Parameters, RuntimeError};

/// Output tiles of the matrix product, rows x columns, smallest first (kernels/gemm.cu).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GemmTile {
    /// Up to 16 rows: bound by the bandwidth of the weights.
    Rows16Columns64,
    /// Where larger tiles would leave multiprocessors idle.
    Rows64Columns64,
    /// Many rows: bound by the tensor cores.
    Rows128Columns128,
}

impl GemmTile {
    /// All tiles.
    pub(crate) const ALL: [Self; 3] = [Self::Rows16Columns64, Self::Rows64Columns64, Self::Rows128Columns128];

    /// Rows and columns.
    #[must_use]
    pub fn shape(self) -> (u32, u32) {
        match self {
            Self::Rows16Columns64 => (16, 64),
            Self::Rows64Columns64 => (64, 64),
            Self::Rows128Columns128 => (128, 128),
        }
    }

    /// Rows and columns of one warp's part.
    pub(crate) fn warp_shape(self) -> (u32, u32) {
        match self {
            Self::Rows16Columns64 => (16, 16),
            Self::Rows64Columns64 => (32, 32),
            Self::Rows128Columns128 => (64, 64),
        }
    }

    /// Tiles of an output of `rows` x `columns`.
    pub(crate) fn count(self, rows: u32, columns: u32) -> u64 {
        let (tile_rows, tile_columns) = self.shape();
        u64::from(rows.div_ceil(tile_rows)) * u64::from(columns.div_ceil(tile_columns))
    }

    /// The tile for an output of `rows` x `columns`: the largest that is not mostly padding and gives every multiprocessor one.
    /// A choice by arithmetic; measurements on a device belong in its place.
    pub(crate) fn choose(rows: u32, columns: u32, multiprocessors: u32) -> Self {
        if rows <= 16 {
            Self::Rows16Columns64
        } else if rows <= 64 || Self::Rows128Columns128.count(rows, columns) < u64::from(multiprocessors) {
            Self::Rows64Columns64
        } else {
            Self::Rows128Columns128
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_follow_rows_and_the_device() {
        assert_eq!(GemmTile::choose(1, 128_256, 132), GemmTile::Rows16Columns64);
        assert_eq!(GemmTile::choose(16, 4096, 132), GemmTile::Rows16Columns64);
        assert_eq!(GemmTile::choose(17, 4096, 132), GemmTile::Rows64Columns64);
        assert_eq!(
            GemmTile::choose(396, 4096, 132),
            GemmTile::Rows64Columns64,
            "4 x 32 large tiles leave 4 of 132 idle"
        );
        assert_eq!(GemmTile::choose(512, 6144, 132), GemmTile::Rows128Columns128);
        assert_eq!(GemmTile::Rows128Columns128.count(129, 1003), 16);
    }
}

//! Matrix products: which kernel each takes, how its sums are cut, and its launch.

mod choice;
mod hopper;
mod kernels;
mod launch;
mod segments;
mod tile;

pub use choice::ProductKernel;
pub use hopper::{HopperTile, TensorOutput, TileCluster};
pub(crate) use kernels::ProductKernels;
pub(crate) use launch::{Output, Product};
pub use segments::Segments;
pub use tile::GemmTile;

/// What a product does with an element before it is stored (kernels/epilogue.cuh); all add a bias where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epilogue {
    /// float32, for logits.
    Logits,
    /// Adds the residual stream.
    Residual,
    /// Gate and up columns in turn become one.
    SwiGlu,
    /// Query and key heads are rotated; keys and values go to the cache.
    Rotary,
}

impl Epilogue {
    /// What it means for tensor maps.
    pub(crate) fn tensor_output(self) -> TensorOutput {
        match self {
            Self::Logits | Self::Rotary => TensorOutput::Registers,
            Self::Residual => TensorOutput::Residual,
            Self::SwiGlu => TensorOutput::Halved,
        }
    }
}

/// A product's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProductShape {
    /// Capacity of rows.
    pub rows: u32,
    /// Columns of the product: rows of the weights.
    pub n: u32,
    /// Values of each sum.
    pub k: u32,
    /// Segments that k is cut into.
    pub segments: u32,
}

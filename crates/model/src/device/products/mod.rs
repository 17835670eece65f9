//! Matrix products: which kernel each takes, how its sums are cut, and its launch.

mod choice;
mod class;
mod hopper;
mod kernels;
mod launch;
mod name;
mod permits;
mod report;
mod segments;
mod table;
mod table_file;
mod tile;

pub use choice::ProductKernel;
pub use class::{ProductClass, RowClass, UnknownWord};
pub use hopper::{HopperTile, TensorOutput, TileCluster};
pub(crate) use kernels::ProductKernels;
pub(crate) use launch::{Output, Product};
pub use permits::NotPermitted;
pub use report::{ChoiceOrigin, PointProducts, ProductChoice};
pub use segments::Segments;
pub use table::{MeasuredDevice, Measurement, ProductTable, TableError};
pub use tile::GemmTile;

/// What a product does with an element before it is stored (kernels/epilogue.cuh); all add a bias where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Epilogue {
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

//! The model on a device: its kernels, its memory, and the page of launches that makes a step.

mod attention;
mod geometry;
mod inspect;
mod kernels;
mod launches;
mod limits;
mod memory;
mod model;
mod need;
mod order;
mod products;
mod random;
mod record;
mod source;
mod upload;

pub use inspect::CacheSide;
pub use kernels::Kernels;
pub use limits::LimitError;
pub use memory::{Capacity, KvCache, WeightStore, Workspace};
pub use model::Model;
pub use need::{Arithmetic, LaunchNeed, Need, RequestLengths, StepLengths, Work};
pub use order::LaunchOrder;
pub use products::{
    ChoiceOrigin, Epilogue, GemmTile, HopperTile, MeasuredDevice, Measurement, NotPermitted, PointProducts,
    ProductChoice, ProductClass, ProductKernel, ProductShape, ProductTable, RowClass, Segments, TableError,
    TensorOutput, TileCluster, UnknownWord,
};
pub use source::WeightSource;
pub use upload::{NewWeights, UpdateBytes};

//! The model on a device: its kernels, its memory, and the page of launches that makes a step.

mod geometry;
mod hopper_geometry;
mod kernels;
mod launches;
mod memory;
mod model;
mod need;
mod order;
mod record;

pub use geometry::GemmTile;
pub use hopper_geometry::{HopperTile, ProductShape, TensorOutput, TileCluster};
pub use kernels::Kernels;
pub use memory::{Capacity, KvCache, WeightStore, Workspace};
pub use model::Model;
pub use need::{LaunchNeed, Need, RequestLengths, StepLengths};
pub use order::LaunchOrder;

//! Model folders of Hugging Face: what a reader of weights has to know before the first launch.
//!
//! The order of use: [`ModelConfig::load`] reads and checks `config.json`; [`WeightPlan`] says from it alone what the
//! device will hold; [`Checkpoint::open`] maps the safetensors files and [`Weights::new`] checks them against the
//! configuration; [`Weights::write_at`] fills staging buffers. [`rotary_table`] gives the cosines and sines of rotary
//! embedding, [`Tokenizer`] turns text into token ids and back.
//!
//! On the device: [`WeightStore`], [`Workspace`] and [`KvCache`] say what goes where before anything is allocated, and refuse by
//! [`LimitError`] what no kernel can count; [`Model::load_into`] fills the weights from a [`WeightSource`] (a checkpoint,
//! or numbers for a [`Shape`] without one), [`Model::update`] writes others over them, and [`Model::record`] is the page of launches that makes a step of a point.
//!
//! Nothing that a folder holds makes this crate panic: every fault is a [`ModelError`] that names the file, the field or
//! tensor, the value and what would be right.

mod checkpoint;
mod config;
mod device;
mod device_weights;
mod error;
mod json;
mod mmap;
mod rope;
mod shapes;
mod tokenizer;
mod weight_lookup;
mod weight_plan;
mod weight_source;
mod weights;

pub use checkpoint::Checkpoint;
pub use config::ModelConfig;
pub use device::{
    Arithmetic, CacheSide, Capacity, ChoiceOrigin, Epilogue, GemmTile, HopperTile, Kernels, KvCache, LaunchNeed,
    LaunchOrder, LimitError, MeasuredDevice, Measurement, Model, Need, NewWeights, NotPermitted, PointProducts,
    ProductChoice, ProductClass, ProductKernel, ProductShape, ProductTable, RequestLengths, RowClass, Segments,
    StepLengths, TableError, TensorOutput, TileCluster, UnknownWord, UpdateBytes, WeightSource, WeightStore, Work,
    Workspace,
};
pub use device_weights::{DeviceWeights, GivenTensor};
pub use error::{ModelError, Result};
pub use rope::{RopeConfig, RopeScaling, inverse_frequencies, rotary_table};
pub use shapes::{SHAPES, Shape};
pub use tokenizer::{TokenStream, Tokenizer};
pub use weight_plan::{DeviceTensor, ElementType, LayerTensors, ModelTensors, WeightPlan};
pub use weights::{AttentionBiases, LayerWeights, ModelWeights, Weights};

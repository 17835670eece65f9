//! The CUDA driver with ownership: device, arena, kernels, streams, captured graphs.
//!
//! | CUDA | here |
//! |---|---|
//! | primary context, loaded modules | [`Device`] |
//! | one `cuMemAlloc` cut into regions | [`ArenaLayout`] -> [`Arena`], [`Region`] |
//! | reserved addresses with `cuMemCreate` behind them, given back and taken again | [`Arena::releasable`] |
//! | pinned host memory | [`PinnedBuffer`]; [`Staging`], two of them that take turns |
//! | a `CUdeviceptr` of somebody else | [`DeviceBytes`] |
//! | a function of a module, with its one parameter struct | [`Kernel`] |
//! | grid, block, shared memory and parameters of one launch | [`Launch`], [`Launches`] |
//! | what a launch's parameters are, by name | [`Field`], [`Value`] |
//! | `CUtensorMap` | [`TensorMap`] |
//! | where the step block lies | [`StepAddress`] |
//! | `CUstream`, `CUevent` | [`Stream`], [`Event`] |
//! | a capture in progress, a graph, an executable graph | [`Recording`] -> [`GraphTemplate`] -> [`Graph`] |
//! | launches of other libraries, as they were captured | [`CapturedLaunches`] |
//! | `cuProfilerStart`, `cuProfilerStop` | [`Collection`] |
//! | NVTX ranges, for profilers | [`ranges::Range`], [`ranges::RangeName`] |
//!
//! A step is a value here: [`Launches`] is the list of kernel launches that make it. Launching the list on a stream is an eager step;
//! launching it inside a [`Recording`] makes a [`Graph`]; comparing two lists tells whether two points can share one graph.
//!
//! cust wraps context, modules, functions, streams, events and buffers. What it lacks (capture, executable graphs, function attributes)
//! is called through the table of `gridpoint-driver`, so that everything works on whatever fills that table.
//!
//! This crate does not know what a model, a step or a plan is, and it never chooses a device.

mod arena;
mod captured;
mod collection;
mod device;
mod device_bytes;
mod dot;
mod error;
mod fields;
mod graph;
#[doc(hidden)]
pub mod instructions;
mod kernel;
mod launch;
pub mod parameters;
mod pinned;
pub mod ranges;
mod staging;
mod step;
mod stream;
mod tensor_map;
mod virtual_memory;

pub use arena::{Arena, ArenaLayout, REGION_ALIGNMENT, Region};
pub use captured::{CapturedLaunches, GraphIdentity};
pub use collection::Collection;
pub use device::{
    Device, DeviceProperties, Image, Images, LEAST_COMPUTE_CAPABILITY, MemoryInfo, WARPGROUPS_COMPUTE_CAPABILITY,
};
pub use device_bytes::DeviceBytes;
pub use error::RuntimeError;
#[doc(hidden)]
pub use fields::DESCRIBED;
pub use fields::{Field, FieldKind, Value};
pub use graph::{Graph, GraphTemplate, RecordedEdge, Recording};
pub use gridpoint_driver::CUstream;
pub use kernel::{Kernel, Parameters};
pub use launch::{Launch, Launches};
pub use pinned::PinnedBuffer;
pub use staging::Staging;
pub use step::StepAddress;
pub use stream::{Event, Stream};
pub use tensor_map::{Swizzle, TensorElement, TensorMap};

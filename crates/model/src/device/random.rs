//! Weights, keys, values and activations made on the device: for models that are timed or counted and never asked for a token.
//!
//! The numbers follow from the seed alone (kernels/fill.cu). Matrices have the standard deviation 1 / sqrt(K), so that a product has
//! that of its input; scales of normalisations lie near 1. What is not finite or zero would be computed as fast or faster, and power follows
//! the bits: zeros would flatter.

use std::sync::Arc;

use gridpoint_runtime::parameters::FillParameters;
use gridpoint_runtime::{Arena, Device, Kernel, Region, RuntimeError, Stream};

use super::memory::{WeightStore, Workspace};
use super::model::Model;
use super::upload::upload_rotary;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::weight_plan::WeightPlan;

/// Vectors of eight elements that a thread of a full grid makes at least.
const VECTORS_A_THREAD: u64 = 4;
/// How far the scales of normalisations lie around 1.
const SCALE_WIDTH: f32 = 0.25;
/// Standard deviation of biases.
const BIAS_DEVIATION: f32 = 0.02;
/// Numbers of the regions that are no weights; those of weights count from 0.
const CACHE: u32 = 1 << 31;
const ACTIVATIONS: u32 = CACHE + 1;

/// A distribution with independent elements.
#[derive(Clone, Copy)]
enum Distribution {
    /// Mean 0 and this standard deviation.
    Centred(f32),
    /// Around 1.
    Scale,
}

struct Filler {
    kernel: Kernel<FillParameters>,
    blocks: u64,
    stream: Stream,
    seed: u64,
}

impl Filler {
    fn new(device: &Arc<Device>, seed: u64) -> Result<Self, RuntimeError> {
        let kernel = device.kernel::<FillParameters>("fill_random", 0)?;
        let resident = kernel.blocks_per_multiprocessor()?.saturating_mul(device.properties().multiprocessors);
        Ok(Self { kernel, blocks: u64::from(resident.max(1)), stream: Stream::new(device)?, seed })
    }

    /// Enqueues the numbers of one region.
    fn fill(&self, arena: &Arena, region: Region<u16>, tensor: u32, numbers: Distribution) -> Result<(), RuntimeError> {
        let (offset, half_width) = match numbers {
            // The standard deviation of a uniform distribution is its half width / sqrt(3).
            Distribution::Centred(deviation) => (0.0, deviation * 3.0_f32.sqrt()),
            Distribution::Scale => (1.0, SCALE_WIDTH),
        };
        let threads = u64::from(self.kernel.threads()).max(1);
        let blocks = region.count().div_ceil(8 * VECTORS_A_THREAD * threads).clamp(1, self.blocks);
        self.stream.launch(&self.kernel.launch(
            u32::try_from(blocks).unwrap_or(u32::MAX),
            &FillParameters {
                target: arena.pointer(region),
                count: region.count(),
                seed: self.seed,
                half_width,
                offset,
                tensor,
                reserved: 0,
            },
        ))
    }
}

impl Model {
    /// As [`Model::upload_into`], with random weights in place of a checkpoint's.
    ///
    /// # Errors
    /// The driver's error.
    pub fn randomize(
        arena: &Arena,
        config: &ModelConfig,
        seed: u64,
        (store, plan): (&WeightStore, &WeightPlan),
    ) -> Result<()> {
        let filler = Filler::new(arena.device(), seed)?;
        let places = plan.places();
        let scales = [places.norm];
        let mut biases = Vec::new();
        for layer in &places.layers {
            biases.extend([layer.qkv_bias, layer.o_bias].into_iter().flatten());
        }
        for (index, (&region, tensor)) in store.uploads.iter().zip(plan.tensors()).enumerate() {
            let numbers = if scales.contains(&index) {
                Distribution::Scale
            } else if biases.contains(&index) {
                Distribution::Centred(BIAS_DEVIATION)
            } else {
                Distribution::Centred(1.0 / (tensor.columns as f32).sqrt())
            };
            filler.fill(arena, region, index as u32, numbers)?;
        }
        upload_rotary(arena, config, store)?;
        Ok(filler.stream.synchronize()?)
    }

    /// Fills the cache and the activations with random numbers: keys and values of sequences that nobody computed.
    ///
    /// # Errors
    /// The driver's error.
    pub fn randomize_cache(&self, seed: u64) -> Result<()> {
        let filler = Filler::new(self.run.device(), seed)?;
        filler.fill(&self.cache_memory, self.cache.elements, CACHE, Distribution::Centred(1.0))?;
        let Workspace { stream, queries, attended, gated, head_input, .. } = self.workspace;
        for (index, region) in [stream, queries, attended, gated, head_input].into_iter().enumerate() {
            filler.fill(&self.run, region, ACTIVATIONS + index as u32, Distribution::Centred(1.0))?;
        }
        Ok(filler.stream.synchronize()?)
    }
}

//! A model on a device: weights uploaded, memory assigned, ready to record steps.

use std::sync::Arc;

use gridpoint_runtime::parameters::GRIDPOINT_PAGE_TOKENS;
use gridpoint_runtime::{Arena, ArenaLayout, Device, TensorMap};

use super::kernels::Kernels;
use super::memory::{Capacity, KvCache, WeightStore, Workspace};
use super::order::LaunchOrder;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::rope::rotary_rows;
use crate::weight_plan::ModelTensors;
use crate::weights::Weights;

/// Elements of the staging buffer through which weights go to the device: 8 MiB.
const STAGING_ELEMENTS: usize = 4 << 20;

/// A Llama model that can record steps.
pub struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) kernels: Kernels,
    pub(crate) workspace: Workspace,
    store: WeightStore,
    pub(super) cache: KvCache,
    /// Of each layer's keys and values, where attention's kernel takes them.
    pub(super) cache_maps: Vec<[TensorMap; 2]>,
    weights: Arc<Arena>,
    pub(super) run: Arc<Arena>,
}

/// Device addresses of everything that a step reads and writes beside the weights.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) stream: *mut u16,
    pub(crate) row_scales: *mut f32,
    pub(crate) queries: *mut u16,
    pub(crate) attended: *mut u16,
    pub(crate) gated: *mut u16,
    pub(crate) head_input: *mut u16,
    pub(crate) logits: *mut f32,
    pub(crate) work: *mut [u32; 4],
    pub(crate) counters: *mut u32,
    pub(crate) partial_output: *mut f32,
    pub(crate) partial_state: *mut f32,
    pub(crate) product_partials: *mut f32,
    pub(crate) product_counters: *mut u32,
    pub(crate) rotary: *const f32,
}

/// Computes the rotary table and uploads it.
pub(super) fn upload_rotary(arena: &Arena, config: &ModelConfig, store: &WeightStore) -> Result<()> {
    let positions = store.rotary.count() as usize / config.head_dim;
    let piece = STAGING_ELEMENTS / config.head_dim;
    for first in (0..positions).step_by(piece) {
        let rows = rotary_rows(&config.rope, config.head_dim, first..positions.min(first + piece));
        arena.upload(store.rotary, (first * config.head_dim) as u64, &rows)?;
    }
    Ok(())
}

impl Model {
    /// Allocates an arena for `store` and uploads the weights and the rotary table into it.
    ///
    /// # Errors
    /// Not enough device memory, or the driver's error.
    pub fn upload(
        device: &Arc<Device>,
        config: &ModelConfig,
        weights: &Weights<'_>,
        layout: &ArenaLayout,
        store: &WeightStore,
    ) -> Result<Arc<Arena>> {
        let arena = Arena::new(device, "the model's weights", layout)?;
        let mut staging = vec![0_u16; STAGING_ELEMENTS];
        for (index, &region) in store.uploads.iter().enumerate() {
            let mut first = 0;
            while first < region.count() {
                let count = (region.count() - first).min(STAGING_ELEMENTS as u64);
                let piece = &mut staging[..count as usize];
                weights.write_at(index, first * size_of::<u16>() as u64, bytemuck::cast_slice_mut(piece))?;
                arena.upload(region, first, piece)?;
                first += count;
            }
        }
        upload_rotary(&arena, config, store)?;
        Ok(Arc::new(arena))
    }

    /// A model of uploaded weights whose steps use `workspace` and `cache` in the arena `run`.
    ///
    /// # Errors
    /// The driver's error: a cache of which it makes no tensor map.
    pub fn new(
        config: ModelConfig,
        kernels: Kernels,
        (weights, store): (Arc<Arena>, WeightStore),
        (run, workspace, cache): (Arc<Arena>, Workspace, KvCache),
    ) -> Result<Self> {
        // A launch that uses them leaves them at zero.
        run.fill(workspace.product_counters, 0)?;
        let mut model = Self { config, kernels, workspace, store, cache, cache_maps: Vec::new(), weights, run };
        let page = u64::from(GRIDPOINT_PAGE_TOKENS) * model.config.kv_size() as u64;
        for layer in 0..model.config.num_hidden_layers {
            let (keys, values) = model.layer_cache(layer);
            let map = |cache: *mut u16| {
                let address = cache.expose_provenance() as u64;
                model.kernels.attention.map(&model.config, model.cache.plane / page, address)
            };
            if let (Some(keys), Some(values)) = (map(keys)?, map(values)?) {
                model.cache_maps.push([keys, values]);
            }
        }
        Ok(model)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The largest step that the model's memory is for.
    #[must_use]
    pub fn capacity(&self) -> &Capacity {
        self.workspace.capacity()
    }

    /// How the launches of a step depend on each other.
    #[must_use]
    pub fn launch_order(&self) -> LaunchOrder {
        self.kernels.order
    }

    /// The workspace that all steps use.
    #[must_use]
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Everything that recorded launches address: a graph keeps it alive.
    #[must_use]
    pub fn memory(&self) -> (Arc<Arena>, Arc<Arena>) {
        (Arc::clone(&self.weights), Arc::clone(&self.run))
    }

    /// The raw logits of row `row` of the step that ran last: `[vocab]`.
    ///
    /// # Errors
    /// A row beyond the workspace, or the driver's error.
    pub fn logits(&self, row: u32) -> Result<Vec<f32>> {
        let vocabulary = self.config.vocab_size;
        let mut logits = vec![0.0; vocabulary];
        self.run.download(self.workspace.logits, u64::from(row) * vocabulary as u64, &mut logits)?;
        Ok(logits)
    }

    /// Fills activations, scratch and logits with 0xFF, which is NaN in bfloat16, float16 and float32, so that a read of what no kernel wrote
    /// in this step shows.
    ///
    /// # Errors
    /// The driver's error.
    pub fn poison_workspace(&self) -> Result<()> {
        self.fill_workspace(0xFF)
    }

    /// Fills the cache with zeros: keys and values of sequences that nobody computed.
    ///
    /// # Errors
    /// The driver's error.
    pub fn clear_cache(&self) -> Result<()> {
        Ok(self.run.fill(self.cache.elements, 0)?)
    }

    pub(crate) fn addresses(&self) -> Addresses {
        let (run, workspace) = (&self.run, &self.workspace);
        Addresses {
            stream: run.pointer(workspace.stream),
            row_scales: run.pointer(workspace.row_scales),
            queries: run.pointer(workspace.queries),
            attended: run.pointer(workspace.attended),
            gated: run.pointer(workspace.gated),
            head_input: run.pointer(workspace.head_input),
            logits: run.pointer(workspace.logits),
            work: run.pointer(workspace.work),
            counters: run.pointer(workspace.counters),
            partial_output: run.pointer(workspace.partial_output),
            partial_state: run.pointer(workspace.partial_state),
            product_partials: run.pointer(workspace.product_partials),
            product_counters: run.pointer(workspace.product_counters),
            rotary: self.weights.pointer(self.store.rotary),
        }
    }

    /// Device addresses of the weights.
    pub(crate) fn tensors(&self) -> ModelTensors<*const u16> {
        self.store.tensors.map(|&region| self.weights.pointer(region).cast_const())
    }

    /// Device addresses of a layer's keys and values.
    pub(crate) fn layer_cache(&self, layer: usize) -> (*mut u16, *mut u16) {
        let base = self.run.pointer(self.cache.elements);
        let plane = self.cache.plane as usize;
        let keys = base.wrapping_add(layer * 2 * plane);
        (keys, keys.wrapping_add(plane))
    }
}

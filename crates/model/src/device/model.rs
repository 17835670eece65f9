//! A model on a device: weights uploaded, memory assigned, ready to record steps.

use std::sync::Arc;

use gridpoint_runtime::parameters::GRIDPOINT_PAGE_TOKENS;
use gridpoint_runtime::{Arena, TensorMap};

use super::kernels::Kernels;
use super::memory::{Capacity, KvCache, WeightStore, Workspace};
use super::order::LaunchOrder;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::weight_plan::ModelTensors;

/// A Llama model that can record steps.
pub struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) kernels: Kernels,
    pub(crate) workspace: Workspace,
    pub(super) store: WeightStore,
    pub(super) cache: KvCache,
    /// Of each layer's keys and values, where attention's kernel takes them.
    pub(super) cache_maps: Vec<[TensorMap; 2]>,
    pub(super) weights: Arc<Arena>,
    pub(super) run: Arc<Arena>,
    pub(super) cache_memory: Arc<Arena>,
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

impl Model {
    /// A model of uploaded weights whose steps use `workspace` in the arena `run` and `cache` in an arena of its own, or in the same.
    ///
    /// # Errors
    /// The driver's error: a cache of which it makes no tensor map.
    pub fn new(
        config: ModelConfig,
        kernels: Kernels,
        (weights, store): (Arc<Arena>, WeightStore),
        (run, workspace): (Arc<Arena>, Workspace),
        (cache_memory, cache): (Arc<Arena>, KvCache),
    ) -> Result<Self> {
        // A launch that uses them leaves them at zero.
        run.fill(workspace.product_counters, 0)?;
        let cache_maps = Vec::new();
        let mut model = Self { config, kernels, workspace, store, cache, cache_maps, weights, run, cache_memory };
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
    pub fn memory(&self) -> [Arc<Arena>; 3] {
        [&self.weights, &self.run, &self.cache_memory].map(Arc::clone)
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
        Ok(self.cache_memory.fill(self.cache.elements, 0)?)
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
        let base = self.cache_memory.pointer(self.cache.elements);
        let plane = self.cache.plane as usize;
        let keys = base.wrapping_add(layer * 2 * plane);
        (keys, keys.wrapping_add(plane))
    }
}

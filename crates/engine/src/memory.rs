//! How the device's memory is divided: weights, what a step needs, the rest for the kv cache.

use std::sync::Arc;

use gridpoint_graph::StepLayout;
use gridpoint_model::{
    Capacity, Kernels, KvCache, LaunchOrder, Model, ModelConfig, ModelError, WeightSource, WeightStore, Workspace,
};
use gridpoint_plan::{GridPoint, Plan};
use gridpoint_runtime::{Arena, ArenaLayout, Device, Region, RuntimeError, Staging};

use crate::budget::{self, Forecast, GraphMemory};
use crate::engine::EngineOptions;
use crate::error::EngineError;
use crate::pages::pages_for;
use crate::phases;

/// Logits of one step take no more than this many bytes, unless as many rows as there are requests take more.
const LOGIT_BYTES: u64 = 64 << 20;

/// Bytes of device memory by use: our own allocations to the byte, and what the driver takes for graphs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Weights and the rotary table, in whole units of the granularity of memory that can be given back.
    pub weights: u64,
    /// Activations, scratch and logits of the largest step.
    pub workspace: u64,
    /// Of the workspace: logits of the sampled and scored rows, and what the head reads for them.
    pub logit_rows: u64,
    /// The step block.
    pub step_block: u64,
    /// What the driver takes for graphs.
    pub graphs: GraphMemory,
    /// The kv cache, in whole units of the device's granularity.
    pub kv_cache: u64,
    /// Its pages, the dummy page among them.
    pub kv_pages: u32,
    /// Bytes of one page over all layers.
    pub kv_page: u64,
    /// Most bytes that the engine may take in all.
    pub budget: u64,
}

impl MemoryReport {
    /// The sum of our own allocations.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.workspace + self.step_block + self.kv_cache
    }
}

/// The sizes of an engine, settled before anything is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) max_requests: u32,
    pub(crate) max_sequence_length: u32,
    /// Most tokens of a step: what every step with prefills fits a captured point with, where there is one.
    pub(crate) step_budget: u32,
    pub(crate) logit_rows: u32,
    /// Token rows of the largest point or step.
    token_rows: u32,
}

impl Sizes {
    /// Settles the sizes for a model and a plan.
    pub(crate) fn new(config: &ModelConfig, plan: &Plan, options: &EngineOptions) -> Result<Self, EngineError> {
        let EngineOptions { max_requests, max_tokens, .. } = *options;
        for (name, value) in [("max_requests", max_requests), ("max_tokens", max_tokens)] {
            if value == 0 {
                return Err(crate::error::LimitsError::Zero { name }.into());
            }
        }
        let longest = u32::try_from(config.max_position_embeddings).unwrap_or(u32::MAX);
        let max_sequence_length = options.max_sequence_length.unwrap_or(longest);
        if max_sequence_length == 0 || max_sequence_length > longest {
            return Err(EngineError::SequenceLength { given: max_sequence_length, longest });
        }
        let step_budget = plan.largest_prefill_tokens().map_or(max_tokens, |most| most.min(max_tokens));
        let largest_point = plan.points().iter().map(|point| point.tokens).max().unwrap_or(0);
        let most_requests = plan.points().iter().map(GridPoint::requests).max().unwrap_or(0);
        let max_slots = u64::from(max_requests).max(most_requests);
        let affordable = LOGIT_BYTES / (4 * config.vocab_size as u64);
        let logit_rows = max_slots.max(affordable).min(u64::from(step_budget.max(largest_point)));
        Ok(Self {
            max_requests,
            max_sequence_length,
            step_budget,
            logit_rows: u32::try_from(logit_rows).unwrap_or(u32::MAX).max(1),
            token_rows: step_budget.max(largest_point),
        })
    }

    /// The capacity of the model's memory with this many pages.
    fn capacity(&self, pages: u32) -> Capacity {
        Capacity {
            tokens: self.token_rows,
            requests: self.max_requests,
            logit_rows: self.logit_rows,
            sequence_length: self.max_sequence_length,
            pages,
        }
    }

    /// Words of 8 bytes of the largest step block. No request holds more pages than there are.
    fn block_words(&self, pages: u32) -> Result<u64, EngineError> {
        let point = GridPoint { tokens: self.token_rows, prefills: self.max_requests, decodes: 0 };
        let layout = StepLayout::new(point, self.logit_rows, pages_for(self.max_sequence_length).min(pages))?;
        Ok(u64::from(layout.bytes()) / size_of::<u64>() as u64)
    }

    /// Bytes of a step's memory and of a kv cache of so many pages.
    pub(crate) fn bytes(
        &self,
        device: &Device,
        config: &ModelConfig,
        kernels: &Kernels,
        pages: u32,
    ) -> Result<u64, EngineError> {
        Ok(self.reserve(config, kernels, pages)?.bytes(device)?)
    }

    pub(crate) fn reserve(
        &self,
        config: &ModelConfig,
        kernels: &Kernels,
        pages: u32,
    ) -> Result<RunLayout, EngineError> {
        let mut layout = ArenaLayout::new();
        let workspace = Workspace::reserve(&mut layout, config, kernels, self.capacity(pages))?;
        let workspace_bytes = layout.bytes();
        let block = layout.reserve("step block", self.block_words(pages)?)?;
        let mut cache_layout = ArenaLayout::new();
        let cache = KvCache::reserve(&mut cache_layout, config, pages)?;
        Ok(RunLayout { layout, workspace, workspace_bytes, block, cache_layout, cache })
    }
}

/// Where everything that a step touches lies, beside the weights. The kv cache has an arena of its own, which can be given back.
pub(crate) struct RunLayout {
    pub(crate) layout: ArenaLayout,
    pub(crate) workspace: Workspace,
    workspace_bytes: u64,
    pub(crate) block: Region<u64>,
    pub(crate) cache_layout: ArenaLayout,
    pub(crate) cache: KvCache,
}

impl RunLayout {
    /// Bytes of device memory that it takes.
    fn bytes(&self, device: &Device) -> Result<u64, RuntimeError> {
        Ok(self.layout.bytes().saturating_add(Arena::releasable_bytes(device, self.cache_layout.bytes())?))
    }
}

/// A model in memory, and the block through which steps reach it.
pub(crate) struct Placed {
    pub(crate) model: Model,
    pub(crate) run: Arc<Arena>,
    pub(crate) block: Region<u64>,
    pub(crate) staging: Staging,
    pub(crate) report: MemoryReport,
    pub(crate) forecast: Forecast,
}

/// Loads the weights, sizes the kv cache from what is left, and allocates the rest.
pub(crate) fn place(
    device: &Arc<Device>,
    config: &ModelConfig,
    weights: WeightSource<'_>,
    (plan, sizes): (&Plan, &Sizes),
    options: &EngineOptions,
) -> Result<Placed, EngineError> {
    let _range = phases::LOAD.enter();
    let budget = budget::bytes(options, device.memory()?)?;
    let order = options.launches.map_or_else(|| Ok(LaunchOrder::best(device)), |order| order.on(device))?;
    let load = if options.portable { Kernels::portable } else { Kernels::load };
    let mut kernels = load(device, weights.element(), config.head_dim)?.in_order(order);
    if let Some(table) = &options.products {
        kernels = kernels.with_table(Arc::clone(table)).map_err(ModelError::from)?;
    }
    // What no kernel counts is refused before the weights are read.
    sizes.reserve(config, &kernels, 2)?;
    let mut layout = ArenaLayout::new();
    let store = WeightStore::reserve(&mut layout, config, &weights.plan(config), sizes.max_sequence_length)?;
    let least =
        Arena::releasable_bytes(device, layout.bytes())?.saturating_add(sizes.bytes(device, config, &kernels, 2)?);
    if least > budget {
        return Err(EngineError::MemoryBudget { budget, needed: least });
    }
    let uploaded = Arc::new(Arena::releasable(device, "the model's weights", &layout)?);
    let mut staging = Model::staging(device, &store)?;
    Model::load_into(&uploaded, &mut staging, config, weights, &store)?;

    let forecast = budget::forecast(device, config, &kernels, (&uploaded, &store), (plan, sizes), options, budget)?;
    let left = budget.saturating_sub(uploaded.bytes()).saturating_sub(forecast.memory.predicted);
    let pages = affordable_pages(device, config, (sizes, &kernels), options, left)?;
    let RunLayout { layout: run_layout, workspace, workspace_bytes, block, cache_layout, cache } =
        sizes.reserve(config, &kernels, pages)?;
    let run = Arc::new(Arena::new(device, "a step's memory", &run_layout)?);
    let cache_memory = Arc::new(Arena::releasable(device, "the kv cache", &cache_layout)?);
    let report = MemoryReport {
        weights: uploaded.bytes(),
        workspace: workspace_bytes,
        logit_rows: workspace.logit_bytes(),
        step_block: run_layout.bytes() - workspace_bytes,
        graphs: forecast.memory,
        kv_cache: cache_memory.bytes(),
        kv_pages: pages,
        kv_page: KvCache::page_bytes(config),
        budget,
    };
    tracing::info!(target: "gridpoint::memory", "{report}");
    let run_memory = Arc::clone(&run);
    let model = Model::new(config.clone(), kernels, (uploaded, store), (run_memory, workspace), (cache_memory, cache))?;
    Ok(Placed { model, run, block, staging, report, forecast })
}

/// As many pages as the options ask for, or as fit `budget` bytes together with a step's memory.
fn affordable_pages(
    device: &Arc<Device>,
    config: &ModelConfig,
    (sizes, kernels): (&Sizes, &Kernels),
    options: &EngineOptions,
    budget: u64,
) -> Result<u32, EngineError> {
    let all = u64::from(sizes.max_requests) * u64::from(pages_for(sizes.max_sequence_length)) + 1;
    let wanted = options.kv_pages.map_or(all, u64::from);
    let page = KvCache::page_bytes(config);
    // Beside the pages lie the workspace, and attention's partials, which grow with the pages.
    let mut pages = u32::try_from(wanted.min(budget / page.max(1))).unwrap_or(u32::MAX);
    loop {
        let needed = sizes.reserve(config, kernels, pages)?.bytes(device)?;
        if needed <= budget {
            return Ok(pages);
        }
        let excess = (needed - budget).div_ceil(page.max(1));
        pages = u32::try_from(u64::from(pages).saturating_sub(excess)).unwrap_or(0);
        if pages < 2 {
            return Err(EngineError::MemoryBudget { budget, needed: sizes.bytes(device, config, kernels, 2)? });
        }
    }
}

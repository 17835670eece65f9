//! What a model takes of device memory, laid out before a byte is allocated.

use gridpoint_plan::GridPoint;
use gridpoint_runtime::parameters::{
    AttentionWork, GRIDPOINT_ATTENTION_SPLIT_ROWS, GRIDPOINT_ATTENTION_TILE_ROWS, GRIDPOINT_CHUNK_TOKENS,
    GRIDPOINT_PAGE_TOKENS,
};
use gridpoint_runtime::{ArenaLayout, Region, RuntimeError};

use super::kernels::Kernels;
use super::limits;
use super::products::Segments;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::weight_plan::{ModelTensors, WeightPlan};

/// The largest step and the longest sequence that a model's memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Token rows of a step.
    pub tokens: u32,
    /// Requests of a step.
    pub requests: u32,
    /// Rows of the language-model head in a step.
    pub logit_rows: u32,
    /// Tokens of a sequence.
    pub sequence_length: u32,
    /// Pages of the kv cache, the dummy page among them.
    pub pages: u32,
}

impl Capacity {
    /// Pages that a sequence of the longest length takes.
    #[must_use]
    pub fn pages_per_sequence(&self) -> u32 {
        self.sequence_length.div_ceil(GRIDPOINT_PAGE_TOKENS)
    }

    /// Rows of partial results of attention: every request split into all its chunks, or every page of the pool in one
    /// chunk's part of eight pages, whichever is less (contract of kernels/schedule.cu).
    pub(crate) fn partials(&self) -> u64 {
        let requests = u64::from(self.requests);
        let chunk_pages = u64::from(GRIDPOINT_CHUNK_TOKENS / GRIDPOINT_PAGE_TOKENS);
        let by_length = requests * u64::from(self.sequence_length.div_ceil(GRIDPOINT_CHUNK_TOKENS));
        let by_pages = (u64::from(self.pages) + (chunk_pages - 1) * requests) / chunk_pages;
        by_length.min(by_pages)
    }

    /// Items of the attention work list (contract of kernels/schedule.cu).
    pub(crate) fn work_items(&self, group: u64) -> u64 {
        u64::from(self.tokens) * group / u64::from(GRIDPOINT_ATTENTION_TILE_ROWS)
            + u64::from(self.requests)
            + self.partials()
    }
}

/// Where the weights and the rotary table lie in their arena.
#[derive(Clone, Debug)]
pub struct WeightStore {
    pub(crate) tensors: ModelTensors<Region<u16>>,
    /// The same regions in the order of [`WeightPlan::tensors`].
    pub(crate) uploads: Vec<Region<u16>>,
    /// `[positions, head_dim / 2, 2]`: cosine, sine.
    pub(crate) rotary: Region<f32>,
}

impl WeightStore {
    /// Reserves every tensor of the plan, and the rotary table for sequences of `sequence_length` tokens.
    ///
    /// # Errors
    /// A size beyond 64 bits.
    pub fn reserve(
        layout: &mut ArenaLayout,
        config: &ModelConfig,
        plan: &WeightPlan,
        sequence_length: u32,
    ) -> Result<Self, RuntimeError> {
        let mut uploads = Vec::with_capacity(plan.tensors().len());
        for tensor in plan.tensors() {
            uploads.push(layout.reserve::<u16>("weights", tensor.bytes / size_of::<u16>() as u64)?);
        }
        let rotary = layout.reserve::<f32>("rotary table", u64::from(sequence_length) * config.head_dim as u64)?;
        Ok(Self { tensors: plan.places().map(|&place| uploads[place]), uploads, rotary })
    }
}

/// Activations and scratch of one step; all graphs alias it, since steps run one after another.
#[derive(Clone, Copy, Debug)]
pub struct Workspace {
    pub(crate) capacity: Capacity,
    /// `[T, hidden]`: the residual stream.
    pub(crate) stream: Region<u16>,
    /// `[T]`: 1 / rms of the stream's rows.
    pub(crate) row_scales: Region<f32>,
    /// `[T, heads * head_dim]`.
    pub(crate) queries: Region<u16>,
    /// `[T, heads * head_dim]`.
    pub(crate) attended: Region<u16>,
    /// `[T, intermediate]`.
    pub(crate) gated: Region<u16>,
    /// `[L, hidden]`: normalised rows that the head reads.
    pub(crate) head_input: Region<u16>,
    /// `[L, vocab]`.
    pub(crate) logits: Region<f32>,
    /// Header and items of the attention work list, in words of 16 bytes.
    pub(crate) work: Region<[u32; 4]>,
    /// `[requests, kv_heads]`: arrival counters.
    pub(crate) counters: Region<u32>,
    /// `[partials, kv_heads, 16, head_dim]`.
    pub(crate) partial_output: Region<f32>,
    /// `[partials, kv_heads, 16, 2]`.
    pub(crate) partial_state: Region<f32>,
    /// Where segments of products meet (kernels/skinny.cu).
    pub(crate) product_partials: Region<f32>,
    /// Arrivals at those meetings: zero between launches.
    pub(crate) product_counters: Region<u32>,
    pub(crate) work_items: u32,
    pub(crate) partials: u32,
    /// Bytes that a token row takes, and a logit row.
    token_row_bytes: u64,
    logit_row_bytes: u64,
    scratch_bytes: u64,
}

impl Workspace {
    /// Reserves what the largest step of `capacity` needs with these kernels.
    ///
    /// # Errors
    /// A size beyond 64 bits, or [`crate::LimitError`]: a step of which a kernel would count past its index.
    pub fn reserve(
        layout: &mut ArenaLayout,
        config: &ModelConfig,
        kernels: &Kernels,
        capacity: Capacity,
    ) -> Result<Self> {
        limits::check(config, &capacity)?;
        if kernels.attention.takes_maps() {
            limits::check_maps(config, &capacity)?;
        }
        let tokens = u64::from(capacity.tokens);
        let logit_rows = u64::from(capacity.logit_rows);
        let [hidden, query, intermediate, vocabulary, kv_heads, head_dim, group] = [
            config.hidden_size,
            config.query_size(),
            config.intermediate_size,
            config.vocab_size,
            config.num_key_value_heads,
            config.head_dim,
            config.group_size(),
        ]
        .map(|size| size as u64);
        let partials = capacity.partials();
        let work_items = capacity.work_items(group);
        let item_words = (size_of::<AttentionWork>() / size_of::<[u32; 4]>()) as u64;
        let partial_rows = partials * kv_heads * u64::from(GRIDPOINT_ATTENTION_SPLIT_ROWS);

        let token_row_bytes = 2 * (hidden + 2 * query + intermediate) + 4;
        let logit_row_bytes = 2 * hidden + 4 * vocabulary;
        let work = layout.reserve("attention work list", 1 + item_words * work_items)?;
        let counters = layout.reserve("attention counters", u64::from(capacity.requests) * kv_heads)?;
        let partial_output = layout.reserve("attention partials", partial_rows * head_dim)?;
        let partial_state = layout.reserve("attention partials", partial_rows * 2)?;
        let cuts = config.products().map(|(n, k)| kernels.segments(n as u32, k as u32));
        let most = |count: fn(&Segments) -> u64| cuts.iter().map(count).max().unwrap_or(0);
        let product_partials = layout.reserve("product partials", most(Segments::partials))?;
        let product_counters = layout.reserve("product counters", most(Segments::counters))?;
        Ok(Self {
            capacity,
            stream: layout.reserve("activations", tokens * hidden)?,
            row_scales: layout.reserve("activations", tokens)?,
            queries: layout.reserve("activations", tokens * query)?,
            attended: layout.reserve("activations", tokens * query)?,
            gated: layout.reserve("activations", tokens * intermediate)?,
            head_input: layout.reserve("logit rows", logit_rows * hidden)?,
            logits: layout.reserve("logit rows", logit_rows * vocabulary)?,
            scratch_bytes: work.bytes()
                + counters.bytes()
                + partial_output.bytes()
                + partial_state.bytes()
                + product_partials.bytes()
                + product_counters.bytes(),
            work,
            counters,
            partial_output,
            partial_state,
            product_partials,
            product_counters,
            // Within 32 bits by the limits.
            work_items: work_items as u32,
            partials: partials as u32,
            token_row_bytes,
            logit_row_bytes,
        })
    }

    /// What the largest step may have.
    #[must_use]
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// Bytes of the rows of the language-model head.
    #[must_use]
    pub fn logit_bytes(&self) -> u64 {
        self.head_input.bytes() + self.logits.bytes()
    }

    /// Bytes of the workspace that steps of this point touch.
    #[must_use]
    pub fn bytes_for(&self, point: GridPoint) -> u64 {
        self.scratch_bytes
            + u64::from(point.tokens) * self.token_row_bytes
            + point.requests().min(u64::from(self.capacity.logit_rows)) * self.logit_row_bytes
    }
}

/// The paged cache of keys and values: `[layers][keys, values][pages, kv_heads, 64, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct KvCache {
    pub(crate) elements: Region<u16>,
    /// Elements of one layer's keys, and of its values.
    pub(crate) plane: u64,
}

impl KvCache {
    /// Bytes of one page over all layers.
    #[must_use]
    pub fn page_bytes(config: &ModelConfig) -> u64 {
        config.kv_bytes_per_token() * u64::from(GRIDPOINT_PAGE_TOKENS)
    }

    /// Reserves `pages` pages.
    ///
    /// # Errors
    /// A size beyond 64 bits.
    pub fn reserve(layout: &mut ArenaLayout, config: &ModelConfig, pages: u32) -> Result<Self, RuntimeError> {
        let page = u64::from(GRIDPOINT_PAGE_TOKENS) * config.kv_size() as u64;
        let plane = u64::from(pages) * page;
        let elements = layout.reserve("kv cache", plane.saturating_mul(2 * config.num_hidden_layers as u64))?;
        Ok(Self { elements, plane })
    }
}

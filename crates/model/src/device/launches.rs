//! One launch each: grid and parameter struct, from the model's sizes and the point's capacities.

use gridpoint_runtime::parameters::{
    AttentionParameters, AttentionTensorParameters, AttentionWorkList, EmbeddingParameters, GRIDPOINT_SCALE_GIVEN,
    GRIDPOINT_SCALE_NONE, GemmParameters, NormParameters, RowScaleParameters, SampleParameters, ScheduleParameters,
};
use gridpoint_runtime::{Launches, StepAddress};

use super::attention::Attention;
use super::geometry::{GemmTile, Resident};
use super::kernels::Epilogue;
use super::model::{Addresses, Model};

/// Rows of one warp-per-row block of the normalisation, and the widest row that it takes (kernels/norm.cu).
const NORM_WARP_ROWS: u64 = 8;
const NORM_WARP_WIDTH: usize = 1024;

/// Which rows a launch covers, and how many the point has of them.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) selector: u32,
    pub(crate) capacity: u32,
}

/// Rows of a block that computes their scales (kernels/row_scale.cu).
const ROW_SCALE_ROWS: u64 = 16;

/// A matrix product: `output[rows, n] = epilogue(input[rows, k] x weights[n, k]^T)`.
pub(crate) struct Product {
    pub(crate) rows: Rows,
    pub(crate) input: *const u16,
    pub(crate) weights: *const u16,
    pub(crate) bias: *const u16,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Whether the normalisation of the input's rows is folded into the weights, so that the sums are multiplied by their scales.
    pub(crate) normalised: bool,
    pub(crate) output: Output,
}

/// Where the elements of a product go.
pub(crate) enum Output {
    /// Logits in float32.
    Logits(*mut f32),
    /// The residual stream, to which they are added.
    Stream(*mut u16),
    /// Gated, half as many.
    Gated(*mut u16),
    /// Queries; keys and values go to this layer's cache.
    Heads { queries: *mut u16, layer: usize },
}

impl Model {
    pub(crate) fn schedule(&self, list: &mut Launches, step: StepAddress) {
        let Addresses { work, counters, .. } = self.addresses();
        let workspace = &self.workspace;
        list.push(
            &self.kernels.schedule.kernel,
            1,
            &ScheduleParameters {
                step: step.as_ptr(),
                list: work.cast::<AttentionWorkList>(),
                counters,
                capacity: workspace.work_items,
                counter_capacity: workspace.capacity.requests,
                partial_capacity: workspace.partials,
                kv_heads: self.config.num_key_value_heads as u32,
                group: self.config.group_size() as u32,
                tile_rows: self.kernels.attention.tile_rows(),
            },
        );
    }

    pub(crate) fn embedding(
        &self,
        list: &mut Launches,
        step: StepAddress,
        rows: Rows,
        table: *const u16,
        output: *mut u16,
    ) {
        let Resident { kernel, .. } = &self.kernels.embedding;
        let vectors = u64::from(rows.capacity) * (self.config.hidden_size / 8) as u64;
        let blocks = self.kernels.embedding.blocks_for(vectors, u64::from(kernel.threads()));
        list.push(
            kernel,
            blocks,
            &EmbeddingParameters {
                step: step.as_ptr(),
                table,
                output,
                hidden: self.config.hidden_size as u32,
                vocabulary: self.config.vocab_size as u32,
            },
        );
    }

    pub(crate) fn norm(
        &self,
        list: &mut Launches,
        step: StepAddress,
        rows: Rows,
        input: *const u16,
        weight: *const u16,
        output: *mut u16,
    ) {
        let width = self.config.hidden_size;
        let each = if width <= NORM_WARP_WIDTH { NORM_WARP_ROWS } else { 1 };
        let blocks = self.kernels.norm.blocks_for(u64::from(rows.capacity), each);
        list.push(
            &self.kernels.norm.kernel,
            blocks,
            &NormParameters {
                step: step.as_ptr(),
                input,
                weight,
                output,
                epsilon: self.config.rms_norm_eps,
                width: width as u32,
                rows: rows.selector,
                reserved: 0,
            },
        );
    }

    /// 1 / rms of the stream's rows, for the product whose weights it is folded into.
    pub(crate) fn row_scales(&self, list: &mut Launches, step: StepAddress, rows: Rows, input: *const u16) {
        let Addresses { row_scales, .. } = self.addresses();
        let width = self.config.hidden_size as u32;
        let row_scale = &self.kernels.row_scale;
        list.push(
            &row_scale.kernel,
            row_scale.blocks_for(u64::from(rows.capacity), ROW_SCALE_ROWS),
            &RowScaleParameters {
                step: step.as_ptr(),
                input,
                row_scales,
                epsilon: self.config.rms_norm_eps,
                inverse_width: 1.0 / width as f32,
                width,
                segment: width,
            },
        );
    }

    pub(crate) fn gemm(&self, list: &mut Launches, step: StepAddress, product: Product) {
        let Product { rows, input, weights, bias, n, k, normalised, output } = product;
        let (n, k) = (n as u32, k as u32);
        let tile = GemmTile::choose(rows.capacity, n, self.kernels.multiprocessors);
        let epilogue = match output {
            Output::Logits(_) => Epilogue::Logits,
            Output::Stream(_) => Epilogue::Residual,
            Output::Gated(_) => Epilogue::SwiGlu,
            Output::Heads { .. } => Epilogue::Rotary,
        };
        let gemm = self.kernels.gemm(tile, epilogue);
        let Addresses { row_scales, rotary, .. } = self.addresses();
        let mut parameters = GemmParameters {
            step: step.as_ptr(),
            activations: input,
            weights,
            bias,
            residual: std::ptr::null(),
            output: std::ptr::null_mut(),
            row_scales: if normalised { row_scales } else { std::ptr::null() },
            key_cache: std::ptr::null_mut(),
            value_cache: std::ptr::null_mut(),
            rotary: std::ptr::null(),
            partials: std::ptr::null_mut(),
            counters: std::ptr::null_mut(),
            n,
            k,
            segment: k.next_multiple_of(64),
            rows: rows.selector,
            scaled: if normalised { GRIDPOINT_SCALE_GIVEN } else { GRIDPOINT_SCALE_NONE },
            epsilon: self.config.rms_norm_eps,
            inverse_width: 1.0 / k as f32,
            query_heads: self.config.num_attention_heads as u32,
            kv_heads: self.config.num_key_value_heads as u32,
            head_dim: self.config.head_dim as u32,
        };
        match output {
            Output::Logits(logits) => parameters.output = logits.cast(),
            Output::Stream(stream) => (parameters.residual, parameters.output) = (stream, stream.cast()),
            Output::Gated(gated) => parameters.output = gated.cast(),
            Output::Heads { queries, layer } => {
                parameters.output = queries.cast();
                (parameters.key_cache, parameters.value_cache) = self.layer_cache(layer);
                parameters.rotary = rotary;
            }
        }
        list.push(&gemm.kernel, gemm.blocks_for(tile.count(rows.capacity, n), 1), &parameters);
    }

    pub(crate) fn attention(&self, list: &mut Launches, step: StepAddress, layer: usize) {
        let Addresses { queries, attended, work, counters, partial_output, partial_state, .. } = self.addresses();
        let (key_cache, value_cache) = self.layer_cache(layer);
        let attention = AttentionParameters {
            step: step.as_ptr(),
            list: work.cast::<AttentionWorkList>(),
            queries,
            key_cache,
            value_cache,
            output: attended,
            partial_output,
            partial_state,
            counters,
            scale: 1.0 / (self.config.head_dim as f32).sqrt(),
            query_heads: self.config.num_attention_heads as u32,
            kv_heads: self.config.num_key_value_heads as u32,
            query_pitch: self.config.query_size() as u32,
        };
        match &self.kernels.attention {
            Attention::Copies(resident) => list.push(&resident.kernel, resident.all_blocks(), &attention),
            Attention::Tensors { kernel: resident, .. } => {
                let parameters =
                    AttentionTensorParameters { maps: self.cache_maps[layer], attention, reserved: [0; 10] };
                list.push(&resident.kernel, resident.all_blocks(), &parameters);
            }
        }
    }

    pub(crate) fn sample(&self, list: &mut Launches, step: StepAddress, rows: Rows) {
        let Addresses { logits, .. } = self.addresses();
        let blocks = self.kernels.sample.blocks_for(u64::from(rows.capacity), 1);
        list.push(
            &self.kernels.sample.kernel,
            blocks,
            &SampleParameters { step: step.as_ptr(), logits, vocabulary: self.config.vocab_size as u32, reserved: 0 },
        );
    }
}

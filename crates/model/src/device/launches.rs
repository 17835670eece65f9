//! One launch each: grid and parameter struct, from the model's sizes and the point's capacities.

use gridpoint_runtime::parameters::{
    AttentionParameters, AttentionWorkList, EmbeddingParameters, GRIDPOINT_ATTENTION_TILE_ROWS, GemmParameters,
    NormParameters, RopeAppendParameters, SampleParameters, ScheduleParameters,
};
use gridpoint_runtime::{Launches, StepAddress};

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

/// A matrix product: `output[rows, n] = epilogue(input[rows, k] x weights[n, k]^T)`.
pub(crate) struct Product {
    pub(crate) rows: Rows,
    pub(crate) epilogue: Epilogue,
    pub(crate) input: *const u16,
    pub(crate) weights: *const u16,
    pub(crate) bias: *const u16,
    pub(crate) residual: *const u16,
    pub(crate) output: *mut std::ffi::c_void,
    pub(crate) n: usize,
    pub(crate) k: usize,
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
                tile_rows: GRIDPOINT_ATTENTION_TILE_ROWS,
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
                addend: std::ptr::null(),
                weight,
                sum: std::ptr::null_mut(),
                output,
                epsilon: self.config.rms_norm_eps,
                width: width as u32,
                rows: rows.selector,
                reserved: 0,
            },
        );
    }

    pub(crate) fn gemm(&self, list: &mut Launches, step: StepAddress, product: Product) {
        let Product { rows, epilogue, input, weights, bias, residual, output, n, k } = product;
        let (n, k) = (n as u32, k as u32);
        let tile = GemmTile::choose(rows.capacity, n, self.kernels.multiprocessors);
        let gemm = self.kernels.gemm(tile, epilogue);
        list.push(
            &gemm.kernel,
            gemm.blocks_for(tile.count(rows.capacity, n), 1),
            &GemmParameters {
                step: step.as_ptr(),
                activations: input,
                weights,
                bias,
                residual,
                output,
                n,
                k,
                rows: rows.selector,
                reserved: 0,
            },
        );
    }

    pub(crate) fn rope_append(&self, list: &mut Launches, step: StepAddress, rows: Rows, layer: usize) {
        let Addresses { qkv, rotary, .. } = self.addresses();
        let (key_cache, value_cache) = self.layer_cache(layer);
        let Resident { kernel, .. } = &self.kernels.rope_append;
        // A thread takes 8 pairs.
        let units = u64::from(rows.capacity) * (self.config.qkv_size() / 16) as u64;
        let blocks = self.kernels.rope_append.blocks_for(units, u64::from(kernel.threads()));
        list.push(
            kernel,
            blocks,
            &RopeAppendParameters {
                step: step.as_ptr(),
                qkv,
                key_cache,
                value_cache,
                rotary,
                query_heads: self.config.num_attention_heads as u32,
                kv_heads: self.config.num_key_value_heads as u32,
                head_dim: self.config.head_dim as u32,
                reserved: 0,
            },
        );
    }

    pub(crate) fn attention(&self, list: &mut Launches, step: StepAddress, layer: usize) {
        let Addresses { qkv, attended, work, counters, partial_output, partial_state, .. } = self.addresses();
        let (key_cache, value_cache) = self.layer_cache(layer);
        let attention = &self.kernels.attention;
        list.push(
            &attention.kernel,
            attention.all_blocks(),
            &AttentionParameters {
                step: step.as_ptr(),
                list: work.cast::<AttentionWorkList>(),
                queries: qkv,
                key_cache,
                value_cache,
                output: attended,
                partial_output,
                partial_state,
                counters,
                scale: 1.0 / (self.config.head_dim as f32).sqrt(),
                query_heads: self.config.num_attention_heads as u32,
                kv_heads: self.config.num_key_value_heads as u32,
                query_pitch: self.config.qkv_size() as u32,
            },
        );
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

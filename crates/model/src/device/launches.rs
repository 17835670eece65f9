//! One launch each: grid and parameter struct, from the model's sizes and the point's capacities.

use gridpoint_runtime::parameters::{
    AttentionParameters, AttentionTensorParameters, AttentionWorkList, EmbeddingParameters, NormParameters,
    SampleParameters, ScheduleParameters,
};
use gridpoint_runtime::{Launches, StepAddress};

use super::attention::Attention;
use super::geometry::Resident;
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

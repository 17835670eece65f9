//! The launch of a product.

use gridpoint_runtime::parameters::{
    GRIDPOINT_ROWS_LOGITS, GRIDPOINT_SCALE_COMPUTED, GRIDPOINT_SCALE_GIVEN, GRIDPOINT_SCALE_NONE, GemmParameters,
    RowScaleParameters,
};
use gridpoint_runtime::{Launches, RuntimeError, StepAddress};

use super::{Epilogue, ProductKernel, ProductShape, Segments};
use crate::device::launches::Rows;
use crate::device::model::{Addresses, Model};

/// Rows of a block that computes their scales (kernels/row_scale.cu).
const ROW_SCALE_ROWS: u64 = 16;

/// A matrix product: `output[rows, n] = epilogue(input[rows, k] x weights[n, k]^T)`.
pub(crate) struct Product {
    pub(crate) rows: Rows,
    pub(crate) input: *const u16,
    pub(crate) weights: *const u16,
    pub(crate) bias: *const u16,
    /// Rows of the weights, columns of the product.
    pub(crate) n: usize,
    /// Values of each sum.
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

impl Output {
    fn epilogue(&self) -> Epilogue {
        match self {
            Self::Logits(_) => Epilogue::Logits,
            Self::Stream(_) => Epilogue::Residual,
            Self::Gated(_) => Epilogue::SwiGlu,
            Self::Heads { .. } => Epilogue::Rotary,
        }
    }
}

impl Model {
    /// The launch of a product, behind that of its rows' scales where the kernel does not compute them.
    ///
    /// # Errors
    /// The driver's error for a tensor map.
    pub(crate) fn product(
        &self,
        list: &mut Launches,
        step: StepAddress,
        product: &Product,
    ) -> Result<(), RuntimeError> {
        let (rows, n, k) = (product.rows, product.n as u32, product.k as u32);
        let segments = self.kernels.segments(n, k);
        let shape = ProductShape { rows: rows.capacity, n, k, segments: segments.count };
        let epilogue = product.output.epilogue();
        let kernel = self.kernels.product_kernel(shape, epilogue);
        if product.normalised && !kernel.computes_scales() {
            self.row_scales(list, step, product, segments);
        }
        let mut parameters = self.product_parameters(step, product, segments);
        let products = &self.kernels.products;
        match kernel {
            ProductKernel::Skinny => {
                if product.normalised {
                    (parameters.scaled, parameters.row_scales) = (GRIDPOINT_SCALE_COMPUTED, std::ptr::null());
                }
                // A block for each multiprocessor; a second one has room for the product behind this.
                let blocks = segments.work().clamp(1, u64::from(self.kernels.multiprocessors.max(1))) as u32;
                list.push(&products.skinny(epilogue).kernel, blocks, &parameters);
            }
            ProductKernel::Tiles(tile) => {
                let resident = products.tiles(tile, epilogue);
                list.push(&resident.kernel, resident.blocks_for(tile.count(rows.capacity, n), 1), &parameters);
            }
            ProductKernel::Hopper(tile) => {
                let kernel = &products.hopper(tile, epilogue)?.kernel;
                // Maps of the largest step: those of all points are the same.
                let capacity = self.capacity();
                let map_rows =
                    if rows.selector == GRIDPOINT_ROWS_LOGITS { capacity.logit_rows } else { capacity.tokens };
                let maps = tile.parameters(parameters, products.element, epilogue.tensor_output(), map_rows)?;
                let blocks = tile.blocks(rows.capacity, n, self.kernels.multiprocessors);
                list.push_clusters(kernel, blocks, tile.cluster.blocks(), &maps);
            }
        }
        Ok(())
    }

    /// 1 / rms of the rows of a product's input.
    fn row_scales(&self, list: &mut Launches, step: StepAddress, product: &Product, segments: Segments) {
        let Addresses { row_scales, .. } = self.addresses();
        let width = product.k as u32;
        let row_scale = &self.kernels.products.row_scale;
        list.push(
            &row_scale.kernel,
            row_scale.blocks_for(u64::from(product.rows.capacity), ROW_SCALE_ROWS),
            &RowScaleParameters {
                step: step.as_ptr(),
                input: product.input,
                row_scales,
                epsilon: self.config.rms_norm_eps,
                inverse_width: 1.0 / width as f32,
                width,
                segment: segments.values,
            },
        );
    }

    /// What a product's kernel is told, with scales that are read.
    fn product_parameters(&self, step: StepAddress, product: &Product, segments: Segments) -> GemmParameters {
        let Product { rows, input, weights, bias, n, k, normalised, ref output } = *product;
        let Addresses { row_scales, rotary, product_partials, product_counters, .. } = self.addresses();
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
            partials: product_partials,
            counters: product_counters,
            n: n as u32,
            k: k as u32,
            segment: segments.values,
            rows: rows.selector,
            scaled: if normalised { GRIDPOINT_SCALE_GIVEN } else { GRIDPOINT_SCALE_NONE },
            epsilon: self.config.rms_norm_eps,
            inverse_width: 1.0 / k as f32,
            query_heads: self.config.num_attention_heads as u32,
            kv_heads: self.config.num_key_value_heads as u32,
            head_dim: self.config.head_dim as u32,
        };
        match *output {
            Output::Logits(logits) => parameters.output = logits.cast(),
            Output::Stream(stream) => (parameters.residual, parameters.output) = (stream, stream.cast()),
            Output::Gated(gated) => parameters.output = gated.cast(),
            Output::Heads { queries, layer } => {
                parameters.output = queries.cast();
                (parameters.key_cache, parameters.value_cache) = self.layer_cache(layer);
                parameters.rotary = rotary;
            }
        }
        parameters
    }
}

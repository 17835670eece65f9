//! Every kernel that a step launches, loaded before the first capture.

use gridpoint_runtime::parameters::{
    EmbeddingParameters, GRIDPOINT_GEMM_16X64_SHARED_BYTES, GRIDPOINT_GEMM_64X64_SHARED_BYTES,
    GRIDPOINT_GEMM_128X128_SHARED_BYTES, GRIDPOINT_NORM_SHARED_BYTES, GRIDPOINT_ROW_SCALE_SHARED_BYTES,
    GRIDPOINT_SAMPLE_SHARED_BYTES, GRIDPOINT_SCHEDULE_SHARED_BYTES, GemmParameters, NormParameters, RowScaleParameters,
    SampleParameters, ScheduleParameters,
};
use gridpoint_runtime::{Device, Parameters, RuntimeError};

use super::attention::Attention;
use super::geometry::{GemmTile, Resident};
use super::order::LaunchOrder;
use crate::weight_plan::ElementType;

/// What a matrix product does with an element before it is stored (kernels/epilogue.cuh); all add a bias where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epilogue {
    /// float32, for logits.
    Logits,
    /// Adds the residual stream.
    Residual,
    /// Gate and up columns in turn become one.
    SwiGlu,
    /// Query and key heads are rotated; keys and values go to the cache.
    Rotary,
}

/// One tile's kernels, by epilogue.
#[derive(Clone, Debug)]
struct Gemm {
    kernels: [Resident<GemmParameters>; 4],
}

/// The kernels for one model's head dimension, with how many blocks of each the device holds at once.
#[derive(Clone, Debug)]
pub struct Kernels {
    pub(crate) order: LaunchOrder,
    pub(crate) multiprocessors: u32,
    pub(crate) schedule: Resident<ScheduleParameters>,
    pub(crate) embedding: Resident<EmbeddingParameters>,
    pub(crate) norm: Resident<NormParameters>,
    pub(crate) row_scale: Resident<RowScaleParameters>,
    pub(crate) attention: Attention,
    pub(crate) sample: Resident<SampleParameters>,
    gemm: [Gemm; 3],
}

impl ElementType {
    /// The kernel for this type, of those for bfloat16 and float16.
    pub(super) fn pick(self, [bfloat16, float16]: [&'static str; 2]) -> &'static str {
        match self {
            Self::BFloat16 => bfloat16,
            Self::Float16 => float16,
        }
    }
}

impl Kernels {
    /// Loads the kernels for elements of this type and heads of `head_dim` elements, one of those that a model may have.
    ///
    /// # Errors
    /// A kernel that the device's modules lack, or the driver's error.
    pub fn load(device: &Device, element: ElementType, head_dim: usize) -> Result<Self, RuntimeError> {
        fn load<P: Parameters>(
            device: &Device,
            name: &'static str,
            shared_bytes: u32,
        ) -> Result<Resident<P>, RuntimeError> {
            Resident::new(device.kernel::<P>(name, shared_bytes)?, device.properties())
        }
        let gemm = |names: [[&'static str; 2]; 4], shared_bytes| -> Result<Gemm, RuntimeError> {
            let [logits, residual, swiglu, rotary] = names.map(|names| load(device, element.pick(names), shared_bytes));
            Ok(Gemm { kernels: [logits?, residual?, swiglu?, rotary?] })
        };
        Ok(Self {
            order: LaunchOrder::best(device),
            multiprocessors: device.properties().multiprocessors,
            schedule: load(device, "schedule_attention", GRIDPOINT_SCHEDULE_SHARED_BYTES)?,
            embedding: load(device, "embedding_gather", 0)?,
            norm: load(device, element.pick(["rms_norm", "rms_norm_f16"]), GRIDPOINT_NORM_SHARED_BYTES)?,
            row_scale: load(device, element.pick(["row_scale", "row_scale_f16"]), GRIDPOINT_ROW_SCALE_SHARED_BYTES)?,
            attention: Attention::load(device, element, head_dim)?,
            sample: load(device, "sample_logits", GRIDPOINT_SAMPLE_SHARED_BYTES)?,
            gemm: [
                gemm(
                    [
                        ["gemm_16x64_logits", "gemm_16x64_logits_f16"],
                        ["gemm_16x64_residual", "gemm_16x64_residual_f16"],
                        ["gemm_16x64_swiglu", "gemm_16x64_swiglu_f16"],
                        ["gemm_16x64_rotary", "gemm_16x64_rotary_f16"],
                    ],
                    GRIDPOINT_GEMM_16X64_SHARED_BYTES,
                )?,
                gemm(
                    [
                        ["gemm_64x64_logits", "gemm_64x64_logits_f16"],
                        ["gemm_64x64_residual", "gemm_64x64_residual_f16"],
                        ["gemm_64x64_swiglu", "gemm_64x64_swiglu_f16"],
                        ["gemm_64x64_rotary", "gemm_64x64_rotary_f16"],
                    ],
                    GRIDPOINT_GEMM_64X64_SHARED_BYTES,
                )?,
                gemm(
                    [
                        ["gemm_128x128_logits", "gemm_128x128_logits_f16"],
                        ["gemm_128x128_residual", "gemm_128x128_residual_f16"],
                        ["gemm_128x128_swiglu", "gemm_128x128_swiglu_f16"],
                        ["gemm_128x128_rotary", "gemm_128x128_rotary_f16"],
                    ],
                    GRIDPOINT_GEMM_128X128_SHARED_BYTES,
                )?,
            ],
        })
    }

    /// The same kernels, launched in another order than the fastest that the device has; [`LaunchOrder::on`] says which it has.
    #[must_use]
    pub fn in_order(self, order: LaunchOrder) -> Self {
        Self { order, ..self }
    }

    /// The matrix product with this tile and epilogue.
    pub(crate) fn gemm(&self, tile: GemmTile, epilogue: Epilogue) -> &Resident<GemmParameters> {
        let tile = GemmTile::ALL.iter().position(|&known| known == tile).unwrap_or(0);
        &self.gemm[tile].kernels[epilogue as usize]
    }
}

//! Every kernel that a step launches, loaded before the first capture.

use gridpoint_runtime::parameters::{
    AttentionParameters, EmbeddingParameters, GRIDPOINT_ATTENTION_D64_SHARED_BYTES,
    GRIDPOINT_ATTENTION_D96_SHARED_BYTES, GRIDPOINT_ATTENTION_D128_SHARED_BYTES, GRIDPOINT_ATTENTION_D256_SHARED_BYTES,
    GRIDPOINT_GEMM_16X64_SHARED_BYTES, GRIDPOINT_GEMM_64X64_SHARED_BYTES, GRIDPOINT_GEMM_128X128_SHARED_BYTES,
    GRIDPOINT_NORM_SHARED_BYTES, GRIDPOINT_SAMPLE_SHARED_BYTES, GRIDPOINT_SCHEDULE_SHARED_BYTES, GemmParameters,
    NormParameters, RopeAppendParameters, SampleParameters, ScheduleParameters,
};
use gridpoint_runtime::{Device, Parameters, RuntimeError};

use super::geometry::{GemmTile, Resident};

/// What a matrix product does with an element before it is stored (kernels/gemm.cu).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epilogue {
    /// bf16.
    Plain,
    /// float32, for logits.
    PlainFloat,
    /// Adds a bias.
    Bias,
    /// Adds the residual stream.
    Residual,
    /// Adds a bias, then the residual stream.
    BiasResidual,
    /// Gate and up columns in turn become one.
    SwiGlu,
}

/// One tile's kernels, by epilogue.
#[derive(Clone, Debug)]
struct Gemm {
    kernels: [Resident<GemmParameters>; 6],
}

/// The kernels for one model's head dimension, with how many blocks of each the device holds at once.
#[derive(Clone, Debug)]
pub struct Kernels {
    pub(crate) multiprocessors: u32,
    pub(crate) schedule: Resident<ScheduleParameters>,
    pub(crate) embedding: Resident<EmbeddingParameters>,
    pub(crate) norm: Resident<NormParameters>,
    pub(crate) rope_append: Resident<RopeAppendParameters>,
    pub(crate) attention: Resident<AttentionParameters>,
    pub(crate) sample: Resident<SampleParameters>,
    gemm: [Gemm; 3],
}

impl Kernels {
    /// Loads the kernels for heads of `head_dim` elements, one of those that a model may have.
    ///
    /// # Errors
    /// A kernel that the device's modules lack, or the driver's error.
    pub fn load(device: &Device, head_dim: usize) -> Result<Self, RuntimeError> {
        fn load<P: Parameters>(
            device: &Device,
            name: &'static str,
            shared_bytes: u32,
        ) -> Result<Resident<P>, RuntimeError> {
            Resident::new(device.kernel::<P>(name, shared_bytes)?, device.properties())
        }
        let gemm = |names: [&'static str; 6], shared_bytes| -> Result<Gemm, RuntimeError> {
            let [plain, plain_float, bias, residual, bias_residual, swiglu] =
                names.map(|name| load(device, name, shared_bytes));
            Ok(Gemm { kernels: [plain?, plain_float?, bias?, residual?, bias_residual?, swiglu?] })
        };
        let (rope, attention, attention_bytes) = match head_dim {
            64 => ("rope_append_d64", "attention_d64", GRIDPOINT_ATTENTION_D64_SHARED_BYTES),
            96 => ("rope_append_d96", "attention_d96", GRIDPOINT_ATTENTION_D96_SHARED_BYTES),
            256 => ("rope_append_d256", "attention_d256", GRIDPOINT_ATTENTION_D256_SHARED_BYTES),
            _ => ("rope_append_d128", "attention_d128", GRIDPOINT_ATTENTION_D128_SHARED_BYTES),
        };
        Ok(Self {
            multiprocessors: device.properties().multiprocessors,
            schedule: load(device, "schedule_attention", GRIDPOINT_SCHEDULE_SHARED_BYTES)?,
            embedding: load(device, "embedding_gather", 0)?,
            norm: load(device, "rms_norm", GRIDPOINT_NORM_SHARED_BYTES)?,
            rope_append: load(device, rope, 0)?,
            attention: load(device, attention, attention_bytes)?,
            sample: load(device, "sample_logits", GRIDPOINT_SAMPLE_SHARED_BYTES)?,
            gemm: [
                gemm(
                    [
                        "gemm_16x64_plain",
                        "gemm_16x64_plain_f32",
                        "gemm_16x64_bias",
                        "gemm_16x64_residual",
                        "gemm_16x64_bias_residual",
                        "gemm_16x64_swiglu",
                    ],
                    GRIDPOINT_GEMM_16X64_SHARED_BYTES,
                )?,
                gemm(
                    [
                        "gemm_64x64_plain",
                        "gemm_64x64_plain_f32",
                        "gemm_64x64_bias",
                        "gemm_64x64_residual",
                        "gemm_64x64_bias_residual",
                        "gemm_64x64_swiglu",
                    ],
                    GRIDPOINT_GEMM_64X64_SHARED_BYTES,
                )?,
                gemm(
                    [
                        "gemm_128x128_plain",
                        "gemm_128x128_plain_f32",
                        "gemm_128x128_bias",
                        "gemm_128x128_residual",
                        "gemm_128x128_bias_residual",
                        "gemm_128x128_swiglu",
                    ],
                    GRIDPOINT_GEMM_128X128_SHARED_BYTES,
                )?,
            ],
        })
    }

    /// The matrix product with this tile and epilogue.
    pub(crate) fn gemm(&self, tile: GemmTile, epilogue: Epilogue) -> &Resident<GemmParameters> {
        let tile = GemmTile::ALL.iter().position(|&known| known == tile).unwrap_or(0);
        &self.gemm[tile].kernels[epilogue as usize]
    }
}

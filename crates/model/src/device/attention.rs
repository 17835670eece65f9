//! Attention's kernel for a device, and what it takes beside [`AttentionParameters`].

use gridpoint_runtime::parameters::{
    AttentionParameters, AttentionTensorParameters, GRIDPOINT_ATTENTION_D64_SHARED_BYTES,
    GRIDPOINT_ATTENTION_D96_SHARED_BYTES, GRIDPOINT_ATTENTION_D128_SHARED_BYTES, GRIDPOINT_ATTENTION_D256_SHARED_BYTES,
    GRIDPOINT_ATTENTION_HOPPER_SHARED_BYTES, GRIDPOINT_ATTENTION_HOPPER_TILE_ROWS, GRIDPOINT_ATTENTION_TILE_ROWS,
    GRIDPOINT_PAGE_TOKENS,
};
use gridpoint_runtime::{Device, Kernel, Parameters, RuntimeError, Swizzle, TensorElement, TensorMap};

use super::geometry::Resident;
use crate::config::ModelConfig;
use crate::weight_plan::ElementType;

/// Attention by how keys and values reach the tensor cores; both give the same bits.
#[derive(Clone, Debug)]
pub(crate) enum Attention {
    /// kernels/attention.cu, on any device.
    Copies(Resident<AttentionParameters>),
    /// kernels/attention_hopper.cu, by tensor copies, where the device has warpgroups.
    Tensors { kernel: Resident<AttentionTensorParameters>, element: TensorElement },
}

impl Attention {
    /// The kernel for the device, elements of this type and heads of `head_dim` elements: those by tensor copies where
    /// warpgroups may be used, and never for heads of 256.
    ///
    /// # Errors
    /// [`RuntimeError::NoKernel`] for other heads, or the driver's error.
    pub(crate) fn load(
        device: &Device,
        element: ElementType,
        head_dim: usize,
        warpgroups: bool,
    ) -> Result<Self, RuntimeError> {
        fn resident<P: Parameters>(device: &Device, kernel: Kernel<P>) -> Result<Resident<P>, RuntimeError> {
            Resident::new(kernel, device.properties())
        }
        let tensors = match head_dim {
            _ if !warpgroups => None,
            64 => Some(["attention_hopper_d64", "attention_hopper_d64_f16"]),
            96 => Some(["attention_hopper_d96", "attention_hopper_d96_f16"]),
            128 => Some(["attention_hopper_d128", "attention_hopper_d128_f16"]),
            _ => None,
        };
        if let Some(names) = tensors {
            let kernel = device.kernel(element.pick(names), GRIDPOINT_ATTENTION_HOPPER_SHARED_BYTES)?;
            return Ok(Self::Tensors { kernel: resident(device, kernel)?, element: element.into() });
        }
        let (names, shared_bytes) = match head_dim {
            64 => (["attention_d64", "attention_d64_f16"], GRIDPOINT_ATTENTION_D64_SHARED_BYTES),
            96 => (["attention_d96", "attention_d96_f16"], GRIDPOINT_ATTENTION_D96_SHARED_BYTES),
            128 => (["attention_d128", "attention_d128_f16"], GRIDPOINT_ATTENTION_D128_SHARED_BYTES),
            256 => (["attention_d256", "attention_d256_f16"], GRIDPOINT_ATTENTION_D256_SHARED_BYTES),
            other => {
                let (module, kernel) = (AttentionParameters::MODULES.concat(), format!("attention_d{other}"));
                return Err(RuntimeError::NoKernel { module, kernel });
            }
        };
        Ok(Self::Copies(resident(device, device.kernel(element.pick(names), shared_bytes)?)?))
    }

    /// Query rows of the tiles that the kernel takes from the work list.
    pub(crate) fn tile_rows(&self) -> u32 {
        match self {
            Self::Copies(_) => GRIDPOINT_ATTENTION_TILE_ROWS,
            Self::Tensors { .. } => GRIDPOINT_ATTENTION_HOPPER_TILE_ROWS,
        }
    }

    /// Whether keys and values come through tensor maps.
    pub(crate) fn takes_maps(&self) -> bool {
        matches!(self, Self::Tensors { .. })
    }

    /// The tensor map of one layer's keys, or values, at device address `address`: `pages` pages (kernels/parameters.h). None for a kernel that
    /// takes no maps.
    ///
    /// # Errors
    /// The driver's error: a cache that no tensor map holds.
    pub(crate) fn map(
        &self,
        config: &ModelConfig,
        pages: u64,
        address: u64,
    ) -> Result<Option<TensorMap>, RuntimeError> {
        let Self::Tensors { element, .. } = *self else { return Ok(None) };
        let head_dim = config.head_dim as u64;
        let (columns, swizzle) =
            if head_dim.is_multiple_of(64) { (64, Swizzle::Bytes128) } else { (32, Swizzle::Bytes64) };
        let blocks = head_dim / columns;
        let rows = pages * config.num_key_value_heads as u64 * u64::from(GRIDPOINT_PAGE_TOKENS);
        TensorMap::new(
            element,
            address,
            [columns, rows, blocks],
            &[head_dim * 2, columns * 2],
            [columns as u32, GRIDPOINT_PAGE_TOKENS, blocks as u32],
            swizzle,
        )
        .map(Some)
    }
}

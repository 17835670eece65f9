//! The loaded kernels of products.

use gridpoint_runtime::parameters::{
    GRIDPOINT_GEMM_64X64_SHARED_BYTES, GRIDPOINT_GEMM_128X128_SHARED_BYTES, GRIDPOINT_GEMM_HOPPER_SHARED_BYTES,
    GRIDPOINT_ROW_SCALE_SHARED_BYTES, GRIDPOINT_SKINNY_SHARED_BYTES, GRIDPOINT_SKINNY_SMALL_SHARED_BYTES,
    GemmParameters, RowScaleParameters, TensorGemmParameters,
};
use gridpoint_runtime::{Device, Parameters, RuntimeError, TensorElement};

use super::{Epilogue, GemmTile, HopperTile};
use crate::device::geometry::Resident;
use crate::weight_plan::ElementType;

/// One kernel in its epilogues.
type Family<P> = [Resident<P>; 4];

/// Names of a kernel's epilogues in the order of [`Epilogue`], for bfloat16 and float16.
macro_rules! epilogues {
    ($kernel:literal) => {
        [
            [concat!($kernel, "_logits"), concat!($kernel, "_logits_f16")],
            [concat!($kernel, "_residual"), concat!($kernel, "_residual_f16")],
            [concat!($kernel, "_swiglu"), concat!($kernel, "_swiglu_f16")],
            [concat!($kernel, "_rotary"), concat!($kernel, "_rotary_f16")],
        ]
    };
}

/// Every kernel that a product can take, with how many blocks of each the device holds at once.
#[derive(Clone, Debug)]
pub(crate) struct ProductKernels {
    pub(crate) row_scale: Resident<RowScaleParameters>,
    skinny: Family<GemmParameters>,
    tiles: [Family<GemmParameters>; 2],
    /// In the order of [`HopperTile::COLUMNS`], where warpgroups may be used.
    hopper: Option<[Family<TensorGemmParameters>; 4]>,
    pub(crate) element: TensorElement,
}

fn family<P: Parameters>(
    device: &Device,
    element: ElementType,
    names: [[&'static str; 2]; 4],
    shared_bytes: u32,
) -> Result<Family<P>, RuntimeError> {
    let load = |names| Resident::new(device.kernel::<P>(element.pick(names), shared_bytes)?, device.properties());
    let [logits, residual, swiglu, rotary] = names.map(load);
    Ok([logits?, residual?, swiglu?, rotary?])
}

impl ProductKernels {
    /// Loads the kernels for elements of this type, those by warpgroups where they may be used.
    ///
    /// # Errors
    /// A kernel that the device's modules lack, or the driver's error.
    pub(crate) fn load(device: &Device, element: ElementType, warpgroups: bool) -> Result<Self, RuntimeError> {
        // Blocks of these have 163 KB and more of shared memory; those of 8.6, 8.7, 8.9 and 12.x have 99.
        let skinny_bytes = match device.properties().compute_capability {
            (8, 0) | (9 | 10, _) => GRIDPOINT_SKINNY_SHARED_BYTES,
            _ => GRIDPOINT_SKINNY_SMALL_SHARED_BYTES,
        };
        let hopper = |names| family(device, element, names, GRIDPOINT_GEMM_HOPPER_SHARED_BYTES);
        let hopper = if warpgroups {
            Some([
                hopper(epilogues!("gemm_hopper_128x256"))?,
                hopper(epilogues!("gemm_hopper_128x192"))?,
                hopper(epilogues!("gemm_hopper_128x128"))?,
                hopper(epilogues!("gemm_hopper_128x64"))?,
            ])
        } else {
            None
        };
        let row_scale = element.pick(["row_scale", "row_scale_f16"]);
        Ok(Self {
            row_scale: Resident::new(device.kernel(row_scale, GRIDPOINT_ROW_SCALE_SHARED_BYTES)?, device.properties())?,
            skinny: family(device, element, epilogues!("skinny"), skinny_bytes)?,
            tiles: [
                family(device, element, epilogues!("gemm_64x64"), GRIDPOINT_GEMM_64X64_SHARED_BYTES)?,
                family(device, element, epilogues!("gemm_128x128"), GRIDPOINT_GEMM_128X128_SHARED_BYTES)?,
            ],
            hopper,
            element: element.into(),
        })
    }

    /// The product of few rows with this epilogue.
    pub(crate) fn skinny(&self, epilogue: Epilogue) -> &Resident<GemmParameters> {
        &self.skinny[epilogue as usize]
    }

    /// The product with this tile and epilogue.
    pub(crate) fn tiles(&self, tile: GemmTile, epilogue: Epilogue) -> &Resident<GemmParameters> {
        let [small, large] = &self.tiles;
        let family = match tile {
            GemmTile::Rows64Columns64 => small,
            GemmTile::Rows128Columns128 => large,
        };
        &family[epilogue as usize]
    }

    /// The product by warpgroups with tiles of so many columns.
    ///
    /// # Errors
    /// [`RuntimeError::NoKernel`] for other tiles than there are, or on devices without.
    pub(crate) fn hopper(
        &self,
        tile: HopperTile,
        epilogue: Epilogue,
    ) -> Result<&Resident<TensorGemmParameters>, RuntimeError> {
        let place = HopperTile::COLUMNS.iter().position(|&columns| columns == tile.columns);
        let family = place.and_then(|place| Some(&self.hopper.as_ref()?[place]));
        family.map(|family| &family[epilogue as usize]).ok_or_else(|| RuntimeError::NoKernel {
            module: TensorGemmParameters::MODULES.concat(),
            kernel: format!("gemm_hopper_128x{}", tile.columns),
        })
    }

    /// Whether there are products by warpgroups.
    pub(crate) fn has_warpgroups(&self) -> bool {
        self.hopper.is_some()
    }
}

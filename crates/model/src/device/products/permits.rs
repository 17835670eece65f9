//! Which kernels a product may take.

use gridpoint_runtime::WARPGROUPS_COMPUTE_CAPABILITY;
use gridpoint_runtime::parameters::GRIDPOINT_SKINNY_ROWS;

use super::{HopperTile, MeasuredDevice, ProductClass, ProductKernel, Segments};

/// Why a product may not take a kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPermitted {
    /// Too many rows.
    #[error("`{kernel}` takes at most {most} rows and {class} has more")]
    Rows {
        /// The kernel.
        kernel: ProductKernel,
        /// Its most rows.
        most: u32,
        /// The product.
        class: ProductClass,
    },
    /// Registers for one segment alone.
    #[error("`{kernel}` takes one segment of K and {class} is cut into {segments}")]
    Segments {
        /// The kernel.
        kernel: ProductKernel,
        /// The product.
        class: ProductClass,
        /// Its segments.
        segments: u32,
    },
    /// Rows that tensor copies do not move.
    #[error("`{kernel}` takes outputs whose rows are multiples of 16 bytes and {class} has others")]
    Columns {
        /// The kernel.
        kernel: ProductKernel,
        /// The product.
        class: ProductClass,
    },
    /// A device, or kernels, without warpgroups.
    #[error(
        "`{kernel}` for {class} multiplies by warpgroups, which are there on compute capability 9.0 alone and in kernels built for sm_90a"
    )]
    Warpgroups {
        /// The kernel.
        kernel: ProductKernel,
        /// The product.
        class: ProductClass,
    },
}

impl ProductKernel {
    /// Whether the kernel multiplies by warpgroups.
    pub(crate) fn needs_warpgroups(self) -> bool {
        matches!(self, Self::Hopper(_))
    }

    /// Whether products of the class may take the kernel on the device.
    ///
    /// # Errors
    /// Why not.
    pub fn permits(self, class: ProductClass, device: &MeasuredDevice) -> Result<(), NotPermitted> {
        let segments = Segments::choose(class.n, class.k, device.multiprocessors).count;
        match self {
            Self::Skinny if class.rows.rows() > GRIDPOINT_SKINNY_ROWS => {
                Err(NotPermitted::Rows { kernel: self, most: GRIDPOINT_SKINNY_ROWS, class })
            }
            Self::Tiles(tile) if !tile.takes(segments) => Err(NotPermitted::Segments { kernel: self, class, segments }),
            Self::Hopper(_) if device.compute_capability != WARPGROUPS_COMPUTE_CAPABILITY => {
                Err(NotPermitted::Warpgroups { kernel: self, class })
            }
            Self::Hopper(tile) if segments > 1 && tile.columns > HopperTile::SEGMENTED_COLUMNS => {
                Err(NotPermitted::Segments { kernel: self, class, segments })
            }
            Self::Hopper(_) if !class.epilogue.tensor_output().takes(class.n) => {
                Err(NotPermitted::Columns { kernel: self, class })
            }
            Self::Skinny | Self::Tiles(_) | Self::Hopper(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::products::{Epilogue, GemmTile, RowClass};
    use crate::weight_plan::ElementType;

    fn device(multiprocessors: u32) -> MeasuredDevice {
        MeasuredDevice {
            name: "a card".to_owned(),
            compute_capability: (9, 0),
            multiprocessors,
            driver_version: 13_000,
        }
    }

    fn class(n: u32, k: u32, rows: u32) -> ProductClass {
        ProductClass { element: ElementType::BFloat16, epilogue: Epilogue::Residual, n, k, rows: RowClass::of(rows) }
    }

    #[test]
    fn few_rows_and_segments_bound_the_kernels() {
        let large = ProductKernel::Tiles(GemmTile::Rows128Columns128);
        assert_eq!(ProductKernel::Skinny.permits(class(4096, 4096, 64), &device(132)), Ok(()));
        let error = ProductKernel::Skinny.permits(class(4096, 4096, 65), &device(132)).expect_err("too many rows");
        let words = "`skinny` takes at most 64 rows and bfloat16 residual [4096, 4096] of 128 rows has more";
        assert_eq!(error.to_string(), words);
        assert_eq!(large.permits(class(4096, 4096, 1), &device(132)), Ok(()));
        let error = large.permits(class(1280, 8192, 512), &device(132)).expect_err("four segments");
        assert!(error.to_string().ends_with("of 512 rows is cut into 4"), "{error}");
        assert_eq!(
            ProductKernel::Tiles(GemmTile::Rows64Columns64).permits(class(1280, 8192, 512), &device(132)),
            Ok(())
        );
    }

    #[test]
    fn warpgroups_are_for_hopper_and_whole_rows() {
        let tile = |columns| ProductKernel::Hopper(HopperTile { columns, cluster: crate::TileCluster::Rows });
        assert_eq!(tile(256).permits(class(4096, 4096, 512), &device(132)), Ok(()));
        for (kernel, class, device, words) in [
            (
                tile(256),
                class(4096, 4096, 512),
                MeasuredDevice { compute_capability: (10, 0), ..device(132) },
                "warpgroups",
            ),
            (tile(192), class(1280, 8192, 512), device(132), "is cut into 4"),
            (tile(128), class(4100, 4096, 512), device(132), "multiples of 16 bytes"),
        ] {
            let error = kernel.permits(class, &device).expect_err("not permitted").to_string();
            assert!(error.starts_with(&format!("`{kernel}`")) && error.contains(words), "{error}");
        }
        assert_eq!(tile(128).permits(class(1280, 8192, 512), &device(132)), Ok(()));
    }

    #[test]
    fn the_built_in_choice_is_permitted() {
        for multiprocessors in [1, 8, 132] {
            for (n, k) in [(6144, 4096), (1280, 8192), (520, 128), (128, 192), (28_672, 4096)] {
                let segments = Segments::choose(n, k, multiprocessors).count;
                for rows in [1, 2, 4, 64, 128, 512, 8192] {
                    let shape = crate::ProductShape { rows, n, k, segments };
                    let kernel = ProductKernel::choose(shape, Epilogue::Residual, multiprocessors, true);
                    assert_eq!(kernel.permits(class(n, k, rows), &device(multiprocessors)), Ok(()), "{shape:?}");
                }
            }
        }
    }
}

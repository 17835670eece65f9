//! Which kernel a product takes.
//!
//! The choice follows the point's capacity of rows, the weights' shape and the device, never live counts: it is frozen at capture. All kernels
//! give the same bits, so no choice changes a result.

use gridpoint_runtime::parameters::GRIDPOINT_SKINNY_ROWS;

use super::{Epilogue, GemmTile, HopperTile, ProductShape};

/// A kernel for products, with its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProductKernel {
    /// kernels/skinny.cu: at most 64 rows, bound by the bandwidth of the weights. It computes the rows' scales itself.
    Skinny,
    /// kernels/gemm.cu: tiles on every device.
    Tiles(GemmTile),
    /// kernels/gemm_hopper.cu: tiles by warpgroups, on compute capability 9.0.
    Hopper(HopperTile),
}

impl ProductKernel {
    /// The built-in choice, by arithmetic, on a device that has warpgroups or not.
    #[must_use]
    pub(crate) fn choose(shape: ProductShape, epilogue: Epilogue, multiprocessors: u32, warpgroups: bool) -> Self {
        if shape.rows <= GRIDPOINT_SKINNY_ROWS {
            Self::Skinny
        } else if warpgroups && epilogue.tensor_output().takes(shape.n) {
            Self::Hopper(HopperTile::choose(shape, multiprocessors))
        } else {
            Self::Tiles(GemmTile::choose(shape, multiprocessors))
        }
    }

    /// Whether the kernel computes the scales of its rows, so that nothing in front of it has to.
    #[must_use]
    pub fn computes_scales(self) -> bool {
        self == Self::Skinny
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_stream_weights() {
        let choose = |rows| {
            let shape = ProductShape { rows, n: 4096, k: 4096, segments: 1 };
            ProductKernel::choose(shape, Epilogue::Residual, 132, false)
        };
        assert_eq!(choose(1), ProductKernel::Skinny);
        assert_eq!(choose(64), ProductKernel::Skinny);
        assert_eq!(choose(65), ProductKernel::Tiles(GemmTile::Rows64Columns64));
        assert!(choose(64).computes_scales() && !choose(65).computes_scales());
    }

    #[test]
    fn many_rows_take_warpgroups_where_they_are() {
        let choose = |rows, n, warpgroups| {
            let shape = ProductShape { rows, n, k: 4096, segments: 1 };
            ProductKernel::choose(shape, Epilogue::Residual, 132, warpgroups)
        };
        assert!(matches!(choose(2048, 4096, true), ProductKernel::Hopper(HopperTile { columns: 256, .. })));
        assert_eq!(choose(64, 4096, true), ProductKernel::Skinny);
        assert!(matches!(choose(2048, 4096, false), ProductKernel::Tiles(_)));
        assert!(matches!(choose(2048, 4100, true), ProductKernel::Tiles(_)), "rows of 16 bytes leave by tensor copies");
    }
}

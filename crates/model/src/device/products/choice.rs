//! Which kernel a product takes.
//!
//! The choice follows the point's capacity of rows, the weights' shape and the device, never live counts: it is frozen at capture. All kernels
//! give the same bits, so no choice changes a result.

use gridpoint_runtime::parameters::GRIDPOINT_SKINNY_ROWS;

use super::{GemmTile, ProductShape};

/// A kernel for products, with its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProductKernel {
    /// kernels/skinny.cu: at most 64 rows, bound by the bandwidth of the weights. It computes the rows' scales itself.
    Skinny,
    /// kernels/gemm.cu: tiles on every device.
    Tiles(GemmTile),
}

impl ProductKernel {
    /// The built-in choice, by arithmetic.
    #[must_use]
    pub fn choose(shape: ProductShape, multiprocessors: u32) -> Self {
        if shape.rows <= GRIDPOINT_SKINNY_ROWS {
            Self::Skinny
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
        let choose = |rows| ProductKernel::choose(ProductShape { rows, n: 4096, k: 4096, segments: 1 }, 132);
        assert_eq!(choose(1), ProductKernel::Skinny);
        assert_eq!(choose(64), ProductKernel::Skinny);
        assert_eq!(choose(65), ProductKernel::Tiles(GemmTile::Rows64Columns64));
        assert!(choose(64).computes_scales() && !choose(65).computes_scales());
    }
}

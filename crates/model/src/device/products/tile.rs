//! Output tiles of the products that run on every device (kernels/gemm.cu).

use super::ProductShape;

/// Output tiles, rows x columns, smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GemmTile {
    /// Where larger tiles would leave multiprocessors idle, and for products that are cut into segments.
    Rows64Columns64,
    /// Many rows: bound by the tensor cores. One segment alone.
    Rows128Columns128,
}

impl GemmTile {
    /// All tiles.
    pub const ALL: [Self; 2] = [Self::Rows64Columns64, Self::Rows128Columns128];

    /// Rows and columns.
    #[must_use]
    pub fn shape(self) -> (u32, u32) {
        match self {
            Self::Rows64Columns64 => (64, 64),
            Self::Rows128Columns128 => (128, 128),
        }
    }

    /// Rows and columns of one warp's part.
    pub(crate) fn warp_shape(self) -> (u32, u32) {
        match self {
            Self::Rows64Columns64 => (32, 32),
            Self::Rows128Columns128 => (64, 64),
        }
    }

    /// Whether registers hold the sums of earlier segments beside those of the one that is walked.
    #[must_use]
    pub fn takes(self, segments: u32) -> bool {
        self == Self::Rows64Columns64 || segments <= 1
    }

    /// Tiles of an output of `rows` x `columns`.
    pub(crate) fn count(self, rows: u32, columns: u32) -> u64 {
        let (tile_rows, tile_columns) = self.shape();
        u64::from(rows.div_ceil(tile_rows)) * u64::from(columns.div_ceil(tile_columns))
    }

    /// The largest tile that takes the segments, is not mostly padding and gives every multiprocessor one. A choice by arithmetic.
    pub(crate) fn choose(shape: ProductShape, multiprocessors: u32) -> Self {
        let ProductShape { rows, n, segments, .. } = shape;
        let large = Self::Rows128Columns128;
        if rows > 64 && large.takes(segments) && large.count(rows, n) >= u64::from(multiprocessors) {
            large
        } else {
            Self::Rows64Columns64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_follow_rows_segments_and_the_device() {
        let choose = |rows, n, segments| GemmTile::choose(ProductShape { rows, n, k: 4096, segments }, 132);
        assert_eq!(choose(17, 4096, 1), GemmTile::Rows64Columns64);
        assert_eq!(choose(396, 4096, 1), GemmTile::Rows64Columns64, "4 x 32 large tiles leave 4 of 132 idle");
        assert_eq!(choose(512, 6144, 1), GemmTile::Rows128Columns128);
        assert_eq!(choose(512, 6144, 2), GemmTile::Rows64Columns64, "large tiles have no registers for segments");
        assert_eq!(GemmTile::Rows128Columns128.count(129, 1003), 16);
    }
}

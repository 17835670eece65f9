//! Tiles and clusters of the large products on Hopper (kernels/gemm_hopper.cu): what they cost by arithmetic, which one a shape gets, and the
//! parameter struct with its tensor maps.
//!
//! Nothing here was measured: a choice is the built-in default that measurements on a device may replace. No choice changes a bit of
//! the results.

use gridpoint_runtime::parameters::{
    GRIDPOINT_CLUSTER_COLUMNS, GRIDPOINT_CLUSTER_ROWS, GRIDPOINT_MAP_ACTIVATIONS, GRIDPOINT_MAP_OUTPUT,
    GRIDPOINT_MAP_RESIDUAL, GRIDPOINT_MAP_WEIGHTS, GemmParameters, TensorGemmParameters,
};
use gridpoint_runtime::{RuntimeError, Swizzle, TensorElement, TensorMap};

use super::ProductShape;

/// Values of k in a stage.
const DEPTH: u32 = 64;
/// Bytes of a row of a stage.
const ROW_BYTES: u64 = 128;
/// Row tiles that share a pass over the weights.
const GROUP_TILES: u32 = 16;
/// Bytes that a multiprocessor's shared memory takes or gives in a clock.
const SHARED_RATE: u64 = 128;
/// Bytes that the second cache gives a multiprocessor in a clock, at most.
const PORT_RATE: u64 = 64;
/// Bytes that the second cache gives all of them in a clock: 7 TB/s at 1.7 GHz. (fast.cu's published 808 TFLOP/s need 6.3.)
const CACHE_RATE: u64 = 4096;
/// Bytes of device memory in a clock: nine tenths of 3.35 TB/s at 1.7 GHz.
const MEMORY_RATE: u64 = 1773;
/// Clocks until a ring has been filled for the first time.
const FILL_CLOCKS: u64 = 2000;
/// Clocks of an epilogue that no multiplication hides, a column.
const EPILOGUE_CLOCKS: u64 = 8;

/// The blocks that share an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TileCluster {
    /// A block by itself.
    Single,
    /// Two row tiles that share weights.
    Rows,
    /// Two column tiles that share activations.
    Columns,
}

impl TileCluster {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Single, Self::Rows, Self::Columns];

    /// Blocks of a cluster: row tiles x column tiles.
    #[must_use]
    pub fn shape(self) -> (u32, u32) {
        match self {
            Self::Single => (1, 1),
            Self::Rows => (2, 1),
            Self::Columns => (1, 2),
        }
    }

    /// Blocks of a cluster.
    #[must_use]
    pub fn blocks(self) -> u32 {
        let (rows, columns) = self.shape();
        rows * columns
    }
}

/// What happens to a product's sums, as far as tensor maps are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorOutput {
    /// Registers store them: logits and rotary.
    Registers,
    /// As many 16-bit columns as the product has, with a residual that is added.
    Residual,
    /// Half as many: swiglu.
    Halved,
}

impl TensorOutput {
    /// Whether the kernel takes products of `n` columns with this output: rows of what tensor copies move are multiples of 16 bytes.
    #[must_use]
    pub fn takes(self, n: u32) -> bool {
        match self {
            Self::Registers => true,
            Self::Residual => n.is_multiple_of(8),
            Self::Halved => n.is_multiple_of(16),
        }
    }
}

/// A tile of 128 rows, and the cluster that walks over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HopperTile {
    /// Columns of a tile: one of [`Self::COLUMNS`].
    pub columns: u32,
    /// The cluster.
    pub cluster: TileCluster,
}

impl HopperTile {
    /// Rows of every tile.
    pub const ROWS: u32 = 128;
    /// Columns of the tiles that there are.
    pub const COLUMNS: [u32; 4] = [256, 192, 128, 64];
    /// Columns of the widest tile that takes more than one segment.
    pub const SEGMENTED_COLUMNS: u32 = 128;

    /// The cheapest by [`Self::clocks`]; of equal ones that which asks least of the second cache, then the widest.
    #[must_use]
    pub fn choose(shape: ProductShape, multiprocessors: u32) -> Self {
        let segmented = |&columns: &u32| shape.segments <= 1 || columns <= Self::SEGMENTED_COLUMNS;
        let tiles = Self::COLUMNS
            .into_iter()
            .filter(segmented)
            .flat_map(|columns| TileCluster::ALL.map(|cluster| Self { columns, cluster }));
        let cost = |tile: &Self| {
            let blocks = u64::from(tile.blocks(shape.rows, shape.n, multiprocessors));
            (tile.clocks(shape, multiprocessors), tile.fetched() * blocks)
        };
        tiles.min_by_key(cost).unwrap_or(Self { columns: 128, cluster: TileCluster::Single })
    }

    /// Bytes that a block asks of the second cache for a stage.
    fn fetched(self) -> u64 {
        let (row_tiles, column_tiles) = self.cluster.shape();
        u64::from(Self::ROWS / column_tiles + self.columns / row_tiles) * ROW_BYTES
    }

    /// Steps of the clusters over an output of `rows` x `n`.
    fn cluster_tiles(self, rows: u32, n: u32) -> u64 {
        let (row_tiles, column_tiles) = self.cluster.shape();
        u64::from(rows.div_ceil(Self::ROWS * row_tiles)) * u64::from(n.div_ceil(self.columns * column_tiles))
    }

    /// Blocks of a launch: whole clusters, no more than there is work for or the device holds, at least one cluster.
    #[must_use]
    pub fn blocks(self, rows: u32, n: u32, multiprocessors: u32) -> u32 {
        let blocks = self.cluster.blocks();
        let clusters = u64::from((multiprocessors / blocks).max(1));
        self.cluster_tiles(rows, n).clamp(1, clusters) as u32 * blocks
    }

    /// Clocks of a multiprocessor that the product takes by arithmetic.
    ///
    /// A stage of 64 values of k costs the largest of: 4 clocks a column of the tensor cores; shared memory, written once and read by
    /// either warpgroup's four instructions; the second cache, as its part for so many blocks or as the multiprocessor's port. The whole
    /// costs as many turns as the busiest block has tiles, or device memory, which weights leave once for each 16 row tiles.
    #[must_use]
    pub fn clocks(self, shape: ProductShape, multiprocessors: u32) -> u64 {
        let ProductShape { rows, n, k, .. } = shape;
        let blocks = u64::from(self.blocks(rows, n, multiprocessors));
        let clusters = blocks / u64::from(self.cluster.blocks());
        let turns = self.cluster_tiles(rows, n).div_ceil(clusters);
        let columns = u64::from(self.columns);
        let tensor = 4 * columns;
        let written = (u64::from(Self::ROWS) + columns) * ROW_BYTES;
        let read = 8 * (64 + columns) * 32;
        let shared = (written + read).div_ceil(SHARED_RATE);
        let cache = (self.fetched() * blocks).div_ceil(CACHE_RATE).max(self.fetched().div_ceil(PORT_RATE));
        let stage = tensor.max(shared).max(cache);
        let tile = u64::from(k.div_ceil(DEPTH)) * stage + EPILOGUE_CLOCKS * columns;
        let passes = u64::from(rows.div_ceil(Self::ROWS * GROUP_TILES));
        let memory = (u64::from(n) * passes + u64::from(rows)) * u64::from(k) * 2 + u64::from(rows) * u64::from(n) * 2;
        FILL_CLOCKS + (turns * tile).max(memory / MEMORY_RATE)
    }

    /// Columns of a box of the output, and how the box lies in shared memory.
    fn output_box(self, output: TensorOutput) -> (u32, Swizzle) {
        let columns = if output == TensorOutput::Halved { self.columns / 2 } else { self.columns };
        if columns.is_multiple_of(64) { (64, Swizzle::Bytes128) } else { (32, Swizzle::Bytes64) }
    }

    /// The parameter struct for `gemm`, whose activations, residual and output have `row_capacity` rows, at least one.
    ///
    /// # Errors
    /// The driver's error: an address or a row of a matrix that is no multiple of 16 bytes.
    pub fn parameters(
        self,
        gemm: GemmParameters,
        element: TensorElement,
        output: TensorOutput,
        row_capacity: u32,
    ) -> Result<TensorGemmParameters, RuntimeError> {
        let (rows, n, k) = (u64::from(row_capacity), u64::from(gemm.n), u64::from(gemm.k));
        let address = |pointer: *const u16| pointer.expose_provenance() as u64;
        let none: TensorMap = bytemuck::Zeroable::zeroed();
        let mut maps = [none; 4];
        maps[GRIDPOINT_MAP_ACTIVATIONS as usize] =
            TensorMap::ragged(element, address(gemm.activations), [k, rows], [DEPTH, 64], Swizzle::Bytes128)?;
        let half = [DEPTH, self.columns / 2];
        maps[GRIDPOINT_MAP_WEIGHTS as usize] =
            TensorMap::new(element, address(gemm.weights), [k, n], &[k * 2], half, Swizzle::Bytes128)?;
        if output != TensorOutput::Registers {
            let (box_columns, swizzle) = self.output_box(output);
            let width = if output == TensorOutput::Halved { n / 2 } else { n };
            let map = |pointer| TensorMap::ragged(element, address(pointer), [width, rows], [box_columns, 64], swizzle);
            maps[GRIDPOINT_MAP_OUTPUT as usize] = map(gemm.output.cast::<u16>().cast_const())?;
            if output == TensorOutput::Residual {
                maps[GRIDPOINT_MAP_RESIDUAL as usize] = map(gemm.residual)?;
            }
        }
        let cluster = match self.cluster {
            TileCluster::Single | TileCluster::Rows => GRIDPOINT_CLUSTER_ROWS,
            TileCluster::Columns => GRIDPOINT_CLUSTER_COLUMNS,
        };
        Ok(TensorGemmParameters { maps, gemm, row_capacity, cluster, reserved: [0; 12] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MULTIPROCESSORS: u32 = 132;
    /// N x K of Llama 3 8B, and of 70B cut in eight.
    const PRODUCTS: [(u32, u32); 10] = [
        (6144, 4096),
        (4096, 4096),
        (28672, 4096),
        (4096, 14336),
        (128_256, 4096),
        (1280, 8192),
        (8192, 1024),
        (7168, 8192),
        (8192, 3584),
        (16032, 8192),
    ];

    fn choose(rows: u32, n: u32, k: u32) -> HopperTile {
        HopperTile::choose(ProductShape { rows, n, k, segments: 1 }, MULTIPROCESSORS)
    }

    #[test]
    fn large_products_take_the_widest_tile_and_share_weights() {
        for (n, k) in PRODUCTS.into_iter().filter(|&(n, _)| n >= 4096) {
            assert_eq!(choose(8192, n, k), HopperTile { columns: 256, cluster: TileCluster::Rows }, "{n} x {k}");
        }
    }

    #[test]
    fn few_rows_share_activations_and_fill_the_device() {
        for (n, k) in [(4096, 4096), (4096, 14336), (6144, 4096)] {
            let tile = choose(128, n, k);
            assert_eq!(tile, HopperTile { columns: 64, cluster: TileCluster::Columns }, "{n} x {k}");
        }
        // One wave of 4 x 32 tiles instead of 24 of 256 columns, which leave 36 of 132 idle.
        assert_eq!(choose(512, 6144, 4096).columns, 192);
    }

    #[test]
    fn segments_keep_to_the_tiles_that_have_registers_for_them() {
        for rows in (65..8192).step_by(97) {
            for (n, k) in PRODUCTS {
                let shape = ProductShape { rows, n, k, segments: 4 };
                assert!(HopperTile::choose(shape, MULTIPROCESSORS).columns <= HopperTile::SEGMENTED_COLUMNS);
            }
        }
    }

    #[test]
    fn grids_are_whole_clusters_that_the_device_holds() {
        for rows in [1, 65, 128, 129, 1000, 8192] {
            for columns in HopperTile::COLUMNS {
                for cluster in TileCluster::ALL {
                    for multiprocessors in [1, 7, 132] {
                        let blocks = HopperTile { columns, cluster }.blocks(rows, 4096, multiprocessors);
                        assert!(blocks.is_multiple_of(cluster.blocks()) && blocks >= 1);
                        assert!(blocks <= multiprocessors.max(cluster.blocks()));
                    }
                }
            }
        }
        let tile = HopperTile { columns: 256, cluster: TileCluster::Rows };
        assert_eq!((tile.blocks(129, 512, 132), tile.blocks(8192, 4096, 132)), (4, 132));
    }

    #[test]
    fn arithmetic_is_that_of_the_kernels_header() {
        // One tile of 64 stages on one of one multiprocessor: the tensor cores' 1024 clocks a stage, and its epilogue.
        let tile = HopperTile { columns: 256, cluster: TileCluster::Single };
        let shape = ProductShape { rows: 128, n: 256, k: 4096, segments: 1 };
        assert_eq!(tile.clocks(shape, 1), FILL_CLOCKS + 64 * 1024 + 256 * EPILOGUE_CLOCKS);
        // Four times the columns on four: shared memory holds tiles of 64 columns to 448 clocks instead of 256.
        let tile = HopperTile { columns: 64, ..tile };
        assert_eq!(tile.clocks(shape, 4), FILL_CLOCKS + 64 * 448 + 64 * EPILOGUE_CLOCKS);
    }

    #[test]
    fn outputs_by_tensor_copies_have_whole_rows_of_16_bytes() {
        assert!(
            TensorOutput::Registers.takes(1003)
                && TensorOutput::Residual.takes(1000)
                && TensorOutput::Halved.takes(1008)
        );
        assert!(!TensorOutput::Residual.takes(1004) && !TensorOutput::Halved.takes(1000));
    }
}

//! What products need, by the kernel that each takes.

use gridpoint_runtime::parameters::{GRIDPOINT_SKINNY_PARTIAL_FLOATS, GRIDPOINT_SKINNY_ROWS, GRIDPOINT_SKINNY_UNIT};

use super::{Arithmetic, BF16, COLUMNS, DEPTH, Geometry, LaunchNeed, Need, ROWS, Sizes, WORD, Work};
use crate::device::kernels::Kernels;
use crate::device::products::{Epilogue, GemmTile, HopperTile, ProductKernel, ProductShape, Segments};

/// Depth of a stage of the tiles, and of a span of the product of few rows.
const STAGE_DEPTH: u64 = 64;

/// A matrix product.
pub(super) struct Product {
    pub(super) operation: &'static str,
    /// Real rows.
    pub(super) rows: u64,
    /// The point's rows.
    pub(super) capacity: u32,
    pub(super) n: u64,
    pub(super) k: u64,
    pub(super) bias: bool,
    pub(super) normalised: bool,
    pub(super) epilogue: Epilogue,
}

/// What a product needs whichever kernel computes it.
struct Common {
    activations: u64,
    weights: u64,
    bias: u64,
    residual: u64,
    written: u64,
}

impl Product {
    fn common(&self) -> Common {
        let Self { rows, n, k, .. } = *self;
        let output = match self.epilogue {
            Epilogue::Logits => n * 4,
            Epilogue::SwiGlu => n * BF16 / 2,
            Epilogue::Residual | Epilogue::Rotary => n * BF16,
        };
        Common {
            activations: rows * k * BF16,
            weights: n * k * BF16,
            bias: u64::from(self.bias) * n * BF16,
            residual: if self.epilogue == Epilogue::Residual { rows * n * BF16 } else { 0 },
            written: rows * output,
        }
    }

    /// Multiplications that hold an element of the result.
    fn least_multiplies(&self) -> u64 {
        self.rows.div_ceil(ROWS) * self.n.div_ceil(COLUMNS) * self.k.div_ceil(DEPTH)
    }

    fn work(&self) -> Work {
        let Self { rows, n, k, .. } = *self;
        let Common { weights, bias, .. } = self.common();
        Work { arithmetic: Arithmetic::Product { m: rows, n, k }, layer_bytes: weights + bias }
    }
}

/// What tiles make of a product.
struct Tiling {
    /// How many times activations and weights are loaded.
    activation_loads: u64,
    weight_loads: u64,
    /// Warps that read a column's bias.
    bias_warps: u64,
    /// Columns for which a row's scale, position and slot are read once.
    row_columns: u64,
    /// Rows and columns that are multiplied.
    rows: u64,
    columns: u64,
}

impl Tiling {
    /// kernels/gemm.cu: a warp without a live row or a column multiplies nothing.
    fn of_warps(&Product { rows, n, .. }: &Product, tile: GemmTile) -> Self {
        let (tile_rows, tile_columns) = tile.shape();
        let (warp_rows, warp_columns) = tile.warp_shape();
        let [tile_rows, tile_columns, warp_rows, warp_columns] =
            [tile_rows, tile_columns, warp_rows, warp_columns].map(u64::from);
        Self {
            activation_loads: n.div_ceil(tile_columns),
            weight_loads: rows.div_ceil(tile_rows),
            bias_warps: rows.div_ceil(warp_rows),
            row_columns: warp_columns,
            rows: rows.next_multiple_of(warp_rows),
            columns: n.next_multiple_of(warp_columns),
        }
    }

    /// kernels/gemm_hopper.cu: what a cluster shares is loaded once for both of its blocks; warpgroups of four warps and 64 rows.
    fn of_warpgroups(&Product { rows, n, .. }: &Product, tile: HopperTile) -> Self {
        const GROUP_ROWS: u64 = 64;
        const GROUP_WARPS: u64 = 4;
        let (pair_rows, pair_columns) = tile.cluster.shape();
        let [columns, pair_rows, pair_columns] = [tile.columns, pair_rows, pair_columns].map(u64::from);
        Self {
            activation_loads: n.div_ceil(columns * pair_columns),
            weight_loads: rows.div_ceil(u64::from(HopperTile::ROWS) * pair_rows),
            bias_warps: rows.div_ceil(GROUP_ROWS) * GROUP_WARPS,
            row_columns: columns,
            rows: rows.next_multiple_of(GROUP_ROWS),
            columns: n.next_multiple_of(columns),
        }
    }
}

/// How the product of few rows walks its work (kernels/skinny.cu, `share_of`, `ring_of` and `pass_at`).
struct SkinnyWalk {
    row_tiles: u64,
    units: u64,
    segments: u64,
    blocks: u64,
    most_units: u64,
}

impl SkinnyWalk {
    const UNIT: u64 = GRIDPOINT_SKINNY_UNIT as u64;
    const WARPS: u64 = 4;
    const ROW_BYTES: u64 = 128;
    const LEAST_STAGES: u64 = 3;
    /// What precedes the ring: a sum of squares for each row.
    const HEAD_BYTES: u64 = GRIDPOINT_SKINNY_ROWS as u64 * 4;

    fn new(rows: u64, n: u64, segments: u64, geometry: Geometry) -> Self {
        let row_tiles = match rows {
            0..=16 => 1,
            17..=32 => 2,
            _ => 4,
        };
        let ring_rows = geometry.shared_bytes.saturating_sub(Self::HEAD_BYTES) / Self::ROW_BYTES;
        let most = (ring_rows / Self::LEAST_STAGES).saturating_sub(row_tiles * ROWS) / Self::UNIT;
        let warp_units = if row_tiles == 4 { 4 } else { 7 };
        let most_units = most.clamp(1, warp_units * Self::WARPS);
        Self { row_tiles, units: n.div_ceil(Self::UNIT), segments, blocks: geometry.blocks, most_units }
    }

    /// Segment and units of every pass of every block.
    fn passes(&self) -> Vec<(u64, u64)> {
        let all = self.units * self.segments;
        let mut passes = Vec::new();
        for block in 0..self.blocks {
            let (mut item, end) = (all * block / self.blocks, all * (block + 1) / self.blocks);
            while item < end {
                let run = (end - item).min(self.units - item % self.units);
                let units = run.div_ceil(run.div_ceil(self.most_units));
                passes.push((item / self.units, units));
                item += units;
            }
        }
        passes
    }

    /// Multiplications of a k16 step of a pass: a warp computes as many units as any has, rounded up to a number that has its code, and also
    /// where it has none but sums squares.
    fn step_multiplies(&self, units: u64, squares: bool) -> u64 {
        let code = match units.div_ceil(Self::WARPS) {
            few @ 1..=2 => few,
            3..=4 => 4,
            _ => 7,
        };
        let works = |&warp: &u64| {
            let has_units = units * (warp + 1) / Self::WARPS > units * warp / Self::WARPS;
            has_units || squares && warp % 2 * 2 + warp / 2 < self.row_tiles
        };
        let warps = (0..Self::WARPS).filter(works).count() as u64;
        warps * self.row_tiles * code + if squares { self.row_tiles * 2 } else { 0 }
    }
}

impl Sizes<'_> {
    /// Adds the needs of a product's launches.
    pub(super) fn product(
        &self,
        kernels: &Kernels,
        product: &Product,
        next: &mut impl FnMut() -> Geometry,
        needs: &mut Vec<LaunchNeed>,
    ) {
        let [n, k] = [product.n, product.k].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        let segments = kernels.segments(n, k);
        let shape = ProductShape { rows: product.capacity, n, k, segments: segments.count };
        let kernel = kernels.product_kernel(shape, product.epilogue);
        if product.normalised && !kernel.computes_scales() {
            needs.push(self.row_scales(next().all_threads()));
        }
        needs.push(match kernel {
            ProductKernel::Skinny => self.skinny(product, segments, next()),
            ProductKernel::Tiles(tile) => self.in_tiles(product, Tiling::of_warps(product, tile), next().all_threads()),
            ProductKernel::Hopper(tile) => {
                self.in_tiles(product, Tiling::of_warpgroups(product, tile), next().all_threads())
            }
        });
    }

    /// Scales of the stream's rows.
    fn row_scales(&self, threads: u64) -> LaunchNeed {
        let strips = self.tokens.div_ceil(ROWS);
        let steps = self.hidden.div_ceil(DEPTH);
        LaunchNeed {
            operation: "row scales",
            read: Need::exactly(self.tokens * self.hidden * BF16).and(WORD, threads * WORD),
            written: Need::exactly(self.tokens * WORD),
            // A row against itself is the diagonal of a product of sixteen rows.
            multiplies: Need::exactly(strips * steps * 2),
            work: Work::default(),
        }
    }

    /// A product in tiles.
    fn in_tiles(&self, product: &Product, tiling: Tiling, threads: u64) -> LaunchNeed {
        let Product { operation, rows, n, k, normalised, epilogue, .. } = *product;
        let Common { activations, weights, bias, residual, written } = product.common();
        // A row's scale, position and slot are read by the four lanes of each warp that share it.
        let row_readers = rows * n.div_ceil(tiling.row_columns) * 4;
        let scales = u64::from(normalised) * WORD;
        let heads = if epilogue == Epilogue::Rotary { self.rotary(row_readers) } else { Need::default() };
        LaunchNeed {
            operation,
            read: Need {
                least: WORD + activations + weights + bias + residual + rows * scales + heads.least,
                // A bias is read by each of the eight lanes that hold a column in a warp.
                tiled: threads * WORD
                    + activations * tiling.activation_loads
                    + weights * tiling.weight_loads
                    + bias * tiling.bias_warps * 8
                    + residual
                    + row_readers * scales
                    + heads.tiled,
            },
            written: Need::exactly(written),
            multiplies: Need {
                least: product.least_multiplies(),
                // Whole stages.
                tiled: tiling.rows / ROWS
                    * (tiling.columns / COLUMNS)
                    * (k.div_ceil(STAGE_DEPTH) * (STAGE_DEPTH / DEPTH)),
            },
            work: product.work(),
        }
    }

    /// A product of few rows.
    fn skinny(&self, product: &Product, segments: Segments, geometry: Geometry) -> LaunchNeed {
        let Product { operation, rows, n, k, normalised, epilogue, .. } = *product;
        let Common { activations, weights, bias, residual, written } = product.common();
        let (values, count) = (u64::from(segments.values), u64::from(segments.count));
        let walk = SkinnyWalk::new(rows, n, count, geometry);
        let (mut asked_activations, mut multiplies) = (0, 0);
        for (segment, units) in walk.passes() {
            let depth = values.min(k - (segment * values).min(k));
            asked_activations += rows * depth * BF16;
            let steps = depth.div_ceil(STAGE_DEPTH) * (STAGE_DEPTH / DEPTH);
            multiplies += walk.step_multiplies(units, normalised) * steps;
        }
        let heads = if epilogue == Epilogue::Rotary { self.rotary(rows * walk.units * 4) } else { Need::default() };
        let squares = if normalised { rows.div_ceil(ROWS) * k.div_ceil(DEPTH) * 2 } else { 0 };
        let mut read = Need {
            least: WORD + activations + weights + bias + residual + heads.least,
            // Activations for each pass, weights once, a bias for each of the eight lanes that hold a column.
            tiled: geometry.all_threads() * WORD + asked_activations + weights + bias * 8 + residual + heads.tiled,
        };
        let mut output = Need::exactly(written);
        if count > 1 {
            // Sums of each tile, and the rows' squares, which four lanes read; an arrival for each segment of a unit, and the zero behind
            // the last one.
            let parts = walk.units * count;
            let tiles = parts * walk.row_tiles * ROWS;
            let (sums, squares) = (tiles * COLUMNS * 4, if normalised { tiles * 4 } else { 0 });
            read = read.and(sums + squares + walk.units * WORD, sums + squares * 4 + parts * WORD);
            output = output.and(sums + squares + walk.units * WORD, sums + squares + (parts + walk.units) * WORD);
            debug_assert!(sums + squares <= parts * u64::from(GRIDPOINT_SKINNY_PARTIAL_FLOATS) * 4);
        }
        LaunchNeed {
            operation,
            read,
            written: output,
            multiplies: Need { least: product.least_multiplies() + squares, tiled: multiplies },
            work: product.work(),
        }
    }

    /// Bytes that rotation and the cache's slots take beside the product.
    fn rotary(&self, row_readers: u64) -> Need {
        // A cosine and a sine for each pair of a head.
        let head = self.head_dim * 4;
        let rotated = self.query_heads + self.kv_heads;
        Need {
            // Two offsets of the block; position and slot of a token.
            least: 2 * WORD + self.tokens * 2 * WORD + self.positions() * head,
            tiled: row_readers * 4 * WORD + self.tokens * rotated * head,
        }
    }

    /// Different positions of the step's tokens.
    fn positions(&self) -> u64 {
        let mut spans: Vec<(u32, u32)> =
            self.lengths.requests.iter().map(|one| (one.keys - one.queries.min(one.keys), one.keys)).collect();
        spans.sort_unstable();
        let (mut count, mut end) = (0, 0);
        for (first, behind) in spans {
            count += u64::from(behind.saturating_sub(first.max(end)));
            end = end.max(behind);
        }
        count
    }
}

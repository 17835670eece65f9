//! How the sum over K of a product is cut into segments.
//!
//! Each segment is accumulated from zero and segments are added in order (kernels/parameters.h), so the cut decides bits: it follows the
//! shape of the weights and the device alone, never the rows of a step. More segments than one are for weights with too few rows to give
//! every multiprocessor an equal share, or whose chain of multiplications would be slower than their bytes.

use gridpoint_runtime::parameters::{
    GRIDPOINT_SKINNY_PARTIAL_FLOATS, GRIDPOINT_SKINNY_UNIT, GRIDPOINT_SQUARES_COLUMNS,
};

/// Bytes of weights that a multiprocessor of an H200 takes in a clock: 4.8 TB/s over 132 at 1.755 GHz. Predicted from the data sheet.
const BYTES_EACH_CLOCK: u64 = 20;
/// Clocks from one mma.sync m16n8k16 to the next that adds to its sums, on Hopper: about that; not measured here.
const MULTIPLY_CLOCKS: u64 = 33;
/// Values of k in a multiplication.
const MULTIPLY_DEPTH: u64 = 16;
/// Units of weights that a block walks K with at once (kernels/skinny.cu).
const PASS_UNITS: u64 = 28;
/// Clocks of an exchange of sums between blocks: a write, an arrival and a read of the second cache. An estimate.
const EXCHANGE_CLOCKS: u64 = 2500;
const BYTES: u64 = 2;

/// The cut of one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Values of k in a segment; the last one may be shorter.
    pub values: u32,
    /// How many there are.
    pub count: u32,
    /// Units of weights' rows.
    units: u32,
}

impl Segments {
    /// The cut for weights `[n, k]` on a device with so many multiprocessors. One segment, unless more are predicted to be a tenth faster.
    #[must_use]
    pub fn choose(n: u32, k: u32, multiprocessors: u32) -> Self {
        let groups = k.div_ceil(GRIDPOINT_SQUARES_COLUMNS).max(1);
        let cut = |parts: u32| {
            let values = groups.div_ceil(parts).saturating_mul(GRIDPOINT_SQUARES_COLUMNS);
            Self { values, count: k.div_ceil(values).max(1), units: n.div_ceil(GRIDPOINT_SKINNY_UNIT) }
        };
        let whole = cut(1);
        let best = (2..=groups).map(cut).min_by_key(|cut| (cut.clocks(multiprocessors), cut.count));
        match best {
            Some(best) if best.clocks(multiprocessors) * 10 < whole.clocks(multiprocessors) * 9 => best,
            _ => whole,
        }
    }

    /// What the busiest multiprocessor is predicted to take.
    fn clocks(&self, multiprocessors: u32) -> u64 {
        let work = u64::from(self.units) * u64::from(self.count);
        let share = work.div_ceil(u64::from(multiprocessors.max(1)));
        let (values, unit) = (u64::from(self.values), u64::from(GRIDPOINT_SKINNY_UNIT));
        let bytes = share * unit * values * BYTES / BYTES_EACH_CLOCK;
        let chain = share.div_ceil(PASS_UNITS) * values.div_ceil(MULTIPLY_DEPTH) * MULTIPLY_CLOCKS;
        bytes.max(chain) + if self.count > 1 { EXCHANGE_CLOCKS } else { 0 }
    }

    /// Units times segments: what blocks share.
    #[must_use]
    pub fn work(&self) -> u64 {
        u64::from(self.units) * u64::from(self.count)
    }

    /// Floats in which the segments of a unit meet; none where there is one segment.
    #[must_use]
    pub fn partials(&self) -> u64 {
        if self.count > 1 { self.work() * u64::from(GRIDPOINT_SKINNY_PARTIAL_FLOATS) } else { 0 }
    }

    /// Counters of arrivals, one a unit.
    #[must_use]
    pub fn counters(&self) -> u64 {
        if self.count > 1 { u64::from(self.units) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: u32 = 132;

    #[test]
    fn wide_weights_are_not_cut() {
        for (n, k) in [(6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336), (128_256, 4096)] {
            assert_eq!(Segments::choose(n, k, H200).count, 1, "Llama-3-8B [{n}, {k}]");
        }
        for (n, k) in [(8192, 1024), (7168, 8192), (8192, 3584), (16_032, 8192)] {
            assert_eq!(Segments::choose(n, k, H200).count, 1, "an eighth of Llama-3-70B [{n}, {k}]");
        }
    }

    #[test]
    fn narrow_and_deep_weights_are_cut() {
        let cut = Segments::choose(1280, 8192, H200);
        assert_eq!((cut.values, cut.count), (2048, 4), "2 units of 160 would be the busiest of 132 shares");
        assert_eq!((cut.work(), cut.partials(), cut.counters()), (640, 640 * 576, 160));
        assert!(Segments::choose(256, 16_384, H200).count > 4);
    }

    #[test]
    fn segments_cover_k_in_whole_groups_of_squares() {
        for multiprocessors in [1, 4, 108, 132] {
            for n in [1, 8, 500, 1280, 5000] {
                for k in [8, 64, 512, 520, 2048, 11_008, 14_336] {
                    let cut = Segments::choose(n, k, multiprocessors);
                    assert_eq!(cut.values % GRIDPOINT_SQUARES_COLUMNS, 0);
                    assert_eq!(cut.count, k.div_ceil(cut.values), "[{n}, {k}] on {multiprocessors}");
                    assert_eq!(cut.counters() == 0, cut.count == 1);
                }
            }
        }
    }
}

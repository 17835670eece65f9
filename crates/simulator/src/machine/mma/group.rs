//! The arithmetic of `wgmma.mma_async.m64nNk16` (PTX ISA 9.7.15.5.2) and of `mma.sync.m16n8k16` on float16.
//!
//! As in [`super`]: an element is a chain of sixteen fused multiply-adds in ascending k from its accumulator, in float32, and a NaN
//! becomes `0x7fffffff`. Products of float16 values are exact in float32, as those of bfloat16 are. So for equal operands wgmma and
//! `mma.sync` give equal bits.

use super::vector::Vector;
use super::{CANONICAL_NAN, COLUMNS, DEPTH, Deposit, LANES, Row};

/// Rows of a warpgroup's tile.
pub(crate) const GROUP_ROWS: usize = 64;
/// The most columns of a warpgroup's tile.
pub(crate) const GROUP_COLUMNS: usize = 256;
const TILES: usize = GROUP_COLUMNS / COLUMNS;
/// Rows and tiles whose accumulators are held in registers at once.
const BLOCK_ROWS: usize = 4;
const BLOCK_TILES: usize = 2;

/// The type of the elements of a and b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// bfloat16.
    Bf16,
    /// float16.
    F16,
}

impl Half {
    /// The value of a bit pattern.
    #[inline(always)]
    pub(crate) fn value(self, bits: u16) -> f32 {
        match self {
            Self::Bf16 => f32::from_bits(u32::from(bits) << 16),
            Self::F16 => {
                let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
                if magnitude >= 0x1f << 23 {
                    return f32::from_bits(sign | magnitude | 0x7f80_0000);
                }
                // The exponent's bias differs by 112; the product is exact, also for subnormal patterns.
                let value = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
                f32::from_bits(sign | value.to_bits())
            }
        }
    }
}

/// A warpgroup's operands as float32: a by rows, b by tiles of eight columns.
#[repr(align(64))]
pub(crate) struct GroupPanels {
    pub(crate) a: [[f32; DEPTH]; GROUP_ROWS],
    pub(crate) b: [[Row; DEPTH]; TILES],
}

impl GroupPanels {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self { a: [[0.0; DEPTH]; GROUP_ROWS], b: [[[0.0; COLUMNS]; DEPTH]; TILES] })
    }
}

/// Adds the products of the panels to accumulators: rows of tile after tile, `rows` to a tile, a multiple of four.
pub(crate) type GroupMultiply = fn(&GroupPanels, &mut [Row], usize);

/// The fastest version that this host runs.
pub(crate) fn fastest_group() -> GroupMultiply {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        return |panels, sums, rows| {
            // SAFETY: the host has AVX2 and FMA.
            unsafe { multiply_avx2(panels, sums, rows) }
        };
    }
    multiply_portable
}

/// The version for any host.
pub(crate) fn multiply_portable(panels: &GroupPanels, sums: &mut [Row], rows: usize) {
    // SAFETY: arrays need no instructions of their own.
    unsafe { multiply::<Row>(panels, sums, rows) }
}

/// # Safety
/// The host has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_avx2(panels: &GroupPanels, sums: &mut [Row], rows: usize) {
    // SAFETY: by this function's contract.
    unsafe { multiply::<std::arch::x86_64::__m256>(panels, sums, rows) }
}

/// # Safety
/// The host has the instructions of `V`.
#[inline(always)]
unsafe fn multiply<V: Vector>(panels: &GroupPanels, sums: &mut [Row], rows: usize) {
    for (pair, sums) in sums.chunks_mut(BLOCK_TILES * rows).enumerate() {
        for row in (0..rows).step_by(BLOCK_ROWS) {
            // SAFETY: by this function's contract.
            unsafe {
                if sums.len() == BLOCK_TILES * rows {
                    multiply_block::<V, BLOCK_TILES>(panels, sums, rows, pair * BLOCK_TILES, row);
                } else {
                    multiply_block::<V, 1>(panels, sums, rows, pair * BLOCK_TILES, row);
                }
            }
        }
    }
}

/// # Safety
/// The host has the instructions of `V`.
#[inline(always)]
unsafe fn multiply_block<V: Vector, const COUNT: usize>(
    panels: &GroupPanels,
    sums: &mut [Row],
    rows: usize,
    tile: usize,
    row: usize,
) {
    // SAFETY: by this function's contract.
    unsafe {
        let mut held = [[V::zero(); COUNT]; BLOCK_ROWS];
        for (r, held) in held.iter_mut().enumerate() {
            for (t, held) in held.iter_mut().enumerate() {
                *held = V::load(&sums[t * rows + row + r]);
            }
        }
        for k in 0..DEPTH {
            for (r, held) in held.iter_mut().enumerate() {
                let a = V::splat(panels.a[row + r][k]);
                for (t, held) in held.iter_mut().enumerate() {
                    *held = held.add_product(a, V::load(&panels.b[tile + t][k]));
                }
            }
        }
        for (r, held) in held.iter().enumerate() {
            for (t, held) in held.iter().enumerate() {
                held.store(&mut sums[t * rows + row + r]);
            }
        }
    }
}

/// A NaN as the canonical one, anything else as it is.
#[inline(always)]
pub(crate) fn canonical(value: f32) -> f32 {
    if value.is_nan() { f32::from_bits(CANONICAL_NAN) } else { value }
}

/// `m_tiles` x `n_tiles` instructions `mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32` with the fragments of [`super`].
///
/// # Safety
/// As [`super::Multiply`].
pub(crate) unsafe fn multiply_f16(
    panels: &mut GroupPanels,
    multiply: GroupMultiply,
    lanes: &[Deposit; LANES],
    m_tiles: usize,
    n_tiles: usize,
) {
    const TILE_ROWS: usize = 16;
    for m in 0..m_tiles {
        for (lane, deposit) in lanes.iter().enumerate() {
            let (g, t) = (lane / 4, lane % 4);
            // SAFETY: by this function's contract.
            let words = unsafe { (deposit.pointers[1] as *const [u32; 4]).add(m).read() };
            for (i, word) in words.into_iter().enumerate() {
                let (row, column) = (g + 8 * (i % 2), 2 * t + 8 * (i / 2));
                panels.a[row][column] = Half::F16.value(word as u16);
                panels.a[row][column + 1] = Half::F16.value((word >> 16) as u16);
            }
        }
        for n in 0..n_tiles {
            let mut sums = [[0.0; COLUMNS]; TILE_ROWS];
            for (lane, deposit) in lanes.iter().enumerate() {
                let (g, t) = (lane / 4, lane % 4);
                // SAFETY: by this function's contract.
                unsafe {
                    let words = (deposit.pointers[2] as *const [u32; 2]).add(n).read();
                    for (i, word) in words.into_iter().enumerate() {
                        panels.b[0][2 * t + 8 * i][g] = Half::F16.value(word as u16);
                        panels.b[0][2 * t + 8 * i + 1][g] = Half::F16.value((word >> 16) as u16);
                    }
                    let d = (deposit.pointers[0] as *const [f32; 4]).add(m * n_tiles + n).read();
                    for (i, value) in d.into_iter().enumerate() {
                        sums[g + 8 * (i / 2)][2 * t + i % 2] = value;
                    }
                }
            }
            multiply(panels, &mut sums, TILE_ROWS);
            for (lane, deposit) in lanes.iter().enumerate() {
                let (g, t) = (lane / 4, lane % 4);
                let d = std::array::from_fn(|i| canonical(sums[g + 8 * (i / 2)][2 * t + i % 2]));
                // SAFETY: by this function's contract.
                unsafe { (deposit.pointers[0] as *mut [f32; 4]).add(m * n_tiles + n).write(d) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::random::Random;

    #[test]
    fn float16_values_are_exact() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f32();
            let value = Half::F16.value(bits);
            assert!(value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan(), "{bits:#x}");
            assert_eq!(Half::Bf16.value(bits).to_bits(), u32::from(bits) << 16);
        }
    }

    #[test]
    fn every_path_gives_the_same_bits_as_the_chain() {
        let mut random = Random::new(5, 0);
        let mut number = || (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let mut panels = GroupPanels::new();
        panels.a.as_flattened_mut().iter_mut().for_each(|value| *value = number());
        panels.b.as_flattened_mut().as_flattened_mut().iter_mut().for_each(|value| *value = number());
        for tiles in [1, 2, 5, 32] {
            let before: Vec<Row> = (0..tiles * GROUP_ROWS).map(|_| std::array::from_fn(|_| number())).collect();
            let (mut portable, mut fastest) = (before.clone(), before.clone());
            multiply_portable(&panels, &mut portable, GROUP_ROWS);
            fastest_group()(&panels, &mut fastest, GROUP_ROWS);
            for (place, row) in before.iter().enumerate() {
                for (column, start) in row.iter().enumerate() {
                    let (a, b) = (&panels.a[place % GROUP_ROWS], &panels.b[place / GROUP_ROWS]);
                    let chain = (0..DEPTH).fold(*start, |sum, k| a[k].mul_add(b[k][column], sum));
                    assert_eq!(portable[place][column].to_bits(), chain.to_bits());
                    assert_eq!(fastest[place][column].to_bits(), chain.to_bits());
                }
            }
        }
    }
}

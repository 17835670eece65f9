//! The arithmetic of `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32` (PTX ISA 9.7.14.5.8 and 9.7.14.5.14).
//!
//! An element of the result is `fma(a[15], b[15], … fma(a[0], b[0], c))` in float32: sixteen fused multiply-adds in ascending k.
//! Products of bfloat16 values are exact in float32, so each step rounds once. Infinities and NaN follow IEEE 754; a NaN becomes the
//! pattern `0x7fffffff`. The bits of an element depend on its row of a, its column of b and its accumulator alone: every path below
//! does the same sixteen operations. (A GPU adds the sixteen products with other rounding: its bits differ.)
//!
//! Fragments, for lane `4 * g + t`: register `i` of a holds row `g + 8 * (i % 2)`, columns `2 * t + 8 * (i / 2)` and the next; register
//! `i` of b holds column `g`, rows `2 * t + 8 * i` and the next; the accumulator's element `i` is row `g + 8 * (i / 2)`, column
//! `2 * t + i % 2`.

use super::thread::WARP_THREADS;
use super::warp::Deposit;
use vector::Vector;

mod group;
mod vector;

pub(crate) use group::{GROUP_ROWS, GroupMultiply, GroupPanels, Half, canonical, fastest_group, multiply_f16};

const LANES: usize = WARP_THREADS as usize;
/// Rows and k of a tile of a.
const ROWS: usize = 16;
const DEPTH: usize = 16;
/// Columns of a tile of b.
const COLUMNS: usize = 8;
/// The most accumulator tiles of one call: 4 registers each, of 255 that a thread has.
pub(crate) const MAXIMUM_TILES: u32 = 64;
/// Rows and tiles of b whose accumulators are held in registers at once.
const BLOCK_ROWS: usize = 4;
const BLOCK_TILES: usize = 2;

const CANONICAL_NAN: u32 = 0x7fff_ffff;

/// A row of a tile of b or of the accumulator.
pub(crate) type Row = [f32; COLUMNS];

/// Operands as float32, so that they are converted once per call.
#[repr(align(64))]
pub(crate) struct Panels {
    a: [[f32; DEPTH]; ROWS],
    b: [[Row; DEPTH]; MAXIMUM_TILES as usize],
}

impl Panels {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self { a: [[0.0; DEPTH]; ROWS], b: [[[0.0; COLUMNS]; DEPTH]; MAXIMUM_TILES as usize] })
    }
}

/// Multiplies `m_tiles` x `n_tiles` tiles; a lane's deposit points to its registers of d, a and b.
///
/// # Safety
/// Each lane's pointers are valid for `m_tiles * n_tiles * 4` floats (read and written), `m_tiles * 4` and `n_tiles * 2` words; no
/// reference to them lives. `m_tiles * n_tiles` is 1 to [`MAXIMUM_TILES`]. The host has the instructions that the function was
/// chosen for.
pub(crate) type Multiply = unsafe fn(&mut Panels, &[Deposit; LANES], usize, usize);

/// The fastest version that this host runs.
pub(crate) fn fastest() -> Multiply {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        return multiply_avx2;
    }
    multiply_portable
}

/// The version for any host. Where fused multiply-add is not an instruction it is a call to the C library, with equal bits.
///
/// # Safety
/// As [`Multiply`].
pub(crate) unsafe fn multiply_portable(panels: &mut Panels, lanes: &[Deposit; LANES], m_tiles: usize, n_tiles: usize) {
    // SAFETY: by this function's contract.
    unsafe { multiply::<Row>(panels, lanes, m_tiles, n_tiles) }
}

/// # Safety
/// As [`Multiply`]; the host has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_avx2(panels: &mut Panels, lanes: &[Deposit; LANES], m_tiles: usize, n_tiles: usize) {
    // SAFETY: by this function's contract.
    unsafe { multiply::<std::arch::x86_64::__m256>(panels, lanes, m_tiles, n_tiles) }
}

/// # Safety
/// As [`Multiply`]; the host has the instructions of `V`.
#[inline(always)]
unsafe fn multiply<V: Vector>(panels: &mut Panels, lanes: &[Deposit; LANES], m_tiles: usize, n_tiles: usize) {
    for n in 0..n_tiles {
        // SAFETY: n is below n_tiles.
        unsafe { convert_b::<V>(&mut panels.b[n], lanes, n) };
    }
    for m in 0..m_tiles {
        for (lane, deposit) in lanes.iter().enumerate() {
            // SAFETY: m is below m_tiles.
            unsafe {
                let registers = (deposit.pointers[1] as *const [u32; 4]).add(m);
                V::convert_a(registers, &mut panels.a, lane / 4, lane % 4);
            }
        }
        for row in (0..ROWS).step_by(BLOCK_ROWS) {
            let mut n = 0;
            while n < n_tiles {
                let tile = m * n_tiles + n;
                // SAFETY: the one or two tiles from `tile` on exist.
                unsafe {
                    if n + BLOCK_TILES <= n_tiles {
                        multiply_block::<V, BLOCK_TILES>(panels, lanes, tile, n, row);
                        n += BLOCK_TILES;
                    } else {
                        multiply_block::<V, 1>(panels, lanes, tile, n, row);
                        n += 1;
                    }
                }
            }
        }
    }
}

/// # Safety
/// Each lane's pointer to b is valid for `(n + 1) * 2` words; the host has the instructions of `V`.
#[inline(always)]
unsafe fn convert_b<V: Vector>(panel: &mut [Row; DEPTH], lanes: &[Deposit; LANES], n: usize) {
    for half in 0..2 {
        for t in 0..4 {
            let words = std::array::from_fn(|g| {
                let registers = lanes[4 * g + t].pointers[2] as *const u32;
                // SAFETY: by this function's contract.
                unsafe { registers.add(n * 2 + half).read() }
            });
            // SAFETY: by this function's contract.
            unsafe {
                let (lower, upper) = V::widen(words);
                lower.store(&mut panel[8 * half + 2 * t]);
                upper.store(&mut panel[8 * half + 2 * t + 1]);
            }
        }
    }
}

/// Rows `row` to `row + BLOCK_ROWS` of `TILES` neighbouring tiles from `tile` on, whose columns are those of b's tiles from `n` on.
///
/// # Safety
/// Each lane's pointer to d is valid for `(tile + TILES) * 4` floats; the host has the instructions of `V`.
#[inline(always)]
unsafe fn multiply_block<V: Vector, const TILES: usize>(
    panels: &Panels,
    lanes: &[Deposit; LANES],
    tile: usize,
    n: usize,
    row: usize,
) {
    let (first, half) = (row % 8, row / 8);
    let pairs = |r: usize, j: usize| -> [usize; 4] {
        std::array::from_fn(|t| lanes[4 * (first + r) + t].pointers[0] + ((tile + j) * 4 + 2 * half) * 4)
    };
    // SAFETY: by this function's contract: each pair of d is valid for two floats.
    unsafe {
        let mut sums = [[V::zero(); TILES]; BLOCK_ROWS];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = V::gather(pairs(r, j));
            }
        }
        for k in 0..DEPTH {
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = V::splat(panels.a[row + r][k]);
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add_product(a, V::load(&panels.b[n + j][k]));
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                sum.scatter(pairs(r, j));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    /// Words of which many are NaN, infinite, zero, subnormal or huge, and neighbours of those.
    fn words(random: &mut Random, count: usize) -> Vec<u32> {
        const SPECIAL: [u32; 8] = [0, 0x8000, 0x7f80, 0xff80, 0x7fc1, 1, 0x7f7f, 0x0080];
        let mut half = || {
            let bits = random.next();
            if bits >> 40 & 15 == 0 { SPECIAL[(bits >> 50) as usize % 8] } else { bits as u32 & 0xbfff | 0x3000 }
        };
        (0..count).map(|_| half() | half() << 16).collect()
    }

    #[test]
    fn every_path_gives_the_same_bits() {
        let mut random = Random::new(11, 0);
        for (m, n) in [(1, 1), (1, 2), (2, 3), (4, 8), (1, 64), (64, 1)] {
            let a = words(&mut random, LANES * m * 4);
            let b = words(&mut random, LANES * n * 2);
            let c = words(&mut random, LANES * m * n * 4);
            let run = |version: Multiply| {
                let mut d = c.clone();
                let lanes: [Deposit; LANES] = std::array::from_fn(|lane| Deposit {
                    pointers: [
                        d[lane * m * n * 4..].as_mut_ptr() as usize,
                        a[lane * m * 4..].as_ptr() as usize,
                        b[lane * n * 2..].as_ptr() as usize,
                    ],
                    ..Deposit::default()
                });
                // SAFETY: each lane has its part of the operands; `fastest` asks the host for its instructions.
                unsafe { version(&mut Panels::new(), &lanes, m, n) };
                d
            };
            let portable = run(multiply_portable);
            assert_eq!(run(fastest()), portable, "{m} x {n} tiles");
            let nan = portable.iter().filter(|&&bits| f32::from_bits(bits).is_nan());
            assert!(nan.clone().count() > 0 && nan.clone().all(|&bits| bits == CANONICAL_NAN));
        }
    }
}

//! Eight float32 values side by side: as an array for any host, and as an AVX2 register.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, __m256, _CMP_UNORD_Q, _mm_and_si128, _mm_castsi128_pd, _mm_loadh_pd, _mm_loadl_pd, _mm_loadu_si128,
    _mm_set1_epi32, _mm_setzero_pd, _mm_slli_epi32, _mm_storeh_pd, _mm_storel_pd, _mm_unpackhi_epi32,
    _mm_unpacklo_epi32, _mm256_and_si256, _mm256_blendv_ps, _mm256_castpd_ps, _mm256_castpd256_pd128, _mm256_castps_pd,
    _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_extractf128_pd, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set_m128d,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_slli_epi32, _mm256_storeu_ps,
};

use super::{CANONICAL_NAN, COLUMNS, DEPTH, ROWS, Row};

/// The upper half of a word is a bfloat16 value's place in float32.
const UPPER: u32 = 0xffff_0000;

/// Eight float32 values.
///
/// # Safety
/// Every function needs the instructions that the implementation is for.
pub(super) trait Vector: Copy {
    /// Eight times zero.
    unsafe fn zero() -> Self;
    /// Eight times `value`.
    unsafe fn splat(value: f32) -> Self;
    /// The values of a row.
    unsafe fn load(row: &Row) -> Self;
    /// Writes a row.
    unsafe fn store(self, row: &mut Row);
    /// `a * b + self`, rounded once.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The bfloat16 values in the lower and in the upper halves of words.
    unsafe fn widen(words: [u32; COLUMNS]) -> (Self, Self);
    /// Four pairs of values. Each address is valid for reads of two floats.
    unsafe fn gather(pairs: [usize; 4]) -> Self;
    /// Writes four pairs of values, each NaN as the canonical one. Each address is valid for writes of two floats.
    unsafe fn scatter(self, pairs: [usize; 4]);
    /// Converts the four registers of a of the lane `4 * g + t`, which lie at a valid address, into a tile.
    unsafe fn convert_a(registers: *const [u32; 4], panel: &mut [[f32; DEPTH]; ROWS], g: usize, t: usize);
}

impl Vector for [f32; COLUMNS] {
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; COLUMNS]
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; COLUMNS]
    }

    #[inline(always)]
    unsafe fn load(row: &Row) -> Self {
        *row
    }

    #[inline(always)]
    unsafe fn store(self, row: &mut Row) {
        *row = self;
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|i| a[i].mul_add(b[i], self[i]))
    }

    #[inline(always)]
    unsafe fn widen(words: [u32; COLUMNS]) -> (Self, Self) {
        (words.map(|word| f32::from_bits(word << 16)), words.map(|word| f32::from_bits(word & UPPER)))
    }

    #[inline(always)]
    unsafe fn gather(pairs: [usize; 4]) -> Self {
        // SAFETY: by the trait's contract.
        let pairs = pairs.map(|pair| unsafe { (pair as *const [f32; 2]).read() });
        std::array::from_fn(|i| pairs[i / 2][i % 2])
    }

    #[inline(always)]
    unsafe fn scatter(self, pairs: [usize; 4]) {
        let values = self.map(|value| if value.is_nan() { f32::from_bits(CANONICAL_NAN) } else { value });
        for (i, pair) in pairs.into_iter().enumerate() {
            // SAFETY: by the trait's contract.
            unsafe { (pair as *mut [f32; 2]).write([values[2 * i], values[2 * i + 1]]) };
        }
    }

    #[inline(always)]
    unsafe fn convert_a(registers: *const [u32; 4], panel: &mut [[f32; DEPTH]; ROWS], g: usize, t: usize) {
        // SAFETY: by the trait's contract.
        let words = unsafe { registers.read() };
        for (i, word) in words.into_iter().enumerate() {
            let (row, column) = (g + 8 * (i % 2), 2 * t + 8 * (i / 2));
            panel[row][column] = f32::from_bits(word << 16);
            panel[row][column + 1] = f32::from_bits(word & UPPER);
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m256 {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the host has AVX2 and FMA, by the trait's contract; so below.
        unsafe { _mm256_set1_ps(0.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: as in `zero`.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(row: &Row) -> Self {
        // SAFETY: as in `zero`; a row is eight floats.
        unsafe { _mm256_loadu_ps(row.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store(self, row: &mut Row) {
        // SAFETY: as in `zero`; a row is eight floats.
        unsafe { _mm256_storeu_ps(row.as_mut_ptr(), self) };
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as in `zero`.
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn widen(words: [u32; COLUMNS]) -> (Self, Self) {
        let [a, b, c, d, e, f, g, h] = words.map(u32::cast_signed);
        // SAFETY: as in `zero`.
        unsafe {
            let words = _mm256_setr_epi32(a, b, c, d, e, f, g, h);
            let lower = _mm256_slli_epi32::<16>(words);
            let upper = _mm256_and_si256(words, _mm256_set1_epi32(UPPER.cast_signed()));
            (_mm256_castsi256_ps(lower), _mm256_castsi256_ps(upper))
        }
    }

    #[inline(always)]
    unsafe fn gather(pairs: [usize; 4]) -> Self {
        let [a, b, c, d] = pairs.map(|pair| pair as *const f64);
        // SAFETY: as in `zero`; the addresses are valid by the trait's contract, and these loads need no alignment.
        unsafe {
            let low = _mm_loadh_pd(_mm_loadl_pd(_mm_setzero_pd(), a), b);
            let high = _mm_loadh_pd(_mm_loadl_pd(_mm_setzero_pd(), c), d);
            _mm256_castpd_ps(_mm256_set_m128d(high, low))
        }
    }

    #[inline(always)]
    unsafe fn scatter(self, pairs: [usize; 4]) {
        let [a, b, c, d] = pairs.map(|pair| pair as *mut f64);
        // SAFETY: as in `zero`; the addresses are valid by the trait's contract, and these stores need no alignment.
        unsafe {
            let nan = _mm256_set1_ps(f32::from_bits(CANONICAL_NAN));
            let values = _mm256_castps_pd(_mm256_blendv_ps(self, nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(self, self)));
            let (low, high) = (_mm256_castpd256_pd128(values), _mm256_extractf128_pd::<1>(values));
            _mm_storel_pd(a, low);
            _mm_storeh_pd(b, low);
            _mm_storel_pd(c, high);
            _mm_storeh_pd(d, high);
        }
    }

    #[inline(always)]
    unsafe fn convert_a(registers: *const [u32; 4], panel: &mut [[f32; DEPTH]; ROWS], g: usize, t: usize) {
        let upper_row: *mut f32 = panel[g].as_mut_ptr();
        let lower_row: *mut f32 = panel[g + 8].as_mut_ptr();
        // SAFETY: as in `zero`; the registers' address is valid by the trait's contract; `2 * t + 8` and the next are columns of a row.
        unsafe {
            let words = _mm_loadu_si128(registers.cast::<__m128i>());
            let low = _mm_slli_epi32::<16>(words);
            let high = _mm_and_si128(words, _mm_set1_epi32(UPPER.cast_signed()));
            let left = _mm_castsi128_pd(_mm_unpacklo_epi32(low, high));
            let right = _mm_castsi128_pd(_mm_unpackhi_epi32(low, high));
            _mm_storel_pd(upper_row.add(2 * t).cast(), left);
            _mm_storeh_pd(lower_row.add(2 * t).cast(), left);
            _mm_storel_pd(upper_row.add(2 * t + 8).cast(), right);
            _mm_storeh_pd(lower_row.add(2 * t + 8).cast(), right);
        }
    }
}

//! Cases of `kernels/gemm.cu`: every tile and epilogue against float64, and the contract that neither the tile, the grid, the
//! capacity nor the other rows change a row's bits.

use std::sync::LazyLock;

use gridpoint_runtime::parameters::{
    GRIDPOINT_GEMM_16X64_SHARED_BYTES, GRIDPOINT_GEMM_64X64_SHARED_BYTES, GRIDPOINT_GEMM_128X128_SHARED_BYTES,
    GRIDPOINT_GEMM_THREADS, GRIDPOINT_ROWS_LOGITS, GRIDPOINT_ROWS_TOKENS, GemmParameters, StepHeader,
};
use half::bf16;

use crate::support::{Case, TestDevice};

/// All cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("gemm/plain_matches_float64", |device| matches_float64(device, Epilogue::Plain)),
        Case::new("gemm/plain_f32_matches_float64", |device| matches_float64(device, Epilogue::PlainFloat)),
        Case::new("gemm/bias_matches_float64", |device| matches_float64(device, Epilogue::Bias)),
        Case::new("gemm/residual_matches_float64", |device| matches_float64(device, Epilogue::Residual)),
        Case::new("gemm/bias_residual_matches_float64", |device| matches_float64(device, Epilogue::BiasResidual)),
        Case::new("gemm/swiglu_matches_float64", |device| matches_float64(device, Epilogue::SwiGlu)),
        Case::new("gemm/grid_keeps_bits", grid_keeps_bits),
        Case::new("gemm/batch_keeps_bits", batch_keeps_bits),
        Case::new("gemm/capacity_keeps_bits", capacity_keeps_bits),
        Case::new("gemm/logit_rows_bound_the_work", logit_rows_bound_the_work),
        Case::new("gemm/residual_may_be_the_output", residual_may_be_the_output),
        Case::new("gemm/without_rows_writes_nothing", without_rows_writes_nothing),
        Case::new("gemm/nan_stays_in_its_row_and_column", nan_stays_in_its_row_and_column),
        Case::new("gemm/output_needs_its_element_alignment_only", output_needs_its_element_alignment_only),
    ]
}

/// (rows, N, K): one of everything, tails in each dimension, a vocabulary whose rows are not aligned, more rows than a large tile.
const SHAPES: [(usize, usize, usize); 8] = [
    (1, 8, 8),
    (3, 1003, 192),
    (3, 1004, 192),
    (17, 344, 128),
    (130, 256, 344),
    (64, 512, 256),
    (200, 96, 72),
    (40, 2, 8),
];

/// More row tiles of the smallest tile than one group of the tile order holds (16).
const TALL: (usize, usize, usize) = (300, 72, 24);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Epilogue {
    Plain,
    PlainFloat,
    Bias,
    Residual,
    BiasResidual,
    SwiGlu,
}

impl Epilogue {
    const ALL: [Self; 6] =
        [Self::Plain, Self::PlainFloat, Self::Bias, Self::Residual, Self::BiasResidual, Self::SwiGlu];

    fn has_bias(self) -> bool {
        matches!(self, Self::Bias | Self::BiasResidual)
    }

    fn has_residual(self) -> bool {
        matches!(self, Self::Residual | Self::BiasResidual)
    }

    /// Whether the epilogue is defined for `n` columns of product.
    fn takes(self, n: usize) -> bool {
        self != Self::SwiGlu || n.is_multiple_of(2)
    }

    /// Columns of output.
    fn width(self, n: usize) -> usize {
        if self == Self::SwiGlu { n / 2 } else { n }
    }

    fn value(self, bits: u32) -> f64 {
        if self == Self::PlainFloat {
            f64::from(f32::from_bits(bits))
        } else {
            f64::from(bf16::from_bits((bits & 0xffff) as u16))
        }
    }
}

/// One tile variant: its kernels in the order of [`Epilogue::ALL`].
struct Tile {
    kernels: [&'static str; 6],
    shared_bytes: u32,
}

const TILES: [Tile; 3] = [
    Tile {
        kernels: [
            "gemm_16x64_plain",
            "gemm_16x64_plain_f32",
            "gemm_16x64_bias",
            "gemm_16x64_residual",
            "gemm_16x64_bias_residual",
            "gemm_16x64_swiglu",
        ],
        shared_bytes: GRIDPOINT_GEMM_16X64_SHARED_BYTES,
    },
    Tile {
        kernels: [
            "gemm_64x64_plain",
            "gemm_64x64_plain_f32",
            "gemm_64x64_bias",
            "gemm_64x64_residual",
            "gemm_64x64_bias_residual",
            "gemm_64x64_swiglu",
        ],
        shared_bytes: GRIDPOINT_GEMM_64X64_SHARED_BYTES,
    },
    Tile {
        kernels: [
            "gemm_128x128_plain",
            "gemm_128x128_plain_f32",
            "gemm_128x128_bias",
            "gemm_128x128_residual",
            "gemm_128x128_bias_residual",
            "gemm_128x128_swiglu",
        ],
        shared_bytes: GRIDPOINT_GEMM_128X128_SHARED_BYTES,
    },
];

/// Inputs, and the product in float64 with the sum of its terms' magnitudes, which bounds the error of any order of summation.
#[derive(Clone)]
struct Problem {
    rows: usize,
    n: usize,
    k: usize,
    activations: Vec<u16>,
    weights: Vec<u16>,
    bias: Vec<u16>,
    residual: Vec<u16>,
    product: Vec<f64>,
    magnitude: Vec<f64>,
}

/// Uniform bf16 values in [-scale, scale), from a multiplicative congruential generator (Steele and Vigna, 2021).
fn uniform(state: &mut u64, count: usize, scale: f64) -> Vec<u16> {
    (0..count)
        .map(|_| {
            *state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
            let unit = (*state >> 40) as f64 / f64::from(1 << 24);
            bf16::from_f64((unit * 2.0 - 1.0) * scale).to_bits()
        })
        .collect()
}

fn widened(values: &[u16]) -> Vec<f64> {
    values.iter().map(|&bits| f64::from(bf16::from_bits(bits))).collect()
}

impl Problem {
    fn new((rows, n, k): (usize, usize, usize)) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ ((rows as u64) << 40 | (n as u64) << 20 | k as u64);
        let activations = uniform(&mut state, rows * k, 1.7);
        let weights = uniform(&mut state, n * k, 1.7 / (k as f64).sqrt());
        let bias = uniform(&mut state, n, 1.0);
        let residual = uniform(&mut state, rows * n, 2.0);
        let (left, right) = (widened(&activations), widened(&weights));
        let mut product = Vec::with_capacity(rows * n);
        let mut magnitude = Vec::with_capacity(rows * n);
        for row in left.chunks_exact(k) {
            for column in right.chunks_exact(k) {
                let (mut sum, mut total) = (0.0, 0.0);
                for (a, b) in row.iter().zip(column) {
                    sum += a * b;
                    total += (a * b).abs();
                }
                product.push(sum);
                magnitude.push(total);
            }
        }
        Self { rows, n, k, activations, weights, bias, residual, product, magnitude }
    }

    /// The problem with only rows [first, first + count).
    fn slice(&self, first: usize, count: usize) -> Self {
        let of = |width: usize| first * width..(first + count) * width;
        Self {
            rows: count,
            activations: self.activations[of(self.k)].to_vec(),
            residual: self.residual[of(self.n)].to_vec(),
            product: self.product[of(self.n)].to_vec(),
            magnitude: self.magnitude[of(self.n)].to_vec(),
            ..self.clone()
        }
    }

    /// What an output element should be, and how far from it the kernel may be.
    ///
    /// One mma step adds 16 products to the sum, all aligned to the largest and cut to 24 fractional bits or more: an error of at most
    /// 17 units of 2^-23 of the terms' magnitude a step. The epilogue's float32 operations add a few units of 2^-23, the rounding to
    /// bf16 2^-8 of the result.
    fn expected(&self, epilogue: Epilogue, row: usize, column: usize) -> (f64, f64) {
        let unit = 2f64.powi(-23);
        let sum = |column: usize| {
            let index = row * self.n + column;
            (self.product[index], self.magnitude[index] * (self.k.div_ceil(16) * 17) as f64 * unit)
        };
        let (value, error) = if epilogue == Epilogue::SwiGlu {
            let ((gate, gate_error), (up, up_error)) = (sum(2 * column), sum(2 * column + 1));
            let silu = gate / (1.0 + (-gate).exp());
            // The derivative of silu is below 1.1; exp on a device is good to a few units.
            (
                silu * up,
                1.1 * gate_error * (up.abs() + up_error) + silu.abs() * up_error + 16.0 * unit * (silu * up).abs(),
            )
        } else {
            let (mut value, mut error) = sum(column);
            let mut add = |bits: u16| {
                let addend = f64::from(bf16::from_bits(bits));
                error += 2.0 * unit * (value.abs() + addend.abs());
                value += addend;
            };
            if epilogue.has_bias() {
                add(self.bias[column]);
            }
            if epilogue.has_residual() {
                add(self.residual[row * self.n + column]);
            }
            (value, error)
        };
        let rounding = if epilogue == Epilogue::PlainFloat { 0.0 } else { (value.abs() + error) * 2f64.powi(-8) };
        (value, error + rounding)
    }

    /// Every element against float64; NaN fails.
    fn check(&self, what: &str, epilogue: Epilogue, output: &[u32]) {
        let width = epilogue.width(self.n);
        assert_eq!(output.len(), self.rows * width, "{what}: elements of output");
        for (index, &bits) in output.iter().enumerate() {
            let (row, column) = (index / width, index % width);
            let (want, tolerance) = self.expected(epilogue, row, column);
            let got = epilogue.value(bits);
            assert!(
                (got - want).abs() <= tolerance,
                "{what} {epilogue:?} ({}, {}, {}): [{row}, {column}] is {got}, expected {want} within {tolerance:e}",
                self.rows,
                self.n,
                self.k
            );
        }
    }
}

static PROBLEMS: LazyLock<Vec<Problem>> =
    LazyLock::new(|| SHAPES.iter().chain([&TALL]).map(|&shape| Problem::new(shape)).collect());

/// How a problem is launched.
#[derive(Clone, Copy)]
struct Setup {
    blocks: u32,
    /// Rows of the buffers beyond the live ones, full of NaN.
    padding: usize,
    rows: u32,
    /// The residual's buffer is the output's.
    in_place: bool,
    /// Elements by which the output's and the residual's first elements are moved off alignment.
    offset: usize,
}

const SETUP: Setup = Setup { blocks: 3, padding: 0, rows: GRIDPOINT_ROWS_TOKENS, in_place: false, offset: 0 };

/// The bits of the live rows' output, after a check that nothing else was written.
fn run(device: &TestDevice, tile: &Tile, epilogue: Epilogue, problem: &Problem, setup: Setup) -> Vec<u32> {
    let width = epilogue.width(problem.n);
    let capacity = problem.rows + setup.padding;
    let padded = |values: &[u16], offset: usize, length: usize| {
        let mut all = vec![0xffff_u16; offset];
        all.extend_from_slice(values);
        all.resize(offset + length, 0xffff);
        all
    };
    let activations = device.upload(&padded(&problem.activations, 0, capacity * problem.k));
    let residual = device.upload(&padded(&problem.residual, setup.offset, capacity * problem.n));
    let weights = device.upload(&problem.weights);
    let bias = device.upload(&problem.bias);
    // The count that does not bound this launch covers the padding too.
    let (live, other) = (problem.rows as u32, capacity as u32);
    let (tokens, logit_rows) = if setup.rows == GRIDPOINT_ROWS_TOKENS { (live, other) } else { (other, live) };
    let step = device.upload(&[StepHeader {
        tokens,
        logit_rows,
        token_capacity: other,
        logit_row_capacity: other,
        ..StepHeader::default()
    }]);
    let elements = setup.offset + capacity * width;
    let float = epilogue == Epilogue::PlainFloat;
    let floats = device.poisoned::<u32>(if float { elements } else { 1 });
    let halves = device.poisoned::<u16>(if float { 1 } else { elements });
    let output: *mut std::ffi::c_void = match (setup.in_place, float) {
        (true, _) => residual.as_mut_ptr().wrapping_add(setup.offset).cast(),
        (false, true) => floats.as_mut_ptr().wrapping_add(setup.offset).cast(),
        (false, false) => halves.as_mut_ptr().wrapping_add(setup.offset).cast(),
    };
    let parameters = GemmParameters {
        step: step.as_ptr(),
        activations: activations.as_ptr(),
        weights: weights.as_ptr(),
        bias: if epilogue.has_bias() { bias.as_ptr() } else { std::ptr::null() },
        residual: if epilogue.has_residual() { residual.as_ptr().wrapping_add(setup.offset) } else { std::ptr::null() },
        output,
        n: problem.n as u32,
        k: problem.k as u32,
        rows: setup.rows,
        reserved: 0,
    };
    let name = tile.kernels[epilogue as usize];
    device
        .launch(name, setup.blocks, GRIDPOINT_GEMM_THREADS, tile.shared_bytes, &parameters)
        .unwrap_or_else(|error| panic!("{name} ({}, {}, {}): {error}", problem.rows, problem.n, problem.k));

    let bits: Vec<u32> = if float {
        device.download(&floats)
    } else {
        device.download(if setup.in_place { &residual } else { &halves }).into_iter().map(u32::from).collect()
    };
    let untouched = if float { u32::MAX } else { 0xffff };
    let live = setup.offset..setup.offset + problem.rows * width;
    for (index, &word) in bits.iter().enumerate() {
        assert!(live.contains(&index) || word == untouched, "{name}: element {index} outside of {live:?} was written");
    }
    bits[live].to_vec()
}

/// Bit equality that names the first difference.
fn same_bits(what: &str, width: usize, got: &[u32], want: &[u32]) {
    assert_eq!(got.len(), want.len(), "{what}: elements");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(got == want, "{what}: [{}, {}] has bits {got:#x}, expected {want:#x}", index / width, index % width);
    }
}

fn matches_float64(device: &TestDevice, epilogue: Epilogue) {
    for problem in PROBLEMS.iter().filter(|problem| epilogue.takes(problem.n)) {
        let mut first: Option<Vec<u32>> = None;
        for (tile, blocks) in TILES.iter().zip([7, 5, 2]) {
            let output = run(device, tile, epilogue, problem, Setup { blocks, padding: 2, ..SETUP });
            problem.check(tile.kernels[epilogue as usize], epilogue, &output);
            match &first {
                Some(first) => same_bits(tile.kernels[epilogue as usize], epilogue.width(problem.n), &output, first),
                None => first = Some(output),
            }
        }
    }
}

fn grid_keeps_bits(device: &TestDevice) {
    for shape in [(130, 200, 136), (17, 344, 128)] {
        let problem = Problem::new(shape);
        for tile in &TILES {
            let first = run(device, tile, Epilogue::Plain, &problem, Setup { blocks: 1, ..SETUP });
            for blocks in [3, 7, 64] {
                let output = run(device, tile, Epilogue::Plain, &problem, Setup { blocks, ..SETUP });
                same_bits(&format!("{} with {blocks} blocks", tile.kernels[0]), problem.n, &output, &first);
            }
        }
    }
}

fn batch_keeps_bits(device: &TestDevice) {
    let problem = Problem::new((150, 136, 200));
    for epilogue in [Epilogue::BiasResidual, Epilogue::SwiGlu] {
        let width = epilogue.width(problem.n);
        let all = run(device, &TILES[2], epilogue, &problem, SETUP);
        for (first, count) in [(0, 1), (15, 3), (127, 2), (149, 1)] {
            for tile in &TILES {
                let output = run(device, tile, epilogue, &problem.slice(first, count), SETUP);
                let what = format!("{} on rows from {first}", tile.kernels[epilogue as usize]);
                same_bits(&what, width, &output, &all[first * width..(first + count) * width]);
            }
        }
    }
}

fn capacity_keeps_bits(device: &TestDevice) {
    let problem = Problem::new((21, 203, 104));
    for tile in &TILES {
        for epilogue in Epilogue::ALL.into_iter().filter(|epilogue| epilogue.takes(problem.n)) {
            let exact = run(device, tile, epilogue, &problem, SETUP);
            let padded = run(device, tile, epilogue, &problem, Setup { padding: 140, ..SETUP });
            same_bits(tile.kernels[epilogue as usize], epilogue.width(problem.n), &padded, &exact);
        }
    }
}

fn logit_rows_bound_the_work(device: &TestDevice) {
    let problem = Problem::new((5, 1003, 64));
    for tile in &TILES {
        let output = run(
            device,
            tile,
            Epilogue::PlainFloat,
            &problem,
            Setup { rows: GRIDPOINT_ROWS_LOGITS, padding: 30, ..SETUP },
        );
        problem.check(tile.kernels[1], Epilogue::PlainFloat, &output);
    }
}

fn residual_may_be_the_output(device: &TestDevice) {
    for shape in [(130, 192, 80), (19, 203, 80)] {
        let problem = Problem::new(shape);
        for tile in &TILES {
            for epilogue in [Epilogue::Residual, Epilogue::BiasResidual] {
                let apart = run(device, tile, epilogue, &problem, Setup { padding: 3, ..SETUP });
                let in_place = run(device, tile, epilogue, &problem, Setup { padding: 3, in_place: true, ..SETUP });
                same_bits(tile.kernels[epilogue as usize], problem.n, &in_place, &apart);
            }
        }
    }
}

fn without_rows_writes_nothing(device: &TestDevice) {
    let problem = Problem::new((4, 40, 16)).slice(0, 0);
    for tile in &TILES {
        for epilogue in Epilogue::ALL {
            let output = run(device, tile, epilogue, &problem, Setup { padding: 20, ..SETUP });
            assert!(output.is_empty(), "{}: no row is live", tile.kernels[epilogue as usize]);
        }
    }
}

/// A NaN activation or weight is seen in exactly one row or column, also where tails of rows, columns and k are filled with zeros.
fn nan_stays_in_its_row_and_column(device: &TestDevice) {
    let clean = Problem::new((37, 75, 88));
    let (row, column) = (36, 70);
    let mut problem = clean.clone();
    problem.activations[row * problem.k + 87] = 0x7fc0;
    problem.weights[column * problem.k] = 0x7fc0;
    for tile in &TILES {
        let want = run(device, tile, Epilogue::Plain, &clean, SETUP);
        let got = run(device, tile, Epilogue::Plain, &problem, SETUP);
        for (index, (&got, &want)) in got.iter().zip(&want).enumerate() {
            let at = (index / problem.n, index % problem.n);
            if at.0 == row || at.1 == column {
                assert!(Epilogue::Plain.value(got).is_nan(), "{}: {at:?} lost a NaN", tile.kernels[0]);
            } else {
                assert!(got == want, "{}: {at:?} has bits {got:#x}, expected {want:#x}", tile.kernels[0]);
            }
        }
    }
}

fn output_needs_its_element_alignment_only(device: &TestDevice) {
    let problem = Problem::new((18, 80, 48));
    for tile in &TILES {
        for epilogue in Epilogue::ALL {
            let aligned = run(device, tile, epilogue, &problem, SETUP);
            for offset in [1, 2, 4] {
                let output = run(device, tile, epilogue, &problem, Setup { offset, ..SETUP });
                same_bits(tile.kernels[epilogue as usize], epilogue.width(problem.n), &output, &aligned);
            }
        }
    }
}

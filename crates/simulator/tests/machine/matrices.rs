//! ldmatrix and mma.

use std::ffi::c_void;

use gridpoint_simulator::fault::{Access, Reason, Space};
use gridpoint_simulator::machine::instructions::{gridpoint_ldmatrix, gridpoint_mma_bf16, gridpoint_warp_sync};
use half::bf16;

use crate::support::{Case, FULL, Numbers, SHARED, load, parameters, shared_store, store, thread};

/// Loads matrices whose rows lie wherever the input's first 32 words say, out of the words after those.
extern "C" fn load_matrices(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let [count, transposed, words, _] = parameters.numbers;
    for word in (thread()..words).step_by(32) {
        shared_store(word, load(parameters, 32 + word));
    }
    // SAFETY: inside a kernel; four registers.
    let registers = unsafe {
        gridpoint_warp_sync(FULL);
        let mut registers = [0x5555_5555u32; 4];
        gridpoint_ldmatrix(registers.as_mut_ptr(), count, transposed, load(parameters, thread()));
        registers
    };
    for (i, register) in registers.into_iter().enumerate() {
        store(parameters, thread() * 4 + i as u32, register);
    }
}

#[test]
fn ldmatrix_distributes_rows_or_columns() {
    for count in [1u32, 2, 4] {
        for transposed in [0, 1] {
            for seed in 0..4 {
                let mut numbers = Numbers(seed);
                // 64 rows of 16 bytes in shared memory, of which lanes pick any; lanes that need none give nonsense.
                let rows: Vec<u32> = (0..32).map(|_| numbers.word() % 64).collect();
                let data = numbers.words(256);
                let address = |lane: usize| if lane < 8 * count as usize { SHARED + rows[lane] * 16 } else { 3 };
                let input = (0..32).map(address).chain(data.iter().copied()).collect();
                let case =
                    Case::new(load_matrices, 32).input(input).output_words(128).numbers([count, transposed, 256, 0]);
                let element = |matrix: usize, row: usize, column: usize| {
                    let word = data[(rows[matrix * 8 + row] * 4) as usize + column / 2];
                    if column.is_multiple_of(2) { word & 0xffff } else { word >> 16 }
                };
                let output = case.run_everywhere();
                for lane in 0..32 {
                    for i in 0..4 {
                        let (row, column) = (lane / 4, lane % 4 * 2);
                        let expected = match (i < count as usize, transposed) {
                            (false, _) => 0x5555_5555,
                            (_, 0) => element(i, row, column) | element(i, row, column + 1) << 16,
                            _ => element(i, column, row) | element(i, column + 1, row) << 16,
                        };
                        assert_eq!(
                            output[lane * 4 + i],
                            expected,
                            "x{count} trans {transposed} lane {lane} register {i}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn wrong_ldmatrix_operands_are_reported() {
    let case = |count, lane_9: u32| {
        let mut input = vec![SHARED; 32];
        input[9] = lane_9;
        Case::new(load_matrices, 32).input(input).output_words(128).numbers([count, 0, 0, 0])
    };
    let (_, thread, reason) = case(2, SHARED + 8).fault_at();
    assert_eq!(thread, 9);
    assert_eq!(reason, Reason::Misaligned { space: Space::Shared, address: u64::from(SHARED) + 8, alignment: 16 });
    let (_, thread, reason) = case(2, 0).fault_at();
    assert_eq!(thread, 9);
    assert!(matches!(
        reason,
        Reason::OutOfBounds { space: Space::Shared, access: Access::Read, address: 0, bytes: 16, .. }
    ));
    let (_, _, reason) = case(2, SHARED + (16 << 10)).fault_at();
    assert!(matches!(reason, Reason::OutOfBounds { .. }));
    assert!(matches!(case(3, SHARED).fault_at().2, Reason::InvalidOperand { .. }));
    assert!(case(1, 0).run(gridpoint_simulator::machine::Schedule::RoundRobin).is_ok(), "x1 asks eight lanes only");
}

/// Multiplies m x n tiles; operands and the result lie row-major in the input and the output.
extern "C" fn multiply(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let [m, n, repeat, _] = parameters.numbers;
    let (g, t) = (thread() / 4, thread() % 4);
    let half = |index: u32| {
        let word = load(parameters, index / 2);
        if index.is_multiple_of(2) { word & 0xffff } else { word >> 16 }
    };
    // In the input: a of [16m, 16], then b of [16, 8n], then c of [16m, 8n] as float32.
    let (b_start, c_start) = (16 * m * 16, (16 * m * 16 + 16 * 8 * n) / 2);
    let (mut a, mut b, mut d) = ([0u32; 4 * 64], [0u32; 2 * 64], [0f32; 4 * 64]);
    for (i, word) in a[..4 * m as usize].iter_mut().enumerate() {
        let (tile, i) = (i as u32 / 4, i as u32 % 4);
        let place = (tile * 16 + g + i % 2 * 8) * 16 + t * 2 + i / 2 * 8;
        *word = half(place) | half(place + 1) << 16;
    }
    for (i, word) in b[..2 * n as usize].iter_mut().enumerate() {
        let (tile, i) = (i as u32 / 2, i as u32 % 2);
        let (row, column) = (t * 2 + i * 8, tile * 8 + g);
        *word = half(b_start + row * 8 * n + column) | half(b_start + (row + 1) * 8 * n + column) << 16;
    }
    let place = |i: u32| {
        let (tile, i) = (i / 4, i % 4);
        (tile / n * 16 + g + i / 2 * 8) * 8 * n + tile % n * 8 + t * 2 + i % 2
    };
    for i in 0..4 * m * n {
        d[i as usize] = f32::from_bits(load(parameters, c_start + place(i)));
    }
    for _ in 0..repeat {
        // SAFETY: inside a kernel; the registers are at least as many as the tiles need.
        unsafe { gridpoint_mma_bf16(d.as_mut_ptr(), a.as_ptr(), b.as_ptr(), m, n) };
    }
    for i in 0..4 * m * n {
        store(parameters, place(i), d[i as usize].to_bits());
    }
}

/// Operands of a multiplication.
struct Operands {
    m: usize,
    n: usize,
    a: Vec<bf16>,
    b: Vec<bf16>,
    c: Vec<f32>,
}

impl Operands {
    fn new(m: usize, n: usize, mut element: impl FnMut() -> f32) -> Self {
        let mut elements = |count: usize| (0..count).map(|_| bf16::from_f32(element())).collect::<Vec<_>>();
        let (a, b) = (elements(16 * m * 16), elements(16 * 8 * n));
        let c = (0..16 * m * 8 * n).map(|_| element()).collect();
        Self { m, n, a, b, c }
    }

    fn case(&self) -> Case {
        let halves: Vec<u32> = self.a.iter().chain(&self.b).map(|value| value.to_bits().into()).collect();
        let words = halves.chunks(2).map(|pair| pair[0] | pair[1] << 16);
        let input = words.chain(self.c.iter().map(|value| value.to_bits())).collect();
        Case::new(multiply, 32).input(input).output_words(self.c.len()).numbers([self.m as u32, self.n as u32, 1, 0])
    }

    fn run(&self) -> Vec<f32> {
        self.case().run_everywhere().into_iter().map(f32::from_bits).collect()
    }

    /// Element by element: the terms of its sum, from the accumulator on.
    fn terms(&self) -> impl Iterator<Item = (f32, [(f32, f32); 16])> {
        let columns = 8 * self.n;
        (0..self.c.len()).map(move |place| {
            let (row, column) = (place / columns, place % columns);
            let pair = |k: usize| (self.a[row * 16 + k].to_f32(), self.b[k * columns + column].to_f32());
            (self.c[place], std::array::from_fn(pair))
        })
    }
}

fn unit(numbers: &mut Numbers) -> f32 {
    f32::from_bits(0x3f80_0000 | numbers.word() >> 9) * 2.0 - 3.0
}

const SHAPES: [(usize, usize); 8] = [(1, 1), (1, 2), (2, 1), (1, 7), (3, 5), (4, 8), (1, 64), (64, 1)];

#[test]
fn mma_is_exact_on_small_integers() {
    for (seed, (m, n)) in SHAPES.into_iter().enumerate() {
        let mut numbers = Numbers(seed as u64);
        let operands = Operands::new(m, n, || (numbers.word() % 17) as f32 - 8.0);
        let expected: Vec<f32> =
            operands.terms().map(|(c, terms)| terms.iter().fold(c, |sum, (a, b)| sum + a * b)).collect();
        assert_eq!(operands.run(), expected, "{m} x {n} tiles");
    }
}

#[test]
fn mma_is_close_to_float64_and_a_chain_of_fused_multiply_adds() {
    for (seed, (m, n)) in SHAPES.into_iter().enumerate() {
        let mut numbers = Numbers(100 + seed as u64);
        let operands = Operands::new(m, n, || unit(&mut numbers));
        for (output, (c, terms)) in operands.run().into_iter().zip(operands.terms()) {
            let chain = terms.iter().fold(c, |sum, &(a, b)| a.mul_add(b, sum));
            assert_eq!(output.to_bits(), chain.to_bits());
            let exact = terms.iter().fold(f64::from(c), |sum, &(a, b)| sum + f64::from(a) * f64::from(b));
            let size = terms.iter().fold(f64::from(c.abs()), |sum, &(a, b)| sum + f64::from(a * b).abs());
            assert!((f64::from(output) - exact).abs() <= size * 16.0 * f64::from(f32::EPSILON) / 2.0);
        }
    }
}

#[test]
fn an_element_does_not_depend_on_the_number_of_tiles() {
    let mut numbers = Numbers(5);
    let whole = Operands::new(4, 8, || unit(&mut numbers));
    let output = whole.run();
    for (m, n) in [(0, 0), (1, 3), (3, 7)] {
        let rows = |data: &[bf16]| data[m * 256..(m + 1) * 256].to_vec();
        let b = (0..16).flat_map(|k| whole.b[k * 64 + n * 8..k * 64 + n * 8 + 8].to_vec()).collect();
        let tile = |data: &[f32]| {
            (0..16).flat_map(|row| data[(m * 16 + row) * 64 + n * 8..][..8].to_vec()).collect::<Vec<f32>>()
        };
        let one = Operands { m: 1, n: 1, a: rows(&whole.a), b, c: tile(&whole.c) };
        assert_eq!(one.run(), tile(&output), "tile {m}, {n}");
    }
}

#[test]
fn infinities_and_nan_propagate_and_stay_in_their_row_and_column() {
    let mut operands = Operands::new(1, 1, || 1.0);
    operands.a[3 * 16 + 5] = bf16::INFINITY;
    operands.a[4 * 16 + 5] = bf16::NAN;
    operands.b[5 * 8 + 2] = bf16::ZERO;
    operands.b[5 * 8 + 6] = bf16::NEG_ONE;
    operands.c[9 * 8 + 1] = f32::NEG_INFINITY;
    let output = operands.run();
    for (place, value) in output.into_iter().enumerate() {
        let expected = match (place / 8, place % 8) {
            (3, 2) | (4, _) => f32::from_bits(0x7fff_ffff),
            (3, 6) | (9, 1) => f32::NEG_INFINITY,
            (3, _) => f32::INFINITY,
            (_, 2) => 16.0,
            (_, 6) => 15.0,
            _ => 17.0,
        };
        assert_eq!(value.to_bits(), expected.to_bits(), "element {place}");
    }
}

#[test]
fn subnormal_sums_are_kept() {
    let tiny = f32::from_bits(1 << 23);
    let operands = Operands::new(1, 1, || tiny);
    let output = operands.run();
    assert!(output.iter().all(|&value| value == tiny), "products that underflow round away");
    let mut operands = Operands::new(1, 1, || 0.0);
    operands.c.fill(f32::from_bits(3));
    assert!(operands.run().iter().all(|value| value.to_bits() == 3));
}

#[test]
fn a_wrong_number_of_tiles_is_reported() {
    for numbers in [[0, 1, 1, 0], [1, 0, 1, 0], [9, 8, 1, 0], [1 << 31, 2, 1, 0]] {
        let case = Case::new(bad_multiply, 32).numbers(numbers);
        assert!(matches!(case.fault_at().2, Reason::InvalidOperand { .. }));
    }
}

extern "C" fn bad_multiply(pointer: *const c_void) {
    let [m, n, ..] = parameters(pointer).numbers;
    let (mut d, a, b) = ([0f32; 4], [0u32; 4], [0u32; 2]);
    // SAFETY: inside a kernel; numbers of tiles that need more registers are refused.
    unsafe { gridpoint_mma_bf16(d.as_mut_ptr(), a.as_ptr(), b.as_ptr(), m, n) };
}

extern "C" fn different_tiles(_: *const c_void) {
    let (mut d, a, b) = ([0f32; 8], [0u32; 4], [0u32; 4]);
    match thread() {
        // SAFETY: inside a kernel; the registers suffice.
        0..16 => unsafe { gridpoint_mma_bf16(d.as_mut_ptr(), a.as_ptr(), b.as_ptr(), 1, 1) },
        // SAFETY: inside a kernel; the registers suffice.
        _ => unsafe { gridpoint_mma_bf16(d.as_mut_ptr(), a.as_ptr(), b.as_ptr(), 1, 2) },
    }
}

#[test]
fn lanes_that_multiply_different_tiles_are_divergent() {
    let reason = Case::new(different_tiles, 32).fault_at().2;
    let Reason::DivergentCollective { waiting, arrived } = reason else { panic!("{reason}") };
    assert_eq!(waiting, "mma of 1 x 1 tiles with mask `0xffffffff`");
    assert_eq!(arrived, "mma of 1 x 2 tiles with mask `0xffffffff`");
}

//! Cases of `kernels/gemm.cu`: every tile, epilogue and element type against float64, and the contract that neither the tile, the grid, the
//! capacity nor the other rows change a row's bits.

use gridpoint_runtime::parameters::{
    GRIDPOINT_GEMM_64X64_SHARED_BYTES, GRIDPOINT_GEMM_128X128_SHARED_BYTES, GRIDPOINT_GEMM_THREADS,
    GRIDPOINT_ROWS_LOGITS, GemmParameters,
};

use super::products::{Element, Epilogue, Form, Problem, SETUP, Setup, run, same_bits};
use crate::support::{Case, TestDevice};

/// All cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("gemm/logits_match_float64", |device| matches_float64(device, Epilogue::Logits)),
        Case::new("gemm/residual_matches_float64", |device| matches_float64(device, Epilogue::Residual)),
        Case::new("gemm/swiglu_matches_float64", |device| matches_float64(device, Epilogue::SwiGlu)),
        Case::new("gemm/segments_are_added_in_order", segments_are_added_in_order),
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

/// Fewer of them for float16, which differs in conversions alone.
const F16_SHAPES: [(usize, usize, usize); 3] = [(3, 1003, 192), (17, 344, 128), (40, 2, 8)];

/// One tile variant.
struct Tile {
    name: &'static str,
    shared_bytes: u32,
    /// Whether it takes more than one segment.
    segmented: bool,
}

const TILES: [Tile; 2] = [
    Tile { name: "64x64", shared_bytes: GRIDPOINT_GEMM_64X64_SHARED_BYTES, segmented: true },
    Tile { name: "128x128", shared_bytes: GRIDPOINT_GEMM_128X128_SHARED_BYTES, segmented: false },
];

impl Tile {
    /// The kernel's name, which the device wants for ever.
    fn kernel(&self, element: Element, epilogue: Epilogue) -> &'static str {
        let suffix = if element == Element::F16 { "_f16" } else { "" };
        format!("gemm_{}_{}{suffix}", self.name, epilogue.word()).leak()
    }

    fn run(&self, device: &TestDevice, form: Form, problem: &Problem, setup: Setup) -> Vec<u32> {
        let name = self.kernel(problem.element, form.epilogue);
        run(device, form, problem, setup, &|device: &TestDevice, parameters: GemmParameters, _, blocks| {
            device
                .launch(name, blocks, GRIDPOINT_GEMM_THREADS, self.shared_bytes, &parameters)
                .map_err(|error| format!("{name}: {error}"))
        })
    }
}

/// The bits that every product gives for this problem: those of the tile of 64 x 64.
pub(crate) fn reference_bits(device: &TestDevice, form: Form, problem: &Problem, setup: Setup) -> Vec<u32> {
    TILES[0].run(device, form, problem, setup)
}

fn logits() -> Form {
    Form::of(Epilogue::Logits)
}

fn matches_float64(device: &TestDevice, epilogue: Epilogue) {
    let bf16 = SHAPES.iter().chain([&TALL]).map(|&shape| Problem::new(Element::Bf16, shape));
    let problems = bf16.chain(F16_SHAPES.map(|shape| Problem::new(Element::F16, shape)));
    for (index, problem) in problems.filter(|problem| epilogue.takes(problem.n)).enumerate() {
        let form = Form { epilogue, bias: index % 2 == 0, scaled: index % 3 != 0 };
        let mut first: Option<Vec<u32>> = None;
        for (tile, blocks) in TILES.iter().zip([7, 2]) {
            let output = tile.run(device, form, &problem, Setup { blocks, padding: 2, ..SETUP });
            problem.check(tile.name, form, &output);
            match &first {
                Some(first) => same_bits(tile.name, epilogue.width(problem.n), &output, first),
                None => first = Some(output),
            }
        }
    }
}

/// One segment after another from zero, then their sum in order: the float32 sum of products over the segments alone.
fn segments_are_added_in_order(device: &TestDevice) {
    for element in Element::ALL {
        let problem = Problem::new(element, (19, 72, 328));
        let form = Form::of(Epilogue::Logits);
        for segment in [64, 128, 192] {
            let mut expected = vec![0.0_f32; problem.rows * problem.n];
            for first in (0..problem.k).step_by(segment) {
                let end = problem.k.min(first + segment);
                let part = problem.columns(first..end);
                let sums = reference_bits(device, form, &part, SETUP);
                expected.iter_mut().zip(sums).for_each(|(total, sum)| *total += f32::from_bits(sum));
            }
            let expected: Vec<u32> = expected.into_iter().map(f32::to_bits).collect();
            for tile in TILES.iter().filter(|tile| tile.segmented) {
                let output = tile.run(device, form, &problem, Setup { segment, ..SETUP });
                same_bits(&format!("{} in segments of {segment}", tile.name), problem.n, &output, &expected);
            }
        }
    }
}

fn grid_keeps_bits(device: &TestDevice) {
    for shape in [(130, 200, 136), (17, 344, 128)] {
        let problem = Problem::new(Element::Bf16, shape);
        for tile in &TILES {
            let first = tile.run(device, logits(), &problem, Setup { blocks: 1, ..SETUP });
            for blocks in [3, 7, 64] {
                let output = tile.run(device, logits(), &problem, Setup { blocks, ..SETUP });
                same_bits(&format!("{} with {blocks} blocks", tile.name), problem.n, &output, &first);
            }
        }
    }
}

fn batch_keeps_bits(device: &TestDevice) {
    let problem = Problem::new(Element::Bf16, (150, 136, 200));
    for epilogue in [Epilogue::Residual, Epilogue::SwiGlu] {
        let form = Form { epilogue, bias: true, scaled: true };
        let width = epilogue.width(problem.n);
        let all = TILES[1].run(device, form, &problem, SETUP);
        for (first, count) in [(0, 1), (15, 3), (127, 2), (149, 1)] {
            for tile in &TILES {
                let output = tile.run(device, form, &problem.slice(first, count), SETUP);
                let what = format!("{} on rows from {first}", tile.name);
                same_bits(&what, width, &output, &all[first * width..(first + count) * width]);
            }
        }
    }
}

fn capacity_keeps_bits(device: &TestDevice) {
    let problem = Problem::new(Element::Bf16, (21, 203, 104));
    for tile in &TILES {
        for epilogue in Epilogue::ALL.into_iter().filter(|epilogue| epilogue.takes(problem.n)) {
            let form = Form { epilogue, bias: true, scaled: true };
            let exact = tile.run(device, form, &problem, SETUP);
            let padded = tile.run(device, form, &problem, Setup { padding: 140, ..SETUP });
            same_bits(tile.name, epilogue.width(problem.n), &padded, &exact);
        }
    }
}

fn logit_rows_bound_the_work(device: &TestDevice) {
    let problem = Problem::new(Element::Bf16, (5, 1003, 64));
    for tile in &TILES {
        let form = Form::of(Epilogue::Logits);
        let output = tile.run(device, form, &problem, Setup { rows: GRIDPOINT_ROWS_LOGITS, padding: 30, ..SETUP });
        problem.check(tile.name, form, &output);
    }
}

fn residual_may_be_the_output(device: &TestDevice) {
    for shape in [(130, 192, 80), (19, 203, 80)] {
        let problem = Problem::new(Element::Bf16, shape);
        for tile in &TILES {
            for bias in [false, true] {
                let form = Form { bias, ..Form::of(Epilogue::Residual) };
                let apart = tile.run(device, form, &problem, Setup { padding: 3, ..SETUP });
                let in_place = tile.run(device, form, &problem, Setup { padding: 3, in_place: true, ..SETUP });
                same_bits(tile.name, problem.n, &in_place, &apart);
            }
        }
    }
}

fn without_rows_writes_nothing(device: &TestDevice) {
    let problem = Problem::new(Element::Bf16, (4, 40, 16)).slice(0, 0);
    for tile in &TILES {
        for epilogue in Epilogue::ALL {
            let output = tile.run(device, Form::of(epilogue), &problem, Setup { padding: 20, ..SETUP });
            assert!(output.is_empty(), "{}: no row is live", tile.name);
        }
    }
}

/// A NaN activation or weight is seen in exactly one row or column, also where tails of rows, columns and k are filled with zeros.
fn nan_stays_in_its_row_and_column(device: &TestDevice) {
    let clean = Problem::new(Element::Bf16, (37, 75, 88));
    let (row, column) = (36, 70);
    let mut problem = clean.clone();
    problem.activations[row * problem.k + 87] = 0x7fc0;
    problem.weights[column * problem.k] = 0x7fc0;
    for tile in &TILES {
        let want = tile.run(device, logits(), &clean, SETUP);
        let got = tile.run(device, logits(), &problem, SETUP);
        for (index, (&got, &want)) in got.iter().zip(&want).enumerate() {
            let at = (index / problem.n, index % problem.n);
            if at.0 == row || at.1 == column {
                assert!(logits().value(Element::Bf16, got).is_nan(), "{}: {at:?} lost a NaN", tile.name);
            } else {
                assert!(got == want, "{}: {at:?} has bits {got:#x}, expected {want:#x}", tile.name);
            }
        }
    }
}

fn output_needs_its_element_alignment_only(device: &TestDevice) {
    let problem = Problem::new(Element::Bf16, (18, 80, 48));
    for tile in &TILES {
        for epilogue in Epilogue::ALL {
            let form = Form { epilogue, bias: true, scaled: false };
            let aligned = tile.run(device, form, &problem, SETUP);
            for offset in [1, 2, 4] {
                let output = tile.run(device, form, &problem, Setup { offset, ..SETUP });
                same_bits(tile.name, epilogue.width(problem.n), &output, &aligned);
            }
        }
    }
}

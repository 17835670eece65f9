//! Cases of `kernels/skinny.cu`: every epilogue and element type against float64 and bit for bit against kernels/gemm.cu, whatever the live
//! rows, the grid, the ring's size and the blocks that share a segment; its row scales bit for bit against kernels/row_scale.cu.

use gridpoint_runtime::parameters::{
    GRIDPOINT_ROWS_LOGITS, GRIDPOINT_SCALE_COMPUTED, GRIDPOINT_SKINNY_PARTIAL_FLOATS, GRIDPOINT_SKINNY_SHARED_BYTES,
    GRIDPOINT_SKINNY_SMALL_SHARED_BYTES, GRIDPOINT_SKINNY_THREADS, GRIDPOINT_SKINNY_UNIT, GemmParameters,
};

use super::gemm::reference_bits;
use super::products::{Element, Epilogue, Form, Problem, SETUP, Setup, run, same_bits};
use super::rotary::{Heads, Run};
use super::row_scale;
use crate::support::{Case, TestDevice};

/// All cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("skinny/logits_match_float64", |device| matches_float64(device, Epilogue::Logits)),
        Case::new("skinny/residual_matches_float64", |device| matches_float64(device, Epilogue::Residual)),
        Case::new("skinny/swiglu_matches_float64", |device| matches_float64(device, Epilogue::SwiGlu)),
        Case::new("skinny/rotary_matches_float64", rotary_matches_float64),
        Case::new("skinny/segments_are_those_of_gemm", segments_are_those_of_gemm),
        Case::new("skinny/computed_scales_are_those_of_row_scale", computed_scales_are_those_of_row_scale),
        Case::new("skinny/grid_and_ring_keep_bits", grid_and_ring_keep_bits),
        Case::new("skinny/batch_keeps_bits", batch_keeps_bits),
        Case::new("skinny/logit_rows_bound_the_work", logit_rows_bound_the_work),
        Case::new("skinny/residual_may_be_the_output", residual_may_be_the_output),
        Case::new("skinny/without_rows_writes_nothing", without_rows_writes_nothing),
        Case::new("skinny/nan_stays_in_its_row_and_column", nan_stays_in_its_row_and_column),
        Case::new("skinny/output_needs_its_element_alignment_only", output_needs_its_element_alignment_only),
    ]
}

/// The least ring: stages of one unit beside 64 rows.
const LEAST_BYTES: u32 = 256 + 3 * 72 * 128;
/// Rings of which the kernel makes different stages.
const RINGS: [u32; 3] = [GRIDPOINT_SKINNY_SHARED_BYTES, GRIDPOINT_SKINNY_SMALL_SHARED_BYTES, LEAST_BYTES];

/// (rows, N, K) and blocks: all numbers of row tiles, tails in each dimension, shares of no, one, few and many units, several passes.
const SHAPES: [((usize, usize, usize), u32); 10] = [
    ((1, 8, 8), 3),
    ((7, 1003, 72), 3),
    ((8, 1004, 192), 40),
    ((9, 344, 328), 9),
    ((16, 96, 1032), 5),
    ((17, 250, 136), 1),
    ((32, 344, 64), 2),
    ((33, 200, 264), 7),
    ((64, 456, 72), 1),
    ((40, 2, 8), 2),
];

/// Fewer of them for float16, which differs in conversions alone.
const F16_SHAPES: [((usize, usize, usize), u32); 3] = [((7, 1003, 72), 8), ((33, 200, 136), 3), ((40, 2, 8), 2)];

/// How the kernel is launched beside a [`Setup`].
#[derive(Clone, Copy)]
struct Way {
    shared_bytes: u32,
    /// Whether the kernel computes the rows' scales.
    computed: bool,
}

const WAY: Way = Way { shared_bytes: GRIDPOINT_SKINNY_SHARED_BYTES, computed: false };

/// A launch with the memory that segments of different blocks meet in. Its counters are zero before and after.
fn launch(
    element: Element,
    epilogue: &str,
    way: Way,
) -> impl Fn(&TestDevice, GemmParameters, usize, u32) -> Result<(), String> {
    let suffix = if element == Element::F16 { "_f16" } else { "" };
    let name: &'static str = format!("skinny_{epilogue}{suffix}").leak();
    move |device, parameters, _, blocks| {
        let units = parameters.n.div_ceil(GRIDPOINT_SKINNY_UNIT) as usize;
        let segments = parameters.k.div_ceil(parameters.segment) as usize;
        let shared = segments > 1;
        let floats = units * segments * GRIDPOINT_SKINNY_PARTIAL_FLOATS as usize;
        let partials = device.poisoned::<f32>(if shared { floats } else { 0 });
        let counters = device.upload(&vec![0_u32; if shared { units } else { 0 }]);
        let parameters = GemmParameters {
            partials: partials.as_mut_ptr(),
            counters: counters.as_mut_ptr(),
            scaled: if way.computed { GRIDPOINT_SCALE_COMPUTED } else { parameters.scaled },
            ..parameters
        };
        device
            .launch(name, blocks, GRIDPOINT_SKINNY_THREADS, way.shared_bytes, &parameters)
            .map_err(|error| format!("{name} with {blocks} blocks: {error}"))?;
        match device.download(&counters).iter().position(|&count| count != 0) {
            Some(unit) => Err(format!("{name}: the counter of unit {unit} is left at another value than zero")),
            None => Ok(()),
        }
    }
}

fn skinny(device: &TestDevice, form: Form, problem: &Problem, setup: Setup, way: Way) -> Vec<u32> {
    run(device, form, problem, setup, &launch(problem.element, form.epilogue.word(), way))
}

fn logits() -> Form {
    Form::of(Epilogue::Logits)
}

fn matches_float64(device: &TestDevice, epilogue: Epilogue) {
    let bf16 = SHAPES.iter().map(|&(shape, blocks)| (Problem::new(Element::Bf16, shape), blocks));
    let f16 = F16_SHAPES.iter().map(|&(shape, blocks)| (Problem::new(Element::F16, shape), blocks));
    for (index, (problem, blocks)) in bf16.chain(f16).filter(|(problem, _)| epilogue.takes(problem.n)).enumerate() {
        let form = Form { epilogue, bias: index % 2 == 0, scaled: index % 3 != 0 };
        let way = Way { shared_bytes: RINGS[index % 3], ..WAY };
        let output = skinny(device, form, &problem, Setup { blocks, padding: index % 4 * 20, ..SETUP }, way);
        problem.check("skinny", form, &output);
        let want = reference_bits(device, form, &problem, SETUP);
        same_bits("skinny", epilogue.width(problem.n), &output, &want);
    }
}

fn rotary_matches_float64(device: &TestDevice) {
    let requests = [(1, 1), (1, 64), (1, 65), (1, 200), (11, 70), (5, 130)];
    for (index, (heads, requests)) in [
        (Heads { query: 6, kv: 2, dim: 64 }, &requests[..]),
        (Heads { query: 3, kv: 1, dim: 96 }, &requests[..3]),
        (Heads { query: 7, kv: 1, dim: 128 }, &requests),
        (Heads { query: 4, kv: 2, dim: 64 }, &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let element = Element::ALL[index % 2];
        let run = Run::random(element, heads, requests, 72);
        let launch = launch(element, "rotary", Way { shared_bytes: RINGS[index % 3], ..WAY });
        let found = run.launch(device, 2, 3, &launch);
        run.check(&found);
        assert!(run.launch(device, 30, 11, &launch) == found, "{heads:?}: padding and grid change bits");
    }
}

fn segments_are_those_of_gemm(device: &TestDevice) {
    for (element, shape, segment) in [
        (Element::Bf16, (5, 72, 328), 64),
        (Element::F16, (19, 72, 328), 128),
        (Element::Bf16, (64, 20, 1288), 192),
        (Element::Bf16, (33, 104, 1032), 512),
    ] {
        let problem = Problem::new(element, shape);
        for epilogue in [Epilogue::Logits, Epilogue::SwiGlu] {
            let form = Form { epilogue, bias: true, scaled: true };
            let want = reference_bits(device, form, &problem, Setup { segment, ..SETUP });
            for (blocks, shared_bytes) in [(1, RINGS[0]), (4, RINGS[2]), (29, RINGS[1])] {
                let setup = Setup { segment, blocks, padding: 3, ..SETUP };
                let output = skinny(device, form, &problem, setup, Way { shared_bytes, ..WAY });
                same_bits(&format!("{blocks} blocks"), epilogue.width(problem.n), &output, &want);
            }
        }
    }
}

/// The scales that the kernel computes are those that it is given from kernels/row_scale.cu.
fn computed_scales_are_those_of_row_scale(device: &TestDevice) {
    for (element, shape, segment) in [
        (Element::Bf16, (1, 24, 520), 0),
        (Element::F16, (16, 64, 1096), 0),
        (Element::Bf16, (20, 232, 200), 0),
        (Element::Bf16, (49, 40, 1544), 512),
        (Element::F16, (9, 72, 2056), 1024),
        (Element::Bf16, (64, 72, 1032), 0),
    ] {
        let mut problem = Problem::new(element, shape);
        let scales_segment = if segment == 0 { problem.k.next_multiple_of(64) } else { segment };
        let scales = row_scale::run(device, element, &problem.activations, problem.k, (scales_segment, 0, 1));
        problem.row_scales = scales.into_iter().map(f32::from_bits).collect();
        let form = Form { epilogue: Epilogue::Logits, bias: true, scaled: true };
        let want = reference_bits(device, form, &problem, Setup { segment, ..SETUP });
        for (blocks, shared_bytes) in [(1, RINGS[0]), (3, RINGS[2]), (13, RINGS[1])] {
            let setup = Setup { segment, blocks, padding: 5, ..SETUP };
            let output = skinny(device, form, &problem, setup, Way { shared_bytes, computed: true });
            same_bits(&format!("{element:?} {shape:?}, {blocks} blocks"), problem.n, &output, &want);
        }
    }
}

fn grid_and_ring_keep_bits(device: &TestDevice) {
    for (shape, segment) in [((13, 456, 136), 0), ((40, 200, 264), 0), ((17, 200, 264), 128)] {
        let problem = Problem::new(Element::Bf16, shape);
        let first = skinny(device, logits(), &problem, Setup { segment, blocks: 1, ..SETUP }, WAY);
        for (blocks, shared_bytes) in [(2, RINGS[1]), (3, RINGS[2]), (7, RINGS[0]), (64, RINGS[2])] {
            let way = Way { shared_bytes, ..WAY };
            let output = skinny(device, logits(), &problem, Setup { segment, blocks, ..SETUP }, way);
            same_bits(&format!("{blocks} blocks"), problem.n, &output, &first);
        }
    }
}

/// A row has the same bits alone, among others, and in whichever row of mma it stands.
fn batch_keeps_bits(device: &TestDevice) {
    let problem = Problem::new(Element::Bf16, (64, 136, 200));
    for (epilogue, segment) in [(Epilogue::Residual, 0), (Epilogue::SwiGlu, 128)] {
        let form = Form { epilogue, bias: true, scaled: true };
        let width = epilogue.width(problem.n);
        let all = skinny(device, form, &problem, Setup { segment, ..SETUP }, WAY);
        for (first, count) in [(0, 1), (7, 2), (15, 17), (30, 33), (63, 1)] {
            let setup = Setup { segment, padding: 64 - count, ..SETUP };
            let output = skinny(device, form, &problem.slice(first, count), setup, WAY);
            same_bits(&format!("rows from {first}"), width, &output, &all[first * width..(first + count) * width]);
        }
    }
}

fn logit_rows_bound_the_work(device: &TestDevice) {
    let problem = Problem::new(Element::Bf16, (5, 1003, 64));
    let form = Form::of(Epilogue::Logits);
    let output = skinny(device, form, &problem, Setup { rows: GRIDPOINT_ROWS_LOGITS, padding: 30, ..SETUP }, WAY);
    problem.check("logit rows", form, &output);
}

fn residual_may_be_the_output(device: &TestDevice) {
    for (shape, segment) in [((64, 192, 80), 0), ((19, 203, 136), 64)] {
        let problem = Problem::new(Element::Bf16, shape);
        let form = Form { bias: true, ..Form::of(Epilogue::Residual) };
        let apart = skinny(device, form, &problem, Setup { segment, padding: 3, ..SETUP }, WAY);
        let in_place = skinny(device, form, &problem, Setup { segment, padding: 3, in_place: true, ..SETUP }, WAY);
        same_bits("in place", problem.n, &in_place, &apart);
    }
}

fn without_rows_writes_nothing(device: &TestDevice) {
    let problem = Problem::new(Element::Bf16, (4, 40, 136)).slice(0, 0);
    for epilogue in Epilogue::ALL {
        for segment in [0, 64] {
            let setup = Setup { segment, padding: 20, ..SETUP };
            let output = skinny(device, Form::of(epilogue), &problem, setup, WAY);
            assert!(output.is_empty(), "no row is live");
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
    for computed in [false, true] {
        let form = Form { scaled: computed, ..logits() };
        let way = Way { computed, ..WAY };
        let want = skinny(device, form, &clean, SETUP, way);
        let got = skinny(device, form, &problem, SETUP, way);
        for (index, (&got, &want)) in got.iter().zip(&want).enumerate() {
            let at = (index / problem.n, index % problem.n);
            if at.0 == row || at.1 == column {
                assert!(form.value(Element::Bf16, got).is_nan(), "{at:?} lost a NaN");
            } else {
                assert!(got == want, "{at:?} has bits {got:#x}, expected {want:#x}");
            }
        }
    }
}

fn output_needs_its_element_alignment_only(device: &TestDevice) {
    let problem = Problem::new(Element::Bf16, (18, 80, 48));
    for epilogue in Epilogue::ALL {
        let form = Form { epilogue, bias: true, scaled: false };
        let aligned = skinny(device, form, &problem, SETUP, WAY);
        for offset in [1, 2] {
            let output = skinny(device, form, &problem, Setup { offset, ..SETUP }, WAY);
            same_bits("off alignment", epilogue.width(problem.n), &output, &aligned);
        }
    }
}

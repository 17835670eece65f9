//! kernels/row_scale.cu against float64, and its bits against themselves: alone, in a batch, padded, on any grid, in segments.

use gridpoint_runtime::parameters::{
    GRIDPOINT_ROW_SCALE_SHARED_BYTES, GRIDPOINT_ROW_SCALE_THREADS, RowScaleParameters,
};

use super::fixture::{Random, step_block};
use super::products::Element;
use crate::support::{Case, TestDevice};

const EPSILON: f32 = 1e-5;

/// (rows, width): narrow, odd, groups of squares exact and cut, the widest.
const SHAPES: [(usize, usize); 8] =
    [(1, 8), (19, 24), (16, 512), (17, 520), (40, 1032), (3, 2048), (5, 4104), (1, 65536)];

/// The cases of this kernel.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("row_scale/matches_float64", matches_float64),
        Case::new("row_scale/rows_do_not_depend_on_batch_padding_or_grid", rows_do_not_depend_on_the_rest),
        Case::new("row_scale/extremes_stay_in_their_rows", extremes_stay_in_their_rows),
    ]
}

/// Rows of different magnitude.
pub(crate) fn rows_of(random: &mut Random, element: Element, rows: usize, width: usize) -> Vec<u16> {
    let mut values = Vec::with_capacity(rows * width);
    for _ in 0..rows {
        let scale = (4.0 * random.uniform() - 2.0).exp2();
        values.extend((0..width).map(|_| element.bits(scale * random.normal())));
    }
    values
}

/// The bits of the scales of `input`'s rows.
pub(crate) fn run(
    device: &TestDevice,
    element: Element,
    input: &[u16],
    width: usize,
    (segment, slack, blocks): (usize, usize, u32),
) -> Vec<u32> {
    let rows = input.len() / width;
    let mut padded = input.to_vec();
    padded.resize((rows + slack) * width, 0xffff);
    let input = device.upload(&padded);
    let step = device.upload(&step_block(&vec![0; rows], &[], slack, 0));
    let scales = device.poisoned::<u32>(rows + slack);
    let parameters = RowScaleParameters {
        step: step.as_ptr().cast(),
        input: input.as_ptr(),
        row_scales: scales.as_mut_ptr().cast(),
        epsilon: EPSILON,
        inverse_width: 1.0 / width as f32,
        width: width as u32,
        segment: segment as u32,
    };
    let name = if element == Element::F16 { "row_scale_f16" } else { "row_scale" };
    device
        .launch(name, blocks, GRIDPOINT_ROW_SCALE_THREADS, GRIDPOINT_ROW_SCALE_SHARED_BYTES, &parameters)
        .expect(name);
    let mut scales = device.download(&scales);
    assert!(scales.split_off(rows).iter().all(|&bits| bits == u32::MAX), "a padded row was written");
    scales
}

fn expected(element: Element, row: &[u16]) -> f64 {
    let squares: f64 = row.iter().map(|&bits| element.value(bits).powi(2)).sum();
    1.0 / (squares / row.len() as f64 + f64::from(EPSILON)).sqrt()
}

fn near(element: Element, input: &[u16], width: usize, scales: &[u32], what: &str) {
    // Each of up to 33 steps of a group cuts below 17 units of 2^-24 of its sum, the sums of groups and the root add a few more.
    let tolerance = 700.0 * 2f64.powi(-24);
    for (row, (values, &bits)) in input.chunks(width).zip(scales).enumerate() {
        let (found, expected) = (f64::from(f32::from_bits(bits)), expected(element, values));
        assert!((found - expected).abs() <= expected * tolerance, "{what}: row {row}: {found} instead of {expected}");
    }
}

fn matches_float64(device: &TestDevice) {
    let mut random = Random(41);
    for (rows, width) in SHAPES {
        for element in Element::ALL {
            let input = rows_of(&mut random, element, rows, width);
            for segment in [width.next_multiple_of(64), 512, 1536] {
                let scales = run(device, element, &input, width, (segment, 3, 2));
                near(element, &input, width, &scales, &format!("{element:?} [{rows}, {width}], segment {segment}"));
            }
        }
    }
}

fn rows_do_not_depend_on_the_rest(device: &TestDevice) {
    let mut random = Random(42);
    for (rows, width) in SHAPES {
        let input = rows_of(&mut random, Element::Bf16, rows, width);
        let exact = run(device, Element::Bf16, &input, width, (width, 0, 1));
        for (slack, blocks) in [(5, 1), (0, 3), (20, 7)] {
            let other = run(device, Element::Bf16, &input, width, (width, slack, blocks));
            assert!(other == exact, "[{rows}, {width}]: {slack} padded rows, {blocks} blocks: other bits");
        }
        for row in [rows / 2, rows - 1] {
            let alone = run(device, Element::Bf16, &input[row * width..][..width], width, (width, 0, 1));
            assert_eq!(alone, exact[row..=row], "[{rows}, {width}]: row {row} alone");
        }
    }
}

fn extremes_stay_in_their_rows(device: &TestDevice) {
    let (mut random, width) = (Random(43), 600);
    let mut input = rows_of(&mut random, Element::Bf16, 20, width);
    let mut fill = |row: usize, value: f64| input[row * width..][..width].fill(Element::Bf16.bits(value));
    fill(1, 0.0);
    fill(2, f64::NAN);
    fill(3, 1e15);
    fill(4, 1e-18);
    fill(5, f64::INFINITY);
    let scales = run(device, Element::Bf16, &input, width, (width, 1, 1));
    for row in (0..20).filter(|row| ![2, 5].contains(row)) {
        near(Element::Bf16, &input[row * width..][..width], width, &scales[row..=row], &format!("row {row}"));
    }
    assert!(f32::from_bits(scales[2]).is_nan(), "a NaN is hidden");
    let hidden = f32::from_bits(scales[5]);
    assert!(hidden == 0.0 || hidden.is_nan(), "an infinity is hidden: {hidden}");
}

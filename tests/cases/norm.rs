//! kernels/norm.cu against float64, and its bits against themselves: alone, in a batch, padded, on any grid.

use super::fixture::{Element, Random, step_block};
use crate::support::{Case, TestDevice};
use gridpoint_runtime::parameters::{
    GRIDPOINT_NORM_SHARED_BYTES, GRIDPOINT_NORM_THREADS, GRIDPOINT_ROWS_LOGITS, GRIDPOINT_ROWS_TOKENS, LogitRow,
    NormParameters,
};

const POISON: u16 = 0xffff;
const EPSILON: f32 = 1e-5;

/// (rows, width): narrow, odd, the shipped models', the limits between register-held and re-read vectors and of one warp a row.
const SHAPES: [(usize, usize); 11] = [
    (1, 8),
    (19, 24),
    (37, 192),
    (9, 1016),
    (10, 1024),
    (11, 1032),
    (3, 2048),
    (5, 4104),
    (2, 8192),
    (3, 8200),
    (1, 65536),
];

/// Fewer of them for float16, which differs in conversions alone: one warp a row, held, re-read.
const F16_SHAPES: [(usize, usize); 4] = [(19, 24), (9, 1016), (3, 2048), (2, 8200)];

/// The cases of these kernels.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, run| Case { name, run };
    vec![
        case("norm/matches_float64", matches_float64 as fn(&TestDevice)),
        case("norm/float16_matches_float64", float16_matches_float64),
        case("norm/rows_do_not_depend_on_batch_padding_or_grid", rows_do_not_depend_on_batch_padding_or_grid),
        case("norm/logit_rows_are_gathered", logit_rows_are_gathered),
        case("norm/output_may_replace_its_input", output_may_replace_its_input),
        case("norm/extremes_stay_in_their_rows", extremes_stay_in_their_rows),
    ]
}

/// Inputs of one run, [rows, width] each.
#[derive(Clone)]
struct Inputs {
    element: Element,
    width: usize,
    input: Vec<u16>,
    weight: Vec<u16>,
}

fn rounded(element: Element, values: impl Iterator<Item = f64>) -> Vec<u16> {
    values.map(|value| element.bits(value)).collect()
}

impl Inputs {
    fn random(random: &mut Random, rows: usize, width: usize) -> Self {
        Self::random_of(Element::Bf16, random, rows, width)
    }

    fn random_of(element: Element, random: &mut Random, rows: usize, width: usize) -> Self {
        // Rows of different magnitude.
        let mut input = Vec::with_capacity(rows * width);
        for _ in 0..rows {
            let scale = (4.0 * random.uniform() - 2.0).exp2();
            input.extend(rounded(element, (0..width).map(|_| scale * random.normal())));
        }
        let weight = rounded(element, (0..width).map(|_| 1.0 + 0.3 * random.normal()));
        Self { element, width, input, weight }
    }

    fn rows(&self) -> usize {
        self.input.len() / self.width
    }

    /// Only row `row`.
    fn only(&self, row: usize) -> Self {
        let input = self.input[row * self.width..][..self.width].to_vec();
        Self { input, weight: self.weight.clone(), ..*self }
    }

    /// Runs over all rows, or over `gathered` ones; `slack` poisoned rows follow in every buffer.
    fn run(
        &self,
        device: &TestDevice,
        gathered: Option<&[usize]>,
        slack: usize,
        blocks: u32,
        in_place: bool,
    ) -> Vec<u16> {
        let rows = self.rows();
        let output_rows = gathered.map_or(rows, <[usize]>::len);
        let logit_rows: Vec<LogitRow> = gathered
            .unwrap_or_default()
            .iter()
            .map(|&row| LogitRow { token_row: row as i32, ..LogitRow::default() })
            .collect();
        let step = device.upload(&step_block(&vec![0; rows], &logit_rows, slack, 0));
        let padded = |values: &[u16]| {
            let mut values = values.to_vec();
            values.resize(values.len() + slack * self.width, POISON);
            device.upload(&values)
        };
        let input = padded(&self.input);
        let weight = device.upload(&self.weight);
        let output = device.poisoned::<u16>((output_rows + slack) * self.width);
        let output = if in_place { &input } else { &output };
        let parameters = NormParameters {
            step: step.as_ptr().cast(),
            input: input.as_ptr(),
            weight: weight.as_ptr(),
            output: output.as_mut_ptr(),
            epsilon: EPSILON,
            width: self.width as u32,
            rows: if gathered.is_some() { GRIDPOINT_ROWS_LOGITS } else { GRIDPOINT_ROWS_TOKENS },
            reserved: 0,
        };
        let name = match self.element {
            Element::Bf16 => "rms_norm",
            Element::F16 => "rms_norm_f16",
        };
        device.launch(name, blocks, GRIDPOINT_NORM_THREADS, GRIDPOINT_NORM_SHARED_BYTES, &parameters).expect(name);
        device.download(output)
    }

    /// Row `row` of the output in float64.
    fn reference(&self, row: usize) -> Vec<f64> {
        let value = |bits| self.element.value(bits);
        let x: Vec<f64> = self.input[row * self.width..][..self.width].iter().map(|&bits| value(bits)).collect();
        let mean = x.iter().map(|x| x * x).sum::<f64>() / self.width as f64;
        let scale = 1.0 / (mean + f64::from(EPSILON)).sqrt();
        x.iter().zip(&self.weight).map(|(x, &weight)| x * scale * value(weight)).collect()
    }

    /// One rounding to the element; float32 adds a few 2^-24.
    fn assert_row(&self, found: &[u16], row: usize, what: &str) {
        for (column, (&found, expected)) in found.iter().zip(self.reference(row)).enumerate() {
            let tolerance = expected.abs() * (self.element.rounding() + 2e-6) + self.element.half_least().max(1e-38);
            let found = self.element.value(found);
            assert!(
                (found - expected).abs() <= tolerance,
                "{what}: row {row}, column {column}: {found} instead of {expected}"
            );
        }
    }
}

fn assert_poison(values: &[u16], from: usize, what: &str) {
    let wrong = values.iter().skip(from).position(|&value| value != POISON);
    assert_eq!(wrong, None, "{what}: an element was written behind the last real row");
}

fn matches_float64(device: &TestDevice) {
    rows_match_float64(device, Element::Bf16, &SHAPES);
}

fn float16_matches_float64(device: &TestDevice) {
    rows_match_float64(device, Element::F16, &F16_SHAPES);
}

fn rows_match_float64(device: &TestDevice, element: Element, shapes: &[(usize, usize)]) {
    let mut random = Random(2);
    for &(rows, width) in shapes {
        let inputs = Inputs::random_of(element, &mut random, rows, width);
        let what = format!("[{rows}, {width}]");
        let found = inputs.run(device, None, 2, 2, false);
        for row in 0..rows {
            inputs.assert_row(&found[row * width..][..width], row, &what);
        }
        assert_poison(&found, rows * width, &what);
    }
}

fn rows_do_not_depend_on_batch_padding_or_grid(device: &TestDevice) {
    let mut random = Random(3);
    for (rows, width) in SHAPES {
        let inputs = Inputs::random(&mut random, rows, width);
        let what = format!("[{rows}, {width}]");
        let exact = inputs.run(device, None, 0, 1, false);
        for (slack, blocks) in [(5, 1), (0, 3), (1, 20)] {
            let other = inputs.run(device, None, slack, blocks, false);
            assert!(other[..rows * width] == exact, "{what}: {slack} padded rows, {blocks} blocks");
        }
        for row in [rows / 2, rows - 1] {
            let alone = inputs.only(row).run(device, None, 0, 1, false);
            assert!(alone == exact[row * width..][..width], "{what}: row {row} alone");
        }
    }
}

fn logit_rows_are_gathered(device: &TestDevice) {
    let mut random = Random(4);
    for (rows, width) in [(40, 192), (6, 1032)] {
        let inputs = Inputs::random(&mut random, rows, width);
        let gathered = [rows - 1, 0, 3, 3, rows / 2 - 1];
        let what = format!("gathered from [{rows}, {width}]");
        let all = inputs.run(device, None, 0, 1, false);
        let found = inputs.run(device, Some(&gathered), 3, 2, false);
        for (r, &row) in gathered.iter().enumerate() {
            assert!(found[r * width..][..width] == all[row * width..][..width], "{what}: logit row {r}");
        }
        assert_poison(&found, gathered.len() * width, &what);
    }
}

fn output_may_replace_its_input(device: &TestDevice) {
    let mut random = Random(5);
    for (rows, width) in [(13, 192), (2, 2048), (2, 8200)] {
        let inputs = Inputs::random(&mut random, rows, width);
        let apart = inputs.run(device, None, 0, 2, false);
        let in_place = inputs.run(device, None, 0, 2, true);
        assert!(apart == in_place, "[{rows}, {width}]");
    }
}

fn extremes_stay_in_their_rows(device: &TestDevice) {
    let mut random = Random(6);
    let width = 200;
    let mut inputs = Inputs::random(&mut random, 7, width);
    let row = |inputs: &mut Inputs, row: usize, with: &mut dyn FnMut() -> f64| {
        let values = rounded(Element::Bf16, (0..width).map(|_| with()));
        inputs.input[row * width..][..width].copy_from_slice(&values);
    };
    row(&mut inputs, 1, &mut || 0.0);
    row(&mut inputs, 2, &mut || f64::NAN);
    row(&mut inputs, 3, &mut || 1e18 * random.normal());
    row(&mut inputs, 4, &mut || 1e-20 * random.normal());
    row(&mut inputs, 5, &mut || f64::INFINITY);
    let found = inputs.run(device, None, 1, 1, false);
    for row in [0, 1, 3, 4, 6] {
        inputs.assert_row(&found[row * width..][..width], row, "extremes");
    }
    for row in [2, 5] {
        let hidden = found[row * width..][..width].iter().position(|&bits| !Element::Bf16.value(bits).is_nan());
        assert_eq!(hidden, None, "row {row} hides a NaN or an infinity");
    }
}

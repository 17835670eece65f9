//! What the cases of all matrix products share: problems in float64, launches with their surroundings poisoned, comparisons.

use gridpoint_runtime::parameters::{
    GRIDPOINT_ROWS_LOGITS, GRIDPOINT_ROWS_TOKENS, GRIDPOINT_SCALE_GIVEN, GRIDPOINT_SCALE_NONE, GemmParameters,
    StepHeader,
};
use half::{bf16, f16};

use crate::support::TestDevice;

/// The type of all matrices of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Bf16,
    F16,
}

impl Element {
    pub(crate) const ALL: [Self; 2] = [Self::Bf16, Self::F16];

    pub(crate) fn value(self, bits: u16) -> f64 {
        match self {
            Self::Bf16 => bf16::from_bits(bits).to_f64(),
            Self::F16 => f16::from_bits(bits).to_f64(),
        }
    }

    pub(crate) fn bits(self, value: f64) -> u16 {
        match self {
            Self::Bf16 => bf16::from_f64(value).to_bits(),
            Self::F16 => f16::from_f64(value).to_bits(),
        }
    }

    /// Half a unit in the last place, relative to the value; 2^-25 absolutely where float16 is subnormal.
    pub(crate) fn rounding(self, value: f64) -> f64 {
        match self {
            Self::Bf16 => value.abs() * 2f64.powi(-8),
            Self::F16 => value.abs() * 2f64.powi(-11) + 2f64.powi(-25),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epilogue {
    Logits,
    Residual,
    SwiGlu,
}

impl Epilogue {
    pub(crate) const ALL: [Self; 3] = [Self::Logits, Self::Residual, Self::SwiGlu];

    /// Whether the epilogue is defined for `n` columns of product.
    pub(crate) fn takes(self, n: usize) -> bool {
        self != Self::SwiGlu || n.is_multiple_of(2)
    }

    /// Columns of output.
    pub(crate) fn width(self, n: usize) -> usize {
        if self == Self::SwiGlu { n / 2 } else { n }
    }

    /// Its part of a kernel's name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Logits => "logits",
            Self::Residual => "residual",
            Self::SwiGlu => "swiglu",
        }
    }
}

/// What an output element is made of beside the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) epilogue: Epilogue,
    pub(crate) bias: bool,
    pub(crate) scaled: bool,
}

impl Form {
    pub(crate) fn of(epilogue: Epilogue) -> Self {
        Self { epilogue, bias: false, scaled: false }
    }

    pub(crate) fn value(self, element: Element, bits: u32) -> f64 {
        if self.epilogue == Epilogue::Logits {
            f64::from(f32::from_bits(bits))
        } else {
            element.value((bits & 0xffff) as u16)
        }
    }
}

/// Inputs, and the product in float64 with the sum of its terms' magnitudes, which bounds the error of any order of summation.
#[derive(Clone)]
pub(crate) struct Problem {
    pub(crate) element: Element,
    pub(crate) rows: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) activations: Vec<u16>,
    pub(crate) weights: Vec<u16>,
    pub(crate) bias: Vec<u16>,
    pub(crate) residual: Vec<u16>,
    pub(crate) row_scales: Vec<f32>,
    product: Vec<f64>,
    magnitude: Vec<f64>,
}

impl Problem {
    /// `[rows, n, k]`, uniform values from a multiplicative congruential generator (Steele and Vigna, 2021).
    pub(crate) fn new(element: Element, (rows, n, k): (usize, usize, usize)) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ ((rows as u64) << 40 | (n as u64) << 20 | k as u64);
        let mut unit = || {
            state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
            (state >> 40) as f64 / f64::from(1 << 24)
        };
        let mut uniform =
            |count: usize, scale: f64| (0..count).map(|_| element.bits((unit() * 2.0 - 1.0) * scale)).collect();
        let activations: Vec<u16> = uniform(rows * k, 1.7);
        let weights: Vec<u16> = uniform(n * k, 1.7 / (k as f64).sqrt());
        let bias = uniform(n, 1.0);
        let residual = uniform(rows * n, 2.0);
        let row_scales = (0..rows).map(|_| (unit() * 1.5 + 0.25) as f32).collect();
        let widened = |values: &[u16]| values.iter().map(|&bits| element.value(bits)).collect::<Vec<f64>>();
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
        Self { element, rows, n, k, activations, weights, bias, residual, row_scales, product, magnitude }
    }

    /// The problem with only rows [first, first + count).
    pub(crate) fn slice(&self, first: usize, count: usize) -> Self {
        let of = |width: usize| first * width..(first + count) * width;
        Self {
            rows: count,
            activations: self.activations[of(self.k)].to_vec(),
            residual: self.residual[of(self.n)].to_vec(),
            row_scales: self.row_scales[of(1)].to_vec(),
            product: self.product[of(self.n)].to_vec(),
            magnitude: self.magnitude[of(self.n)].to_vec(),
            ..self.clone()
        }
    }

    /// The operands with only these values of k; what the product should be is not known then.
    pub(crate) fn columns(&self, range: std::ops::Range<usize>) -> Self {
        let cut = |values: &[u16]| values.chunks(self.k).flat_map(|row| row[range.clone()].iter().copied()).collect();
        let (activations, weights) = (cut(&self.activations), cut(&self.weights));
        Self { k: range.len(), activations, weights, product: Vec::new(), magnitude: Vec::new(), ..self.clone() }
    }

    /// The product of a row and a column after scale and bias, and how far from it a kernel may be.
    ///
    /// One mma step adds 16 products to the sum, all aligned to the largest and cut to 24 fractional bits or more: an error of at most
    /// 17 units of 2^-23 of the terms' magnitude a step; segments add one a segment. The epilogue adds a few units of 2^-23.
    pub(crate) fn linear(&self, form: Form, row: usize, column: usize) -> (f64, f64) {
        let unit = 2f64.powi(-23);
        let index = row * self.n + column;
        let scale = if form.scaled { f64::from(self.row_scales[row]) } else { 1.0 };
        let sum = self.product[index] * scale;
        let error = self.magnitude[index] * scale * (self.k.div_ceil(16) * 17 + self.k.div_ceil(64)) as f64 * unit;
        let bias = if form.bias { self.element.value(self.bias[column]) } else { 0.0 };
        (sum + bias, error + 2.0 * unit * (sum.abs() + bias.abs()))
    }

    /// What an output element should be, and how far from it the kernel may be.
    pub(crate) fn expected(&self, form: Form, row: usize, column: usize) -> (f64, f64) {
        let unit = 2f64.powi(-23);
        let (value, error) = match form.epilogue {
            Epilogue::SwiGlu => {
                let (gate, gate_error) = self.linear(form, row, 2 * column);
                let (up, up_error) = self.linear(form, row, 2 * column + 1);
                let silu = gate / (1.0 + (-gate).exp());
                // The derivative of silu is below 1.1; exp on a device is good to a few units.
                let error = 1.1 * gate_error * (up.abs() + up_error) + silu.abs() * up_error;
                (silu * up, error + 16.0 * unit * (silu * up).abs())
            }
            Epilogue::Residual => {
                let (value, error) = self.linear(form, row, column);
                let residual = self.element.value(self.residual[row * self.n + column]);
                (value + residual, error + 2.0 * unit * (value.abs() + residual.abs()))
            }
            Epilogue::Logits => self.linear(form, row, column),
        };
        let rounding = if form.epilogue == Epilogue::Logits { 0.0 } else { self.element.rounding(value.abs() + error) };
        (value, error + rounding)
    }

    /// Every element against float64; NaN fails.
    pub(crate) fn check(&self, what: &str, form: Form, output: &[u32]) {
        let width = form.epilogue.width(self.n);
        assert_eq!(output.len(), self.rows * width, "{what}: elements of output");
        for (index, &bits) in output.iter().enumerate() {
            let (row, column) = (index / width, index % width);
            let (want, tolerance) = self.expected(form, row, column);
            let got = form.value(self.element, bits);
            assert!(
                (got - want).abs() <= tolerance,
                "{what} {form:?} {:?} ({}, {}, {}): [{row}, {column}] is {got}, expected {want} within {tolerance:e}",
                self.element,
                self.rows,
                self.n,
                self.k
            );
        }
    }
}

/// How a problem is launched.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) blocks: u32,
    /// Rows of the buffers beyond the live ones, full of NaN.
    pub(crate) padding: usize,
    pub(crate) rows: u32,
    /// The residual's buffer is the output's.
    pub(crate) in_place: bool,
    /// Elements by which the output's and the residual's first elements are moved off alignment.
    pub(crate) offset: usize,
    /// Values of k in a segment; 0 for all.
    pub(crate) segment: usize,
}

pub(crate) const SETUP: Setup =
    Setup { blocks: 3, padding: 0, rows: GRIDPOINT_ROWS_TOKENS, in_place: false, offset: 0, segment: 0 };

/// A launch of one product on parameters that are ready but for what the kernel itself wants: `capacity` rows of activations. Words of
/// any error name the kernel.
pub(crate) type Launch<'a> = &'a dyn Fn(&TestDevice, GemmParameters, usize, u32) -> Result<(), String>;

/// The bits of the live rows' output, after a check that nothing else was written.
pub(crate) fn run(device: &TestDevice, form: Form, problem: &Problem, setup: Setup, launch: Launch<'_>) -> Vec<u32> {
    let width = form.epilogue.width(problem.n);
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
    let row_scales = device.upload(&problem.row_scales);
    // The count that does not bound this launch covers the padding too.
    let (live, other) = (problem.rows as u32, capacity as u32);
    let (tokens, logit_rows) = if setup.rows == GRIDPOINT_ROWS_LOGITS { (other, live) } else { (live, other) };
    let step = device.upload(&[StepHeader {
        tokens,
        logit_rows,
        token_capacity: other,
        logit_row_capacity: other,
        ..StepHeader::default()
    }]);
    let elements = setup.offset + capacity * width;
    let float = form.epilogue == Epilogue::Logits;
    let floats = device.poisoned::<u32>(if float { elements } else { 1 });
    let halves = device.poisoned::<u16>(if float { 1 } else { elements });
    let output: *mut std::ffi::c_void = match (setup.in_place, float) {
        (true, _) => residual.as_mut_ptr().wrapping_add(setup.offset).cast(),
        (false, true) => floats.as_mut_ptr().wrapping_add(setup.offset).cast(),
        (false, false) => halves.as_mut_ptr().wrapping_add(setup.offset).cast(),
    };
    let parameters = GemmParameters {
        activations: activations.as_ptr(),
        weights: weights.as_ptr(),
        bias: if form.bias { bias.as_ptr() } else { std::ptr::null() },
        residual: if form.epilogue == Epilogue::Residual {
            residual.as_ptr().wrapping_add(setup.offset)
        } else {
            std::ptr::null()
        },
        output,
        row_scales: if form.scaled { row_scales.as_ptr() } else { std::ptr::null() },
        scaled: if form.scaled { GRIDPOINT_SCALE_GIVEN } else { GRIDPOINT_SCALE_NONE },
        rows: setup.rows,
        ..parameters(step.as_ptr(), problem, setup.segment)
    };
    launch(device, parameters, capacity, setup.blocks)
        .unwrap_or_else(|error| panic!("({}, {}, {}): {error}", problem.rows, problem.n, problem.k));

    let bits: Vec<u32> = if float {
        device.download(&floats)
    } else {
        device.download(if setup.in_place { &residual } else { &halves }).into_iter().map(u32::from).collect()
    };
    let untouched = if float { u32::MAX } else { 0xffff };
    let live = setup.offset..setup.offset + problem.rows * width;
    for (index, &word) in bits.iter().enumerate() {
        assert!(live.contains(&index) || word == untouched, "element {index} outside of {live:?} was written");
    }
    bits[live].to_vec()
}

/// Parameters of a product without operands.
pub(crate) fn parameters(step: *const StepHeader, problem: &Problem, segment: usize) -> GemmParameters {
    let all = problem.k.next_multiple_of(64);
    GemmParameters {
        step,
        activations: std::ptr::null(),
        weights: std::ptr::null(),
        bias: std::ptr::null(),
        residual: std::ptr::null(),
        output: std::ptr::null_mut(),
        row_scales: std::ptr::null(),
        key_cache: std::ptr::null_mut(),
        value_cache: std::ptr::null_mut(),
        rotary: std::ptr::null(),
        partials: std::ptr::null_mut(),
        counters: std::ptr::null_mut(),
        n: problem.n as u32,
        k: problem.k as u32,
        segment: (if segment == 0 { all } else { segment }) as u32,
        rows: GRIDPOINT_ROWS_TOKENS,
        scaled: GRIDPOINT_SCALE_NONE,
        epsilon: 1e-5,
        inverse_width: 1.0 / problem.k as f32,
        query_heads: 0,
        kv_heads: 0,
        head_dim: 0,
    }
}

/// Bit equality that names the first difference.
pub(crate) fn same_bits(what: &str, width: usize, got: &[u32], want: &[u32]) {
    assert_eq!(got.len(), want.len(), "{what}: elements");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(got == want, "{what}: [{}, {}] has bits {got:#x}, expected {want:#x}", index / width, index % width);
    }
}

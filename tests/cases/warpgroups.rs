//! wgmma in every width, form and layout against the sum of its products, and a product in the shape of fast Hopper kernels: tensor
//! loads into a ring of stages, two multiplying warpgroups, clusters that share loads.

use gridpoint_runtime::instructions::{GroupGemmParameters, InstructionParameters};
use gridpoint_runtime::{Swizzle, TensorMap};
use half::bf16;

use super::fixture::Random;
use super::instructions::{Trial, bits, capability, integer, swizzled};
use crate::support::{Case, DeviceVec, TestDevice};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("warpgroups/wgmma_of_every_width", widths),
        Case::new("warpgroups/wgmma_of_every_form_and_layout", forms),
        Case::new("warpgroups/group_gemm", group_gemm),
    ]
}

/// Where an operand of wgmma lies in shared memory.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// K is not the contiguous dimension.
    transposed: bool,
    /// Bytes of the swizzle's span; 0 for none.
    span: usize,
    /// For 128-byte spans, K-major: which sixteen k of the 64 that a span holds.
    step: usize,
}

impl Layout {
    /// Leading and stride byte offsets.
    fn offsets(self) -> (usize, usize) {
        match (self.transposed, self.span) {
            (false, 0) => (128, 256),
            (true, 0) => (128, 256),
            (false, span) => (16, 8 * span),
            // Two groups of eight k, then the next rows.
            (true, span) => (16 * span, 8 * span),
        }
    }

    /// Byte offset of an element from the operand's start, which is a multiple of 1024.
    fn place(self, row: usize, k: usize) -> usize {
        let (leading, stride) = self.offsets();
        let k = k + 16 * self.step;
        let byte = match (self.transposed, self.span) {
            (false, 0) => row / 8 * stride + row % 8 * 16 + k / 8 * leading + k % 8 * 2,
            (true, 0) => row / 8 * stride + k / 8 * leading + k % 8 * 16 + row % 8 * 2,
            (false, span) => row / 8 * stride + row % 8 * span + k * 2,
            (true, span) => k / 8 * stride + k % 8 * span + row * 2 / span * leading + row * 2 % span,
        };
        swizzled(byte, self.span)
    }

    /// The descriptor, relative to the image.
    fn descriptor(self, start: usize) -> u64 {
        let (leading, stride) = self.offsets();
        let mode = match self.span {
            0 => 0,
            128 => 1,
            64 => 2,
            _ => 3,
        };
        ((start + 32 * self.step) / 16) as u64 | (leading as u64 / 16) << 16 | (stride as u64 / 16) << 32 | mode << 62
    }
}

const IMAGE_WORDS: usize = 12288;
const START_B: usize = 16 << 10;

/// One wgmma against the sum of its products.
fn product(device: &TestDevice, name: &'static str, columns: usize, form: Form, a: Layout, b: Layout, scale_d: bool) {
    let mut random = Random(columns as u64);
    let mut matrix = |count: usize| (0..count).map(|_| integer(&mut random)).collect::<Vec<f32>>();
    let (values_a, values_b, sums) = (matrix(64 * 16), matrix(columns * 16), matrix(64 * columns));
    let mut image = vec![0x7fc0_u16; IMAGE_WORDS * 2];
    for k in 0..16 {
        for row in 0..64 {
            image[a.place(row, k) / 2] = bits(values_a[row * 16 + k], form.float16);
        }
        for column in 0..columns {
            image[(START_B + b.place(column, k)) / 2] = bits(values_b[column * 16 + k], form.float16);
        }
    }
    let mut input: Vec<u32> = image.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16).collect();
    let threads = || (0..128_usize).map(|thread| (thread / 32 * 16 + thread % 32 / 4, thread % 4));
    for (row, t) in threads() {
        for i in 0..4 {
            let place = (row + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
            let pair = [values_a[place], values_a[place + 1]].map(|value| u32::from(bits(value, form.float16)));
            input.push(pair[0] | pair[1] << 16);
        }
    }
    let place = |row: usize, t: usize, i: usize| (row + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * t + i % 2);
    let registers = columns / 2;
    let mut expected = Vec::new();
    for (row, t) in threads() {
        for i in 0..registers {
            let (row, column) = place(row, t, i);
            let start = sums[row * columns + column];
            input.push(start.to_bits());
            let products = (0..16).map(|k| values_a[row * 16 + k] * values_b[column * 16 + k] * form.sign);
            expected.push(products.fold(if scale_d { start } else { 0.0 }, |sum, product| sum + product));
        }
    }
    let (a_bits, b_bits) = (a.descriptor(0), b.descriptor(START_B));
    let numbers = [a_bits as u32, (a_bits >> 32) as u32, b_bits as u32, (b_bits >> 32) as u32, scale_d.into()];
    let trial = Trial::new(device, &input, 128 * registers, &numbers);
    let output = trial.run(name, 128, (IMAGE_WORDS * 4 + 1024) as u32, (1, 1));
    for (place, (output, expected)) in output.into_iter().zip(expected).enumerate() {
        let output = f32::from_bits(output);
        assert_eq!(
            output,
            expected,
            "{name} a {a:?} b {b:?} scale-d {scale_d}: thread {} register {}",
            place / registers,
            place % registers
        );
    }
}

/// What a kernel of instructions.cu was compiled for.
#[derive(Clone, Copy, Debug)]
struct Form {
    name: &'static str,
    float16: bool,
    a_transposed: bool,
    b_transposed: bool,
    sign: f32,
}

const BF16: Form = Form { name: "bf16", float16: false, a_transposed: false, b_transposed: false, sign: 1.0 };
const FORMS: [Form; 8] = [
    Form { name: "f16", float16: true, ..BF16 },
    Form { name: "m_major", a_transposed: true, ..BF16 },
    Form { name: "n_major", b_transposed: true, ..BF16 },
    Form { name: "both_major", float16: true, a_transposed: true, b_transposed: true, ..BF16 },
    Form { name: "minus_a", sign: -1.0, ..BF16 },
    Form { name: "minus_b", float16: true, sign: -1.0, ..BF16 },
    Form { name: "registers", ..BF16 },
    Form { name: "registers_f16", float16: true, b_transposed: true, sign: -1.0, ..BF16 },
];

/// The kernel's name, which the device wants for ever.
fn kernel_name(form: Form, columns: usize) -> &'static str {
    format!("product_{}_{columns}", form.name).leak()
}

fn widths(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    let layout = Layout { transposed: false, span: 128, step: 0 };
    for columns in (8..=256).step_by(8) {
        product(device, kernel_name(BF16, columns), columns, BF16, layout, layout, columns % 16 == 0);
    }
    for step in 1..4 {
        let layout = Layout { step, ..layout };
        product(device, kernel_name(BF16, 64), 64, BF16, layout, layout, true);
    }
}

fn forms(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    for columns in [8, 64, 136, 256] {
        for form in FORMS {
            let name = kernel_name(form, columns);
            for span in [0, 32, 64, 128] {
                let a = Layout { transposed: form.a_transposed, span, step: 0 };
                let b = Layout { transposed: form.b_transposed, ..a };
                product(device, name, columns, form, a, b, span != 64);
            }
        }
    }
}

fn group_gemm(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    const SHARED_BYTES: u32 = 3 * (16384 + 16384) + 32768 + 64 + 1024;
    for (m, n, k, clusters) in
        [(256, 128, 64, 1), (200, 136, 72, 1), (512, 256, 192, 2), (300, 264, 136, 3), (64, 64, 1024, 2)]
    {
        let mut random = Random((m * n * k) as u64);
        let mut matrix = |count: usize| -> Vec<bf16> {
            (0..count).map(|_| bf16::from_f32((random.bits() % 4001) as f32 / 2000.0 - 1.0)).collect()
        };
        let (a, b) = (matrix(m * k), matrix(n * k));
        let (memory_a, memory_b, memory_c) = (device.upload(&a), device.upload(&b), device.poisoned::<bf16>(m * n));
        let map = |memory: &DeviceVec<bf16>, rows: usize, columns: usize, boxes| {
            let address = memory.as_ptr().expose_provenance() as u64;
            TensorMap::bf16(address, [columns as u64, rows as u64], &[columns as u64 * 2], boxes, Swizzle::Bytes128)
                .expect("a valid map")
        };
        let mut parameters: InstructionParameters = bytemuck::Zeroable::zeroed();
        parameters.maps =
            [map(&memory_a, m, k, [64, 128]), map(&memory_b, n, k, [64, 64]), map(&memory_c, m, n, [64, 64])];
        parameters.numbers[..3].copy_from_slice(&[m as u32, n as u32, k as u32]);
        let kernel =
            device.device().kernel::<GroupGemmParameters>("group_gemm", SHARED_BYTES).expect("the kernel is there");
        let launch = kernel.launch(2 * clusters, &GroupGemmParameters(parameters)).with_clusters(2);
        // Two attributes at once; the stream is idle, so that there is nothing to overlap.
        let launch = if clusters == 2 { launch.programmatic() } else { launch };
        device.stream().launch(&launch).expect("the launch is taken");
        device.stream().synchronize().unwrap_or_else(|error| panic!("group_gemm of {m} x {n} x {k}: {error}"));
        let wide = |values: &[bf16]| values.iter().map(|value| value.to_f64()).collect::<Vec<f64>>();
        let (a, b) = (wide(&a), wide(&b));
        for (place, value) in device.download(&memory_c).into_iter().enumerate() {
            let (row, column) = (place / n, place % n);
            let (mut exact, mut size) = (0.0, 0.0);
            for (a, b) in a[row * k..][..k].iter().zip(&b[column * k..][..k]) {
                exact += a * b;
                size += (a * b).abs();
            }
            let bound = exact.abs() / 256.0 + size * k as f64 * f64::from(f32::EPSILON);
            assert!(
                (value.to_f64() - exact).abs() <= bound,
                "{m} x {n} x {k}: c[{row}, {column}] is {value}, should be {exact}"
            );
        }
    }
}

//! Each instruction by itself against a plain formula, on operands whose sums are exact, so that every device gives the same bits. The
//! kernels are those of tests/instructions; wgmma's cases stand in warpgroups.rs.

use gridpoint_runtime::instructions::InstructionParameters;
use gridpoint_runtime::{Swizzle, TensorMap};
use half::{bf16, f16};

use super::fixture::Random;
use crate::support::{Case, DeviceVec, TestDevice};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("instructions/collectives_of_a_warp", collectives),
        Case::new("instructions/named_barriers_of_some_warps", barriers),
        Case::new("instructions/ldmatrix_in_all_forms", matrices),
        Case::new("instructions/stmatrix_in_all_forms", stored_matrices),
        Case::new("instructions/mma_of_both_types", small_products),
        Case::new("instructions/bulk_copies_and_mbarriers", bulk_copies),
        Case::new("instructions/tensor_copies_of_every_rank_and_swizzle", tensor_copies),
        Case::new("instructions/clusters_of_2_and_4", clusters),
    ]
}

/// A launch of a kernel of instructions.cu.
pub(crate) struct Trial<'a> {
    device: &'a TestDevice,
    pub(crate) parameters: InstructionParameters,
    output: DeviceVec<u32>,
    // Kept until the launch is over.
    _input: DeviceVec<u32>,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(device: &'a TestDevice, input: &[u32], output_words: usize, numbers: &[u32]) -> Self {
        let (input, output) = (device.upload(input), device.poisoned::<u32>(output_words));
        let mut parameters: InstructionParameters = bytemuck::Zeroable::zeroed();
        parameters.input = input.as_ptr().expose_provenance() as u64;
        parameters.output = output.as_ptr().expose_provenance() as u64;
        parameters.numbers[..numbers.len()].copy_from_slice(numbers);
        Self { device, parameters, output, _input: input }
    }

    /// Runs it on `blocks` blocks in clusters.
    pub(crate) fn run(
        &self,
        name: &'static str,
        threads: u32,
        shared_bytes: u32,
        (blocks, cluster): (u32, u32),
    ) -> Vec<u32> {
        let kernel =
            self.device.device().kernel::<InstructionParameters>(name, shared_bytes).expect("the kernel is there");
        assert_eq!(kernel.threads(), threads, "{name}");
        let launch = kernel.launch(blocks, &self.parameters).with_clusters(cluster);
        self.device.stream().launch(&launch).expect("the launch is taken");
        self.device.stream().synchronize().unwrap_or_else(|error| panic!("{name}: {error}"));
        self.device.download(&self.output)
    }
}

/// Whether the device has the instructions of sm_90, and those of sm_90a.
pub(crate) fn capability(device: &TestDevice) -> (bool, bool) {
    let (major, minor) = device.device().properties().compute_capability;
    (major >= 9, (major, minor) == (9, 0))
}

fn words(random: &mut Random, count: usize) -> Vec<u32> {
    (0..count).map(|_| random.bits() as u32).collect()
}

fn collectives(device: &TestDevice) {
    let mut random = Random(1);
    for distance in [1, 5, 16, 31] {
        let mut input = words(&mut random, 64);
        if distance == 5 {
            input.iter_mut().for_each(|word| *word &= !0x100);
        }
        input[40] = 7;
        let output = Trial::new(device, &input, 17 * 64, &[distance]).run("instruction_collectives", 64, 0, (1, 1));
        for thread in 0..64_usize {
            let (warp, lane) = (&input[thread / 32 * 32..][..32], thread % 32);
            let signed = || warp.iter().map(|&word| word as i32);
            let get = |lane: usize| warp[lane];
            let step = distance as usize;
            let mut expected = vec![
                warp.iter().fold(0, |sum: u32, &word| sum.wrapping_add(word)),
                *warp.iter().min().expect("32"),
                *warp.iter().max().expect("32"),
                signed().min().expect("32") as u32,
                signed().max().expect("32") as u32,
                warp.iter().fold(!0, |all, word| all & word),
                warp.iter().fold(0, |all, word| all | word),
                warp.iter().fold(0, |all, word| all ^ word),
                warp.iter().any(|word| word & 0xff == 7).into(),
                warp.iter().all(|word| word & 0x100 == 0).into(),
                get(if lane + step < 32 { lane + step } else { lane }),
                get(lane.checked_sub(step).unwrap_or(lane)),
                get(lane ^ step),
                get(lane * 7 % 32),
                (0..32).fold(0, |votes, lane| votes | (get(lane) & 1) << lane),
                input[thread],
            ];
            if capability(device).0 {
                expected.push(1);
            }
            for (slot, expected) in expected.into_iter().enumerate() {
                assert_eq!(output[slot * 64 + thread], expected, "slot {slot} of thread {thread}, distance {distance}");
            }
        }
    }
}

fn barriers(device: &TestDevice) {
    if !capability(device).0 {
        return;
    }
    let input = words(&mut Random(2), 128);
    let output = Trial::new(device, &input, 4 * 128, &[]).run("instruction_barriers", 128, 2048, (1, 1));
    for round in 0..4_usize {
        for thread in (0..128).filter(|thread| thread / 32 % 2 == 1) {
            assert_eq!(output[round * 128 + thread], input[thread - 32].wrapping_add(round as u32));
        }
    }
}

/// The 16-bit element of an 8x8 matrix whose rows are 16-byte pieces of `data`.
fn element(data: &[u32], row: usize, column: usize) -> u32 {
    let word = data[row * 4 + column / 2];
    if column.is_multiple_of(2) { word & 0xffff } else { word >> 16 }
}

fn matrices(device: &TestDevice) {
    if !capability(device).0 {
        return;
    }
    let input = words(&mut Random(3), 256 + 32);
    let output = Trial::new(device, &input, 14 * 32, &[]).run("instruction_matrices", 32, 4096, (1, 1));
    let rows: Vec<usize> = input[256..].iter().map(|row| (row % 64) as usize).collect();
    let mut slot = 0;
    for count in [1, 2, 4] {
        for transposed in [false, true] {
            for matrix in 0..count {
                for lane in 0..32 {
                    let half = |i: usize| {
                        let (row, column) = (lane / 4, lane % 4 * 2 + i);
                        let (row, column) = if transposed { (column, row) } else { (row, column) };
                        element(&input, rows[matrix * 8 + row], column)
                    };
                    assert_eq!(
                        output[slot * 32 + lane],
                        half(0) | half(1) << 16,
                        "x{count} {transposed} {matrix} {lane}"
                    );
                }
                slot += 1;
            }
        }
    }
}

fn stored_matrices(device: &TestDevice) {
    if !capability(device).0 {
        return;
    }
    let mut random = Random(4);
    let mut input = words(&mut random, 10 * 128);
    // Rows that are written are all different.
    let mut rows: Vec<u32> = (0..32).collect();
    for place in (1..32).rev() {
        rows.swap(place, random.bits() as usize % (place + 1));
    }
    input.extend(&rows);
    let output = Trial::new(device, &input, 6 * 128, &[]).run("instruction_stored_matrices", 32, 8192, (1, 1));
    let mut expected: Vec<u16> = input[..6 * 128].iter().flat_map(|word| [*word as u16, (word >> 16) as u16]).collect();
    for (part, (count, transposed)) in
        [(1, false), (1, true), (2, false), (2, true), (4, false), (4, true)].into_iter().enumerate()
    {
        for matrix in 0..count {
            for lane in 0..32 {
                let word = input[6 * 128 + matrix * 32 + lane];
                for (i, half) in [word as u16, (word >> 16) as u16].into_iter().enumerate() {
                    let (row, column) = (lane / 4, lane % 4 * 2 + i);
                    let (row, column) = if transposed { (column, row) } else { (row, column) };
                    expected[part * 256 + rows[matrix * 8 + row] as usize * 8 + column] = half;
                }
            }
        }
    }
    let output: Vec<u16> = output.iter().flat_map(|word| [*word as u16, (word >> 16) as u16]).collect();
    assert_eq!(output, expected);
}

/// A small integer in either type, whose products' sums are exact.
pub(crate) fn integer(random: &mut Random) -> f32 {
    (random.bits() % 17) as f32 - 8.0
}

/// The bits of a value in either type.
pub(crate) fn bits(value: f32, float16: bool) -> u16 {
    if float16 { f16::from_f32(value).to_bits() } else { bf16::from_f32(value).to_bits() }
}

fn small_products(device: &TestDevice) {
    let mut random = Random(5);
    let mut input = Vec::new();
    let mut expected = Vec::new();
    for float16 in [false, true] {
        let mut matrix = |count: usize| (0..count).map(|_| integer(&mut random)).collect::<Vec<f32>>();
        let (a, b, c) = (matrix(16 * 16), matrix(16 * 8), matrix(16 * 8));
        let pair = |low: f32, high: f32| u32::from(bits(low, float16)) | u32::from(bits(high, float16)) << 16;
        let lanes = |f: &dyn Fn(usize, usize) -> u32| (0..32).map(|lane| f(lane / 4, lane % 4)).collect::<Vec<u32>>();
        for i in 0..4 {
            let place = |g: usize, t: usize| (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
            input.extend(lanes(&|g, t| pair(a[place(g, t)], a[place(g, t) + 1])));
        }
        for i in 0..2 {
            input.extend(lanes(&|g, t| pair(b[(2 * t + 8 * i) * 8 + g], b[(2 * t + 8 * i + 1) * 8 + g])));
        }
        for i in 0..4 {
            let place = |g: usize, t: usize| (g + 8 * (i / 2), 2 * t + i % 2);
            input.extend(lanes(&|g, t| c[place(g, t).0 * 8 + place(g, t).1].to_bits()));
            expected.extend(lanes(&|g, t| {
                let (row, column) = place(g, t);
                (0..16).fold(c[row * 8 + column], |sum, k| sum + a[row * 16 + k] * b[k * 8 + column]).to_bits()
            }));
        }
    }
    let output = Trial::new(device, &input, 8 * 32, &[]).run("instruction_small_products", 32, 0, (1, 1));
    assert_eq!(output, expected);
}

fn bulk_copies(device: &TestDevice) {
    if !capability(device).0 {
        return;
    }
    for bytes in [32_u32, 496, 4096, 16384] {
        let input = words(&mut Random(u64::from(bytes)), bytes as usize / 4);
        let trial = Trial::new(device, &input, 3 * input.len(), &[bytes]);
        let output = trial.run("instruction_bulk_copies", 128, 20 << 10, (1, 1));
        for (place, word) in output.into_iter().enumerate() {
            let round = (place / input.len()) as u32;
            assert_eq!(
                word,
                input[place % input.len()].wrapping_mul(2).wrapping_add(round),
                "{bytes} bytes, word {place}"
            );
        }
    }
}

const TENSOR_KERNELS: [&str; 5] = [
    "instruction_tensor_copies_1",
    "instruction_tensor_copies_2",
    "instruction_tensor_copies_3",
    "instruction_tensor_copies_4",
    "instruction_tensor_copies_5",
];

/// Where byte `byte` of a box lies under a swizzle of `span` bytes: chunks of 16 are exchanged by the number of their 128-byte line.
pub(crate) fn swizzled(byte: usize, span: usize) -> usize {
    let (line, chunk, rest) = (byte / 128, byte / 16 % 8, byte % 16);
    let mask = if span == 0 { 0 } else { span / 16 - 1 };
    line * 128 + (chunk ^ (line & mask)) * 16 + rest
}

fn tensor_copies(device: &TestDevice) {
    if !capability(device).0 {
        return;
    }
    let mut random = Random(7);
    let extents: [u64; 5] = [72, 5, 4, 3, 2];
    // Each dimension is padded.
    let strides: [u64; 4] = [160, 160 * 6, 160 * 6 * 5, 160 * 6 * 5 * 4];
    let elements = 160 / 2 * 6 * 5 * 4 * 2;
    let tensor: Vec<u16> = (0..elements).map(|_| random.bits() as u16).collect();
    let offset = |index: &[i64]| {
        index[0] as usize + (1..index.len()).map(|i| index[i] as usize * strides[i - 1] as usize / 2).sum::<usize>()
    };
    let layouts =
        [(Swizzle::None, 0, 40), (Swizzle::Bytes32, 32, 16), (Swizzle::Bytes64, 64, 32), (Swizzle::Bytes128, 128, 64)];
    for rank in 1..=5_usize {
        for (swizzle, span, row) in layouts {
            let mut box_extents = [row as u32, 3, 2, 2, 2];
            box_extents[rank..].fill(1);
            let box_elements = box_extents.iter().product::<u32>() as usize;
            for coordinates in
                [[0, 0, 0, 0, 0], [8, 1, 1, 1, 0], [-5, -1, -1, -1, -1], [60, 4, 3, 2, 1], [80, 0, 0, 0, 0]]
            {
                let to = [coordinates[0] + 3, coordinates[1], coordinates[2] - 1, coordinates[3], coordinates[4]];
                let (source, target) = (device.upload(&tensor), device.poisoned::<u16>(elements));
                let map = |memory: &DeviceVec<u16>| {
                    let address = memory.as_ptr().expose_provenance() as u64;
                    let of = |strides| encode(rank, address, extents, strides, box_extents, swizzle);
                    of(&strides[..rank - 1])
                };
                let mut numbers = vec![box_elements as u32 * 2];
                numbers.extend(coordinates.iter().map(|&coordinate| coordinate as u32));
                numbers.extend(to.iter().map(|&coordinate| coordinate as u32));
                let words = box_elements / 2;
                let mut trial = Trial::new(device, &[0], words, &numbers);
                trial.parameters.maps = [map(&source), map(&target), map(&target)];
                let output = trial.run(TENSOR_KERNELS[rank - 1], 64, 48 << 10, (1, 1));
                let shared: Vec<u16> = output.iter().flat_map(|word| [*word as u16, (word >> 16) as u16]).collect();
                let mut expected = vec![0xffff_u16; elements];
                for element in 0..box_elements {
                    let mut rest = element;
                    let mut place = [0_i64; 5];
                    for (dimension, place) in place.iter_mut().enumerate() {
                        *place = (rest % box_extents[dimension] as usize) as i64;
                        rest /= box_extents[dimension] as usize;
                    }
                    let at = |from: [i32; 5]| -> Option<usize> {
                        let index: Vec<i64> = (0..rank).map(|i| place[i] + i64::from(from[i])).collect();
                        let inside =
                            index.iter().zip(extents).all(|(&place, extent)| (0..extent as i64).contains(&place));
                        inside.then(|| offset(&index))
                    };
                    let value = at(coordinates).map_or(0, |place| tensor[place]);
                    let name = format!("rank {rank} {swizzle:?} {coordinates:?} element {element}");
                    assert_eq!(shared[swizzled(element * 2, span) / 2], value, "{name}");
                    if let Some(place) = at(to) {
                        expected[place] = value;
                    }
                }
                assert_eq!(device.download(&target), expected, "rank {rank} {swizzle:?} to {to:?}");
            }
        }
    }
}

/// A map of the first `rank` dimensions.
fn encode(
    rank: usize,
    address: u64,
    extents: [u64; 5],
    strides: &[u64],
    boxes: [u32; 5],
    swizzle: Swizzle,
) -> TensorMap {
    fn first<T: Copy, const RANK: usize>(values: [T; 5]) -> [T; RANK] {
        std::array::from_fn(|i| values[i])
    }
    let map = match rank {
        1 => TensorMap::bf16::<1>(address, first(extents), strides, first(boxes), swizzle),
        2 => TensorMap::bf16::<2>(address, first(extents), strides, first(boxes), swizzle),
        3 => TensorMap::bf16::<3>(address, first(extents), strides, first(boxes), swizzle),
        4 => TensorMap::bf16::<4>(address, first(extents), strides, first(boxes), swizzle),
        _ => TensorMap::bf16::<5>(address, extents, strides, boxes, swizzle),
    };
    map.unwrap_or_else(|error| panic!("a map of rank {rank}: {error}"))
}

fn clusters(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    for blocks in [2_usize, 4] {
        let input = words(&mut Random(8), 128 * blocks);
        let boxes = words(&mut Random(9), 8 * 8 * blocks);
        let tensor = device.upload(&boxes);
        let address = tensor.as_ptr().expose_provenance() as u64;
        // Rows of 16 elements; each block loads eight of them.
        let map =
            TensorMap::bf16(address, [16, 8 * blocks as u64], &[32], [16, 8], Swizzle::None).expect("a valid map");
        let clusters = 2;
        let mut trial = Trial::new(device, &input, clusters * blocks * 2048, &[256]);
        trial.parameters.maps = [map; 3];
        let output = trial.run("instruction_clusters", 128, 40 << 10, ((clusters * blocks) as u32, blocks as u32));
        for (block, output) in output.chunks(2048).enumerate() {
            let (rank, before) = (block % blocks, (block + blocks - 1) % blocks);
            assert_eq!(output[..128], input[before * 128..][..128], "words of the neighbour, block {block}");
            assert_eq!(output[256..384], input[rank * 128..][..128], "words at the neighbour, block {block}");
            let copied: Vec<u32> = (0..128).map(|i| (before * 1000 + i) as u32).collect();
            assert_eq!(output[512..640], copied, "the bulk copy, block {block}");
            assert_eq!(output[1024..1024 + boxes.len()], boxes, "the boxes, block {block}");
        }
    }
}

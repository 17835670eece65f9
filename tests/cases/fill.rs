//! kernels/fill.cu against an independent Philox, and kernels/bandwidth.cu against what it says it moves.

use gridpoint_runtime::parameters::{
    BandwidthParameters, FillParameters, GRIDPOINT_BANDWIDTH_THREADS, GRIDPOINT_FILL_THREADS,
};

use super::fixture::Random;
use super::sample::philox;
use crate::support::{Case, TestDevice};

const POISON: u16 = 0xffff;

/// The cases of both kernels.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, run| Case { name, run };
    vec![
        case("fill/numbers_follow_from_seed_tensor_and_place", numbers_follow_from_seed as fn(&TestDevice)),
        case("bandwidth/bytes_are_moved_and_folded", bytes_are_moved_and_folded),
    ]
}

fn fill(
    device: &TestDevice,
    kernel: &'static str,
    count: usize,
    slack: usize,
    of: FillParameters,
    blocks: u32,
) -> Vec<u16> {
    let target = device.poisoned::<u16>(count + slack);
    let parameters = FillParameters { target: target.as_mut_ptr(), count: count as u64, ..of };
    device.launch(kernel, blocks, GRIDPOINT_FILL_THREADS, 0, &parameters).expect(kernel);
    device.download(&target)
}

fn numbers_follow_from_seed(device: &TestDevice) {
    let of = |seed, tensor, half_width, offset| FillParameters {
        target: std::ptr::null_mut(),
        count: 0,
        seed,
        half_width,
        offset,
        tensor,
        reserved: 0,
    };
    for (count, seed, tensor, half_width, offset, blocks) in [
        (1, 0_u64, 0, 1.0_f32, 0.0, 1),
        (7, 3, 1, 0.02, 0.0, 2),
        (8, 3, 1, 0.02, 0.0, 2),
        (5003, 0x1234_5678_9abc_def0, 7, 0.25, 1.0, 3),
        (40_000, 9, u32::MAX, 3.0, 0.0, 1),
    ] {
        let number = |index: usize| {
            let vector = (index / 8) as u64;
            let block = philox([vector as u32, (vector >> 32) as u32, tensor, 0], [seed as u32, (seed >> 32) as u32]);
            let bits = block[index % 8 / 2] >> (index % 2 * 16) & 0xffff;
            // Exact in float32.
            let uniform = (2.0 * bits as f32 + 1.0) / 65536.0 - 1.0;
            uniform.mul_add(half_width, offset)
        };
        let parameters = of(seed, tensor, half_width, offset);
        let values = fill(device, "fill_random", count, 9, parameters, blocks);
        let halves = fill(device, "fill_random_f16", count, 9, parameters, blocks);
        for index in 0..count {
            let expected = number(index);
            let what = format!("element {index} of {count}");
            assert_eq!(values[index], half::bf16::from_f32(expected).to_bits(), "bf16, {what}");
            assert_eq!(halves[index], half::f16::from_f32(expected).to_bits(), "float16, {what}");
            assert!(expected != 0.0 && (expected - offset).abs() < half_width, "{what}");
        }
        assert!(values[count..].iter().chain(&halves[count..]).all(|&value| value == POISON), "behind {count}");
    }
}

fn bytes_are_moved_and_folded(device: &TestDevice) {
    let mut random = Random(5);
    for (read, written, blocks) in
        [(0, 0, 1), (1, 0, 1), (0, 1, 1), (257, 257, 1), (5000, 3000, 2), (3000, 5000, 2), (9000, 0, 3), (0, 700, 2)]
    {
        let words: Vec<u32> = (0..read * 4).map(|_| random.bits() as u32).collect();
        let source = device.upload(&words);
        let target = device.poisoned::<u32>((written + 1) * 4);
        let warps = (blocks * GRIDPOINT_BANDWIDTH_THREADS / 32) as usize;
        let sums = device.poisoned::<u32>(warps);
        let parameters = BandwidthParameters {
            source: source.as_ptr(),
            target: target.as_mut_ptr(),
            sums: sums.as_mut_ptr(),
            read_vectors: read as u64,
            write_vectors: written as u64,
        };
        device.launch("bandwidth_move", blocks, GRIDPOINT_BANDWIDTH_THREADS, 0, &parameters).expect("bandwidth_move");
        let what = format!("{read} read, {written} written, {blocks} blocks");
        let moved = device.download(&target);
        let both = read.min(written) * 4;
        assert_eq!(moved[..both], words[..both], "{what}: copied");
        assert!(moved[both..written * 4].iter().all(|&word| word == 1), "{what}: written");
        assert!(moved[written * 4..].iter().all(|&word| word == u32::MAX), "{what}: behind the target");
        let folded = device.download(&sums);
        if read > written {
            let all = |words: &[u32]| words.iter().fold(0, |sum, word| sum ^ word);
            assert_eq!(all(&folded), all(&words[both..]), "{what}: folded");
        } else {
            assert!(folded.iter().all(|&word| word == u32::MAX), "{what}: nothing is folded");
        }
    }
}

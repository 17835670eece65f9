//! What `gridpoint_cuda.h` provides computes what CUDA says, in `kernels/language.cu`, which was compiled by the `cc` crate alone.

use std::sync::Arc;

use gridpoint_simulator::fault::{Access, Fault, Nearby, Reason, Space};
use gridpoint_simulator::machine::{Guard, LaunchDescription, Residency, Schedule, run};
use gridpoint_simulator::module::HostModule;
use gridpoint_simulator::{Detectors, Range, Snapshot};

unsafe extern "C" {
    #[link_name = "gridpoint_module_language"]
    safe static LANGUAGE: HostModule;
}

/// A launch: kernel, blocks, threads, blocks of a cluster, dynamic shared memory.
#[derive(Clone, Copy)]
struct Shape(&'static str, u32, [u32; 3], u32, u32);

/// Parameters that hold addresses, and the memory behind them.
struct Parameters {
    words: Vec<u64>,
    live: Vec<Range>,
}

impl Parameters {
    fn new() -> Self {
        Self { words: Vec::new(), live: Vec::new() }
    }

    fn memory<T>(mut self, values: &mut [T]) -> Self {
        let range = Range { start: values.as_mut_ptr().expose_provenance(), bytes: size_of_val(values) };
        self.words.push(range.start as u64);
        self.live.push(range);
        self
    }

    fn word(mut self, word: u64) -> Self {
        self.words.push(word);
        self
    }

    fn launch(&self, shape: Shape, (schedule, detectors): (Schedule, Detectors)) -> Result<(), Box<Fault>> {
        let Shape(name, blocks, block, cluster, shared_bytes) = shape;
        let kernel = LANGUAGE.kernel(name).unwrap_or_else(|| panic!("there is no `{name}`"));
        // SAFETY: words are bytes, which live as long as they are borrowed.
        let bytes = unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast::<u8>(), self.words.len() * 8) };
        run(&LaunchDescription {
            kernel,
            grid: [blocks, 1, 1],
            block,
            cluster: [cluster, 1, 1],
            shared_bytes,
            parameters: &bytes[..kernel.parameter_bytes() as usize],
            memory: Arc::new(Snapshot::new(self.live.clone())),
            schedule,
            residency: Residency::default(),
            detectors,
            guard: Guard::default(),
            counters: None,
        })
    }
}

/// With and without detectors, round-robin and seeded.
fn ways() -> [(Schedule, Detectors); 5] {
    [
        (Schedule::RoundRobin, Detectors::NONE),
        (Schedule::RoundRobin, Detectors::all()),
        (Schedule::Seeded(1), Detectors::NONE),
        (Schedule::Seeded(2), Detectors::all()),
        (Schedule::Seeded(3), Detectors::all()),
    ]
}

#[test]
fn warps_exchange() {
    for way in ways() {
        let mut output = vec![[77_u32; 16]; 32];
        let parameters = Parameters::new().memory(&mut output);
        parameters.launch(Shape("shuffles", 1, [32, 1, 1], 1, 0), way).unwrap_or_else(|fault| panic!("{fault}"));
        for (lane, words) in (0..).zip(&output) {
            let (eighth, sixteenth): (u32, u32) = (lane / 8 * 8, lane / 16 * 16);
            let expected = [
                5,
                eighth + 5,
                if lane - eighth < 2 { lane } else { lane - 2 },
                if lane + 3 < sixteenth + 16 { lane + 3 } else { lane },
                // 9 leads to the next eight lanes, which may not be read, or to those before, which may.
                if (lane ^ 9) > eighth + 7 { lane } else { lane ^ 9 },
                lane ^ 4,
                lane.max(1) - 1 + 7,
                lane ^ 1,
                (0..32).filter(|lane| lane % 3 == 0).map(|lane| 1 << lane).sum(),
                2,
                31 * 16,
                -16_i32 as u32,
                !0,
                if lane < 4 { lane ^ 3 } else { 77 },
                [3, 1, 4, 1][lane as usize % 4],
                32,
            ];
            assert_eq!(*words, expected, "lane {lane} {way:?}");
        }
    }
}

#[test]
fn threads_add_up() {
    for way in ways() {
        let mut ints = [0_i32, 0, 0, 0, 0, 0, 0];
        let mut words = [0_u32, !0, 0, 0, 0];
        let mut longs = [0_u64; 4];
        let (mut floats, mut doubles) = ([0.0_f32], [0.0_f64]);
        let parameters = Parameters::new()
            .memory(&mut ints)
            .memory(&mut words)
            .memory(&mut longs)
            .memory(&mut floats)
            .memory(&mut doubles);
        parameters.launch(Shape("atomics", 1, [16, 5, 1], 1, 0), way).unwrap_or_else(|fault| panic!("{fault}"));
        let sum = 79 * 80 / 2;
        assert_eq!(ints, [sum, -sum, -79, 79, 17, 4, 0], "{way:?}");
        // 80 threads: every bit is flipped twice or, of the lower sixteen, three times; 80 steps of a count from 0 to 9.
        assert_eq!(words, [!0, 0, 0xffff, 0, 0], "{way:?}");
        assert_eq!(longs, [80 << 33, 79 << 40, -79_i64 as u64, 5], "{way:?}");
        assert_eq!((floats, doubles), ([40.0], [20.0]), "{way:?}");
    }
}

#[test]
fn numbers_are_cudas() {
    for way in ways() {
        let mut output = [0_u32; 12];
        // Pair { 9, 2.0 }, dim3(5, 6, 7).
        let pair = 9 | u64::from(2.0_f32.to_bits()) << 32;
        let parameters = Parameters::new().memory(&mut output).word(pair).word(5 | 6 << 32).word(7);
        parameters.launch(Shape("arithmetic", 1, [1, 1, 1], 1, 0), way).unwrap_or_else(|fault| panic!("{fault}"));
        let expected = [
            4 * 1000 + 31 * 10 + 4,
            0x8000_0000 + 3,
            42,
            1.0_f32.to_bits(),
            22,
            3,
            765,
            4.0_f32.to_bits(),
            1612,
            101,
            6463,
            0x8000_0001,
        ];
        assert_eq!(output, expected, "{way:?}");
    }
}

fn reverse(blocks: u32, cluster: u32, beyond: u64, way: (Schedule, Detectors)) -> Result<Vec<i32>, Box<Fault>> {
    let mut input: Vec<i32> = (0..blocks as i32 * 64).collect();
    let mut output = vec![0; input.len()];
    let parameters = Parameters::new().memory(&mut input).memory(&mut output).word(beyond);
    parameters.launch(Shape("reversed", blocks, [64, 1, 1], cluster, 256), way)?;
    Ok(output)
}

#[test]
fn static_and_dynamic_shared_memory_lie_beside_each_other() {
    for way in ways() {
        let expected: Vec<i32> = (0..6 * 64).collect();
        // Element 63 - i of the output is element 63 - (63 - (63 - i)) of the input.
        let reversed: Vec<i32> = expected.chunks(64).flat_map(|block| block.iter().rev().copied()).collect();
        assert_eq!(reverse(6, 1, 0, way), Ok(reversed), "{way:?}");
    }
}

#[test]
fn what_leaves_static_shared_memory_is_found() {
    let fault =
        reverse(1, 1, 16, (Schedule::RoundRobin, Detectors::all())).expect_err("threads from 48 on write too far");
    let Reason::OutOfBounds { space: Space::Shared, access: Access::Write, bytes: 4, nearby, .. } = fault.reason else {
        panic!("{fault}")
    };
    let Nearby::Live { offset, bytes: 256 } = nearby else { panic!("{fault}") };
    assert_eq!((fault.block, offset), ([0; 3], i64::from((fault.thread[0] + 16) * 4)), "{fault}");
    assert!(fault.thread[0] >= 48, "{fault}");
}

#[test]
fn clusters_cannot_share_one_copy() {
    let fault = reverse(4, 2, 0, (Schedule::RoundRobin, Detectors::NONE)).expect_err("two blocks at a time");
    let Reason::Cluster { rule } = &fault.reason else { panic!("{fault}") };
    assert!(rule.contains("static shared memory, here 256 bytes"), "{rule}");
}

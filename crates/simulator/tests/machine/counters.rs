//! Counters: exact numbers of small kernels, the same under every schedule, and what a waste looks like.

use std::ffi::c_void;
use std::sync::Arc;

use gridpoint_simulator::counters::{
    BankCounts, BarrierCounts, ByteCounts, Counts, LaunchCounts, MultiplyCounts, Recorder, TranscendentalCounts,
};
use gridpoint_simulator::machine::hopper::{
    gridpoint_bulk_commit, gridpoint_bulk_load, gridpoint_bulk_store, gridpoint_bulk_wait,
    gridpoint_fence_mbarrier_init, gridpoint_mbarrier_arrive, gridpoint_mbarrier_init, gridpoint_mbarrier_wait,
    gridpoint_mma_f16, gridpoint_shared_cluster, gridpoint_stmatrix, gridpoint_wgmma, gridpoint_wgmma_commit,
    gridpoint_wgmma_fence, gridpoint_wgmma_wait,
};
use gridpoint_simulator::machine::instructions::{
    gridpoint_atomic_add, gridpoint_barrier, gridpoint_cp_async, gridpoint_cp_async_commit, gridpoint_cp_async_wait,
    gridpoint_ldmatrix, gridpoint_mma_bf16, gridpoint_warp_sync,
};
use gridpoint_simulator::machine::told::{gridpoint_site, gridpoint_transcendental};
use gridpoint_simulator::machine::{Guard, LaunchDescription, Residency, Schedule, run_chain};
use gridpoint_simulator::module::HostKernel;
use gridpoint_simulator::{Detectors, Snapshot};

use crate::detectors::{barrier, get, put};
use crate::support::{
    Case, FULL, Parameters, SHARED, Words, identity, load, parameters, schedules, shared_word, store, thread,
};

/// The counts of a launch, the same under every schedule and with detectors.
fn counted(case: &Case) -> LaunchCounts {
    let run = |schedule, detectors| {
        let recorder = Recorder::new();
        let case = Case { counters: Some(recorder.clone()), detectors, ..case.clone() };
        case.run(schedule).unwrap_or_else(|fault| panic!("{fault}"));
        let recorded = recorder.take();
        assert!(recorded.graphs.is_empty());
        assert_eq!(recorded.launches.len(), 1);
        recorded.launches.into_iter().next().expect("one launch")
    };
    let first = run(Schedule::RoundRobin, Detectors::NONE);
    for schedule in schedules() {
        for detectors in [Detectors::NONE, Detectors::all().without_uninitialised()] {
            assert_eq!(run(schedule, detectors), first, "{schedule:?}, {detectors:?}");
        }
    }
    first
}

/// Every thread of the first blocks, as many as `numbers[0]` says, reads input word 0 and its own, and writes its own output word.
extern "C" fn copies(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let [working, again, ..] = parameters.numbers;
    let block = identity().block[0];
    // SAFETY: inside a kernel.
    unsafe {
        gridpoint_barrier(0, 0);
        gridpoint_warp_sync(FULL);
        if thread() < 32 {
            gridpoint_barrier(3, 32);
        }
    }
    if block < working {
        let own = block * identity().block_size[0] + thread();
        let mut sum = load(parameters, 0);
        for _ in 0..=again {
            sum = sum.wrapping_add(load(parameters, own));
        }
        store(parameters, own, sum);
    }
}

fn copying(again: u32) -> LaunchCounts {
    let mut case = Case::new(copies, 64).input(vec![7; 192]).output_words(192).numbers([2, again, 0, 0]);
    case.grid = [3, 1, 1];
    counted(&case)
}

#[test]
fn bytes_are_counted_by_address_and_by_access() {
    let LaunchCounts { kernel, grid, block, cluster, graph, counts } = copying(0);
    assert_eq!((kernel.as_str(), grid, block, cluster, graph), ("test_kernel", [3, 1, 1], [64, 1, 1], [1, 1, 1], None));
    let expected = Counts {
        read: ByteCounts { distinct: 128 * 4, total: 2 * 128 * 4 },
        written: ByteCounts { distinct: 128 * 4, total: 128 * 4 },
        barriers: BarrierCounts { block: 3, named: 3, warp: 6, ..BarrierCounts::default() },
        blocks: 3,
        idle_blocks: 1,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
}

#[test]
fn a_kernel_that_reads_twice_is_over_its_budget() {
    // What the shape needs: each block's words once, and word 0 once a thread.
    let budget = copying(0).counts.read.total;
    let waste = copying(1).counts;
    assert_eq!(waste.read.distinct, 128 * 4, "the same bytes");
    assert!(waste.read.total > budget, "{} bytes read of at most {budget}", waste.read.total);
    assert_eq!(waste.read.total, 3 * 128 * 4);
}

extern "C" fn plain_and_atomic(pointer: *const c_void) {
    let parameters = parameters(pointer);
    put(parameters.output.wrapping_add(thread() as usize), get(parameters.input.wrapping_add(thread() as usize)));
    // SAFETY: inside a kernel; the address is checked.
    unsafe {
        gridpoint_atomic_add(parameters.output.wrapping_add(64), 1, 1, 0);
        // Shared memory is no global memory.
        gridpoint_atomic_add(shared_word(0), 1, 0, 0);
        put(shared_word(1 + thread()), 1);
        gridpoint_transcendental(thread() % 5);
    }
}

#[test]
fn plain_accesses_atomics_and_transcendentals() {
    let counts = counted(&Case::new(plain_and_atomic, 64).input(vec![0; 64]).output_words(65)).counts;
    assert_eq!(counts.read, ByteCounts { distinct: 64 * 4 + 4, total: 64 * 4 + 64 * 4 });
    assert_eq!(counts.written, ByteCounts { distinct: 65 * 4, total: 128 * 4 });
    let expected = TranscendentalCounts {
        exponentials_base_2: 13,
        exponentials: 13,
        logarithms: 13,
        reciprocal_square_roots: 13,
        divisions: 12,
    };
    assert_eq!((counts.transcendentals, counts.transcendentals.all()), (expected, 64));
}

/// Each thread copies 16 bytes of which `numbers[0]` are read, to places `numbers[1]` bytes apart, at one site.
extern "C" fn asynchronous(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let [read, stride, ..] = parameters.numbers;
    // SAFETY: inside a kernel; addresses are checked.
    unsafe {
        gridpoint_site(5);
        gridpoint_cp_async(
            SHARED + thread() * stride,
            parameters.input.wrapping_add(thread() as usize * 4).cast(),
            16,
            read,
        );
        gridpoint_cp_async_commit();
        gridpoint_cp_async_wait(0);
    }
}

#[test]
fn a_copy_reads_its_source_bytes() {
    let case = Case::new(asynchronous, 32).input(vec![1; 128]);
    for (read, total) in [(16, 512), (8, 256), (0, 0)] {
        let counts = counted(&case.clone().numbers([read, 16, 0, 0])).counts;
        assert_eq!(counts.read, ByteCounts { distinct: total, total });
        assert_eq!(counts.vectors, BankCounts { phases: 4, conflicts: 0 });
        assert_eq!(counts.idle_blocks, 1);
    }
    let counts = counted(&case.numbers([16, 128, 0, 0])).counts;
    assert_eq!(counts.vectors, BankCounts { phases: 4, conflicts: 4 * 7 });
}

/// Lane i writes and reads 16 bytes of row i % 8 of matrix i / 8, whose rows are `numbers[0]` bytes long: the first of a row, or, if
/// `numbers[1]` says so, the one whose number is the row's. By stmatrix, ldmatrix and a vector access.
extern "C" fn rows(pointer: *const c_void) {
    let [stride, swizzled, ..] = parameters(pointer).numbers;
    let (row, matrix) = (thread() % 8, thread() / 8);
    let address = SHARED + matrix * 2048 + row * stride + row * swizzled * 16;
    // SAFETY: inside a kernel; four registers.
    unsafe {
        let mut registers = [0_u32; 4];
        gridpoint_stmatrix(registers.as_ptr(), 4, 0, address);
        gridpoint_warp_sync(FULL);
        gridpoint_ldmatrix(registers.as_mut_ptr(), 4, 0, address);
        gridpoint_site(1);
        gridpoint_shared_cluster(address, 16, 16, 0);
        // Where it stands is not said, so nothing is said of its banks.
        gridpoint_shared_cluster(address, 16, 16, 0);
    }
}

#[test]
fn strides_and_swizzles() {
    for (stride, swizzled, conflicts) in [(16, 0, 0), (32, 0, 1), (128, 0, 7), (128, 1, 0), (144, 0, 0), (256, 0, 7)] {
        let counts = counted(&Case::new(rows, 32).numbers([stride, swizzled, 0, 0])).counts;
        assert_eq!(counts.matrices, BankCounts { phases: 8, conflicts: 8 * conflicts }, "rows of {stride} bytes");
        assert_eq!(counts.vectors, BankCounts { phases: 4, conflicts: 4 * conflicts }, "rows of {stride} bytes");
    }
}

/// Lanes go through a loop as often as their number says, between two barriers.
extern "C" fn diverging(pointer: *const c_void) {
    let [words, ..] = parameters(pointer).numbers;
    // SAFETY: inside a kernel.
    unsafe {
        for turn in 0..=thread() % 4 {
            gridpoint_site(9);
            gridpoint_shared_cluster(SHARED + (thread() * words + turn) * 4, 4, 4, 0);
        }
        gridpoint_warp_sync(FULL);
        gridpoint_site(9);
        gridpoint_shared_cluster(SHARED + thread() * words * 4, 4, 4, 0);
    }
}

#[test]
fn turns_of_a_loop_are_told_apart() {
    let counts = counted(&Case::new(diverging, 32).numbers([1, 0, 0, 0])).counts;
    assert_eq!(counts.vectors, BankCounts { phases: 5, conflicts: 0 });
    let counts = counted(&Case::new(diverging, 32).numbers([32, 0, 0, 0])).counts;
    assert_eq!(counts.vectors, BankCounts { phases: 5, conflicts: 31 + 31 + 23 + 15 + 7 });
}

extern "C" fn multiplies(_: *const c_void) {
    let (mut d, a, b) = ([0.0_f32; 24], [0_u32; 8], [0_u32; 6]);
    // SAFETY: inside a kernel; registers of 2 x 3 tiles.
    unsafe {
        gridpoint_mma_bf16(d.as_mut_ptr(), a.as_ptr(), b.as_ptr(), 2, 3);
        gridpoint_mma_f16(d.as_mut_ptr(), a.as_ptr(), b.as_ptr(), 1, 3);
        gridpoint_wgmma_fence();
        // Both operands at the start of shared memory, which is zeros.
        let descriptor = u64::from(SHARED >> 4) | 1 << 16 | 1 << 32;
        gridpoint_wgmma(d.as_mut_ptr(), descriptor, descriptor, 24, 0);
        gridpoint_wgmma(d.as_mut_ptr(), descriptor, descriptor, 24, 64);
        gridpoint_wgmma_commit();
        gridpoint_wgmma_wait(0);
    }
}

#[test]
fn multiplications_by_shape() {
    let case = Case { shared_bytes: 64 << 10, ..Case::new(multiplies, 128) };
    let run = |detectors| {
        let recorder = Recorder::new();
        let case = Case { counters: Some(recorder.clone()), detectors, ..case.clone() };
        case.run(Schedule::Seeded(3)).unwrap_or_else(|fault| panic!("{fault}"));
        recorder.take().launches[0].counts.multiplies.clone()
    };
    let expected = MultiplyCounts { bf16: 4 * 6, f16: 4 * 3, warpgroup: [(24, 2)].into() };
    assert_eq!(run(Detectors::NONE), expected);
    assert_eq!(expected.m16n8k16(), 24 + 12 + 24);
}

extern "C" fn bulk(pointer: *const c_void) {
    const BARRIER: u32 = SHARED + 8192;
    let parameters = parameters(pointer);
    // SAFETY: inside a kernel; addresses are checked.
    unsafe {
        if thread() == 0 {
            gridpoint_mbarrier_init(BARRIER, 1);
            gridpoint_fence_mbarrier_init();
        }
        gridpoint_barrier(0, 0);
        if thread() == 0 {
            gridpoint_mbarrier_arrive(BARRIER, 1, 256);
            gridpoint_bulk_load(SHARED, parameters.input.cast(), 256, BARRIER, 0);
        }
        while gridpoint_mbarrier_wait(BARRIER, 0, 1) == 0 {}
        if thread() == 0 {
            gridpoint_bulk_store(parameters.output.cast(), SHARED, 128);
            gridpoint_bulk_commit();
            gridpoint_bulk_wait(0, 0);
        }
    }
}

#[test]
fn bulk_copies_and_waits() {
    let counts = counted(&Case::new(bulk, 64).input(vec![0; 64]).output_words(32)).counts;
    assert_eq!(counts.read, ByteCounts { distinct: 256, total: 256 });
    assert_eq!(counts.written, ByteCounts { distinct: 128, total: 128 });
    assert_eq!(counts.barriers, BarrierCounts { block: 1, mbarrier_waits: 64, ..BarrierCounts::default() });
}

extern "C" fn races(pointer: *const c_void) {
    let parameters = parameters(pointer);
    put(parameters.output, thread());
}

#[test]
fn detectors_still_see_what_they_saw_and_a_fault_leaves_no_counts() {
    let recorder = Recorder::new();
    let case = Case { counters: Some(recorder.clone()), ..Case::new(races, 64).watched() };
    assert!(case.run(Schedule::RoundRobin).unwrap_err().to_string().contains("race"));
    assert!(recorder.take().launches.is_empty());
}

/// Lane i writes, and reads in a loop of i % 2 + 1 turns, a plain word `numbers[0]` words from its neighbour's.
extern "C" fn plain_words(pointer: *const c_void) {
    let [words, ..] = parameters(pointer).numbers;
    put(shared_word(thread() * words), 1);
    barrier();
    for _ in 0..=thread() % 2 {
        get(shared_word(thread() * words));
    }
}

#[cfg(all(target_arch = "x86_64", unix))]
#[test]
fn plain_accesses_are_grouped_by_the_code_behind_them() {
    for (words, conflicts) in [(1, 0), (2, 1 + 1 + 1), (32, 31 + 31 + 15)] {
        let counts = counted(&Case::new(plain_words, 32).numbers([words, 0, 0, 0])).counts;
        assert_eq!(counts.plain, BankCounts { phases: 3, conflicts }, "{words} words apart");
        assert_eq!(counts.vectors, BankCounts::default());
    }
}

#[test]
fn launches_of_a_chain_are_counted_one_by_one() {
    let (mut input, mut output) = (Words::new(&[7; 128]), Words::new(&[0; 128]));
    let memory = Arc::new(Snapshot::new(vec![input.range(), output.range()]));
    let names = [c"first", c"second", c"third"];
    // SAFETY: the kernel takes `Parameters` and keeps nothing that has to be dropped over an instruction.
    let kernels = names.map(|name| unsafe { HostKernel::new(name, copies, size_of::<Parameters>() as u32, 1024) });
    let parameters = [0, 1, 2].map(|again| Parameters {
        input: input.pointer(),
        output: output.pointer(),
        numbers: [2, again, 0, 0],
    });
    let run = |schedule| {
        let recorder = Recorder::new();
        let description = |(kernel, parameters): (_, &Parameters)| LaunchDescription {
            kernel,
            grid: [2, 1, 1],
            block: [64, 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            // SAFETY: a struct without padding, read as bytes while it lives.
            parameters: unsafe {
                std::slice::from_raw_parts(std::ptr::from_ref(parameters).cast::<u8>(), size_of::<Parameters>())
            },
            memory: memory.clone(),
            schedule,
            residency: Residency::default(),
            detectors: Detectors::NONE,
            guard: Guard::default(),
            counters: Some(recorder.clone()),
        };
        let chain: Vec<LaunchDescription<'_>> = kernels.iter().zip(&parameters).map(description).collect();
        run_chain(&chain).unwrap_or_else(|fault| panic!("{fault}"));
        recorder.take()
    };
    let recorded = run(Schedule::RoundRobin);
    let seen: Vec<_> =
        recorded.launches.iter().map(|launch| (launch.kernel.as_str(), launch.counts.read.total)).collect();
    assert_eq!(seen, [("first", 2 * 512), ("second", 3 * 512), ("third", 4 * 512)]);
    for schedule in schedules() {
        assert_eq!(run(schedule), recorded, "{schedule:?}");
    }
}

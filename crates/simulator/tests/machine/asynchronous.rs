//! mbarriers, bulk copies, clusters and warpgroups: when they finish, and every fault of theirs by a planted bug.

use std::ffi::c_void;

use gridpoint_simulator::fault::Reason;
use gridpoint_simulator::machine::Schedule;
use gridpoint_simulator::machine::hopper::{
    gridpoint_barrier_arrive, gridpoint_bulk_commit, gridpoint_bulk_load, gridpoint_bulk_store, gridpoint_bulk_wait,
    gridpoint_cluster_barrier, gridpoint_cluster_place, gridpoint_fence_mbarrier_init, gridpoint_fence_proxy_async,
    gridpoint_map_shared, gridpoint_mbarrier_arrive, gridpoint_mbarrier_init, gridpoint_mbarrier_wait,
    gridpoint_set_registers, gridpoint_shared_cluster, gridpoint_shared_written, gridpoint_wgmma,
    gridpoint_wgmma_commit, gridpoint_wgmma_fence, gridpoint_wgmma_wait,
};
use gridpoint_simulator::machine::instructions::{
    gridpoint_barrier, gridpoint_cp_async, gridpoint_cp_async_commit, gridpoint_cp_async_wait, gridpoint_yield,
};

use crate::support::{Case, SHARED, identity, parameters, shared_load, shared_store, store, thread};

/// Where the mbarriers lie.
const FULL: u32 = SHARED + 8192;
const EMPTY: u32 = FULL + 8;

fn mbarrier_rule(reason: Reason) -> String {
    match reason {
        Reason::Mbarrier { rule, .. } => rule,
        other => panic!("{other}"),
    }
}

/// Initialises both mbarriers, for all threads.
fn initialise(count: u32, fenced: bool) {
    // SAFETY: inside a kernel.
    unsafe {
        if thread() == 0 {
            gridpoint_mbarrier_init(FULL, count);
            gridpoint_mbarrier_init(EMPTY, count);
            if fenced {
                gridpoint_fence_mbarrier_init();
            }
        }
        gridpoint_barrier(0, 0);
    }
}

extern "C" fn ring(pointer: *const c_void) {
    // Thread 0 loads 64 bytes ten times; the others sum them. numbers: leave out the wait for the empty stage.
    let parameters = parameters(pointer);
    let [skip_empty, rounds, ..] = parameters.numbers;
    // SAFETY: inside a kernel.
    unsafe {
        if thread() == 0 {
            gridpoint_mbarrier_init(FULL, 1);
            gridpoint_mbarrier_init(EMPTY, identity().block_size[0] - 1);
            gridpoint_fence_mbarrier_init();
        }
        gridpoint_barrier(0, 0);
        let mut sum = 0u32;
        for round in 0..rounds {
            if thread() == 0 {
                if skip_empty == 0 {
                    while gridpoint_mbarrier_wait(EMPTY, (round % 2) ^ 1, 1) == 0 {}
                }
                gridpoint_mbarrier_arrive(FULL, 1, 64);
                gridpoint_bulk_load(SHARED, parameters.input.wrapping_add(round as usize * 16).cast(), 64, FULL, 0);
            } else {
                while gridpoint_mbarrier_wait(FULL, round % 2, 1) == 0 {}
                sum = sum.wrapping_add(shared_load(thread() % 16));
                gridpoint_mbarrier_arrive(EMPTY, 1, 0);
            }
        }
        store(parameters, thread(), sum);
    }
}

#[test]
fn a_ring_of_one_stage_delivers_every_round() {
    let input: Vec<u32> = (0..160).map(|word| word * word).collect();
    let output = Case::new(ring, 96).input(input.clone()).numbers([0, 10, 0, 0]).run_everywhere();
    for (thread, sum) in output.into_iter().enumerate().skip(1) {
        let expected: u32 = (0..10).map(|round| input[round * 16 + thread % 16]).sum();
        assert_eq!(sum, expected, "thread {thread}");
    }
}

#[test]
fn a_producer_that_does_not_wait_overruns() {
    let reason = Case::new(ring, 96).input(vec![1; 160]).numbers([1, 10, 0, 0]).fault_at().2;
    assert!(mbarrier_rule(reason).contains("overrun"));
}

extern "C" fn misused(pointer: *const c_void) {
    // SAFETY: inside a kernel.
    unsafe {
        let parameters = parameters(pointer);
        let bug = parameters.numbers[0];
        if bug != 1 {
            initialise(2, bug != 2);
        }
        if bug == 9 {
            while gridpoint_mbarrier_wait(FULL, 0, 1) == 0 {}
        }
        if thread() != 0 {
            return;
        }
        match bug {
            // Arrives more often than the phase expects, while bytes are missing.
            0 => (0..3).for_each(|_| gridpoint_mbarrier_arrive(FULL, 1, 16)),
            // Not initialised.
            1 => gridpoint_mbarrier_arrive(FULL, 1, 0),
            // Initialised without a fence that copies see.
            2 => gridpoint_bulk_load(SHARED, parameters.input.cast(), 16, FULL, 0),
            // Initialised twice.
            3 => gridpoint_mbarrier_init(FULL, 1),
            4 => gridpoint_mbarrier_init(EMPTY + 8, 0),
            5 => gridpoint_mbarrier_arrive(FULL, 0, 1 << 20),
            6 => _ = gridpoint_mbarrier_wait(FULL, 2, 1),
            7 => gridpoint_mbarrier_init(EMPTY + 4, 1),
            // A phase that nobody completes.
            _ => {
                gridpoint_mbarrier_arrive(FULL, 1, 48);
                while gridpoint_mbarrier_wait(FULL, 0, 1) == 0 {}
            }
        }
    }
}

#[test]
fn misused_mbarriers_are_reported() {
    let reason = |bug| Case::new(misused, 32).input(vec![0; 16]).numbers([bug, 0, 0, 0]).fault_at().2;
    assert_eq!(mbarrier_rule(reason(0)), "overruns its phase: 1 arrive where 0 of 2 are missing");
    assert_eq!(mbarrier_rule(reason(1)), "holds no initialised object");
    assert!(mbarrier_rule(reason(2)).contains("without a fence.mbarrier_init"));
    assert!(mbarrier_rule(reason(3)).contains("again without mbarrier.inval"));
    assert!(matches!(reason(4), Reason::InvalidOperand { .. }));
    assert!(mbarrier_rule(reason(5)).contains("1048576 bytes"));
    assert!(matches!(reason(6), Reason::InvalidOperand { .. }));
    assert!(matches!(reason(7), Reason::Misaligned { .. }));
}

#[test]
fn a_phase_that_never_completes_is_a_deadlock_that_says_what_is_missing() {
    let case = Case::new(misused, 32).numbers([8, 0, 0, 0]);
    let Err(fault) = case.run(Schedule::RoundRobin) else { panic!("nothing can complete the phase") };
    let Reason::Deadlock { waiting } = fault.reason else { panic!("{}", fault.reason) };
    assert_eq!(waiting, "thread 0 waits at mbarrier `0x2400` for parity 0, 1 of 2 arrivals and 48 bytes missing");
    let all = Case::new(misused, 40).numbers([9, 0, 0, 0]).run(Schedule::RoundRobin).expect_err("nobody arrives");
    let waiting = "thread 0 and 39 others wait at mbarrier `0x2400` for parity 0, 2 of 2 arrivals and 0 bytes missing";
    assert_eq!(all.reason, Reason::Deadlock { waiting: waiting.to_owned() });
    assert!(matches!(
        case.run(Schedule::Seeded(3)).expect_err("as above").reason,
        Reason::Deadlock { .. } | Reason::Spinning { .. }
    ));
}

extern "C" fn missed_phase(_: *const c_void) {
    // SAFETY: inside a kernel.
    unsafe {
        initialise(1, true);
        if thread() == 32 {
            // Waits for the first phase, and runs again only after the second has completed.
            while gridpoint_mbarrier_wait(FULL, 0, 1) == 0 {}
        } else if thread() == 0 {
            for _ in 0..100 {
                gridpoint_yield();
            }
            gridpoint_mbarrier_arrive(FULL, 1, 0);
            gridpoint_mbarrier_arrive(FULL, 1, 0);
        }
    }
}

#[test]
fn a_phase_that_is_over_before_a_waiter_sees_it_is_reported() {
    let fault = Case::new(missed_phase, 64).run(Schedule::RoundRobin).expect_err("thread 32 misses its phase");
    assert!(mbarrier_rule(fault.reason).contains("the phases overrun"));
}

extern "C" fn late_load(pointer: *const c_void) {
    let parameters = parameters(pointer);
    // SAFETY: inside a kernel.
    unsafe {
        initialise(1, true);
        if thread() == 0 {
            gridpoint_mbarrier_arrive(FULL, 1, 16);
            gridpoint_bulk_load(SHARED, parameters.input.cast(), 16, FULL, 0);
            store(parameters, 0, shared_load(0));
            if parameters.numbers[0] != 0 {
                return;
            }
            while gridpoint_mbarrier_wait(FULL, 0, 1) == 0 {}
            store(parameters, 1, shared_load(0));
        }
    }
}

#[test]
fn a_load_lands_at_its_wait_and_its_target_is_poison_before() {
    let case = Case::new(late_load, 32).input(vec![77; 4]);
    assert_eq!(case.run(Schedule::RoundRobin).expect("no fault")[..2], [u32::MAX, 77]);
    let case = case.numbers([1, 0, 0, 0]);
    let fault = case.run(Schedule::RoundRobin).expect_err("the load lands in a block that has exited");
    assert!(matches!(fault.reason, Reason::Cluster { .. }), "{}", fault.reason);
}

extern "C" fn stores(pointer: *const c_void) {
    // numbers: which part is left out or wrong.
    let parameters = parameters(pointer);
    let bug = parameters.numbers[0];
    // SAFETY: inside a kernel.
    unsafe {
        if parameters.numbers[1] == 0 {
            shared_store(thread(), 500 + thread());
            gridpoint_shared_written(SHARED + thread() * 4, 4);
        } else {
            let source = parameters.input.wrapping_add(thread() as usize);
            gridpoint_cp_async(SHARED + thread() * 4, source.cast(), 4, 4);
            gridpoint_cp_async_commit();
            gridpoint_cp_async_wait(0);
        }
        if bug != 1 {
            gridpoint_fence_proxy_async();
        }
        gridpoint_barrier(0, 0);
        if thread() == 0 {
            gridpoint_bulk_store(parameters.output.cast(), SHARED, 128);
            gridpoint_bulk_commit();
            if bug != 2 && bug != 3 {
                gridpoint_bulk_wait(0, 1);
            }
            shared_store(5, 1);
            if bug == 3 {
                gridpoint_bulk_wait(0, 0);
            }
        }
    }
}

#[test]
fn a_store_needs_a_proxy_fence_and_reads_its_source_until_its_wait() {
    let case = |bug| Case::new(stores, 32).numbers([bug, 0, 0, 0]);
    assert_eq!(case(0).run_everywhere(), (500..532).collect::<Vec<u32>>());
    let (_, thread, reason) = case(1).fault_at();
    assert_eq!(thread, 0);
    assert_eq!(reason, Reason::ProxyFence { operation: "a bulk copy's read", address: SHARED, thread: 0 });
    let fault = case(2).run(Schedule::RoundRobin).expect_err("the source may go with the block");
    assert!(matches!(fault.reason, Reason::Unfinished { .. }), "{}", fault.reason);
    // What cp.async wrote needs the fence as well.
    let copied = |bug| Case::new(stores, 32).input((500..532).collect()).numbers([bug, 1, 0, 0]);
    assert_eq!(copied(0).run_everywhere(), (500..532).collect::<Vec<u32>>());
    let (_, thread, reason) = copied(1).fault_at();
    assert_eq!(thread, 0);
    assert_eq!(reason, Reason::ProxyFence { operation: "a bulk copy's read", address: SHARED, thread: 0 });
    // The source is overwritten too early.
    assert_eq!(case(3).run(Schedule::RoundRobin).expect("no fault")[5], 1);
}

/// A descriptor of a K-major matrix without swizzle at byte `offset` of shared memory.
fn descriptor(offset: u32) -> u64 {
    u64::from((SHARED + offset) / 16) | 8 << 16 | 16 << 32
}

extern "C" fn products(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let bug = parameters.numbers[0];
    // SAFETY: inside a kernel, with registers of the right size.
    unsafe {
        // Ones in both operands: 2 KiB of a, 256 bytes of b.
        for word in (thread()..1024).step_by(128) {
            shared_store(word, 0x3f80_3f80);
            gridpoint_shared_written(SHARED + word * 4, 4);
        }
        if bug != 1 {
            gridpoint_fence_proxy_async();
        }
        gridpoint_barrier(0, 0);
        let mut d = [1f32; 4];
        if bug != 2 {
            gridpoint_wgmma_fence();
        }
        let b = if bug == 3 && thread() / 32 == 2 { descriptor(2304) } else { descriptor(2048) };
        let b = if bug == 4 && thread() % 32 == 7 { descriptor(2304) } else { b };
        gridpoint_wgmma(d.as_mut_ptr(), descriptor(0), b, 8, 64);
        gridpoint_wgmma(d.as_mut_ptr(), descriptor(0), b, if bug == 5 { 16 } else { 8 }, 64);
        gridpoint_wgmma_commit();
        store(parameters, thread(), std::hint::black_box(&d)[3].to_bits());
        if bug != 6 {
            gridpoint_wgmma_wait(if bug == 7 { 1 } else { 0 });
        }
        store(parameters, 128 + thread(), std::hint::black_box(&d)[3].to_bits());
        if bug == 7 {
            gridpoint_wgmma_wait(0);
        }
    }
}

#[test]
fn accumulators_are_poison_until_their_wait() {
    let case = |bug| Case::new(products, 128).output_words(256).numbers([bug, 0, 0, 0]);
    let output = case(0).run_everywhere();
    assert!(output[..128].iter().all(|&word| f32::from_bits(word).is_nan()), "before the wait");
    assert!(output[128..].iter().all(|&word| f32::from_bits(word) == 33.0), "after the wait");
    let output = case(7).run_everywhere();
    assert!(output.iter().all(|&word| f32::from_bits(word).is_nan()), "the newest group may be under way");
    assert!(matches!(case(1).fault_at().2, Reason::ProxyFence { operation: "wgmma's read", .. }));
    let rule = |bug| match case(bug).fault_at().2 {
        Reason::Warpgroup { rule } => rule,
        other => panic!("{other}"),
    };
    assert!(rule(2).contains("since the last wgmma.fence"));
    assert!(rule(3).contains("another operation than the others"));
    assert!(rule(4).contains("another matrix descriptor"));
    assert!(rule(5).contains("another shape"));
    assert!(matches!(case(6).fault_at().2, Reason::Unfinished { .. }));
}

#[test]
fn a_warpgroup_has_four_whole_warps() {
    let reason = Case::new(products, 96).output_words(256).fault_at().2;
    assert!(matches!(reason, Reason::Warpgroup { .. }), "{reason}");
}

extern "C" fn registers(pointer: *const c_void) {
    let [count, odd, increases, _] = parameters(pointer).numbers;
    // SAFETY: inside a kernel.
    unsafe { gridpoint_set_registers(if thread() / 32 == 1 { odd } else { count }, increases) };
}

#[test]
fn setmaxnreg_is_uniform_and_in_range() {
    let case = |numbers| Case::new(registers, 256).numbers(numbers);
    case([40, 40, 0, 0]).run_everywhere();
    for numbers in [[40, 48, 0, 0], [44, 44, 0, 0], [16, 16, 0, 0], [40, 40, 1, 0], [264, 264, 1, 0]] {
        assert!(matches!(case(numbers).fault_at().2, Reason::Warpgroup { .. }), "{numbers:?}");
    }
}

extern "C" fn arrives_twice(_: *const c_void) {
    // SAFETY: inside a kernel.
    unsafe {
        if thread() < 32 {
            gridpoint_barrier_arrive(1, 96);
            gridpoint_barrier_arrive(1, 96);
        }
    }
}

#[test]
fn a_warp_arrives_once_before_a_barrier_opens() {
    let reason = Case::new(arrives_twice, 64).fault_at().2;
    assert!(matches!(reason, Reason::Barrier { .. }), "a count of 96 in a block of 64: {reason}");
    let reason = Case::new(arrives_twice, 96).fault_at().2;
    assert_eq!(reason, Reason::Barrier { id: 1, rule: "warp 0 arrives twice before the barrier opens".to_owned() });
}

extern "C" fn neighbours(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let bug = parameters.numbers[0];
    // SAFETY: inside a kernel; the address is checked.
    unsafe {
        let (rank, blocks) = (gridpoint_cluster_place() & 0xffff, gridpoint_cluster_place() >> 16);
        let meet = || {
            gridpoint_cluster_barrier(0);
            gridpoint_cluster_barrier(1);
        };
        if bug != 1 {
            meet();
        }
        if bug == 3 {
            gridpoint_cluster_barrier(0);
            gridpoint_cluster_barrier(0);
        }
        if bug == 4 {
            gridpoint_map_shared(SHARED, blocks);
        }
        if bug == 2 && rank == 0 {
            return;
        }
        if bug == 2 {
            // Block 0 has time to exit.
            for _ in 0..1000 {
                gridpoint_yield();
            }
        }
        let place = gridpoint_map_shared(SHARED + thread() * 4, (rank + 1) % blocks);
        gridpoint_shared_cluster(place, 4, 4, 1).cast::<u32>().write(rank * 100 + thread());
        meet();
        store(parameters, identity().block[0] * 32 + thread(), shared_load(thread()));
    }
}

#[test]
fn blocks_of_a_cluster_reach_each_other_while_they_run() {
    let case = |bug, cluster| {
        let case = Case { grid: [4, 1, 1], cluster: [cluster, 1, 1], ..Case::new(neighbours, 32) };
        case.output_words(128).numbers([bug, 0, 0, 0])
    };
    for cluster in [1, 2, 4] {
        let output = case(0, cluster).run_everywhere();
        for (place, value) in (0u32..).zip(output) {
            let before = (place / 32 % cluster + cluster - 1) % cluster;
            assert_eq!(value, before * 100 + place % 32, "clusters of {cluster}");
        }
    }
    let rule = |bug| match case(bug, 2).run(Schedule::RoundRobin).expect_err("a planted bug").reason {
        Reason::Cluster { rule } => rule,
        other => panic!("{other}"),
    };
    assert!(rule(1).contains("may not run yet"));
    assert!(rule(2).contains("has exited"));
    assert!(rule(3).contains("twice in a phase"));
    assert!(matches!(case(4, 2).fault_at().2, Reason::InvalidOperand { .. }));
}

#[test]
fn clusters_divide_the_grid() {
    for cluster in [[3, 1, 1], [0, 1, 1], [4, 4, 2]] {
        let case = Case { grid: [8, 4, 2], cluster, ..Case::new(neighbours, 32) };
        assert!(matches!(
            case.run(Schedule::RoundRobin).expect_err("no such clusters").reason,
            Reason::InvalidOperand { .. }
        ));
    }
}

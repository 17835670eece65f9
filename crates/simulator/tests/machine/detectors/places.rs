//! Planted bugs whose reports are compared word by word: kernel, block, thread, address, the other party.

use std::ffi::c_void;

use gridpoint_simulator::Fault;
use gridpoint_simulator::fault::{Access, Reason, Space};
use gridpoint_simulator::machine::hopper::{
    gridpoint_barrier_arrive, gridpoint_bulk_commit, gridpoint_bulk_load, gridpoint_bulk_store, gridpoint_bulk_wait,
    gridpoint_cluster_barrier, gridpoint_fence_mbarrier_init, gridpoint_fence_proxy_async, gridpoint_map_shared,
    gridpoint_mbarrier_arrive, gridpoint_mbarrier_init, gridpoint_mbarrier_wait, gridpoint_shared_cluster,
};
use gridpoint_simulator::machine::instructions::{
    gridpoint_atomic_add, gridpoint_barrier, gridpoint_grid_dependency_wait, gridpoint_grid_launch_dependents,
    gridpoint_yield,
};
use gridpoint_simulator::machine::{Residency, Schedule};

use super::{barrier, block, get, has_bug, party, planted, put, warp_sync};
use crate::support::{Case, SHARED, identity, parameters, run_chain, schedules, shared_word, store, thread};

const MBARRIER: u32 = SHARED + 8192;

/// The report without the places in the source.
fn words(fault: &Fault) -> String {
    Fault { source: Vec::new(), ..fault.clone() }.to_string()
}

/// Threads of two warps write; the last arrives without waiting. With the bug the reader is the warp that did not wait.
extern "C" fn reads_after_arriving(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let me = thread();
    // SAFETY: inside a kernel.
    unsafe {
        if me < 32 {
            put(shared_word(me), me);
            gridpoint_barrier(1, 64);
        } else {
            (0..50).for_each(|_| warp_sync());
            if has_bug(parameters) {
                gridpoint_barrier_arrive(1, 64);
            } else {
                gridpoint_barrier(1, 64);
            }
            if me == 37 {
                store(parameters, 0, get(shared_word(5)));
            }
        }
    }
}

#[test]
fn an_arrival_at_a_barrier_waits_for_nobody() {
    let fault = planted(&Case::new(reads_after_arriving, 64).output_words(1));
    assert_eq!(
        words(&fault),
        "kernel `test_kernel` block (0, 0, 0) thread (37, 0, 0): race: read of 4 bytes at shared address `0x414`, which nothing orders \
         after the write of block (0, 0, 0) thread (5, 0, 0) [round-robin]"
    );
}

/// Thread 3 writes what thread 0 stores in bulk, with the bug without a fence; all by told accesses.
extern "C" fn unfenced(pointer: *const c_void) {
    let parameters = parameters(pointer);
    // SAFETY: inside a kernel.
    unsafe {
        if thread() == 3 {
            (0..4).for_each(|word| put(shared_word(word), 7));
            if !has_bug(parameters) {
                gridpoint_fence_proxy_async();
            }
        }
        barrier();
        if thread() == 0 {
            gridpoint_bulk_store(parameters.output.cast(), SHARED, 16);
            gridpoint_bulk_commit();
            gridpoint_bulk_wait(0, 0);
        }
    }
}

#[test]
fn a_missing_proxy_fence_names_the_write() {
    let fault = planted(&Case::new(unfenced, 32));
    assert_eq!((fault.block, fault.thread), ([0; 3], [0; 3]));
    assert_eq!(fault.reason, Reason::ProxyFence { operation: "a bulk copy's read", address: 0x400, thread: 3 });
}

/// Thread 0 loads twice into one stage that warp 1 reads, with the bug without waiting for it to be empty.
extern "C" fn one_stage(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let (full, empty) = (MBARRIER, MBARRIER + 8);
    // SAFETY: inside a kernel.
    unsafe {
        if thread() == 0 {
            gridpoint_mbarrier_init(full, 1);
            gridpoint_mbarrier_init(empty, 1);
            gridpoint_fence_mbarrier_init();
        }
        barrier();
        for round in 0..2 {
            if thread() == 0 {
                if !has_bug(parameters) {
                    while gridpoint_mbarrier_wait(empty, round ^ 1, 1) == 0 {}
                } else if round == 1 {
                    while gridpoint_mbarrier_wait(full, 0, 1) == 0 {}
                }
                gridpoint_mbarrier_arrive(full, 1, 16);
                gridpoint_bulk_load(SHARED, parameters.input.cast(), 16, full, 0);
            } else if thread() == 40 {
                while gridpoint_mbarrier_wait(full, round, 1) == 0 {}
                store(parameters, round, get(shared_word(2)));
                gridpoint_mbarrier_arrive(empty, 1, 0);
            }
        }
    }
}

#[test]
fn a_stage_that_is_loaded_before_it_is_empty_is_found() {
    let case = Case::new(one_stage, 64).input(vec![7; 4]).output_words(2);
    let with = |bug| case.clone().numbers([bug, 0, 0, 0]).watched();
    for schedule in schedules() {
        with(0).run(schedule).unwrap_or_else(|fault| panic!("without the bug: {fault}"));
        let fault = with(1).run(schedule).expect_err("the bug is found");
        match fault.reason {
            Reason::Race { space: Space::Shared, access: Access::Copy, address: 0x400, bytes: 16, other } => {
                assert_eq!((fault.thread, other), ([0; 3], party(0, 40, Access::Read)), "{fault}");
            }
            Reason::CopyUnderWay { access: Access::Read, address: 0x408, bytes: 4, other } => {
                assert_eq!((fault.thread, other), ([40, 0, 0], party(0, 0, Access::Copy)), "{fault}");
            }
            Reason::Mbarrier { address: MBARRIER, ref rule } => assert!(rule.contains("overrun"), "{fault}"),
            _ => panic!("{fault}"),
        }
    }
}

/// Block 1 of a cluster of two writes to block 0, which with the bug may have exited.
extern "C" fn exits_early(pointer: *const c_void) {
    let parameters = parameters(pointer);
    // SAFETY: inside a kernel; the address is checked.
    unsafe {
        gridpoint_cluster_barrier(0);
        gridpoint_cluster_barrier(1);
        if block() == 1 {
            if has_bug(parameters) {
                (0..2000).for_each(|_| gridpoint_yield());
            }
            if thread() == 3 {
                let place = gridpoint_map_shared(SHARED, 0);
                gridpoint_shared_cluster(place, 4, 4, 1).cast::<u32>().write(1);
            }
        } else if has_bug(parameters) {
            return;
        }
        gridpoint_cluster_barrier(0);
        gridpoint_cluster_barrier(1);
    }
}

#[test]
fn a_block_that_exits_before_its_shared_memory_was_left_is_named() {
    let fault = planted(&Case { grid: [2, 1, 1], cluster: [2, 1, 1], ..Case::new(exits_early, 32) });
    assert_eq!(
        words(&fault),
        "kernel `test_kernel` block (1, 0, 0) thread (3, 0, 0): cluster: st.shared::cluster reaches the block of rank 0, which has exited \
         with its shared memory in use [round-robin]"
    );
}

/// Writes its word and triggers, or waits, or with the bug does not, and reads the word of the launch before.
extern "C" fn dependent(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let [bug, place, ..] = parameters.numbers;
    // SAFETY: inside a kernel.
    unsafe {
        if place == 0 {
            if thread() == 9 {
                store(parameters, 0, 7);
            }
            barrier();
            gridpoint_grid_launch_dependents();
            return;
        }
        if bug == 0 {
            gridpoint_grid_dependency_wait();
        }
        if thread() == 5 {
            store(parameters, 1, get(parameters.output));
        }
    }
}

#[test]
fn a_launch_that_does_not_wait_names_word_and_writer() {
    let case = |name, place, bug| Case {
        name,
        ..Case::new(dependent, 32).output_words(2).numbers([bug, place, 0, 0]).watched()
    };
    for schedule in schedules() {
        run_chain(&[case(c"first", 0, 0), case(c"second", 1, 0)], schedule).unwrap_or_else(|fault| panic!("{fault}"));
        let fault = run_chain(&[case(c"first", 0, 0), case(c"second", 1, 1)], schedule).expect_err("the bug is found");
        let Reason::Overlap { access: Access::Read, bytes: 4, address, other, ref kernel, earlier: true } =
            fault.reason
        else {
            panic!("{fault}")
        };
        assert_eq!((fault.kernel.as_str(), fault.block, fault.thread), ("second", [0; 3], [5, 0, 0]));
        assert_eq!((kernel.as_str(), other, address % 64), ("first", party(0, 9, Access::Write), 0));
    }
}

/// Block 0 waits for a flag that block 1 sets.
extern "C" fn waits_for_the_next(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let flag = parameters.input.cast_mut();
    // SAFETY: inside a kernel; the flag is one word of the input.
    unsafe {
        if block() + 1 == identity().grid_size[0] {
            gridpoint_atomic_add(flag, 1, 1, 1);
        } else {
            while gridpoint_atomic_add(flag, 0, 1, 1) == 0 {
                gridpoint_yield();
            }
        }
    }
}

#[test]
fn a_block_that_waits_for_one_that_is_not_resident_is_named() {
    let with = |blocks| {
        let residency = Residency { multiprocessors: 1, blocks };
        Case { grid: [3, 1, 1], residency, ..Case::new(waits_for_the_next, 1).watched() }
    };
    for schedule in schedules() {
        with(3).run(schedule).unwrap_or_else(|fault| panic!("{fault}"));
    }
    let fault = with(2).run(Schedule::RoundRobin).expect_err("the last block never starts");
    let Reason::Spinning { waiting } = &fault.reason else { panic!("{fault}") };
    assert!(fault.block[0] < 2 && fault.thread == [0; 3], "{fault}");
    assert!(
        waiting.ends_with(
            "1 of the multiprocessor's 3 blocks have not started, block (2, 0, 0) is next, and at most 2 are resident"
        ),
        "{fault}"
    );
}

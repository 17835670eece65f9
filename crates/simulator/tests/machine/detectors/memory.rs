//! Memory that nobody wrote, plain accesses out of bounds, copies under way, non-coherent reads.

use std::ffi::c_void;

use gridpoint_simulator::fault::{Access, Nearby, Reason, Space};
use gridpoint_simulator::machine::Schedule;
use gridpoint_simulator::machine::instructions::{
    gridpoint_cp_async, gridpoint_cp_async_commit, gridpoint_cp_async_wait, gridpoint_global, gridpoint_ldmatrix,
    gridpoint_warp_sync,
};

use super::{__tsan_read_range, barrier, get, has_bug, party, planted, put};
use crate::support::{Case, FULL, SHARED, identity, load, parameters, shared_word, store, thread};

extern "C" fn uninitialised(pointer: *const c_void) {
    let parameters = parameters(pointer);
    if thread() < 32 - parameters.numbers[0] {
        put(shared_word(thread()), 5);
    }
    barrier();
    let mut registers = [0u32; 4];
    // SAFETY: inside a kernel, with four registers.
    unsafe { gridpoint_ldmatrix(registers.as_mut_ptr(), 1, 0, SHARED + thread() % 8 * 16) };
    store(parameters, thread(), registers[0]);
}

#[test]
fn a_read_of_shared_memory_that_nobody_wrote() {
    let fault = planted(&Case::new(uninitialised, 32));
    let (space, nearby) = (Space::Shared, Nearby::Nothing);
    assert_eq!(fault.thread, [7, 0, 0]);
    assert_eq!(fault.reason, Reason::Uninitialised { space, address: 0x470, bytes: 16, unwritten: 0x47c, nearby });
}

extern "C" fn workspace(pointer: *const c_void) {
    let parameters = parameters(pointer);
    if thread() != 3 || !has_bug(parameters) {
        store(parameters, thread(), 1);
    }
    // SAFETY: inside a kernel.
    unsafe { __tsan_read_range(parameters.output.wrapping_add(thread() as usize).cast(), 4) };
}

#[test]
fn a_read_of_global_memory_that_nobody_wrote() {
    let fault = planted(&Case::new(workspace, 32));
    assert_eq!(fault.thread, [3, 0, 0]);
    let Reason::Uninitialised { space: Space::Global, bytes: 4, nearby, .. } = fault.reason else { panic!("{fault}") };
    assert_eq!(nearby, Nearby::Live { offset: 12, bytes: 128 });
}

extern "C" fn past_the_end(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let bug = parameters.numbers[0] as usize;
    match parameters.numbers[1] {
        0 => _ = get(parameters.input.wrapping_add(thread() as usize + bug)),
        1 => put(shared_word(0).wrapping_byte_add(bug * 64), 0),
        2 => put(shared_word(0).wrapping_byte_sub(bug * 4), 0),
        _ => put(parameters.output.wrapping_byte_add(bug * 2), 0),
    }
}

#[test]
fn plain_accesses_are_checked() {
    let case = |kind, threads| Case { shared_bytes: 64, ..Case::new(past_the_end, threads).numbers([0, kind, 0, 0]) };
    let fault = planted(&case(0, 32).input(vec![0; 32]));
    assert_eq!(fault.thread, [31, 0, 0]);
    let Reason::OutOfBounds { space: Space::Global, access: Access::Read, bytes: 4, nearby, .. } = fault.reason else {
        panic!("{fault}")
    };
    assert_eq!(nearby, Nearby::Live { offset: 128, bytes: 128 });
    for (kind, address) in [(1, 0x440), (2, 0x3fc)] {
        let fault = planted(&case(kind, 1));
        let Reason::OutOfBounds { space: Space::Shared, access: Access::Write, address: found, .. } = fault.reason
        else {
            panic!("{fault}")
        };
        assert_eq!(found, address);
    }
    let fault = planted(&case(3, 1));
    assert!(matches!(fault.reason, Reason::Misaligned { space: Space::Global, alignment: 4, .. }), "{fault}");
}

/// A copy by thread 0 that the block reads. `numbers[1]` is what the bug leaves out: 0 the wait, 1 the barrier; 2 overwrites the
/// target under way, 3 the source.
extern "C" fn copied(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let bug = if has_bug(parameters) { parameters.numbers[1] } else { 9 };
    if thread() == 0 {
        // SAFETY: inside a kernel.
        unsafe {
            gridpoint_cp_async(SHARED, parameters.input.cast(), 16, 16);
            gridpoint_cp_async_commit();
            if bug == 2 {
                gridpoint_cp_async(SHARED, parameters.input.cast(), 16, 0);
            }
            if bug == 3 {
                put(parameters.input.cast_mut(), 77);
            }
            if bug != 0 {
                gridpoint_cp_async_wait(0);
            }
        }
    }
    if bug != 1 {
        barrier();
    } else if thread() != 0 {
        warp_sync_rest();
    }
    if thread() == 5 {
        store(parameters, 0, get(shared_word(3)));
    }
}

fn warp_sync_rest() {
    // SAFETY: inside a kernel.
    unsafe { gridpoint_warp_sync(FULL & !1) };
}

#[test]
fn copies_are_waited_for() {
    let case = |kind| Case::new(copied, 32).input(vec![1, 2, 3, 4]).numbers([0, kind, 0, 0]);
    let fault = planted(&case(0));
    assert_eq!(fault.thread, [5, 0, 0]);
    let other = party(0, 0, Access::Copy);
    assert_eq!(fault.reason, Reason::CopyUnderWay { access: Access::Read, address: 0x40c, bytes: 4, other });
    let with = |kind| case(kind).numbers([1, kind, 0, 0]).watched().run(Schedule::RoundRobin).unwrap_err();
    let fault = with(1);
    assert!(matches!(fault.reason, Reason::Race { access: Access::Read, address: 0x40c, .. }), "{fault}");
    let fault = with(2);
    assert_eq!(fault.reason, Reason::CopyUnderWay { access: Access::Copy, address: 0x400, bytes: 16, other });
    let fault = with(3);
    let other = Some(party(0, 0, Access::Write));
    assert!(matches!(fault.reason, Reason::SourceChanged { bytes: 16, other: found, .. } if found == other), "{fault}");
}

extern "C" fn non_coherent(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let word = parameters.input.cast_mut();
    let touch = |access| {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_global(word.cast(), 4, 4, access) };
    };
    match parameters.numbers {
        [0, ..] => touch(2),
        [_, 0, ..] => [1, 2].into_iter().for_each(touch),
        _ => [2, 1].into_iter().for_each(touch),
    }
}

#[test]
fn non_coherent_reads_and_writes_exclude_each_other() {
    for (order, expected) in [(0, Access::Read), (1, Access::Write)] {
        let fault = planted(&Case::new(non_coherent, 1).numbers([0, order, 0, 0]));
        assert!(matches!(fault.reason, Reason::NonCoherent { access, bytes: 4, .. } if access == expected), "{fault}");
    }
}

extern "C" fn nothing_is_wrong(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let local = [1u32; 4];
    let sum = (0..4).map(|i| get(&raw const local[i])).sum::<u32>() + get((&raw const parameters.numbers).cast());
    let me = get((&raw const identity().thread).cast());
    store(parameters, me, sum + load(parameters, me));
}

#[test]
fn stacks_parameters_and_identities_are_no_memory_of_the_device() {
    let output = Case::new(nothing_is_wrong, 64).input(vec![1; 64]).watched().run_everywhere();
    assert_eq!(output, [5; 64]);
}

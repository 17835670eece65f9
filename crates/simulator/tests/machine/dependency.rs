//! Launches that overlap: `griddepcontrol`, and what detectors say of what it does not order.

use std::ffi::c_void;

use gridpoint_simulator::fault::{Access, Fault, Reason};
use gridpoint_simulator::machine::instructions::{
    gridpoint_atomic_add, gridpoint_barrier, gridpoint_global, gridpoint_grid_dependency_wait,
    gridpoint_grid_launch_dependents,
};
use gridpoint_simulator::machine::{Residency, Schedule};

use crate::support::{Case, Parameters, identity, parameters, run_chain, schedules, store, thread};

fn wait() {
    // SAFETY: inside a kernel.
    unsafe { gridpoint_grid_dependency_wait() }
}

fn trigger() {
    // SAFETY: inside a kernel.
    unsafe { gridpoint_grid_launch_dependents() }
}

/// A relaxed addition of device scope to a word of the output.
fn add(parameters: &Parameters, index: u32, value: u32) -> u32 {
    // SAFETY: inside a kernel; the address is checked.
    unsafe { gridpoint_atomic_add(parameters.output.wrapping_add(index as usize), value, 1, 0) }
}

fn read_output(parameters: &Parameters, index: u32) -> u32 {
    let pointer = parameters.output.wrapping_add(index as usize);
    // SAFETY: inside a kernel; the address is checked first.
    unsafe {
        gridpoint_global(pointer.cast(), 4, 4, 0);
        pointer.read()
    }
}

fn number(parameters: &Parameters) -> u32 {
    identity().block[0] * identity().block_size[0] + thread() + parameters.numbers[1]
}

const BLOCKS: u32 = 6;
const THREADS: u32 = 64;
const WORDS: u32 = BLOCKS * THREADS;

/// `numbers[0]`, as bits: 1 does not wait, 2 triggers before it waits, 4 triggers at all, 8 writes before it waits, 16 reads what
/// it does not wait for as non-coherent, 32 has odd blocks exit at once, 64 has thread 5 alone trigger. Word `i` of the part at `numbers[1]` becomes one more than word `i` of the part at
/// `numbers[2]`, or 1 where that is its own.
extern "C" fn stage(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let [flags, to, from, _] = parameters.numbers;
    let index = number(parameters);
    if flags & 32 != 0 && identity().block[0] % 2 == 1 {
        return;
    }
    let trigger = || {
        if flags & 64 == 0 || thread() == 5 {
            trigger();
        }
    };
    if flags & 6 == 6 {
        trigger();
    }
    if flags & 8 != 0 {
        store(parameters, index, 7);
    }
    if flags & 1 == 0 {
        wait();
    }
    if flags & 6 == 4 {
        trigger();
    }
    // As far from the trigger as a block can be.
    // SAFETY: inside a kernel.
    unsafe { gridpoint_barrier(0, 0) };
    let before = if from == to {
        0
    } else {
        let pointer = parameters.output.wrapping_add((index - to + from) as usize);
        // SAFETY: inside a kernel; the address is checked first.
        unsafe { gridpoint_global(pointer.cast(), 4, 4, if flags & 16 != 0 { 2 } else { 0 }) };
        read_output(parameters, index - to + from)
    };
    store(parameters, index, before + 1);
}

fn chain(stages: &[(&'static std::ffi::CStr, [u32; 3])], watched: bool) -> Vec<Case> {
    let case = |&(name, [flags, to, from]): &(&'static std::ffi::CStr, [u32; 3])| {
        let case = Case { name, grid: [BLOCKS, 1, 1], ..Case::new(stage, THREADS) };
        let case = case.output_words(3 * WORDS as usize).numbers([flags, to * WORDS, from * WORDS, 0]);
        if watched { case.watched() } else { case }
    };
    stages.iter().map(case).collect()
}

fn overlap(stages: &[(&'static std::ffi::CStr, [u32; 3])]) -> Fault {
    let faults = schedules().map(|schedule| run_chain(&chain(stages, true), schedule).expect_err("the bug is found"));
    for fault in &faults {
        assert!(matches!(fault.reason, Reason::Overlap { .. }), "{fault}");
    }
    let [first, ..] = faults;
    first
}

#[test]
fn launches_that_wait_are_ordered() {
    for flags in [4, 6, 0] {
        let stages = [(c"first", [flags, 0, 0]), (c"second", [flags, 1, 0]), (c"third", [flags, 2, 1])];
        for watched in [false, true] {
            for schedule in schedules() {
                let output = run_chain(&chain(&stages, watched), schedule).unwrap_or_else(|fault| panic!("{fault}"));
                let expected: Vec<u32> = (0..3 * WORDS).map(|word| word / WORDS + 1).collect();
                assert_eq!(output, expected, "{flags} {watched} {schedule:?}");
            }
        }
    }
}

#[test]
fn a_launch_that_does_not_wait_is_reported() {
    let fault = overlap(&[(c"first", [4, 0, 0]), (c"second", [1, 1, 0])]);
    assert_eq!((fault.kernel.as_str(), fault.block), ("second", [0; 3]));
    // Round-robin has let the second launch run ahead: the first one's write comes later, or the read finds nothing written.
    let late = run_chain(&chain(&[(c"first", [0, 0, 0]), (c"second", [1, 1, 0])], true), Schedule::RoundRobin);
    let fault = late.expect_err("the bug is found without a trigger too");
    let Reason::Overlap { access: Access::Read, bytes: 4, ref other, ref kernel, earlier: true, .. } = fault.reason
    else {
        panic!("{fault}")
    };
    assert_eq!((kernel.as_str(), other.access), ("first", Access::Write));
    assert!(fault.to_string().contains("without griddepcontrol.wait after the write of block (0, 0, 0)"), "{fault}");
}

#[test]
fn a_launch_that_does_not_wait_computes_something_else_under_some_seed() {
    let stages = [(c"first", [4, 0, 0]), (c"second", [1, 1, 0])];
    let outputs = schedules().map(|schedule| run_chain(&chain(&stages, false), schedule).expect("nobody watches"));
    assert!(outputs[1..].iter().any(|output| output[WORDS as usize..2 * WORDS as usize].iter().any(|&word| word != 2)));
}

#[test]
fn a_write_before_the_wait_is_reported() {
    // The second stage's part is what the first reads.
    let fault = overlap(&[(c"zeroth", [0, 2, 2]), (c"first", [4, 0, 2]), (c"second", [8, 2, 2])]);
    assert!(["first", "second"].contains(&fault.kernel.as_str()), "{fault}");
}

#[test]
fn a_wait_only_reaches_as_far_as_the_launch_before_has_waited() {
    // The third waits for the second, which neither waits nor touches anything of the first's.
    let fault = overlap(&[(c"first", [4, 0, 0]), (c"second", [5, 1, 1]), (c"third", [0, 2, 0])]);
    assert!(["first", "third"].contains(&fault.kernel.as_str()), "{fault}");
    let waits = [(c"first", [4, 0, 0]), (c"second", [4, 1, 1]), (c"third", [0, 2, 0])];
    for schedule in schedules() {
        run_chain(&chain(&waits, true), schedule).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

#[test]
fn what_a_launch_before_may_still_write_is_not_read_as_non_coherent() {
    let cases = chain(&[(c"first", [4, 0, 0]), (c"second", [16, 1, 0])], true);
    for schedule in schedules() {
        let fault = run_chain(&cases, schedule).expect_err("the bug is found");
        assert!(matches!(fault.reason, Reason::NonCoherent { access: Access::Read, .. }), "{fault}");
    }
    // The launch before the last was complete when this one could begin, since the last triggers after its wait.
    let far = chain(&[(c"first", [4, 0, 0]), (c"second", [4, 1, 1]), (c"third", [16, 2, 0])], true);
    for schedule in schedules() {
        run_chain(&far, schedule).unwrap_or_else(|fault| panic!("{fault}"));
    }
    // So it was where some blocks of the second exit before they wait: the others have waited when the last of them triggers.
    let early = chain(&[(c"first", [4, 0, 0]), (c"second", [4 | 32, 1, 1]), (c"third", [16, 2, 0])], true);
    for schedule in schedules() {
        run_chain(&early, schedule).unwrap_or_else(|fault| panic!("{fault}"));
    }
    let hasty = chain(&[(c"first", [4, 0, 0]), (c"second", [6, 1, 1]), (c"third", [16, 2, 0])], true);
    let fault = run_chain(&hasty, Schedule::RoundRobin).expect_err("the first may still run when the third begins");
    assert!(matches!(fault.reason, Reason::NonCoherent { .. }), "{fault}");
}

#[test]
fn long_chains_with_triggers_anywhere_are_ordered() {
    // Each reads what the one before it wrote, by turns in two parts and a third that the first has written.
    for (threads, blocks, cluster) in [(1, 7, 1), (64, 6, 2), (64, 8, 4), (1024, 2, 1), (64, 1, 1)] {
        for resident in [1, 2, 16] {
            let words = threads * blocks;
            let residency = Residency { multiprocessors: 1, blocks: resident };
            let flags = [4, 6, 0, 4 | 64, 6 | 64, 2, 6];
            let flags = if threads == 1 { flags.map(|flags| flags & !64) } else { flags };
            let cases: Vec<Case> = (0u32..)
                .zip(flags)
                .map(|(place, flags)| {
                    let (to, from) = (place % 2, if place == 0 { 0 } else { (place - 1) % 2 });
                    let case = Case::new(stage, threads).output_words(2 * words as usize);
                    let case = case.numbers([flags, to * words, from * words, 0]);
                    Case { grid: [blocks, 1, 1], cluster: [cluster, 1, 1], residency, ..case.watched() }
                })
                .collect();
            for schedule in schedules() {
                let output = run_chain(&cases, schedule).unwrap_or_else(|fault| panic!("{fault}"));
                let expected: Vec<u32> = (0..2 * words).map(|word| 7 - word / words).collect();
                assert_eq!(output, expected, "{threads} {blocks} {cluster} {schedule:?}");
            }
        }
    }
}

/// `numbers[0]` 0: counts itself in word 0, triggers, and writes to word 2 how many of the dependents it sees in word 1. 1: counts itself in word
/// 1 and writes to word 3 how many have triggered before, then waits.
extern "C" fn census(pointer: *const c_void) {
    let parameters = parameters(pointer);
    if thread() == 0 {
        if parameters.numbers[0] == 0 {
            add(parameters, 0, 1);
            trigger();
            let seen = add(parameters, 1, 0);
            add(parameters, 2, seen);
        } else {
            let triggered = add(parameters, 0, 0);
            add(parameters, 1, 1);
            add(parameters, 3, u32::from(triggered != BLOCKS));
        }
    }
    wait();
}

#[test]
fn a_dependent_begins_once_all_blocks_have_triggered_and_no_sooner() {
    let case = |number| Case { grid: [BLOCKS, 1, 1], ..Case::new(census, 32).numbers([number, 0, 0, 0]) };
    for blocks in [1, 4, 16] {
        let residency = Residency { blocks, ..Residency::default() };
        let mut cases = [Case { residency, ..case(0) }, Case { residency, ..case(1) }];
        cases.iter_mut().for_each(|case| case.output = vec![0; 4]);
        for schedule in schedules().into_iter().skip(1) {
            let output = run_chain(&cases, schedule).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!((output[0], output[1], output[3]), (BLOCKS, BLOCKS, 0), "{schedule:?}");
        }
        // Round-robin lets launches overlap where it is watched: each resident block that rests at its trigger sees those that began.
        cases.iter_mut().for_each(|case| case.detectors = case.clone().watched().detectors.without_uninitialised());
        let output = run_chain(&cases, Schedule::RoundRobin).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!((output[0], output[1], output[3]), (BLOCKS, BLOCKS, 0));
        assert!(output[2] > 0, "some block of the first launch runs on after blocks of the second");
    }
}

/// All blocks meet by a counter.
extern "C" fn grid_barrier(pointer: *const c_void) {
    let parameters = parameters(pointer);
    if thread() == 0 {
        add(parameters, 0, 1);
        while add(parameters, 0, 0) < identity().grid_size[0] {
            // SAFETY: inside a kernel.
            unsafe { gridpoint_simulator::machine::instructions::gridpoint_yield() };
        }
    }
    // SAFETY: inside a kernel.
    unsafe { gridpoint_barrier(0, 0) };
}

#[test]
fn blocks_that_are_resident_meet_and_others_are_named() {
    let with = |blocks| {
        let residency = Residency { multiprocessors: 1, blocks };
        Case { grid: [BLOCKS, 1, 1], residency, output: vec![0; 1], ..Case::new(grid_barrier, 32) }
    };
    for schedule in schedules().into_iter().skip(1) {
        assert_eq!(with(BLOCKS).run(schedule).unwrap_or_else(|fault| panic!("{fault}")), [BLOCKS]);
    }
    let fault = with(BLOCKS - 2).run(Schedule::Seeded(1)).expect_err("two blocks never start");
    let Reason::Spinning { waiting } = &fault.reason else { panic!("{fault}") };
    assert!(waiting.contains("2 of the multiprocessor's 6 blocks have not started"), "{fault}");
    assert!(waiting.contains("asks `0x"), "{fault}");
}

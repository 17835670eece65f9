//! Barriers, shuffles and votes.

use std::ffi::c_void;

use gridpoint_simulator::fault::Reason;
use gridpoint_simulator::machine::instructions::{
    gridpoint_ballot, gridpoint_barrier, gridpoint_shuffle, gridpoint_warp_sync, gridpoint_yield,
};

use crate::support::{
    Case, FULL, Numbers, identity, load, parameters, shared_load, shared_store, shared_word, store, thread,
};

extern "C" fn shuffle(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let [mode, mask, ..] = parameters.numbers;
    if mask >> (thread() % 32) & 1 != 0 {
        // SAFETY: inside a kernel.
        let value =
            unsafe { gridpoint_shuffle(mode, mask, load(parameters, thread()), load(parameters, 64 + thread())) };
        store(parameters, thread(), value);
    }
}

fn shuffled(mode: u32, lane: u32, operand: u32) -> u32 {
    let operand = operand & 31;
    match mode {
        0 => operand,
        1 if lane >= operand => lane - operand,
        2 if lane + operand < 32 => lane + operand,
        3 => lane ^ operand,
        _ => lane,
    }
}

#[test]
fn shuffles_move_values_between_lanes() {
    for mode in 0..4 {
        for seed in 0..8 {
            let mut numbers = Numbers(seed);
            // The same distance for all lanes, or one for each.
            let distance = if seed % 2 == 0 { Some(numbers.word()) } else { None };
            let values = numbers.words(64);
            let operands: Vec<u32> = (0..64).map(|_| distance.unwrap_or_else(|| numbers.word())).collect();
            let case = Case::new(shuffle, 64)
                .input(values.iter().chain(&operands).copied().collect())
                .numbers([mode, FULL, 0, 0]);
            let expected: Vec<u32> = (0..64u32)
                .map(|i| values[(i / 32 * 32 + shuffled(mode, i % 32, operands[i as usize])) as usize])
                .collect();
            assert_eq!(case.run_everywhere(), expected, "mode {mode}");
        }
    }
}

#[test]
fn parts_of_a_warp_shuffle_among_themselves() {
    let values: Vec<u32> = (100..164).collect();
    let case =
        Case::new(shuffle, 32).input(values.iter().copied().chain([1; 64]).collect()).numbers([3, 0x00ff_00ff, 0, 0]);
    let output = case.run_everywhere();
    for (lane, value) in (0u32..).zip(output) {
        let expected = if lane % 16 < 8 { 100 + (lane ^ 1) } else { 0xdead_beef };
        assert_eq!(value, expected, "lane {lane}");
    }
}

extern "C" fn halves(pointer: *const c_void) {
    let lane = thread() % 32;
    let mut value = thread();
    for round in 0..5 {
        if lane < 16 {
            // SAFETY: inside a kernel.
            value = unsafe { gridpoint_shuffle(3, 0xffff, value, 1 << (round % 4)) }.wrapping_mul(3);
        } else if lane < 20 {
            // SAFETY: inside a kernel.
            value += unsafe { gridpoint_ballot(0x000f_0000, value & 1) };
        } else {
            // SAFETY: inside a kernel.
            unsafe { gridpoint_warp_sync(1 << lane) };
        }
    }
    // SAFETY: inside a kernel.
    unsafe { gridpoint_warp_sync(FULL) };
    store(parameters(pointer), thread(), value);
}

#[test]
fn disjoint_parts_of_a_warp_run_different_collectives() {
    let output = Case::new(halves, 96).run_everywhere();
    assert_eq!(output[20..32], *(20..32).collect::<Vec<u32>>());
    let mut expected: Vec<u32> = (0..16).collect();
    for round in 0..5 {
        expected = (0..16).map(|lane| expected[lane ^ 1 << (round % 4)].wrapping_mul(3)).collect();
    }
    assert_eq!(output[..16], expected);
}

extern "C" fn ballot(pointer: *const c_void) {
    let parameters = parameters(pointer);
    // SAFETY: inside a kernel.
    let votes = unsafe { gridpoint_ballot(FULL, load(parameters, thread()) & 6) };
    store(parameters, thread(), votes);
}

#[test]
fn a_ballot_collects_predicates() {
    let values = Numbers(7).words(96);
    let votes =
        |warp: usize| (0..32).fold(0, |votes, lane| votes | u32::from(values[warp * 32 + lane] & 6 != 0) << lane);
    let expected: Vec<u32> = (0..96).map(|thread| votes(thread / 32)).collect();
    assert_eq!(Case::new(ballot, 96).input(values.clone()).run_everywhere(), expected);
}

extern "C" fn rounds(pointer: *const c_void) {
    let (me, threads) = (thread(), identity().block_size[0]);
    let mut value = me;
    for round in 0..20 {
        shared_store(me, value);
        // SAFETY: inside a kernel.
        unsafe { gridpoint_barrier(0, if round % 2 == 0 { 0 } else { threads.next_multiple_of(32) }) };
        value = value.wrapping_mul(5).wrapping_add(shared_load((me + round + 1) % threads));
        // SAFETY: inside a kernel.
        unsafe { gridpoint_barrier(round % 16, 0) };
    }
    store(parameters(pointer), me, value);
}

#[test]
fn a_barrier_separates_rounds() {
    for threads in [1, 31, 32, 33, 100, 256, 1024] {
        let mut expected: Vec<u32> = (0..threads).collect();
        for round in 0..20 {
            let before = expected.clone();
            for (me, value) in expected.iter_mut().enumerate() {
                *value = value.wrapping_mul(5).wrapping_add(before[(me + round + 1) % threads as usize]);
            }
        }
        assert_eq!(Case::new(rounds, threads).run_everywhere(), expected, "{threads} threads");
    }
}

extern "C" fn pairs_of_warps(pointer: *const c_void) {
    let (me, pair) = (thread(), thread() / 64);
    // The first pair meets more often than the second.
    for round in 0..if pair == 0 { 6 } else { 3 } {
        shared_store(me, me * 10 + round);
        // SAFETY: inside a kernel.
        unsafe { gridpoint_barrier(1 + pair, 64) };
        let other = shared_load(me ^ 32);
        assert_eq!(other, (me ^ 32) * 10 + round);
        // SAFETY: inside a kernel.
        unsafe { gridpoint_barrier(1 + pair, 64) };
    }
    store(parameters(pointer), me, 1);
}

#[test]
fn named_barriers_join_some_warps() {
    assert_eq!(Case::new(pairs_of_warps, 128).run_everywhere(), [1; 128]);
}

extern "C" fn wait_for_a_flag(pointer: *const c_void) {
    // The last warp's lane 5 sets what everybody else waits for.
    if thread() == 100 {
        for _ in 0..1000 {
            // SAFETY: inside a kernel.
            unsafe { gridpoint_yield() };
        }
        shared_store(0, 7);
    } else {
        let flag = shared_word(0);
        // SAFETY: checked above; all threads of a block run on one OS thread.
        while unsafe { flag.read_volatile() } != 7 {
            // SAFETY: inside a kernel.
            unsafe { gridpoint_yield() };
        }
    }
    store(parameters(pointer), thread(), shared_load(0));
}

#[test]
fn a_yielding_wait_lets_the_others_run() {
    assert_eq!(Case::new(wait_for_a_flag, 128).run_everywhere(), [7; 128]);
}

extern "C" fn bad_shuffle(pointer: *const c_void) {
    let [mode, mask, operand, lanes] = parameters(pointer).numbers;
    if lanes >> thread() & 1 != 0 {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_shuffle(mode, mask, 0, operand) };
    }
}

#[test]
fn wrong_shuffles_are_reported() {
    let fault = |numbers, threads| Case::new(bad_shuffle, threads).numbers(numbers).fault_at();
    let (.., reason) = fault([4, FULL, 0, FULL], 32);
    assert_eq!(reason, Reason::InvalidOperand { detail: "shuffle mode `4`: must be 0 to 3".to_owned() });
    let (_, thread, reason) = fault([0, 0xff, 9, 0xff], 32);
    assert_eq!(thread, 0);
    let detail = "shfl.sync: lane 0 reads lane 9, which mask `0x000000ff` does not name".to_owned();
    assert_eq!(reason, Reason::InvalidOperand { detail });
    let (_, thread, reason) = fault([0, 0xf0, 4, 0x1], 32);
    assert_eq!(thread, 0);
    assert!(matches!(reason, Reason::InvalidOperand { .. }));
    let (.., reason) = fault([3, FULL, 1, FULL], 20);
    assert_eq!(reason, Reason::MissingLanes { operation: "shfl.sync.bfly".to_owned(), lanes: 0xfff0_0000 });
    let (.., reason) = fault([3, FULL, 1, FULL & !8], 32);
    assert_eq!(reason, Reason::MissingLanes { operation: "shfl.sync.bfly".to_owned(), lanes: 8 });
}

extern "C" fn bad_barrier(pointer: *const c_void) {
    let [id, threads, odd_threads, missing] = parameters(pointer).numbers;
    let warp = thread() / 32;
    if missing >> warp & 1 == 0 {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_barrier(id, if warp == 1 { odd_threads } else { threads }) };
    }
}

#[test]
fn wrong_barriers_are_reported() {
    let fault = |numbers| Case::new(bad_barrier, 96).numbers(numbers).fault_at();
    let rule = |reason| match reason {
        Reason::Barrier { id, rule } => (id, rule),
        other => panic!("{other}"),
    };
    assert_eq!(rule(fault([16, 0, 0, 0]).2), (16, "a block has barriers 0 to 15".to_owned()));
    assert_eq!(rule(fault([1, 33, 33, 0]).2).1, "a count of 33 threads is no multiple of 32");
    assert_eq!(rule(fault([1, 128, 128, 0]).2).1, "a count of 128 threads never comes together in a block of 96");
    let (id, words) = rule(fault([3, 96, 64, 0]).2);
    assert_eq!((id, words.as_str()), (3, "warp 1 came for 64 threads, while others wait for 96"));
}

#[test]
fn a_barrier_that_never_opens_is_a_deadlock_that_says_who_waits() {
    let (block, thread, reason) = Case::new(bad_barrier, 96).numbers([2, 0, 0, 0b010]).fault_at();
    assert_eq!((block, thread), (0, 0));
    let waiting = "warp 0: waits at barrier 2, 64 of 96 threads there; warp 1: exited; \
                   warp 2: waits at barrier 2, 64 of 96 threads there";
    assert_eq!(reason, Reason::Deadlock { waiting: waiting.to_owned() });
}

extern "C" fn crossed_masks(_: *const c_void) {
    // Lanes 0 to 7 name only each other, but 4 to 7 go elsewhere, with lanes that never come.
    match thread() {
        // SAFETY: inside a kernel.
        0..4 => unsafe { gridpoint_warp_sync(0xf | 0xf00) },
        // SAFETY: inside a kernel.
        4..8 => unsafe { gridpoint_warp_sync(0xf0 | 0xf000) },
        // SAFETY: inside a kernel.
        _ => unsafe { gridpoint_barrier(0, 0) },
    }
}

#[test]
fn lanes_in_different_collectives_are_divergent() {
    let reason = Case::new(crossed_masks, 32).fault_at().2;
    let Reason::DivergentCollective { waiting, arrived } = reason else { panic!("{reason}") };
    assert_eq!(waiting, "bar.warp.sync with mask `0x00000f0f`");
    assert_eq!(arrived, "bar.sync 0, 32 with mask `0xffffffff`");
}

extern "C" fn early_exit(_: *const c_void) {
    if thread() != 40 {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_barrier(0, 0) };
    }
}

#[test]
fn a_barrier_misses_a_lane_that_exited() {
    let reason = Case::new(early_exit, 64).fault_at().2;
    assert_eq!(reason, Reason::MissingLanes { operation: "bar.sync 0, 64".to_owned(), lanes: 1 << 8 });
}

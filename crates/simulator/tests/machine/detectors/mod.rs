//! Planted bugs, each beside the kernel that does it right: what detectors find, and where.
//!
//! Plain accesses are told to the device as `-fsanitize=thread` makes a C++ compiler do it.

use std::ffi::c_void;

use gridpoint_simulator::fault::{Access, Fault, Party, Reason, Space};
use gridpoint_simulator::machine::Schedule;
use gridpoint_simulator::machine::instructions::{
    gridpoint_atomic_add, gridpoint_barrier, gridpoint_fence, gridpoint_global, gridpoint_shuffle, gridpoint_warp_sync,
    gridpoint_yield,
};

mod asynchronous;
mod memory;
mod places;
mod unusual;

use crate::support::{Case, FULL, Parameters, identity, parameters, schedules, shared_word, store, thread};

unsafe extern "C" {
    fn __tsan_read2(pointer: *const c_void);
    fn __tsan_write2(pointer: *const c_void);
    fn __tsan_read4(pointer: *const c_void);
    fn __tsan_write4(pointer: *const c_void);
    fn __tsan_read_range(pointer: *const c_void, bytes: usize);
}

/// A plain load.
pub(crate) fn get(pointer: *const u32) -> u32 {
    // SAFETY: inside a kernel; the address is checked before it is read.
    unsafe {
        __tsan_read4(pointer.cast());
        pointer.read()
    }
}

/// A plain store.
pub(crate) fn put(pointer: *mut u32, value: u32) {
    // SAFETY: inside a kernel; the address is checked before it is written.
    unsafe {
        __tsan_write4(pointer.cast());
        pointer.write(value);
    }
}

pub(crate) fn barrier() {
    // SAFETY: inside a kernel.
    unsafe { gridpoint_barrier(0, 0) }
}

pub(crate) fn warp_sync() {
    // SAFETY: inside a kernel.
    unsafe { gridpoint_warp_sync(FULL) }
}

/// The warp of this thread, without its thread 0.
pub(crate) fn warp_sync_of(thread: u32) {
    // SAFETY: inside a kernel.
    unsafe { gridpoint_warp_sync(if thread < 32 { FULL & !1 } else { FULL }) }
}

pub(crate) fn block() -> u32 {
    identity().block[0]
}

/// Runs the kernel watched, under every schedule, where `numbers[0]` is 1 for the bug: the right one passes, the other has this fault
/// under round-robin and one of the same kind under all seeds.
pub(crate) fn planted(case: &Case) -> Fault {
    let with = |bug| case.clone().numbers([bug, case.numbers[1], case.numbers[2], case.numbers[3]]).watched();
    for schedule in schedules() {
        if let Err(fault) = with(0).run(schedule) {
            panic!("without the bug: {fault}");
        }
    }
    let faults = schedules().map(|schedule| with(1).run(schedule).expect_err("the bug is found"));
    for fault in &faults {
        assert_eq!(std::mem::discriminant(&fault.reason), std::mem::discriminant(&faults[0].reason), "{fault}");
    }
    let [first, ..] = faults;
    first
}

pub(crate) fn party(block: u32, thread: u32, access: Access) -> Party {
    Party { block: [block, 0, 0], thread: [thread, 0, 0], access }
}

pub(crate) fn has_bug(parameters: &Parameters) -> bool {
    parameters.numbers[0] == 1
}

extern "C" fn neighbour(pointer: *const c_void) {
    let parameters = parameters(pointer);
    put(shared_word(thread()), thread());
    if !has_bug(parameters) {
        barrier();
    }
    store(parameters, thread(), get(shared_word((thread() + 1) % identity().block_size[0])));
}

#[test]
fn a_missing_block_barrier_is_a_race() {
    // Round-robin: thread 0 runs to its read of a word that nobody wrote yet.
    let fault = Case::new(neighbour, 64).numbers([1, 0, 0, 0]).watched().run(Schedule::RoundRobin).unwrap_err();
    assert!(matches!(fault.reason, Reason::Uninitialised { space: Space::Shared, unwritten: 0x404, .. }), "{fault}");
    assert!(Case::new(neighbour, 64).watched().run(Schedule::Seeded(3)).is_ok());
}

extern "C" fn previous(pointer: *const c_void) {
    let parameters = parameters(pointer);
    put(shared_word(thread()), thread());
    if !has_bug(parameters) {
        barrier();
    }
    if thread() == 40 {
        store(parameters, 0, get(shared_word(0)));
    }
}

#[test]
fn a_race_names_both_sides() {
    let fault = Case::new(previous, 64).numbers([1, 0, 0, 0]).watched().run(Schedule::RoundRobin).unwrap_err();
    assert_eq!((fault.kernel.as_str(), fault.block, fault.thread), ("test_kernel", [0; 3], [40, 0, 0]));
    let other = party(0, 0, Access::Write);
    let reason = Reason::Race { space: Space::Shared, access: Access::Read, address: 0x400, bytes: 4, other };
    assert_eq!(fault.reason, reason);
    let without_source = gridpoint_simulator::Fault { source: Vec::new(), ..fault.clone() };
    assert_eq!(
        without_source.to_string(),
        "kernel `test_kernel` block (0, 0, 0) thread (40, 0, 0): race: read of 4 bytes at shared address `0x400`, which nothing \
         orders after the write of block (0, 0, 0) thread (0, 0, 0) [round-robin]"
    );
    if let [.., line] = &fault.source[..] {
        assert!(fault.to_string().ends_with(&format!("at {line} [round-robin]")), "{fault}");
        assert_eq!(line.function, "previous");
    }
}

/// As norm.cu's `row_sum`: lanes' values through shared memory, `numbers[1]` for a shuffle in place of the barrier.
extern "C" fn row_sum(pointer: *const c_void) {
    let parameters = parameters(pointer);
    put(shared_word(thread()), thread());
    if !has_bug(parameters) {
        warp_sync();
    } else if parameters.numbers[1] == 1 {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_shuffle(3, FULL, 0, 1) };
    }
    let first = thread() / 32 * 32;
    store(parameters, thread(), (first..first + 32).rev().map(|i| get(shared_word(i))).sum());
}

#[test]
fn a_shuffle_is_no_warp_barrier() {
    let fault = planted(&Case::new(row_sum, 64).numbers([0, 1, 0, 0]));
    assert!(matches!(fault.reason, Reason::Race { access: Access::Read, .. }), "{fault}");
    assert!(Case::new(row_sum, 64).numbers([1, 0, 0, 0]).watched().run(Schedule::RoundRobin).is_err());
}

/// Two buffers by turns with one barrier a turn; with the bug one buffer.
extern "C" fn double_buffer(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let threads = identity().block_size[0];
    let mut sum = 0;
    for turn in 0..4 {
        let buffer = if has_bug(parameters) { 0 } else { turn % 2 * threads };
        put(shared_word(buffer + thread()), turn);
        barrier();
        sum += get(shared_word(buffer + (thread() + 1) % threads));
    }
    store(parameters, thread(), sum);
}

#[test]
fn a_buffer_that_is_overwritten_too_early_is_a_race() {
    let fault = planted(&Case::new(double_buffer, 64));
    assert!(matches!(fault.reason, Reason::Race { space: Space::Shared, .. }), "{fault}");
}

/// Warps 0 and 1 meet at barrier 1; with the bug warps 0 and 2.
extern "C" fn named(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let warp = thread() / 32;
    if warp == 0 {
        put(shared_word(thread()), 1);
    }
    if warp == 0 || warp == if has_bug(parameters) { 2 } else { 1 } {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_barrier(1, 64) };
    } else {
        for _ in 0..64 {
            // SAFETY: inside a kernel.
            unsafe { gridpoint_warp_sync(FULL) };
        }
    }
    if warp == 1 {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_barrier(2, 32) };
        store(parameters, thread(), get(shared_word(thread() - 32)));
    }
}

#[test]
fn a_named_barrier_orders_its_own_warps_only() {
    assert!(Case::new(named, 96).watched().run(Schedule::RoundRobin).is_ok());
    let fault = Case::new(named, 96).numbers([1, 0, 0, 0]).watched().run(Schedule::RoundRobin).unwrap_err();
    // The last to arrive goes on first.
    let other = party(0, 31, Access::Write);
    assert_eq!(fault.thread, [63, 0, 0]);
    assert!(matches!(fault.reason, Reason::Race { other: found, .. } if found == other), "{fault}");
}

extern "C" fn halves_of_words(pointer: *const c_void) {
    let word = shared_word(thread() / 2).cast::<u16>();
    let shift = if has_bug(parameters(pointer)) { 0 } else { thread() % 2 };
    // SAFETY: inside a kernel; the half lies in a checked word.
    unsafe {
        let half = word.add(shift as usize);
        __tsan_write2(half.cast());
        half.write(7);
        __tsan_read2(half.cast());
    }
    barrier();
    put(shared_word(thread()), 1);
}

#[test]
fn neighbours_in_a_word_do_not_race() {
    let fault = planted(&Case::new(halves_of_words, 64));
    assert!(matches!(fault.reason, Reason::Race { access: Access::Write, bytes: 2, .. }), "{fault}");
}

extern "C" fn one_reads_all(pointer: *const c_void) {
    let parameters = parameters(pointer);
    if thread() == 0 {
        put(shared_word(0), 1);
    }
    barrier();
    // Many readers, of whom with the bug the last may still read when thread 0 writes again.
    store(parameters, thread(), get(shared_word(0)));
    if !has_bug(parameters) {
        barrier();
    } else if thread() < 992 {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_barrier(3, 992) };
    }
    if thread() == 0 {
        put(shared_word(0), 2);
    }
}

#[test]
fn one_of_many_readers_is_enough() {
    let fault = planted(&Case::new(one_reads_all, 1024));
    assert!(matches!(fault.reason, Reason::Race { address: 0x400, .. }), "{fault}");
}

extern "C" fn blocks_meet(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let index = if has_bug(parameters) { 0 } else { block() };
    put(parameters.output.wrapping_add(index as usize), block());
}

#[test]
fn blocks_that_write_one_word_race() {
    let case = Case { grid: [4, 1, 1], ..Case::new(blocks_meet, 1).output_words(4) };
    let fault = planted(&case);
    assert_eq!(fault.block, [1, 0, 0]);
    let expected = party(0, 0, Access::Write);
    assert!(matches!(fault.reason, Reason::Race { space: Space::Global, other, .. } if other == expected), "{fault}");
}

/// As attention.cu's split items: all threads of a block write partials, one counts the block, and the last block reads them all.
/// `numbers[1]` is how thread 0 tells: 0 an atomic with acquire and release, 1 a relaxed one between fences.
extern "C" fn last_block(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let (threads, blocks) = (identity().block_size[0], identity().grid_size[0]);
    let counter = parameters.input.cast_mut();
    store(parameters, block() * threads + thread(), block());
    if !has_bug(parameters) {
        barrier();
    }
    if thread() == 0 {
        // SAFETY: inside a kernel; the counter is one word of the input.
        let before = unsafe {
            gridpoint_fence(1);
            let before = gridpoint_atomic_add(counter, 1, 1, u32::from(parameters.numbers[1] == 0));
            gridpoint_fence(1);
            before
        };
        put(shared_word(0), before);
    }
    barrier();
    if get(shared_word(0)) + 1 == blocks {
        let sum = (0..blocks).fold(0, |sum, other| {
            let pointer = parameters.output.wrapping_add((other * threads + thread()) as usize);
            // SAFETY: inside a kernel; the word is one of the output.
            unsafe { gridpoint_global(pointer.cast(), 4, 4, 0) };
            sum + get(pointer)
        });
        store(parameters, blocks * threads + thread(), sum);
    }
}

#[test]
fn the_last_block_to_arrive_needs_the_others_barrier() {
    for how in [0, 1] {
        let case = Case::new(last_block, 64).input(vec![0; 4]).output_words(64 * 5).numbers([0, how, 0, 0]);
        let fault = planted(&Case { grid: [4, 1, 1], ..case });
        assert_eq!((fault.block, fault.thread), ([3, 0, 0], [63, 0, 0]));
        let expected = party(0, 63, Access::Write);
        assert!(
            matches!(fault.reason, Reason::Race { space: Space::Global, access: Access::Read, other, .. } if other == expected),
            "{fault}"
        );
    }
}

extern "C" fn histogram(pointer: *const c_void) {
    let parameters = parameters(pointer);
    if thread() == 0 {
        put(shared_word(0), 0);
    }
    barrier();
    // SAFETY: inside a kernel.
    unsafe { gridpoint_atomic_add(shared_word(0), 1, 0, 0) };
    if !has_bug(parameters) {
        barrier();
    }
    if thread() == 63 {
        store(parameters, 0, get(shared_word(0)));
    }
}

#[test]
fn atomics_do_not_race_with_each_other_but_with_reads() {
    let fault = planted(&Case::new(histogram, 64));
    assert!(matches!(fault.reason, Reason::Race { .. }), "{fault}");
}

extern "C" fn scopes(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let scope = 1 - parameters.numbers[0];
    // SAFETY: inside a kernel.
    unsafe { gridpoint_atomic_add(parameters.input.cast_mut(), 1, scope, 1) };
}

/// Block 0 hands a word to block 1 by relaxed atomics of the device between fences; with the bug the fence of block `numbers[1]` is of its
/// block's scope.
extern "C" fn narrow_fence(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let flag = parameters.input.cast_mut();
    let scope = u32::from(!has_bug(parameters) || block() != parameters.numbers[1]);
    // SAFETY: inside a kernel; the flag is one word of the input.
    unsafe {
        if block() == 0 {
            store(parameters, 0, 7);
            gridpoint_fence(scope);
            gridpoint_atomic_add(flag, 1, 1, 0);
        } else {
            while gridpoint_atomic_add(flag, 0, 1, 0) == 0 {
                gridpoint_yield();
            }
            gridpoint_fence(scope);
            get(parameters.output);
        }
    }
}

#[test]
fn a_fence_of_the_blocks_scope_does_not_reach_other_blocks() {
    for narrow in [0, 1] {
        let case = Case::new(narrow_fence, 1).output_words(1).numbers([0, narrow, 0, 0]);
        let fault = planted(&Case { grid: [2, 1, 1], ..case });
        assert_eq!((fault.block, fault.thread), ([1, 0, 0], [0; 3]));
        let expected = party(0, 0, Access::Write);
        assert!(
            matches!(fault.reason, Reason::Race { space: Space::Global, access: Access::Read, other, .. } if other == expected),
            "{fault}"
        );
    }
}

#[test]
fn an_atomic_of_the_blocks_scope_does_not_reach_other_blocks() {
    let fault = planted(&Case { grid: [2, 1, 1], ..Case::new(scopes, 1) });
    let expected = party(0, 0, Access::Atomic);
    assert!(matches!(fault.reason, Reason::Race { access: Access::Atomic, other, .. } if other == expected), "{fault}");
}

/// Thread 0 waits by plain reads for what thread 40 writes.
extern "C" fn plain_flag(_: *const c_void) {
    if thread() == 40 {
        put(shared_word(0), 1);
    } else if thread() == 0 {
        while get(shared_word(0)) != 1 {}
    }
}

#[test]
fn a_wait_by_plain_reads_is_a_race_and_no_hang() {
    for schedule in schedules() {
        let detectors = Case::new(plain_flag, 64).watched().detectors.without_uninitialised();
        let fault = Case { detectors, ..Case::new(plain_flag, 64) }.run(schedule).unwrap_err();
        assert!(matches!(fault.reason, Reason::Race { space: Space::Shared, .. }), "{fault}");
    }
}

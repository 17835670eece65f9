//! Global and shared accesses, asynchronous copies, atomics.

use std::ffi::{CStr, c_void};

use gridpoint_simulator::Detectors;
use gridpoint_simulator::fault::{Access, Nearby, Reason, Space};
use gridpoint_simulator::machine::Schedule;
use gridpoint_simulator::machine::instructions::{
    gridpoint_atomic, gridpoint_atomic_add, gridpoint_atomic_add64, gridpoint_atomic_compare_exchange,
    gridpoint_atomic_compare_exchange64, gridpoint_atomic_exchange, gridpoint_atomic_max, gridpoint_atomic64,
    gridpoint_barrier, gridpoint_cp_async, gridpoint_cp_async_commit, gridpoint_cp_async_wait, gridpoint_fault,
    gridpoint_fence, gridpoint_global, gridpoint_shared, gridpoint_shared_address, gridpoint_yield,
};

use crate::support::{
    Case, SHARED, identity, load, parameters, schedules, shared_load, shared_store, shared_word, store, thread,
};

extern "C" fn check_global(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let [offset, bytes, alignment, access] = parameters.numbers;
    if (identity().block[0], thread()) == (1, 37) {
        // SAFETY: inside a kernel.
        unsafe {
            gridpoint_global(
                parameters.output.wrapping_byte_offset(offset as i32 as isize).cast(),
                bytes,
                alignment,
                access,
            )
        };
    }
}

#[test]
fn global_accesses_are_checked() {
    let case = |numbers| Case { grid: [3, 1, 1], ..Case::new(check_global, 64) }.output_words(8).numbers(numbers);
    for numbers in [[0, 32, 16, 0], [16, 16, 16, 1], [31, 1, 1, 0], [28, 4, 4, 1]] {
        case(numbers).run_everywhere();
    }
    for (offset, bytes, access) in [(32, 4, 0), (16, 32, 1), (-4i32, 4, 0), (28, 5, 1)] {
        let (block, thread, reason) = case([offset as u32, bytes, 1, access]).fault_at();
        assert_eq!((block, thread), (1, 37));
        let Reason::OutOfBounds { space: Space::Global, access: found, bytes: size, nearby, .. } = reason else {
            panic!("{reason}")
        };
        assert_eq!((found == Access::Write, size), (access == 1, bytes));
        assert_eq!(nearby, Nearby::Live { offset: offset.into(), bytes: 32 });
    }
    for alignment in [0, 8, 16] {
        let reason = case([4, 4, alignment, 0]).fault_at().2;
        assert!(
            matches!(reason, Reason::Misaligned { space: Space::Global, alignment: found, .. } if found == alignment)
        );
    }
}

#[test]
fn a_fault_reads_well() {
    let case = Case { name: c"norm_bf16", grid: [3, 1, 1], ..Case::new(check_global, 64) }.output_words(8);
    let fault = case.numbers([32, 4, 4, 0]).run(Schedule::Seeded(9)).unwrap_err();
    let text = fault.to_string();
    assert!(
        text.starts_with("kernel `norm_bf16` block (1, 0, 0) thread (37, 0, 0): out-of-bounds read of 4 bytes"),
        "{text}"
    );
    assert!(text.ends_with("[GRIDPOINT_SIM_SEED=9]"), "{text}");
}

extern "C" fn check_shared(pointer: *const c_void) {
    let [address, bytes, alignment, _] = parameters(pointer).numbers;
    if thread() == 3 {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_shared(address, bytes, alignment) };
    }
}

#[test]
fn shared_accesses_are_checked() {
    let case = |address, bytes, alignment| {
        Case { shared_bytes: 100, ..Case::new(check_shared, 32) }.numbers([address, bytes, alignment, 0])
    };
    case(SHARED, 100, 16).run_everywhere();
    case(SHARED + 100, 0, 4).run_everywhere();
    for (address, bytes) in [(0, 4), (SHARED - 4, 4), (SHARED + 96, 8), (SHARED + 101, 0), (u32::MAX - 3, 4)] {
        let (_, thread, reason) = case(address, bytes, 1).fault_at();
        assert_eq!(thread, 3);
        let Reason::OutOfBounds { space: Space::Shared, address: found, nearby, .. } = reason else {
            panic!("{reason}")
        };
        assert_eq!(found, u64::from(address));
        assert_eq!(nearby, Nearby::Live { offset: i64::from(address) - i64::from(SHARED), bytes: 100 });
    }
    let reason = case(SHARED + 4, 8, 8).fault_at().2;
    assert_eq!(reason, Reason::Misaligned { space: Space::Shared, address: u64::from(SHARED) + 4, alignment: 8 });
}

extern "C" fn foreign_shared_address(pointer: *const c_void) {
    // SAFETY: inside a kernel.
    unsafe { gridpoint_shared_address(parameters(pointer).input.cast()) };
}

extern "C" fn write_past_shared(_: *const c_void) {
    // SAFETY: the bytes lie in the window's red zone.
    unsafe { gridpoint_shared(SHARED, 16 << 10, 1).cast::<u8>().add(16 << 10).write(0) };
}

#[test]
fn other_misuses_of_shared_memory_are_reported() {
    assert!(matches!(Case::new(foreign_shared_address, 1).fault_at().2, Reason::InvalidOperand { .. }));
    let reason = Case::new(write_past_shared, 1).fault_at().2;
    assert_eq!(reason, Reason::RedZone { address: SHARED.into(), bytes: 16 << 10 });
}

/// Copies with each size, in groups, and looks before and after each wait.
extern "C" fn copies(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let target = thread() * 16;
    let source = parameters.input.wrapping_add(target as usize);
    for word in 0..16 {
        shared_store(target + word, 0x7777_7777);
    }
    let look = |place: u32| {
        for word in 0..16 {
            store(parameters, (thread() * 4 + place) * 16 + word, shared_load(target + word));
        }
    };
    let address = SHARED + target * 4;
    // SAFETY: inside a kernel.
    unsafe {
        gridpoint_cp_async(address, source.cast(), 16, 16);
        gridpoint_cp_async(address + 16, source.add(4).cast(), 16, 5);
        gridpoint_cp_async_commit();
        gridpoint_cp_async(address + 32, source.add(8).cast(), 8, 8);
        gridpoint_cp_async(address + 40, std::ptr::null(), 8, 0);
        gridpoint_cp_async_commit();
        gridpoint_cp_async_commit();
        gridpoint_cp_async(address + 48, source.add(12).cast(), 4, 4);
        gridpoint_cp_async(address + 52, source.add(13).cast(), 4, 1);
        look(0);
        gridpoint_cp_async_wait(2);
        look(1);
        gridpoint_cp_async_wait(0);
        look(2);
        gridpoint_cp_async_commit();
        gridpoint_cp_async_wait(0);
        look(3);
        // Under way at the thread's end: dropped.
        gridpoint_cp_async(address, source.add(4).cast(), 16, 16);
        gridpoint_cp_async_commit();
        gridpoint_cp_async(address, source.add(4).cast(), 16, 16);
    }
}

#[test]
fn asynchronous_copies_land_at_the_wait_that_covers_them() {
    let input: Vec<u32> = (0..64 * 16).map(|i| 0x0101_0101 * (i % 200)).collect();
    let case = Case::new(copies, 64).input(input.clone()).output_words(64 * 64);
    let output = case.run_everywhere();
    for thread in 0..64 {
        let source = &input[thread * 16..][..16];
        let mut expected = [0x7777_7777; 16];
        let seen = |place: usize| &output[(thread * 4 + place) * 16..][..16];
        assert_eq!(seen(0), expected, "nothing lands early");
        expected[..4].copy_from_slice(&source[..4]);
        expected[4..8].copy_from_slice(&[source[4], source[5] & 0xff, 0, 0]);
        assert_eq!(seen(1), expected, "the first group");
        expected[8..12].copy_from_slice(&[source[8], source[9], 0, 0]);
        assert_eq!(seen(2), expected, "all committed groups");
        expected[12..14].copy_from_slice(&[source[12], source[13] & 0xff]);
        assert_eq!(seen(3), expected, "the last group");
    }
}

extern "C" fn one_copy(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let [address, offset, bytes, source_bytes] = parameters.numbers;
    // SAFETY: inside a kernel.
    unsafe {
        gridpoint_cp_async(address, parameters.input.wrapping_byte_add(offset as usize).cast(), bytes, source_bytes)
    };
}

#[test]
fn wrong_asynchronous_copies_are_reported_when_issued() {
    let reason = |numbers| Case::new(one_copy, 1).input(vec![0; 8]).numbers(numbers).fault_at().2;
    assert!(matches!(reason([SHARED, 0, 12, 12]), Reason::InvalidOperand { .. }));
    assert!(matches!(reason([SHARED, 0, 8, 9]), Reason::InvalidOperand { .. }));
    assert!(matches!(reason([SHARED + 8, 0, 16, 16]), Reason::Misaligned { space: Space::Shared, alignment: 16, .. }));
    assert!(matches!(reason([SHARED, 8, 16, 16]), Reason::Misaligned { space: Space::Global, alignment: 16, .. }));
    assert!(matches!(
        reason([SHARED, 32, 16, 16]),
        Reason::OutOfBounds { space: Space::Global, access: Access::Read, .. }
    ));
    assert!(matches!(
        reason([SHARED + (16 << 10), 0, 4, 4]),
        Reason::OutOfBounds { space: Space::Shared, access: Access::Write, .. }
    ));
    Case::new(one_copy, 1).input(vec![0; 8]).numbers([SHARED, 32, 16, 0]).run_everywhere();
}

/// Every block adds; the last to arrive reads what all have written.
extern "C" fn last_block(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let me = identity();
    let blocks = me.grid_size[0];
    if thread() == 0 {
        store(parameters, 4 + me.block[0], me.block[0] + 1);
        // SAFETY: inside a kernel.
        let before = unsafe { gridpoint_atomic_add(parameters.output, 1, 1, 1) };
        shared_store(0, (before == blocks - 1).into());
    }
    // SAFETY: inside a kernel; the words are checked or were written before.
    unsafe {
        gridpoint_barrier(0, 0);
        gridpoint_atomic_max(parameters.output.add(2), me.block[0] * 64 + thread(), 1, 0);
        gridpoint_fence(1);
        if thread() == 0 && shared_load(0) == 1 {
            let sum = (0..blocks as usize).map(|block| parameters.output.add(4 + block).read()).sum();
            store(parameters, 1, sum);
            let before = gridpoint_atomic_exchange(parameters.output.add(3), 5, 2, 1);
            assert_eq!(before, 0);
        }
    }
}

#[test]
fn the_last_block_sees_the_others_writes() {
    let blocks = 100;
    let case = Case { grid: [blocks, 1, 1], output: vec![0; 4 + blocks as usize], ..Case::new(last_block, 64) };
    for _ in 0..5 {
        let output = case.run_everywhere();
        assert_eq!(output[..4], [blocks, blocks * (blocks + 1) / 2, blocks * 64 - 1, 5]);
    }
}

extern "C" fn shared_atomics(pointer: *const c_void) {
    if thread() < 4 {
        shared_store(thread(), 0);
    }
    // SAFETY: inside a kernel; the words are shared memory.
    unsafe {
        gridpoint_barrier(0, 0);
        gridpoint_atomic_add(shared_word(0), thread(), 0, 0);
        gridpoint_atomic_add64(shared_word(2).cast(), 1 << 31, 0, 0);
        gridpoint_barrier(0, 0);
    }
    store(parameters(pointer), thread(), shared_load(thread() % 4));
}

#[test]
fn atomics_work_on_shared_memory() {
    let output = Case::new(shared_atomics, 96).run_everywhere();
    assert_eq!(output[..4], [95 * 96 / 2, 0, 0, 48]);
}

/// `numbers` is the word's value at first, the operation, the value that each of 40 threads gives, and whether there are 64 bits.
extern "C" fn any_atomic(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let [first, operation, value, wide] = parameters.numbers;
    if thread() == 0 {
        shared_store(0, first);
        shared_store(1, 0);
    }
    // SAFETY: inside a kernel; the words are shared memory.
    unsafe {
        gridpoint_barrier(0, 0);
        match wide {
            0 => _ = gridpoint_atomic(operation, shared_word(0), value, 1, 0),
            _ => _ = gridpoint_atomic64(operation, shared_word(0).cast(), value.into(), 1, 0),
        }
        gridpoint_barrier(0, 0);
    }
    store(parameters, thread(), shared_load(thread() % 2));
}

#[test]
fn every_operation_of_atom() {
    let minus = |number: i32| number.cast_unsigned();
    let run = |numbers| {
        let case = Case::new(any_atomic, 40).numbers(numbers);
        let output = case.run_everywhere();
        // Nobody is told of the plain stores here.
        let watched = Case { detectors: Detectors::all().without_uninitialised(), ..case };
        assert_eq!(watched.run_everywhere()[..2], output[..2]);
        [output[0], output[1]]
    };
    for (first, operation, value, expected) in [
        (2, 0, 3, 122),
        (2, 1, minus(-1), 2),
        (2, 2, minus(-1), minus(-1)),
        (2, 3, minus(-1), minus(-1)),
        (2, 4, minus(-1), 2),
        (6, 5, 3, 2),
        (6, 6, 3, 7),
        (6, 7, 3, 6),
        (6, 8, 3, 3),
        // 0, 1, ..., 12 and again.
        (0, 9, 12, 1),
        (9, 9, 3, 3),
        (0, 10, 12, 12),
        (0.0_f32.to_bits(), 11, 0.5_f32.to_bits(), 20.0_f32.to_bits()),
    ] {
        assert_eq!(run([first, operation, value, 0])[0], expected, "operation {operation}");
    }
    for (operation, value, expected) in [
        (0, 1 << 30, [2, 10]),
        (1, 1, [1, 0]),
        (2, 9, [9, 0]),
        (3, 1, [1, 0]),
        (4, 9, [9, 0]),
        (5, 3, [2, 0]),
        (6, 9, [11, 0]),
        (7, 9, [2, 0]),
        (8, 9, [9, 0]),
    ] {
        assert_eq!(run([2, operation, value, 1]), expected, "operation {operation} on 64 bits");
    }
    for numbers in [[0, 12, 0, 0], [0, 9, 0, 1], [0, 12, 0, 1]] {
        let reason = Case::new(any_atomic, 40).numbers(numbers).fault_at().2;
        let Reason::InvalidOperand { detail } = &reason else { panic!("{reason}") };
        assert!(detail.contains("atomic operation"), "{detail}");
    }
}

/// Each thread takes a lock by comparing, adds without an atomic, and gives the lock back; `numbers[0]` is 1 where the lock orders nothing.
extern "C" fn locked(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let order = u32::from(parameters.numbers[0] == 0);
    let (lock, count) = (parameters.output, 2);
    // SAFETY: inside a kernel; the addresses are checked.
    unsafe {
        while gridpoint_atomic_compare_exchange(lock, 0, 1, 1, order) != 0 {
            gridpoint_yield();
        }
        let pointer = parameters.output.add(count as usize);
        gridpoint_global(pointer.cast(), 4, 4, 0);
        let before = pointer.read();
        gridpoint_yield();
        store(parameters, count, before + 1);
        assert_eq!(gridpoint_atomic_compare_exchange(lock, 1, 0, 1, order), 1);
        // The upper word is zero all the time.
        gridpoint_atomic_compare_exchange64(
            parameters.output.add(4).cast(),
            u64::from(thread()),
            u64::from(thread() + 1),
            1,
            0,
        );
    }
}

#[test]
fn compare_and_swap_makes_a_lock() {
    let case = Case { output: vec![0; 6], ..Case::new(locked, 40) };
    for schedule in schedules() {
        let output = case.run(schedule).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(output[..4], [0, 0, 40, 0], "{schedule:?}");
        assert!((1..=40).contains(&output[4]) && output[5] == 0, "{schedule:?}: {output:?}");
    }
    let watched = Case { detectors: Detectors::all().without_uninitialised(), ..case };
    assert_eq!(watched.run(Schedule::RoundRobin).map(|output| output[2]), Ok(40));
    let unordered = watched.numbers([1, 0, 0, 0]).fault_at().2;
    assert!(matches!(unordered, Reason::Race { space: Space::Global, bytes: 4, .. }), "{unordered}");
}

extern "C" fn wrong_atomic(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let [offset, scope, order, shared] = parameters.numbers;
    let base = if shared == 1 { shared_word(0) } else { parameters.output };
    // SAFETY: inside a kernel.
    unsafe { gridpoint_atomic_add64(base.wrapping_byte_add(offset as usize).cast(), 1, scope, order) };
}

#[test]
fn wrong_atomics_are_reported() {
    let reason = |numbers| Case::new(wrong_atomic, 1).output_words(4).numbers(numbers).fault_at().2;
    assert!(matches!(reason([4, 1, 1, 0]), Reason::Misaligned { space: Space::Global, alignment: 8, .. }));
    assert!(matches!(reason([16, 1, 1, 0]), Reason::OutOfBounds { space: Space::Global, access: Access::Write, .. }));
    assert!(matches!(reason([4, 1, 1, 1]), Reason::Misaligned { space: Space::Shared, alignment: 8, .. }));
    assert!(matches!(reason([16 << 10, 1, 1, 1]), Reason::OutOfBounds { space: Space::Shared, .. }));
    assert!(matches!(reason([0, 3, 1, 0]), Reason::InvalidOperand { .. }));
    assert!(matches!(reason([0, 1, 2, 0]), Reason::InvalidOperand { .. }));
}

extern "C" fn spin(pointer: *const c_void) {
    let by_atomics = parameters(pointer).numbers[0] == 1;
    shared_store(0, 0);
    loop {
        // SAFETY: inside a kernel; the word is shared memory.
        unsafe {
            match by_atomics {
                true => _ = gridpoint_atomic_add(shared_word(0), 0, 0, 0),
                false => gridpoint_yield(),
            }
        }
    }
}

#[test]
fn waiting_for_ever_ends_with_a_report() {
    for numbers in [[0; 4], [1, 0, 0, 0]] {
        let case = Case::new(spin, 40).numbers(numbers);
        for schedule in &schedules()[..2] {
            assert!(matches!(case.run(*schedule).unwrap_err().reason, Reason::Spinning { .. }));
        }
    }
}

extern "C" fn broken_contract(pointer: *const c_void) {
    const WORDS: &CStr = c"rows exceed the buffer";
    let first = load(parameters(pointer), 0);
    if identity().block[0] >= first && thread() == 2 {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_fault(WORDS.as_ptr()) };
    }
    // SAFETY: inside a kernel.
    unsafe { gridpoint_barrier(0, 0) };
}

#[test]
fn the_first_block_that_faults_is_reported() {
    let case = Case { grid: [200, 1, 1], ..Case::new(broken_contract, 64) };
    for first in [0, 3, 150, 199] {
        let (block, thread, reason) = case.clone().input(vec![first]).fault_at();
        assert_eq!((block, thread), (first, 2));
        assert_eq!(reason, Reason::Contract { words: "rows exceed the buffer".to_owned() });
    }
    case.input(vec![200]).run_everywhere();
}

#[test]
fn wrong_launches_are_refused() {
    let refused = |case: Case| {
        let reason = case.run(Schedule::RoundRobin).unwrap_err().reason;
        assert!(matches!(reason, Reason::InvalidOperand { .. }), "{reason}");
    };
    refused(Case { grid: [0, 1, 1], ..Case::new(spin, 1) });
    refused(Case { grid: [u32::MAX; 3], ..Case::new(spin, 1) });
    refused(Case { block: [0, 1, 1], ..Case::new(spin, 1) });
    refused(Case { block: [32, 33, 1], ..Case::new(spin, 1) });
    refused(Case { block: [1 << 16, 1 << 16, 1], ..Case::new(spin, 1) });
}

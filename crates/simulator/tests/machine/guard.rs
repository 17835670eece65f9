//! Kernels that hang and kernels that crash end with a report, and the next launch works.

use std::arch::asm;
use std::ffi::c_void;
use std::hint::black_box;
use std::process::Command;

use gridpoint_simulator::fault::{Fault, Reason};
use gridpoint_simulator::machine::instructions::{
    gridpoint_barrier, gridpoint_global, gridpoint_shuffle, gridpoint_warp_sync,
};
use gridpoint_simulator::machine::{Guard, Schedule};

use crate::support::{Case, FULL, parameters, store, thread};

const SECOND: Guard = Guard { block_seconds: 1, crashes: true };
/// Set in a process that is to die.
const DIES: &str = "GRIDPOINT_TEST_DIES";

extern "C" fn stores_its_index(pointer: *const c_void) {
    store(parameters(pointer), thread(), thread());
}

/// The fault of a kernel, after which this OS thread runs another one.
fn fault(case: Case, schedule: Schedule) -> Fault {
    let fault = Case { guard: SECOND, ..case }.run(schedule).expect_err("the kernel faults");
    assert_eq!(Case::new(stores_its_index, 40).run(schedule), Ok((0..40).collect()));
    fault
}

/// Its source's innermost line holds `words`.
fn assert_source(fault: &Fault, words: &str) {
    if !cfg!(debug_assertions) {
        // Rust code has no line tables then.
        return;
    }
    let source = &fault.source[0];
    assert_eq!(source.file, "guard.rs", "{fault}");
    let line = include_str!("guard.rs").lines().nth(source.line as usize - 1).expect("the line exists");
    assert!(line.contains(words), "`{words}` is not in line {}: `{line}`", source.line);
}

fn hung(fault: &Fault) -> &str {
    match &fault.reason {
        Reason::Hung { seconds: 1, waiting } => waiting,
        _ => panic!("{fault}"),
    }
}

extern "C" fn loops(pointer: *const c_void) {
    if thread() == 33 {
        let mut turns = parameters(pointer).numbers[0];
        while black_box(turns) != 1 {
            turns = turns.wrapping_add(2);
        }
    }
    // SAFETY: inside a kernel.
    unsafe { gridpoint_barrier(0, 0) };
}

#[test]
fn a_thread_that_loops_is_named() {
    let fault = fault(Case::new(loops, 64), Schedule::RoundRobin);
    assert_eq!(fault.thread, [33, 0, 0], "{fault}");
    assert_eq!(fault.code().name(), "CUDA_ERROR_LAUNCH_TIMEOUT");
    let waiting = hung(&fault);
    assert!(waiting.contains("warp 0: waits at barrier 0, 32 of"), "{waiting}");
    assert_source(&fault, "turns");
}

extern "C" fn loops_over_loads(pointer: *const c_void) {
    let parameters = parameters(pointer);
    while black_box(parameters.numbers[0]) == 0 {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_global(parameters.input.cast(), 4, 4, 0) };
    }
}

#[test]
fn a_loop_over_an_instruction_that_never_switches_ends() {
    let fault = fault(Case::new(loops_over_loads, 1), Schedule::RoundRobin);
    hung(&fault);
}

extern "C" fn shuffles(pointer: *const c_void) {
    while black_box(parameters(pointer).numbers[0]) == 0 {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_shuffle(0, FULL, thread(), 3) };
    }
}

#[test]
fn a_loop_over_collectives_ends() {
    // Of twelve blocks several are resident and take turns: their time counts on.
    for (blocks, cluster, schedule) in
        [(2, 1, Schedule::RoundRobin), (2, 2, Schedule::Seeded(1)), (12, 1, Schedule::Seeded(2))]
    {
        let case = Case { grid: [blocks, 1, 1], cluster: [cluster, 1, 1], ..Case::new(shuffles, 32) };
        let fault = fault(case, schedule);
        // Between two meetings nobody waits.
        let waiting = hung(&fault);
        assert!(waiting.starts_with("warp 0: ") || waiting.starts_with("no thread waits"), "{fault}");
        // In the loop, at an instruction or between two.
        assert_source(&fault, "");
    }
}

fn crash(fault: &Fault) -> (i32, u64, bool) {
    match fault.reason {
        Reason::Crash { signal, address, overflow } => (signal, address, overflow),
        _ => panic!("{fault}"),
    }
}

extern "C" fn writes_wildly(pointer: *const c_void) {
    // SAFETY: inside a kernel.
    unsafe { gridpoint_warp_sync(FULL) };
    if thread() == 5 {
        let address = parameters(pointer).numbers[0] as usize as *mut u32;
        // SAFETY: none: nothing is mapped there, which is the test.
        unsafe { address.write_volatile(1) };
    }
}

#[test]
fn a_wild_write_is_a_fault() {
    for schedule in [Schedule::RoundRobin, Schedule::Seeded(1)] {
        let fault = fault(Case::new(writes_wildly, 32).numbers([0x1234, 0, 0, 0]), schedule);
        assert_eq!((crash(&fault), fault.thread), ((libc::SIGSEGV, 0x1234, false), [5, 0, 0]), "{fault}");
        assert_eq!(fault.code().name(), "CUDA_ERROR_ILLEGAL_ADDRESS");
        assert!(fault.to_string().contains("access of memory that is not mapped, at host address `0x1234`"), "{fault}");
    }
}

extern "C" fn writes_wildly_in_line(_: *const c_void) {
    // SAFETY: none, as above.
    unsafe { asm!("mov dword ptr [{}], 1", in(reg) 16usize) }; // here
}

#[test]
fn a_crash_names_the_line() {
    assert_source(&fault(Case::new(writes_wildly_in_line, 1), Schedule::RoundRobin), "// here");
}

extern "C" fn crashes_with_a_broken_frame(pointer: *const c_void) {
    // In a build without optimisation the frame is found by rbp.
    // SAFETY: none: rbp is lost and nothing is mapped at the address, which is the test.
    unsafe { asm!("push rbp", "mov rbp, 8", "mov dword ptr [rbp + 8], 1", "pop rbp") }; // broken
    black_box(pointer);
}

#[test]
fn a_stack_that_cannot_be_unwound_does_no_harm() {
    let fault = fault(Case::new(crashes_with_a_broken_frame, 1), Schedule::RoundRobin);
    assert_eq!(crash(&fault), (libc::SIGSEGV, 16, false), "{fault}");
    assert_source(&fault, "// broken");
}

extern "C" fn jumps_to_nowhere(pointer: *const c_void) {
    if thread() == 1 {
        let address = parameters(pointer).numbers[0] as usize;
        // SAFETY: none: there is no code at that address, which is the test.
        let function: extern "C" fn() = unsafe { std::mem::transmute(address) };
        function(); // nowhere
        black_box(());
    }
}

#[test]
fn a_jump_to_nowhere_is_a_fault() {
    let fault = fault(Case::new(jumps_to_nowhere, 2).numbers([0x2000, 0, 0, 0]), Schedule::RoundRobin);
    assert_eq!((crash(&fault), fault.thread), ((libc::SIGSEGV, 0x2000, false), [1, 0, 0]), "{fault}");
    assert_source(&fault, "// nowhere");
}

#[inline(never)]
fn recurs(depth: u32) -> u32 {
    let numbers = black_box([depth; 32]);
    if depth == 0 { 0 } else { recurs(depth - 1) + numbers[31] }
}

extern "C" fn recurs_deeply(pointer: *const c_void) {
    let parameters = parameters(pointer);
    store(parameters, thread(), recurs(parameters.numbers[0] + if thread() == 2 { 1_000_000 } else { 0 }));
}

#[test]
fn an_overflow_of_the_stack_is_a_fault() {
    let fault = fault(Case::new(recurs_deeply, 3).numbers([7, 0, 0, 0]), Schedule::RoundRobin);
    let (signal, _, overflow) = crash(&fault);
    assert_eq!((signal, overflow, fault.thread), (libc::SIGSEGV, true, [2, 0, 0]), "{fault}");
    assert!(fault.to_string().contains("the thread's stack overflowed"), "{fault}");
    assert!(fault.source.len() <= 8);
}

extern "C" fn divides_by_zero(_: *const c_void) {
    // SAFETY: changes no register that is not named; the division traps, which is the test.
    unsafe { asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _) };
}

extern "C" fn is_illegal(_: *const c_void) {
    // SAFETY: traps, which is the test.
    unsafe { asm!("ud2") };
}

#[test]
fn traps_are_faults() {
    let division = fault(Case::new(divides_by_zero, 1), Schedule::RoundRobin);
    assert_eq!(crash(&division).0, libc::SIGFPE);
    assert!(division.to_string().contains("division that has no answer"), "{division}");
    let illegal = fault(Case::new(is_illegal, 1), Schedule::RoundRobin);
    assert_eq!((crash(&illegal).0, illegal.code().name()), (libc::SIGILL, "CUDA_ERROR_ILLEGAL_INSTRUCTION"));
}

#[test]
fn crashes_in_many_blocks_are_one_fault() {
    let case = Case { grid: [64, 1, 1], ..Case::new(writes_wildly, 32).numbers([0x1234, 0, 0, 0]) };
    for _ in 0..8 {
        assert_eq!(fault(case.clone(), Schedule::RoundRobin).thread, [5, 0, 0]);
    }
}

/// Runs this test binary once more so that it does what `dies` says, and gives back the signal that killed it.
fn killed_by(how: &str) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let program = std::env::current_exe().expect("a test knows its program");
    let arguments = ["--exact", "guard::dies_if_told_to", "--nocapture"];
    let output = Command::new(program).args(arguments).env(DIES, how).output().expect("the program starts");
    output.status.signal()
}

#[test]
fn dies_if_told_to() {
    let Ok(how) = std::env::var(DIES) else { return };
    assert_eq!(Case::new(stores_its_index, 4).run(Schedule::RoundRobin), Ok((0..4).collect()));
    let wild = Case::new(writes_wildly, 32).numbers([0x1234, 0, 0, 0]);
    match how.as_str() {
        // SAFETY: none: nothing is mapped there, which is the test.
        "outside" => unsafe { (0x1234 as *mut u32).write_volatile(1) },
        "machine" => {
            extern "C" fn gives_a_wild_text(_: *const c_void) {
                // SAFETY: inside a kernel; the instruction reads what it should not, which is the test.
                unsafe { gridpoint_simulator::machine::instructions::gridpoint_fault(0x1234 as *const _) };
            }
            let _ = Case::new(gives_a_wild_text, 1).run(Schedule::RoundRobin);
        }
        "overflow" => drop(black_box(recurs(100_000_000))),
        "unguarded" => drop(Case { guard: Guard::NONE, ..wild }.run(Schedule::RoundRobin)),
        _ => panic!("`{how}` is no way to die"),
    }
}

#[test]
fn crashes_that_are_no_kernels_kill_the_process() {
    for how in ["outside", "machine", "unguarded"] {
        assert_eq!(killed_by(how), Some(libc::SIGSEGV), "{how}");
    }
    // std's own handler says what happened and aborts.
    assert_eq!(killed_by("overflow"), Some(libc::SIGABRT));
}

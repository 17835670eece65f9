//! Planted bugs in what runs beside the threads, and between the blocks of a cluster.

use std::ffi::c_void;

use gridpoint_simulator::fault::{Access, Reason, Space};
use gridpoint_simulator::machine::Schedule;
use gridpoint_simulator::machine::hopper::{
    gridpoint_bulk_commit, gridpoint_bulk_load, gridpoint_bulk_store, gridpoint_bulk_wait, gridpoint_cluster_barrier,
    gridpoint_cluster_place, gridpoint_fence_mbarrier_init, gridpoint_fence_proxy_async, gridpoint_map_shared,
    gridpoint_mbarrier_arrive, gridpoint_mbarrier_init, gridpoint_mbarrier_wait, gridpoint_shared_cluster,
    gridpoint_wgmma, gridpoint_wgmma_commit, gridpoint_wgmma_fence, gridpoint_wgmma_wait,
};
use gridpoint_simulator::machine::instructions::{gridpoint_atomic_add, gridpoint_yield};

use super::{barrier, block, get, has_bug, party, planted, put};
use crate::support::{Case, SHARED, parameters, shared_word, store, thread};

const MBARRIER: u32 = SHARED + 8192;

fn meet_cluster() {
    // SAFETY: inside a kernel.
    unsafe {
        gridpoint_cluster_barrier(0);
        gridpoint_cluster_barrier(1);
    }
}

fn initialise(count: u32) {
    // SAFETY: inside a kernel.
    unsafe {
        if thread() == 0 {
            gridpoint_mbarrier_init(MBARRIER, count);
            gridpoint_fence_mbarrier_init();
        }
    }
    barrier();
}

fn wait(parity: u32) {
    // SAFETY: inside a kernel.
    unsafe { while gridpoint_mbarrier_wait(MBARRIER, parity, 1) == 0 {} }
}

/// Whether this is block `rank` of the cluster.
fn is_rank(rank: u32) -> bool {
    // SAFETY: inside a kernel.
    unsafe { gridpoint_cluster_place() & 0xffff == rank }
}

/// Writes a word of the shared memory of block `rank`.
fn put_remote(rank: u32, index: u32, value: u32) {
    // SAFETY: inside a kernel; the address is checked.
    unsafe {
        let place = gridpoint_map_shared(SHARED + index * 4, rank);
        gridpoint_shared_cluster(place, 4, 4, 1).cast::<u32>().write(value);
    }
}

/// Block 0 writes to block 1, which reads after the second meeting.
extern "C" fn remote_write(pointer: *const c_void) {
    let parameters = parameters(pointer);
    meet_cluster();
    if is_rank(0) {
        put_remote(1, thread(), thread());
    }
    if !has_bug(parameters) {
        meet_cluster();
    }
    if is_rank(1) {
        store(parameters, thread(), get(shared_word(thread())));
    }
    meet_cluster();
}

#[test]
fn a_block_reads_what_another_wrote_after_they_met() {
    let case = Case { grid: [2, 1, 1], cluster: [2, 1, 1], ..Case::new(remote_write, 64) };
    let with = |bug| case.clone().numbers([bug, 0, 0, 0]).watched();
    for schedule in crate::support::schedules() {
        with(0).run(schedule).unwrap_or_else(|fault| panic!("without the bug: {fault}"));
        let fault = with(1).run(schedule).expect_err("the bug is found");
        // Either the read came first and found nothing, or it came second without an order.
        assert!(matches!(fault.reason, Reason::Race { .. } | Reason::Uninitialised { .. }), "{fault}");
    }
    let race = |schedule| match with(1).run(schedule).unwrap_err() {
        fault if matches!(fault.reason, Reason::Race { .. }) => Some(fault),
        _ => None,
    };
    let fault = (0..50).find_map(|seed| race(Schedule::Seeded(seed))).expect("some seed lets the write come first");
    let Reason::Race { space: Space::Shared, access: Access::Read, ref other, .. } = fault.reason else {
        panic!("{fault}")
    };
    assert_eq!((fault.block, other.block, other.access), ([1, 0, 0], [0; 3], Access::Write));
}

/// Block 0 writes to block 1 and arrives at its mbarrier, which its threads wait for.
extern "C" fn remote_arrival(pointer: *const c_void) {
    let parameters = parameters(pointer);
    initialise(64);
    meet_cluster();
    if is_rank(0) {
        let late = has_bug(parameters);
        // SAFETY: inside a kernel.
        let arrive = || unsafe { gridpoint_mbarrier_arrive(gridpoint_map_shared(MBARRIER, 1), 1, 0) };
        if late {
            arrive();
        }
        put_remote(1, thread(), thread());
        if !late {
            arrive();
        }
    } else {
        wait(0);
        store(parameters, thread(), get(shared_word(63 - thread())));
    }
    meet_cluster();
}

#[test]
fn an_arrival_at_another_blocks_mbarrier_comes_after_the_write() {
    let case = Case { grid: [2, 1, 1], cluster: [2, 1, 1], ..Case::new(remote_arrival, 64) };
    let with = |bug| case.clone().numbers([bug, 0, 0, 0]).watched();
    for schedule in crate::support::schedules() {
        with(0).run(schedule).unwrap_or_else(|fault| panic!("without the bug: {fault}"));
        let fault = with(1).run(schedule).expect_err("the bug is found");
        assert!(matches!(fault.reason, Reason::Race { .. } | Reason::Uninitialised { .. }), "{fault}");
    }
}

/// Thread 0 loads 16 bytes, which with the bug it reads before they landed.
extern "C" fn early_read(pointer: *const c_void) {
    let parameters = parameters(pointer);
    initialise(1);
    if thread() == 0 {
        // SAFETY: inside a kernel.
        unsafe {
            gridpoint_mbarrier_arrive(MBARRIER, 1, 16);
            gridpoint_bulk_load(SHARED, parameters.input.cast(), 16, MBARRIER, 0);
        }
        if has_bug(parameters) {
            store(parameters, 0, get(shared_word(3)));
        }
    }
    wait(0);
    store(parameters, thread() + 1, get(shared_word(thread() % 4)));
}

#[test]
fn the_target_of_a_bulk_copy_belongs_to_it_until_its_mbarrier_completes() {
    let case = Case::new(early_read, 32).input(vec![7; 4]).output_words(33);
    let with = |bug| case.clone().numbers([bug, 0, 0, 0]).watched();
    for schedule in crate::support::schedules() {
        with(0).run(schedule).unwrap_or_else(|fault| panic!("without the bug: {fault}"));
    }
    let fault = with(1).run(Schedule::RoundRobin).expect_err("the bug is found");
    let other = party(0, 0, Access::Copy);
    assert_eq!(fault.reason, Reason::CopyUnderWay { access: Access::Read, address: 0x40c, bytes: 4, other });
}

/// Thread 0 arrives, loads and then writes a word beside the target, which with the bug is read after the wait for the load alone.
extern "C" fn beside_a_load(pointer: *const c_void) {
    let parameters = parameters(pointer);
    initialise(1);
    if thread() == 0 {
        // SAFETY: inside a kernel.
        unsafe {
            gridpoint_mbarrier_arrive(MBARRIER, 1, 16);
            gridpoint_bulk_load(SHARED, parameters.input.cast(), 16, MBARRIER, 0);
        }
        put(shared_word(4), 7);
    }
    if !has_bug(parameters) {
        barrier();
    }
    wait(0);
    store(parameters, thread(), get(shared_word(4)));
}

#[test]
fn a_load_that_landed_tells_nothing_of_what_its_thread_did_since() {
    let case = Case::new(beside_a_load, 64).input(vec![7; 4]);
    let with = |bug| case.clone().numbers([bug, 0, 0, 0]).watched();
    for schedule in crate::support::schedules() {
        with(0).run(schedule).unwrap_or_else(|fault| panic!("without the bug: {fault}"));
        let fault = with(1).run(schedule).expect_err("the bug is found");
        // Either the read came first and found nothing, or it came second without an order.
        assert!(matches!(fault.reason, Reason::Race { .. } | Reason::Uninitialised { .. }), "{fault}");
    }
    let fault = with(1).run(Schedule::RoundRobin).expect_err("the bug is found");
    assert_ne!(fault.thread, [0; 3]);
    let other = party(0, 0, Access::Write);
    let reason = Reason::Race { space: Space::Shared, access: Access::Read, address: 0x410, bytes: 4, other };
    assert_eq!(fault.reason, reason);
}

/// Thread 40 reads what thread 0 has loaded and waited for, but does not know of the wait with the bug.
extern "C" fn unordered_load(pointer: *const c_void) {
    let parameters = parameters(pointer);
    initialise(1);
    if thread() == 0 {
        // SAFETY: inside a kernel.
        unsafe {
            gridpoint_mbarrier_arrive(MBARRIER, 1, 16);
            gridpoint_bulk_load(SHARED, parameters.input.cast(), 16, MBARRIER, 0);
        }
        if !has_bug(parameters) {
            wait(0);
        }
    }
    barrier();
    if has_bug(parameters) && thread() == 0 {
        wait(0);
    } else if has_bug(parameters) {
        // Long enough for the load to land.
        (0..100).for_each(|_| super::warp_sync_of(thread()));
    }
    if thread() == 40 {
        store(parameters, 0, get(shared_word(3)));
    }
}

#[test]
fn a_load_is_known_by_its_mbarrier_and_not_by_who_issued_it() {
    let case = Case::new(unordered_load, 64).input(vec![7; 4]).output_words(1);
    let with = |bug| case.clone().numbers([bug, 0, 0, 0]).watched();
    let mut landed = 0;
    for schedule in (0..20).map(Schedule::Seeded).chain([Schedule::RoundRobin]) {
        with(0).run(schedule).unwrap_or_else(|fault| panic!("without the bug: {fault}"));
        let fault = with(1).run(schedule).expect_err("the bug is found");
        assert_eq!(fault.thread, [40, 0, 0]);
        let expected = party(0, 0, Access::Copy);
        match fault.reason {
            Reason::Race { address: 0x40c, other, .. } if other == expected => landed += 1,
            Reason::CopyUnderWay { address: 0x40c, other, .. } if other == expected => {}
            _ => panic!("{fault}"),
        }
    }
    assert!(landed > 0, "under some seed the load lands before the read");
}

/// Fills 16 bytes of shared memory for a bulk copy.
fn write_source() {
    if thread() < 4 {
        put(shared_word(thread()), thread());
        // SAFETY: inside a kernel.
        unsafe { gridpoint_fence_proxy_async() };
    }
    barrier();
}

/// Thread 0 stores 16 bytes from shared memory and then writes there: after its wait, or with the bug before.
extern "C" fn early_overwrite(pointer: *const c_void) {
    let parameters = parameters(pointer);
    write_source();
    if thread() == 0 {
        // SAFETY: inside a kernel.
        unsafe {
            gridpoint_bulk_store(parameters.output.cast(), SHARED, 16);
            gridpoint_bulk_commit();
            if !has_bug(parameters) {
                gridpoint_bulk_wait(0, 1);
            }
            put(shared_word(2), 9);
            gridpoint_bulk_wait(0, 0);
        }
    }
}

#[test]
fn the_source_of_a_bulk_copy_is_left_alone_until_its_wait() {
    let fault = planted(&Case::new(early_overwrite, 64));
    let Reason::StillRead { access, address, bytes, operation, thread } = fault.reason else { panic!("{fault}") };
    assert_eq!((access, address, bytes, operation, thread), (Access::Write, 0x408, 4, "a bulk copy", 0));
}

/// Block 0 stores four words and sets a flag, behind which block 1 reads them. With the bug block 0 has only waited for the read of its source.
extern "C" fn handed_on(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let flag = parameters.input.cast_mut();
    // SAFETY: inside a kernel; the flag is one word of the input.
    unsafe {
        if block() == 0 {
            (0..4).for_each(|word| put(shared_word(word), 7));
            gridpoint_fence_proxy_async();
            gridpoint_bulk_store(parameters.output.cast(), SHARED, 16);
            gridpoint_bulk_commit();
            gridpoint_bulk_wait(0, parameters.numbers[0]);
            gridpoint_atomic_add(flag, 1, 1, 1);
        } else {
            while gridpoint_atomic_add(flag, 0, 1, 1) == 0 {
                gridpoint_yield();
            }
            get(parameters.output.wrapping_add(2));
        }
    }
}

#[test]
fn the_write_of_a_bulk_copy_is_handed_on_after_the_wait_for_it() {
    let fault = planted(&Case { grid: [2, 1, 1], ..Case::new(handed_on, 1).output_words(4) });
    // Block 0 ends, and with it the copy, after block 1 has read or before.
    let Reason::Race { space: Space::Global, access, bytes, other, .. } = fault.reason else { panic!("{fault}") };
    match access {
        Access::Read => assert_eq!((fault.block[0], bytes, other), (1, 4, party(0, 0, Access::Write))),
        _ => assert_eq!((fault.block[0], bytes, other), (0, 16, party(1, 0, Access::Read))),
    }
}

/// Another warp writes to the source after thread 0's wait: `numbers[0]` 1 for no barrier between.
extern "C" fn unordered_overwrite(pointer: *const c_void) {
    let parameters = parameters(pointer);
    write_source();
    if thread() == 0 {
        // SAFETY: inside a kernel.
        unsafe {
            gridpoint_bulk_store(parameters.output.cast(), SHARED, 16);
            gridpoint_bulk_commit();
            gridpoint_bulk_wait(0, 1);
        }
    }
    if !has_bug(parameters) {
        barrier();
    }
    if thread() == 40 {
        put(shared_word(2), 9);
    }
}

#[test]
fn a_wait_for_a_read_is_handed_on_by_a_barrier() {
    let case = |bug| Case::new(unordered_overwrite, 64).numbers([bug, 0, 0, 0]).watched();
    for schedule in crate::support::schedules() {
        case(0).run(schedule).unwrap_or_else(|fault| panic!("without the bug: {fault}"));
        let fault = case(1).run(schedule).expect_err("the bug is found");
        let found = matches!(fault.reason, Reason::Race { .. } | Reason::StillRead { .. } | Reason::ProxyFence { .. });
        assert!(found, "{fault}");
    }
}

fn descriptor(offset: u32) -> u64 {
    u64::from((SHARED + offset) / 16) | 8 << 16 | 16 << 32
}

/// A product whose operand thread 127 overwrites: after the wait of all, or with the bug before it.
extern "C" fn overwritten_operand(pointer: *const c_void) {
    let parameters = parameters(pointer);
    for word in (thread()..1024).step_by(128) {
        put(shared_word(word), 0x3f80_3f80);
    }
    // SAFETY: inside a kernel, with registers of the right size.
    unsafe {
        gridpoint_fence_proxy_async();
        barrier();
        let mut d = [1f32; 4];
        gridpoint_wgmma_fence();
        gridpoint_wgmma(d.as_mut_ptr(), descriptor(0), descriptor(2048), 8, 64);
        gridpoint_wgmma_commit();
        if has_bug(parameters) && thread() == 127 {
            put(shared_word(520), 0);
        }
        gridpoint_wgmma_wait(0);
        barrier();
        if thread() == 127 {
            put(shared_word(520), 0);
        }
        store(parameters, thread(), std::hint::black_box(&d)[3].to_bits());
    }
}

#[test]
fn the_operands_of_wgmma_are_left_alone_until_its_wait() {
    let case = |bug| Case::new(overwritten_operand, 128).numbers([bug, 0, 0, 0]).watched();
    for schedule in crate::support::schedules() {
        case(0).run(schedule).unwrap_or_else(|fault| panic!("without the bug: {fault}"));
        let fault = case(1).run(schedule).expect_err("the bug is found");
        // Where another warp's wait came first, nothing orders the write after it.
        assert!(matches!(fault.reason, Reason::Race { .. } | Reason::StillRead { .. }), "{fault}");
    }
    let fault = case(1).run(Schedule::RoundRobin).unwrap_err();
    let Reason::StillRead { access: Access::Write, address: 0xc20, bytes: 4, operation, .. } = fault.reason else {
        panic!("{fault}")
    };
    assert_eq!((operation, fault.thread), ("a wgmma.mma_async", [127, 0, 0]));
}

//! Kernels that keep to the rules in ways that are not the common ones: no detector may say a word.

use std::ffi::c_void;

use gridpoint_simulator::machine::Residency;
use gridpoint_simulator::machine::hopper::{
    gridpoint_barrier_arrive, gridpoint_bulk_commit, gridpoint_bulk_load, gridpoint_bulk_store, gridpoint_bulk_wait,
    gridpoint_cluster_barrier, gridpoint_cluster_place, gridpoint_fence_mbarrier_init, gridpoint_fence_proxy_async,
    gridpoint_map_shared, gridpoint_mbarrier_arrive, gridpoint_mbarrier_init, gridpoint_mbarrier_wait, gridpoint_wgmma,
    gridpoint_wgmma_commit, gridpoint_wgmma_fence, gridpoint_wgmma_wait,
};
use gridpoint_simulator::machine::instructions::{
    gridpoint_atomic_add, gridpoint_atomic_compare_exchange, gridpoint_barrier, gridpoint_fence, gridpoint_global,
    gridpoint_yield,
};

use super::{barrier, block, get, put, warp_sync};
use crate::support::{Case, Parameters, SHARED, identity, parameters, shared_word, store, thread};

/// Flags and locks, which the host has set to zero.
fn flag(parameters: &Parameters, index: usize) -> *mut u32 {
    parameters.input.wrapping_add(index).cast_mut()
}

/// Waits until a flag is `count`, by atomics of this scope and order.
fn await_flag(flag: *mut u32, count: u32, (scope, order): (u32, u32)) {
    // SAFETY: inside a kernel; the flag is a word of the input or of shared memory.
    unsafe {
        while gridpoint_atomic_add(flag, 0, scope, order) != count {
            gridpoint_yield();
        }
    }
}

fn read_output(parameters: &Parameters, index: usize) -> u32 {
    let pointer = parameters.output.wrapping_add(index);
    // SAFETY: inside a kernel; the address is checked before it is read.
    unsafe { gridpoint_global(pointer.cast(), 4, 4, 0) };
    get(pointer)
}

fn wait(mbarrier: u32, parity: u32) {
    // SAFETY: inside a kernel.
    unsafe { while gridpoint_mbarrier_wait(mbarrier, parity, 1) == 0 {} }
}

/// Warps 0 and 1 wait for each other at a barrier that warp 2 opens and does not wait at.
extern "C" fn arrives_last(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let me = thread();
    // SAFETY: inside a kernel.
    unsafe {
        if me >= 64 {
            for _ in 0..100 {
                warp_sync();
            }
            gridpoint_barrier_arrive(1, 96);
            store(parameters, me, 0);
            return;
        }
        put(shared_word(me), me);
        gridpoint_barrier(1, 96);
    }
    store(parameters, me, get(shared_word(63 - me)));
}

#[test]
fn warps_that_wait_at_a_barrier_are_ordered_whoever_opens_it() {
    let output = Case::new(arrives_last, 96).watched().run_everywhere();
    assert!((0..64).all(|me| output[me] == 63 - me as u32));
}

/// Warps 0 and 1 fill one of two buffers, 2 and 3 read it, by arrivals alone.
extern "C" fn arrive_and_sync(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let me = thread();
    let mut sum = 0;
    for round in 0..7 {
        let (full, empty, buffer) = (1 + round % 2, 3 + round % 2, round % 2 * 64);
        // SAFETY: inside a kernel.
        unsafe {
            if me < 64 {
                if round >= 2 {
                    gridpoint_barrier(empty, 128);
                }
                put(shared_word(buffer + me), round * 100 + me);
                gridpoint_barrier_arrive(full, 128);
            } else {
                gridpoint_barrier(full, 128);
                sum += get(shared_word(buffer + (127 - me)));
                if round < 5 {
                    gridpoint_barrier_arrive(empty, 128);
                }
            }
        }
    }
    store(parameters, me, sum);
}

#[test]
fn named_barriers_hand_buffers_to_and_fro() {
    let output = Case::new(arrive_and_sync, 128).watched().run_everywhere();
    assert!((64..128).all(|me| output[me] == 2100 + 7 * (127 - me as u32)));
}

/// A fence of the device, then one of the block, then the flag.
extern "C" fn two_fences(pointer: *const c_void) {
    let parameters = parameters(pointer);
    // SAFETY: inside a kernel.
    unsafe {
        if block() == 0 {
            store(parameters, 0, 7);
            gridpoint_fence(1);
            gridpoint_fence(0);
            gridpoint_atomic_add(flag(parameters, 0), 1, 1, 0);
        } else {
            await_flag(flag(parameters, 0), 1, (1, 0));
            gridpoint_fence(1);
            store(parameters, 1, read_output(parameters, 0));
        }
    }
}

#[test]
fn a_fence_of_the_block_takes_nothing_from_one_of_the_device() {
    let case = Case { grid: [2, 1, 1], ..Case::new(two_fences, 1).input(vec![0; 4]).output_words(2) };
    assert_eq!(case.watched().run_everywhere(), [7, 7]);
}

/// Threads of one block hand a word on by a flag, which one asks with the block's scope and the other with the device's.
extern "C" fn two_scopes(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let releases = parameters.numbers[0];
    if thread() == 0 {
        store(parameters, 0, 7);
        // SAFETY: inside a kernel.
        unsafe { gridpoint_atomic_add(flag(parameters, 0), 1, releases, 1) };
    } else if thread() == 40 {
        await_flag(flag(parameters, 0), 1, (1 - releases, 1));
        store(parameters, 1, read_output(parameters, 0));
    }
}

#[test]
fn scopes_that_both_hold_the_other_thread_order() {
    for releases in [0, 1] {
        let case = Case::new(two_scopes, 64).input(vec![0; 4]).output_words(2).numbers([releases, 0, 0, 0]);
        assert_eq!(case.watched().run_everywhere(), [7, 7]);
    }
}

/// Thread 40 writes what thread 0 copies, which learns of it by a flag and fences.
extern "C" fn fenced_by_the_reader(pointer: *const c_void) {
    let parameters = parameters(pointer);
    // SAFETY: inside a kernel.
    unsafe {
        if thread() == 40 {
            (0..4).for_each(|word| put(shared_word(word), 7));
            gridpoint_atomic_add(flag(parameters, 0), 1, 0, 1);
        } else if thread() == 0 {
            await_flag(flag(parameters, 0), 1, (0, 1));
            gridpoint_fence_proxy_async();
            gridpoint_bulk_store(parameters.output.cast(), SHARED, 16);
            gridpoint_bulk_commit();
            gridpoint_bulk_wait(0, 0);
        }
    }
}

#[test]
fn a_proxy_fence_covers_what_a_flag_has_told_of() {
    let case = Case::new(fenced_by_the_reader, 64).input(vec![0; 4]).output_words(4);
    assert_eq!(case.watched().run_everywhere(), [7; 4]);
}

/// Every thread of every block adds to a word under a lock.
extern "C" fn lock_between_blocks(pointer: *const c_void) {
    let parameters = parameters(pointer);
    // SAFETY: inside a kernel.
    unsafe {
        while gridpoint_atomic_compare_exchange(flag(parameters, 0), 0, 1, 1, 0) != 0 {
            gridpoint_yield();
        }
        gridpoint_fence(1);
        let sum = flag(parameters, 1);
        put(sum, get(sum) + 1);
        gridpoint_fence(1);
        gridpoint_atomic_compare_exchange(flag(parameters, 0), 1, 0, 1, 0);
        if gridpoint_atomic_add(flag(parameters, 2), 1, 1, 1) + 1 == identity().grid_size[0] * identity().block_size[0]
        {
            store(parameters, 0, get(sum));
        }
    }
}

#[test]
fn a_lock_with_fences_orders_blocks() {
    for (blocks, threads) in [(5, 33), (1, 1024), (40, 1)] {
        for resident in [1, 3] {
            let residency = Residency { multiprocessors: 1, blocks: resident };
            let case = Case::new(lock_between_blocks, threads).input(vec![0; 4]).output_words(1);
            let case = Case { grid: [blocks, 1, 1], residency, ..case };
            assert_eq!(case.watched().run_everywhere(), [blocks * threads]);
        }
    }
}

const STAGES: u32 = 2;
const CONSUMERS: u32 = 3;

fn full(stage: u32) -> u32 {
    SHARED + 8192 + stage * 16
}

fn empty(stage: u32) -> u32 {
    full(stage) + 8
}

fn initialise(stages: u32, arrivals: u32) {
    // SAFETY: inside a kernel.
    unsafe {
        if thread() == 0 {
            for stage in 0..stages {
                gridpoint_mbarrier_init(full(stage), 1);
                gridpoint_mbarrier_init(empty(stage), arrivals);
            }
            gridpoint_fence_mbarrier_init();
        }
        gridpoint_cluster_barrier(0);
        gridpoint_cluster_barrier(1);
    }
}

/// Each block of a cluster of two loads half of each stage into both; a stage is empty when the consumers of both blocks say so.
extern "C" fn multicast_ring(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let rounds = parameters.numbers[0];
    initialise(STAGES, 2 * CONSUMERS);
    let mut sum = 0;
    // SAFETY: inside a kernel.
    unsafe {
        let rank = gridpoint_cluster_place() & 0xffff;
        for round in 0..rounds {
            let (stage, parity) = (round % STAGES, round / STAGES % 2);
            if thread() == 0 {
                wait(empty(stage), parity ^ 1);
                gridpoint_mbarrier_arrive(full(stage), 1, 128);
                let source = parameters.input.wrapping_add((round * 32 + rank * 16) as usize);
                gridpoint_bulk_load(SHARED + stage * 128 + rank * 64, source.cast(), 64, full(stage), 0b11);
            } else if thread() >= 32 {
                wait(full(stage), parity);
                sum += get(shared_word(stage * 32 + thread() % 32));
                warp_sync();
                if thread().is_multiple_of(32) {
                    (0..2).for_each(|rank| gridpoint_mbarrier_arrive(gridpoint_map_shared(empty(stage), rank), 1, 0));
                }
            }
        }
        gridpoint_cluster_barrier(0);
        gridpoint_cluster_barrier(1);
    }
    store(parameters, block() * identity().block_size[0] + thread(), sum);
}

#[test]
fn a_multicast_ring_with_remote_arrivals_is_ordered() {
    let case = Case::new(multicast_ring, 32 * (CONSUMERS + 1)).input((0..9 * 32).collect()).numbers([9, 0, 0, 0]);
    let case = Case { grid: [4, 1, 1], cluster: [2, 1, 1], ..case.output_words(4 * 32 * (CONSUMERS as usize + 1)) };
    let output = case.watched().run_everywhere();
    let threads = 32 * (CONSUMERS as usize + 1);
    assert!((32..threads).all(|me| output[threads + me] == (0..9).map(|round| round * 32 + me as u32 % 32).sum()));
}

fn descriptor(offset: u32) -> u64 {
    u64::from((SHARED + offset) / 16) | 8 << 16 | 16 << 32
}

/// Warp 4 loads operands into three stages; a warpgroup multiplies with one group in flight, and each of its warps hands a stage back
/// by one thread after the wait.
extern "C" fn wgmma_ring(pointer: *const c_void) {
    let parameters = parameters(pointer);
    const STAGE: u32 = 2560;
    initialise(3, 4);
    // SAFETY: inside a kernel, with registers of the right size.
    unsafe {
        if thread() == 128 {
            for round in 0..8 {
                let (stage, parity) = (round % 3, round / 3 % 2);
                wait(empty(stage), parity ^ 1);
                gridpoint_mbarrier_arrive(full(stage), 1, 2304);
                gridpoint_bulk_load(SHARED + stage * STAGE, parameters.input.cast(), 2048, full(stage), 0);
                gridpoint_bulk_load(SHARED + stage * STAGE + 2048, parameters.input.cast(), 256, full(stage), 0);
            }
        }
        if thread() >= 128 {
            return;
        }
        let mut d = [0f32; 4];
        for round in 0..8 {
            let (stage, parity) = (round % 3, round / 3 % 2);
            wait(full(stage), parity);
            warp_sync();
            gridpoint_wgmma_fence();
            gridpoint_wgmma(d.as_mut_ptr(), descriptor(stage * STAGE), descriptor(stage * STAGE + 2048), 8, 64);
            gridpoint_wgmma_commit();
            gridpoint_wgmma_wait(1);
            if round > 0 && thread().is_multiple_of(32) {
                gridpoint_mbarrier_arrive(empty((round - 1) % 3), 1, 0);
            }
        }
        gridpoint_wgmma_wait(0);
        store(parameters, thread(), std::hint::black_box(&d)[3].to_bits());
    }
}

#[test]
fn a_ring_of_operands_with_a_group_in_flight_is_ordered() {
    let case = Case::new(wgmma_ring, 160).input(vec![0x3f80_3f80; 512]).output_words(128);
    let output = case.watched().run_everywhere();
    assert!(output.iter().all(|&word| word == 128f32.to_bits()), "{output:x?}");
}

/// Thread 0 stores from three buffers, each of which is written again when the copies two before it have read theirs.
extern "C" fn ring_of_stores(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let buffers = parameters.numbers[0];
    if thread() != 0 {
        return;
    }
    // SAFETY: inside a kernel.
    unsafe {
        for round in 0..10 {
            let buffer = round % buffers;
            gridpoint_bulk_wait(buffers - 1, 1);
            (0..4).for_each(|word| put(shared_word(buffer * 4 + word), round * 4 + word));
            gridpoint_fence_proxy_async();
            gridpoint_bulk_store(parameters.output.wrapping_add(round as usize * 4).cast(), SHARED + buffer * 16, 16);
            gridpoint_bulk_commit();
        }
        gridpoint_bulk_wait(0, 0);
    }
}

#[test]
fn a_source_is_free_when_its_own_group_was_read() {
    for buffers in [1, 2, 3] {
        let case = Case::new(ring_of_stores, 32).output_words(40).numbers([buffers, 0, 0, 0]);
        assert_eq!(case.watched().run_everywhere(), (0..40).collect::<Vec<u32>>());
    }
}

/// Sums of blocks' partial sums: all threads fence their own, and the thread that counts fences too.
extern "C" fn last_block(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let (threads, blocks) = (identity().block_size[0], identity().grid_size[0]);
    store(parameters, block() * threads + thread(), block());
    // SAFETY: inside a kernel.
    unsafe {
        gridpoint_fence(1);
        barrier();
        if thread() == 0 {
            gridpoint_fence(1);
            put(shared_word(0), gridpoint_atomic_add(flag(parameters, 0), 1, 1, 0));
            gridpoint_fence(1);
        }
    }
    barrier();
    if get(shared_word(0)) + 1 == blocks {
        let sum = (0..blocks).map(|other| read_output(parameters, (other * threads + thread()) as usize)).sum();
        store(parameters, blocks * threads + thread(), sum);
    }
}

#[test]
fn the_last_of_many_blocks_reads_what_all_wrote() {
    for (blocks, threads, resident) in [(1, 1, 1), (60, 32, 4), (3, 1024, 2), (60, 1, 16)] {
        let residency = Residency { multiprocessors: 1, blocks: resident };
        let case = Case::new(last_block, threads).input(vec![0; 4]).output_words(((blocks + 1) * threads) as usize);
        let output = Case { grid: [blocks, 1, 1], residency, ..case }.watched().run_everywhere();
        assert!(output[(blocks * threads) as usize..].iter().all(|&sum| sum == blocks * (blocks - 1) / 2));
    }
}

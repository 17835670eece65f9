//! Who a thread is, and the shared window.

use std::ffi::c_void;

use gridpoint_simulator::machine::Schedule;
use gridpoint_simulator::machine::instructions::{
    gridpoint_barrier, gridpoint_grid_dependency_wait, gridpoint_grid_launch_dependents, gridpoint_shared,
    gridpoint_shared_address, gridpoint_shared_base, gridpoint_shared_bytes,
};

use crate::support::{Case, SHARED, identity, parameters, shared_load, shared_store, store};

extern "C" fn write_identity(pointer: *const c_void) {
    let me = identity();
    let linear = |index: [u32; 3], size: [u32; 3]| index[0] + size[0] * (index[1] + size[1] * index[2]);
    let threads = me.block_size.iter().product::<u32>();
    let place = linear(me.block, me.grid_size) * threads + linear(me.thread, me.block_size);
    store(parameters(pointer), place, place);
}

#[test]
fn every_thread_of_every_block_runs_once() {
    for (grid, block) in
        [([1, 1, 1], [1, 1, 1]), ([7, 1, 1], [33, 1, 1]), ([3, 2, 2], [5, 4, 3]), ([2, 1, 1], [1024, 1, 1])]
    {
        let words = grid.iter().product::<u32>() * block.iter().product::<u32>();
        let case = Case { grid, block, ..Case::new(write_identity, 1) }.output_words(words as usize);
        assert!(case.run_everywhere().into_iter().eq(0..words), "{grid:?} {block:?}");
    }
}

extern "C" fn window(pointer: *const c_void) {
    let parameters = parameters(pointer);
    // SAFETY: inside a kernel.
    unsafe {
        gridpoint_grid_dependency_wait();
        let base = gridpoint_shared_base();
        let start = gridpoint_shared(base, 16 << 10, 16).cast::<u8>();
        let end = start.add(16 << 10);
        store(parameters, 0, base);
        store(parameters, 1, gridpoint_shared_address(start.add(20).cast()));
        store(parameters, 2, gridpoint_shared_address(end.cast()));
        store(parameters, 3, (start as usize % 1024) as u32);
        store(parameters, 4, std::slice::from_raw_parts(start, 16 << 10).iter().all(|&byte| byte == 0xff).into());
        store(parameters, 5, gridpoint_shared_bytes());
        start.write_bytes(0, 16 << 10);
        gridpoint_grid_launch_dependents();
    }
}

#[test]
fn the_shared_window_is_poisoned_anew_and_round_trips() {
    let case = Case::new(window, 1).output_words(6);
    for _ in 0..2 {
        assert_eq!(case.run_everywhere(), [SHARED, SHARED + 20, SHARED + (16 << 10), SHARED % 1024, 1, 16 << 10]);
    }
}

extern "C" fn reverse(pointer: *const c_void) {
    let me = identity();
    shared_store(me.thread[0], me.thread[0] * 3 + me.block[0]);
    // SAFETY: inside a kernel.
    unsafe { gridpoint_barrier(0, 0) };
    let last = me.block_size[0] - 1;
    store(parameters(pointer), me.block[0] * me.block_size[0] + me.thread[0], shared_load(last - me.thread[0]));
}

#[test]
fn blocks_do_not_share_memory() {
    let case = Case { grid: [50, 1, 1], ..Case::new(reverse, 200) }.output_words(50 * 200);
    let expected: Vec<u32> = (0..50).flat_map(|block| (0..200).map(move |thread| (199 - thread) * 3 + block)).collect();
    assert_eq!(case.run_everywhere(), expected);
}

#[test]
fn launches_may_run_at_the_same_time() {
    std::thread::scope(|scope| {
        for seed in 0..6 {
            scope.spawn(move || {
                let case = Case { grid: [9, 1, 1], ..Case::new(reverse, 64) }.output_words(9 * 64);
                for _ in 0..10 {
                    let output = case.run(Schedule::Seeded(seed)).unwrap();
                    assert_eq!(output[64..67], [63 * 3 + 1, 62 * 3 + 1, 61 * 3 + 1]);
                }
            });
        }
    });
}

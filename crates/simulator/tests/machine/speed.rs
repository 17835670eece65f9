//! What things cost: `cargo test --release -p gridpoint-simulator --test machine -- --ignored --nocapture speed`.

use std::ffi::c_void;
use std::io::Write;
use std::time::Instant;

use gridpoint_simulator::machine::Schedule;
use gridpoint_simulator::machine::hopper::{
    gridpoint_wgmma, gridpoint_wgmma_commit, gridpoint_wgmma_fence, gridpoint_wgmma_wait,
};
use gridpoint_simulator::machine::instructions::{
    gridpoint_barrier, gridpoint_cp_async, gridpoint_cp_async_commit, gridpoint_cp_async_wait, gridpoint_ldmatrix,
    gridpoint_mma_bf16, gridpoint_warp_sync, gridpoint_yield,
};

use crate::support::{Case, FULL, SHARED, load, parameters, store, thread};

extern "C" fn empty(_: *const c_void) {}

extern "C" fn yields(pointer: *const c_void) {
    for _ in 0..parameters(pointer).numbers[0] {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_yield() };
    }
}

extern "C" fn warp_syncs(pointer: *const c_void) {
    for _ in 0..parameters(pointer).numbers[0] {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_warp_sync(FULL) };
    }
}

extern "C" fn barriers(pointer: *const c_void) {
    for _ in 0..parameters(pointer).numbers[0] {
        // SAFETY: inside a kernel.
        unsafe { gridpoint_barrier(0, 0) };
    }
}

extern "C" fn loads(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let mut sum = 0u32;
    for i in 0..parameters.numbers[0] {
        sum = sum.wrapping_add(load(parameters, i % 256));
    }
    store(parameters, thread(), sum);
}

fn tile<const M: usize, const N: usize>(pointer: *const c_void) {
    let parameters = parameters(pointer);
    let mut sums = [[[0f32; 4]; N]; M];
    let lane = thread() % 32;
    for step in 0..parameters.numbers[0] {
        let mut a = [[0u32; 4]; M];
        let mut b = [[0u32; 2]; N];
        let address = SHARED + lane * 16 + step % 4 * 1024;
        for a in &mut a {
            // SAFETY: inside a kernel, with registers of the right size.
            unsafe { gridpoint_ldmatrix(a.as_mut_ptr(), 4, 0, address) };
        }
        for pair in b.as_flattened_mut().chunks_mut(4) {
            // SAFETY: inside a kernel, with registers of the right size.
            unsafe { gridpoint_ldmatrix(pair.as_mut_ptr(), 4, 0, address + 512) };
        }
        // SAFETY: inside a kernel, with registers of the right size.
        unsafe {
            gridpoint_mma_bf16(sums.as_mut_ptr().cast(), a.as_ptr().cast(), b.as_ptr().cast(), M as u32, N as u32);
        }
    }
    store(parameters, thread(), sums[M - 1][N - 1][3].to_bits());
}

extern "C" fn tile_16x16(pointer: *const c_void) {
    tile::<1, 2>(pointer);
}

extern "C" fn tile_64x64(pointer: *const c_void) {
    tile::<4, 8>(pointer);
}

extern "C" fn copies(pointer: *const c_void) {
    let parameters = parameters(pointer);
    for i in 0..parameters.numbers[0] {
        // SAFETY: inside a kernel.
        unsafe {
            for j in 0..4 {
                gridpoint_cp_async(SHARED + thread() * 64 + j * 16, parameters.input.cast(), 16, 16);
            }
            gridpoint_cp_async_commit();
            if i % 4 == 0 {
                gridpoint_cp_async_wait(2);
            }
        }
    }
}

fn measure(name: &str, case: &Case, units: f64, unit: &str) {
    for schedule in [Schedule::RoundRobin, Schedule::Seeded(1)] {
        let runs = (0..5).map(|_| {
            let start = Instant::now();
            case.run(schedule).unwrap_or_else(|fault| panic!("{fault}"));
            start.elapsed().as_secs_f64()
        });
        let best = runs.fold(f64::INFINITY, f64::min);
        let order = if schedule == Schedule::RoundRobin { "round-robin" } else { "seeded" };
        let line =
            format!("{name:24} {order:12} {:9.2} ns per {unit}, {:7.3} G/s\n", best / units * 1e9, units / best / 1e9);
        std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
    }
}

fn wgmma_tile(pointer: *const c_void, columns: u32) {
    let parameters = parameters(pointer);
    let mut sums = [0f32; 128];
    let descriptor = |offset: u32| u64::from((SHARED + offset) / 16) | 1 << 16 | 64 << 32 | 1 << 62;
    // SAFETY: inside a kernel, with registers of the right size.
    unsafe {
        for _ in 0..parameters.numbers[0] {
            gridpoint_wgmma_fence();
            for k in 0..4 {
                gridpoint_wgmma(sums.as_mut_ptr(), descriptor(k * 32), descriptor(8192 + k * 32), columns, 64);
            }
            gridpoint_wgmma_commit();
            gridpoint_wgmma_wait(0);
        }
    }
    store(parameters, thread(), sums[3].to_bits());
}

extern "C" fn wgmma_64x256(pointer: *const c_void) {
    wgmma_tile(pointer, 256);
}

extern "C" fn wgmma_64x64(pointer: *const c_void) {
    wgmma_tile(pointer, 64);
}

extern "C" fn wgmma_64x8(pointer: *const c_void) {
    wgmma_tile(pointer, 8);
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let case = |entry, threads: u32, count: u32| {
        Case::new(entry, threads).input(vec![0x3f80_3f80; 4096]).numbers([count, 0, 0, 0])
    };
    measure("empty block of 256", &case(empty, 256, 0), 1.0, "block");
    let grid = Case { grid: [1000, 1, 1], ..case(empty, 256, 0) };
    measure("1000 empty blocks of 256", &grid, 1000.0, "block");
    measure("yield", &case(yields, 32, 30_000), 32.0 * 30_000.0, "switch");
    measure("yield, 256 threads", &case(yields, 256, 10_000), 256.0 * 10_000.0, "switch");
    measure("bar.warp.sync", &case(warp_syncs, 32, 100_000), 32.0 * 100_000.0, "lane");
    measure("bar.sync, 256 threads", &case(barriers, 256, 10_000), 256.0 * 10_000.0, "thread");
    measure("global load", &case(loads, 32, 100_000), 32.0 * 100_000.0, "load");
    measure("cp.async 16", &case(copies, 128, 10_000), 128.0 * 40_000.0, "copy");
    measure("1x2 mma tiles, 1 warp", &case(tile_16x16, 32, 20_000), 20_000.0 * 4096.0, "multiply-add");
    measure("1x2 mma tiles, 4 warps", &case(tile_16x16, 128, 20_000), 4.0 * 20_000.0 * 4096.0, "multiply-add");
    for (entry, name, columns) in [
        (wgmma_64x256 as extern "C" fn(*const c_void), "wgmma m64n256k64", 256.0),
        (wgmma_64x64, "wgmma m64n64k64", 64.0),
        (wgmma_64x8, "wgmma m64n8k64", 8.0),
    ] {
        let case = Case { shared_bytes: 48 << 10, ..case(entry, 128, 2_000) };
        measure(name, &case, 2_000.0 * 64.0 * columns * 64.0, "multiply-add");
    }
    measure("4x8 mma tiles, 4 warps", &case(tile_64x64, 128, 2_000), 4.0 * 2_000.0 * 65536.0, "multiply-add");
}

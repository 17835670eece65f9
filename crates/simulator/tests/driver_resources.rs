//! What lives in the primary context: its state, what a reset makes of handles, what leaks, and functions by name.

use std::ffi::{CStr, c_int, c_void};

use gridpoint_driver::*;
use gridpoint_simulator::{Leak, LeakKind, leaks};

#[macro_use]
mod driver_support;
use driver_support::{device, make_current, step, t};

fn state() -> (u32, c_int) {
    let (mut flags, mut active) = (0, 0);
    ok!(cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
    (flags, active)
}

#[test]
fn the_primary_context_is_active_while_it_is_retained() {
    let device = device();
    assert_eq!(state(), (0, 1));
    // CU_CTX_SCHED_BLOCKING_SYNC; since CUDA 11.0 an active context takes new flags.
    ok!(cuDevicePrimaryCtxSetFlags_v2(0, 4));
    let mut flags = 0;
    ok!(cuCtxGetFlags(&mut flags));
    assert_eq!((state(), flags), ((4, 1), 4));
    assert_eq!(answer!(cuDevicePrimaryCtxSetFlags_v2(0, 0x100)), CUresult::ERROR_INVALID_VALUE);
    assert_eq!(answer!(cuDevicePrimaryCtxSetFlags_v2(1, 0)), CUresult::ERROR_INVALID_DEVICE);
    assert_eq!(answer!(cuDevicePrimaryCtxGetState(0, std::ptr::null_mut(), &mut 0)), CUresult::ERROR_INVALID_VALUE);
    ok!(cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(state(), (4, 0));
    assert_eq!(answer!(cuDevicePrimaryCtxRelease_v2(0)), CUresult::ERROR_INVALID_CONTEXT);
    ok!(cuDevicePrimaryCtxSetFlags_v2(0, 0));
    make_current();
    assert_eq!(state(), (0, 1));
    drop(device);
}

#[test]
fn a_reset_makes_every_handle_stale() {
    let device = device();
    let (stream, other, event) = (device.stream(0), device.stream(0), device.event(0));
    let (data, pinned, function, module) =
        (device.buffer(&[1]), device.pinned(&[1]), device.function(c"nothing"), device.module());
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    device.mix(stream, data, 1, 5);
    let graph = device.end(stream).unwrap();
    let node = device.nodes(graph)[0];
    let executable = device.instantiate(graph);
    device.begin(other, CUstreamCaptureMode::THREAD_LOCAL);
    ok!(cuDevicePrimaryCtxReset_v2(0));

    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    assert_eq!((free, leaks()), (total, Vec::new()));
    let (stale, unknown) = (CUresult::ERROR_INVALID_HANDLE, CUresult::ERROR_INVALID_VALUE);
    let none = std::ptr::null_mut::<*mut c_void>();
    assert_eq!(answer!(cuStreamSynchronize(stream)), stale);
    assert_eq!(answer!(cuStreamBeginCapture_v2(stream, CUstreamCaptureMode::GLOBAL)), stale);
    assert_eq!(device.end(other), Err(stale));
    assert_eq!(answer!(cuEventRecord(event, CU_STREAM_LEGACY)), stale);
    assert_eq!(answer!(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, CU_STREAM_LEGACY, none, none)), stale);
    assert_eq!(answer!(cuModuleGetFunction(&mut CUfunction::null(), module, c"nothing".as_ptr())), stale);
    assert_eq!(answer!(cuModuleUnload(module)), stale);
    assert_eq!(answer!(cuMemFree_v2(data)), unknown);
    assert_eq!(answer!(cuMemFreeHost(pinned.cast())), unknown);
    assert_eq!(answer!(cuGraphLaunch(executable, CU_STREAM_LEGACY)), unknown);
    assert_eq!(answer!(cuGraphExecDestroy(executable)), unknown);
    assert_eq!(answer!(cuGraphDestroy(graph)), unknown);
    assert_eq!(answer!(cuGraphNodeGetType(node, &mut CUgraphNodeType::default())), unknown);
    // What is made from here on works, under numbers that were never used.
    assert_ne!(device.stream(0), stream);
    ok!(cuCtxSynchronize());
}

#[test]
fn leaks_are_listed_in_the_order_in_which_they_were_made() {
    let device = device();
    assert_eq!(leaks(), []);
    let stream = device.stream(0);
    let data = device.buffer(&[1, 2, 3]);
    let event = device.event(0);
    let pinned = device.pinned(&[1]);
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    device.mix(stream, data, 1, 5);
    let capturing = leaks();
    assert_eq!(capturing.last().map(|leak| leak.kind), Some(LeakKind::Graph { capturing: true }));
    let graph = device.end(stream).unwrap();
    let executable = device.instantiate(graph);
    device.mix(CU_STREAM_PER_THREAD, data, 1, 5);
    let found = leaks();
    let kinds: Vec<LeakKind> = found.iter().map(|leak| leak.kind).collect();
    let expected = [
        LeakKind::Stream,
        LeakKind::DeviceMemory { bytes: 12 },
        LeakKind::Event,
        LeakKind::PinnedMemory { bytes: 4 },
        LeakKind::Graph { capturing: false },
        LeakKind::Executable,
    ];
    assert_eq!(kinds, expected);
    assert!(found.windows(2).all(|pair| pair[0].order < pair[1].order), "{found:?}");
    assert_eq!((found[0].handle, found[1].handle), (stream.0.addr() as u64, data));
    let words = found[1].to_string();
    assert!(words.starts_with("12 bytes of device memory `0x"), "{words}");

    ok!(cuGraphExecDestroy(executable));
    ok!(cuGraphDestroy(graph));
    ok!(cuMemFreeHost(pinned.cast()));
    ok!(cuEventDestroy_v2(event));
    let left: Vec<LeakKind> = leaks().iter().map(|leak: &Leak| leak.kind).collect();
    assert_eq!(left, expected[..2]);
    ok!(cuMemFree_v2(data));
    ok!(cuStreamDestroy_v2(stream));
    assert_eq!(leaks(), []);
}

fn address(name: &CStr, version: c_int, flags: u64) -> (CUresult, *mut c_void, CUdriverProcAddressQueryResult) {
    let mut address = std::ptr::without_provenance_mut(1);
    let mut status = CUdriverProcAddressQueryResult(9);
    let answer = answer!(cuGetProcAddress_v2(name.as_ptr(), &mut address, version, flags, &mut status));
    (answer, address, status)
}

#[test]
fn functions_are_found_by_name_in_their_newest_version() {
    let device = device();
    let (answer, newest, status) = address(c"cuMemAlloc", 13_000, 0);
    assert_eq!((answer, status), (CUresult::SUCCESS, CUdriverProcAddressQueryResult::SUCCESS));
    assert_eq!(newest, t().cuMemAlloc_v2 as *mut c_void);
    assert_eq!(address(c"cuMemAlloc_v2", 12_000, 1).1, newest);
    // SAFETY: the function of this name and version has this type.
    let allocate: unsafe extern "C" fn(*mut CUdeviceptr, usize) -> CUresult = unsafe { std::mem::transmute(newest) };
    let mut data = 0;
    // SAFETY: the pointer is that of a live address.
    assert_eq!(unsafe { allocate(&mut data, 4) }, CUresult::SUCCESS);
    ok!(cuMemsetD32_v2(data, 1, 1));
    device.mix(CU_STREAM_LEGACY, data, 1, 5);
    ok!(cuCtxSynchronize());
    assert_eq!(device.peek(data), step(1, 5));

    let (missing, new) =
        (CUdriverProcAddressQueryResult::SYMBOL_NOT_FOUND, CUdriverProcAddressQueryResult::VERSION_NOT_SUFFICIENT);
    for name in [c"cuNothing", c"cuTexObjectCreate", c""] {
        let found = address(name, 13_000, 0);
        assert_eq!((found.0, found.1.is_null(), found.2), (CUresult::ERROR_NOT_FOUND, true, missing), "{name:?}");
    }
    assert_eq!(address(c"cuMemAlloc", 99_000, 0).2, new);
    assert_eq!(address(c"cuMemAlloc", 13_000, 3).0, CUresult::ERROR_INVALID_VALUE);
    let mut found = std::ptr::null_mut();
    ok!(cuGetProcAddress(c"cuInit".as_ptr(), &mut found, 11_030, 0));
    assert_eq!(found, t().cuInit as *mut c_void);
    assert_eq!(answer!(cuGetProcAddress(std::ptr::null(), &mut found, 11_030, 0)), CUresult::ERROR_INVALID_VALUE);
}

//! Calls that fail from outside.

use gridpoint_driver::*;
use gridpoint_simulator::{CallCounts, Injection, LeakKind, leaks};

#[macro_use]
mod driver_support;
use driver_support::{device, make_current, t};

const CODE: CUresult = CUresult::ERROR_OPERATING_SYSTEM;

#[test]
fn the_nth_call_fails_once_or_from_then_on() {
    let device = device();
    let event = || {
        let mut event = CUevent::null();
        (answer!(cuEventCreate(&mut event, 0)), event)
    };
    let once = Injection::once("cuEventCreate", 2, CODE).unwrap().install();
    assert_eq!([event(), event(), event()].map(|(answer, _)| answer), [CUresult::SUCCESS, CODE, CUresult::SUCCESS]);
    assert_eq!((once.calls(), once.fired()), (3, 1));
    drop(once);
    let onwards = Injection::onwards("cuEventCreate", 2, CODE).unwrap().install();
    let found = [event(), event(), event()];
    assert_eq!(found.map(|(answer, _)| answer), [CUresult::SUCCESS, CODE, CODE]);
    assert!(found[1].1.is_null(), "a failed call does nothing");
    assert_eq!((onwards.calls(), onwards.fired()), (3, 2));
    // Of two injections the older one decides, and both count.
    let younger = Injection::onwards("cuEventCreate", 1, CUresult::ERROR_UNKNOWN).unwrap().install();
    assert_eq!(event().0, CODE);
    drop(onwards);
    assert_eq!(event().0, CUresult::ERROR_UNKNOWN);
    assert_eq!((younger.calls(), younger.fired()), (2, 1));
    drop(younger);
    assert_eq!(event().0, CUresult::SUCCESS);
    drop(device);
}

#[test]
fn an_unknown_function_is_named() {
    let error = Injection::once("cuMemAlloc", 1, CODE).unwrap_err();
    assert!(error.to_string().contains("`cuMemAlloc`"), "{error}");
}

#[test]
fn calls_that_give_something_back_are_carried_out() {
    let device = device();
    let before = leaks();
    let (data, event, stream) = (device.buffer(&[1]), device.event(0), device.stream(0));
    let pinned = device.pinned(&[1]);
    let executable = {
        device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
        device.mix(stream, data, 1, 5);
        let graph = device.end(stream).unwrap();
        let executable = device.instantiate(graph);
        let _failing = Injection::once("cuGraphDestroy", 1, CODE).unwrap().install();
        assert_eq!(answer!(cuGraphDestroy(graph)), CODE);
        executable
    };
    let names = ["cuGraphExecDestroy", "cuMemFree_v2", "cuMemFreeHost", "cuEventDestroy_v2", "cuStreamDestroy_v2"];
    let failing = names.map(|name| Injection::once(name, 1, CODE).unwrap().install());
    assert_eq!(answer!(cuGraphExecDestroy(executable)), CODE);
    assert_eq!(answer!(cuMemFree_v2(data)), CODE);
    assert_eq!(answer!(cuMemFreeHost(pinned.cast())), CODE);
    assert_eq!(answer!(cuEventDestroy_v2(event)), CODE);
    assert_eq!(answer!(cuStreamDestroy_v2(stream)), CODE);
    assert_eq!(failing.map(|failing| failing.fired()), [1; 5]);
    assert_eq!(leaks(), before);
}

#[test]
fn a_capture_whose_end_fails_is_over() {
    let device = device();
    let stream = device.stream(0);
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    let failing = Injection::once("cuStreamEndCapture", 1, CODE).unwrap().install();
    assert_eq!(device.end(stream), Err(CODE));
    drop(failing);
    let mut status = CUstreamCaptureStatus::ACTIVE;
    ok!(cuStreamIsCapturing(stream, &mut status));
    assert_eq!(status, CUstreamCaptureStatus::NONE);
    assert!(leaks().iter().all(|leak| !matches!(leak.kind, LeakKind::Graph { .. })));
}

#[test]
fn memory_runs_out_where_it_is_told_to() {
    let device = device();
    let mut pointer = 0;
    let limit = Injection::out_of_memory_after(1000).install();
    ok!(cuMemAlloc_v2(&mut pointer, 600));
    assert_eq!(answer!(cuMemAlloc_v2(&mut pointer, 401)), CUresult::ERROR_OUT_OF_MEMORY);
    ok!(cuMemAlloc_v2(&mut pointer, 400));
    ok!(cuMemFree_v2(pointer));
    assert_eq!(answer!(cuMemAlloc_v2(&mut pointer, 1)), CUresult::ERROR_OUT_OF_MEMORY);
    // Pinned memory is the host's; executable graphs take device memory.
    device.pinned(&[1; 500]);
    let mut graph = CUgraph::null();
    ok!(cuGraphCreate(&mut graph, 0));
    let mut executable = CUgraphExec::null();
    let answer = answer!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
    assert_eq!(answer, CUresult::ERROR_OUT_OF_MEMORY);
    assert_eq!((limit.calls(), limit.fired()), (5, 3));
    drop(limit);
    ok!(cuMemAlloc_v2(&mut pointer, 1001));
}

#[test]
fn calls_of_all_threads_count() {
    let device = device();
    let counts = CallCounts::start();
    let failing = Injection::once("cuEventCreate", 10, CODE).unwrap().install();
    let failures: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    make_current();
                    let failed = (0..5).filter(|_| !answer!(cuEventCreate(&mut CUevent::null(), 0)).is_success());
                    let failed = failed.count();
                    ok!(cuDevicePrimaryCtxRelease_v2(0));
                    failed
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((failures, failing.calls(), failing.fired()), (1, 20, 1));
    assert_eq!((counts.of("cuEventCreate"), counts.of("cuEventDestroy_v2"), counts.of("none")), (20, 0, 0));
    let all = counts.all();
    assert!(all.contains(&("cuDevicePrimaryCtxRelease_v2", 4)), "{all:?}");
    assert!(all.iter().all(|&(name, calls)| calls > 0 && Table::NAMES.contains(&name)));
    drop(device);
    let _ = t();
}

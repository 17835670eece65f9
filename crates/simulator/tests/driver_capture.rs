//! The rules of stream capture: each test plants an error and sees CUDA's code, and what becomes of the capture.

use std::ffi::c_void;

use gridpoint_driver::CUstreamCaptureMode as Mode;
use gridpoint_driver::CUstreamCaptureStatus as Status;
use gridpoint_driver::*;

#[macro_use]
mod driver_support;
use driver_support::{Device, device, make_current, step};

const UNSUPPORTED: CUresult = CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED;
const INVALIDATED: CUresult = CUresult::ERROR_STREAM_CAPTURE_INVALIDATED;
const NON_BLOCKING: u32 = CU_STREAM_NON_BLOCKING;

fn status(stream: CUstream) -> Status {
    let mut status = Status(9);
    ok!(cuStreamIsCapturing(stream, &mut status));
    status
}

/// Asserts that the capture of `stream` is invalid, answers so everywhere, and is over once it is ended.
fn assert_invalid(device: &Device, stream: CUstream) {
    assert_eq!(status(stream), Status::INVALIDATED);
    assert_eq!(answer!(cuLaunchHostFunc(stream, Some(nothing), std::ptr::null_mut())), INVALIDATED);
    assert_eq!(answer!(cuStreamSynchronize(stream)), INVALIDATED);
    assert_eq!(device.end(stream), Err(INVALIDATED));
    assert_eq!(status(stream), Status::NONE);
    ok!(cuStreamSynchronize(stream));
}

unsafe extern "C" fn nothing(_: *mut c_void) {}

/// Runs `body` on another thread, with the context current.
fn elsewhere<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    let run = || {
        make_current();
        let answer = body();
        ok!(cuDevicePrimaryCtxRelease_v2(0));
        answer
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

#[test]
fn a_capture_runs_nothing_and_ends_with_a_graph() {
    let device = device();
    let stream = device.stream(0);
    let data = device.buffer(&[1]);
    assert_eq!(status(stream), Status::NONE);
    device.begin(stream, Mode::THREAD_LOCAL);
    assert_eq!(status(stream), Status::ACTIVE);
    device.mix(stream, data, 1, 5);
    let graph = device.end(stream).unwrap();
    assert_eq!(status(stream), Status::NONE);
    ok!(cuCtxSynchronize());
    assert_eq!((device.peek(data), device.nodes(graph).len()), (1, 1));
    device.mix(stream, data, 1, 5);
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data), step(1, 5));
}

#[test]
fn the_legacy_stream_cannot_capture() {
    let device = device();
    for stream in [CUstream::null(), CU_STREAM_LEGACY] {
        assert_eq!(answer!(cuStreamBeginCapture_v2(stream, Mode::RELAXED)), UNSUPPORTED);
    }
    ok!(cuStreamBeginCapture_v2(CU_STREAM_PER_THREAD, Mode::RELAXED));
    assert!(device.end(CU_STREAM_PER_THREAD).is_ok());
}

#[test]
fn a_second_begin_is_an_illegal_state_and_harms_nothing() {
    let device = device();
    let stream = device.stream(0);
    assert_eq!(answer!(cuStreamBeginCapture_v2(stream, Mode(3))), CUresult::ERROR_INVALID_VALUE);
    device.begin(stream, Mode::GLOBAL);
    assert_eq!(answer!(cuStreamBeginCapture_v2(stream, Mode::GLOBAL)), CUresult::ERROR_ILLEGAL_STATE);
    assert!(device.end(stream).is_ok());
    assert_eq!(device.end(stream), Err(CUresult::ERROR_ILLEGAL_STATE));
}

#[test]
fn each_unsafe_call_alone_invalidates() {
    let alone: [fn(&Device) -> CUresult; 12] = [
        |_| answer!(cuMemAlloc_v2(&mut 0, 4)),
        |_| answer!(cuMemFree_v2(0)),
        |_| answer!(cuMemAllocHost_v2(&mut std::ptr::null_mut(), 4)),
        |_| answer!(cuMemFreeHost(std::ptr::null_mut())),
        |_| answer!(cuMemAllocManaged(&mut 0, 4, 1)),
        |_| answer!(cuMemHostAlloc(&mut std::ptr::null_mut(), 4, 0)),
        |_| answer!(cuModuleLoadData(&mut CUmodule::null(), gridpoint_simulator::image("driver_test").as_ptr().cast())),
        |device| answer!(cuModuleUnload(device.module())),
        |device| answer!(cuStreamQuery(device.stream(NON_BLOCKING))),
        |device| answer!(cuStreamSynchronize(device.stream(NON_BLOCKING))),
        |device| answer!(cuEventQuery(device.event(0))),
        |device| answer!(cuEventSynchronize(device.event(0))),
    ];
    for (index, call) in alone.iter().enumerate() {
        let device = device();
        let stream = device.stream(NON_BLOCKING);
        for mode in [Mode::THREAD_LOCAL, Mode::GLOBAL] {
            device.begin(stream, mode);
            assert_eq!(call(&device), UNSUPPORTED, "call {index} in mode {mode:?}");
            assert_eq!(answer!(cuMemFree_v2(0)), INVALIDATED, "the capture is invalid and not over");
            assert_invalid(&device, stream);
        }
    }
}

#[test]
fn a_synchronous_copy_is_unsafe() {
    let device = device();
    let data = device.buffer(&[1]);
    let stream = device.stream(NON_BLOCKING);
    device.begin(stream, Mode::THREAD_LOCAL);
    assert_eq!(answer!(cuMemcpyDtoH_v2([0_u32].as_mut_ptr().cast(), data, 4)), UNSUPPORTED);
    assert_invalid(&device, stream);
}

#[test]
fn unsafe_calls_in_relaxed_mode_are_allowed() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    device.begin(stream, Mode::RELAXED);
    ok!(cuMemAlloc_v2(&mut 0, 4));
    ok!(cuStreamSynchronize(device.stream(0)));
    ok!(cuEventQuery(device.event(0)));
    assert!(device.end(stream).is_ok());
}

#[test]
fn another_thread_is_bound_by_a_global_capture_only() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let allocate = || elsewhere(|| answer!(cuMemAlloc_v2(&mut 0, 4)));
    for mode in [Mode::THREAD_LOCAL, Mode::RELAXED] {
        device.begin(stream, mode);
        assert_eq!(allocate(), CUresult::SUCCESS);
        assert!(device.end(stream).is_ok());
    }
    device.begin(stream, Mode::GLOBAL);
    assert_eq!(allocate(), UNSUPPORTED);
    assert_invalid(&device, stream);
}

#[test]
fn a_thread_can_leave_the_global_mode() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    device.begin(stream, Mode::GLOBAL);
    for own in [Mode::THREAD_LOCAL, Mode::RELAXED] {
        let answer = elsewhere(|| {
            let mut mode = own;
            ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
            assert_eq!(mode, Mode::GLOBAL);
            answer!(cuMemAlloc_v2(&mut 0, 4))
        });
        assert_eq!(answer, CUresult::SUCCESS);
    }
    // The capturing thread itself is bound in thread-local mode and free in relaxed mode.
    let mut mode = Mode::RELAXED;
    ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
    ok!(cuMemAlloc_v2(&mut 0, 4));
    mode = Mode::THREAD_LOCAL;
    ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
    assert_eq!(mode, Mode::RELAXED);
    assert_eq!(answer!(cuMemAlloc_v2(&mut 0, 4)), UNSUPPORTED);
    assert_invalid(&device, stream);
    assert_eq!(answer!(cuThreadExchangeStreamCaptureMode(&mut Mode(7))), CUresult::ERROR_INVALID_VALUE);
}

#[test]
fn a_capturing_stream_cannot_be_waited_for_in_any_mode() {
    for mode in [Mode::GLOBAL, Mode::THREAD_LOCAL, Mode::RELAXED] {
        let device = device();
        let stream = device.stream(0);
        device.begin(stream, mode);
        assert_eq!(answer!(cuStreamSynchronize(stream)), UNSUPPORTED);
        assert_invalid(&device, stream);
        device.begin(stream, mode);
        assert_eq!(answer!(cuStreamQuery(stream)), UNSUPPORTED);
        assert_invalid(&device, stream);
        device.begin(stream, mode);
        assert_eq!(answer!(cuCtxSynchronize()), UNSUPPORTED);
        assert_invalid(&device, stream);
        device.begin(stream, mode);
        assert_eq!(answer!(cuStreamAddCallback(stream, None, std::ptr::null_mut(), 0)), CUresult::ERROR_INVALID_VALUE);
        assert!(device.end(stream).is_ok());
    }
}

#[test]
fn a_captured_event_cannot_be_waited_for_by_the_host() {
    let device = device();
    let (stream, event) = (device.stream(0), device.event(0));
    for wait in [true, false] {
        device.begin(stream, Mode::RELAXED);
        ok!(cuEventRecord(event, stream));
        let code = if wait { answer!(cuEventSynchronize(event)) } else { answer!(cuEventQuery(event)) };
        assert_eq!(code, CUresult::ERROR_CAPTURED_EVENT);
        assert_invalid(&device, stream);
        assert_eq!(answer!(cuEventQuery(event)), CUresult::ERROR_CAPTURED_EVENT, "also when the capture is over");
        assert_eq!(answer!(cuEventElapsedTime(&mut 0.0, event, event)), CUresult::ERROR_CAPTURED_EVENT);
        assert_eq!(answer!(cuStreamWaitEvent(stream, event, 0)), CUresult::ERROR_CAPTURED_EVENT);
        ok!(cuEventRecord(event, stream));
        ok!(cuEventSynchronize(event));
    }
}

#[test]
fn the_legacy_stream_is_barred_while_a_blocking_stream_captures() {
    let device = device();
    let data = device.buffer(&[1]);
    let uses: [fn(u64) -> CUresult; 5] = [
        |data| answer!(cuMemsetD8_v2(data, 0, 1)),
        |data| answer!(cuMemcpyHtoD_v2(data, [0_u8].as_ptr().cast(), 1)),
        |_| answer!(cuLaunchHostFunc(CUstream::null(), Some(nothing), std::ptr::null_mut())),
        |_| answer!(cuStreamSynchronize(CU_STREAM_LEGACY)),
        |data| elsewhere(|| answer!(cuMemsetD8_v2(data, 0, 1))),
    ];
    for (index, call) in uses.iter().enumerate() {
        let stream = device.stream(0);
        device.begin(stream, Mode::RELAXED);
        assert_eq!(call(data), CUresult::ERROR_STREAM_CAPTURE_IMPLICIT, "use {index}");
        assert_invalid(&device, stream);
        // A non-blocking stream's capture does not care.
        let stream = device.stream(NON_BLOCKING);
        device.begin(stream, Mode::RELAXED);
        assert_eq!(call(data), CUresult::SUCCESS, "use {index}");
        assert!(device.end(stream).is_ok());
    }
    let stream = device.stream(0);
    device.begin(stream, Mode::RELAXED);
    let mut seen = Status::NONE;
    let asked = answer!(cuStreamIsCapturing(CU_STREAM_LEGACY, &mut seen));
    assert_eq!(asked, CUresult::ERROR_STREAM_CAPTURE_IMPLICIT);
    assert!(device.end(stream).is_ok(), "a question invalidates nothing");
}

#[test]
fn only_the_first_stream_and_its_thread_end_a_capture() {
    let device = device();
    let (origin, forked, event) = (device.stream(0), device.stream(0), device.event(0));
    device.begin(origin, Mode::THREAD_LOCAL);
    ok!(cuEventRecord(event, origin));
    ok!(cuStreamWaitEvent(forked, event, 0));
    assert_eq!(status(forked), Status::ACTIVE);
    assert_eq!(device.end(forked), Err(CUresult::ERROR_STREAM_CAPTURE_UNMATCHED));
    assert_eq!(elsewhere(|| device_end(origin)), CUresult::ERROR_STREAM_CAPTURE_WRONG_THREAD);
    assert!(device.end(origin).is_ok());
    assert_eq!(status(forked), Status::NONE);
    device.begin(origin, Mode::RELAXED);
    assert_eq!(elsewhere(|| device_end(origin)), CUresult::SUCCESS);
}

fn device_end(stream: CUstream) -> CUresult {
    answer!(cuStreamEndCapture(stream, &mut CUgraph::null()))
}

#[test]
fn forked_work_must_be_joined() {
    let device = device();
    let (origin, forked) = (device.stream(0), device.stream(NON_BLOCKING));
    let (fork, join) = (device.event(0), device.event(0));
    let data = device.buffer(&[1]);
    let capture = |joined: bool| {
        device.begin(origin, Mode::THREAD_LOCAL);
        device.mix(origin, data, 1, 5);
        ok!(cuEventRecord(fork, origin));
        ok!(cuStreamWaitEvent(forked, fork, 0));
        device.mix(forked, data, 1, 7);
        ok!(cuEventRecord(join, forked));
        if joined {
            ok!(cuStreamWaitEvent(origin, join, 0));
        }
        device.end(origin)
    };
    assert_eq!(capture(false), Err(CUresult::ERROR_STREAM_CAPTURE_UNJOINED));
    assert_eq!((status(origin), status(forked)), (Status::NONE, Status::NONE));
    let graph = capture(true).unwrap();
    let executable = device.instantiate(graph);
    ok!(cuGraphLaunch(executable, origin));
    ok!(cuStreamSynchronize(origin));
    assert_eq!(device.peek(data), step(step(1, 5), 7));
}

#[test]
fn an_event_from_outside_cannot_be_waited_for() {
    let device = device();
    let (stream, other, event) = (device.stream(0), device.stream(NON_BLOCKING), device.event(0));
    ok!(cuEventRecord(event, other));
    device.begin(stream, Mode::THREAD_LOCAL);
    assert_eq!(answer!(cuStreamWaitEvent(stream, event, 0)), CUresult::ERROR_STREAM_CAPTURE_ISOLATION);
    assert_invalid(&device, stream);
    // An external wait is a node of its own.
    device.begin(stream, Mode::THREAD_LOCAL);
    ok!(cuStreamWaitEvent(stream, event, CU_EVENT_WAIT_EXTERNAL));
    let graph = device.end(stream).unwrap();
    let mut kind = CUgraphNodeType::KERNEL;
    ok!(cuGraphNodeGetType(device.nodes(graph)[0], &mut kind));
    assert_eq!(kind, CUgraphNodeType::WAIT_EVENT);
    // The other way round, and for a capture that is over.
    device.begin(stream, Mode::THREAD_LOCAL);
    ok!(cuEventRecord(event, stream));
    device.end(stream).unwrap();
    assert_eq!(answer!(cuStreamWaitEvent(other, event, 0)), CUresult::ERROR_CAPTURED_EVENT);
    device.begin(stream, Mode::THREAD_LOCAL);
    assert_eq!(answer!(cuStreamWaitEvent(stream, event, 0)), CUresult::ERROR_STREAM_CAPTURE_ISOLATION);
    assert_invalid(&device, stream);
}

#[test]
fn two_captures_do_not_merge() {
    let device = device();
    let (one, two, event) = (device.stream(0), device.stream(0), device.event(0));
    device.begin(one, Mode::THREAD_LOCAL);
    device.begin(two, Mode::THREAD_LOCAL);
    ok!(cuEventRecord(event, one));
    assert_eq!(answer!(cuStreamWaitEvent(two, event, 0)), CUresult::ERROR_STREAM_CAPTURE_MERGE);
    assert_eq!(status(one), Status::INVALIDATED);
    assert_eq!(status(two), Status::INVALIDATED);
    assert_eq!(device.end(one), Err(INVALIDATED));
    assert_eq!(device.end(two), Err(INVALIDATED));
}

#[test]
fn a_stream_that_is_destroyed_takes_its_capture_along() {
    let device = device();
    let (origin, forked, event) = (device.stream(0), device.stream(0), device.event(0));
    device.begin(origin, Mode::THREAD_LOCAL);
    ok!(cuEventRecord(event, origin));
    ok!(cuStreamWaitEvent(forked, event, 0));
    ok!(cuStreamDestroy_v2(forked));
    assert_invalid(&device, origin);
    device.begin(origin, Mode::THREAD_LOCAL);
    ok!(cuStreamDestroy_v2(origin));
    ok!(cuCtxSynchronize());
}

#[test]
fn capture_information_names_graph_and_dependencies() {
    let device = device();
    let stream = device.stream(0);
    let data = device.buffer(&[1]);
    let info = || {
        let (mut status, mut number, mut graph) = (Status(9), 0, CUgraph::null());
        let (mut nodes, mut count) = (std::ptr::null(), 0);
        ok!(cuStreamGetCaptureInfo_v2(stream, &mut status, &mut number, &mut graph, &mut nodes, &mut count));
        let mut listed = Vec::new();
        for index in 0..count {
            // SAFETY: the answer is an array of `count` nodes.
            listed.push(unsafe { nodes.add(index).read() });
        }
        (status, number, graph, listed)
    };
    assert_eq!(info().0, Status::NONE);
    device.begin(stream, Mode::THREAD_LOCAL);
    let (_, first, graph, nodes) = info();
    assert_eq!(nodes, []);
    device.mix(stream, data, 1, 5);
    device.mix(stream, data, 1, 7);
    let (status, number, same, nodes) = info();
    assert_eq!((status, number, same), (Status::ACTIVE, first, graph));
    assert_eq!(nodes, device.nodes(graph)[1..]);
    assert_eq!(answer!(cuGraphDestroy(graph)), CUresult::ERROR_INVALID_VALUE);
    assert_eq!(device.end(stream), Ok(graph));
    device.begin(stream, Mode::THREAD_LOCAL);
    assert_ne!(info().1, first);
    device.end(stream).unwrap();
}

#[test]
fn what_cannot_be_captured_says_so() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let data = device.buffer(&[1]);
    unsafe extern "C" fn callback(_: CUstream, _: CUresult, _: *mut c_void) {}
    device.begin(stream, Mode::RELAXED);
    assert_eq!(answer!(cuStreamAddCallback(stream, Some(callback), std::ptr::null_mut(), 0)), UNSUPPORTED);
    assert_invalid(&device, stream);
    device.begin(stream, Mode::RELAXED);
    assert_eq!(answer!(cuMemAllocAsync(&mut 0, 4, stream)), CUresult::ERROR_NOT_SUPPORTED);
    assert_invalid(&device, stream);
    // A wrong argument is refused and harms nothing.
    device.begin(stream, Mode::RELAXED);
    assert_eq!(answer!(cuMemsetD8Async(data, 0, 9, stream)), CUresult::ERROR_INVALID_VALUE);
    assert!(device.end(stream).is_ok());
}

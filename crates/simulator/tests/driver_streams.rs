//! Streams and events of the simulated device: everything runs as late as CUDA's rules allow.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

use gridpoint_driver::*;

#[macro_use]
mod driver_support;
use driver_support::{device, make_current, step};

const NON_BLOCKING: u32 = CU_STREAM_NON_BLOCKING;

#[test]
fn a_pinned_source_is_read_when_the_copy_runs() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let (data, source) = (device.buffer(&[0]), device.pinned(&[1]));
    let copy = || ok!(cuMemcpyHtoDAsync_v2(data, source.cast(), 4, stream));
    // SAFETY: the pinned memory is live.
    let set = |value| unsafe { source.write(value) };

    copy();
    set(2);
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data), 2, "overwritten before the copy had run");

    set(1);
    let done = device.event(CU_EVENT_DISABLE_TIMING);
    copy();
    ok!(cuEventRecord(done, stream));
    ok!(cuEventSynchronize(done));
    set(2);
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data), 1, "overwritten after the event");
}

#[test]
fn a_pageable_source_is_read_when_the_call_is_made() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let data = device.buffer(&[0]);
    let mut source = [1_u32];
    ok!(cuMemcpyHtoDAsync_v2(data, source.as_ptr().cast(), 4, stream));
    source[0] = 2;
    assert_eq!((device.peek(data), source[0]), (0, 2));
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data), 1);
}

#[test]
fn results_in_pinned_memory_need_a_wait_and_in_pageable_memory_none() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let (data, pinned) = (device.buffer(&[9]), device.pinned(&[0]));
    ok!(cuMemcpyDtoHAsync_v2(pinned.cast(), data, 4, stream));
    assert_eq!(device.peek(pinned.addr() as u64), 0);
    let mut pageable = [0_u32];
    device.mix(stream, data, 1, 1);
    ok!(cuMemcpyDtoHAsync_v2(pageable.as_mut_ptr().cast(), data, 4, stream));
    assert_eq!((pageable[0], device.peek(pinned.addr() as u64)), (28, 9));
}

#[test]
fn an_event_orders_two_streams_and_runs_only_what_it_marks() {
    let device = device();
    let (one, two) = (device.stream(NON_BLOCKING), device.stream(NON_BLOCKING));
    let (data, other) = (device.buffer(&[1]), device.buffer(&[1]));
    let event = device.event(0);
    device.mix(one, data, 1, 5);
    ok!(cuEventRecord(event, one));
    device.mix(one, other, 1, 5);
    ok!(cuStreamWaitEvent(two, event, 0));
    device.mix(two, data, 1, 7);
    ok!(cuStreamSynchronize(two));
    assert_eq!(device.peek(data), step(step(1, 5), 7));
    assert_eq!(device.peek(other), 1, "behind the record, nobody waited for it");
    ok!(cuStreamSynchronize(one));
    assert_eq!(device.peek(other), step(1, 5));
}

#[test]
fn without_the_event_the_streams_are_independent() {
    let device = device();
    let (one, two) = (device.stream(NON_BLOCKING), device.stream(NON_BLOCKING));
    let data = device.buffer(&[1]);
    device.mix(one, data, 1, 5);
    device.mix(two, data, 1, 7);
    ok!(cuStreamSynchronize(two));
    assert_eq!(device.peek(data), step(1, 7));
    ok!(cuStreamSynchronize(one));
    assert_eq!(device.peek(data), step(step(1, 7), 5));
}

#[test]
fn the_legacy_stream_synchronises_with_blocking_streams_both_ways() {
    let device = device();
    let (blocking, free) = (device.stream(0), device.stream(NON_BLOCKING));
    let data = device.buffer(&[1]);
    for first in [blocking, CU_STREAM_LEGACY, CUstream::null(), CU_STREAM_PER_THREAD] {
        let second = if first == CU_STREAM_LEGACY || first.is_null() { blocking } else { CU_STREAM_LEGACY };
        ok!(cuMemsetD32_v2(data, 1, 1));
        ok!(cuCtxSynchronize());
        device.mix(first, data, 1, 5);
        device.mix(second, data, 1, 7);
        ok!(cuStreamSynchronize(second));
        assert_eq!(device.peek(data), step(step(1, 5), 7), "{first:?} before {second:?}");
    }
    device.mix(CU_STREAM_LEGACY, data, 1, 5);
    let before = device.peek(data);
    device.mix(free, data, 1, 7);
    ok!(cuStreamSynchronize(free));
    assert_eq!(device.peek(data), step(before, 7), "a non-blocking stream does not wait for the legacy stream");
    ok!(cuCtxSynchronize());
}

#[test]
fn long_chains_over_the_legacy_stream_run() {
    let device = device();
    let stream = device.stream(0);
    let data = device.buffer(&[1]);
    let mut expected = 1;
    for value in 0..5000 {
        device.mix(if value % 2 == 0 { stream } else { CU_STREAM_LEGACY }, data, 1, value);
        expected = step(expected, value);
    }
    ok!(cuStreamSynchronize(CU_STREAM_LEGACY));
    assert_eq!(device.peek(data), expected);
}

#[test]
fn synchronous_copies_and_frees_wait() {
    let device = device();
    let (blocking, free) = (device.stream(0), device.stream(NON_BLOCKING));
    let (data, other) = (device.buffer(&[1]), device.buffer(&[1]));
    device.mix(blocking, data, 1, 5);
    device.mix(free, other, 1, 5);
    let mut host = [0_u32];
    ok!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), data, 4));
    assert_eq!((host[0], device.peek(other)), (step(1, 5), 1));
    // Freeing anything waits for the whole device.
    ok!(cuMemFree_v2(data));
    assert_eq!(device.peek(other), step(1, 5));
    device.mix(free, other, 1, 7);
    ok!(cuStreamDestroy_v2(free));
    assert_eq!(device.peek(other), step(step(1, 5), 7));
}

#[test]
fn a_query_answers_not_ready_first_and_then_runs_the_work() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let data = device.buffer(&[1]);
    let event = device.event(0);
    ok!(cuStreamQuery(stream));
    ok!(cuEventQuery(event));
    device.mix(stream, data, 1, 5);
    ok!(cuEventRecord(event, stream));
    device.mix(stream, data, 1, 7);
    assert_eq!(answer!(cuEventQuery(event)), CUresult::ERROR_NOT_READY);
    assert_eq!(device.peek(data), 1);
    ok!(cuEventQuery(event));
    assert_eq!(device.peek(data), step(1, 5));
    assert_eq!(answer!(cuStreamQuery(stream)), CUresult::ERROR_NOT_READY);
    assert_eq!(device.peek(data), step(1, 5));
    ok!(cuStreamQuery(stream));
    assert_eq!(device.peek(data), step(step(1, 5), 7));
}

#[test]
fn times_between_events_need_records_that_ran() {
    let device = device();
    let stream = device.stream(0);
    let (start, end, untimed) = (device.event(0), device.event(0), device.event(CU_EVENT_DISABLE_TIMING));
    let mut milliseconds = -1.0;
    assert_eq!(answer!(cuEventElapsedTime(&mut milliseconds, start, end)), CUresult::ERROR_INVALID_HANDLE);
    ok!(cuEventRecord(start, stream));
    ok!(cuEventRecord(end, stream));
    ok!(cuEventRecord(untimed, stream));
    assert_eq!(answer!(cuEventElapsedTime(&mut milliseconds, start, end)), CUresult::ERROR_NOT_READY);
    ok!(cuStreamSynchronize(stream));
    ok!(cuEventElapsedTime(&mut milliseconds, start, end));
    assert!((0.0..1000.0).contains(&milliseconds), "{milliseconds}");
    assert_eq!(answer!(cuEventElapsedTime(&mut milliseconds, start, untimed)), CUresult::ERROR_INVALID_HANDLE);
    ok!(cuEventRecord(end, stream));
    assert_eq!(answer!(cuEventElapsedTime(&mut milliseconds, start, end)), CUresult::ERROR_NOT_READY);
    assert_eq!(answer!(cuEventCreate(&mut CUevent::null(), 8)), CUresult::ERROR_INVALID_VALUE);
}

static CALLS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn count(data: *mut c_void) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    let answer = answer!(cuCtxSynchronize());
    // SAFETY: the tests give the address of a live code.
    unsafe { *data.cast::<CUresult>() = answer };
}

unsafe extern "C" fn callback(stream: CUstream, status: CUresult, data: *mut c_void) {
    // SAFETY: the tests give the address of a live pair.
    unsafe { *data.cast::<(CUstream, CUresult)>() = (stream, status) };
}

#[test]
fn host_functions_run_in_stream_order_and_may_not_call_the_driver() {
    let device = device();
    let stream = device.stream(0);
    let mut inside = CUresult::SUCCESS;
    let before = CALLS.load(Ordering::Relaxed);
    ok!(cuLaunchHostFunc(stream, Some(count), (&raw mut inside).cast()));
    assert_eq!(CALLS.load(Ordering::Relaxed), before);
    let mut seen = (CUstream::null(), CUresult::ERROR_UNKNOWN);
    ok!(cuStreamAddCallback(stream, Some(callback), (&raw mut seen).cast(), 0));
    ok!(cuStreamSynchronize(stream));
    assert_eq!((CALLS.load(Ordering::Relaxed), inside), (before + 1, CUresult::ERROR_NOT_PERMITTED));
    assert_eq!(seen, (stream, CUresult::SUCCESS));
    assert_eq!(answer!(cuLaunchHostFunc(stream, None, std::ptr::null_mut())), CUresult::ERROR_INVALID_VALUE);
}

#[test]
fn stale_and_foreign_handles_are_refused() {
    let device = device();
    let (stream, event) = (device.stream(0), device.event(0));
    let stale = CUresult::ERROR_INVALID_HANDLE;
    assert_eq!(answer!(cuStreamSynchronize(CUstream(event.0))), stale);
    assert_eq!(answer!(cuEventSynchronize(CUevent(stream.0))), stale);
    assert_eq!(answer!(cuEventRecord(CUevent::null(), stream)), stale);
    assert_eq!(answer!(cuStreamDestroy_v2(CUstream::null())), stale);
    ok!(cuEventRecord(event, stream));
    ok!(cuStreamDestroy_v2(stream));
    ok!(cuEventSynchronize(event));
    ok!(cuEventDestroy_v2(event));
    assert_eq!(answer!(cuStreamDestroy_v2(stream)), stale);
    assert_eq!(answer!(cuStreamQuery(stream)), stale);
    assert_eq!(answer!(cuEventDestroy_v2(event)), stale);
    assert_eq!(answer!(cuEventQuery(event)), stale);
    assert_eq!(answer!(cuStreamWaitEvent(CU_STREAM_LEGACY, event, 0)), stale);
    assert_eq!(answer!(cuMemsetD8Async(device.buffer(&[0]), 0, 1, stream)), stale);
}

#[test]
fn streams_tell_their_properties() {
    let device = device();
    let mut stream = CUstream::null();
    ok!(cuStreamCreateWithPriority(&mut stream, NON_BLOCKING, -99));
    let (mut flags, mut priority, mut context) = (0, 0, CUcontext::null());
    ok!(cuStreamGetFlags(stream, &mut flags));
    ok!(cuStreamGetPriority(stream, &mut priority));
    ok!(cuStreamGetCtx(stream, &mut context));
    let (mut least, mut greatest) = (1, 1);
    ok!(cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
    assert_eq!((flags, priority, least), (NON_BLOCKING, greatest, 0));
    assert!(!context.is_null());
    assert_eq!(answer!(cuStreamCreate(&mut stream, 4)), CUresult::ERROR_INVALID_VALUE);
    drop(device);
}

#[test]
fn several_threads_use_their_streams_at_once() {
    let device = device();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let device = &device;
            scope.spawn(move || {
                make_current();
                let data = device.buffer(&[thread]);
                let mut expected = thread;
                for value in 0..50 {
                    device.mix(CU_STREAM_PER_THREAD, data, 1, value);
                    expected = step(expected, value);
                    if value % 7 == 0 {
                        ok!(cuStreamSynchronize(CU_STREAM_PER_THREAD));
                        assert_eq!(device.peek(data), expected);
                    }
                }
                ok!(cuStreamSynchronize(CU_STREAM_PER_THREAD));
                assert_eq!(device.peek(data), expected);
                ok!(cuDevicePrimaryCtxRelease_v2(0));
            });
        }
    });
}

//! What synchronous-looking copies and memsets order, and what they do not (CUDA driver API, "API synchronization behavior").

use gridpoint_driver::*;

#[macro_use]
mod driver_support;
use driver_support::{Device, device, step};

const NON_BLOCKING: u32 = CU_STREAM_NON_BLOCKING;

/// What a kernel on a stream that does not synchronise with the legacy stream makes of `data` now.
fn seen_by_another_stream(device: &Device, data: u64) -> u32 {
    let stream = device.stream(NON_BLOCKING);
    device.mix(stream, data, 1, 0);
    ok!(cuStreamSynchronize(stream));
    device.peek(data)
}

#[test]
fn a_pageable_copy_may_not_have_arrived_for_non_blocking_streams() {
    let device = device();
    let data = device.buffer(&[1]);
    let mut source = [2_u32];
    ok!(cuMemcpyHtoD_v2(data, source.as_ptr().cast(), 4));
    source[0] = 9;
    assert_eq!(seen_by_another_stream(&device, data), step(1, 0), "the call returned, the bytes are on their way");
    ok!(cuStreamSynchronize(CU_STREAM_LEGACY));
    assert_eq!((device.peek(data), source[0]), (2, 9), "the source was the caller's again");
    // A stream that synchronises with the legacy stream, and a wait, are both enough.
    ok!(cuMemcpyHtoD_v2(data, [3_u32].as_ptr().cast(), 4));
    let blocking = device.stream(0);
    device.mix(blocking, data, 1, 0);
    ok!(cuStreamSynchronize(blocking));
    assert_eq!(device.peek(data), step(3, 0));
    ok!(cuMemcpyHtoD_v2(data, [4_u32].as_ptr().cast(), 4));
    ok!(cuStreamSynchronize(CU_STREAM_LEGACY));
    assert_eq!(seen_by_another_stream(&device, data), step(4, 0));
}

#[test]
fn a_pinned_copy_has_arrived_when_the_call_returns() {
    let device = device();
    let (data, pinned) = (device.buffer(&[1]), device.pinned(&[2]));
    ok!(cuMemcpyHtoD_v2(data, pinned.cast(), 4));
    assert_eq!(seen_by_another_stream(&device, data), step(2, 0));
}

#[test]
fn a_copy_between_device_buffers_is_only_enqueued() {
    let device = device();
    let (data, source) = (device.buffer(&[1]), device.buffer(&[2]));
    ok!(cuMemcpyDtoD_v2(data, source, 4));
    assert_eq!(seen_by_another_stream(&device, data), step(1, 0));
    ok!(cuCtxSynchronize());
    assert_eq!(device.peek(data), 2);
}

#[test]
fn a_memset_of_device_memory_is_only_enqueued() {
    let device = device();
    let data = device.buffer(&[1]);
    ok!(cuMemsetD32_v2(data, 2, 1));
    assert_eq!(seen_by_another_stream(&device, data), step(1, 0));
    ok!(cuCtxSynchronize());
    assert_eq!(device.peek(data), 2, "late, and over the other stream's work");
}

#[test]
fn a_memset_of_pinned_memory_is_done_when_the_call_returns() {
    let device = device();
    let pinned = device.pinned(&[1]);
    let address = pinned.addr() as u64;
    ok!(cuMemsetD32_v2(address, 2, 1));
    assert_eq!(device.peek(address), 2);
    ok!(cuMemsetD8_v2(address, 1, 4));
    assert_eq!(device.peek(address), 0x0101_0101);
    // The asynchronous call never waits.
    ok!(cuMemsetD32Async(address, 3, 1, CU_STREAM_LEGACY));
    assert_eq!(device.peek(address), 0x0101_0101);
    ok!(cuCtxSynchronize());
    assert_eq!(device.peek(address), 3);
}

#[test]
fn a_synchronous_copy_waits_for_blocking_streams_and_for_no_other() {
    let device = device();
    let (blocking, free) = (device.stream(0), device.stream(NON_BLOCKING));
    let (data, other) = (device.buffer(&[1]), device.buffer(&[1]));
    device.mix(blocking, data, 1, 5);
    device.mix(free, other, 1, 5);
    ok!(cuMemcpyHtoD_v2(device.buffer(&[0]), [0_u32].as_ptr().cast(), 4));
    assert_eq!((device.peek(data), device.peek(other)), (step(1, 5), 1));
}

#[test]
fn an_asynchronous_pageable_copy_is_staged_and_ordered_by_its_stream() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let data = device.buffer(&[1]);
    device.mix(stream, data, 1, 5);
    ok!(cuMemcpyHtoDAsync_v2(data, [7_u32].as_ptr().cast(), 4, stream));
    device.mix(stream, data, 1, 5);
    assert_eq!(device.peek(data), 1);
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data), step(7, 5));
}

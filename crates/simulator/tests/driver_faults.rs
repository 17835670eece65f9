//! A kernel's fault: the wait that meets it and every later call answer its code, until the device is reset.

use gridpoint_driver::*;
use gridpoint_simulator::fault::{Nearby, Reason};
use gridpoint_simulator::{last_fault, reset};

#[macro_use]
mod driver_support;
use driver_support::{Device, Parameters, device, make_current, step};

const FAULT: CUresult = CUresult::ERROR_ILLEGAL_ADDRESS;

/// Enqueues a kernel that writes behind the 4 bytes at `data`.
fn enqueue_fault(device: &Device, stream: CUstream, data: u64) {
    let parameters = Parameters { data: data + 4, count: 0, value: 0 };
    assert_eq!(device.launch(c"outside", stream, parameters), CUresult::SUCCESS);
}

#[test]
fn a_fault_sticks_until_the_reset() {
    let device = device();
    let stream = device.stream(CU_STREAM_NON_BLOCKING);
    let (data, event) = (device.buffer(&[1]), device.event(0));
    enqueue_fault(&device, stream, data);
    ok!(cuEventRecord(event, stream));
    device.mix(stream, data, 1, 5);
    assert_eq!(answer!(cuStreamSynchronize(stream)), FAULT);

    let fault = last_fault().unwrap();
    assert_eq!((fault.kernel.as_str(), fault.block, fault.thread), ("outside", [0; 3], [0; 3]));
    let expected = Nearby::Live { offset: 4, bytes: 4 };
    assert!(matches!(fault.reason, Reason::OutOfBounds { nearby, .. } if nearby == expected), "{fault}");

    for code in [
        answer!(cuStreamSynchronize(stream)),
        answer!(cuCtxSynchronize()),
        answer!(cuEventQuery(event)),
        answer!(cuMemAlloc_v2(&mut 0, 4)),
        answer!(cuMemcpyDtoH_v2([0_u32].as_mut_ptr().cast(), data, 4)),
        answer!(cuStreamBeginCapture_v2(stream, CUstreamCaptureMode::RELAXED)),
        answer!(cuGraphCreate(&mut CUgraph(std::ptr::null_mut()), 0)),
        answer!(cuEventDestroy_v2(event)),
    ] {
        assert_eq!(code, FAULT);
    }
    // What needs no context still answers.
    ok!(cuDeviceGetCount(&mut 0));
    ok!(cuCtxGetCurrent(&mut CUcontext(std::ptr::null_mut())));

    reset();
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data), 1, "work behind the fault was dropped");
    assert_eq!(
        answer!(cuEventQuery(event)),
        CUresult::ERROR_INVALID_HANDLE,
        "destroyed, although it answered the fault"
    );
    device.mix(stream, data, 1, 5);
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data), step(1, 5));
    assert_eq!(last_fault(), Some(fault));
}

#[test]
fn a_fault_in_a_replay_is_met_by_whoever_waits() {
    let device = device();
    let stream = device.stream(CU_STREAM_NON_BLOCKING);
    let data = device.buffer(&[1]);
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    device.mix(stream, data, 1, 5);
    enqueue_fault(&device, stream, data);
    let executable = device.instantiate(device.end(stream).unwrap());
    ok!(cuGraphLaunch(executable, stream));
    assert_eq!(answer!(cuCtxSynchronize()), FAULT);
    assert_eq!(device.peek(data), step(1, 5));
    assert_eq!(answer!(cuGraphExecDestroy(executable)), FAULT);
    reset();
    assert_eq!(answer!(cuGraphExecDestroy(executable)), CUresult::ERROR_INVALID_VALUE);
}

#[test]
fn a_free_that_meets_a_fault_answers_it_and_frees() {
    let device = device();
    let (data, other) = (device.buffer(&[1]), device.buffer(&[1]));
    enqueue_fault(&device, CU_STREAM_LEGACY, data);
    assert_eq!(answer!(cuMemFree_v2(other)), FAULT);
    reset();
    assert_eq!(answer!(cuMemFree_v2(other)), CUresult::ERROR_INVALID_VALUE);
    ok!(cuMemFree_v2(data));
}

#[test]
fn resetting_the_primary_context_clears_everything() {
    let device = device();
    let stream = device.stream(0);
    let data = device.buffer(&[1]);
    enqueue_fault(&device, stream, data);
    assert_eq!(answer!(cuStreamSynchronize(stream)), FAULT);
    ok!(cuDevicePrimaryCtxReset_v2(0));
    assert_eq!(last_fault(), None);
    ok!(cuCtxSynchronize());
    assert_eq!(answer!(cuStreamSynchronize(stream)), CUresult::ERROR_INVALID_HANDLE);
    assert_eq!(answer!(cuMemFree_v2(data)), CUresult::ERROR_INVALID_VALUE);
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    assert_eq!(free, total);
}

#[test]
fn contexts_are_per_thread_and_die_with_the_last_release() {
    let device = device();
    std::thread::spawn(|| {
        assert_eq!(answer!(cuCtxSynchronize()), CUresult::ERROR_INVALID_CONTEXT);
        assert_eq!(answer!(cuMemAlloc_v2(&mut 0, 4)), CUresult::ERROR_INVALID_CONTEXT);
        make_current();
        ok!(cuCtxSynchronize());
        let mut popped = CUcontext::null();
        ok!(cuCtxPopCurrent_v2(&mut popped));
        assert_eq!(answer!(cuCtxSynchronize()), CUresult::ERROR_INVALID_CONTEXT);
        ok!(cuCtxPushCurrent_v2(popped));
        let mut created = CUcontext::null();
        ok!(cuCtxCreate_v2(&mut created, 0, 0));
        let mut current = CUcontext::null();
        ok!(cuCtxGetCurrent(&mut current));
        assert_eq!(current, created);
        ok!(cuCtxDestroy_v2(created));
        ok!(cuCtxGetCurrent(&mut current));
        assert_eq!(current, popped);
        assert_eq!(answer!(cuCtxSetCurrent(created)), CUresult::ERROR_INVALID_CONTEXT);
        assert_eq!(answer!(cuCtxDestroy_v2(created)), CUresult::ERROR_INVALID_CONTEXT);
        ok!(cuDevicePrimaryCtxRelease_v2(0));
    })
    .join()
    .unwrap();
    let data = device.buffer(&[1]);
    ok!(cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(answer!(cuCtxSynchronize()), CUresult::ERROR_CONTEXT_IS_DESTROYED);
    assert_eq!(answer!(cuDevicePrimaryCtxRelease_v2(0)), CUresult::ERROR_INVALID_CONTEXT);
    make_current();
    assert_eq!(answer!(cuMemFree_v2(data)), CUresult::ERROR_INVALID_VALUE);
    assert_eq!(
        answer!(cuDevicePrimaryCtxRetain(&mut CUcontext(std::ptr::null_mut()), 1)),
        CUresult::ERROR_INVALID_DEVICE
    );
    let mut value = 0;
    ok!(cuCtxGetLimit(&mut value, CUlimit::STACK_SIZE));
    ok!(cuCtxSetLimit(CUlimit::STACK_SIZE, 4096));
    ok!(cuCtxGetLimit(&mut value, CUlimit::STACK_SIZE));
    assert_eq!(value, 4096);
}

#[test]
fn a_kernel_run_from_a_rayon_worker_ends() {
    use std::ffi::c_void;
    let device = device();
    let function = device.function(c"nothing");
    // As many jobs as there are workers and more: each waits for the device inside a worker.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|_| {
                make_current();
                let none = std::ptr::null_mut::<*mut c_void>();
                ok!(cuLaunchKernel(function, 4, 2, 1, 32, 1, 1, 0, CU_STREAM_PER_THREAD, none, none));
                ok!(cuStreamSynchronize(CU_STREAM_PER_THREAD));
                ok!(cuDevicePrimaryCtxRelease_v2(0));
            });
        }
    });
}

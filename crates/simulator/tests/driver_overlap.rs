//! Launches that overlap because a stream or a graph says that they may: a missing wait shows under some seed and to the detectors.

use std::ffi::c_void;

use gridpoint_driver::*;
use gridpoint_simulator::fault::Reason;
use gridpoint_simulator::{Detectors, Options, last_fault, reseed};

#[macro_use]
mod driver_support;
use driver_support::{Device, Parameters, config, device_with, options};

fn device() -> Device {
    // Everything but reads of what nothing wrote: the buffers' numbers come from the host.
    device_with(Options { detectors: Detectors::all().without_uninitialised(), ..options() })
}

/// Launches `relay` for element `value` with `programmatic` serialisation; it waits or not.
fn relay(device: &Device, stream: CUstream, data: u64, value: u32, (programmatic, waits): (bool, bool)) {
    let mut parameters = Parameters { data, count: u32::from(waits), value };
    let mut addresses = [(&raw mut parameters).cast::<c_void>()];
    let mut attribute =
        CUlaunchAttribute::number(CUlaunchAttributeID::PROGRAMMATIC_STREAM_SERIALIZATION, programmatic.into());
    let config = config(1, stream, std::slice::from_mut(&mut attribute));
    ok!(cuLaunchKernelEx(&config, device.function(c"relay"), addresses.as_mut_ptr(), std::ptr::null_mut()));
}

const LAUNCHES: u32 = 4;

/// Four launches in a stream, or in a graph captured from it: what the wait for them answers.
fn run(device: &Device, captured: bool, kinds: (bool, bool)) -> (CUresult, Vec<u32>) {
    let data = device.buffer(&[1, 0, 0, 0, 0]);
    let stream = device.stream(CU_STREAM_NON_BLOCKING);
    if captured {
        device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    }
    for value in 1..=LAUNCHES {
        relay(device, stream, data, value, kinds);
    }
    if captured {
        let executable = device.instantiate(device.end(stream).unwrap());
        ok!(cuGraphLaunch(executable, stream));
    }
    let answer = answer!(cuStreamSynchronize(stream));
    (answer, (0..=LAUNCHES).map(|word| device.peek(data + u64::from(word) * 4)).collect())
}

#[test]
fn only_programmatic_launches_without_a_wait_are_reported() {
    for seed in [None, Some(0), Some(1), Some(2), Some(3)] {
        for captured in [false, true] {
            for kinds in [(false, false), (false, true), (true, true)] {
                let device = device();
                reseed(seed);
                let (answer, data) = run(&device, captured, kinds);
                assert_eq!(answer, CUresult::SUCCESS, "{seed:?} {kinds:?} {:?}", last_fault());
                assert_eq!(data, [1, 2, 3, 4, 5], "{seed:?} {kinds:?}");
            }
            let device = device();
            reseed(seed);
            let (answer, _) = run(&device, captured, (true, false));
            assert_eq!(answer, CUresult::ERROR_LAUNCH_FAILED, "{seed:?} captured {captured}");
            let fault = last_fault().unwrap();
            assert!(matches!(fault.reason, Reason::Overlap { .. }), "{fault}");
            assert!(fault.to_string().contains("of kernel `relay`"), "{fault}");
            drop(device);
        }
    }
    reseed(None);
}

#[test]
fn work_between_launches_makes_the_dependency_whole() {
    let device = device();
    let data = device.buffer(&[1, 0, 0]);
    let stream = device.stream(CU_STREAM_NON_BLOCKING);
    relay(&device, stream, data, 1, (true, false));
    ok!(cuEventRecord(device.event(0), stream));
    relay(&device, stream, data, 2, (true, false));
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data + 8), 3);
}

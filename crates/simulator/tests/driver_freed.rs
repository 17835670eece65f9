//! Memory that was given back is no memory, whoever asks for it and however.

use std::ffi::CStr;

use gridpoint_driver::*;
use gridpoint_simulator::fault::{Access, Nearby, Reason, Space};
use gridpoint_simulator::{Detectors, Options, last_fault};

#[macro_use]
mod driver_support;
use driver_support::{Device, Parameters, device_with, options};

/// Launches a kernel that writes 4 bytes at `address`, in the allocation of 64 bytes at `data` that was freed: what is reported.
fn writes_to_freed(device: &Device, kernel: &CStr, data: u64, address: u64) {
    let stream = device.stream(CU_STREAM_NON_BLOCKING);
    let parameters = Parameters { data: address, count: 0, value: 0 };
    assert_eq!(device.launch(kernel, stream, parameters), CUresult::SUCCESS);
    assert_eq!(answer!(cuStreamSynchronize(stream)), CUresult::ERROR_ILLEGAL_ADDRESS);
    let fault = last_fault().expect("a kernel wrote to freed memory");
    assert_eq!((fault.kernel.as_str(), fault.block, fault.thread), (kernel.to_str().unwrap(), [0; 3], [0; 3]));
    let nearby = Nearby::Freed { offset: address.wrapping_sub(data) as i64, bytes: 64 };
    let (space, access, bytes) = (Space::Global, Access::Write, 4);
    assert_eq!(fault.reason, Reason::OutOfBounds { space, access, address, bytes, nearby });
    assert!(fault.to_string().contains("8 bytes into a freed allocation of 64 bytes"), "{fault}");
}

#[test]
fn freed_memory_is_not_written_by_told_accesses_and_by_wrapped_ones() {
    for told in [false, true] {
        for in_order in [false, true] {
            let device = device_with(Options { detectors: Detectors::all(), ..options() });
            let data = device.buffer(&[0; 16]);
            if in_order {
                ok!(cuMemFreeAsync(data, CU_STREAM_LEGACY));
                ok!(cuStreamSynchronize(CU_STREAM_LEGACY));
            } else {
                ok!(cuMemFree_v2(data));
            }
            writes_to_freed(&device, if told { c"told" } else { c"outside" }, data, data + 8);
        }
    }
}

#[test]
fn words_around_an_allocation_are_not_written_by_told_accesses() {
    for (offset, name) in [(64, "64 bytes from"), (-4_i64, "-4 bytes from")] {
        let device = device_with(Options { detectors: Detectors::all(), ..options() });
        let data = device.buffer(&[0; 16]);
        let parameters = Parameters { data: data.wrapping_add_signed(offset), count: 0, value: 0 };
        assert_eq!(device.launch(c"told", CU_STREAM_LEGACY, parameters), CUresult::SUCCESS);
        assert_eq!(answer!(cuCtxSynchronize()), CUresult::ERROR_ILLEGAL_ADDRESS);
        let fault = last_fault().expect("a kernel wrote outside");
        let nearby = Nearby::Live { offset, bytes: 64 };
        assert!(matches!(fault.reason, Reason::OutOfBounds { nearby: found, .. } if found == nearby), "{fault}");
        assert!(fault.to_string().contains(name), "{fault}");
    }
}

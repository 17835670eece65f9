//! Memory of the simulated device: allocation, copies, memsets, what is known about addresses.

use std::ffi::c_void;

use gridpoint_driver::*;
use gridpoint_simulator::fault::Reason;
use gridpoint_simulator::{POISON, last_fault, reset};

#[macro_use]
mod driver_support;
use driver_support::{Parameters, device};

const MEMORY: usize = 64 << 20;

fn memory_info() -> (usize, usize) {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    (free, total)
}

#[test]
fn memory_is_counted_and_runs_out() {
    let _device = device();
    assert_eq!(memory_info(), (MEMORY, MEMORY));
    let (mut first, mut second) = (0, 7);
    ok!(cuMemAlloc_v2(&mut first, MEMORY - 100));
    assert_eq!(first % 256, 0);
    assert_eq!(memory_info(), (100, MEMORY));
    assert_eq!(answer!(cuMemAlloc_v2(&mut second, 101)), CUresult::ERROR_OUT_OF_MEMORY);
    assert_eq!(second, 0);
    ok!(cuMemAlloc_v2(&mut second, 100));
    assert_eq!(answer!(cuMemAlloc_v2(&mut second, usize::MAX)), CUresult::ERROR_OUT_OF_MEMORY);
    // Pinned memory is the host's.
    let mut pinned = std::ptr::null_mut();
    ok!(cuMemAllocHost_v2(&mut pinned, 1 << 20));
    ok!(cuMemFreeHost(pinned));
    ok!(cuMemFree_v2(first));
    assert_eq!(memory_info(), (MEMORY - 100, MEMORY));
}

#[test]
fn wrong_arguments_get_codes() {
    let device = device();
    let mut pointer = 0;
    assert_eq!(answer!(cuMemAlloc_v2(&mut pointer, 0)), CUresult::ERROR_INVALID_VALUE);
    assert_eq!(answer!(cuMemAlloc_v2(std::ptr::null_mut(), 8)), CUresult::ERROR_INVALID_VALUE);
    let data = device.buffer(&[1, 2]);
    let pinned = device.pinned(&[1, 2]);
    ok!(cuMemFree_v2(0));
    for wrong in [data + 4, data - 8, 4096, pinned.addr() as u64] {
        assert_eq!(answer!(cuMemFree_v2(wrong)), CUresult::ERROR_INVALID_VALUE, "{wrong:#x}");
    }
    let wrong = std::ptr::with_exposed_provenance_mut::<c_void>(data as usize);
    assert_eq!(answer!(cuMemFreeHost(wrong)), CUresult::ERROR_INVALID_VALUE);
    assert_eq!(answer!(cuMemFreeHost(std::ptr::null_mut())), CUresult::ERROR_INVALID_VALUE);
    ok!(cuMemFree_v2(data));
    assert_eq!(answer!(cuMemFree_v2(data)), CUresult::ERROR_INVALID_VALUE);
}

#[test]
fn copies_outside_an_allocation_are_refused() {
    let device = device();
    let data = device.buffer(&[1, 2, 3, 4]);
    let pinned = device.pinned(&[0; 4]);
    let mut host = [0_u32; 8];
    let (to, from) = (host.as_mut_ptr().cast::<c_void>(), host.as_ptr().cast::<c_void>());
    let refused = CUresult::ERROR_INVALID_VALUE;
    assert_eq!(answer!(cuMemcpyDtoH_v2(to, data, 17)), refused);
    assert_eq!(answer!(cuMemcpyDtoH_v2(to, data + 13, 4)), refused);
    assert_eq!(answer!(cuMemcpyDtoH_v2(to, data - 1, 4)), refused);
    assert_eq!(answer!(cuMemcpyHtoD_v2(data, from, 17)), refused);
    assert_eq!(answer!(cuMemcpyHtoD_v2(data, std::ptr::null(), 4)), refused);
    assert_eq!(answer!(cuMemcpyDtoD_v2(data, data + 8, 9)), refused);
    assert_eq!(answer!(cuMemcpyHtoDAsync_v2(data, pinned.cast(), 17, CU_STREAM_LEGACY)), refused);
    assert_eq!(answer!(cuMemcpyDtoHAsync_v2(pinned.wrapping_add(1).cast(), data, 16, CU_STREAM_LEGACY)), refused);
    assert_eq!(answer!(cuMemsetD8_v2(data, 0, 17)), refused);
    assert_eq!(answer!(cuMemsetD32_v2(data, 0, usize::MAX)), refused);
    assert_eq!(answer!(cuMemsetD32_v2(data + 2, 0, 1)), refused);
    ok!(cuMemcpyDtoH_v2(to, data + 4, 12));
    assert_eq!(host[..4], [2, 3, 4, 0]);
    ok!(cuMemFree_v2(data));
    assert_eq!(answer!(cuMemcpyDtoH_v2(to, data, 4)), refused);
}

#[test]
fn fresh_memory_is_poison_and_memsets_set_exactly_their_elements() {
    let device = device();
    let mut data = 0;
    ok!(cuMemAlloc_v2(&mut data, 16));
    let read = || {
        let mut host = [0_u8; 16];
        ok!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), data, 16));
        host
    };
    assert_eq!(read(), [POISON; 16]);
    ok!(cuMemsetD32_v2(data + 4, 0x0403_0201, 2));
    assert_eq!(read()[4..12], [1, 2, 3, 4, 1, 2, 3, 4]);
    ok!(cuMemsetD16Async(data + 2, 0x0605, 1, device.stream(0)));
    ok!(cuMemsetD8_v2(data + 15, 9, 1));
    assert_eq!(read(), [255, 255, 5, 6, 1, 2, 3, 4, 1, 2, 3, 4, 255, 255, 255, 9]);
}

#[test]
fn pinned_memory_is_mapped_at_its_host_address() {
    let device = device();
    let pinned = device.pinned(&[5]);
    let mut mapped = 0;
    ok!(cuMemHostGetDevicePointer_v2(&mut mapped, pinned.cast(), 0));
    assert_eq!(mapped, pinned.addr() as u64);
    device.mix(CU_STREAM_LEGACY, mapped, 1, 1);
    ok!(cuCtxSynchronize());
    assert_eq!(device.peek(mapped), 16);

    let mut kind = CUmemorytype::default();
    ok!(cuPointerGetAttribute((&raw mut kind).cast(), CUpointer_attribute::MEMORY_TYPE, mapped));
    assert_eq!(kind, CUmemorytype::HOST);
    let data = device.buffer(&[1]);
    ok!(cuPointerGetAttribute((&raw mut kind).cast(), CUpointer_attribute::MEMORY_TYPE, data));
    assert_eq!(kind, CUmemorytype::DEVICE);
    let on_host = answer!(cuPointerGetAttribute((&raw mut kind).cast(), CUpointer_attribute::MEMORY_TYPE, 64));
    assert_eq!(on_host, CUresult::ERROR_INVALID_VALUE);
}

#[test]
fn stream_ordered_memory_is_freed_in_stream_order() {
    let device = device();
    let stream = device.stream(CU_STREAM_NON_BLOCKING);
    let mut data = 0;
    ok!(cuMemAllocAsync(&mut data, 4, stream));
    ok!(cuMemsetD32Async(data, 7, 1, stream));
    ok!(cuMemFreeAsync(data, stream));
    assert_eq!(memory_info().0, MEMORY - 4);
    assert_eq!(answer!(cuMemFreeAsync(data + 1, stream)), CUresult::ERROR_INVALID_VALUE);
    ok!(cuStreamSynchronize(stream));
    assert_eq!(memory_info().0, MEMORY);
    assert_eq!(answer!(cuMemFree_v2(data)), CUresult::ERROR_INVALID_VALUE);
}

#[test]
fn managed_memory_is_shared_with_the_host() {
    let device = device();
    let mut data = 0;
    ok!(cuMemAllocManaged(&mut data, 4, 1));
    ok!(cuMemAdvise(data, 4, CUmem_advise::SET_READ_MOSTLY, 0));
    ok!(cuMemPrefetchAsync(data, 4, -1, CU_STREAM_LEGACY));
    ok!(cuMemsetD32_v2(data, 3, 1));
    ok!(cuCtxSynchronize());
    assert_eq!(device.peek(data), 3);
    assert_eq!(answer!(cuMemAllocManaged(&mut data, 4, 0)), CUresult::ERROR_INVALID_VALUE);
}

#[test]
fn a_write_around_an_allocation_is_found_after_the_kernel() {
    let device = device();
    let data = device.buffer(&[1; 3]);
    let parameters = Parameters { data: data + 12, count: 0, value: 0 };
    assert_eq!(device.launch(c"stray", CU_STREAM_LEGACY, parameters), CUresult::SUCCESS);
    assert_eq!(answer!(cuCtxSynchronize()), CUresult::ERROR_ILLEGAL_ADDRESS);
    let fault = last_fault().unwrap();
    assert_eq!(fault.kernel, "stray");
    assert_eq!(fault.reason, Reason::RedZone { address: data, bytes: 12 });
    reset();
    ok!(cuCtxSynchronize());
}

#[test]
fn a_copy_to_memory_that_a_graph_outlived_is_a_fault() {
    let device = device();
    let (data, other) = (device.buffer(&[1]), device.buffer(&[2]));
    let stream = device.stream(0);
    device.begin(stream, CUstreamCaptureMode::RELAXED);
    ok!(cuMemcpyDtoDAsync_v2(data, other, 4, stream));
    let executable = device.instantiate(device.end(stream).unwrap());
    ok!(cuMemFree_v2(other));
    ok!(cuGraphLaunch(executable, stream));
    assert_eq!(answer!(cuStreamSynchronize(stream)), CUresult::ERROR_ILLEGAL_ADDRESS);
    reset();
}

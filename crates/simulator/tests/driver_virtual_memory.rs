//! Virtual memory: reservations, physical memory, mappings and their rules.

use gridpoint_driver::*;
use gridpoint_simulator::fault::{Nearby, Reason};
use gridpoint_simulator::{LeakKind, POISON, last_fault, leaks, reset};

#[macro_use]
mod driver_support;
use driver_support::{Device, Parameters, device, step};

/// The granularity: what everything here is a multiple of.
const UNIT: usize = 2 << 20;
const REFUSED: CUresult = CUresult::ERROR_INVALID_VALUE;

fn properties() -> CUmemAllocationProp {
    CUmemAllocationProp {
        kind: CUmemAllocationType::PINNED,
        location: CUmemLocation { kind: CUmemLocationType::DEVICE, id: 0 },
        ..CUmemAllocationProp::default()
    }
}

fn reserve(units: usize) -> u64 {
    let mut pointer = 0;
    ok!(cuMemAddressReserve(&mut pointer, units * UNIT, 0, 0, 0));
    assert_eq!(pointer % UNIT as u64, 0);
    pointer
}

fn create(units: usize) -> CUmemGenericAllocationHandle {
    let mut handle = 0;
    ok!(cuMemCreate(&mut handle, units * UNIT, &properties(), 0));
    handle
}

fn set_access(pointer: u64, units: usize, flags: CUmemAccess_flags) -> CUresult {
    let description = CUmemAccessDesc { location: properties().location, flags };
    answer!(cuMemSetAccess(pointer, units * UNIT, &description, 1))
}

/// Maps the handle and allows access.
fn map(pointer: u64, units: usize, handle: CUmemGenericAllocationHandle) {
    ok!(cuMemMap(pointer, units * UNIT, 0, handle, 0));
    assert_eq!(set_access(pointer, units, CUmemAccess_flags::PROT_READWRITE), CUresult::SUCCESS);
}

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    free
}

fn read(pointer: u64) -> u32 {
    let mut value = 0_u32;
    ok!(cuMemcpyDtoH_v2((&raw mut value).cast(), pointer, 4));
    value
}

/// What a kernel that writes there is stopped with.
fn fault_at(device: &Device, pointer: u64) -> String {
    let parameters = Parameters { data: pointer, count: 0, value: 0 };
    assert_eq!(device.launch(c"outside", CU_STREAM_LEGACY, parameters), CUresult::SUCCESS);
    assert_eq!(answer!(cuCtxSynchronize()), CUresult::ERROR_ILLEGAL_ADDRESS);
    reset();
    let fault = last_fault().unwrap();
    assert!(matches!(fault.reason, Reason::OutOfBounds { nearby: Nearby::Reserved { .. }, .. }), "{fault}");
    fault.to_string()
}

#[test]
fn contents_and_addresses_survive_an_unmapping() {
    let device = device();
    let start = free_bytes();
    let (pointer, handle) = (reserve(2), create(1));
    assert_eq!(free_bytes(), start - UNIT, "physical memory counts, addresses do not");
    map(pointer, 1, handle);
    assert_eq!(read(pointer), u32::from_ne_bytes([POISON; 4]));
    ok!(cuMemsetD32_v2(pointer, 1, 8));
    device.mix(CU_STREAM_LEGACY, pointer, 8, 5);
    assert_eq!(read(pointer + 28), step(1, 5));
    let mut kind = CUmemorytype::default();
    ok!(cuPointerGetAttribute((&raw mut kind).cast(), CUpointer_attribute::MEMORY_TYPE, pointer));
    assert_eq!(kind, CUmemorytype::DEVICE);

    // Asleep: the memory is given back, the addresses stay ours.
    ok!(cuMemUnmap(pointer, UNIT));
    ok!(cuMemRelease(handle));
    assert_eq!(free_bytes(), start);
    let other = create(1);
    map(pointer, 1, other);
    assert_eq!(read(pointer), u32::from_ne_bytes([POISON; 4]), "other memory");
    ok!(cuMemsetD32_v2(pointer, 7, 1));
    // The same memory at another place, and back.
    ok!(cuCtxSynchronize());
    ok!(cuMemUnmap(pointer, UNIT));
    map(pointer + UNIT as u64, 1, other);
    assert_eq!(read(pointer + UNIT as u64), 7);
    ok!(cuMemUnmap(pointer + UNIT as u64, UNIT));
    map(pointer, 1, other);
    assert_eq!(read(pointer), 7);
}

#[test]
fn one_memory_at_two_addresses_is_one_memory() {
    let device = device();
    let (pointer, handle) = (reserve(2), create(1));
    let second = pointer + UNIT as u64;
    map(pointer, 1, handle);
    map(second, 1, handle);
    ok!(cuMemsetD32_v2(pointer, 1, 1));
    device.mix(CU_STREAM_LEGACY, second, 1, 5);
    assert_eq!(read(pointer), step(1, 5));
    // Released first, freed with the last mapping.
    let start = free_bytes();
    ok!(cuMemRelease(handle));
    assert_eq!(answer!(cuMemRelease(handle)), REFUSED);
    ok!(cuMemUnmap(pointer, UNIT));
    assert_eq!((read(second), free_bytes()), (step(1, 5), start));
    assert_eq!(answer!(cuMemMap(pointer, UNIT, 0, handle, 0)), REFUSED, "a released handle maps nothing");
    ok!(cuMemUnmap(second, UNIT));
    assert_eq!(free_bytes(), start + UNIT);
}

#[test]
fn neighbours_are_one_range_and_are_unmapped_whole() {
    let device = device();
    let (pointer, first, second) = (reserve(3), create(1), create(2));
    let middle = pointer + UNIT as u64;
    map(pointer, 1, first);
    map(middle, 2, second);
    // A copy, a memset and a kernel across the border.
    ok!(cuMemsetD32_v2(middle - 8, 1, 4));
    device.mix(CU_STREAM_LEGACY, middle - 8, 4, 5);
    assert_eq!([read(middle - 4), read(middle)], [step(1, 5); 2]);

    for (start, bytes) in
        [(middle, UNIT), (middle + UNIT as u64, UNIT), (pointer, 2 * UNIT), (pointer, 0), (pointer + 4096, UNIT)]
    {
        assert_eq!(answer!(cuMemUnmap(start, bytes)), REFUSED, "a part of a mapping");
    }
    assert_eq!(set_access(pointer, 2, CUmemAccess_flags::PROT_NONE), REFUSED, "a part of a mapping");
    assert_eq!(answer!(cuMemAddressFree(pointer, 3 * UNIT)), REFUSED, "something is mapped");
    ok!(cuMemUnmap(pointer, 3 * UNIT));
    assert_eq!(answer!(cuMemUnmap(pointer, 3 * UNIT)), REFUSED);
    assert_eq!(answer!(cuMemAddressFree(pointer, UNIT)), REFUSED, "a part of a reservation");
    ok!(cuMemAddressFree(pointer, 3 * UNIT));
    assert_eq!(answer!(cuMemAddressFree(pointer, 3 * UNIT)), REFUSED);
}

#[test]
fn access_is_set_after_every_mapping() {
    let device = device();
    let (pointer, handle) = (reserve(1), create(1));
    assert!(
        fault_at(&device, pointer + 64)
            .ends_with("64 bytes into a reservation of 2097152 bytes: reserved, not mapped [round-robin]")
    );
    assert_eq!(set_access(pointer, 1, CUmemAccess_flags::PROT_READWRITE), REFUSED, "nothing is mapped");
    ok!(cuMemMap(pointer, UNIT, 0, handle, 0));
    let words = fault_at(&device, pointer);
    assert!(words.contains("mapped, no access was set"), "{words}");
    assert_eq!(answer!(cuMemsetD8_v2(pointer, 0, 1)), REFUSED);
    assert_eq!(set_access(pointer, 1, CUmemAccess_flags::PROT_READWRITE), CUresult::SUCCESS);
    ok!(cuMemsetD8_v2(pointer, 0, 1));
    ok!(cuCtxSynchronize());
    assert_eq!(set_access(pointer, 1, CUmemAccess_flags::PROT_NONE), CUresult::SUCCESS);
    assert!(fault_at(&device, pointer).contains("mapped, no access was set"));
    assert_eq!(set_access(pointer, 1, CUmemAccess_flags::PROT_READWRITE), CUresult::SUCCESS);
    ok!(cuMemUnmap(pointer, UNIT));
    ok!(cuMemMap(pointer, UNIT, 0, handle, 0));
    assert!(fault_at(&device, pointer).contains("mapped, no access was set"), "a new mapping starts without access");
}

#[test]
fn queued_work_that_meets_an_unmapped_range_is_a_fault() {
    let device = device();
    let (pointer, handle) = (reserve(1), create(1));
    map(pointer, 1, handle);
    let stream = device.stream(CU_STREAM_NON_BLOCKING);
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    ok!(cuMemsetD32Async(pointer, 3, 1, stream));
    let executable = device.instantiate(device.end(stream).unwrap());
    ok!(cuGraphLaunch(executable, stream));
    ok!(cuMemUnmap(pointer, UNIT));
    assert_eq!(answer!(cuStreamSynchronize(stream)), CUresult::ERROR_ILLEGAL_ADDRESS);
    assert!(last_fault().unwrap().to_string().contains("reserved, not mapped"));
    reset();
    // A graph holds addresses: once they are mapped again it replays on them.
    map(pointer, 1, handle);
    ok!(cuGraphLaunch(executable, stream));
    ok!(cuStreamSynchronize(stream));
    assert_eq!(read(pointer), 3);
}

#[test]
fn wrong_arguments_get_codes() {
    let _device = device();
    let (pointer, handle) = (reserve(2), create(1));
    let mut other = 0;
    for (bytes, alignment, flags) in [(0, 0, 0), (100, 0, 0), (UNIT, 3, 0), (UNIT, 0, 1)] {
        assert_eq!(answer!(cuMemAddressReserve(&mut other, bytes, alignment, 0, flags)), REFUSED);
    }
    assert_eq!(answer!(cuMemCreate(&mut other, UNIT / 2, &properties(), 0)), REFUSED);
    assert_eq!(answer!(cuMemCreate(&mut other, UNIT, &properties(), 1)), REFUSED);
    assert_eq!(answer!(cuMemCreate(&mut other, UNIT, &CUmemAllocationProp::default(), 0)), REFUSED);
    let elsewhere = CUmemLocation { kind: CUmemLocationType::DEVICE, id: 1 };
    let foreign = CUmemAllocationProp { location: elsewhere, ..properties() };
    assert_eq!(answer!(cuMemCreate(&mut other, UNIT, &foreign, 0)), CUresult::ERROR_INVALID_DEVICE);
    let shared = CUmemAllocationProp { requested_handle_types: 1, ..properties() };
    assert_eq!(answer!(cuMemCreate(&mut other, UNIT, &shared, 0)), CUresult::ERROR_NOT_SUPPORTED);
    assert_eq!(answer!(cuMemCreate(&mut other, 1 << 30, &properties(), 0)), CUresult::ERROR_OUT_OF_MEMORY);

    for (start, bytes, offset) in [
        (pointer, 2 * UNIT, 0),
        (pointer, UNIT, UNIT),
        (pointer, 4096, 0),
        (pointer + 4096, UNIT, 0),
        (pointer + 2 * UNIT as u64, UNIT, 0),
        (1 << 40, UNIT, 0),
    ] {
        assert_eq!(answer!(cuMemMap(start, bytes, offset, handle, 0)), REFUSED, "{start:#x} {bytes} {offset}");
    }
    assert_eq!(answer!(cuMemMap(pointer, UNIT, 0, handle + 1, 0)), REFUSED);
    ok!(cuMemMap(pointer, UNIT, 0, handle, 0));
    assert_eq!(answer!(cuMemMap(pointer, UNIT, 0, handle, 0)), REFUSED, "mapped already");
    assert_eq!(set_access(pointer, 1, CUmemAccess_flags::PROT_READ), CUresult::ERROR_NOT_SUPPORTED);
    assert_eq!(set_access(pointer, 1, CUmemAccess_flags(2)), REFUSED);
    assert_eq!(answer!(cuMemFree_v2(pointer)), REFUSED, "not an allocation");
    assert_eq!(answer!(cuMemFreeAsync(pointer, CU_STREAM_LEGACY)), REFUSED);

    let mut granularity = 0;
    for option in [CUmemAllocationGranularity_flags::MINIMUM, CUmemAllocationGranularity_flags::RECOMMENDED] {
        ok!(cuMemGetAllocationGranularity(&mut granularity, &properties(), option));
        assert_eq!(granularity, UNIT);
    }
    let mut supported = 0;
    ok!(cuDeviceGetAttribute(&mut supported, CUdevice_attribute::VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
    assert_eq!(supported, 1);
}

#[test]
fn a_wanted_address_is_given_where_it_is_free() {
    let _device = device();
    let pointer = reserve(4);
    ok!(cuMemAddressFree(pointer, 4 * UNIT));
    let (mut again, mut other) = (0, 0);
    ok!(cuMemAddressReserve(&mut again, 4 * UNIT, 0, pointer, 0));
    assert_eq!(again, pointer);
    ok!(cuMemAddressReserve(&mut other, UNIT, 8 * UNIT, pointer, 0));
    assert_ne!(other, pointer, "taken");
    assert_eq!(other % (8 * UNIT) as u64, 0);
}

#[test]
fn what_is_left_is_listed_and_dies_with_the_context() {
    let device = device();
    let before = leaks();
    let (pointer, handle) = (reserve(1), create(1));
    map(pointer, 1, handle);
    ok!(cuMemRelease(handle));
    let left: Vec<LeakKind> = leaks().into_iter().skip(before.len()).map(|leak| leak.kind).collect();
    assert_eq!(left, [LeakKind::Reservation { bytes: UNIT }, LeakKind::PhysicalMemory { bytes: UNIT }]);
    ok!(cuDevicePrimaryCtxReset_v2(0));
    assert_eq!(leaks(), []);
    assert_eq!(answer!(cuMemUnmap(pointer, UNIT)), REFUSED);
    drop(device);
}

#[test]
fn in_a_capture_these_calls_are_unsafe() {
    let device = device();
    let (pointer, handle) = (reserve(1), create(1));
    let stream = device.stream(0);
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    let answer = answer!(cuMemMap(pointer, UNIT, 0, handle, 0));
    assert_eq!(answer, CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(device.end(stream), Err(CUresult::ERROR_STREAM_CAPTURE_INVALIDATED));
    map(pointer, 1, handle);
}

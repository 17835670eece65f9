//! Images, modules, functions, launch checks and occupancy of the simulated device.

use std::ffi::{CStr, c_int, c_uint, c_void};

use gridpoint_driver::CUfunction_attribute as Attribute;
use gridpoint_driver::*;
use gridpoint_simulator::image;

#[macro_use]
mod driver_support;
use driver_support::{Device, Parameters, config, device, step};

const INVALID_VALUE: CUresult = CUresult::ERROR_INVALID_VALUE;
const NOT_SUPPORTED: CUresult = CUresult::ERROR_NOT_SUPPORTED;

#[test]
fn images_that_are_none_of_ours_get_codes() {
    let _device = device();
    let load = |image: &[u8]| {
        let mut module = CUmodule::null();
        answer!(cuModuleLoadData(&mut module, image.as_ptr().cast()))
    };
    assert_eq!(load(&[0x50, 0xED, 0x55, 0xBA, 1, 0]), CUresult::ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(load(b"\x7fELF\x02"), CUresult::ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(load(&image("unknown")), CUresult::ERROR_NO_BINARY_FOR_GPU);
    for garbage in [&b"\0"[..], b"G", b"GPSIMMOE", b"\x50\xED\x55\xBB", b".version 8.0\n\0", &image(&"x".repeat(300))] {
        assert_eq!(load(garbage), CUresult::ERROR_INVALID_IMAGE, "{garbage:?}");
    }
    assert_eq!(answer!(cuModuleLoadData(&mut CUmodule(std::ptr::null_mut()), std::ptr::null())), INVALID_VALUE);
    assert_eq!(
        answer!(cuModuleLoad(&mut CUmodule(std::ptr::null_mut()), c"/nowhere".as_ptr())),
        CUresult::ERROR_FILE_NOT_FOUND
    );
}

#[test]
fn functions_belong_to_their_module() {
    let device = device();
    let function = device.function(c"mix");
    assert_eq!(function, device.function(c"mix"));
    let mut other = CUfunction::null();
    assert_eq!(answer!(cuModuleGetFunction(&mut other, device.module(), c"none".as_ptr())), CUresult::ERROR_NOT_FOUND);
    ok!(cuFuncLoad(function));
    let mut name = std::ptr::null();
    ok!(cuFuncGetName(&mut name, function));
    // SAFETY: the answer is a C string that lives as long as the module.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"mix");
    let (mut offset, mut size) = (9, 9);
    ok!(cuFuncGetParamInfo(function, 0, &mut offset, &mut size));
    assert_eq!((offset, size), (0, size_of::<Parameters>()));
    assert_eq!(answer!(cuFuncGetParamInfo(function, 1, &mut offset, &mut size)), INVALID_VALUE);
    // A launch that waits outlives its module.
    let data = device.buffer(&[1]);
    device.mix(CU_STREAM_LEGACY, data, 1, 5);
    ok!(cuModuleUnload(device.module()));
    assert_eq!(answer!(cuFuncLoad(function)), CUresult::ERROR_INVALID_HANDLE);
    assert_eq!(answer!(cuModuleUnload(device.module())), CUresult::ERROR_INVALID_HANDLE);
    ok!(cuCtxSynchronize());
    assert_eq!(device.peek(data), step(1, 5));
}

#[test]
fn each_parameter_has_an_address() {
    let device = device();
    let function = device.function(c"mix_of_three");
    let infos: Vec<_> = (0..4)
        .map(|index| {
            let (mut offset, mut size) = (9, 9);
            (answer!(cuFuncGetParamInfo(function, index, &mut offset, &mut size)), offset, size)
        })
        .collect();
    assert_eq!(infos[..3], [(CUresult::SUCCESS, 0, 8), (CUresult::SUCCESS, 8, 4), (CUresult::SUCCESS, 12, 4)]);
    assert_eq!(infos[3].0, INVALID_VALUE);

    let (mut data, mut count, mut value) = (device.buffer(&[1, 2]), 2_u32, 5_u32);
    let mut addresses = [(&raw mut data).cast::<c_void>(), (&raw mut count).cast(), (&raw mut value).cast()];
    let launch = |addresses: *mut *mut c_void| {
        answer!(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, CU_STREAM_LEGACY, addresses, std::ptr::null_mut()))
    };
    assert_eq!(launch(addresses.as_mut_ptr()), CUresult::SUCCESS);
    ok!(cuCtxSynchronize());
    assert_eq!((device.peek(data), device.peek(data + 4)), (step(1, 5), step(2, 5)));
    addresses[2] = std::ptr::null_mut();
    assert_eq!(launch(addresses.as_mut_ptr()), INVALID_VALUE);
    assert_eq!(launch(std::ptr::null_mut()), INVALID_VALUE);

    // A node answers an address for each of them too.
    addresses[2] = (&raw mut value).cast();
    let params = CUDA_KERNEL_NODE_PARAMS_v1 {
        func: function,
        grid_dim_x: 1,
        grid_dim_y: 1,
        grid_dim_z: 1,
        block_dim_x: 1,
        block_dim_y: 1,
        block_dim_z: 1,
        shared_mem_bytes: 0,
        kernel_params: addresses.as_mut_ptr(),
        extra: std::ptr::null_mut(),
    };
    let (mut graph, mut node) = (CUgraph::null(), CUgraphNode::null());
    ok!(cuGraphCreate(&mut graph, 0));
    ok!(cuGraphAddKernelNode(&mut node, graph, std::ptr::null(), 0, &params));
    let mut found = CUDA_KERNEL_NODE_PARAMS_v2::default();
    ok!(cuGraphKernelNodeGetParams_v2(node, &mut found));
    // SAFETY: the node lives, and so do the addresses of its three parameters.
    let found = unsafe {
        let at = |index| *found.kernel_params.add(index);
        (at(0).cast::<u64>().read(), at(1).cast::<u32>().read(), at(2).cast::<u32>().read())
    };
    assert_eq!(found, (data, 2, 5));
}

fn launch(function: CUfunction, grid: [c_uint; 3], block: [c_uint; 3], shared: c_uint) -> CUresult {
    let none = std::ptr::null_mut::<*mut c_void>();
    let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
    answer!(cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, CU_STREAM_LEGACY, none, none))
}

#[test]
fn launches_are_checked_when_they_are_made() {
    let device = device();
    let function = device.function(c"nothing");
    assert_eq!(launch(function, [1; 3], [1024, 1, 1], 48 << 10), CUresult::SUCCESS);
    for (grid, block, shared) in [
        ([0, 1, 1], [1; 3], 0),
        ([1, 1, 65_536], [1; 3], 0),
        ([1 << 31, 1, 1], [1; 3], 0),
        ([1; 3], [1, 0, 1], 0),
        ([1; 3], [1025, 1, 1], 0),
        ([1; 3], [1, 1, 65], 0),
        ([1; 3], [32, 33, 1], 0),
        ([1; 3], [1; 3], (48 << 10) + 1),
    ] {
        assert_eq!(launch(function, grid, block, shared), INVALID_VALUE, "{grid:?} {block:?} {shared}");
    }
    let shared = Attribute::MAX_DYNAMIC_SHARED_SIZE_BYTES;
    ok!(cuFuncSetAttribute(function, shared, 227 << 10));
    assert_eq!(launch(function, [1; 3], [1; 3], 227 << 10), CUresult::SUCCESS);
    assert_eq!(answer!(cuFuncSetAttribute(function, shared, (227 << 10) + 1)), INVALID_VALUE);
    assert_eq!(answer!(cuFuncSetAttribute(function, shared, -1)), INVALID_VALUE);
    assert_eq!(answer!(cuFuncSetAttribute(function, Attribute::NUM_REGS, 1)), INVALID_VALUE);
    assert_eq!(launch(CUfunction::null(), [1; 3], [1; 3], 0), CUresult::ERROR_INVALID_HANDLE);
    // A kernel with parameters needs them, and takes at most as many threads as it was compiled for.
    let mix = device.function(c"mix");
    assert_eq!(launch(mix, [1; 3], [1; 3], 0), INVALID_VALUE);
    assert_eq!(launch(mix, [1; 3], [65, 1, 1], 0), INVALID_VALUE);
    let mut nothing = [std::ptr::null_mut()];
    let none = std::ptr::null_mut();
    let refused = answer!(cuLaunchKernel(mix, 1, 1, 1, 1, 1, 1, 0, CU_STREAM_LEGACY, nothing.as_mut_ptr(), none));
    assert_eq!(refused, INVALID_VALUE);
    let refused = answer!(cuLaunchKernel(mix, 1, 1, 1, 1, 1, 1, 0, CU_STREAM_LEGACY, none, nothing.as_mut_ptr()));
    assert_eq!(refused, NOT_SUPPORTED);
    ok!(cuCtxSynchronize());
}

#[test]
fn parameters_are_copied_when_the_launch_is_made() {
    let device = device();
    let data = device.buffer(&[1]);
    let mut parameters = Parameters { data, count: 1, value: 5 };
    let mut addresses = [(&raw mut parameters).cast::<c_void>()];
    let (function, none) = (device.function(c"mix"), std::ptr::null_mut());
    ok!(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, CU_STREAM_LEGACY, addresses.as_mut_ptr(), none));
    // SAFETY: the parameters are live.
    unsafe { (&raw mut parameters.value).write(7) };
    ok!(cuCtxSynchronize());
    assert_eq!(device.peek(data), step(1, 5));
}

fn launch_with(device: &Device, attributes: &mut [CUlaunchAttribute]) -> CUresult {
    let config = config(1, CU_STREAM_LEGACY, attributes);
    answer!(cuLaunchKernelEx(&config, device.function(c"nothing"), std::ptr::null_mut(), std::ptr::null_mut()))
}

#[test]
fn launch_attributes_are_taken_or_refused() {
    let device = device();
    let number = CUlaunchAttribute::number;
    let cluster = |cluster| CUlaunchAttribute {
        id: CUlaunchAttributeID::CLUSTER_DIMENSION,
        pad: [0; 4],
        value: CUlaunchAttributeValue { cluster },
    };
    for (attribute, code) in [
        (number(CUlaunchAttributeID::PROGRAMMATIC_STREAM_SERIALIZATION, 1), CUresult::SUCCESS),
        (number(CUlaunchAttributeID::COOPERATIVE, 0), CUresult::SUCCESS),
        (number(CUlaunchAttributeID::COOPERATIVE, 1), NOT_SUPPORTED),
        (cluster([1, 1, 1]), CUresult::SUCCESS),
        (cluster([2, 1, 1]), INVALID_VALUE),
        (cluster([0, 1, 1]), INVALID_VALUE),
        (number(CUlaunchAttributeID(99), 0), INVALID_VALUE),
    ] {
        assert_eq!(launch_with(&device, &mut [attribute]), code, "{attribute:?}");
    }
    let refused = answer!(cuLaunchKernelEx(
        std::ptr::null(),
        device.function(c"nothing"),
        std::ptr::null_mut(),
        std::ptr::null_mut()
    ));
    assert_eq!(refused, INVALID_VALUE);
    ok!(cuCtxSynchronize());
}

unsafe extern "C" fn four_bytes_a_thread(threads: c_int) -> usize {
    4 * threads as usize
}

#[test]
fn occupancy_follows_threads_and_shared_memory() {
    let device = device();
    let function = device.function(c"nothing");
    ok!(cuFuncSetAttribute(function, Attribute::MAX_DYNAMIC_SHARED_SIZE_BYTES, 227 << 10));
    let blocks = |threads: c_int, shared: usize| {
        let mut blocks = -1;
        ok!(cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, threads, shared));
        blocks
    };
    assert_eq!([blocks(1024, 0), blocks(33, 0), blocks(1, 0)], [2, 32, 32]);
    assert_eq!([blocks(128, 227 << 10), blocks(128, 113 << 10), blocks(128, (113 << 10) + 1)], [1, 2, 1]);
    assert_eq!(blocks(128, 228 << 10), 0);
    let refused = answer!(cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut 0, function, 0, 0));
    assert_eq!(refused, INVALID_VALUE);
    let mut bytes = 0;
    ok!(cuOccupancyAvailableDynamicSMemPerBlock(&mut bytes, function, 2, 128));
    assert_eq!(bytes, 113 << 10);
    let (mut grid, mut block) = (0, 0);
    ok!(cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, function, Some(four_bytes_a_thread), 0, 0));
    assert_eq!((grid, block), (2 * 4, 1024));
}

#[test]
fn the_device_describes_itself() {
    let _device = device();
    let (mut version, mut count, mut total) = (0, 0, 0);
    ok!(cuDriverGetVersion(&mut version));
    ok!(cuDeviceGetCount(&mut count));
    ok!(cuDeviceTotalMem_v2(&mut total, 0));
    assert_eq!((version, count, total), (13_000, 1, 64 << 20));
    assert_eq!(answer!(cuDeviceGet(&mut count, 1)), CUresult::ERROR_INVALID_DEVICE);
    let mut name = [1; 10];
    ok!(cuDeviceGetName(name.as_mut_ptr(), 10, 0));
    // SAFETY: a name that is cut off is terminated.
    assert_eq!(unsafe { CStr::from_ptr(name.as_ptr()) }, c"gridpoint");
    assert_eq!(answer!(cuDeviceGetName(name.as_mut_ptr(), 0, 0)), INVALID_VALUE);
    for (attribute, expected) in [
        (CUdevice_attribute::COMPUTE_CAPABILITY_MAJOR, 9),
        (CUdevice_attribute::COMPUTE_CAPABILITY_MINOR, 0),
        (CUdevice_attribute::MULTIPROCESSOR_COUNT, 4),
        (CUdevice_attribute::WARP_SIZE, 32),
        (CUdevice_attribute::MAX_SHARED_MEMORY_PER_BLOCK, 48 << 10),
        (CUdevice_attribute::MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 227 << 10),
        (CUdevice_attribute::MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 228 << 10),
        (CUdevice_attribute::UNIFIED_ADDRESSING, 1),
        (CUdevice_attribute::CLUSTER_LAUNCH, 1),
        (CUdevice_attribute::TENSOR_MAP_ACCESS_SUPPORTED, 1),
    ] {
        let mut value = -1;
        ok!(cuDeviceGetAttribute(&mut value, attribute, 0));
        assert_eq!(value, expected, "{attribute:?}");
    }
    assert_eq!(answer!(cuDeviceGetAttribute(&mut 0, CUdevice_attribute(4711), 0)), INVALID_VALUE);
}

//! The device: version, initialisation, name, attributes (CUDA driver API, "Version Management", "Initialization", "Device Management").

use std::ffi::{c_char, c_int, c_uint, c_void};

use gridpoint_driver::{CUdevice, CUdevice_attribute as Attribute, CUgraphMem_attribute, CUresult, CUuuid, Table};

use super::state::State;
use super::{Answer, enter, in_context, initialised, put};

/// The driver version that the device reports: 1000 * major + 10 * minor.
pub(super) const DRIVER_VERSION: c_int = 13_000;
/// The device's name.
const NAME: &str = "gridpoint simulated device";

/// Threads of a warp.
pub(super) const WARP: u32 = 32;
/// Threads of a block at most.
pub(super) const BLOCK_THREADS: u32 = 1024;
/// Threads of a block at most, by dimension.
pub(super) const BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks of a grid at most, by dimension.
pub(super) const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
/// Dynamic shared memory of a block without `MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub(super) const BLOCK_SHARED: u32 = 48 << 10;
/// Dynamic shared memory of a block at most.
pub(super) const BLOCK_SHARED_OPT_IN: u32 = 227 << 10;
/// Shared memory that the system takes for each block.
pub(super) const RESERVED_SHARED: u32 = 1 << 10;
/// Shared memory of a multiprocessor.
pub(super) const MULTIPROCESSOR_SHARED: u32 = 228 << 10;
/// Threads of a multiprocessor at most.
pub(super) const MULTIPROCESSOR_THREADS: u32 = 2048;
/// Blocks of a multiprocessor at most.
pub(super) const MULTIPROCESSOR_BLOCKS: u32 = 32;

pub(super) fn fill(table: &mut Table) {
    table.cuDriverGetVersion = driver_get_version;
    table.cuInit = init;
    table.cuProfilerStart = profiler;
    table.cuProfilerStop = profiler;
    table.cuDeviceGet = device_get;
    table.cuDeviceGetCount = device_get_count;
    table.cuDeviceGetName = device_get_name;
    table.cuDeviceGetUuid = device_get_uuid;
    table.cuDeviceTotalMem_v2 = device_total_mem;
    table.cuDeviceGetAttribute = device_get_attribute;
    table.cuDeviceGetGraphMemAttribute = device_get_graph_mem_attribute;
    table.cuDeviceGraphMemTrim = device_graph_mem_trim;
}

/// Answers `INVALID_DEVICE` for every ordinal but 0.
pub(super) fn check_device(device: CUdevice) -> Answer {
    if device == 0 { Ok(()) } else { Err(CUresult::ERROR_INVALID_DEVICE) }
}

/// The value of an attribute; none for numbers outside the list of CUDA 13.0. What no program here asks for is 0: textures, peers,
/// memory of other processes.
fn attribute(state: &State, attribute: Attribute) -> Option<i64> {
    Some(match attribute {
        Attribute::MAX_THREADS_PER_BLOCK => BLOCK_THREADS.into(),
        Attribute::MAX_BLOCK_DIM_X => BLOCK[0].into(),
        Attribute::MAX_BLOCK_DIM_Y => BLOCK[1].into(),
        Attribute::MAX_BLOCK_DIM_Z => BLOCK[2].into(),
        Attribute::MAX_GRID_DIM_X => GRID[0].into(),
        Attribute::MAX_GRID_DIM_Y => GRID[1].into(),
        Attribute::MAX_GRID_DIM_Z => GRID[2].into(),
        Attribute::MAX_SHARED_MEMORY_PER_BLOCK => BLOCK_SHARED.into(),
        Attribute::TOTAL_CONSTANT_MEMORY => 64 << 10,
        Attribute::WARP_SIZE => WARP.into(),
        Attribute::MAX_PITCH => i32::MAX.into(),
        Attribute::MAX_REGISTERS_PER_BLOCK | Attribute::MAX_REGISTERS_PER_MULTIPROCESSOR => 64 << 10,
        Attribute::CLOCK_RATE | Attribute::MEMORY_CLOCK_RATE => 1_000_000,
        Attribute::MULTIPROCESSOR_COUNT => state.options.multiprocessors.into(),
        Attribute::CAN_MAP_HOST_MEMORY
        | Attribute::CONCURRENT_KERNELS
        | Attribute::ASYNC_ENGINE_COUNT
        | Attribute::UNIFIED_ADDRESSING
        | Attribute::STREAM_PRIORITIES_SUPPORTED
        | Attribute::VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
        | Attribute::MANAGED_MEMORY
        | Attribute::CLUSTER_LAUNCH
        | Attribute::TENSOR_MAP_ACCESS_SUPPORTED => 1,
        Attribute::GLOBAL_MEMORY_BUS_WIDTH => 5120,
        Attribute::L2_CACHE_SIZE => 50 << 20,
        Attribute::MAX_THREADS_PER_MULTIPROCESSOR => MULTIPROCESSOR_THREADS.into(),
        Attribute::COMPUTE_CAPABILITY_MAJOR => 9,
        Attribute::MAX_SHARED_MEMORY_PER_MULTIPROCESSOR => MULTIPROCESSOR_SHARED.into(),
        Attribute::MAX_SHARED_MEMORY_PER_BLOCK_OPTIN => BLOCK_SHARED_OPT_IN.into(),
        Attribute::MAX_BLOCKS_PER_MULTIPROCESSOR => MULTIPROCESSOR_BLOCKS.into(),
        Attribute::RESERVED_SHARED_MEMORY_PER_BLOCK => RESERVED_SHARED.into(),
        // Texture and surface alignment, texture pitch alignment.
        Attribute(14 | 30) => 512,
        Attribute(51) => 32,
        // Ratio of single to double precision speed; whether host and device atomics are the same.
        Attribute(87) => 2,
        Attribute(86) => 1,
        Attribute(1..=148) => 0,
        _ => return None,
    })
}

unsafe extern "C" fn driver_get_version(version: *mut c_int) -> CUresult {
    enter(|_| put!(version, DRIVER_VERSION))
}

unsafe extern "C" fn init(flags: c_uint) -> CUresult {
    enter(|state| {
        if flags != 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        state.initialised = true;
        Ok(())
    })
}

unsafe extern "C" fn profiler() -> CUresult {
    in_context(|_| Ok(()))
}

unsafe extern "C" fn device_get(device: *mut CUdevice, ordinal: c_int) -> CUresult {
    initialised(|_| check_device(ordinal).and_then(|()| put!(device, 0)))
}

unsafe extern "C" fn device_get_count(count: *mut c_int) -> CUresult {
    initialised(|_| put!(count, 1))
}

unsafe extern "C" fn device_get_name(name: *mut c_char, length: c_int, device: CUdevice) -> CUresult {
    initialised(|_| {
        check_device(device)?;
        let length = usize::try_from(length).ok().filter(|&length| length > 0).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        // A longer name than fits is cut off before the terminating zero.
        let text = NAME.bytes().take(length - 1).chain([0]);
        for (index, byte) in text.enumerate() {
            put!(name.wrapping_add(index), byte as c_char)?;
        }
        Ok(())
    })
}

unsafe extern "C" fn device_get_uuid(uuid: *mut CUuuid, device: CUdevice) -> CUresult {
    initialised(|_| {
        check_device(device)?;
        put!(uuid, CUuuid { bytes: b"gridpoint-sim-00".map(|byte| byte as c_char) })
    })
}

unsafe extern "C" fn device_total_mem(bytes: *mut usize, device: CUdevice) -> CUresult {
    initialised(|state| {
        check_device(device)?;
        put!(bytes, state.options.memory_bytes as usize)
    })
}

unsafe extern "C" fn device_get_attribute(value: *mut c_int, which: Attribute, device: CUdevice) -> CUresult {
    initialised(|state| {
        check_device(device)?;
        let found = attribute(state, which).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        put!(value, c_int::try_from(found).unwrap_or(c_int::MAX))
    })
}

/// Graphs hold no allocations here: every figure is 0.
unsafe extern "C" fn device_get_graph_mem_attribute(
    device: CUdevice,
    which: CUgraphMem_attribute,
    value: *mut c_void,
) -> CUresult {
    initialised(|_| {
        check_device(device)?;
        if which > CUgraphMem_attribute::RESERVED_MEM_HIGH {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        put!(value.cast::<u64>(), 0)
    })
}

unsafe extern "C" fn device_graph_mem_trim(device: CUdevice) -> CUresult {
    initialised(|_| check_device(device))
}

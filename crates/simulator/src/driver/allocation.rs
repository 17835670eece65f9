//! Allocation, and what is known about addresses (CUDA driver API, "Memory Management", "Stream Ordered Memory Allocator",
//! "Unified Addressing").
//!
//! Device addresses are host addresses. Fresh memory holds [`crate::memory::POISON`].

use std::ffi::{c_int, c_uint, c_void};

use gridpoint_driver::{
    CU_MEMHOSTALLOC_DEVICEMAP, CU_MEMHOSTALLOC_PORTABLE, CU_MEMHOSTALLOC_WRITECOMBINED, CUcontext, CUdevice,
    CUdeviceptr, CUmem_advise, CUmemorytype, CUpointer_attribute, CUresult, CUstream, Table,
};

use super::device::check_device;
use super::state::{PRIMARY, State, handle, id};
use super::work::Work;
use super::{Answer, in_context, put, releasing};
use crate::memory::Kind;

pub(super) fn fill(table: &mut Table) {
    table.cuMemAlloc_v2 = alloc;
    table.cuMemAllocManaged = alloc_managed;
    table.cuMemAllocAsync = alloc_async;
    table.cuMemAllocHost_v2 = alloc_host;
    table.cuMemHostAlloc = host_alloc;
    table.cuMemHostGetDevicePointer_v2 = host_get_device_pointer;
    table.cuMemFree_v2 = free;
    table.cuMemFreeAsync = free_async;
    table.cuMemFreeHost = free_host;
    table.cuMemGetInfo_v2 = get_info;
    table.cuMemAdvise = advise;
    table.cuMemPrefetchAsync = prefetch_async;
    table.cuPointerGetAttribute = pointer_get_attribute;
}

impl State {
    fn allocate(&mut self, bytes: usize, kind: Kind) -> Answer<u64> {
        if bytes == 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        if kind == Kind::Device {
            self.reserve(bytes as u64)?;
        }
        let number = self.fresh();
        self.memory.allocate(bytes, kind, number).map(|address| address as u64).ok_or(CUresult::ERROR_OUT_OF_MEMORY)
    }

    /// Frees memory once all queued work has run, as cuMemFree and cuMemFreeHost wait for the device.
    fn release(&mut self, address: u64, kind: Kind, call: &str) -> Answer {
        let start = address as usize;
        match self.memory.find(start, 1) {
            Some((found, range)) if found == kind && range.start == start => {}
            _ => return Err(CUresult::ERROR_INVALID_VALUE),
        }
        let ran = self.run_all();
        match self.memory.free(start, kind) {
            Some(Ok(())) => ran,
            Some(Err(damaged)) => ran.and_then(|()| Err(self.fail_red_zone(call, damaged))),
            None => Err(CUresult::ERROR_INVALID_VALUE),
        }
    }

    /// Answers `INVALID_VALUE` where `bytes` bytes at `address` are not all in one live allocation.
    pub(super) fn check_range(&self, address: u64, bytes: usize) -> Answer {
        self.memory.find(address as usize, bytes).map(drop).ok_or(CUresult::ERROR_INVALID_VALUE)
    }
}

unsafe extern "C" fn alloc(pointer: *mut CUdeviceptr, bytes: usize) -> CUresult {
    in_context(|state| {
        state.check_unsafe_call()?;
        put!(pointer, 0)?;
        put!(pointer, state.allocate(bytes, Kind::Device)?)
    })
}

/// Managed memory is device memory that the host may also touch while no kernel runs.
unsafe extern "C" fn alloc_managed(pointer: *mut CUdeviceptr, bytes: usize, flags: c_uint) -> CUresult {
    in_context(|state| {
        state.check_unsafe_call()?;
        // CU_MEM_ATTACH_GLOBAL or CU_MEM_ATTACH_HOST.
        if !matches!(flags, 1 | 2) {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        put!(pointer, 0)?;
        let address = state.allocate(bytes, Kind::Device)?;
        // Whatever the host writes there it writes unseen.
        state.memory.written(address as usize, bytes);
        put!(pointer, address)
    })
}

/// The memory exists at once: an address used before its allocation has run in stream order is not found out. In a capture CUDA would
/// make an allocation node; graphs hold none here.
unsafe extern "C" fn alloc_async(pointer: *mut CUdeviceptr, bytes: usize, stream: CUstream) -> CUresult {
    in_context(|state| {
        let stream = state.stream_id(id(stream.0))?;
        state.refuse_in_capture(stream, CUresult::ERROR_NOT_SUPPORTED)?;
        put!(pointer, 0)?;
        put!(pointer, state.allocate(bytes, Kind::Device)?)?;
        state.enqueue(stream, Work::Empty, Vec::new()).map(drop)
    })
}

unsafe extern "C" fn alloc_host(pointer: *mut *mut c_void, bytes: usize) -> CUresult {
    in_context(|state| {
        state.check_unsafe_call()?;
        put!(pointer, std::ptr::null_mut())?;
        let address = state.allocate(bytes, Kind::Host)?;
        put!(pointer, std::ptr::with_exposed_provenance_mut(address as usize))
    })
}

unsafe extern "C" fn host_alloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint) -> CUresult {
    if flags & !(CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED) != 0 {
        return in_context(|_| Err(CUresult::ERROR_INVALID_VALUE));
    }
    // SAFETY: the caller's promise is the one asked for.
    unsafe { alloc_host(pointer, bytes) }
}

unsafe extern "C" fn host_get_device_pointer(
    device_pointer: *mut CUdeviceptr,
    pointer: *mut c_void,
    flags: c_uint,
) -> CUresult {
    in_context(|state| {
        let address = pointer.expose_provenance();
        match state.memory.find(address, 1) {
            Some((Kind::Host, _)) if flags == 0 => put!(device_pointer, address as u64),
            _ => Err(CUresult::ERROR_INVALID_VALUE),
        }
    })
}

unsafe extern "C" fn free(pointer: CUdeviceptr) -> CUresult {
    releasing(|state| {
        state.check_unsafe_call()?;
        if pointer == 0 { Ok(()) } else { state.release(pointer, Kind::Device, "cuMemFree") }
    })
}

unsafe extern "C" fn free_async(pointer: CUdeviceptr, stream: CUstream) -> CUresult {
    in_context(|state| {
        let stream = state.stream_id(id(stream.0))?;
        state.refuse_in_capture(stream, CUresult::ERROR_NOT_SUPPORTED)?;
        match state.memory.find(pointer as usize, 1) {
            Some((Kind::Device, range)) if range.start as u64 == pointer => {}
            _ => return Err(CUresult::ERROR_INVALID_VALUE),
        }
        state.enqueue(stream, Work::Free(pointer), Vec::new()).map(drop)
    })
}

unsafe extern "C" fn free_host(pointer: *mut c_void) -> CUresult {
    releasing(|state| {
        state.check_unsafe_call()?;
        if pointer.is_null() {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        state.release(pointer.expose_provenance() as u64, Kind::Host, "cuMemFreeHost")
    })
}

/// Total is the device's size; free is that minus live device memory minus what executable graphs cost.
unsafe extern "C" fn get_info(free: *mut usize, total: *mut usize) -> CUresult {
    in_context(|state| {
        put!(free, state.options.memory_bytes.saturating_sub(state.used_bytes()) as usize)?;
        put!(total, state.options.memory_bytes as usize)
    })
}

unsafe extern "C" fn advise(pointer: CUdeviceptr, bytes: usize, advice: CUmem_advise, _device: CUdevice) -> CUresult {
    in_context(|state| {
        if bytes == 0 || !(1..=6).contains(&advice.0) {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        state.check_range(pointer, bytes)
    })
}

unsafe extern "C" fn prefetch_async(
    pointer: CUdeviceptr,
    bytes: usize,
    device: CUdevice,
    stream: CUstream,
) -> CUresult {
    in_context(|state| {
        // -1 is CU_DEVICE_CPU.
        if device != -1 {
            check_device(device)?;
        }
        state.check_range(pointer, bytes)?;
        state.submit(id(stream.0), Work::Empty)
    })
}

unsafe extern "C" fn pointer_get_attribute(
    data: *mut c_void,
    attribute: CUpointer_attribute,
    pointer: CUdeviceptr,
) -> CUresult {
    in_context(|state| {
        let (kind, _) = state.memory.find(pointer as usize, 1).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        match attribute {
            CUpointer_attribute::CONTEXT => put!(data.cast::<CUcontext>(), CUcontext(handle(PRIMARY))),
            CUpointer_attribute::MEMORY_TYPE => put!(
                data.cast::<CUmemorytype>(),
                if kind == Kind::Host { CUmemorytype::HOST } else { CUmemorytype::DEVICE }
            ),
            CUpointer_attribute::DEVICE_POINTER => put!(data.cast::<CUdeviceptr>(), pointer),
            CUpointer_attribute::HOST_POINTER if kind == Kind::Host => put!(data.cast::<u64>(), pointer),
            // CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL.
            CUpointer_attribute(9) => put!(data.cast::<c_int>(), 0),
            _ => Err(CUresult::ERROR_INVALID_VALUE),
        }
    })
}

//! Copies and memsets (CUDA driver API, "Memory Management" and "API synchronization behavior").
//!
//! | call | when it runs |
//! |---|---|
//! | synchronous, host to device, pageable | the legacy stream's work first, then the bytes are staged and the copy is enqueued there |
//! | synchronous, other host copies | before the call returns |
//! | synchronous, device to device, and memsets of device memory | enqueued on the legacy stream |
//! | synchronous memsets of pinned memory | before the call returns |
//! | asynchronous, pageable source | staged when called, enqueued |
//! | asynchronous, pageable destination | before the call returns |
//! | asynchronous, pinned or device memory on both sides | enqueued: pinned memory is read and written when the copy runs |
//!
//! What is enqueued on the legacy stream orders nothing with non-blocking streams, also where the call is named synchronous: the
//! bytes of a pageable copy may not have arrived when it returns, and a memset may not have begun.
//!
//! In a capture a copy becomes a node that reads and writes host memory whenever the graph runs.

use std::ffi::{c_uchar, c_uint, c_ushort, c_void};
use std::sync::Arc;

use gridpoint_driver::{CUdeviceptr, CUresult, CUstream, Table};

use super::state::{LEGACY, State, id};
use super::work::{Source, Work};
use super::{Answer, in_context};
use crate::memory::Kind;

pub(super) fn fill(table: &mut Table) {
    table.cuMemcpyHtoD_v2 = host_to_device;
    table.cuMemcpyDtoH_v2 = device_to_host;
    table.cuMemcpyDtoD_v2 = device_to_device;
    table.cuMemcpyHtoDAsync_v2 = host_to_device_async;
    table.cuMemcpyDtoHAsync_v2 = device_to_host_async;
    table.cuMemcpyDtoDAsync_v2 = device_to_device_async;
    table.cuMemsetD8_v2 = set_8;
    table.cuMemsetD16_v2 = set_16;
    table.cuMemsetD32_v2 = set_32;
    table.cuMemsetD8Async = set_8_async;
    table.cuMemsetD16Async = set_16_async;
    table.cuMemsetD32Async = set_32_async;
}

/// A copy to be made: addresses of both sides.
#[derive(Clone, Copy)]
struct Copy {
    to: u64,
    from: u64,
    bytes: usize,
}

impl State {
    /// Whether `bytes` bytes at a host address are memory of ours; `INVALID_VALUE` for null and where they reach past an allocation.
    fn is_pinned(&self, address: u64, bytes: usize) -> Answer<bool> {
        if address == 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        if self.memory.find(address as usize, 1).is_none() {
            return Ok(false);
        }
        self.check_range(address, bytes).map(|()| true)
    }

    fn copy_work(&self, copy: Copy, stage: bool) -> Work {
        let from = if stage {
            // SAFETY: the contract of the copy: the source can be read for the length of the call, and it lies outside our allocations,
            // which kernels could write.
            let bytes = unsafe {
                std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(copy.from as usize), copy.bytes)
            };
            Source::Staged(Arc::from(bytes))
        } else {
            Source::Address(copy.from)
        };
        Work::Copy { to: copy.to, from, bytes: copy.bytes }
    }

    /// A copy on `stream`, of which the sides named in `host` are host memory.
    fn copy_async(&mut self, copy: Copy, host: Host, stream: CUstream) -> Answer {
        let pageable = self.check_copy(copy, host)?;
        let stream = id(stream.0);
        let capturing = self.capture_of(stream)?.is_some();
        if copy.bytes == 0 {
            return Ok(());
        }
        let work = self.copy_work(copy, host == Host::Source && pageable && !capturing);
        self.submit(stream, work)?;
        if host == Host::Destination && pageable && !capturing {
            let stream = self.stream_id(stream)?;
            self.run_stream(stream)?;
        }
        Ok(())
    }

    /// A synchronous copy.
    fn copy(&mut self, copy: Copy, host: Host) -> Answer {
        let pageable = self.check_copy(copy, host)?;
        self.check_legacy()?;
        if host != Host::Neither {
            self.check_unsafe_call()?;
        }
        if copy.bytes == 0 {
            return Ok(());
        }
        if host != Host::Neither {
            self.run_blocking()?;
        }
        let work = self.copy_work(copy, host == Host::Source && pageable);
        self.submit(LEGACY, work)?;
        if host == Host::Destination || (host == Host::Source && !pageable) {
            self.run_stream(LEGACY)?;
        }
        Ok(())
    }

    /// Checks both sides; answers whether the host side is pageable.
    fn check_copy(&self, copy: Copy, host: Host) -> Answer<bool> {
        let Copy { to, from, bytes } = copy;
        match host {
            Host::Source => self.check_range(to, bytes).and_then(|()| Ok(!self.is_pinned(from, bytes)?)),
            Host::Destination => self.check_range(from, bytes).and_then(|()| Ok(!self.is_pinned(to, bytes)?)),
            Host::Neither => self.check_range(to, bytes).and_then(|()| self.check_range(from, bytes)).map(|()| false),
        }
    }

    /// A memset with the synchronous call: only that of pinned memory waits.
    fn set_now(&mut self, at: u64, value: u32, width: usize, count: usize) -> Answer {
        self.set(at, value, width, count, LEGACY)?;
        match self.memory.find(at as usize, 1) {
            Some((Kind::Host, _)) if count > 0 => self.run_stream(LEGACY),
            _ => Ok(()),
        }
    }

    fn set(&mut self, at: u64, value: u32, width: usize, count: usize, stream: u64) -> Answer {
        let bytes = width.checked_mul(count).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        self.check_range(at, bytes)?;
        if !at.is_multiple_of(width as u64) {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        if count == 0 {
            return self.capture_of(stream).map(drop);
        }
        self.submit(stream, Work::Fill { at, value, width, count })
    }
}

/// Which side of a copy is host memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    Source,
    Destination,
    Neither,
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

unsafe extern "C" fn host_to_device(to: CUdeviceptr, from: *const c_void, bytes: usize) -> CUresult {
    in_context(|state| state.copy(Copy { to, from: address(from), bytes }, Host::Source))
}

unsafe extern "C" fn device_to_host(to: *mut c_void, from: CUdeviceptr, bytes: usize) -> CUresult {
    in_context(|state| state.copy(Copy { to: address(to), from, bytes }, Host::Destination))
}

unsafe extern "C" fn device_to_device(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> CUresult {
    in_context(|state| state.copy(Copy { to, from, bytes }, Host::Neither))
}

unsafe extern "C" fn host_to_device_async(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    in_context(|state| state.copy_async(Copy { to, from: address(from), bytes }, Host::Source, stream))
}

unsafe extern "C" fn device_to_host_async(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    in_context(|state| state.copy_async(Copy { to: address(to), from, bytes }, Host::Destination, stream))
}

unsafe extern "C" fn device_to_device_async(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    in_context(|state| state.copy_async(Copy { to, from, bytes }, Host::Neither, stream))
}

unsafe extern "C" fn set_8(at: CUdeviceptr, value: c_uchar, count: usize) -> CUresult {
    in_context(|state| state.set_now(at, value.into(), 1, count))
}

unsafe extern "C" fn set_16(at: CUdeviceptr, value: c_ushort, count: usize) -> CUresult {
    in_context(|state| state.set_now(at, value.into(), 2, count))
}

unsafe extern "C" fn set_32(at: CUdeviceptr, value: c_uint, count: usize) -> CUresult {
    in_context(|state| state.set_now(at, value, 4, count))
}

unsafe extern "C" fn set_8_async(at: CUdeviceptr, value: c_uchar, count: usize, stream: CUstream) -> CUresult {
    in_context(|state| state.set(at, value.into(), 1, count, id(stream.0)))
}

unsafe extern "C" fn set_16_async(at: CUdeviceptr, value: c_ushort, count: usize, stream: CUstream) -> CUresult {
    in_context(|state| state.set(at, value.into(), 2, count, id(stream.0)))
}

unsafe extern "C" fn set_32_async(at: CUdeviceptr, value: c_uint, count: usize, stream: CUstream) -> CUresult {
    in_context(|state| state.set(at, value, 4, count, id(stream.0)))
}

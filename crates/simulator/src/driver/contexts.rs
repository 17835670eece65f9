//! Contexts (CUDA driver API, "Primary Context Management", "Context Management").
//!
//! All contexts of the one device share everything: memory, streams, events, modules and the sticky error belong to the device. They
//! live as long as the primary context is retained; a context of cuCtxCreate only counts as current.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};

use gridpoint_driver::{CUcontext, CUdevice, CUfunc_cache, CUlimit, CUresult, CUsharedconfig, Table};

use super::device::check_device;
use super::state::{Id, PRIMARY, State, handle, id};
use super::{Answer, in_context, initialised, put};

/// The contexts that exist.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    /// How often the primary context is retained.
    retained: u32,
    /// The flags of the primary context.
    flags: c_uint,
    /// Contexts of cuCtxCreate and their flags.
    created: BTreeMap<Id, c_uint>,
    cache: CUfunc_cache,
    limits: BTreeMap<CUlimit, usize>,
}

impl Contexts {
    fn exists(&self, context: Id) -> bool {
        if context == PRIMARY { self.retained > 0 } else { self.created.contains_key(&context) }
    }
}

thread_local! {
    /// The thread's stack of contexts; the last is current.
    static STACK: RefCell<Vec<Id>> = const { RefCell::new(Vec::new()) };
}

/// Flags that exist in CUDA 13.0.
const FLAGS: c_uint = 0xff;

/// Works on the thread's stack of contexts; on an empty one where the thread is ending.
fn stack<T>(body: impl Fn(&mut Vec<Id>) -> T) -> T {
    STACK.try_with(|stack| body(&mut stack.borrow_mut())).unwrap_or_else(|_| body(&mut Vec::new()))
}

impl State {
    /// The context that is current on this thread.
    pub(super) fn current_context(&self) -> Answer<Id> {
        let current = stack(|stack| stack.last().copied()).ok_or(CUresult::ERROR_INVALID_CONTEXT)?;
        if self.contexts.exists(current) { Ok(current) } else { Err(CUresult::ERROR_CONTEXT_IS_DESTROYED) }
    }
}

pub(super) fn fill(table: &mut Table) {
    table.cuDevicePrimaryCtxRetain = primary_retain;
    table.cuDevicePrimaryCtxRelease_v2 = primary_release;
    table.cuDevicePrimaryCtxReset_v2 = primary_reset;
    table.cuDevicePrimaryCtxSetFlags_v2 = primary_set_flags;
    table.cuDevicePrimaryCtxGetState = primary_get_state;
    table.cuCtxCreate_v2 = create;
    table.cuCtxDestroy_v2 = destroy;
    table.cuCtxGetCurrent = get_current;
    table.cuCtxSetCurrent = set_current;
    table.cuCtxPushCurrent_v2 = push_current;
    table.cuCtxPopCurrent_v2 = pop_current;
    table.cuCtxGetDevice = get_device;
    table.cuCtxGetFlags = get_flags;
    table.cuCtxGetApiVersion = get_api_version;
    table.cuCtxGetCacheConfig = get_cache_config;
    table.cuCtxSetCacheConfig = set_cache_config;
    table.cuCtxGetSharedMemConfig = get_shared_mem_config;
    table.cuCtxSetSharedMemConfig = set_shared_mem_config;
    table.cuCtxGetLimit = get_limit;
    table.cuCtxSetLimit = set_limit;
    table.cuCtxGetStreamPriorityRange = get_stream_priority_range;
}

unsafe extern "C" fn primary_retain(context: *mut CUcontext, device: CUdevice) -> CUresult {
    initialised(|state| {
        check_device(device)?;
        put!(context, CUcontext(handle(PRIMARY)))?;
        state.contexts.retained = state.contexts.retained.saturating_add(1);
        Ok(())
    })
}

/// The last release destroys everything in the context.
unsafe extern "C" fn primary_release(device: CUdevice) -> CUresult {
    initialised(|state| {
        check_device(device)?;
        match state.contexts.retained {
            0 => Err(CUresult::ERROR_INVALID_CONTEXT),
            1 => {
                state.contexts.retained = 0;
                state.clear();
                Ok(())
            }
            _ => {
                state.contexts.retained -= 1;
                Ok(())
            }
        }
    })
}

/// Destroys everything in the context, also the error that a kernel left. The context stays as often retained as it was.
unsafe extern "C" fn primary_reset(device: CUdevice) -> CUresult {
    initialised(|state| {
        check_device(device)?;
        state.clear();
        Ok(())
    })
}

/// Flags of an active context are overwritten: only the call before CUDA 11.0 refused them with `PRIMARY_CONTEXT_ACTIVE`.
unsafe extern "C" fn primary_set_flags(device: CUdevice, flags: c_uint) -> CUresult {
    initialised(|state| {
        check_device(device)?;
        if flags > FLAGS {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        state.contexts.flags = flags;
        Ok(())
    })
}

unsafe extern "C" fn primary_get_state(device: CUdevice, flags: *mut c_uint, active: *mut c_int) -> CUresult {
    initialised(|state| {
        check_device(device)?;
        put!(flags, state.contexts.flags)?;
        put!(active, c_int::from(state.contexts.retained > 0))
    })
}

unsafe extern "C" fn create(context: *mut CUcontext, flags: c_uint, device: CUdevice) -> CUresult {
    initialised(|state| {
        check_device(device)?;
        if flags > FLAGS {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let created = state.fresh();
        put!(context, CUcontext(handle(created)))?;
        state.contexts.created.insert(created, flags);
        stack(|stack| stack.push(created));
        Ok(())
    })
}

unsafe extern "C" fn destroy(context: CUcontext) -> CUresult {
    initialised(|state| {
        let context = id(context.0);
        // The primary context is released, never destroyed.
        state.contexts.created.remove(&context).ok_or(CUresult::ERROR_INVALID_CONTEXT)?;
        stack(|stack| stack.pop_if(|top| *top == context));
        Ok(())
    })
}

unsafe extern "C" fn get_current(context: *mut CUcontext) -> CUresult {
    initialised(|_| put!(context, CUcontext(handle(stack(|stack| stack.last().copied().unwrap_or(0))))))
}

unsafe extern "C" fn set_current(context: CUcontext) -> CUresult {
    initialised(|state| {
        let context = id(context.0);
        if context != 0 && !state.contexts.exists(context) {
            return Err(CUresult::ERROR_INVALID_CONTEXT);
        }
        stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    })
}

unsafe extern "C" fn push_current(context: CUcontext) -> CUresult {
    initialised(|state| {
        let context = id(context.0);
        if !state.contexts.exists(context) {
            return Err(CUresult::ERROR_INVALID_CONTEXT);
        }
        stack(|stack| stack.push(context));
        Ok(())
    })
}

unsafe extern "C" fn pop_current(context: *mut CUcontext) -> CUresult {
    initialised(|_| {
        let popped = stack(Vec::pop).ok_or(CUresult::ERROR_INVALID_CONTEXT)?;
        if context.is_null() { Ok(()) } else { put!(context, CUcontext(handle(popped))) }
    })
}

unsafe extern "C" fn get_device(device: *mut CUdevice) -> CUresult {
    initialised(|state| state.current_context().and_then(|_| put!(device, 0)))
}

unsafe extern "C" fn get_flags(flags: *mut c_uint) -> CUresult {
    initialised(|state| {
        let current = state.current_context()?;
        put!(flags, state.contexts.created.get(&current).copied().unwrap_or(state.contexts.flags))
    })
}

unsafe extern "C" fn get_api_version(context: CUcontext, version: *mut c_uint) -> CUresult {
    initialised(|state| {
        let context = id(context.0);
        if context == 0 {
            state.current_context()?;
        } else if !state.contexts.exists(context) {
            return Err(CUresult::ERROR_INVALID_CONTEXT);
        }
        put!(version, 3020)
    })
}

unsafe extern "C" fn get_cache_config(config: *mut CUfunc_cache) -> CUresult {
    in_context(|state| put!(config, state.contexts.cache))
}

unsafe extern "C" fn set_cache_config(config: CUfunc_cache) -> CUresult {
    in_context(|state| {
        if config > CUfunc_cache::PREFER_EQUAL {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        state.contexts.cache = config;
        Ok(())
    })
}

unsafe extern "C" fn get_shared_mem_config(config: *mut CUsharedconfig) -> CUresult {
    in_context(|_| put!(config, CUsharedconfig::FOUR_BYTE_BANK_SIZE))
}

/// Banks have four bytes on every device since Maxwell: the call changes nothing.
unsafe extern "C" fn set_shared_mem_config(config: CUsharedconfig) -> CUresult {
    in_context(|_| {
        if config > CUsharedconfig::EIGHT_BYTE_BANK_SIZE {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        Ok(())
    })
}

/// The limit's value when nothing was set, as on a device of compute capability 9.0.
fn default_limit(limit: CUlimit) -> Answer<usize> {
    Ok(match limit {
        CUlimit::STACK_SIZE => 1 << 10,
        CUlimit::PRINTF_FIFO_SIZE => 7 << 20,
        CUlimit::MALLOC_HEAP_SIZE => 8 << 20,
        CUlimit::DEV_RUNTIME_SYNC_DEPTH => 2,
        CUlimit::DEV_RUNTIME_PENDING_LAUNCH_COUNT => 2048,
        CUlimit::MAX_L2_FETCH_GRANULARITY => 64,
        CUlimit::PERSISTING_L2_CACHE_SIZE => 0,
        _ => return Err(CUresult::ERROR_INVALID_VALUE),
    })
}

unsafe extern "C" fn get_limit(value: *mut usize, limit: CUlimit) -> CUresult {
    in_context(|state| {
        let default = default_limit(limit)?;
        put!(value, state.contexts.limits.get(&limit).copied().unwrap_or(default))
    })
}

unsafe extern "C" fn set_limit(limit: CUlimit, value: usize) -> CUresult {
    in_context(|state| {
        default_limit(limit)?;
        state.contexts.limits.insert(limit, value);
        Ok(())
    })
}

/// The range of an H100.
unsafe extern "C" fn get_stream_priority_range(least: *mut c_int, greatest: *mut c_int) -> CUresult {
    in_context(|_| {
        if !least.is_null() {
            put!(least, 0)?;
        }
        if !greatest.is_null() {
            put!(greatest, super::streams::GREATEST_PRIORITY)?;
        }
        Ok(())
    })
}

//! Functions and their attributes (CUDA driver API, "Execution Control").

use std::ffi::{CString, c_char, c_int};

use gridpoint_driver::{CUfunc_cache, CUfunction, CUfunction_attribute as Attribute, CUresult, CUsharedconfig, Table};

use super::device::BLOCK_SHARED_OPT_IN;
use super::state::{State, id};
use super::{Answer, in_context, put};
use crate::module::HostKernel;

/// A kernel of a loaded module.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) kernel: &'static HostKernel,
    pub(super) name: CString,
    /// `MAX_DYNAMIC_SHARED_SIZE_BYTES`.
    pub(super) dynamic_shared: u32,
    /// `PREFERRED_SHARED_MEMORY_CARVEOUT`: a percentage, or -1 for none.
    pub(super) carveout: c_int,
}

pub(super) fn fill(table: &mut Table) {
    table.cuFuncGetAttribute = get_attribute;
    table.cuFuncSetAttribute = set_attribute;
    table.cuFuncGetName = get_name;
    table.cuFuncGetParamInfo = get_param_info;
    table.cuFuncLoad = load;
    table.cuFuncSetCacheConfig = set_cache_config;
    table.cuFuncSetSharedMemConfig = set_shared_mem_config;
}

impl State {
    pub(super) fn function(&self, function: CUfunction) -> Answer<&Function> {
        self.functions.get(&id(function.0)).ok_or(CUresult::ERROR_INVALID_HANDLE)
    }
}

unsafe extern "C" fn get_attribute(value: *mut c_int, attribute: Attribute, function: CUfunction) -> CUresult {
    in_context(|state| {
        let function = state.function(function)?;
        let found = match attribute {
            Attribute::MAX_THREADS_PER_BLOCK => function.kernel.maximum_threads() as c_int,
            Attribute::SHARED_SIZE_BYTES => function.kernel.static_shared_bytes() as c_int,
            // A host kernel has no registers; as many as an 8-warp kernel may use at full occupancy.
            Attribute::NUM_REGS => 32,
            Attribute::PTX_VERSION | Attribute::BINARY_VERSION => 90,
            Attribute::MAX_DYNAMIC_SHARED_SIZE_BYTES => function.dynamic_shared as c_int,
            Attribute::PREFERRED_SHARED_MEMORY_CARVEOUT => function.carveout,
            other if other <= Attribute::CLUSTER_SCHEDULING_POLICY_PREFERENCE => 0,
            _ => return Err(CUresult::ERROR_INVALID_VALUE),
        };
        put!(value, found)
    })
}

unsafe extern "C" fn set_attribute(function: CUfunction, attribute: Attribute, value: c_int) -> CUresult {
    in_context(|state| {
        let function = state.functions.get_mut(&id(function.0)).ok_or(CUresult::ERROR_INVALID_HANDLE)?;
        match attribute {
            Attribute::MAX_DYNAMIC_SHARED_SIZE_BYTES => {
                let bytes = u32::try_from(value).ok().filter(|&bytes| bytes <= BLOCK_SHARED_OPT_IN);
                function.dynamic_shared = bytes.ok_or(CUresult::ERROR_INVALID_VALUE)?;
                Ok(())
            }
            Attribute::PREFERRED_SHARED_MEMORY_CARVEOUT if (-1..=100).contains(&value) => {
                function.carveout = value;
                Ok(())
            }
            _ => Err(CUresult::ERROR_INVALID_VALUE),
        }
    })
}

/// The text lives as long as the module is loaded.
unsafe extern "C" fn get_name(name: *mut *const c_char, function: CUfunction) -> CUresult {
    in_context(|state| put!(name, state.function(function)?.name.as_ptr()))
}

unsafe extern "C" fn get_param_info(
    function: CUfunction,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> CUresult {
    in_context(|state| {
        let kernel = state.function(function)?.kernel;
        let parameter = kernel.parameters().nth(index).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        put!(offset, parameter.offset as usize)?;
        if size.is_null() { Ok(()) } else { put!(size, parameter.bytes as usize) }
    })
}

unsafe extern "C" fn load(function: CUfunction) -> CUresult {
    in_context(|state| state.function(function).map(drop))
}

unsafe extern "C" fn set_cache_config(function: CUfunction, config: CUfunc_cache) -> CUresult {
    in_context(|state| {
        state.function(function)?;
        if config > CUfunc_cache::PREFER_EQUAL { Err(CUresult::ERROR_INVALID_VALUE) } else { Ok(()) }
    })
}

unsafe extern "C" fn set_shared_mem_config(function: CUfunction, config: CUsharedconfig) -> CUresult {
    in_context(|state| {
        state.function(function)?;
        if config > CUsharedconfig::EIGHT_BYTE_BANK_SIZE { Err(CUresult::ERROR_INVALID_VALUE) } else { Ok(()) }
    })
}

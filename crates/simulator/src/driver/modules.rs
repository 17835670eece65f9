//! Modules (CUDA driver API, "Module Management").
//!
//! The simulator's images name a module that is compiled into the process: eight bytes of [`MAGIC`], the name, a zero byte. A real
//! fatbin or cubin is recognised and refused as one for another device.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_uint, c_void};

use gridpoint_driver::{CUdeviceptr, CUfunction, CUjit_option, CUmodule, CUresult, Table};

use super::device::BLOCK_SHARED;
use super::functions::Function;
use super::state::{Id, State, handle, id};
use super::{Answer, in_context, put, releasing};
use crate::module::HostModule;

/// What an image of the simulator starts with.
const MAGIC: &[u8] = b"GPSIMMOD";
/// What a fatbin starts with: 0xBA55ED50, little-endian.
const FATBIN_MAGIC: &[u8] = &[0x50, 0xED, 0x55, 0xBA];
/// What a cubin, an ELF file, starts with.
const CUBIN_MAGIC: &[u8] = b"\x7fELF";
/// The longest module name that is read.
const NAME_BYTES: usize = 256;

/// A loaded module.
#[derive(Debug)]
pub(super) struct Module {
    host: &'static HostModule,
    /// Handles given out for its kernels, by name.
    functions: BTreeMap<String, Id>,
}

/// What `cuModuleLoadData` takes in place of a fatbin for the module of this name, which must be among those that
/// [`crate::table()`] was given. A name longer than 255 bytes, or one with a zero byte, is no module's.
pub fn image(module: &str) -> Vec<u8> {
    let mut image = MAGIC.to_vec();
    image.extend_from_slice(module.as_bytes());
    image.push(0);
    image
}

pub(super) fn fill(table: &mut Table) {
    table.cuModuleLoad = load;
    table.cuModuleLoadData = load_data;
    table.cuModuleLoadDataEx = load_data_ex;
    table.cuModuleLoadFatBinary = load_data;
    table.cuModuleUnload = unload;
    table.cuModuleGetFunction = get_function;
    table.cuModuleGetGlobal_v2 = get_global;
}

/// Reads an image byte by byte, so that nothing is read behind the byte that tells what it is.
struct Reader(*const u8);

impl Reader {
    /// # Safety
    /// `offset` bytes of the image were read before and did not end it.
    unsafe fn byte(&self, offset: usize) -> u8 {
        // SAFETY: an image that did not end goes on.
        unsafe { self.0.wrapping_add(offset).read() }
    }

    /// Whether the image starts with `magic`, which holds no zero byte.
    fn starts_with(&self, magic: &[u8]) -> bool {
        // SAFETY: an image has a first byte, and one that equals a magic number so far goes on.
        magic.iter().enumerate().all(|(offset, &byte)| unsafe { self.byte(offset) } == byte)
    }

    fn name(&self) -> Option<String> {
        let mut name = Vec::new();
        while name.len() < NAME_BYTES {
            // SAFETY: the image holds the magic number and a name that has not ended.
            match unsafe { self.byte(MAGIC.len() + name.len()) } {
                0 => return String::from_utf8(name).ok(),
                byte => name.push(byte),
            }
        }
        None
    }
}

impl State {
    /// Loads the image at `image`, which can be read up to its end.
    fn load(&mut self, module: *mut CUmodule, image: *const u8) -> Answer {
        self.check_unsafe_call()?;
        if image.is_null() || module.is_null() {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let reader = Reader(image);
        if reader.starts_with(FATBIN_MAGIC) || reader.starts_with(CUBIN_MAGIC) {
            return Err(CUresult::ERROR_NO_BINARY_FOR_GPU);
        }
        if !reader.starts_with(MAGIC) {
            return Err(CUresult::ERROR_INVALID_IMAGE);
        }
        let name = reader.name().ok_or(CUresult::ERROR_INVALID_IMAGE)?;
        let Some(host) = self.known_modules.iter().copied().find(|known| known.name() == name) else {
            tracing::error!(module = name, "the simulated device was made without this module");
            return Err(CUresult::ERROR_NO_BINARY_FOR_GPU);
        };
        let loaded = self.fresh();
        self.modules.insert(loaded, Module { host, functions: BTreeMap::new() });
        put!(module, CUmodule(handle(loaded)))
    }
}

unsafe extern "C" fn load_data(module: *mut CUmodule, image: *const c_void) -> CUresult {
    in_context(|state| state.load(module, image.cast()))
}

/// The options are those of the PTX compiler, which has nothing to do here.
unsafe extern "C" fn load_data_ex(
    module: *mut CUmodule,
    image: *const c_void,
    _num_options: c_uint,
    _options: *mut CUjit_option,
    _option_values: *mut *mut c_void,
) -> CUresult {
    in_context(|state| state.load(module, image.cast()))
}

unsafe extern "C" fn load(module: *mut CUmodule, path: *const c_char) -> CUresult {
    in_context(|state| {
        let mut image = std::fs::read(text(path)?).map_err(|_| CUresult::ERROR_FILE_NOT_FOUND)?;
        image.push(0);
        state.load(module, image.as_ptr())
    })
}

/// The text behind a C string; `INVALID_VALUE` for null and for what is not UTF-8.
pub(super) fn text<'a>(text: *const c_char) -> Answer<&'a str> {
    if text.is_null() {
        return Err(CUresult::ERROR_INVALID_VALUE);
    }
    // SAFETY: the contract of the driver call: a string argument is null or zero-terminated, and outlives the call.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| CUresult::ERROR_INVALID_VALUE)
}

/// Enqueued launches of its kernels still run.
unsafe extern "C" fn unload(module: CUmodule) -> CUresult {
    releasing(|state| {
        state.check_unsafe_call()?;
        let module = state.modules.remove(&id(module.0)).ok_or(CUresult::ERROR_INVALID_HANDLE)?;
        for function in module.functions.values() {
            state.functions.remove(function);
        }
        Ok(())
    })
}

/// The same handle for the same name, as long as the module is loaded.
unsafe extern "C" fn get_function(function: *mut CUfunction, module: CUmodule, name: *const c_char) -> CUresult {
    in_context(|state| {
        let name = text(name)?;
        let fresh = state.fresh();
        let loaded = state.modules.get_mut(&id(module.0)).ok_or(CUresult::ERROR_INVALID_HANDLE)?;
        if let Some(&known) = loaded.functions.get(name) {
            return put!(function, CUfunction(handle(known)));
        }
        let kernel = loaded.host.kernel(name).ok_or(CUresult::ERROR_NOT_FOUND)?;
        put!(function, CUfunction(handle(fresh)))?;
        let name_for_c = CString::new(name).map_err(|_| CUresult::ERROR_INVALID_VALUE)?;
        loaded.functions.insert(name.to_owned(), fresh);
        let function = Function { kernel, name: name_for_c, dynamic_shared: BLOCK_SHARED, carveout: -1 };
        state.functions.insert(fresh, function);
        Ok(())
    })
}

/// Host modules have no global variables that the driver could find.
unsafe extern "C" fn get_global(
    _pointer: *mut CUdeviceptr,
    _bytes: *mut usize,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    in_context(|state| {
        text(name)?;
        state.modules.get(&id(module.0)).ok_or(CUresult::ERROR_INVALID_HANDLE)?;
        Err(CUresult::ERROR_NOT_FOUND)
    })
}

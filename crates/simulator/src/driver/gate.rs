//! What stands between the driver table and the device: every call is counted and can be made to fail ([`super::injection`]).
//!
//! Also cuGetProcAddress (CUDA driver API, "Driver Entry Point Access"), which answers from the same list.

use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_ushort, c_void};
use std::sync::OnceLock;

use gridpoint_driver::*;

use super::injection;

/// The table of the device itself; the first one given, since a process has one device.
static INNER: OnceLock<Table> = OnceLock::new();

/// The device's table. Only called through a gate, and so after [`gated`].
fn inner() -> &'static Table {
    INNER.get_or_init(Table::missing)
}

macro_rules! define {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {
        /// Every function by its place in [`Table::NAMES`].
        #[allow(non_camel_case_types)]
        enum Place {
            $($name),*
        }

        /// Functions that ask [`injection::pass`] before the device.
        #[allow(non_snake_case, clippy::too_many_arguments)]
        mod gates {
            use super::*;
            $(pub(super) unsafe extern "C" fn $name($($argument: $kind),*) -> CUresult {
                // SAFETY: the caller keeps the contract of the driver function, which is the one of the table's entry.
                injection::pass(Place::$name as usize, || unsafe { (inner().$name)($($argument),*) })
            })*
        }

        /// `table` behind gates.
        pub(super) fn gated(table: Table) -> Table {
            let _ = INNER.set(table);
            Table { $($name: gates::$name),* }
        }

        /// The gate of the function of this name; none for a name outside the list, and where the device lacks the function.
        fn address(name: &str) -> Option<*mut c_void> {
            let missing = Table::missing();
            match name {
                $(stringify!($name) => {
                    let filled = inner().$name as *const () != missing.$name as *const ();
                    filled.then_some(gates::$name as *mut c_void)
                })*
                _ => None,
            }
        }
    };
}

with_functions!(define);

/// Suffixes of a function's versions, newest first.
const VERSIONS: [&str; 4] = ["_v3", "_v2", "_v1", ""];

/// Versions of functions that only callers of at least [`EDGE_DATA_SINCE`] get: those with edge data.
const WITH_EDGE_DATA: [&str; 7] = [
    "cuGraphAddDependencies_v2",
    "cuGraphGetEdges_v2",
    "cuGraphNodeGetDependencies_v2",
    "cuGraphNodeGetDependentNodes_v2",
    "cuGraphRemoveDependencies_v2",
    "cuStreamGetCaptureInfo_v3",
    "cuStreamUpdateCaptureDependencies_v2",
];
/// CUDA 12.3, which introduced edge data (CUDA programming guide, "Edge Data").
const EDGE_DATA_SINCE: c_int = 12_030;

/// The newest version of the function that the device has and that a caller of this CUDA version knows. Flags 0 and 1 ask for the handle 0 to be the legacy stream, as it is here;
/// flag 2 asks for functions whose handle 0 is the thread's own stream, of which there are none.
fn find(symbol: *const c_char, version: c_int, flags: u64) -> Result<*mut c_void, CUresult> {
    if symbol.is_null() || version < 2000 || flags > 2 {
        return Err(CUresult::ERROR_INVALID_VALUE);
    }
    // SAFETY: the contract of the driver call: the symbol is a zero-terminated string that outlives the call.
    let name = unsafe { CStr::from_ptr(symbol) }.to_str().map_err(|_| CUresult::ERROR_INVALID_VALUE)?;
    if flags == 2 || version > super::device::DRIVER_VERSION {
        return Err(CUresult::ERROR_NOT_FOUND);
    }
    let known = |name: &String| version >= EDGE_DATA_SINCE || !WITH_EDGE_DATA.contains(&name.as_str());
    let mut names = VERSIONS.iter().map(|suffix| format!("{name}{suffix}")).filter(known);
    let versions = names.find_map(|name| address(&name));
    versions.ok_or(CUresult::ERROR_NOT_FOUND)
}

unsafe extern "C" fn get_proc_address(
    symbol: *const c_char,
    address: *mut *mut c_void,
    version: c_int,
    flags: u64,
) -> CUresult {
    super::enter(|_| {
        super::put!(address, std::ptr::null_mut())?;
        super::put!(address, find(symbol, version, flags)?)
    })
}

/// The status says success, no such symbol, or a version that is too new.
unsafe extern "C" fn get_proc_address_v2(
    symbol: *const c_char,
    address: *mut *mut c_void,
    version: c_int,
    flags: u64,
    status: *mut CUdriverProcAddressQueryResult,
) -> CUresult {
    super::enter(|_| {
        super::put!(address, std::ptr::null_mut())?;
        let found = find(symbol, version, flags);
        if !status.is_null() {
            let known = version <= super::device::DRIVER_VERSION;
            super::put!(
                status,
                match found {
                    Ok(_) => CUdriverProcAddressQueryResult::SUCCESS,
                    Err(_) if known => CUdriverProcAddressQueryResult::SYMBOL_NOT_FOUND,
                    Err(_) => CUdriverProcAddressQueryResult::VERSION_NOT_SUFFICIENT,
                }
            )?;
        }
        super::put!(address, found?)
    })
}

pub(super) fn fill(table: &mut Table) {
    table.cuGetProcAddress = get_proc_address;
    table.cuGetProcAddress_v2 = get_proc_address_v2;
}

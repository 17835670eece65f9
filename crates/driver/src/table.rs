//! The table of driver functions, its fillings, and the linkable symbols that call through it.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_ushort, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{CUresult, types::*, virtual_memory::*, with_functions};

/// The library that holds the driver, by its loader name on Linux.
pub const DRIVER_LIBRARY: &str = "libcuda.so.1";

/// The driver library could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("the CUDA driver library `{}` could not be loaded: {reason}", path.display())]
pub struct LoadError {
    /// What was looked for.
    pub path: PathBuf,
    /// The loader's words.
    pub reason: String,
}

/// A table was installed, or a driver function was called, before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a driver table is already in use: install one before the first driver call, and only once a process")]
pub struct AlreadyInstalled;

static TABLE: OnceLock<Table> = OnceLock::new();

/// Makes `table` the one behind every `cu*` symbol of this process.
///
/// # Errors
/// [`AlreadyInstalled`] when a table was installed or a driver function was called before.
pub fn install(table: Table) -> Result<(), AlreadyInstalled> {
    TABLE.set(table).map_err(|_| AlreadyInstalled)
}

/// The table in use. Without an installed one, the first call loads the driver library, or takes [`Table::absent`] where there
/// is none.
pub fn table() -> &'static Table {
    TABLE.get_or_init(|| Table::load(None).unwrap_or_else(|_| Table::absent()))
}

/// # Safety
/// `text` must be null or writable.
unsafe fn put_text(text: *mut *const c_char, found: Option<&'static std::ffi::CStr>) -> CUresult {
    let Some(found) = found else { return CUresult::ERROR_INVALID_VALUE };
    if text.is_null() {
        return CUresult::ERROR_INVALID_VALUE;
    }
    // SAFETY: not null, and the caller promises that it can be written.
    unsafe { *text = found.as_ptr() };
    CUresult::SUCCESS
}

/// Answers [`cuGetErrorName`] from our own list.
///
/// # Safety
/// `text` must be null or writable.
pub unsafe extern "C" fn error_name(code: CUresult, text: *mut *const c_char) -> CUresult {
    // SAFETY: the caller's promise is the one asked for.
    unsafe { put_text(text, code.c_name()) }
}

/// Answers [`cuGetErrorString`] from our own list.
///
/// # Safety
/// `text` must be null or writable.
pub unsafe extern "C" fn error_words(code: CUresult, text: *mut *const c_char) -> CUresult {
    // SAFETY: the caller's promise is the one asked for.
    unsafe { put_text(text, code.c_words()) }
}

macro_rules! define {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {
        /// One pointer per driver function. Copyable; what a filling needs beside it lives as long as the process.
        #[derive(Clone, Copy)]
        #[allow(non_snake_case)]
        pub struct Table {
            $(
                #[doc = concat!("`", stringify!($name), "` of the driver API.")]
                pub $name: unsafe extern "C" fn($($argument: $kind),*) -> CUresult,
            )*
        }

        /// Functions that answer that the driver library could not be loaded.
        #[allow(non_snake_case, clippy::too_many_arguments)]
        mod absent {
            use super::*;
            $(pub(super) unsafe extern "C" fn $name($(_: $kind),*) -> CUresult {
                CUresult::ERROR_SHARED_OBJECT_INIT_FAILED
            })*
        }

        /// Functions that answer that the driver lacks them.
        #[allow(non_snake_case, clippy::too_many_arguments)]
        mod missing {
            use super::*;
            $(pub(super) unsafe extern "C" fn $name($(_: $kind),*) -> CUresult {
                CUresult::ERROR_NOT_FOUND
            })*
        }

        impl Table {
            /// The names of the list, in its order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// A table for machines without a driver: every function answers `CUDA_ERROR_SHARED_OBJECT_INIT_FAILED` (303), except
            /// the two that name codes, which answer from our own list.
            pub fn absent() -> Self {
                let mut table = Self { $($name: absent::$name),* };
                table.cuGetErrorName = error_name;
                table.cuGetErrorString = error_words;
                table
            }

            /// A table whose functions all answer `CUDA_ERROR_NOT_FOUND` (500), except the two that name codes: what another
            /// filling starts from.
            pub fn missing() -> Self {
                let mut table = Self { $($name: missing::$name),* };
                table.cuGetErrorName = error_name;
                table.cuGetErrorString = error_words;
                table
            }

            /// Loads the driver from `path`, or from [`DRIVER_LIBRARY`]. A function that the library lacks answers
            /// `CUDA_ERROR_NOT_FOUND` (500). The library stays loaded until the process ends.
            ///
            /// # Errors
            /// [`LoadError`] when the library cannot be loaded.
            pub fn load(path: Option<&Path>) -> Result<Self, LoadError> {
                let path = path.unwrap_or(Path::new(DRIVER_LIBRARY));
                let library = open(path)?;
                let mut table = Self::missing();
                $({
                    let name = concat!(stringify!($name), "\0").as_bytes();
                    // SAFETY: the type is that of the function in the driver's binary interface, which a name never changes
                    // (a changed function gets a new suffix), and the library is never unloaded.
                    let symbol = unsafe { library.get::<unsafe extern "C" fn($($kind),*) -> CUresult>(name) };
                    if let Ok(symbol) = symbol {
                        table.$name = *symbol;
                    }
                })*
                // The driver must outlive every handle and every thread, so its library is never unloaded.
                std::mem::forget(library);
                Ok(table)
            }
        }

        $(
            #[doc = concat!("`", stringify!($name), "` of the driver API, through the table in use.")]
            ///
            /// # Safety
            /// As the driver API says of this function.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, clippy::too_many_arguments)]
            pub unsafe extern "C" fn $name($($argument: $kind),*) -> CUresult {
                // SAFETY: the caller keeps the contract of the driver function, which is the one of the table's entry.
                unsafe { (table().$name)($($argument),*) }
            }
        )*
    };
}

with_functions!(define);

fn open(path: &Path) -> Result<libloading::Library, LoadError> {
    // SAFETY: loading runs the library's initialisers; the library is the installed driver or one that the caller names.
    unsafe { libloading::Library::new(path) }
        .map_err(|error| LoadError { path: path.to_owned(), reason: error.to_string() })
}

impl std::fmt::Debug for Table {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Table").field("functions", &Self::NAMES.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_a_library_is_named() {
        let error = Table::load(Some(Path::new("/nowhere/libcuda.so.1"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/libcuda.so.1"), "{error}");
    }

    #[test]
    fn the_absent_table_answers_303_and_names_codes() {
        let table = Table::absent();
        // SAFETY: these functions take plain numbers or a writable pointer.
        unsafe {
            assert_eq!((table.cuInit)(0), CUresult(303));
            assert_eq!((table.cuCtxSynchronize)(), CUresult(303));
            let mut text = std::ptr::null();
            assert_eq!((table.cuGetErrorName)(CUresult(303), &mut text), CUresult(0));
            let text = std::ffi::CStr::from_ptr(text);
            assert_eq!(text.to_str(), Ok("CUDA_ERROR_SHARED_OBJECT_INIT_FAILED"));
        }
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn a_library_that_lacks_a_symbol_answers_500() {
        // The C library is no driver: every entry must fall back.
        let table = Table::load(Some(Path::new("libc.so.6"))).unwrap();
        // SAFETY: takes a plain number.
        assert_eq!(unsafe { (table.cuInit)(0) }, CUresult(500));
    }

    #[test]
    fn every_name_stands_once() {
        let mut names = Table::NAMES.to_vec();
        names.sort_unstable();
        for pair in names.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
    }
}

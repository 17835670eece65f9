//! The CUDA driver API as one table of functions.
//!
//! One filling comes from the driver library, loaded at run time, so that nothing of CUDA is needed to build or to start; another
//! comes from whoever fills a [`Table`], such as a device in software. Every function also exists as a linkable symbol that calls
//! through the table in use: a crate that links against the driver, like cust, works on top of either filling, unmodified.
//!
//! ```
//! use gridpoint_driver::{Table, check, cuInit, install};
//!
//! // Once, before the first driver call; without it the driver library is looked for.
//! install(Table::absent()).unwrap();
//! // SAFETY: `cuInit` takes a plain number.
//! let answer = check("cuInit", unsafe { cuInit(0) });
//! assert_eq!(answer.unwrap_err().code.name(), "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED");
//! ```

#![allow(non_camel_case_types)]

mod functions;
mod probe;
mod result;
mod table;
mod types;
mod virtual_memory;

pub use probe::{Found, probe};
pub use result::{CUresult, Error, check};
pub use table::*;
pub use types::*;
pub use virtual_memory::*;

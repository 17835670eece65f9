//! What was captured, as a picture.

use std::ffi::CString;
use std::path::Path;

use gridpoint_driver as driver;
use gridpoint_driver::CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE;

use crate::{GraphTemplate, RuntimeError};

impl GraphTemplate {
    /// Has the driver write the graph to a file for Graphviz, with every detail that the driver knows.
    ///
    /// # Errors
    /// [`RuntimeError::GraphNotPrinted`] when the file cannot be written, or the driver's error.
    pub fn print(&self, path: &Path) -> Result<(), RuntimeError> {
        let failed = |error| RuntimeError::GraphNotPrinted { path: path.to_owned(), error };
        let call = "cuGraphDebugDotPrint";
        // A path with a zero byte in it is none.
        let name = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| failed(driver::Error { call, code: driver::CUresult::ERROR_INVALID_VALUE }))?;
        // SAFETY: the graph is live, and the path ends in a zero byte.
        let code = unsafe {
            (driver::table().cuGraphDebugDotPrint)(self.raw(), name.as_ptr(), CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE)
        };
        driver::check(call, code).map_err(failed)
    }
}

//! gridpoint-runtime.

//! gridpoint-model.

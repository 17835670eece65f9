//! gridpoint-engine.

//! gridpoint-simulator.

//! The gridpoint program.
fn main() {}

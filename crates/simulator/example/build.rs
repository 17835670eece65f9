//! Compiles the kernels for the simulated device: as they are, and once more for each bug.

use gridpoint_simulator_build::{BuildError, FLAGS, Kernels, tell};

fn main() -> Result<(), BuildError> {
    let sums = Kernels::new("kernels/sums.cu");
    sums.compile()?;
    for bug in ["MISSING_BARRIER", "OUT_OF_BOUNDS", "BEYOND_SHARED", "UNINITIALISED_READ", "MISSING_LANE"] {
        sums.clone().variant(bug.to_lowercase()).define(bug, None).compile()?;
    }
    with_cc_alone()
}

/// What a build script does that has only the `cc` crate: shared variables of templates and of inline functions, and several builds of
/// one file, are beyond it.
fn with_cc_alone() -> Result<(), BuildError> {
    println!("cargo::rerun-if-changed=kernels/language.cu");
    println!("cargo::rerun-if-changed={}", gridpoint_simulator_build::INCLUDE);
    let include = std::env::var_os("DEP_GRIDPOINT_SIMULATOR_INCLUDE").unwrap_or_default();
    let mut compiler = cc::Build::new();
    compiler.cpp(true).std("c++17").opt_level(2).cpp_link_stdlib(None).include(include);
    compiler.debug(false).flags(FLAGS);
    tell(&mut compiler).flag("-x").flag("c++").file("kernels/language.cu");
    Ok(compiler.try_compile("language")?)
}

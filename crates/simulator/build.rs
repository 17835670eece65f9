//! Tells build scripts of packages that depend on this one where the headers are: `DEP_GRIDPOINT_SIMULATOR_INCLUDE`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::metadata=include={}/include", env!("CARGO_MANIFEST_DIR"));
}

//! Builds what is not Rust: the kernels of `kernels/*.cu`, for GPUs and for the host, and the parameter structs' bindings.
//!
//! A C++ compiler is all that is needed. Where nvcc is found the kernels are also compiled for GPUs, and where libclang is
//! found the bindings are regenerated, so that a test can compare them with the checked-in ones.
//!
//! | variable | meaning |
//! |---|---|
//! | `NVCC`, then `CUDA_HOME`, `CUDA_PATH`, `CUDA_ROOT`, `CUDA_TOOLKIT_ROOT_DIR` | the compiler for GPUs, or the toolkit that holds it; then PATH, /usr/local/cuda and target/cuda are asked |
//! | `NVCC_CCBIN` | the host compiler that nvcc uses |
//! | `CUDA_COMPUTE_CAP` | GPUs to compile for, as `80,90a` or `120+ptx`; default `80,90a,90-virtual` |
//! | `LIBCLANG_PATH` | the folder of libclang |
//! | `GRIDPOINT_REQUIRE_NVCC`, `GRIDPOINT_REQUIRE_LIBCLANG` | `1`: not finding it fails the build |
//! | `GRIDPOINT_UPDATE_BINDINGS` | `1`: the regenerated bindings replace the checked-in ones |

use std::path::PathBuf;
use std::process::ExitCode;

#[path = "build/architectures.rs"]
mod architectures;
#[path = "build/bindings.rs"]
mod bindings;
#[path = "build/cache.rs"]
mod cache;
#[path = "build/host.rs"]
mod host;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/planted.rs"]
mod planted;
#[path = "build/sources.rs"]
mod sources;
#[path = "build/table.rs"]
mod table;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            for line in sentence.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out =
        PathBuf::from(std::env::var_os("OUT_DIR").ok_or("`OUT_DIR` is not set: cargo sets it for a build script")?);
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed={}", gridpoint_simulator_build::INCLUDE);
    println!("cargo::rerun-if-changed=tests/instructions");
    println!("cargo::rerun-if-changed={}", bindings::CHECKED_IN);
    println!("cargo::rustc-check-cfg=cfg(have_kernels)");
    println!("cargo::rustc-check-cfg=cfg(bindings_regenerated)");

    let architectures = nvcc::architectures()?;
    let sources = sources::Sources::read("kernels")?;
    bindings::build(&out)?;
    let tests = sources::Sources::read_on_top_of("tests/instructions", &sources)?;
    let cache = cache::Cache::around(&out)?;
    let mut archives = vec![host::kernels(&sources, &out, &cache)?, host::checked_kernels(&sources, &out)?];
    archives.extend(planted::archives(&sources, &out)?);
    archives.extend(host::test_kernels(&tests, &out)?);
    let images = nvcc::images(&sources, &architectures, &out)?;
    let test_images = nvcc::images(&tests, &architectures, &out)?;
    let device = [&images, &test_images].into_iter().flatten();
    let jobs =
        archives.iter().flat_map(|archive| archive.jobs(&cache)).chain(device.flat_map(|images| images.jobs(&cache)));
    cache::run(jobs.collect())?;
    archives.iter().try_for_each(host::Archive::link)?;
    table::write((&sources, images.as_ref()), (&tests, test_images.as_ref()), &out)
}

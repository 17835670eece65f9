//! Compiles the toy's kernels for the simulated device and, where nvcc is found, for GPUs.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use gridpoint_simulator_build::{INCLUDE, Kernels};

const SOURCE: &str = "kernels/toy.cu";

fn main() -> Result<(), Box<dyn Error>> {
    Kernels::new(SOURCE).compile()?;
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let image = Path::new(&std::env::var_os("OUT_DIR").ok_or("cargo names OUT_DIR")?).join("toy.fatbin");
    match nvcc() {
        // The driver compiles it for whatever GPU is there.
        Some(nvcc) => {
            let architecture = "arch=compute_80,code=compute_80";
            let status = Command::new(&nvcc)
                .args(["-fatbin", "-std=c++17", "-gencode", architecture, "-I", INCLUDE, SOURCE, "-o"])
                .arg(&image)
                .status()?;
            if !status.success() {
                return Err(format!("{} cannot compile {SOURCE}", nvcc.display()).into());
            }
        }
        None => std::fs::write(image, [])?,
    }
    Ok(())
}

fn nvcc() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("CUDA_HOME")?).join("bin/nvcc"));
    std::env::var_os("NVCC").map(PathBuf::from).or_else(home).filter(|nvcc| nvcc.is_file())
}

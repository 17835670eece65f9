//! A profiler that writes down the NVTX ranges that it hears of (tests/nvtx/injection.c).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the library that listens into `folder`.
pub(crate) fn library(folder: &Path) -> PathBuf {
    let library = folder.join("libinjection.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&library);
    let compiled = command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nvtx/injection.c")).output();
    let compiled = compiled.expect("the compiler that the kernels need is there");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    library
}

/// What it has heard so far, a line for each call.
pub(crate) fn heard(library: &Path) -> String {
    fs::read_to_string(library.with_extension("so.heard")).expect("the library wrote what it heard")
}

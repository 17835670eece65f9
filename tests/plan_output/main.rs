//! What `gridpoint plan` makes beside a plan: files, comparisons on traffic, the words of other engines, pictures.

mod emit;
mod files;
mod pictures;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The first hour of the Azure conversation trace of 2023.
const TRACE: &str = "crates/plan/tests/data/azure2023_conv_h1.csv";

/// The engine and the load for which the reference has figures.
const ENGINE: [&str; 11] = [
    "--max-requests",
    "256",
    "--max-tokens",
    "8192",
    "--max-seq-len",
    "131072",
    "--all-prefills",
    "--load",
    "0.85",
    "--kv-tokens",
    "880000",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn gridpoint(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gridpoint"));
    command.current_dir(root()).args(arguments).output().expect("the program starts")
}

/// The stdout of a run that succeeds and has nothing to say on stderr.
fn stdout(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = gridpoint(arguments);
    assert_eq!(status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    assert!(stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).expect("one JSON object")
}

/// The one line on stderr of a run that fails with this status and leaves stdout empty.
fn failure(arguments: &[&str], status: i32) -> String {
    let output = gridpoint(arguments);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{arguments:?}: {stderr}");
    stderr
}

/// A folder for files, gone with the value.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a path").to_owned()
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = PathBuf::from(self.path(name));
        fs::write(&path, content).expect("written");
        self.path(name)
    }
}

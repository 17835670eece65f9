//! Runs of the program, and copies of the test models to spoil.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The model with a tokenizer.
pub(crate) const SHAKESPEARE: &str = "assets/shakespeare-3m";
/// A model without one: 512 token ids, sequences of 4096.
pub(crate) const GQA: &str = "tests/models/llama-gqa";

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Runs the program to its end.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        Self::of(Command::new(env!("CARGO_BIN_EXE_gridpoint")).args(arguments))
    }

    /// Runs the program to its end in another folder.
    pub(crate) fn inside(folder: &Path, arguments: &[&str]) -> Self {
        Self::of(Command::new(env!("CARGO_BIN_EXE_gridpoint")).args(arguments).current_dir(folder))
    }

    /// Runs the program to its end with a folder in which libraries are looked for first.
    pub(crate) fn beside(libraries: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gridpoint"));
        Self::of(command.args(arguments).env("LD_LIBRARY_PATH", libraries))
    }

    /// Runs the program to its end with its stderr going elsewhere.
    pub(crate) fn with_stderr(arguments: &[&str], stderr: Stdio) -> Self {
        Self::of(Command::new(env!("CARGO_BIN_EXE_gridpoint")).args(arguments).stderr(stderr))
    }

    /// Runs the program to its end with a cache folder of its own.
    pub(crate) fn with_cache(cache: &Path, arguments: &[&str]) -> Self {
        Self::ended(Command::new(env!("CARGO_BIN_EXE_gridpoint")).args(arguments).env("XDG_CACHE_HOME", cache))
    }

    /// Runs the program to its end with more in its environment.
    pub(crate) fn with_environment(variables: &[(&str, &Path)], arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gridpoint"));
        Self::of(command.args(arguments).envs(variables.iter().copied()))
    }

    /// Without the cache folder of whoever runs the tests.
    fn of(command: &mut Command) -> Self {
        Self::ended(command.env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/no-cache")))
    }

    fn ended(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let ran = Self { status: status.code(), stdout: text(stdout), stderr: text(stderr) };
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        ran
    }

    /// The one JSON object that is all of stdout.
    pub(crate) fn json(&self) -> Value {
        assert!(self.stdout.ends_with('\n') && self.stdout.lines().count() == 1, "{self:?}");
        serde_json::from_str(&self.stdout).expect("an object")
    }

    /// The lines of stderr that are not the log's.
    pub(crate) fn said(&self) -> Vec<&str> {
        let is_log = |line: &str| [" INFO ", " WARN "].iter().any(|level| line.starts_with(level));
        self.stderr.lines().filter(|line| !is_log(line)).collect()
    }
}

/// `gridpoint generate` on the simulated device, answering in JSON.
pub(crate) fn generate(model: &str, arguments: &[&str]) -> Ran {
    let common = ["generate", "--device", "simulator", "--format", "json", "--model", model];
    Ran::new(&[&common, arguments].concat())
}

/// The answer of a run of [`generate`] that succeeds.
pub(crate) fn generated(model: &str, arguments: &[&str]) -> Value {
    let ran = generate(model, arguments);
    assert_eq!(ran.status, Some(0), "{arguments:?}: {ran:?}");
    ran.json()
}

/// Asserts that a run fails with this status, nothing on stdout, and this one line on stderr.
pub(crate) fn refuses(ran: &Ran, status: i32, line: &str) {
    assert_eq!(ran.stderr, format!("error: {line}\n"));
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(status), ""), "{ran:?}");
}

/// The keys of an object, in ascending order.
pub(crate) fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// A list of numbers.
pub(crate) fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

/// A copy of a model folder that lives as long as the value.
pub(crate) struct Copy(TempDir);

impl Copy {
    /// A copy that may be changed.
    pub(crate) fn of(model: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for entry in fs::read_dir(model).expect("the model is there") {
            let path = entry.expect("an entry").path();
            fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("copied");
        }
        Self(folder)
    }

    /// The folder.
    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().expect("UTF-8")
    }

    /// One of its files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        Path::new(self.path()).join(name)
    }

    /// Replaces a file.
    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.file(name), content).expect("written");
    }

    /// Sets a field of a JSON file.
    pub(crate) fn set(&self, name: &str, field: &str, value: &Value) {
        let text = fs::read(self.file(name)).expect("the file is there");
        let mut object: Value = serde_json::from_slice(&text).expect("JSON");
        object[field] = value.clone();
        self.write(name, object.to_string().as_bytes());
    }

    /// The header of the weights file and its tensors' bytes.
    pub(crate) fn weights(&self) -> (Value, Vec<u8>) {
        let content = fs::read(self.file("model.safetensors")).expect("the file is there");
        let (length, rest) = content.split_first_chunk::<8>().expect("a length");
        let (header, tensors) = rest.split_at(u64::from_le_bytes(*length) as usize);
        (serde_json::from_slice(header).expect("a header"), tensors.to_vec())
    }

    /// Replaces the weights file.
    pub(crate) fn write_weights(&self, header: &Value, tensors: &[u8]) {
        let header = header.to_string();
        let length = (header.len() as u64).to_le_bytes();
        self.write("model.safetensors", &[&length, header.as_bytes(), tensors].concat());
    }
}

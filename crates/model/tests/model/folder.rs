//! Folders for tests: the fixtures, and temporary ones with a part of a fixture replaced.

use std::path::{Path, PathBuf};

use gridpoint_model::ModelError;
use serde_json::{Map, Value};
use tempfile::TempDir;

pub(crate) const FIXTURES: [&str; 2] = ["llama-gqa", "llama3-rope-scaling"];

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models").join(name)
}

pub(crate) fn shakespeare() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/shakespeare-3m")
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// `llama-gqa`'s config.json with some fields replaced; a `null` removes the field.
pub(crate) fn edited_config(edits: &Value) -> String {
    let mut config = json(&fixture("llama-gqa").join("config.json"));
    let fields = config.as_object_mut().unwrap();
    for (name, value) in edits.as_object().unwrap() {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    config.to_string()
}

/// A temporary folder with the named files.
pub(crate) fn temporary(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// The bytes of a safetensors file with this header text and these bytes after it.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// Header and data of a safetensors file.
pub(crate) fn split_safetensors(file: &[u8]) -> (Map<String, Value>, &[u8]) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), &file[8 + length..])
}

/// The message without the folder that precedes the file's name.
pub(crate) fn message(error: &ModelError, folder: &Path) -> String {
    let message = error.to_string();
    assert!(!message.contains('\n') && !message.ends_with('.'), "not one sentence: {message}");
    message.replace(&format!("{}/", folder.display()), "").replace(&folder.display().to_string(), "FOLDER")
}

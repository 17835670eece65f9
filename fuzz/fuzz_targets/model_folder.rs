//! A model folder from a stranger: the first byte says which file the rest stands for.
#![no_main]

use std::fs;

use gridpoint_model::{Checkpoint, ModelConfig, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((which, content)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let names = ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"];
    let name = names[usize::from(*which) % names.len()];
    fs::write(folder.path().join(name), content).expect("a file");
    let _ = ModelConfig::load(folder.path());
    let _ = Checkpoint::open(folder.path());
    let _ = Tokenizer::load(folder.path(), 1024);
});

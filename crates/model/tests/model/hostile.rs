//! Damaged files never make a panic: whatever is changed, the answer is a value or an error of one line.

use std::path::Path;

use gridpoint_model::{Checkpoint, ModelConfig, Tokenizer, Weights, inverse_frequencies};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::folder::{FIXTURES, fixture, shakespeare, temporary};

/// One way to damage a file.
#[derive(Debug, Clone)]
enum Damage {
    Truncate(Index),
    Flip(Index, u8),
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let at = any::<Index>;
    // Digits, signs and the characters that JSON is made of keep the damaged text parseable more often.
    let text = proptest::sample::select(b"0123456789-.eE[]{}\",:ntf".to_vec());
    let insert = (at(), proptest::collection::vec(text.clone(), 1..8));
    proptest::collection::vec(
        prop_oneof![
            1 => at().prop_map(Damage::Truncate),
            3 => (at(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
            6 => (at(), text).prop_map(|(at, byte)| Damage::Replace(at, byte)),
            3 => insert.prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
            2 => (at(), 1u8..16).prop_map(|(at, count)| Damage::Remove(at, count)),
        ],
        1..4,
    )
}

/// `file` with its first `region` bytes damaged.
fn damage(file: &[u8], region: usize, damages: &[Damage]) -> Vec<u8> {
    let mut head = file[..region].to_vec();
    let mut tail = file[region..].to_vec();
    for damage in damages {
        if head.is_empty() {
            break;
        }
        let length = head.len();
        match damage {
            Damage::Truncate(at) => {
                head.truncate(at.index(length));
                tail.clear();
            }
            Damage::Flip(at, bit) => head[at.index(length)] ^= 1 << bit,
            Damage::Replace(at, byte) => head[at.index(length)] = *byte,
            Damage::Insert(at, bytes) => {
                let at = at.index(length);
                head.splice(at..at, bytes.iter().copied());
            }
            Damage::Remove(at, count) => {
                let at = at.index(length);
                head.drain(at..length.min(at + usize::from(*count)));
            }
        }
    }
    head.extend(tail);
    head
}

/// Uses everything that a folder offers; errors must be one line.
fn use_folder(folder: &Path) {
    let one_line = |message: String| assert!(!message.contains('\n') && message.len() < 1000, "{message}");
    let config = match ModelConfig::load(folder) {
        Ok(config) => config,
        Err(error) => return one_line(error.to_string()),
    };
    assert!(config.group_size() >= 1 && config.qkv_size() > 0);
    assert!(inverse_frequencies(&config.rope, config.head_dim).iter().all(|frequency| frequency.is_finite()));
    let checkpoint = match Checkpoint::open(folder) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return one_line(error.to_string()),
    };
    match Weights::new(&config, &checkpoint) {
        Ok(weights) => {
            for (index, tensor) in weights.plan().tensors().iter().enumerate() {
                weights.write(index, &mut vec![0; tensor.bytes as usize]).unwrap();
            }
        }
        Err(error) => one_line(error.to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn damaged_configuration(which in 0usize..2, damages in damages()) {
        let source = fixture(FIXTURES[which]);
        let file = std::fs::read(source.join("config.json")).unwrap();
        let folder = temporary(&[("config.json", &damage(&file, file.len(), &damages))]);
        use_folder(folder.path());
        let generation = std::fs::read(source.join("generation_config.json")).unwrap();
        std::fs::write(folder.path().join("config.json"), &file).unwrap();
        let generation = damage(&generation, generation.len(), &damages);
        std::fs::write(folder.path().join("generation_config.json"), generation).unwrap();
        use_folder(folder.path());
    }

    #[test]
    fn damaged_header(which in 0usize..2, damages in damages()) {
        let source = fixture(FIXTURES[which]);
        let config = std::fs::read(source.join("config.json")).unwrap();
        let file = std::fs::read(source.join("model.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let mut damaged = damage(&file, header, &damages);
        let folder = temporary(&[("config.json", &config), ("model.safetensors", &damaged)]);
        use_folder(folder.path());
        // Again with a header length that fits, so that the damage reaches the checks behind it.
        if let Some(length) = (damaged.len() + header).checked_sub(file.len() + 8) && damaged.len() >= 8 {
            damaged[..8].copy_from_slice(&(length as u64).to_le_bytes());
            std::fs::write(folder.path().join("model.safetensors"), damaged).unwrap();
            use_folder(folder.path());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn damaged_tokenizer(structure in any::<bool>(), damages in damages()) {
        let file = std::fs::read(shakespeare().join("tokenizer.json")).unwrap();
        // The part before the vocabulary is where most of the structure is.
        let region = if structure { 2000 } else { file.len() };
        let folder = temporary(&[("tokenizer.json", &damage(&file, region, &damages))]);
        match Tokenizer::load(folder.path(), 1024) {
            Ok(Some(tokenizer)) => {
                if let Ok(ids) = tokenizer.encode("ROMEO:\nWhat is 😀") {
                    let _ = tokenizer.decode(&ids);
                }
                let mut stream = tokenizer.stream();
                for id in 0..300 {
                    let _ = stream.push(id);
                }
            }
            Ok(None) => prop_assert!(false, "the file is there"),
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
        }
    }
}

//! The shipped tokenizer against recorded ids and texts, streaming against decoding at once, and files that are wrong.

use gridpoint_model::{ModelConfig, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::folder::{fixture, json, message, shakespeare, temporary};

fn load() -> Tokenizer {
    let config = ModelConfig::load(&shakespeare()).unwrap();
    Tokenizer::load(&shakespeare(), config.vocab_size).unwrap().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// What a stream returns, piece by piece, the rest last.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream();
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[test]
fn recorded_prompts_and_continuations() {
    let tokenizer = load();
    let expected = json(&shakespeare().join("expected.json"));
    let cases = expected["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let prompt = case["prompt"].as_str().unwrap();
        assert_eq!(tokenizer.encode(prompt).unwrap(), ids(&case["prompt_ids"]), "{prompt:?}");
        let greedy = ids(&case["greedy"]);
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&greedy).unwrap(), text);
        let pieces = pieces(&tokenizer, &greedy);
        assert_eq!(pieces.concat(), text);
        assert!(pieces[..greedy.len()].iter().all(|piece| !piece.is_empty()), "ASCII is never held back");
    }
}

#[test]
fn evaluation_text_has_the_recorded_number_of_scored_tokens() {
    let tokenizer = load();
    let text = std::fs::read_to_string(shakespeare().join("eval.txt")).unwrap();
    let ids = tokenizer.encode(&text).unwrap();
    let expected = json(&shakespeare().join("expected.json"))["nll"]["tokens"].as_u64().unwrap();
    assert_eq!(expected, 12_070);
    assert_eq!(ids.chunks(512).map(|window| window.len() as u64 - 1).sum::<u64>(), expected);
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    assert_eq!(pieces(&tokenizer, &ids).concat(), text);
}

#[test]
fn nothing_is_added_and_nothing_is_lost() {
    let tokenizer = load();
    assert_eq!(tokenizer.encode("").unwrap(), Vec::<u32>::new());
    assert_eq!(tokenizer.decode(&[]).unwrap(), "");
    assert_eq!(tokenizer.encode("<|end_of_text|>").unwrap(), [1]);
    assert_eq!(tokenizer.decode(&[1]).unwrap(), "<|end_of_text|>");
    let message = tokenizer.decode(&[0, 1024]).unwrap_err().to_string();
    assert_eq!(message, "token id `1024` is outside the vocabulary, it must be below 1024");
    let mut stream = tokenizer.stream();
    assert!(stream.push(u32::MAX).is_err());
    assert_eq!(stream.push(1).unwrap(), "<|end_of_text|>", "a refused token leaves the stream as it was");
}

#[test]
fn characters_are_held_back_until_whole() {
    let tokenizer = load();
    let ids = tokenizer.encode("a😀é").unwrap();
    assert!(ids.len() == 7, "one token for each byte: {ids:?}");
    assert_eq!(pieces(&tokenizer, &ids), ["a", "", "", "", "😀", "", "é", ""]);
    assert_eq!(pieces(&tokenizer, &ids[..3]), ["a", "", "", "\u{fffd}"]);
    assert_eq!(pieces(&tokenizer, &[ids[1], ids[0], ids[4]]), ["", "\u{fffd}a", "", "\u{fffd}"]);
}

/// A vocabulary in the manner of SentencePiece with byte fallback, as Llama 2 has.
fn byte_fallback() -> Tokenizer {
    let mut vocab = json!({"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, "b": 4});
    for byte in 0..256 {
        vocab[format!("<0x{byte:02X}>")] = json!(byte + 5);
    }
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": ["▁ a"]}});
    let folder = temporary(&[("tokenizer.json", file.to_string().as_bytes())]);
    Tokenizer::load(folder.path(), 300).unwrap().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn pieces_add_up_for_any_tokens(ids in proptest::collection::vec(0u32..1024, 0..40)) {
        let tokenizer = load_once();
        prop_assert_eq!(pieces(tokenizer, &ids).concat(), tokenizer.decode(&ids).unwrap());
    }

    #[test]
    fn pieces_add_up_for_any_bytes(text in "\\PC{0,20}", cut in 0usize..8) {
        let tokenizer = load_once();
        let ids = tokenizer.encode(&text).unwrap();
        let ids = &ids[cut.min(ids.len())..];
        prop_assert_eq!(pieces(tokenizer, ids).concat(), tokenizer.decode(ids).unwrap());
    }

    #[test]
    fn pieces_add_up_with_byte_fallback(
        ids in proptest::collection::vec(prop_oneof![0u32..5, 231u32..235, 133u32..140, 0u32..261], 0..30)
    ) {
        let tokenizer = byte_fallback();
        prop_assert_eq!(pieces(&tokenizer, &ids).concat(), tokenizer.decode(&ids).unwrap());
    }

    #[test]
    fn any_text_survives(text in "\\PC{0,60}") {
        let tokenizer = load_once();
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), text);
    }
}

fn load_once() -> &'static Tokenizer {
    static TOKENIZER: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    TOKENIZER.get_or_init(load)
}

#[test]
fn a_folder_without_tokenizer() {
    assert!(Tokenizer::load(&fixture("llama-gqa"), 512).unwrap().is_none());
}

#[test]
fn files_that_are_wrong() {
    let good = json(&shakespeare().join("tokenizer.json"));
    let refused = |file: &str, vocab_size: usize| {
        let folder = temporary(&[("tokenizer.json", file.as_bytes())]);
        message(&Tokenizer::load(folder.path(), vocab_size).unwrap_err(), folder.path())
    };
    assert_eq!(
        refused(&good.to_string(), 1000),
        "`tokenizer.json` cannot be used: token `cl` has id `1023`, it must be below the model's vocabulary size 1000"
    );
    // What follows is the tokenizers crate's own sentence.
    assert!(refused("{}", 1024).starts_with("`tokenizer.json` cannot be used: "));
    let cut = good.to_string();
    assert!(refused(&cut[..5000], 1024).starts_with("`tokenizer.json` cannot be used: EOF while parsing"));
    let mut random = good.clone();
    random["model"]["dropout"] = json!(0.5);
    assert_eq!(
        refused(&random.to_string(), 1024),
        "`tokenizer.json` cannot be used: `model.dropout` is `0.5`, it must be `null`: encoding must not be random"
    );
    let mut unknown_merge = good.clone();
    unknown_merge["model"]["merges"] = json!([["nothing", "known"]]);
    assert!(refused(&unknown_merge.to_string(), 1024).starts_with("`tokenizer.json` cannot be used: "));
}

#[test]
fn truncation_and_padding_of_the_file_are_left_out() {
    let mut file = json(&shakespeare().join("tokenizer.json"));
    file["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 2, "pad_type_id": 0, "pad_token": "<|pad|>"});
    let folder = temporary(&[("tokenizer.json", file.to_string().as_bytes())]);
    let tokenizer = Tokenizer::load(folder.path(), 1024).unwrap().unwrap();
    assert_eq!(tokenizer.encode("ROMEO:\n").unwrap(), [837, 28, 201]);
    assert_eq!(tokenizer.encode("To be, or not to be").unwrap(), [400, 307, 14, 530, 324, 289, 307]);
}

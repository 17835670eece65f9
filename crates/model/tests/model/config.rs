//! Both forms of config.json, and where end-of-sequence tokens come from.

use gridpoint_model::{ModelConfig, RopeScaling};
use serde_json::json;

use crate::folder::{edited_config, fixture, shakespeare, temporary};

#[test]
fn form_of_transformers_5() {
    let config = ModelConfig::load(&fixture("llama-gqa")).unwrap();
    assert_eq!(
        (config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.vocab_size),
        (128, 384, 2, 512)
    );
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (4, 2, 64));
    assert_eq!((config.query_size(), config.kv_size(), config.qkv_size(), config.group_size()), (256, 128, 512, 2));
    assert_eq!(config.kv_bytes_per_token(), 2 * 2 * 128 * 2);
    assert_eq!((config.rope.theta, config.rope.scaling), (10_000.0, RopeScaling::Default));
    assert_eq!((config.rms_norm_eps, config.max_position_embeddings), (1e-5, 4096));
    assert!(!config.tie_word_embeddings && !config.attention_bias);
    assert_eq!((config.eos_token_ids, config.bos_token_id), (vec![2], Some(1)));
}

#[test]
fn llama3_scaling() {
    let config = ModelConfig::load(&fixture("llama3-rope-scaling")).unwrap();
    assert!(config.tie_word_embeddings);
    assert_eq!((config.num_attention_heads, config.num_key_value_heads), (2, 1));
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_positions: 64.0,
    };
    assert_eq!((config.rope.theta, config.rope.scaling), (500_000.0, expected));
}

#[test]
fn form_of_most_published_checkpoints() {
    let config = ModelConfig::load(&shakespeare()).unwrap();
    assert_eq!((config.rope.theta, config.rope.scaling), (10_000.0, RopeScaling::Default));
    assert_eq!((config.vocab_size, config.max_position_embeddings, config.eos_token_ids), (1024, 2048, vec![1]));
}

#[test]
fn old_and_new_scaling_are_the_same() {
    let old = json!({"rope_parameters": null, "rope_theta": 500_000,
        "rope_scaling": {"type": "linear", "factor": 2}});
    let new = json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500_000.0}});
    let (old, new) = (ModelConfig::from_json(&edited_config(&old)), ModelConfig::from_json(&edited_config(&new)));
    assert_eq!(old.as_ref().unwrap(), new.as_ref().unwrap());
    assert_eq!(old.unwrap().rope.scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn defaults_of_absent_fields() {
    let text = edited_config(&json!({"head_dim": null, "num_key_value_heads": null, "num_attention_heads": 2,
        "rms_norm_eps": null, "max_position_embeddings": null, "tie_word_embeddings": null, "attention_bias": null,
        "rope_parameters": null, "hidden_act": null, "dtype": null, "eos_token_id": null, "bos_token_id": null,
        "mlp_bias": null, "architectures": null}));
    let config = ModelConfig::from_json(&text).unwrap();
    assert_eq!((config.head_dim, config.num_key_value_heads), (64, 2));
    assert_eq!((config.rms_norm_eps, config.max_position_embeddings, config.rope.theta), (1e-6, 2048, 10_000.0));
    assert_eq!((config.eos_token_ids, config.bos_token_id), (vec![], None));
}

#[test]
fn generation_config_decides_the_end_of_sequence() {
    let config = edited_config(&json!({"eos_token_id": [3, 4]}));
    let load = |generation: Option<&str>| {
        let mut files = vec![("config.json", config.as_bytes())];
        files.extend(generation.map(|text| ("generation_config.json", text.as_bytes())));
        ModelConfig::load(temporary(&files).path()).unwrap().eos_token_ids
    };
    assert_eq!(load(None), [3, 4]);
    assert_eq!(load(Some("{}")), [3, 4]);
    assert_eq!(load(Some(r#"{"eos_token_id": null}"#)), [3, 4]);
    assert_eq!(load(Some(r#"{"eos_token_id": 9}"#)), [9]);
    assert_eq!(load(Some(r#"{"eos_token_id": [5, 6, 7]}"#)), [5, 6, 7]);
}

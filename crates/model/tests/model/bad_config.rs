//! config.json and generation_config.json that cannot be used: the whole message of each.

use gridpoint_model::ModelConfig;
use serde_json::{Value, json};

use crate::folder::{edited_config, message, temporary};

fn refused(edits: &Value) -> String {
    let config = edited_config(edits);
    let folder = temporary(&[("config.json", config.as_bytes())]);
    match ModelConfig::load(folder.path()) {
        Ok(config) => panic!("{edits} was accepted: {config:?}"),
        Err(error) => message(&error, folder.path()),
    }
}

/// Asserts the message of `llama-gqa`'s config.json with these fields replaced.
fn check(edits: Value, expected: &str) {
    assert_eq!(refused(&edits), format!("`config.json`: {expected}"), "for {edits}");
}

#[test]
fn sizes() {
    let layers = "it must be an integer from 1 to 1024";
    check(json!({"num_hidden_layers": 0}), &format!("`num_hidden_layers` is `0`, {layers}"));
    check(json!({"num_hidden_layers": -1}), &format!("`num_hidden_layers` is `-1`, {layers}"));
    check(json!({"num_hidden_layers": 2.5}), &format!("`num_hidden_layers` is `2.5`, {layers}"));
    check(json!({"num_hidden_layers": "2"}), &format!("`num_hidden_layers` is `\"2\"`, {layers}"));
    check(json!({"num_hidden_layers": null}), &format!("`num_hidden_layers` is missing, {layers}"));
    check(json!({"num_attention_heads": 0}), "`num_attention_heads` is `0`, it must be an integer from 1 to 1024");
    check(json!({"num_key_value_heads": 0}), "`num_key_value_heads` is `0`, it must be an integer from 1 to 1024");
    let row = "it must be an integer from 8 to 65536";
    check(json!({"hidden_size": 4_000_000_000_000_u64}), &format!("`hidden_size` is `4000000000000`, {row}"));
    check(json!({"hidden_size": [128]}), &format!("`hidden_size` is `[128]`, {row}"));
    check(json!({"hidden_size": 132}), "`hidden_size` is `132`, it must be a multiple of 8 up to 65536");
    check(json!({"intermediate_size": 345}), "`intermediate_size` is `345`, it must be a multiple of 8 up to 1048576");
    check(
        json!({"intermediate_size": 1_000_000_000_000_u64}),
        "`intermediate_size` is `1000000000000`, it must be an integer from 8 to 1048576",
    );
    check(
        json!({"vocab_size": 1_u64 << 40}),
        "`vocab_size` is `1099511627776`, it must be an integer from 1 to 4194304",
    );
    check(
        json!({"max_position_embeddings": 0}),
        "`max_position_embeddings` is `0`, it must be an integer from 1 to 16777216",
    );
}

#[test]
fn heads() {
    check(
        json!({"num_key_value_heads": 3}),
        "`num_key_value_heads` is `3`, it must be a divisor of `num_attention_heads` (4)",
    );
    check(
        json!({"num_key_value_heads": 8}),
        "`num_key_value_heads` is `8`, it must be a divisor of `num_attention_heads` (4)",
    );
    check(
        json!({"num_attention_heads": 34, "num_key_value_heads": 2}),
        "`num_key_value_heads` is `2`, it must be at least `num_attention_heads` (34) / 16, so that at most 16 query \
         heads share a key-value head",
    );
    check(json!({"head_dim": 80}), "`head_dim` is `80`, which is not supported: supported is 64, 96, 128 and 256");
    check(
        json!({"head_dim": null}),
        "`head_dim` is `hidden_size / num_attention_heads = 32`, which is not supported: supported is 64, 96, 128 and 256",
    );
    check(
        json!({"head_dim": null, "num_attention_heads": 6}),
        "`num_attention_heads` is `6`, it must be a divisor of `hidden_size` (128), or `head_dim` must be given",
    );
}

#[test]
fn numbers() {
    let eps = "it must be a number from 1e-30 to 1.0";
    check(json!({"rms_norm_eps": 0}), &format!("`rms_norm_eps` is `0`, {eps}"));
    check(json!({"rms_norm_eps": -1e-5}), &format!("`rms_norm_eps` is `-0.00001`, {eps}"));
    check(json!({"rms_norm_eps": "1e-5"}), &format!("`rms_norm_eps` is `\"1e-5\"`, {eps}"));
    let theta = "it must be a number from 1.0 to 1000000000000.0";
    check(json!({"rope_parameters": null, "rope_theta": 0}), &format!("`rope_theta` is `0`, {theta}"));
    check(json!({"rope_parameters": null, "rope_theta": -10000.0}), &format!("`rope_theta` is `-10000.0`, {theta}"));
    check(
        json!({"rope_parameters": {"rope_theta": 1e300}}),
        &format!("`rope_parameters.rope_theta` is `1e+300`, {theta}"),
    );
    check(
        json!({"rope_theta": 5000.0}),
        "`rope_theta` is `5000`, it must be equal to that of `rope_parameters` (10000) or absent",
    );
}

#[test]
fn rope() {
    let scaled = |scaling: Value| json!({"rope_parameters": null, "rope_theta": 10000.0, "rope_scaling": scaling});
    let factor = "it must be a number from 0.001 to 1000000.0";
    check(scaled(json!({"type": "linear", "factor": 0})), &format!("`rope_scaling.factor` is `0`, {factor}"));
    check(scaled(json!({"type": "linear", "factor": -2.0})), &format!("`rope_scaling.factor` is `-2.0`, {factor}"));
    check(scaled(json!({"rope_type": "linear"})), &format!("`rope_scaling.factor` is missing, {factor}"));
    check(scaled(json!(2.0)), "`rope_scaling` is `2.0`, it must be an object");
    check(
        scaled(json!({"rope_type": "yarn", "factor": 4.0})),
        "`rope_scaling.rope_type` is `yarn`, which is not supported: supported is default, linear and llama3",
    );
    check(
        scaled(json!({"type": "dynamic", "factor": 4.0})),
        "`rope_scaling.type` is `dynamic`, which is not supported: supported is default, linear and llama3",
    );
    let llama3 = |low: f64, high: f64, original: Value| {
        scaled(json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original}))
    };
    check(
        llama3(4.0, 4.0, json!(8192)),
        "`rope_scaling.high_freq_factor` is `4`, it must be above `low_freq_factor` (4)",
    );
    check(
        llama3(4.0, 1.0, json!(8192)),
        "`rope_scaling.high_freq_factor` is `1`, it must be above `low_freq_factor` (4)",
    );
    check(
        llama3(1.0, 4.0, json!(0)),
        "`rope_scaling.original_max_position_embeddings` is `0`, it must be an integer from 1 to 16777216",
    );
    check(
        llama3(1.0, 4.0, Value::Null),
        "`rope_scaling.original_max_position_embeddings` is missing, it must be an integer from 1 to 16777216",
    );
    check(
        json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
        "`rope_parameters.full_attention` is `{\"rope_type\":\"default\"}`, which is not supported: supported is one \
         set of parameters for all layers",
    );
    check(
        json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        "`rope_scaling` is `{\"factor\":2.0,\"rope_type\":\"linear\"}`, it must be equal to `rope_parameters` or absent",
    );
    check(
        json!({"partial_rotary_factor": 0.5}),
        "`partial_rotary_factor` is `0.5`, which is not supported: supported is 1",
    );
}

#[test]
fn kinds() {
    check(
        json!({"architectures": ["MistralForCausalLM"]}),
        "`architectures` is `[\"MistralForCausalLM\"]`, which is not supported: supported is LlamaForCausalLM",
    );
    check(
        json!({"architectures": null, "model_type": null}),
        "`architectures` is missing, it must be a list with one of LlamaForCausalLM",
    );
    check(
        json!({"architectures": "LlamaForCausalLM"}),
        "`architectures` is `\"LlamaForCausalLM\"`, it must be a list of names such as `LlamaForCausalLM`",
    );
    check(json!({"model_type": "qwen2"}), "`model_type` is `qwen2`, which is not supported: supported is llama");
    check(json!({"hidden_act": "gelu"}), "`hidden_act` is `gelu`, which is not supported: supported is silu");
    check(json!({"mlp_bias": true}), "`mlp_bias` is `true`, which is not supported: supported is false");
    check(json!({"mlp_bias": 1}), "`mlp_bias` is `1`, it must be `true` or `false`");
    check(json!({"dtype": "float8"}), "`dtype` is `float8`, which is not supported: supported is bfloat16 and float16");
    check(
        json!({"torch_dtype": "float32"}),
        "`torch_dtype` is `float32`, which is not supported: supported is bfloat16 and float16",
    );
    check(
        json!({"quantization_config": {"bits": 4}}),
        "`quantization_config` is `{\"bits\":4}`, which is not supported: supported is bfloat16 weights",
    );
    check(
        json!({"eos_token_id": 512}),
        "`eos_token_id` is `512`, it must be a token id below `vocab_size` (512) or a list of such ids",
    );
    check(
        json!({"eos_token_id": [2, -1]}),
        "`eos_token_id` is `[2,-1]`, it must be a token id below `vocab_size` (512) or a list of such ids",
    );
    check(
        json!({"bos_token_id": "a"}),
        "`bos_token_id` is `\"a\"`, it must be a token id below `vocab_size` (512) or a list of such ids",
    );
}

#[test]
fn files() {
    let load = |files: &[(&str, &[u8])]| {
        let folder = temporary(files);
        message(&ModelConfig::load(folder.path()).unwrap_err(), folder.path())
    };
    assert_eq!(load(&[]), "`config.json` does not exist, expected the `config.json` of a Hugging Face model folder");
    assert_eq!(
        load(&[("config.json", b"")]),
        "`config.json` is not a JSON object: EOF while parsing a value at line 1 column 0"
    );
    assert_eq!(load(&[("config.json", b"[1]")]), "`config.json` is not a JSON object: it is `[1]`");
    assert_eq!(
        load(&[("config.json", b"{\"rope_theta\": NaN}")]),
        "`config.json` is not a JSON object: expected value at line 1 column 16"
    );
    assert_eq!(
        load(&[("config.json", b"{\"rope_theta\": 1e999}")]),
        "`config.json` is not a JSON object: number out of range at line 1 column 20"
    );
    let deep = "[".repeat(100_000);
    assert_eq!(
        load(&[("config.json", format!("{{\"a\":{deep}").as_bytes())]),
        "`config.json` is not a JSON object: recursion limit exceeded at line 1 column 132"
    );
    let good = edited_config(&json!({}));
    assert_eq!(
        load(&[("config.json", good.as_bytes()), ("generation_config.json", b"{\"eos_token_id\": 1000000}")]),
        "`generation_config.json`: `eos_token_id` is `1000000`, it must be a token id below `vocab_size` (512) or a \
         list of such ids"
    );
    let folder = temporary(&[]);
    std::fs::create_dir(folder.path().join("config.json")).unwrap();
    assert_eq!(
        message(&ModelConfig::load(folder.path()).unwrap_err(), folder.path()),
        "`config.json` is a folder, expected the `config.json` of a Hugging Face model folder"
    );
}

#[test]
fn values_are_shortened_and_kept_on_one_line() {
    let message = refused(&json!({"hidden_act": format!("a\nb{}", "x".repeat(10_000))}));
    assert!(message.contains("`a\\nbxxx") && message.contains('…') && message.len() < 250, "{message}");
}

//! Model folders that are damaged, hostile or of another kind: one sentence that names the file, and no panic.

use std::fs;

use serde_json::{Value, json};

use crate::program::{Copy, GQA, Ran, SHAKESPEARE, generate, refuses};

fn generate_on(model: &Copy) -> Ran {
    let prompt = if model.file("tokenizer.json").exists() { ["--prompt", "x"] } else { ["--prompt-ids", "1"] };
    generate(model.path(), &[&prompt[..], &["--max-new-tokens", "1"]].concat())
}

/// Asserts what is said of a model folder: this line, behind the path of `file`.
fn says(model: &Copy, file: &str, rest: &str) {
    refuses(&generate_on(model), 1, &format!("`{}`{rest}", model.file(file).display()));
}

#[test]
fn values_of_the_configuration_are_checked() {
    let range = |most: u64| format!("it must be an integer from 1 to {most}");
    let cases: [(&str, Value, String); 17] = [
        ("num_hidden_layers", json!(0), format!("`0`, {}", range(1024))),
        ("num_attention_heads", json!(0), format!("`0`, {}", range(1024))),
        ("num_key_value_heads", json!(3), "`3`, it must be a divisor of `num_attention_heads` (4)".to_owned()),
        (
            "hidden_size",
            json!(1_000_000_000_000_u64),
            "`1000000000000`, it must be an integer from 8 to 65536".to_owned(),
        ),
        ("vocab_size", json!("512"), format!("`\"512\"`, {}", range(4_194_304))),
        ("max_position_embeddings", json!(1_000_000_000_000_u64), format!("`1000000000000`, {}", range(16_777_216))),
        ("intermediate_size", json!(-8), "`-8`, it must be an integer from 8 to 1048576".to_owned()),
        ("head_dim", json!(80), "`80`, which is not supported: supported is 64, 96, 128 and 256".to_owned()),
        ("rope_theta", json!(0), "`0`, it must be a number from 1.0 to 1000000000000.0".to_owned()),
        ("rope_theta", json!(-1.5), "`-1.5`, it must be a number from 1.0 to 1000000000000.0".to_owned()),
        ("rms_norm_eps", json!(0), "`0`, it must be a number from 1e-30 to 1.0".to_owned()),
        ("tie_word_embeddings", json!("no"), "`\"no\"`, it must be `true` or `false`".to_owned()),
        (
            "eos_token_id",
            json!(512),
            "`512`, it must be a token id below `vocab_size` (512) or a list of such ids".to_owned(),
        ),
        (
            "architectures",
            json!(["Qwen2ForCausalLM"]),
            "`[\"Qwen2ForCausalLM\"]`, which is not supported: supported is LlamaForCausalLM".to_owned(),
        ),
        ("model_type", json!("mistral"), "`mistral`, which is not supported: supported is llama".to_owned()),
        ("dtype", json!("float32"), "`float32`, which is not supported: supported is bfloat16 and float16".to_owned()),
        ("hidden_act", json!("gelu"), "`gelu`, which is not supported: supported is silu".to_owned()),
    ];
    for (field, value, rest) in cases {
        let model = Copy::of(GQA);
        model.set("config.json", field, &value);
        says(&model, "config.json", &format!(": `{field}` is {rest}"));
    }
}

#[test]
fn a_configuration_that_contradicts_the_tensors_is_named() {
    let model = Copy::of(GQA);
    model.set("config.json", "num_key_value_heads", &json!(1));
    says(
        &model,
        "model.safetensors",
        ": tensor `model.layers.0.self_attn.k_proj.weight` has shape [128, 128], `config.json` calls for [64, 128] \
         (`num_key_value_heads` x `head_dim`, `hidden_size`)",
    );
    model.set("config.json", "num_key_value_heads", &json!(2));
    model.set("config.json", "num_hidden_layers", &json!(1));
    says(
        &model,
        "model.safetensors",
        ": tensor `model.layers.1.input_layernorm.weight` contradicts `num_hidden_layers` = `1` of `config.json`, which must be \
         above 1",
    );
}

#[test]
fn files_that_are_not_there_or_not_json_are_named() {
    let model = Copy::of(GQA);
    for (content, rest) in [
        (&b""[..], " is not a JSON object: EOF while parsing a value at line 1 column 0"),
        (b"[]", " is not a JSON object: it is `[]`"),
        (&b"[".repeat(100_000), " is not a JSON object: recursion limit exceeded at line 1 column 128"),
    ] {
        model.write("config.json", content);
        says(&model, "config.json", rest);
    }
    fs::remove_file(model.file("config.json")).expect("removed");
    says(&model, "config.json", " does not exist, expected the `config.json` of a Hugging Face model folder");

    let model = Copy::of(GQA);
    fs::remove_file(model.file("model.safetensors")).expect("removed");
    let line =
        format!("`{}` holds no weights, expected `model.safetensors` or `model.safetensors.index.json`", model.path());
    refuses(&generate_on(&model), 1, &line);
    model.write("model.safetensors.index.json", br#"{"weight_map":{"a":"../../x"}}"#);
    says(
        &model,
        "model.safetensors.index.json",
        ": `weight_map.a` is `../../x`, it must be the name of a `.safetensors` file beside the index",
    );
}

#[test]
fn damaged_weights_are_named() {
    let model = Copy::of(GQA);
    let whole = fs::read(model.file("model.safetensors")).expect("the weights");
    let invalid = |content: &[u8], reason: &str| {
        model.write("model.safetensors", content);
        says(&model, "model.safetensors", &format!(" is not a valid safetensors file: {reason}"));
    };
    invalid(&[], "it is `0` bytes long, it must have at least 8");
    invalid(&whole[..9], "its header length is `2208`, only 1 bytes follow: the file is truncated or damaged");
    invalid(
        &whole[..whole.len() - 1],
        "its header describes `1246464` bytes of tensors, 1246463 follow: the file is truncated or damaged",
    );
    let hostile = [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat();
    invalid(&hostile, "its header length is `18446744073709551615`, it must be at most 100000000");

    model.write("model.safetensors", &whole);
    let (header, tensors) = model.weights();
    let name = "model.norm.weight";
    let edited = |edit: fn(&mut Value)| {
        let mut header = header.clone();
        edit(&mut header[name]);
        model.write_weights(&header, &tensors);
    };
    edited(|tensor| tensor["shape"] = json!([1_u64 << 62, 1_u64 << 62]));
    says(
        &model,
        "model.safetensors",
        " is not a valid safetensors file: its header: overflow computing buffer size from shape and/or element type",
    );
    edited(|tensor| tensor["dtype"] = json!("F16"));
    says(
        &model,
        "model.safetensors",
        ": `dtype of model.norm.weight` is `F16`, which is not supported: supported is BF16, the type of \
         model.embed_tokens.weight",
    );
}

#[test]
fn tokenizers_that_are_none_are_named() {
    let model = Copy::of(SHAKESPEARE);
    let content = fs::read(model.file("tokenizer.json")).expect("the tokenizer");
    for (content, reason) in [
        (&b""[..], "EOF while parsing a value at line 1 column 0"),
        (&content[..content.len() / 2], ""),
        (b"[]", "invalid type: sequence, expected struct Tokenizer at line 1 column 2"),
    ] {
        model.write("tokenizer.json", content);
        let ran = generate_on(&model);
        let start = format!("error: `{}` cannot be used: {reason}", model.file("tokenizer.json").display());
        assert!(ran.stderr.starts_with(&start) && ran.stderr.lines().count() == 1, "{ran:?}");
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    }
    let mut tokenizer: Value = serde_json::from_slice(&content).expect("JSON");
    tokenizer["model"]["vocab"]["zz"] = json!(5000);
    model.write("tokenizer.json", tokenizer.to_string().as_bytes());
    says(
        &model,
        "tokenizer.json",
        " cannot be used: token `zz` has id `5000`, it must be below the model's vocabulary size 1024",
    );
}

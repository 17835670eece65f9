//! Checkpoints in float16: the program takes their type from the tensors and answers as it does for the same model in bfloat16.

use half::{bf16, f16};
use serde_json::{Value, json};

use crate::program::{Copy, GQA, Ran, SHAKESPEARE, generated, numbers, refuses};

/// A copy whose weights are cast, and whose configuration says so where it names a type.
fn in_float16(model: &str, dtype_field: &str) -> Copy {
    let copy = Copy::of(model);
    let (mut header, tensors) = copy.weights();
    let values = tensors.as_chunks().0.iter().map(|&pair| bf16::from_le_bytes(pair).to_f32());
    let cast: Vec<u8> = values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect();
    for (name, tensor) in header.as_object_mut().expect("a header") {
        if name != "__metadata__" {
            tensor["dtype"] = json!("F16");
        }
    }
    copy.write_weights(&header, &cast);
    copy.set("config.json", dtype_field, &json!("float16"));
    copy
}

fn tokens(answer: &Value) -> &Value {
    &answer["results"][0]["tokens"]
}

#[test]
fn generate_answers_in_float16() {
    let model = in_float16(SHAKESPEARE, "torch_dtype");
    let arguments = ["--prompt", "ROMEO:", "--max-new-tokens", "8", "--logprobs"];
    let [found, expected] = [model.path(), SHAKESPEARE].map(|model| generated(model, &arguments));
    assert_eq!(tokens(&found), tokens(&expected));
    let [one, other] = [&found, &expected].map(|answer| numbers(&answer["results"][0]["logprobs"]));
    assert_ne!(one, other, "float16 rounds otherwise");
    for (one, other) in one.iter().zip(&other) {
        assert!((one - other).abs() < 0.05, "{one} in float16, {other} in bfloat16");
    }
    assert_eq!(found["steps"]["eager"], 0);

    let model = in_float16(GQA, "dtype");
    let prompts = ["--prompt-ids", "331", "--prompt-ids", "5,6,7", "--max-new-tokens", "3", "--temperature", "0.8"];
    let together = generated(model.path(), &prompts);
    let alone = generated(model.path(), &[&prompts[2..], &["--eager"]].concat());
    assert_eq!(together["results"][1]["tokens"], *tokens(&alone), "alone and launched one by one");
}

#[test]
fn perplexity_of_float16_is_that_of_float32() {
    let model = in_float16(SHAKESPEARE, "torch_dtype");
    let text = std::fs::read_to_string("assets/shakespeare-3m/eval.txt").expect("the text").split_at(700).0.to_owned();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let mean = |model: &str| {
        let ran =
            Ran::new(&["perplexity", "--device", "simulator", "--format", "json", "--model", model, "--text", path]);
        assert_eq!(ran.status, Some(0), "{ran:?}");
        ran.json()["mean_nll"].as_f64().expect("a number")
    };
    let (found, expected) = (mean(model.path()), mean(SHAKESPEARE));
    assert!(found != expected && (found - expected).abs() < 0.02, "{found} in float16, {expected} in bfloat16");
}

#[test]
fn two_types_in_one_checkpoint_are_named() {
    let model = in_float16(GQA, "dtype");
    let (mut header, tensors) = model.weights();
    header["model.norm.weight"]["dtype"] = json!("BF16");
    model.write_weights(&header, &tensors);
    let ran = Ran::new(&["generate", "--device", "simulator", "--model", model.path(), "--prompt-ids", "1"]);
    let line = format!(
        "`{}`: `dtype of model.norm.weight` is `BF16`, which is not supported: supported is F16, the type of \
         model.embed_tokens.weight",
        model.file("model.safetensors").display()
    );
    refuses(&ran, 1, &line);
}

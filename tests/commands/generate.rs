//! `generate`: the shapes of its answers, and that what it says of one prompt does not depend on the others.

use std::fs::OpenOptions;
use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::program::{Copy, GQA, Ran, SHAKESPEARE, generate, generated, keys, numbers};

/// `generate` in text format, on the simulated device.
fn text(arguments: &[&str]) -> String {
    let ran = Ran::new(&[&["generate", "--device", "simulator"], arguments].concat());
    assert_eq!(ran.status, Some(0), "{ran:?}");
    ran.stdout
}

/// However graphs are captured, the tokens are the same; what memory was predicted for graphs is what they take; fewer points fit less memory.
#[test]
fn capture_changes_no_token_and_its_memory_is_told() {
    let prompt = ["--prompt-ids", "1,2,3", "--max-new-tokens", "3"];
    let run = |more: &[&str]| generated(GQA, &[&prompt[..], more].concat());
    let all = run(&[]);
    let memory = &all["memory"];
    assert_eq!(memory["graphs_predicted"], memory["graphs_measured"]);
    assert!(memory["graphs_predicted"].as_u64().is_some_and(|bytes| bytes > 0), "{memory}");
    assert_eq!(memory["dropped_points"], json!([]));
    let number = |field: &str| memory[field].as_u64().expect("a number");
    let others = ["weights", "workspace", "step_block", "kv_cache"].map(number).iter().sum::<u64>();
    let half = (others + number("graphs_predicted") / 2).to_string();
    for more in [
        &["--capture", "lazy"][..],
        &["--capture", "background"],
        &["--capture-threads", "2"],
        &["--memory-budget", &half],
    ] {
        let answer = run(more);
        assert_eq!(answer["results"], all["results"], "{more:?}");
        let steps = &answer["steps"];
        let waited = steps["eager_reasons"]["not_yet_captured"].as_u64().unwrap_or(0);
        assert_eq!(steps["eager"].as_u64(), Some(waited), "{more:?}: {steps}");
        assert!(waited == 0 || more[1] == "background", "{more:?}: {steps}");
        let dropped = answer["memory"]["dropped_points"].as_array().expect("a list").len();
        assert_eq!(dropped > 0, more[0] == "--memory-budget", "{more:?}: {answer}");
        let lazy = more == ["--capture", "lazy"];
        assert!(!lazy || answer["plan"]["graphs"].as_u64() < all["plan"]["graphs"].as_u64(), "{answer}");
    }
}

#[test]
fn the_answer_has_the_promised_fields() {
    let answer = generated(SHAKESPEARE, &["--prompt", "ROMEO:", "--prompt", "The king", "--max-new-tokens", "5"]);
    assert_eq!(
        keys(&answer),
        ["capture_seconds", "launches", "memory", "plan", "products", "results", "step_seconds", "steps"]
    );
    assert!(answer["capture_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{answer}");
    assert_eq!(answer["plan"]["graphs"], 60);
    assert!(answer["plan"]["distinct"].as_u64().is_some_and(|distinct| (1..=60).contains(&distinct)), "{answer}");
    let steps = &answer["steps"];
    assert_eq!([&steps["total"], &steps["replayed"], &steps["eager"]], [5, 5, 0]);
    assert_eq!((&steps["hit_rate"], &steps["eager_reasons"]), (&json!(1.0), &json!({})));
    let results = answer["results"].as_array().expect("a list");
    assert_eq!(results.len(), 2);
    for result in results {
        assert_eq!(keys(result), ["finish_reason", "prompt_ids", "text", "tokens"]);
        assert_eq!(result["finish_reason"], "length");
        assert_eq!(result["tokens"].as_array().map(Vec::len), Some(5));
    }
    // Nothing is added in front of the prompt.
    assert_eq!(results[0]["prompt_ids"], json!([837, 28]));
    assert_eq!(results[0]["text"], "\nI will be b");
}

#[test]
fn there_is_no_text_without_a_tokenizer() {
    let answer = generated(GQA, &["--prompt-ids", "1,2, 3", "--max-new-tokens", "2"]);
    assert_eq!(answer["results"][0]["prompt_ids"], json!([1, 2, 3]));
    assert_eq!(answer["results"][0]["text"], Value::Null);
    let ids: Vec<String> = numbers(&answer["results"][0]["tokens"]).iter().map(f64::to_string).collect();
    assert_eq!(text(&["--model", GQA, "--prompt-ids", "1,2,3", "--max-new-tokens", "2"]), ids.join(" ") + "\n");
}

#[test]
fn text_is_that_of_the_json_streamed_or_whole_and_in_order() {
    let prompts = ["--prompt", "Second Citizen:", "--prompt", "JULIET:", "--prompt", "Second Citizen:"];
    let tokens = ["--max-new-tokens", "8"];
    let answer = generated(SHAKESPEARE, &[&prompts[..], &tokens].concat());
    let texts: Vec<&str> = (0..3).filter_map(|index| answer["results"][index]["text"].as_str()).collect();
    assert_eq!(texts[0], texts[2], "the same prompt twice");
    assert_ne!(texts[0], texts[1]);
    assert_eq!(text(&[&prompts[..], &tokens].concat()), texts.join("\n\n") + "\n");
    assert_eq!(text(&[&prompts[2..4], &tokens].concat()), texts[1].to_owned() + "\n");
}

#[test]
fn the_token_that_ends_a_sequence_is_a_token_and_no_text() {
    let model = Copy::of(SHAKESPEARE);
    // The second token of the greedy continuation.
    for file in ["config.json", "generation_config.json"] {
        model.set(file, "eos_token_id", &json!(43));
    }
    let arguments = ["--prompt", "ROMEO:", "--max-new-tokens", "8"];
    let result = &generated(model.path(), &arguments)["results"][0];
    assert_eq!(result["tokens"], json!([201, 43]));
    assert_eq!((&result["text"], &result["finish_reason"]), (&json!("\n"), &json!("stop")));
    assert_eq!(text(&[&["--model", model.path()], &arguments[..]].concat()), "\n\n");
}

#[test]
fn logprobs_are_there_for_every_token_however_the_prompt_is_cut() {
    let arguments = ["--prompt-ids", "5,4,3,2,7,8,9,10,11,12,13,14", "--max-new-tokens", "3", "--logprobs"];
    let whole = generated(GQA, &arguments);
    // Steps of at most four tokens: the prompt takes three of them.
    let cut = generated(GQA, &[&arguments[..], &["--max-requests", "4"]].concat());
    assert_eq!(cut["steps"]["total"], 5);
    assert_eq!(whole["steps"]["total"], 3);
    let [whole, cut] = [&whole["results"][0], &cut["results"][0]];
    assert_eq!(keys(whole), ["finish_reason", "logprobs", "prompt_ids", "prompt_logprobs", "text", "tokens"]);
    assert_eq!(whole["tokens"], cut["tokens"]);
    for field in ["logprobs", "prompt_logprobs"] {
        let mut lists = [&whole[field], &cut[field]].map(|list| list.as_array().expect("a list").clone());
        if field == "prompt_logprobs" {
            assert_eq!(lists.each_ref().map(Vec::len), [12, 12]);
            assert_eq!(lists.each_mut().map(|list| list.remove(0)), [Value::Null, Value::Null]);
        } else {
            assert_eq!(lists.each_ref().map(Vec::len), [3, 3]);
        }
        let [whole, cut] = lists.map(|list| numbers(&Value::Array(list)));
        for (a, b) in whole.into_iter().zip(cut) {
            assert!(a <= 0.0 && (a - b).abs() < 0.02, "{a} {b}");
        }
    }
}

#[test]
fn a_prompt_is_scored_where_nothing_is_generated() {
    let result = &generated(GQA, &["--prompt-ids", "5,4,3", "--max-new-tokens", "0", "--logprobs"])["results"][0];
    assert_eq!((&result["tokens"], &result["logprobs"]), (&json!([]), &json!([])));
    assert_eq!(result["finish_reason"], "length");
    assert_eq!(result["prompt_logprobs"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_draw_depends_on_the_seed_and_not_on_the_batch() {
    let sampled = |seed: &str, prompts: &[&str]| {
        let fixed =
            ["--max-new-tokens", "6", "--temperature", "1.5", "--top-k", "100", "--top-p", "0.95", "--seed", seed];
        let prompts: Vec<&str> = prompts.iter().flat_map(|&prompt| ["--prompt-ids", prompt]).collect();
        let answer = generated(GQA, &[&fixed[..], &prompts].concat());
        (0..prompts.len() / 2).map(|index| answer["results"][index]["tokens"].clone()).collect::<Vec<Value>>()
    };
    let alone = sampled("7", &["1,2"]);
    assert_eq!(alone, sampled("7", &["1,2"]));
    assert_ne!(alone, sampled("8", &["1,2"]));
    let together = sampled("7", &["9,8,7", "1,2", "4", "1,2"]);
    assert_eq!([&together[1], &together[3]], [&alone[0]; 2]);
}

#[test]
fn eager_steps_and_a_plan_without_graphs_say_the_same() {
    let arguments = ["--prompt-ids", "1,2,3", "--max-new-tokens", "4"];
    let replayed = generated(GQA, &arguments);
    for (extra, plan) in [
        (&["--eager"][..], json!({"graphs": 0, "distinct": 0})),
        (&["--num-cuda-graphs", "none"], json!({"graphs": 0, "distinct": 0})),
    ] {
        let answer = generated(GQA, &[&arguments[..], extra].concat());
        assert_eq!(answer["results"], replayed["results"], "{extra:?}");
        let steps = &answer["steps"];
        assert_eq!([&steps["total"], &steps["replayed"], &steps["eager"]], [4, 0, 4], "{extra:?}");
        let reason = if extra == ["--eager"] { "switched_off" } else { "no_points" };
        assert_eq!(steps["eager_reasons"], json!({reason: 4}), "{extra:?}");
        assert_eq!(answer["plan"], plan, "{extra:?}");
    }
}

#[test]
fn launches_in_either_order_say_the_same() {
    let arguments = ["--prompt-ids", "1,2,3", "--max-new-tokens", "4"];
    let default = generated(GQA, &arguments);
    assert_eq!(default["launches"], "programmatic", "the simulated device has compute capability 9.0");
    for order in ["programmatic", "serial"] {
        for eager in [&[][..], &["--eager"]] {
            let answer = generated(GQA, &[&arguments[..], &["--launches", order], eager].concat());
            assert_eq!((&answer["launches"], &answer["results"]), (&json!(order), &default["results"]), "{eager:?}");
        }
    }
}

#[test]
fn portable_kernels_say_the_same() {
    let prompt = vec!["7"; 90].join(",");
    let arguments = ["--prompt-ids", &prompt, "--max-new-tokens", "4"];
    let [best, portable] = ["best", "portable"].map(|kernels| {
        let answer = generated(GQA, &[&arguments[..], &["--kernels", kernels]].concat());
        let taken = answer["products"].to_string();
        assert_eq!(taken.contains("hopper_"), kernels == "best", "{taken}");
        answer["results"].clone()
    });
    assert_eq!(best, portable);
}

#[test]
fn a_prompt_that_fails_leaves_the_others() {
    let good = generated(GQA, &["--prompt-ids", "1,2", "--max-new-tokens", "2"]);
    let prompts = ["--prompt-ids", "600", "--prompt-ids", "1,2", "--prompt-ids", ""];
    let ran = generate(GQA, &[&prompts[..], &["--max-new-tokens", "2"]].concat());
    assert_eq!(ran.status, Some(1));
    let words = [
        "prompt token `600` at position `0` is outside the vocabulary: it must be below `512`",
        "the prompt is empty: it must have at least 1 token",
    ];
    assert_eq!(ran.said()[..2], [format!("error: prompt 1: {}", words[0]), format!("error: prompt 3: {}", words[1])]);
    let results = &ran.json()["results"];
    assert_eq!(results[0], json!({"prompt_ids": [600], "error": words[0]}));
    assert_eq!(results[1], good["results"][0]);
    assert_eq!(results[2], json!({"prompt_ids": [], "error": words[1]}));
}

#[test]
fn logits_that_are_nan_fail_the_request_and_nothing_else() {
    let model = Copy::of(GQA);
    let (header, tensors) = model.weights();
    model.write_weights(&header, &vec![0xFF; tensors.len()]);
    for new_tokens in ["2", "0"] {
        let arguments = ["--prompt-ids", "1,2", "--prompt-ids", "3,4,5", "--logprobs", "--max-new-tokens", new_tokens];
        let ran = generate(model.path(), &arguments);
        assert_eq!(ran.status, Some(1));
        let error = |tokens| {
            let reason = "the checkpoint or the activations are out of range";
            json!(format!("the model's logits after `{tokens}` tokens are NaN: {reason}"))
        };
        assert_eq!(
            ran.json()["results"],
            json!([{"prompt_ids": [1, 2], "error": error(2)}, {"prompt_ids": [3, 4, 5], "error": error(3)}])
        );
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let arguments =
        ["generate", "--device", "simulator", "--model", GQA, "--prompt-ids", "1", "--max-new-tokens", "40"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_gridpoint"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // One byte of the stream, and the pipe is closed.
    child.stdout.take().expect("a pipe").read_exact(&mut [0]).expect("a token");
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(0));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("error"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_log_that_nobody_takes_does_not_stop_the_run() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("a full device");
    let arguments = ["generate", "--device", "simulator", "--model", GQA, "--prompt-ids", "1", "--max-new-tokens", "1"];
    let ran = Ran::with_stderr(&arguments, full.into());
    assert_eq!((ran.status, ran.stdout.lines().count()), (Some(0), 1), "{ran:?}");
}

#[test]
fn recorded_steps_are_what_a_plan_is_fitted_to() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("steps.json");
    let path = file.to_str().expect("a path of plain letters");
    let answer = Ran::new(&[
        "generate",
        "--device",
        "simulator",
        "--model",
        GQA,
        "--prompt-ids",
        "1,2,3",
        "--prompt-ids",
        "4",
        "--max-new-tokens",
        "5",
        "--format",
        "json",
        "--record-steps",
        path,
    ])
    .json();
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("the file")).expect("JSON");
    let counts = recorded["steps"].as_array().expect("a list");
    let total: u64 = counts.iter().map(|step| step[3].as_u64().expect("a count")).sum();
    assert_eq!(Value::from(total), answer["steps"]["total"], "{recorded}");
    assert_eq!(counts[0], serde_json::json!([2, 0, 2, 4]), "{recorded}");
    let plan = Ran::new(&[
        "plan",
        "--steps",
        path,
        "--sizing",
        "fit:20",
        "--max-requests",
        "4",
        "--max-tokens",
        "64",
        "--format",
        "json",
    ]);
    assert_eq!(plan.status, Some(0), "{}", plan.stderr);
}

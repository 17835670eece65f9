//! `devices`, and devices that are not there.

use crate::program::{GQA, Ran, keys, refuses};

/// Whether this machine has a driver library, as the program found it.
fn driver_is_there() -> bool {
    Ran::new(&["devices", "--format", "json"]).json()["driver"]["found"] == true
}

#[test]
fn the_answer_has_the_promised_fields() {
    let ran = Ran::new(&["devices", "--format", "json"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let answer = ran.json();
    assert_eq!(keys(&answer), ["auto", "driver", "gpus", "kernels", "simulator"]);
    assert_eq!(keys(&answer["kernels"]), ["architectures", "nvcc"]);
    assert_eq!(answer["kernels"]["nvcc"].is_null(), answer["kernels"]["architectures"] == serde_json::json!([]));
    assert!(answer["simulator"]["kernel_modules"].as_u64().is_some_and(|modules| modules > 0), "{answer}");
    assert_eq!(keys(&answer["auto"]), ["device", "reason"]);
    if answer["gpus"] == serde_json::json!([]) {
        assert_eq!(answer["auto"]["device"], "simulator");
    }
    if answer["driver"]["found"] == false {
        assert_eq!(keys(&answer["driver"]), ["found", "library", "reason"]);
        assert_eq!(answer["auto"]["reason"], "the driver library `libcuda.so.1` was not found");
    }
}

#[test]
fn the_text_says_the_same() {
    let text = Ran::new(&["devices"]).stdout;
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"driver"), Some(&"auto")), "{text}");
    if !driver_is_there() {
        assert!(
            text.ends_with("auto       takes simulator: the driver library `libcuda.so.1` was not found\n"),
            "{text}"
        );
    }
}

#[test]
fn a_gpu_that_is_not_there_is_a_failure_that_says_what_was_looked_for() {
    if driver_is_there() {
        return;
    }
    let line = "no CUDA device: looked for the driver library `libcuda.so.1` and did not find it; `--device simulator` runs \
                without one";
    let generate = ["generate", "--device", "cuda", "--format", "json", "--model", GQA, "--prompt-ids", "1"];
    refuses(&Ran::new(&generate), 1, line);
    refuses(&Ran::new(&["perplexity", "--device", "cuda", "--text", "assets/shakespeare-3m/eval.txt"]), 1, line);
}

//! `capture`: what is printed of a plan's capture, and what is refused.

use serde_json::json;

use crate::program::{Ran, keys, refuses};

fn capture(arguments: &[&str]) -> Ran {
    Ran::new(&[&["capture", "--device", "simulator"], arguments].concat())
}

#[test]
fn a_plan_is_captured_on_each_number_of_threads() {
    let ran = capture(&["--shape", "tiny", "--threads", "1,3", "--repeats", "2", "--format", "json"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let answer = ran.json();
    let names = [
        "captures",
        "device",
        "graph_bytes",
        "layers",
        "measured_bytes",
        "model",
        "node_bytes",
        "predicted_bytes",
        "simulated",
    ];
    assert_eq!(keys(&answer), names);
    assert_eq!((&answer["model"], &answer["simulated"]), (&json!("tiny"), &json!(true)));
    assert_eq!(answer["predicted_bytes"], answer["measured_bytes"]);
    let captures = answer["captures"].as_array().expect("a list");
    assert_eq!(captures.iter().map(|one| one["threads"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(3)]);
    for one in captures {
        assert_eq!(one["graphs"], 60, "{one}");
        let number = |name: &str| one[name].as_f64().expect("a number");
        assert!(number("distinct") < 60.0 && number("nodes") > number("distinct"), "{one}");
        assert!(number("total_ms") >= number("record_ms") && number("instantiate_ms") > 0.0, "{one}");
    }
}

#[test]
fn a_person_reads_a_table_under_a_warning() {
    let ran = capture(&["--shape", "tiny", "--threads", "1", "--repeats", "1"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stdout.starts_with("SIMULATED DEVICE: "), "{}", ran.stdout);
    assert!(ran.stdout.contains("60 graphs, "), "{}", ran.stdout);
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 120), "{}", ran.stdout);
}

#[test]
fn what_cannot_be_captured_is_refused_in_a_sentence() {
    let none = capture(&["--shape", "tiny", "--num-cuda-graphs", "none"]);
    refuses(&none, 2, "the plan has no graphs: there is nothing to capture");
    let threads = capture(&["--threads", "0"]);
    let words = "invalid value '0' for '--threads <N,N>': it must be a whole number from 1 to 4294967295";
    refuses(&threads, 2, words);
}

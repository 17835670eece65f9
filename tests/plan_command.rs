//! `gridpoint plan` and `gridpoint explain` as a user meets them: what is on stdout, on stderr, and the exit status.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn gridpoint(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gridpoint")).args(arguments).output().expect("the program starts")
}

/// The stdout of a run that succeeds and has nothing to say on stderr.
fn stdout(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = gridpoint(arguments);
    assert_eq!(status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    assert!(stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

/// The stderr of a run that fails with this status and leaves stdout empty.
fn failure(arguments: &[&str], status: i32) -> String {
    let output = gridpoint(arguments);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    stderr
}

fn plan(arguments: &[&str]) -> Value {
    let text = stdout(&[&["plan", "--format", "json"], arguments].concat());
    serde_json::from_str(&text).expect("one JSON object")
}

fn points(plan: &Value) -> &[Value] {
    plan["points"].as_array().expect("points")
}

/// A file that lives as long as the value.
fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), content).expect("written");
    file
}

fn explain(plan: &str, arguments: &[&str]) -> Vec<Value> {
    let file = file(plan.as_bytes());
    let path = file.path().to_str().expect("a path");
    let text = stdout(&[&["explain", "--plan", path], arguments].concat());
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

#[test]
fn sixty_graphs_instead_of_123() {
    let exponential = plan(&["--max-requests", "396"]);
    assert_eq!(points(&exponential).len(), 60);
    assert_eq!(exponential["token_counts"], json!([396, 198, 98, 48, 24, 12, 6, 2, 1]));
    assert_eq!(points(&exponential)[0], json!({"tokens": 396, "prefills": 396, "decodes": 0}));
    assert_eq!(points(&exponential)[43], json!({"tokens": 396, "prefills": 1, "decodes": 395}));
    assert_eq!(points(&plan(&["--sizing", "linear"])).len(), 123);
}

#[test]
fn every_flag_reaches_the_planner() {
    let count = |arguments: &[&str]| points(&plan(arguments)).len();
    assert_eq!(count(&["--decode-only"]), 9);
    assert_eq!(count(&["--decode-only", "--sizing", "linear"]), 44);
    assert_eq!(count(&["--mixed-prefill-count", "0"]), 9);
    assert_eq!(count(&["--mixed-prefill-count", "-3"]), 9);
    assert_eq!(count(&["--all-prefills"]), 110);
    assert_eq!(count(&["--all-prefills", "--max-seq-len", "2048"]), 107);
    assert_eq!(count(&["--graph-max-tokens", "512"]), 63);
    assert_eq!(count(&["--graph-max-tokens", "-1"]), 110);
    assert_eq!(count(&["--all-prefills", "--graph-max-tokens", "512"]), 63);
    assert_eq!(count(&["--num-cuda-graphs", "4"]), 31);
    assert_eq!(count(&["--num-cuda-graphs", "-7"]), 11);
    assert_eq!(count(&["--num-cuda-graphs", "-1"]), 60);
    assert_eq!(count(&["--num-cuda-graphs", "1", "--sizing", "linear"]), 3);
    let aligned = plan(&["--batch-invariant"]);
    assert!(points(&aligned).iter().all(|point| point["tokens"].as_u64().is_some_and(|tokens| tokens % 64 == 0)));
    let parallel = plan(&["--tp", "4", "--speculative-tokens", "2", "--max-requests", "64"]);
    assert_eq!(parallel["token_counts"][0], 192);
    assert!(points(&parallel).iter().all(|point| point["tokens"].as_u64().is_some_and(|tokens| tokens % 4 == 0)));
}

#[test]
fn laws_and_axes_reach_the_planner() {
    let count = |arguments: &[&str]| points(&plan(arguments)).len();
    let batches = |arguments: &[&str]| {
        let plan = plan(arguments);
        let decode_only = points(&plan).iter().filter(|point| point["prefills"] == 0);
        decode_only.map(|point| point["decodes"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    let small = ["--max-requests", "16"];
    assert_eq!(batches(&[&small[..], &["--sizing", "geometric:2"]].concat()), [16, 8, 4, 2, 1]);
    // Either ratio is its phase's alone; the other is 2, or that of the sizing.
    assert_eq!(batches(&[&small[..], &["--prefill-ratio", "1.1"]].concat()), [16, 8, 4, 2, 1]);
    assert_eq!(batches(&[&small[..], &["--sizing", "geometric:3", "--prefill-ratio", "2"]].concat()), [16, 6, 2, 1]);
    assert_eq!(
        plan(&["--sizing", "geometric", "--decode-ratio", "1.25", "--prefill-ratio", "2"]),
        plan(&["--sizing", "geometric:1.25/2"])
    );
    assert_eq!(batches(&[&small[..], &["--sizing", "list:1,3,16/16"]].concat()), [16, 3, 1]);
    assert_eq!(batches(&["--sizing", "hybrid", "--decode-only"]), batches(&["--sizing", "linear", "--decode-only"]));
    assert_eq!(count(&["--preset", "megatron"]), 60);
    assert_eq!(batches(&["--preset", "vllm", "--max-requests", "256"]).len(), 35);
    assert_eq!(batches(&["--preset", "sglang", "--max-requests", "256"]).len(), 36);
    assert_eq!(count(&["--preset", "tensorrt-llm", "--max-requests", "128"]), 19);
    assert_eq!(count(&["--preset", "vllm", "--decode-only"]), 44);
    assert!(count(&["--prefill-axis", "off"]) < 30);
    assert_eq!(count(&["--prefill-axis", "list:1,396"]), count(&["--prefill-axis", "list:396,1"]));
    assert!(count(&["--decode-axis", "geometric:4"]) > 100);
}

#[test]
fn ratios_belong_to_geometric_sizing() {
    let says = |arguments: &[&str], sentence: &str| {
        let stderr = failure(&[&["plan"], arguments].concat(), 2);
        assert!(stderr.contains(sentence), "{arguments:?}: {stderr}");
    };
    says(&["--sizing", "linear", "--decode-ratio", "1.5"], "--decode-ratio is `1.5`: it goes with geometric sizing");
    says(&["--sizing", "geometric"], "--sizing is `geometric`: it must name a ratio");
    says(&["--preset", "vllm", "--sizing", "linear"], "'--preset <ENGINE>' cannot be used with '--sizing <LAW>'");
    says(&["--sizing", "fit:36"], "--sizing is `fit:36`: it needs traffic");
    says(&["--prefill-axis", "list:500"], "the prefill axis has `500`; each P must be from 1 to max_requests");
    says(&["--sizing", "list:1,99999"], "`99999`; each must be from 1 to max_tokens, which is 16384");
}

#[test]
fn merging_and_budgets_say_what_they_dropped() {
    let merged = plan(&["--merge-identical"]);
    assert_eq!((points(&merged).len(), &merged["merged"]), (17, &json!(43)));
    let budgeted = plan(&["--budget-graphs", "40"]);
    assert_eq!(points(&budgeted).len(), 40);
    assert_eq!(budgeted["budget"]["dropped"].as_array().map(Vec::len), Some(20));
    assert_eq!(budgeted["budget"]["bytes"], json!(40_u64 << 21));
    let bytes = plan(&["--budget-bytes", "10MiB", "--graph-bytes", "1MiB"]);
    assert_eq!(points(&bytes).len(), 10);
    let seconds = plan(&["--budget-seconds", "0.5", "--graph-seconds", "0.0625"]);
    assert_eq!(points(&seconds).len(), 8);
    let loose = plan(&["--budget-graphs", "1000"]);
    assert_eq!((points(&loose).len(), &loose["budget"]["worst_token_factor"]), (60, &json!(1.0)));
    let table = stdout(&["plan", "--budget-graphs", "12", "--merge-identical"]);
    assert!(
        table.contains("merged   43 of 60 graphs") && table.contains("dropped  5: no step replays more"),
        "{table}"
    );
    assert!(table.lines().all(|line| line.len() <= 80), "{table}");

    for (arguments, sentence) in [
        (["--budget-graphs", "0"], "--budget-graphs is `0`; it must be above 0"),
        (["--budget-bytes", "0"], "--budget-bytes is `0`; it must be above 0"),
        (["--budget-seconds", "0"], "--budget-seconds is `0`; it must be a number above 0"),
        (["--budget-seconds", "NaN"], "--budget-seconds is `NaN`; it must be a number above 0"),
        (["--budget-graphs", "1"], "--budget-graphs is `1`; the 2 graphs without which some batch finds none"),
    ] {
        let stderr = failure(&[&["plan"], arguments.as_slice()].concat(), 2);
        assert!(stderr.contains(sentence), "{stderr}");
    }
}

#[test]
fn a_plan_without_points_is_a_plan() {
    let empty = plan(&["--num-cuda-graphs", "none"]);
    assert_eq!(empty, json!({"points": [], "token_counts": null}));
    assert!(stdout(&["plan", "--num-cuda-graphs", "none"]).contains("every step runs eagerly"));
    let answers = explain(&empty.to_string(), &["1:0:1"]);
    assert_eq!(answers, [json!({"step": [1, 0, 1], "point": null, "reason": "the plan has no points"})]);
}

#[test]
fn the_table_fits_a_terminal_and_counts_the_kinds() {
    for arguments in [&["plan"][..], &["plan", "--sizing", "linear", "--all-prefills", "--tp", "1"]] {
        let table = stdout(arguments);
        assert!(table.lines().all(|line| line.len() <= 90), "{table}");
    }
    let table = stdout(&["plan"]);
    assert!(table.contains("60 (17 distinct): 9 decode-only, 43 mixed, 8 prefill-only"), "{table}");
    assert!(table.lines().any(|line| line.split_whitespace().eq(["44", "396", "1", "395", "mixed"])), "{table}");
}

#[test]
fn what_the_reference_rejects_is_wrong_usage() {
    let says = |arguments: &[&str], sentence: &str| {
        let stderr = failure(&[&["plan", "--format", "json"], arguments].concat(), 2);
        assert!(stderr.contains(sentence), "{arguments:?}: {stderr}");
    };
    says(&["--graph-max-tokens", "100"], "the token ceiling is `100`, below the 396 tokens");
    says(&["--max-tokens", "100"], "it must be at least 396");
    says(&["--max-requests", "0"], "max_requests is `0`");
    says(&["--max-tokens", "0"], "the largest token count is `0`");
    says(&["--tp", "0"], "the tensor-parallel size is `0`");
    says(&["--sizing", "linear", "--tp", "8"], "which the tensor-parallel size 8 does not divide");
    says(
        &["--sizing", "linear", "--all-prefills", "--max-tokens", "4294967295"],
        "candidates for points; it can have at most 1000000",
    );
}

#[test]
fn values_that_are_none_are_wrong_usage() {
    for (flag, value) in [
        ("--sizing", "hexagonal"),
        ("--sizing", "geometric:1"),
        ("--sizing", "geometric:NaN"),
        ("--sizing", "list:0"),
        ("--sizing", "fit:0"),
        ("--decode-ratio", "1"),
        ("--prefill-ratio", "-2"),
        ("--prefill-axis", "geometric:0.5"),
        ("--decode-axis", "off"),
        ("--preset", "ollama"),
        ("--budget-graphs", "-1"),
        ("--budget-bytes", "-1MB"),
        ("--budget-seconds", "soon"),
        ("--graph-bytes", "NaN"),
        ("--graph-seconds", "-1"),
        ("--emit", "ollama"),
        ("--num-cuda-graphs", "many"),
        ("--num-cuda-graphs", "99999999999999999999"),
        ("--mixed-prefill-count", "1.5"),
        ("--graph-max-tokens", "NaN"),
        ("--max-requests", "1000000000000"),
        ("--max-requests", "-1"),
        ("--max-seq-len", "-1"),
        ("--tp", ""),
        ("--speculative-tokens", "x"),
        ("--format", "xml"),
    ] {
        let stderr = failure(&["plan", flag, value], 2);
        assert!(stderr.contains(flag) && stderr.contains(value), "{flag} {value}: {stderr}");
    }
    failure(&["plan", "--frobnicate"], 2);
}

#[test]
fn extreme_limits_end_in_a_plan_or_a_sentence() {
    let extremes = ["0", "1", "4294967295"];
    for sizing in ["exponential", "linear"] {
        for (requests, tokens) in extremes.iter().flat_map(|r| extremes.map(|t| (r, t))) {
            for (length, speculative) in extremes.iter().flat_map(|l| extremes.map(|s| (l, s))) {
                let arguments = [
                    ["--sizing", sizing],
                    ["--max-requests", requests],
                    ["--max-tokens", tokens],
                    ["--max-seq-len", length],
                    ["--speculative-tokens", speculative],
                    ["--mixed-prefill-count", "9223372036854775807"],
                    ["--num-cuda-graphs", "9223372036854775807"],
                    ["--graph-max-tokens", "-9223372036854775808"],
                ];
                let arguments = [&["plan", "--format", "json"], arguments.concat().as_slice()].concat();
                let output = gridpoint(&arguments);
                match output.status.code() {
                    Some(0) => assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok(), "{arguments:?}"),
                    Some(2) => assert!(output.stdout.is_empty(), "{arguments:?}"),
                    status => panic!("{arguments:?}: {status:?} {}", String::from_utf8_lossy(&output.stderr)),
                }
            }
        }
    }
}

#[test]
fn each_step_is_answered_in_order() {
    let plan = plan(&[]).to_string();
    let steps = ["300:3:120", "7:0:7", "700:0:700", "350:16:381", "0:0:0", "1000000000000:1:0", "5:397:0", "7:9:0"];
    let expected = [
        json!({"step": [300, 3, 120], "point": [396, 4, 392]}),
        json!({"step": [7, 0, 7], "point": [12, 0, 12]}),
        json!({"step": [700, 0, 700], "point": null, "reason": "tokens 700 above the ceiling 396 of the decode-only points"}),
        json!({"step": [350, 16, 381], "point": null, "reason": "no point has P >= 16 and P + D >= 397"}),
        json!({"step": [0, 0, 0], "point": [1, 0, 1]}),
        json!({"step": [1_000_000_000_000_u64, 1, 0], "point": null, "reason": "tokens 1000000000000 above the ceiling 396"}),
        json!({"step": [5, 397, 0], "point": null, "reason": "no point has P >= 397"}),
        json!({"step": [7, 9, 0], "point": [12, 12, 0]}),
    ];
    let answers = explain(&plan, &steps);
    for (answer, expected) in answers.iter().zip(&expected) {
        assert_eq!(answer, expected);
    }
    assert_eq!(answers.len(), expected.len());
}

#[test]
fn strict_matching_keeps_decodes_out_of_prefill_slots() {
    let plan = json!({"points": [{"tokens": 16, "prefills": 8, "decodes": 4}]}).to_string();
    assert_eq!(explain(&plan, &["10:2:6"])[0]["point"], json!([16, 8, 4]));
    let strict = &explain(&plan, &["--strict", "10:2:6"])[0];
    assert_eq!(strict["reason"], "no point has P >= 2 and D >= 6");
}

#[test]
fn counts_beyond_any_machine_integer_are_echoed() {
    let plan = plan(&[]).to_string();
    let file = file(plan.as_bytes());
    let path = file.path().to_str().expect("a path");
    let line = stdout(&["explain", "--plan", path, "100000000000000000000000000:00:007"]);
    assert!(line.starts_with(r#"{"step":[100000000000000000000000000,0,7],"point":null,"reason":""#), "{line}");
}

#[test]
fn text_says_what_is_padded() {
    let file = file(plan(&[]).to_string().as_bytes());
    let path = file.path().to_str().expect("a path");
    let text = stdout(&["explain", "--plan", path, "--format", "text", "300:3:120", "9:0:500"]);
    assert_eq!(
        text,
        "300:3:120 replays [396]: 4 P + 392 D, padding 96 T, 1 P, 272 D\n\
         9:0:500 runs eagerly: no decode-only point has D >= 500\n"
    );
}

#[test]
fn steps_that_are_none_are_wrong_usage() {
    let file = file(plan(&[]).to_string().as_bytes());
    let path = file.path().to_str().expect("a path");
    for step in ["", "1", "1:2", "1:2:3:4", "1:-2:3", "+1:2:3", "1.5:0:1", "a:b:c", "::"] {
        let stderr = failure(&["explain", "--plan", path, "1:0:1", step], 2);
        assert!(stderr.contains(step), "{stderr}");
    }
    failure(&["explain", "--plan", path], 2);
    failure(&["explain", "1:0:1"], 2);
}

#[test]
fn a_file_that_is_no_plan_is_a_failure() {
    let deep = "[".repeat(1 << 20);
    let cases: [&[u8]; 9] = [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe\x00",
        br#"{"points":[{"tokens":-4,"prefills":0,"decodes":4}]}"#,
        br#"{"points":[{"tokens":1e12,"prefills":0,"decodes":4}]}"#,
        br#"{"points":[{"tokens":0,"prefills":0,"decodes":0}]}"#,
        br#"{"points":[{"tokens":4,"prefills":0,"decodes":4}],"token_counts":[5]}"#,
        deep.as_bytes(),
    ];
    for content in cases {
        let file = file(content);
        let path = file.path().to_str().expect("a path");
        let stderr = failure(&["explain", "--plan", path, "1:0:1"], 1);
        assert!(stderr.contains(path) && stderr.lines().count() == 1, "{stderr}");
    }
    let missing = failure(&["explain", "--plan", "no/such/plan.json", "1:0:1"], 1);
    assert!(missing.contains("cannot read the plan `no/such/plan.json`"), "{missing}");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gridpoint"))
        .args(["plan", "--sizing", "linear", "--all-prefills"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_a_failure() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
    let output = Command::new(env!("CARGO_BIN_EXE_gridpoint")).arg("plan").stdout(full).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: cannot write to stdout: "));
}

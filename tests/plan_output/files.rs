//! Plans kept in files: what they name, where they are taken, what is refused.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use super::{Folder, failure, gridpoint, json as answer, stdout};

const SMALL: [&str; 4] = ["--max-requests", "8", "--max-tokens", "64"];

fn written(folder: &Folder, arguments: &[&str]) -> String {
    let path = folder.path("plan.json");
    stdout(&[&["plan", "--output", &path], arguments].concat());
    path
}

#[test]
fn a_file_names_its_policy_limits_and_version_and_reads_back() {
    let folder = Folder::new();
    let path = written(&folder, &[&SMALL[..], &["--sizing", "hybrid", "--budget-graphs", "10"]].concat());
    let file: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("json");
    assert_eq!((&file["version"], &file["policy"]["sizing"]), (&json!(1), &json!("hybrid")));
    assert_eq!(file["limits"]["max_requests"], 8);
    let plan = answer(&["plan", "--plan", &path, "--format", "json"]);
    assert_eq!((&plan["points"], plan["points"].as_array().map(Vec::len)), (&file["points"], Some(10)));
    let explained = answer(&["explain", "--plan", &path, "3:1:1"]);
    assert_eq!(explained["step"], json!([3, 1, 1]));
    // The same limits, named again, and more taken out.
    let fewer = [&["plan", "--plan", &path, "--format", "json", "--budget-graphs", "5"], &SMALL[..]].concat();
    assert_eq!(answer(&fewer)["points"].as_array().map(Vec::len), Some(5));
    assert!(stdout(&["plan", "--plan", &path]).contains("hybrid sizing"));
}

#[test]
fn an_engine_replays_the_plan_of_a_file() {
    let folder = Folder::new();
    let path = written(&folder, &[&SMALL[..], &["--decode-ratio", "1.5", "--all-prefills"]].concat());
    let graphs = answer(&["plan", "--plan", &path, "--format", "json"])["points"].as_array().map(Vec::len);
    let Output { status, stdout, stderr } = gridpoint(&[
        "generate",
        "--device",
        "simulator",
        "--plan",
        &path,
        "--prompt-ids",
        "5,6,7",
        "--max-new-tokens",
        "3",
        "--format",
        "json",
    ]);
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
    let run: Value = serde_json::from_slice(&stdout).expect("json");
    assert_eq!(run["plan"]["graphs"].as_u64(), graphs.map(|graphs| graphs as u64));
    assert_eq!(run["steps"]["eager"], 0);
    // The file's limits are the engine's.
    assert!(String::from_utf8_lossy(&stderr).contains("[r 8, t 64]"), "{}", String::from_utf8_lossy(&stderr));
}

#[test]
fn other_limits_and_versions_are_refused() {
    let folder = Folder::new();
    let path = written(&folder, &SMALL);
    let file = fs::read_to_string(&path).expect("a file");
    for command in [&["plan"][..], &["generate", "--prompt-ids", "1"], &["perplexity", "--text", "Cargo.toml"]] {
        let stderr = failure(&[command, &["--plan", &path, "--max-requests", "9"]].concat(), 2);
        assert!(stderr.contains("the plan is for max_requests `8`, not for `9`: make the plan again"), "{stderr}");
        let stderr = failure(&[command, &["--plan", &path, "--sizing", "linear"]].concat(), 2);
        assert!(stderr.contains("cannot be used with"), "{stderr}");
        let other = folder.write("other.json", &file.replace(r#""version":1"#, r#""version":2"#));
        let stderr = failure(&[command, &["--plan", &other]].concat(), 1);
        assert!(stderr.contains("is of version `2`; this program reads version 1: make the plan again\n"), "{stderr}");
        let bare = folder.write("bare.json", &stdout(&[&["plan", "--format", "json"], &SMALL[..]].concat()));
        let stderr = failure(&[command, &["--plan", &bare]].concat(), 2);
        assert!(stderr.contains("names no version and no limits"), "{stderr}");
        let missing = failure(&[command, &["--plan", "no/such/plan.json"]].concat(), 1);
        assert!(missing.contains("cannot read the plan `no/such/plan.json`"), "{missing}");
    }
    let other = folder.path("other.json");
    let stderr = failure(&["explain", "--plan", &other, "1:0:1"], 1);
    assert!(stderr.contains("is of version `2`"), "{stderr}");
    assert_eq!(answer(&["explain", "--plan", &folder.path("bare.json"), "1:0:1"])["point"], json!([1, 0, 1]));
}

#[test]
fn a_file_that_cannot_be_written_is_a_failure() {
    let stderr = failure(&["plan", "--output", "no/such/folder/plan.json"], 1);
    assert!(stderr.contains("cannot write the plan `no/such/folder/plan.json`"), "{stderr}");
}

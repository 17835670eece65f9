//! What a profiler sees of a run: NVTX ranges, heard by a library that is loaded as a profiler's is.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::nvtx::{self, Heard, Seen};
use crate::program::{GQA, Ran};

/// Runs `generate` for prompts of 9 and 2 tokens with the library listening: its answer, and what was heard.
fn heard(arguments: &[&str]) -> (Value, Heard) {
    heard_with(&[], arguments)
}

/// [`heard`] with variables for the library.
fn heard_with(variables: &[(&str, &Path)], arguments: &[&str]) -> (Value, Heard) {
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let library = nvtx::library(folder.path());
    let common = ["generate", "--device", "simulator", "--format", "json", "--model", GQA, "--max-new-tokens", "3"];
    let prompts = ["--prompt-ids", "1,2,3,4,5,6,7,8,9", "--prompt-ids", "1,2"];
    let environment = [&[("NVTX_INJECTION64_PATH", library.as_path())][..], variables].concat();
    let ran = Ran::with_environment(&environment, &[&common[..], &prompts, arguments].concat());
    assert_eq!(ran.status, Some(0), "{ran:?}");
    (ran.json(), Heard::read(&library))
}

/// The ranges whose names begin so.
fn starting<'a>(heard: &'a Heard, start: &str) -> Vec<&'a Seen> {
    heard.all().into_iter().filter(|range| range.name.starts_with(start)).collect()
}

fn names<'a>(ranges: impl IntoIterator<Item = &'a Seen>) -> Vec<&'a str> {
    ranges.into_iter().map(|range| range.name.as_str()).collect()
}

#[test]
fn every_replay_has_its_range_with_point_and_real_counts() {
    let (answer, heard) = heard(&["--max-requests", "4", "--max-tokens", "64", "--all-prefills"]);
    assert_eq!((&answer["steps"]["total"], &answer["steps"]["replayed"]), (&json!(3), &json!(3)));
    let steps = starting(&heard, "replay ");
    assert_eq!(
        names(steps.iter().copied()),
        [
            "replay [16]: 2 P + 2 D (real 11: 2 P + 0 D)",
            "replay [2]: 0 P + 2 D (real 2: 0 P + 2 D)",
            "replay [2]: 0 P + 2 D (real 2: 0 P + 2 D)",
        ]
    );
    assert!(starting(&heard, "eager ").is_empty());
    for step in steps {
        assert_eq!(names(&step.inside), ["pack", "submit", "wait"]);
    }
}

#[test]
fn phases_follow_one_another_and_their_names_are_registered_once() {
    let (answer, heard) = heard(&["--max-requests", "4"]);
    let outermost = names(&heard.threads[0]);
    assert_eq!(outermost[..2], ["load", "capture"]);
    let mut expected = Vec::new();
    for step in starting(&heard, "replay ") {
        expected.extend(["plan the step", step.name.as_str(), "commit"]);
    }
    // Nothing is left to do.
    expected.push("plan the step");
    assert_eq!(outermost[2..], expected);
    let captures = names(starting(&heard, "capture ["));
    assert_eq!(Some(captures.len() as u64), answer["plan"]["graphs"].as_u64());
    assert!(captures.contains(&"capture [4]: 0 P + 4 D"), "{captures:?}");
    let mut counts = BTreeMap::new();
    for name in &heard.registered {
        *counts.entry(name.as_str()).or_insert(0) += 1;
    }
    let phases = ["capture", "commit", "load", "pack", "plan the step", "submit", "wait"];
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), phases.map(|phase| (phase, 1)));
    assert!(heard.streams.contains(&"steps".to_owned()), "{:?}", heard.streams);
}

/// CUPTI writes its functions when somebody subscribes, which may be long after it was loaded.
#[test]
fn a_profiler_may_begin_to_listen_late() {
    let late = [("GRIDPOINT_TEST_NVTX_LATE", Path::new("1"))];
    let (answer, heard) = heard_with(&late, &["--max-requests", "4"]);
    let outermost = names(&heard.threads[0]);
    assert!(!outermost.contains(&"load") && outermost.contains(&"capture"), "{outermost:?}");
    assert_eq!(Some(starting(&heard, "replay ").len() as u64), answer["steps"]["total"].as_u64());
}

#[test]
fn an_eager_step_says_why() {
    let (answer, off) = heard(&["--max-requests", "4", "--eager"]);
    let reasons = names(starting(&off, "eager "));
    assert_eq!(Some(reasons.len() as u64), answer["steps"]["eager"].as_u64());
    assert_eq!(reasons.last(), Some(&"eager (real 2: 0 P + 2 D): replay is switched off"));
    let (answer, decodes) = heard(&["--max-requests", "4", "--decode-only"]);
    assert_eq!((&answer["steps"]["replayed"], &answer["steps"]["eager"]), (&json!(2), &json!(1)));
    assert_eq!(names(starting(&decodes, "eager ")), ["eager (real 11: 2 P + 0 D): no point has P >= 2"]);
    assert_eq!(starting(&decodes, "replay ").len(), 2);
}

#[test]
fn a_profiler_that_cannot_listen_is_named_and_the_run_goes_on() {
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let library = nvtx::library(folder.path());
    let arguments = ["plan", "--max-requests", "4", "--max-tokens", "64", "--format", "json"];
    let quiet = Ran::new(&arguments);
    let nowhere = folder.path().join("none.so");
    for (variables, words) in [
        (vec![("NVTX_INJECTION64_PATH", nowhere.as_path())], "could not be loaded"),
        (
            vec![("NVTX_INJECTION64_PATH", library.as_path()), ("GRIDPOINT_TEST_NVTX_REFUSES", Path::new("1"))],
            "refused to begin",
        ),
    ] {
        let ran = Ran::with_environment(&variables, &arguments);
        assert_eq!((ran.status, &ran.stdout), (Some(0), &quiet.stdout), "{ran:?}");
        let path = variables[0].1.display().to_string();
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        assert!(
            ran.stderr.starts_with("warning: ") && ran.stderr.contains(words) && ran.stderr.contains(&path),
            "{ran:?}"
        );
    }
    let empty = Ran::with_environment(&[("NVTX_INJECTION64_PATH", Path::new(""))], &arguments);
    assert_eq!((empty.status, empty.stderr.as_str()), (Some(0), ""), "{empty:?}");
}

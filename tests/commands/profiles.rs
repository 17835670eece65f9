//! What a profiler sees of a run: NVTX ranges, heard by a library that is loaded as a profiler's is.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::nvtx;
use crate::program::{GQA, Ran};

/// A range: its name, and the ranges inside.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    name: String,
    inside: Vec<Seen>,
}

/// What the library heard.
struct Heard {
    answer: Value,
    /// The outermost ranges, in order.
    ranges: Vec<Seen>,
    /// The names that were registered.
    registered: Vec<String>,
    streams: Vec<String>,
}

/// Runs `generate` for prompts of 9 and 2 tokens with the library listening.
fn heard(arguments: &[&str]) -> Heard {
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let library = nvtx::library(folder.path());
    let common = ["generate", "--device", "simulator", "--format", "json", "--model", GQA, "--max-new-tokens", "3"];
    let prompts = ["--prompt-ids", "1,2,3,4,5,6,7,8,9", "--prompt-ids", "1,2"];
    let ran =
        Ran::with_environment(&[("NVTX_INJECTION64_PATH", &library)], &[&common[..], &prompts, arguments].concat());
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let text = nvtx::heard(&library);
    let mut heard = Heard { answer: ran.json(), ranges: Vec::new(), registered: Vec::new(), streams: Vec::new() };
    let mut open: Vec<Seen> = Vec::new();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("domain gridpoint"), "the one domain is made before the first range");
    for line in lines {
        let (call, rest) = line.split_once(' ').expect("a call and what it was called with");
        let domain = |rest: &str| rest.strip_prefix("gridpoint ").map(str::to_owned).expect("the domain");
        match call {
            "push" => open.push(Seen { name: domain(rest), inside: Vec::new() }),
            "pop" => {
                assert_eq!(rest, "gridpoint");
                let closed = open.pop().expect("a range is open");
                open.last_mut().map_or(&mut heard.ranges, |outer| &mut outer.inside).push(closed);
            }
            "string" => heard.registered.push(domain(rest)),
            "stream" => heard.streams.push(rest.to_owned()),
            _ => panic!("`{line}`"),
        }
    }
    assert_eq!(open, [], "every range was closed");
    heard
}

fn names(ranges: &[Seen]) -> Vec<&str> {
    ranges.iter().map(|range| range.name.as_str()).collect()
}

#[test]
fn every_replay_has_its_range_with_point_and_real_counts() {
    let heard = heard(&["--max-requests", "4", "--max-tokens", "64", "--all-prefills"]);
    assert_eq!(heard.answer["steps"], json!({"total": 3, "replayed": 3, "eager": 0}));
    let steps = heard.ranges.iter().filter(|range| range.name.starts_with("replay ")).collect::<Vec<_>>();
    let found: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        found,
        [
            "replay [16]: 2 P + 2 D (real 11: 2 P + 0 D)",
            "replay [2]: 0 P + 2 D (real 2: 0 P + 2 D)",
            "replay [2]: 0 P + 2 D (real 2: 0 P + 2 D)",
        ]
    );
    for step in steps {
        assert_eq!(names(&step.inside), ["pack", "submit", "wait"]);
    }
}

#[test]
fn phases_follow_one_another_and_their_names_are_registered_once() {
    let heard = heard(&["--max-requests", "4"]);
    let all = names(&heard.ranges);
    assert_eq!(all[..2], ["load", "capture"]);
    let mut expected = Vec::new();
    for step in heard.ranges.iter().filter(|range| range.name.starts_with("replay ")) {
        expected.extend(["plan the step", step.name.as_str(), "commit"]);
    }
    // Nothing is left to do.
    expected.push("plan the step");
    assert_eq!(all[2..], expected);
    let points = heard.answer["plan"]["graphs"].as_u64().expect("a count");
    let captures = names(&heard.ranges[1].inside);
    assert_eq!(captures.len() as u64, points);
    assert!(captures.contains(&"capture [4]: 0 P + 4 D"), "{captures:?}");
    assert!(captures.iter().all(|name| name.starts_with("capture [")), "{captures:?}");
    let mut counts = BTreeMap::new();
    for name in &heard.registered {
        *counts.entry(name.as_str()).or_insert(0) += 1;
    }
    let phases = ["capture", "commit", "load", "pack", "plan the step", "submit", "wait"];
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), phases.map(|phase| (phase, 1)));
    assert_eq!(heard.streams, ["steps"]);
}

#[test]
fn an_eager_step_says_why() {
    let off = heard(&["--max-requests", "4", "--eager"]);
    let reasons = |heard: &Heard| {
        let eager = heard.ranges.iter().filter(|range| range.name.starts_with("eager "));
        eager.map(|range| range.name.clone()).collect::<Vec<_>>()
    };
    let total = off.answer["steps"]["eager"].as_u64().expect("a count");
    assert_eq!(reasons(&off).len() as u64, total);
    assert_eq!(reasons(&off).last().map(String::as_str), Some("eager (real 2: 0 P + 2 D): replay is switched off"));
    let decodes = heard(&["--max-requests", "4", "--decode-only"]);
    assert_eq!(decodes.answer["steps"], json!({"total": 3, "replayed": 2, "eager": 1}));
    assert_eq!(reasons(&decodes), ["eager (real 11: 2 P + 0 D): no point has P >= 2"]);
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

//! `verify`: what is printed, exit statuses, and that the plan's flags and its own are understood.

use serde_json::json;

use crate::program::{GQA, Ran, keys, refuses};

/// Two graphs, with one token at most.
const SMALL: [&str; 10] =
    ["--max-requests", "1", "--max-tokens", "2", "--max-seq-len", "70", "--num-cuda-graphs", "1", "--most-tokens", "1"];

fn verify(arguments: &[&str]) -> Ran {
    Ran::new(&[&["verify", "--device", "simulator", "--model", GQA], arguments].concat())
}

#[test]
fn a_healthy_model_verifies() {
    let ran = verify(&[&SMALL[..], &["--soak", "3", "--seed", "9", "--format", "json"]].concat());
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let answer = ran.json();
    assert_eq!(
        keys(&answer),
        [
            "distinct",
            "first",
            "graphs",
            "kinds",
            "mismatches",
            "most_tokens",
            "reduced",
            "replays",
            "seconds",
            "seed",
            "shapes",
            "soaked"
        ]
    );
    assert_eq!((&answer["mismatches"], &answer["first"], &answer["kinds"]), (&json!(0), &json!(null), &json!({})));
    assert_eq!((&answer["seed"], &answer["soaked"], &answer["most_tokens"]), (&json!(9), &json!(3), &json!(1)));
    let number = |name: &str| answer[name].as_u64().expect("a number");
    assert!(number("graphs") >= number("distinct") && number("distinct") >= 1, "{answer}");
    assert!(number("replays") > number("shapes") && number("shapes") >= number("graphs"), "{answer}");
}

#[test]
fn a_person_reads_sentences() {
    let ran = verify(&[&SMALL[..], &["--launches", "serial", "--kernels", "portable", "--decode-only"]].concat());
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with("1 graphs (1 distinct), ") && lines[0].contains(", seed 1, in "), "{lines:?}");
    assert_eq!(lines.last(), Some(&"every replay equals eager launches, bit for bit"));
    assert_eq!(lines.len(), 2, "one token is all that the graph holds: {lines:?}");

    let none =
        verify(&["--num-cuda-graphs", "none", "--max-requests", "1", "--max-seq-len", "70", "--max-tokens", "1"]);
    assert_eq!((none.status, none.stdout.lines().last()), (Some(0), Some("there is no graph to verify")), "{none:?}");
}

#[test]
fn what_cannot_be_meant_is_refused_in_a_sentence() {
    refuses(&verify(&["--most-tokens", "0"]), 2, "--most-tokens is `0`: it must be at least 1");
    for (flag, most) in [("--soak", u64::MAX), ("--seed", u64::MAX), ("--most-tokens", u32::MAX.into())] {
        let ran = verify(&[flag, "-1"]);
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
        assert!(ran.stderr.contains(&format!("it must be a whole number from 0 to {most}")), "{ran:?}");
    }
    let ran = verify(&["--cache-bytes", "much"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
    assert!(ran.stderr.contains("it must be a number of bytes, such as `300000000`"), "{ran:?}");
    let ran = verify(&["--eager"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
}

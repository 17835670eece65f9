//! `bench`: what is printed of several plans beside each other, and what is refused.

use serde_json::{Value, json};

use crate::program::{Ran, SHAKESPEARE, keys, refuses};

fn bench(arguments: &[&str]) -> Ran {
    Ran::new(&[&["bench", "--device", "simulator"], arguments].concat())
}

#[test]
fn two_sizings_are_measured_on_the_same_requests() {
    let small = [
        "--model",
        SHAKESPEARE,
        "--max-requests",
        "4",
        "--max-tokens",
        "64",
        "--compare",
        "exponential,geometric:1.41",
    ];
    let requests =
        ["--requests", "3", "--prompt-tokens", "2:9", "--new-tokens", "3", "--seed", "7", "--format", "json"];
    let ran = bench(&[&small[..], &requests].concat());
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let answer = ran.json();
    assert_eq!(
        keys(&answer),
        [
            "all_prompt_tokens",
            "device",
            "first_difference",
            "layers",
            "model",
            "new_tokens",
            "note",
            "prompt_tokens",
            "requests",
            "rounds",
            "runs",
            "seed",
            "simulated",
            "tokens_equal",
            "warm_up"
        ]
    );
    assert_eq!(answer["requests"], 3);
    assert_eq!((&answer["prompt_tokens"], &answer["new_tokens"]), (&json!([2, 9]), &json!(3)));
    assert_eq!((&answer["seed"], &answer["rounds"], &answer["warm_up"]), (&json!(7), &json!(1), &json!(1)));
    assert_eq!((&answer["simulated"], &answer["tokens_equal"]), (&json!(true), &json!(true)));
    assert_eq!(answer["first_difference"], Value::Null);
    let runs = answer["runs"].as_array().expect("a list");
    assert!(runs.iter().map(|run| &run["sizing"]).eq(&[json!("exponential"), json!("geometric:1.41")]), "{answer}");
    let prompt_tokens = answer["all_prompt_tokens"].as_u64().expect("a number");
    for run in runs {
        assert_eq!(
            keys(run),
            [
                "capture_seconds",
                "distinct",
                "dropped_points",
                "eager_reasons",
                "eager_steps",
                "generated_tokens",
                "graphs",
                "hit_rate",
                "host_microseconds",
                "kv_pages",
                "memory_allocated",
                "memory_reserved",
                "padded_tokens",
                "prompt_throughput",
                "relative_memory_reserved",
                "relative_throughput",
                "replayed_steps",
                "round_seconds",
                "seconds",
                "sizing",
                "step_budget",
                "step_microseconds",
                "steps",
                "throughput",
                "token_padding",
                "tokens"
            ]
        );
        let whole = |name: &str| run[name].as_u64().expect("a whole number");
        let real = |name: &str| run[name].as_f64().expect("a number");
        assert!(whole("graphs") >= whole("distinct") && whole("distinct") >= 1, "{run}");
        assert!(real("capture_seconds") > 0.0 && whole("memory_reserved") >= whole("memory_allocated"), "{run}");
        // The warm-up is not counted: every prompt is computed once, and all new tokens but the last of each request.
        assert_eq!((whole("generated_tokens"), whole("tokens")), (9, prompt_tokens + 3 * 2), "{run}");
        assert_eq!(
            (whole("replayed_steps"), whole("eager_steps"), real("hit_rate")),
            (whole("steps"), 0, 1.0),
            "{run}"
        );
        let padding = whole("padded_tokens") as f64 / whole("tokens") as f64;
        assert!((real("token_padding") - padding).abs() < 1e-9, "{run}");
        let rate = whole("generated_tokens") as f64 / real("seconds");
        assert!((real("throughput") / rate - 1.0).abs() < 1e-6, "{run}");
        let times = &run["step_microseconds"];
        assert!(times["median"].as_f64() <= times["percentile_99"].as_f64(), "{run}");
    }
    assert_eq!((&runs[0]["relative_throughput"], &runs[0]["relative_memory_reserved"]), (&json!(1.0), &json!(0)));
    assert!(runs[0]["graphs"].as_u64() < runs[1]["graphs"].as_u64(), "{answer}");
}

/// Random weights and several rounds, with steps that no graph fits: the same tokens all the same.
#[test]
fn a_person_reads_tables() {
    let ran = bench(&[
        "--shape",
        "tiny",
        "--layers",
        "1",
        "--compare",
        "linear,vllm:4",
        "--max-requests",
        "3",
        "--max-tokens",
        "32",
        "--requests",
        "4",
        "--prompt-tokens",
        "5",
        "--new-tokens",
        "2",
        "--rounds",
        "2",
        "--warm-up",
        "0",
        "--capture",
        "lazy",
        "--profile-steps",
        "1:2",
    ]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with("SIMULATED DEVICE: every time below"), "{lines:?}");
    assert_eq!(
        lines[2..5],
        [
            "gridpoint simulated device: tiny, 1 layer",
            "4 requests, prompts of 5 to 5 tokens, 20 in all, 2 new tokens each, seed 1",
            "median of 2 rounds, after 0 requests that do not count"
        ]
    );
    let tables: Vec<Vec<&str>> = lines[6..].iter().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((tables[0][0], tables[1][0], tables[2][0]), ("sizing", "linear", "vllm:4"), "{lines:?}");
    assert!(tables[1].ends_with(&["-", "-"]) && tables[2].iter().any(|cell| cell.starts_with('x')), "{lines:?}");
    assert_eq!((tables[4][0], tables[5][0], tables[6][0]), ("sizing", "linear", "vllm:4"), "{lines:?}");
    for row in &tables[5..7] {
        let [steps, replayed, eager]: [u32; 3] = std::array::from_fn(|cell| row[cell + 1].parse().expect("a number"));
        assert_eq!(steps, replayed + eager, "{lines:?}");
    }
    assert!(lines.contains(&"every plan generated the same 8 tokens in every round"), "{lines:?}");
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{lines:?}");
}

#[test]
fn what_cannot_be_meant_is_refused_in_a_sentence() {
    let laws = "--compare names the laws to compare: it goes without --sizing, --decode-ratio, --prefill-ratio, --preset and --plan";
    for flags in [["--sizing", "linear"], ["--decode-ratio", "1.5"], ["--preset", "vllm"], ["--plan", "plan.json"]] {
        refuses(&bench(&flags), 2, laws);
    }
    refuses(
        &bench(&["--compare", "linear,hybrid,linear"]),
        2,
        "--compare has `linear` twice: each plan may be given once",
    );
    refuses(
        &bench(&["--compare", "fit:3"]),
        2,
        "--compare has `fit:3`: it needs traffic to fit, `gridpoint plan --sizing fit:3 --steps FILE` prints its token counts, which \
         `list:N,N` takes",
    );
    for flag in ["--requests", "--new-tokens", "--rounds"] {
        refuses(&bench(&[flag, "0"]), 2, &format!("{flag} is `0`: it must be at least 1"));
    }
    refuses(
        &bench(&["--prompt-tokens", "64:4000", "--max-seq-len", "500"]),
        2,
        "--prompt-tokens is `64:4000` and --new-tokens `10`: together at most 4010 tokens, and the longest sequence has 500 (--max-seq-len \
         or the model's)",
    );
    refuses(
        &bench(&["--requests", "4294967295"]),
        2,
        "--requests is `4294967295`: with up to 58 tokens each, of which all are held on the host, it must be at most 4628197",
    );
    refuses(&bench(&["--layers", "2"]), 2, "--layers is `2`: it goes with --shape");
    let unknown = [
        (["--compare", "linear,straight"], "`straight` is not a policy to compare; it is a sizing"),
        (["--prompt-tokens", "9:3"], "it must be the fewest and the most tokens of a prompt, such as `64:1024`"),
        (["--shape", "llama-9"], "the shapes are llama-3-8b"),
        (["--rounds", "-1"], "it must be a whole number from 0 to"),
    ];
    for (flags, words) in unknown {
        let ran = bench(&flags);
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
        assert!(ran.stderr.contains(words), "{ran:?}");
    }
}

#[test]
fn a_shape_that_is_too_large_for_the_memory_is_refused_before_a_weight_is_made() {
    refuses(
        &bench(&["--shape", "llama-3-8b"]),
        1,
        "--shape is `llama-3-8b` with 32 layers: its weights take 15.0 gb and 8.0 gb of 8.0 gb are free, so --layers must be fewer",
    );
    let ran = bench(&["--shape", "tiny", "--kv-pages", "2", "--prompt-tokens", "100", "--compare", "linear"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(
        ran.said()
            .last()
            .is_some_and(|line| line.starts_with("error: under `linear`: request 0: the kv cache has `1` pages"))
    );
}

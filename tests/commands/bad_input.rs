//! Arguments that cannot be meant or done: one sentence each, the flag, the value, what would be right.

use std::time::{Duration, Instant};

use crate::program::{GQA, Ran, SHAKESPEARE, generate, refuses};

#[test]
fn arguments_of_generate_are_refused_in_a_sentence() {
    let cases: [(&[&str], i32, &str); 29] = [
        (
            &["--prompt-ids", "1", "--capture-threads", "0"],
            2,
            "invalid value '0' for '--capture-threads <N>': it must be a whole number from 1 to 4294967295",
        ),
        (
            &["--prompt-ids", "1", "--capture-budget", "-1"],
            2,
            "invalid value '-1' for '--capture-budget <SECONDS>': it must be a number of seconds of at least 0",
        ),
        (
            &["--prompt-ids", "1", "--gpu-memory-utilization", "1.5"],
            2,
            "invalid value '1.5' for '--gpu-memory-utilization <X>': it must be a number above 0 and at most 1",
        ),
        (
            &["--prompt-ids", "1", "--memory-budget", "much"],
            2,
            "invalid value 'much' for '--memory-budget <SIZE>': it must be a number of bytes, such as `300000000`, `300MB` or `1.5GiB`",
        ),
        (&[], 2, "the following required arguments were not provided: <--prompt <TEXT>|--prompt-ids <1,2,3>>"),
        (&["--promt", "x"], 2, "unexpected argument '--promt' found; a similar argument exists: '--prompt'"),
        (
            &["--prompt-ids", "1,x"],
            2,
            "invalid value '1,x' for '--prompt-ids <1,2,3>': token ids are numbers from 0 to 4294967295 with commas between, such \
             as `1,2,3`, and `x` is none",
        ),
        (
            &["--prompt", "x"],
            2,
            "--prompt needs `tests/models/llama-gqa/tokenizer.json`, which does not exist: give token ids with --prompt-ids",
        ),
        (&["--prompt-ids", ""], 1, "the prompt is empty: it must have at least 1 token"),
        (
            &["--prompt-ids", "1,512"],
            1,
            "prompt token `512` at position `1` is outside the vocabulary: it must be below `512`",
        ),
        (
            &["--prompt-ids", "", "--prompt-ids", "512"],
            1,
            "none of the 2 prompts can be run; prompt 1: the prompt is empty: it must have at least 1 token",
        ),
        (
            &["--prompt-ids", "1,2,3,4", "--max-seq-len", "4"],
            1,
            "the prompt has `4` tokens: at most `3` leave room for a new one within the longest sequence of `4` tokens",
        ),
        (
            &["--prompt-ids", "1", "--max-new-tokens", "0"],
            2,
            "--max-new-tokens is `0`: it must be at least 1, or --logprobs must ask for those of the prompt",
        ),
        (
            &["--prompt-ids", "1", "--max-new-tokens", "-1"],
            2,
            "invalid value '-1' for '--max-new-tokens <N>': it must be a whole number from 0 to 4294967295",
        ),
        (
            &["--prompt-ids", "1", "--temperature", "nan"],
            2,
            "--temperature is `NaN`: it must be 0 (greedy) or a finite number of at least 0.00001",
        ),
        (
            &["--prompt-ids", "1", "--temperature", "-1"],
            2,
            "--temperature is `-1`: it must be 0 (greedy) or a finite number of at least 0.00001",
        ),
        (
            &["--prompt-ids", "1", "--temperature", "warm"],
            2,
            "invalid value 'warm' for '--temperature <X>': it must be a number such as `0.8`",
        ),
        (&["--prompt-ids", "1", "--top-p", "0"], 2, "--top-p is `0`: it must be above 0 and at most 1 (1 = off)"),
        (&["--prompt-ids", "1", "--top-p", "NaN"], 2, "--top-p is `NaN`: it must be above 0 and at most 1 (1 = off)"),
        (
            &["--prompt-ids", "1", "--seed", "-1"],
            2,
            "invalid value '-1' for '--seed <S>': it must be a whole number from 0 to 18446744073709551615",
        ),
        (
            &["--prompt-ids", "1", "--max-seq-len", "0"],
            2,
            "--max-seq-len is `0`: it must be from 1 to the model's 4096",
        ),
        (&["--prompt-ids", "1", "--max-requests", "0"], 2, "max_requests is `0`; it must be at least 1"),
        (
            &["--prompt-ids", "1", "--max-tokens", "1"],
            2,
            "the token ceiling is `1`, below the 396 tokens of 396 decode requests with 0 speculative tokens each; it must be at \
             least 396",
        ),
        (
            &["--prompt-ids", "1", "--max-tokens", "0", "--num-cuda-graphs", "none"],
            2,
            "max_tokens is `0`: it must be at least 1",
        ),
        (
            &["--prompt-ids", "1", "--kv-pages", "1"],
            2,
            "--kv-pages is `1`: it must be at least 2, of which one is the dummy page",
        ),
        (
            &["--prompt-ids", "1", "--device", "gpu"],
            2,
            "invalid value 'gpu' for '--device <DEVICE>' [possible values: auto, cuda, simulator]",
        ),
        (
            &["--prompt-ids", "1", "--prompt", "x"],
            2,
            "the argument '--prompt-ids <1,2,3>' cannot be used with '--prompt <TEXT>'",
        ),
        (&["--prompt-ids", "1", "--eager=yes"], 2, "unexpected value 'yes' for '--eager' found; no more were expected"),
        (
            &["--prompt-ids", "1", "--model-dir", "x"],
            2,
            "unexpected argument '--model-dir' found; a similar argument exists: '--model'",
        ),
    ];
    for (arguments, status, line) in cases {
        let device = if arguments.contains(&"--device") { &[][..] } else { &["--device", "simulator"] };
        let ran = Ran::new(&[&["generate", "--format", "json", "--model", GQA], device, arguments].concat());
        refuses(&ran, status, line);
    }
}

#[test]
fn pages_that_a_request_needs_are_counted() {
    let ran = generate(GQA, &["--prompt-ids", "1", "--kv-pages", "2"]);
    assert_eq!(
        ran.said(),
        [
            "error: the kv cache has `1` pages beside the dummy page: the prompt and `64` new tokens need `2`, so --kv-pages must be \
          at least 3 or the request smaller"
        ]
    );
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""));
}

#[test]
fn what_does_not_fit_the_memory_is_refused_at_once() {
    let started = Instant::now();
    let says = |limits: &[&str], words: &str| {
        let ran = generate(GQA, &[&["--prompt-ids", "1"], limits].concat());
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.lines().count() == 1, "{ran:?}");
        assert!(ran.stderr.contains(words), "{words}: {ran:?}");
    };
    says(&["--kv-pages", "4294967295"], "--kv-pages is `4294967295`: they take ");
    says(
        &["--max-requests", "3000000", "--max-tokens", "3000000"],
        "--max-requests (`3000000`), --max-tokens (`3000000`)",
    );
    says(&["--max-requests", "4294967295", "--max-tokens", "4294967295"], "--max-requests (`4294967295`)");
    says(
        &["--max-requests", "2000", "--max-tokens", "4294967295", "--all-prefills"],
        "--max-seq-len (`4096`) or the token counts",
    );
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// Capacities that a kernel cannot count: the program names count and limit before it takes memory.
#[test]
fn what_the_kernels_cannot_count_is_refused_at_once() {
    let text = "assets/shakespeare-3m/eval.txt";
    let commands: [&[&str]; 2] = [
        &["generate", "--device", "simulator", "--model", SHAKESPEARE, "--prompt", "x"],
        &["perplexity", "--device", "simulator", "--model", SHAKESPEARE, "--text", text],
    ];
    // Two query heads share keys and values.
    let cases = [
        ("4294967295", "tokens of a step", 4_294_967_295_u64, 2_147_483_647_u64),
        ("1073741825", "query rows of schedule.cu, tokens x group", 2_147_483_650, 2_147_483_648),
    ];
    for command in commands {
        for (count, name, value, limit) in cases {
            let ran = Ran::new(&[command, &["--max-requests", count, "--max-tokens", count]].concat());
            let line = format!(
                "`{name}` would be `{value}`, the kernels count it to at most {limit}: --max-requests (`{count}`), --max-tokens \
                 (`{count}`), --max-seq-len (`2048`) or the token counts of the graphs must be smaller"
            );
            refuses(&ran, 1, &line);
        }
    }
}

#[test]
fn a_folder_that_is_not_there_is_named_with_where_it_was_looked_for() {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let path = elsewhere.path().canonicalize().expect("a path");
    let ran = Ran::inside(&path, &["generate", "--prompt", "x"]);
    let line = format!(
        "--model is `{SHAKESPEARE}`, which does not exist in `{}`: it must be a Hugging Face model folder (the default is the model \
         in gridpoint's repository)",
        path.display()
    );
    refuses(&ran, 1, &line);
    let line = "--model is `/no/model`, which does not exist: it must be a Hugging Face model folder";
    refuses(&generate("/no/model", &["--prompt", "x"]), 1, line);
    let line = "--model is `Cargo.toml`, which is not a folder: it must be a Hugging Face model folder";
    refuses(&generate("Cargo.toml", &["--prompt", "x"]), 1, line);
}

#[test]
fn a_command_that_is_none_is_told_the_commands() {
    refuses(
        &Ran::new(&["sing"]),
        2,
        "unrecognized subcommand 'sing'; the commands are generate, plan, explain, perplexity, devices, kernels, tune, verify, bench, capture",
    );
    let ran = Ran::new(&[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.contains("Usage: gridpoint <COMMAND>"), "{ran:?}");
}

//! `perplexity`: windows, what is scored, and that the mean is that of the engine's log-probabilities.

use std::fs;

use serde_json::Value;

use crate::program::{GQA, Ran, SHAKESPEARE, generated, keys, numbers, refuses};

fn perplexity(arguments: &[&str]) -> Ran {
    Ran::new(&[&["perplexity", "--device", "simulator", "--format", "json"], arguments].concat())
}

/// A file that lives as long as the value.
fn text(content: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), content).expect("written");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("UTF-8")
}

#[test]
fn the_mean_is_over_windows_whose_first_token_is_not_scored() {
    let content = fs::read_to_string("assets/shakespeare-3m/eval.txt").expect("the text").split_at(260).0.to_owned();
    let whole = generated(SHAKESPEARE, &["--prompt", &content, "--max-new-tokens", "0", "--logprobs"]);
    let ids: Vec<String> = numbers(&whole["results"][0]["prompt_ids"]).iter().map(f64::to_string).collect();
    // The last window is a partial one.
    let window = 40;
    assert!(ids.len() > 2 * window && ids.len() % window > 1, "{}", ids.len());
    let windows: Vec<String> = ids.chunks(window).map(|ids| ids.join(",")).collect();
    let prompts: Vec<&str> = windows.iter().flat_map(|ids| ["--prompt-ids", ids]).collect();
    let scored = generated(SHAKESPEARE, &[&prompts[..], &["--max-new-tokens", "0", "--logprobs"]].concat());
    let logprobs: Vec<f64> = scored["results"]
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|result| result["prompt_logprobs"].as_array().expect("a list").iter().filter_map(Value::as_f64))
        .collect();
    let file = text(content.as_bytes());
    let ran = perplexity(&["--model", SHAKESPEARE, "--text", path(&file), "--window", &window.to_string()]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let answer = ran.json();
    assert_eq!(keys(&answer), ["mean_nll", "steps", "tokens"]);
    assert_eq!(answer["tokens"], logprobs.len());
    assert_eq!(logprobs.len(), ids.len() - windows.len());
    let mean = -logprobs.iter().sum::<f64>() / logprobs.len() as f64;
    let answered = answer["mean_nll"].as_f64().expect("a number");
    assert!((answered - mean).abs() < 1e-5, "{answered} {mean}");
}

#[test]
fn what_cannot_be_scored_is_refused_in_a_sentence() {
    let [empty, short, binary] = [&b""[..], b"a", b"\xff\xfe"].map(text);
    let refused = |text: &str, extra: &[&str], status: i32, line: &str| {
        refuses(&perplexity(&[&["--text", text], extra].concat()), status, line);
    };
    let words = |file: &tempfile::NamedTempFile, rest: &str| format!("the text `{}` {rest}", path(file));
    refused(path(&empty), &[], 1, &words(&empty, "has `0` tokens: it must have at least 2"));
    refused(path(&short), &[], 1, &words(&short, "has `1` tokens: it must have at least 2"));
    refused(path(&binary), &[], 1, &words(&binary, "is not UTF-8, which it must be"));
    refused("no/text", &[], 1, "cannot read the text `no/text`: No such file or directory (os error 2)");
    for (window, longest, limit) in
        [("0", 2048, &[][..]), ("1", 2048, &[]), ("2049", 2048, &[]), ("101", 100, &["--max-seq-len", "100"])]
    {
        let line = format!(
            "--window is `{window}`: it must be at least 2 and at most the longest sequence of {longest} tokens"
        );
        refused(path(&short), &[&["--window", window], limit].concat(), 2, &line);
    }
    let line = format!("a text needs `{GQA}/tokenizer.json`, which does not exist");
    refused(path(&short), &["--model", GQA], 1, &line);
}

//! The line that ends a run.

use crate::program::{GQA, SHAKESPEARE, generate};

/// The line with `#` for every number, and the numbers.
fn figures(line: &str) -> (String, Vec<f64>) {
    let (mut shape, mut numbers, mut rest) = (String::new(), Vec::new(), line);
    while let Some(start) = rest.find(|character: char| character.is_ascii_digit()) {
        let (before, number) = rest.split_at(start);
        let end =
            number.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(number.len());
        shape.extend([before, "#"]);
        numbers.push(number[..end].parse().expect("a number"));
        rest = &number[end..];
    }
    (shape + rest, numbers)
}

fn summary(model: &str, arguments: &[&str]) -> (String, Vec<f64>) {
    let ran = generate(model, arguments);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let said = ran.said();
    assert_eq!(said.len(), 1, "the summary is all that is no log: {said:?}");
    figures(said[0])
}

#[test]
fn every_figure_is_that_of_the_run() {
    let (shape, numbers) = summary(SHAKESPEARE, &["--prompt", "A", "--prompt", "B", "--max-new-tokens", "3"]);
    assert_eq!(
        shape,
        "#m | dynamic | graphs # (# distinct) | requests: cli, n #, g # | kv: # MB, # pages [r #, t #] … throughput: # tok/s … \
         total time: #s … mem # allocated/# reserved MB … steps: # … capture # sec"
    );
    let [weights, graphs, distinct, requests, tokens, kv, pages, slots, rows, rest @ ..] = &numbers[..] else {
        panic!("{numbers:?}")
    };
    assert_eq!([*weights, *graphs, *requests, *tokens, *slots, *rows], [3.0, 60.0, 2.0, 3.0, 396.0, 16384.0]);
    assert!((1.0..=60.0).contains(distinct));
    // Two requests of one page, and the dummy page; a page is 128 KB in this model, and memory comes in units of 2 MB.
    assert_eq!([*kv, *pages], [2.0, 3.0]);
    let [throughput, seconds, allocated, reserved, steps, capture] = rest else { panic!("{numbers:?}") };
    assert!((throughput * seconds / 6.0 - 1.0).abs() < 0.02, "six tokens: {numbers:?}");
    assert!(*allocated > 6.0 && reserved > allocated, "{numbers:?}");
    assert_eq!(*steps, 3.0);
    assert!(*capture > 0.0, "{numbers:?}");
}

#[test]
fn without_graphs_the_line_says_so() {
    let (shape, _) = summary(GQA, &["--prompt-ids", "1", "--max-new-tokens", "1", "--eager"]);
    assert!(shape.starts_with("#k | dynamic | graphs -- | requests: cli, n #, g # | kv: # MB, # pages"), "{shape}");
    assert!(shape.ends_with("… steps: # … capture --"), "{shape}");
}

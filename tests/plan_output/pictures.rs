//! Pictures: what is in them, and that those of the documentation are what its commands draw.

use std::fs;

use super::{ENGINE, TRACE, root, stdout};

const PAGE: &str = "docs/choosing-a-plan.md";

fn svg(arguments: &[&str]) -> String {
    let svg = stdout(&[&["plan", "--format", "svg"], arguments].concat());
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for number in ["NaN", "inf", "\"-2147483648\""] {
        assert!(!svg.contains(number), "{number} in {arguments:?}");
    }
    svg
}

#[test]
fn every_point_is_drawn() {
    let grid = svg(&[]);
    // One more of each kind stands in the legend.
    assert_eq!(grid.matches("<circle").count(), 43 + 1);
    assert_eq!(grid.matches("<polygon").count(), 8 + 1);
    assert!(grid.contains("exponential: 60 graphs, 17 of them different") && grid.contains("tokens T"), "{grid}");
}

#[test]
fn steps_lie_under_the_grid() {
    let picture = svg(&[&["--trace", TRACE], &ENGINE[..]].concat());
    assert!(picture.contains("of the steps are decode-only") && picture.contains("share of its kind"), "{picture}");
}

#[test]
fn any_plan_is_drawn() {
    for arguments in [
        &["--num-cuda-graphs", "none"][..],
        &["--decode-only"],
        &["--max-requests", "1", "--max-tokens", "1"],
        &["--sizing", "linear", "--all-prefills"],
        &["--max-requests", "4294967295", "--max-tokens", "4294967295", "--decode-only"],
    ] {
        svg(arguments);
    }
}

#[test]
fn a_family_is_a_line_and_a_policy_a_point() {
    let policies = "exponential,geometric:1.41,fit:36,vllm";
    let trade = svg(&[&["--trace", TRACE, "--compare", policies], &ENGINE[..]].concat());
    for words in ["geometric:R", "fit:K", "geometric:1.06", "exponential", "time added, %"] {
        assert!(trade.contains(words), "no `{words}`");
    }
    assert!(trade.contains("vllm (18."), "misses are said");
    let alone = svg(&[&["--trace", TRACE, "--compare", "linear"], &ENGINE[..]].concat());
    assert!(!alone.contains("geometric") && !alone.contains("fit:K"));
}

#[test]
fn the_pages_pictures_are_what_its_commands_draw() {
    let page = fs::read_to_string(root().join(PAGE)).expect("the page");
    let commands: Vec<(&str, &str)> =
        page.lines().filter_map(|line| line.strip_prefix("    gridpoint ")?.split_once(" > ")).collect();
    assert!(commands.len() >= 4, "{PAGE} shows too few commands");
    for (arguments, file) in commands {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let committed = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(page.contains(&format!("]({})", file.trim_start_matches("docs/"))), "{PAGE} does not show {file}");
        assert!(
            stdout(&arguments) == committed,
            "`{file}` is not what `gridpoint {}` draws: draw it again",
            arguments.join(" ")
        );
    }
}

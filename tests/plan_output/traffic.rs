//! Policies on traffic: the reference's figures, and what is no traffic.

use serde_json::{Value, json};

use super::{ENGINE, Folder, TRACE, failure, json as answer, stdout};

const HEADER: &str = "arrival_s,input_tokens,output_tokens";

fn compared(policies: &str, more: &[&str]) -> Value {
    answer(&[&["plan", "--trace", TRACE, "--compare", policies, "--format", "json"], more].concat())
}

fn row<'a>(comparison: &'a Value, policy: &str) -> &'a Value {
    let rows = comparison["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["policy"] == policy).unwrap_or_else(|| panic!("no row `{policy}`: {comparison}"))
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_else(|| panic!("no `{field}`: {row}"))
}

#[test]
fn the_reference_figures_hold() {
    let comparison = compared("exponential,linear,hybrid,geometric:1.41,fit:36", &ENGINE);
    assert_eq!(comparison["trace"]["requests"], 9739);
    assert!(comparison["trace"]["steps"].as_u64().is_some_and(|steps| steps > 10_000), "{comparison}");
    let names: Vec<&Value> = comparison["rows"].as_array().expect("rows").iter().map(|row| &row["policy"]).collect();
    assert_eq!(names, ["exponential", "linear", "hybrid", "geometric:1.41", "fit:36"]);

    let exponential = row(&comparison, "exponential");
    assert_eq!((&exponential["graphs"], &exponential["miss_rate"]), (&json!(98), &json!(0.0)));
    assert_eq!(exponential["bytes"], json!(98_u64 << 21));
    assert!((number(exponential, "time_overhead") - 0.36).abs() < 0.02, "{exponential}");
    assert!(number(exponential, "prefill_slack") < 0.26, "{exponential}");
    assert!(number(row(&comparison, "fit:36"), "time_overhead") <= 0.075, "{comparison}");
    assert!((number(row(&comparison, "linear"), "time_overhead") - 0.003).abs() < 0.001, "{comparison}");
    assert!(number(row(&comparison, "linear"), "prefill_slack") > 7.0, "{comparison}");
    assert!((number(row(&comparison, "geometric:1.41"), "time_overhead") - 0.146).abs() < 0.015, "{comparison}");
    for field in ["graphs", "distinct", "bytes", "token_padding", "slot_padding"] {
        assert!(number(row(&comparison, "hybrid"), field) > 0.0, "{field}");
    }
}

#[test]
fn a_comparison_fits_a_terminal() {
    let sizes = (1..=60).map(|size| size.to_string()).collect::<Vec<_>>().join(",");
    let policies = format!("linear,list:{sizes}/8192,sglang,geometric:1.123456789012345678901234567");
    let table = stdout(&[&["plan", "--trace", TRACE, "--compare", &policies], &ENGINE[..]].concat());
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(table.contains("9739 requests") && table.contains("sglang"), "{table}");
}

#[test]
fn a_fit_becomes_a_plan_that_a_file_keeps() {
    let folder = Folder::new();
    let path = folder.path("fit.json");
    let plan = [&["plan", "--trace", TRACE, "--sizing", "fit:30", "--output", &path, "--format", "json"], &ENGINE[..]];
    let fitted = answer(&plan.concat());
    assert!(number(&fitted["evaluation"], "time_overhead") < 0.1, "{}", fitted["evaluation"]);
    let hits: u64 = fitted["evaluation"]["hits"].as_array().expect("hits").iter().filter_map(Value::as_u64).sum();
    assert_eq!(fitted["trace"]["steps"].as_u64(), Some(hits));
    let again = answer(&["plan", "--plan", &path, "--format", "json"]);
    assert_eq!(again["points"], fitted["points"]);
    let table = stdout(&[&["plan", "--trace", TRACE, "--sizing", "fit:30"], &ENGINE[..]].concat());
    assert!(table.contains("policy   fit:30 sizing") && table.lines().all(|line| line.len() <= 80), "{table}");
}

#[test]
fn recorded_steps_cost_curves_and_tiles() {
    let folder = Folder::new();
    let steps = folder.write("steps.json", r#"{"steps":[[300,2,40,10],[7,0,7,90]]}"#);
    let curve = folder.write("cost.csv", "tokens,seconds\n1,0.001\n1000,1\n");
    let padding = |more: &[&str]| {
        let command = ["plan", "--steps", &steps, "--compare", "exponential,fit:20", "--format", "json"];
        let comparison = answer(&[&command, more].concat());
        assert_eq!(comparison["trace"], json!({"requests": null, "steps": 100}));
        assert_eq!(number(row(&comparison, "fit:20"), "time_overhead"), 0.0);
        number(row(&comparison, "exponential"), "time_overhead")
    };
    assert!(padding(&["--cost", &curve]) > padding(&[]));
    assert!((padding(&["--cost", &curve, "--tile", "512"])).abs() < 1e-12);
    // A budget drops what no step replays.
    let plan = answer(&["plan", "--steps", &steps, "--budget-graphs", "5", "--format", "json"]);
    let replayed: Vec<bool> =
        plan["evaluation"]["hits"].as_array().expect("hits").iter().map(|hits| hits.as_u64() > Some(0)).collect();
    assert_eq!(replayed.iter().filter(|replayed| **replayed).count(), 2, "{plan}");
    assert!((number(&plan["evaluation"], "token_padding") - 0.388).abs() < 0.001, "{plan}");
}

#[test]
fn several_traces_are_several_engines() {
    let folder = Folder::new();
    let rows: String = (0..50).map(|second| format!("{second},100,20\n")).collect();
    let other = folder.write("other.csv", &format!("{HEADER}\n{rows}"));
    let requests = |traces: &[&str]| {
        let command = [&["plan", "--format", "json", "--trace"], traces].concat();
        answer(&command)["trace"]["requests"].as_u64().expect("a number")
    };
    assert_eq!(requests(&[&other]), 50);
    assert_eq!(requests(&[&other, "--trace", &other]), 100);
    assert_eq!(requests(&[&other, &other]), 100);
}

#[test]
fn what_is_no_traffic_is_a_sentence() {
    let folder = Folder::new();
    for (content, sentence) in [
        ("", "line 1: the file is empty; its first line must be `arrival_s,input_tokens,output_tokens`"),
        ("arrival_s,input_tokens\n1,2\n", "line 1: the column `output_tokens` is missing"),
        ("arrival_s,input_tokens,output_tokens\n", "the file ends after `0` rows; it must have at least 1"),
        ("arrival_s,input_tokens,output_tokens\n1,-4,3\n", "line 2: `input_tokens` is `-4`; it must be a whole number"),
        ("arrival_s,input_tokens,output_tokens\n1,4,99999999999\n", "line 2: `output_tokens` is `99999999999`"),
        ("arrival_s,input_tokens,output_tokens\nNaN,4,3\n", "line 2: `arrival_s` is `NaN`"),
        ("arrival_s,input_tokens,output_tokens\n2,4,3\n1,4,3\n", "line 3: `arrival_s` is `1` after `2`"),
    ] {
        let path = folder.write("trace.csv", content);
        let stderr = failure(&["plan", "--trace", &path], 1);
        assert!(stderr.contains(&path) && stderr.contains(sentence), "{stderr}");
    }
    for content in ["", "{}", r#"{"steps":[]}"#, r#"{"steps":[[4,3,2,1]]}"#, r#"{"steps":[[4,1,2,0]]}"#] {
        let path = folder.write("steps.json", content);
        let stderr = failure(&["plan", "--steps", &path], 1);
        assert!(stderr.starts_with(&format!("error: the recorded steps `{path}` are ")), "{stderr}");
    }
    let steps = folder.write("steps.json", r#"{"steps":[[7,0,7,9]]}"#);
    let curve = folder.write("cost.csv", "tokens,seconds\n8,0.002\n16,0.001\n");
    let stderr = failure(&["plan", "--steps", &steps, "--cost", &curve], 1);
    assert!(stderr.contains("line 3: `seconds` is `0.001` after `0.002`"), "{stderr}");
    assert!(failure(&["plan", "--trace", "no/such.csv"], 1).contains("cannot read the trace `no/such.csv`"));
}

#[test]
fn flags_that_cannot_be_meant_are_wrong_usage() {
    let folder = Folder::new();
    let steps = folder.write("steps.json", r#"{"steps":[[7,0,7,9]]}"#);
    for (arguments, sentence) in [
        (&["--trace", TRACE, "--load", "-1"][..], "--load is `-1`: it must be a number above 0"),
        (&["--trace", TRACE, "--load", "NaN"], "--load is `NaN`: it must be a number above 0"),
        (&["--trace", TRACE, "--rate-factor", "0"], "--rate-factor is `0`: it must be a number above 0"),
        (&["--trace", TRACE, "--load", "1", "--rate-factor", "1"], "cannot be used with"),
        (&["--trace", TRACE, "--steps", &steps], "cannot be used with"),
        (&["--trace", TRACE, "--max-tokens", "100"], "max_tokens is `100`; it must be at least max_requests, 396"),
        (&["--steps", &steps, "--load", "1"], "--load"),
        (&["--load", "1"], "--trace"),
        (&["--cost", "x.csv"], "--trace"),
        (&["--steps", &steps, "--tile", "0"], "--tile is `0`: it must be at least 1"),
        (&["--compare", "linear"], "--trace"),
        (&["--steps", &steps, "--compare", "linear,ollama"], "`ollama` is not a policy to compare"),
        (&["--steps", &steps, "--compare", "geometric:1"], "the ratio is `1`; it must be a finite number above 1"),
        (&["--steps", &steps, "--compare", "fit:3"], "`fit:3` has no plan: the number of sizes to fit is `3`"),
        (&["--steps", &steps, "--compare", "linear", "--sizing", "linear"], "--compare names the laws"),
        (&["--steps", &steps, "--compare", "linear", "--output", "x"], "cannot be used with"),
    ] {
        let stderr = failure(&[&["plan"], arguments].concat(), 2);
        assert!(stderr.contains(sentence), "{arguments:?}: {stderr}");
    }
}

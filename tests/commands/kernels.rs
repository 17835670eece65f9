//! `gridpoint kernels`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::program::{GQA, Ran};

/// What stands over times of the simulated device.
const SIMULATED: &str = "SIMULATED DEVICE: every time below";

#[test]
fn a_step_is_counted_as_an_object() {
    let ran = Ran::new(&["kernels", "--model", GQA, "--point", "8:1:4", "--counters", "--format", "json"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let object = ran.json();
    assert_eq!(object["point"], serde_json::json!([8, 1, 4]));
    assert_eq!(object["step"], object["point"]);
    assert_eq!(object["graph"]["launches"], 15);
    let kernels = object["kernels"].as_array().expect("kernels");
    let names: Vec<&str> = kernels.iter().filter_map(|kernel| kernel["kernel"].as_str()).collect();
    assert_eq!(names[..3], ["schedule_attention", "embedding_gather", "skinny_rotary"]);
    let qkv = serde_json::json!({"kernel": "skinny", "from": "built in", "rows_class": 8});
    assert_eq!(object["products"]["qkv product"], qkv);
    assert!(object["products_from"].as_str().is_some_and(|words| words.starts_with("built in: ")), "{object}");
    for kernel in kernels {
        let counts = &kernel["counts"];
        assert_eq!(counts["written"]["distinct"], counts["written"]["least"], "{kernel}");
        assert_eq!(counts["multiplies"]["m16n8k16"], counts["multiplies"]["tiled"], "{kernel}");
    }
}

#[test]
fn a_padded_step_is_counted_as_a_table() {
    let arguments = ["kernels", "--model", GQA, "--point", "64:2:8", "--real", "9:1:3", "--context", "7", "--counters"];
    let ran = Ran::new(&arguments);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let mut lines = ran.stdout.lines();
    assert_eq!(lines.next(), Some("point [64]: 2 P + 8 D, step 9:1:3, 7 tokens before a decode"));
    assert!(ran.stdout.lines().any(|line| line.starts_with("graph   ")), "{ran:?}");
    // A row of the table has as many cells as the headings.
    let cells = |start: &str| {
        let line = ran.stdout.lines().find(|line| line.starts_with(start)).expect("the line");
        line.split("  ").filter(|cell| !cell.is_empty()).count()
    };
    assert_eq!(cells("kernel "), cells("attention_hopper_d64 "));
}

#[test]
fn what_cannot_be_counted_is_refused() {
    let says = |arguments: &[&str], status: i32, words: &str| {
        let ran = Ran::new(&[&["kernels", "--model", GQA], arguments].concat());
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(status), ""), "{ran:?}");
        assert!(ran.stderr.contains(words), "{ran:?}");
    };
    says(&["--point", "8:1:4", "--counters", "--device", "cuda"], 2, "counters are those of the simulated device");
    says(&["--point", "8:1:4", "--counters", "--real", "9:1:4"], 1, "does not fit the point [8]: 1 P + 4 D");
    says(&["--point", "8:1", "--counters"], 2, "8:1");
    says(&["--point", "8:1:4"], 2, "--counters");
    // A point of which a kernel would count past 32 bits is refused before anything is allocated.
    says(
        &["--point", "1073741825:1:4", "--real", "8:1:4", "--counters"],
        1,
        "`query rows of schedule.cu, tokens x group` would be `2147483650`, the kernels count it to at most 2147483648",
    );
}

/// Arguments for a step of the smallest shape, timed once.
fn timed<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["kernels", "--time", "--shape", "tiny", "--device", "simulator", "--repeats", "1"], more].concat()
}

#[test]
fn a_step_is_timed_as_an_object() {
    let ran = Ran::new(&timed(&[
        "--point",
        "12:1:4",
        "--real",
        "7:1:3",
        "--context",
        "70",
        "--layers",
        "3",
        "--format",
        "json",
    ]));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let object = ran.json();
    assert_eq!(object["simulated"], true);
    assert!(object["note"].as_str().is_some_and(|note| note.starts_with(SIMULATED)), "{object}");
    assert_eq!((&object["model"], &object["layers"]), (&"tiny".into(), &3.into()));
    assert!(object["ceilings"]["read_gigabytes_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{object}");
    let [case] = object["cases"].as_array().expect("cases").as_slice() else { panic!("one case: {object}") };
    assert_eq!((&case["point"], &case["step"]), (&serde_json::json!([12, 1, 4]), &serde_json::json!([7, 1, 3])));
    let kernels = case["kernels"].as_array().expect("kernels");
    let of = |operation: &str| kernels.iter().find(|one| one["operation"] == operation).expect("the operation");
    // Rows, two times the feed-forward width, width.
    assert_eq!(of("gate-up product")["product"], serde_json::json!([7, 384, 128]));
    assert_eq!(of("gate-up product")["multiply_adds"], 7 * 384 * 128);
    assert_eq!(of("head")["product"], serde_json::json!([4, 520, 128]));
    // Three decodes that see 71 keys, and 1 + 2 + 3 + 4 pairs of the prefill: scores and values of two heads of 64.
    assert_eq!(of("attention")["multiply_adds"], (3 * 71 + 10) * 2 * 2 * 64);
    let launches: u64 = kernels.iter().filter_map(|kernel| kernel["launches"].as_u64()).sum();
    assert!(launches > 3 * 4, "every layer's launches are timed: {object}");
    for kernel in kernels {
        let time = |name: &str| kernel[name]["median"].as_f64().is_some_and(|median| median > 0.0);
        assert!(["us", "chained_us", "same_bytes_us"].into_iter().all(time), "{kernel}");
        assert!(kernel["floor_us"].as_f64().is_some_and(|floor| floor > 0.0), "{kernel}");
    }
    assert!(["replay_us", "eager_us"].iter().all(|name| case[*name]["p90"].as_f64() > Some(0.0)), "{case}");
}

#[test]
fn every_case_is_timed_and_the_rivals_table_says_that_it_was_simulated() {
    let ran = Ran::new(&timed(&["--layers", "1", "--format", "json"]));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let cases: Vec<Value> = ran.json()["cases"].as_array().expect("cases").clone();
    assert!(
        cases.iter().any(|case| !case["padded_of"].is_null()) && cases.iter().any(|case| !case["mix_of"].is_null())
    );

    let folder = tempfile::tempdir().expect("a folder");
    let record = folder.path().join("ours.json");
    std::fs::write(&record, &ran.stdout).expect("the record is written");
    let rivals = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/rivals");
    let python = |arguments: &[&std::ffi::OsStr]| {
        let output = Command::new("python3").arg("-B").args(arguments).output().expect("python3 is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let table = python(&[rivals.join("table.py").as_os_str(), record.as_os_str()]);
    assert!(table.starts_with("**SIMULATED DEVICE"), "{table}");
    assert!(table.contains("not judged") && !table.contains("| met |") && !table.contains("| missed |"), "{table}");
    // The scripts' own tests.
    python(&["-m".as_ref(), "unittest".as_ref(), "discover".as_ref(), rivals.as_os_str()]);
}

#[test]
fn times_of_a_checkpoint_are_a_table_under_a_warning() {
    let arguments =
        ["kernels", "--time", "--model", GQA, "--point", "2:0:2", "--device", "simulator", "--repeats", "1"];
    let ran = Ran::new(&arguments);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stdout.starts_with(SIMULATED), "{ran:?}");
    assert!(ran.stdout.lines().any(|line| line.starts_with("step: replay ")), "{ran:?}");
}

#[test]
fn a_shape_is_counted_as_a_checkpoint_is() {
    let ran = Ran::new(&["kernels", "--counters", "--shape", "tiny", "--point", "4:0:4", "--format", "json"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(ran.json()["step"], serde_json::json!([4, 0, 4]));
}

#[test]
fn what_cannot_be_timed_is_refused_in_a_sentence() {
    let says = |arguments: &[&str], words: &str| {
        let ran = Ran::new(&[&["kernels", "--time", "--device", "simulator"], arguments].concat());
        assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.lines().count()), (Some(2), "", 1), "{ran:?}");
        assert!(ran.stderr.contains(words), "{ran:?}");
    };
    says(&["--shape", "llama-9"], "the shapes are llama-3-8b, llama-3-70b-tp8, llama-3.2-1b, tiny");
    says(&["--shape", "tiny", "--model", GQA], "--model");
    says(&["--shape", "tiny", "--layers", "0"], "--layers is `0`: it must be from 1 to 1024");
    says(&["--model", GQA, "--layers", "1"], "--layers is `1`: it goes with --shape");
    says(&["--shape", "tiny", "--repeats", "0"], "--repeats is `0`");
    says(&["--shape", "tiny", "--real", "1:0:1"], "--point");
    says(&["--shape", "tiny", "--point", "4:0:4", "--real", "5:0:5"], "does not fit the point [4]: 0 P + 4 D");
    says(&["--shape", "tiny", "--point", "1:0:1", "--context", "5000"], "must be at most the model's `4096`");
    says(&["--shape", "llama-3-8b", "--point", "1:0:1"], "the model's weights needs 16");
    says(&["--shape", "tiny", "--point", "1:0:1", "--counters"], "cannot be used with");
}

#[test]
fn the_readme_says_what_the_newest_record_says() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/readme-table.py");
    let output = Command::new("python3").arg("-B").arg(script).arg("--check").output().expect("python3 is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

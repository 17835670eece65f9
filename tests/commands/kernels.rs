//! `gridpoint kernels`.

use crate::program::{GQA, Ran};

#[test]
fn a_step_is_counted_as_an_object() {
    let ran = Ran::new(&["kernels", "--model", GQA, "--point", "8:1:4", "--counters", "--format", "json"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let object = ran.json();
    assert_eq!(object["point"], serde_json::json!([8, 1, 4]));
    assert_eq!(object["step"], object["point"]);
    assert_eq!(object["graph"]["launches"], 21);
    let kernels = object["kernels"].as_array().expect("kernels");
    let names: Vec<&str> = kernels.iter().filter_map(|kernel| kernel["kernel"].as_str()).collect();
    assert_eq!(names[..3], ["schedule_attention", "embedding_gather", "rms_norm"]);
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
    assert_eq!(cells("kernel "), cells("attention_d64 "));
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
    // 32 units of 8 pairs a token: a point of which a kernel would count past 32 bits is refused before anything is allocated.
    says(
        &["--point", "67108864:1:4", "--real", "8:1:4", "--counters"],
        1,
        "`units of rope.cu, tokens x heads x head_dim / 16` would be `2147483648`, the kernels count it to at most 2147483647",
    );
}

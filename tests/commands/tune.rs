//! `gridpoint tune`, and the tables that other commands take.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::{GQA, Ran};

/// Times the smallest shape once.
fn tune(cache: &Path, more: &[&str]) -> Ran {
    let common = ["tune", "--device", "simulator", "--simulated-times", "--repeats", "1"];
    Ran::with_cache(cache, &[&common[..], more].concat())
}

fn tiny<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["--shape", "tiny", "--layers", "1"], more].concat()
}

/// The one file in the cache folder.
fn cached(cache: &Path) -> PathBuf {
    let files = std::fs::read_dir(cache.join("gridpoint")).expect("the folder is there");
    let files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    let [file] = files.as_slice() else { panic!("one file: {files:?}") };
    file.clone()
}

#[test]
fn times_of_the_simulated_device_are_not_written_unasked() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = ["tune", "--device", "simulator", "--shape", "tiny", "--rows", "1"];
    let ran = Ran::with_cache(folder.path(), &arguments);
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.lines().count()), (Some(2), "", 1), "{ran:?}");
    assert!(ran.stderr.contains("say nothing of any GPU; --simulated-times writes"), "{ran:?}");
    assert!(!folder.path().join("gridpoint").exists());
}

#[test]
fn every_candidate_of_every_class_is_timed_and_the_table_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tables/tiny.json");
    let name = file.to_str().expect("a name");
    let ran = tune(folder.path(), &tiny(&["--rows", "3,4,70", "--output", name, "--format", "json"]));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let object = ran.json();
    assert_eq!(
        (&object["simulated"], &object["model"], &object["output"]),
        (&true.into(), &"tiny".into(), &name.into())
    );
    let table: Value = serde_json::from_slice(&std::fs::read(&file).expect("the table")).expect("JSON");
    assert_eq!(table, object["table"]);
    assert_eq!(table["device"]["name"], "gridpoint simulated device");
    let entries = table["entries"].as_array().expect("entries");
    // Four products of a layer, and the head, in the classes of 4 and 128 rows.
    assert_eq!(entries.len(), 10, "{table}");
    for entry in entries {
        let few = entry["rows"] == 4;
        assert!(few || entry["rows"] == 128, "{entry}");
        assert_eq!(entry["measured_rows"], if few { 4 } else { 70 });
        let times = entry["microseconds"].as_object().expect("times");
        assert_eq!(times.contains_key("skinny"), few, "{entry}");
        assert!(times.contains_key("tiles_64x64") && times.contains_key("tiles_128x128"), "{entry}");
        let least = times.values().filter_map(Value::as_f64).fold(f64::INFINITY, f64::min);
        assert_eq!(times[entry["kernel"].as_str().expect("a kernel")].as_f64(), Some(least), "{entry}");
    }

    // A point whose capacity rounds up to 4 takes what was measured, one of 8 does not.
    let of_point = |point: &str, products: &str| {
        let arguments = ["kernels", "--counters", "--point", point, "--format", "json", "--products", products];
        let ran = Ran::new(&[&arguments, &["--shape", "tiny", "--layers", "1"][..]].concat());
        assert_eq!(ran.status, Some(0), "{ran:?}");
        ran.json()
    };
    let measured = of_point("3:0:3", name);
    assert_eq!(measured["products_from"], format!("measured: `{name}`"));
    for (operation, epilogue) in [("qkv product", "rotary"), ("gate-up product", "swiglu"), ("head", "logits")] {
        let choice = &measured["products"][operation];
        let entry = entries.iter().find(|entry| entry["epilogue"] == epilogue && entry["rows"] == 4).expect("an entry");
        assert_eq!((&choice["kernel"], &choice["from"]), (&entry["kernel"], &"measured".into()), "{measured}");
    }
    for object in [of_point("8:0:8", name), of_point("3:0:3", "builtin")] {
        assert_eq!(object["products"]["down product"]["from"], "built in", "{object}");
        assert_eq!(object["products"]["down product"]["kernel"], "skinny", "{object}");
    }
}

#[test]
fn the_cache_folder_is_written_and_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path();
    let ran = tune(cache, &["--model", GQA, "--rows", "8"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stdout.starts_with("SIMULATED DEVICE: every time below"), "{ran:?}");
    assert!(ran.stdout.lines().any(|line| line.contains("rotary") && line.contains("tiles_128x128")), "{ran:?}");
    let file = cached(cache);
    assert!(ran.stdout.ends_with(&format!("`{}` has 5 entries\n", file.display())), "{ran:?}");
    // Another run adds to it.
    let ran = tune(cache, &["--model", GQA, "--rows", "2", "--format", "json"]);
    assert_eq!(ran.json()["entries"], 10, "{ran:?}");

    let generate = |cache: &Path, more: &[&str]| {
        let common = ["generate", "--device", "simulator", "--format", "json", "--model", GQA, "--prompt-ids", "1,2,3"];
        let limits = ["--max-new-tokens", "4", "--max-requests", "8", "--max-tokens", "8", "--all-prefills"];
        Ran::with_cache(cache, &[&common[..], &limits, more].concat())
    };
    let measured = |ran: &Ran| {
        let groups = ran.json()["products"].as_array().expect("products").clone();
        let of = |tokens: u32| {
            let group =
                groups.iter().find(|group| group["tokens"].as_array().is_some_and(|all| all.contains(&tokens.into())));
            let kernels = group.expect("the tokens").clone();
            kernels["kernels"]["qkv product"].as_str().is_some_and(|words| words.ends_with(" (measured)"))
        };
        [8, 4, 2].map(of)
    };
    let [found, built_in] = [generate(cache, &[]), generate(cache, &["--products", "builtin"])];
    assert_eq!((found.status, built_in.status), (Some(0), Some(0)), "{found:?} {built_in:?}");
    assert!(found.stderr.contains("products' kernels are measured: "), "{found:?}");
    assert!(found.stderr.contains("products at 8"), "{found:?}");
    assert_eq!((measured(&found), measured(&built_in)), ([true, false, true], [false; 3]), "{found:?}");
    assert_eq!(found.json()["results"], built_in.json()["results"], "no choice changes a result");

    // A file of another version is not used, and that is said; named, it is an error.
    let text = std::fs::read_to_string(&file).expect("the table");
    let older =
        text.replacen(&format!("\"gridpoint\":\"{}\"", env!("CARGO_PKG_VERSION")), "\"gridpoint\":\"0.0.1\"", 1);
    std::fs::write(&file, older).expect("it is written");
    let ran = generate(cache, &[]);
    assert_eq!((ran.status, measured(&ran)), (Some(0), [false; 3]), "{ran:?}");
    assert!(
        ran.stderr.contains("WARN products' kernels are built in: `") && ran.stderr.contains("tune again"),
        "{ran:?}"
    );
    let name = file.to_str().expect("a name");
    let ran = generate(cache, &["--products", name]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.said()[0].starts_with("error: --products: `"), "{ran:?}");
    // `tune` replaces what is the program's own, and nothing else.
    let ran = tune(cache, &["--model", GQA, "--rows", "1", "--output", name]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("--output names a file that is not replaced"), "{ran:?}");
    let ran = tune(cache, &["--model", GQA, "--rows", "1"]);
    assert!(ran.status == Some(0) && ran.stdout.contains("what lay there was replaced: "), "{ran:?}");
}

#[test]
fn what_cannot_be_tuned_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let says = |arguments: &[&str], words: &str| {
        let ran = tune(folder.path(), arguments);
        assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.lines().count()), (Some(2), "", 1), "{ran:?}");
        assert!(ran.stderr.contains(words), "{ran:?}");
    };
    says(&["--shape", "tiny", "--rows", "0"], "--rows has `0`");
    says(&["--shape", "tiny", "--rows", "1,x"], "it must be a whole number");
    says(&["--shape", "tiny", "--num-cuda-graphs", "none"], "--rows must name the rows");
    says(&["--shape", "llama-3-8b", "--rows", "1"], "fewer --rows or --layers take less");
}

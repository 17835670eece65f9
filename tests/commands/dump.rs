//! `--dump-graphs`: the files say what was captured.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::program::{GQA, Ran, generate, generated, refuses};

const ARGUMENTS: [&str; 8] =
    ["--prompt-ids", "1,2,3", "--max-new-tokens", "2", "--max-requests", "4", "--max-tokens", "16"];

fn read(folder: &Path, name: &str) -> Value {
    let text = fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("`{name}`: {error}"));
    serde_json::from_str(&text).expect("JSON")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("the folder was made");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
}

/// Runs `generate` and gives its answer beside the index.
fn dumped(folder: &Path, arguments: &[&str]) -> (Value, Value) {
    let path = folder.to_str().expect("a path of plain letters");
    let answer = generated(GQA, &[&ARGUMENTS[..], &["--dump-graphs", path], arguments].concat());
    (answer, read(folder, "index.json"))
}

/// Nodes and edges of a picture for Graphviz: each node is stated once, and edges lead from a stated node to a stated node.
fn picture(text: &str) -> (usize, Vec<bool>) {
    assert!(text.starts_with("digraph ") && text.ends_with("}\n"), "{text}");
    assert_eq!(text.matches('{').count(), text.matches('}').count(), "{text}");
    let mut nodes = BTreeSet::new();
    let mut edges = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('"')) {
        let quoted: Vec<&str> = line.split('"').collect();
        if line.contains("\" -> \"") {
            assert!(nodes.contains(quoted[1]) && nodes.contains(quoted[3]), "{line}");
            edges.push(line.contains("programmatic"));
        } else {
            assert!(nodes.insert(quoted[1]), "{line}");
        }
    }
    (nodes.len(), edges)
}

#[test]
fn every_distinct_graph_is_written_and_the_index_names_its_points() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("made").join("for it");
    let (answer, index) = dumped(&path, &[]);
    assert_eq!((&index["points"], &index["distinct"]), (&answer["plan"]["graphs"], &answer["plan"]["distinct"]));
    assert_eq!(index["captured"], true);
    let mut files = BTreeSet::from(["index.json".to_owned()]);
    let (mut points, mut nodes) = (0, 0);
    for (at, entry) in index["graphs"].as_array().expect("a list").iter().enumerate() {
        assert_eq!(entry["number"], at + 1);
        let tokens = &entry["points"][0]["tokens"];
        let name = format!("graph-{:02}-T{tokens}", at + 1);
        assert_eq!(entry["files"], json!([format!("{name}.json"), format!("{name}.dot")]));
        files.extend(["json", "dot"].map(|extension| format!("{name}.{extension}")));
        let graph = read(&path, &format!("{name}.json"));
        assert_eq!((&graph["number"], &graph["points"]), (&entry["number"], &entry["points"]));
        let list = graph["nodes"].as_array().expect("a list");
        assert_eq!(entry["nodes"], list.len());
        let counted: u64 = entry["kernels"].as_object().expect("an object").values().filter_map(Value::as_u64).sum();
        assert_eq!(counted, list.len() as u64);
        points += entry["points"].as_array().map_or(0, Vec::len);
        nodes += list.len();

        let text = fs::read_to_string(path.join(format!("{name}.dot"))).expect("the picture");
        let (pictured, edges) = picture(&text);
        assert_eq!(pictured, list.len());
        let programmatic: Vec<bool> = list[1..].iter().map(|node| node["edge"] == "programmatic").collect();
        assert_eq!(edges, programmatic, "the edges of {name}");
        for node in list {
            let kernel = node["kernel"].as_str().expect("a name");
            let grid = format!("kernel {kernel} grid [{}, 1, 1]", node["grid"][0]);
            assert!(text.contains(&grid), "{name} lacks `{grid}`");
        }
    }
    assert_eq!((index["points"].clone(), index["nodes"].clone()), (json!(points), json!(nodes)));
    assert_eq!(names(&path), files);
}

#[test]
fn a_node_shows_geometry_and_parameters_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, index) = dumped(folder.path(), &[]);
    let config: Value =
        serde_json::from_slice(&fs::read(Path::new(GQA).join("config.json")).expect("the model")).expect("JSON");
    let graph = read(folder.path(), index["graphs"][0]["files"][0].as_str().expect("a name"));
    let list = graph["nodes"].as_array().expect("a list");
    let [first, second] = [&list[0], &list[1]];
    assert_eq!(
        (&first["kernel"], &first["kind"], &first["edge"]),
        (&json!("schedule_attention"), &json!("kernel"), &json!("none"))
    );
    let embedding = &second["parameters"];
    assert_eq!((&embedding["hidden"], &embedding["vocabulary"]), (&config["hidden_size"], &config["vocab_size"]));
    assert_eq!(second["edge"], "programmatic", "the simulated device has compute capability 9.0");
    assert_eq!(
        (&first["parameters"]["kv_heads"], &first["grid"], &first["cluster"]),
        (&config["num_key_value_heads"], &json!([1, 1, 1]), &json!([1, 1, 1]))
    );
    // All read the one step block, and each product's output is where the next reads.
    let step = embedding["step"].as_str().filter(|address| address.starts_with("0x") && address.len() > 4);
    assert!(step.is_some(), "{embedding}");
    let head = list
        .iter()
        .rev()
        .find(|node| node["kernel"].as_str().is_some_and(|name| name.contains("norm")))
        .expect("the last norm");
    let epsilon = head["parameters"]["epsilon"].as_f64().expect("a number");
    assert!((epsilon - config["rms_norm_eps"].as_f64().expect("a number")).abs() < 1e-9, "{epsilon}");
    assert_eq!(head["parameters"]["step"].as_str(), step);
    let sample = list.last().expect("a node");
    let product = &list[list.len() - 2]["parameters"];
    let product = if product["gemm"].is_null() { product } else { &product["gemm"] };
    assert_eq!(sample["parameters"]["logits"], product["output"]);
    assert_eq!(head["parameters"]["output"], product["activations"]);
    assert_eq!((&product["n"], &product["k"]), (&config["vocab_size"], &config["hidden_size"]));
    assert!(list.iter().all(|node| node["shared_bytes"].is_u64() && node["block"][0].as_u64() > Some(31)));
}

#[test]
fn without_graphs_the_files_say_what_would_be_captured() {
    let [captured, eager] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let (_, with) = dumped(captured.path(), &["--launches", "serial"]);
    let (_, without) = dumped(eager.path(), &["--launches", "serial", "--eager"]);
    assert_eq!((&with["captured"], &without["captured"]), (&json!(true), &json!(false)));
    assert_eq!(with["graphs"], without["graphs"]);
    assert_eq!(names(captured.path()), names(eager.path()));
    let name = with["graphs"][0]["files"][0].as_str().expect("a name");
    let graph = read(captured.path(), name);
    assert!(graph["nodes"].as_array().is_some_and(|list| list[1..].iter().all(|node| node["edge"] == "full")));
}

#[test]
fn what_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("written");
    let path = file.to_str().expect("a path of plain letters");
    let ran = generate(GQA, &[&ARGUMENTS[..], &["--dump-graphs", path]].concat());
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    let line = ran.said().into_iter().find(|line| line.starts_with("error: ")).map(str::to_owned).unwrap_or_default();
    assert!(line.starts_with(&format!("error: cannot write `{path}` (--dump-graphs): ")), "{line}");
    // A folder stands where the driver is to write its picture, then where the program is to write its own.
    for name in ["graph-01-T16.dot", "graph-01-T16.json", "index.json"] {
        let blocked = folder.path().join(format!("blocks {name}"));
        fs::create_dir_all(blocked.join(name)).expect("made");
        let ran = generate(
            GQA,
            &[&ARGUMENTS[..], &["--all-prefills", "--dump-graphs", blocked.to_str().expect("UTF-8")]].concat(),
        );
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        let lines = ran.said();
        let named = lines.iter().any(|line| line.contains("(--dump-graphs)") && line.contains(&format!("{name}`")));
        assert!(named, "{name}: {lines:?}");
    }
}

#[test]
fn a_span_of_steps_is_two_numbers() {
    for word in ["5", "0:3", "4:3", "-1:2"] {
        let ran = generate(GQA, &[&ARGUMENTS[..], &["--profile-steps", word]].concat());
        let sentence = "it must be the first and the last step to record, such as `10:20`, counted from 1";
        refuses(&ran, 2, &format!("invalid value '{word}' for '--profile-steps <A:B>': {sentence}"));
    }
    let ran = Ran::new(
        &[&["generate", "--device", "simulator", "--model", GQA, "--profile-steps", "7:8"], &ARGUMENTS[..]].concat(),
    );
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("no step is recorded: steps 7:8 were asked for, and the run had 2"), "{ran:?}");
}

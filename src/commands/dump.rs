//! `--dump-graphs`: every distinct graph as files.

use std::path::Path;
use std::{fs, io};

use gridpoint_engine::Engine;
use gridpoint_graph::GraphDescription;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::commands::Failure;

/// Writes graphs and their index to `folder`, which is made where it is missing. Files of the same names are replaced, others stay.
pub(crate) fn write(engine: &Engine, folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| not_written(folder, &error))?;
    let graphs = engine.describe_graphs();
    let mut entries = Vec::with_capacity(graphs.len());
    for graph in &graphs {
        let name = name(graph);
        let [dot, text] = ["dot", "json"].map(|extension| format!("{name}.{extension}"));
        save(&folder.join(&text), graph)?;
        let printed = engine.print_graph(graph, &folder.join(&dot));
        printed.map_err(|error| Failure::Failed(format!("{error} (--dump-graphs)").into()))?;
        let kernels = graph.kernels().into_iter().map(|(kernel, count)| (kernel.to_owned(), json!(count)));
        entries.push(json!({
            "number": graph.number,
            "files": [text, dot],
            "nodes": graph.nodes.len(),
            "points": graph.points,
            "kernels": kernels.collect::<Map<String, Value>>(),
        }));
    }
    let index = json!({
        "points": graphs.iter().map(|graph| graph.points.len()).sum::<usize>(),
        "distinct": graphs.len(),
        "nodes": graphs.iter().map(|graph| graph.nodes.len()).sum::<usize>(),
        // Without graphs, these are those that would be captured.
        "captured": engine.capture().distinct > 0,
        "graphs": entries,
    });
    save(&folder.join("index.json"), &index)
}

/// The name of a graph's files: its number and the tokens of its first point.
fn name(graph: &GraphDescription) -> String {
    let tokens = graph.points.first().map_or(0, |point| point.tokens);
    format!("graph-{:02}-T{tokens}", graph.number)
}

fn save(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    fs::write(path, text + "\n").map_err(|error| not_written(path, &error))
}

fn not_written(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot write `{}` (--dump-graphs): {error}", path.display()).into())
}

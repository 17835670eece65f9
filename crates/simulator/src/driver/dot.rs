//! Graphs as text for Graphviz (CUDA driver API, cuGraphDebugDotPrint).

use std::ffi::{c_char, c_uint};
use std::fmt::Write;

use gridpoint_driver::{
    CU_GRAPH_KERNEL_NODE_PORT_LAUNCH_ORDER, CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC, CUgraph, CUresult, Table,
};

use super::graphs::Graph;
use super::modules::text;
use super::work::Work;
use super::{Answer, in_context};

pub(super) fn fill(table: &mut Table) {
    table.cuGraphDebugDotPrint = debug_dot_print;
}

fn label(work: &Work) -> String {
    match work {
        Work::Empty => "empty".to_owned(),
        Work::Kernel(kernel) => format!(
            "kernel {} grid {:?} block {:?} shared {}",
            kernel.kernel.name(),
            kernel.grid,
            kernel.block,
            kernel.shared_bytes
        ),
        Work::Copy { bytes, .. } => format!("memcpy {bytes} bytes"),
        Work::Fill { width, count, .. } => format!("memset {count} times {width} bytes"),
        Work::Host { .. } | Work::Callback { .. } => "host".to_owned(),
        Work::Record(_) => "event record".to_owned(),
        Work::Wait(_) => "event wait".to_owned(),
        Work::Free(_) => "free".to_owned(),
        Work::Graph(image) => format!("graph of {} nodes", image.nodes.len()),
    }
}

fn dot(graph: &Graph) -> Result<String, std::fmt::Error> {
    let number: Vec<u64> = graph.nodes.keys().copied().collect();
    let name = |node: u64| number.binary_search(&node).unwrap_or_default();
    let mut text = String::from("digraph dot {\nsubgraph cluster_1 {\nlabel=\"graph_1\"\n");
    for (&node, content) in &graph.nodes {
        writeln!(text, "\"graph_1_node_{}\" [label=\"{}\"];", name(node), label(&content.work))?;
    }
    for (edge, to) in graph.edges() {
        let style = match edge.data.from_port {
            CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC => " [style=dashed label=\"programmatic\"]",
            CU_GRAPH_KERNEL_NODE_PORT_LAUNCH_ORDER => " [style=dotted label=\"launch order\"]",
            _ => "",
        };
        writeln!(text, "\"graph_1_node_{}\" -> \"graph_1_node_{}\"{style};", name(edge.from), name(to))?;
    }
    text.push_str("}\n}\n");
    Ok(text)
}

fn print(graph: &Graph, path: &str) -> Answer {
    let text = dot(graph).map_err(|_| CUresult::ERROR_UNKNOWN)?;
    std::fs::write(path, text).map_err(|_| CUresult::ERROR_OPERATING_SYSTEM)
}

/// Every detail is always printed: the flags change nothing.
unsafe extern "C" fn debug_dot_print(graph: CUgraph, path: *const c_char, _flags: c_uint) -> CUresult {
    in_context(|state| print(state.graph(graph)?, text(path)?))
}

//! Graphs (CUDA driver API, "Graph Management").
//!
//! Nodes are numbered as they are made and a node only depends on ones that exist, so their order is a topological one.

use std::collections::BTreeMap;
use std::ffi::c_uint;

use gridpoint_driver::{CUgraph, CUgraphNode, CUgraphNodeType as Kind, CUresult, Table};

use super::state::{Id, State, handle, id};
use super::work::Work;
use super::{Answer, get, in_context, put, releasing};

/// A node: its work, and the nodes that must run before it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) work: Work,
    pub(super) dependencies: Vec<Id>,
}

impl Node {
    pub(super) fn kind(&self) -> Kind {
        match self.work {
            Work::Empty => Kind::EMPTY,
            Work::Kernel(_) => Kind::KERNEL,
            Work::Copy { .. } => Kind::MEMCPY,
            Work::Fill { .. } => Kind::MEMSET,
            Work::Host { .. } | Work::Callback { .. } => Kind::HOST,
            Work::Record(_) => Kind::EVENT_RECORD,
            Work::Wait(_) => Kind::WAIT_EVENT,
            Work::Free(_) => Kind::MEM_FREE,
            Work::Graph(_) => Kind::GRAPH,
        }
    }
}

/// A graph.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: BTreeMap<Id, Node>,
    /// Whether a capture is making it.
    pub(super) capturing: bool,
}

impl Graph {
    /// Adds a node with a number greater than those of its dependencies.
    pub(super) fn insert(&mut self, node: Id, work: Work, dependencies: Vec<Id>) {
        self.nodes.insert(node, Node { work, dependencies });
    }

    /// The edges: dependency, dependent.
    pub(super) fn edges(&self) -> impl Iterator<Item = (Id, Id)> {
        self.nodes.iter().flat_map(|(&to, node)| node.dependencies.iter().map(move |&from| (from, to)))
    }
}

pub(super) fn fill(table: &mut Table) {
    table.cuGraphCreate = create;
    table.cuGraphClone = clone;
    table.cuGraphDestroy = destroy;
    table.cuGraphGetNodes = get_nodes;
    table.cuGraphGetRootNodes = get_root_nodes;
    table.cuGraphGetEdges = get_edges;
}

impl State {
    pub(super) fn graph(&self, graph: CUgraph) -> Answer<&Graph> {
        self.graphs.get(&id(graph.0)).ok_or(CUresult::ERROR_INVALID_VALUE)
    }

    pub(super) fn remove_graph(&mut self, graph: Id) {
        for node in self.graphs.remove(&graph).iter().flat_map(|graph| graph.nodes.keys()) {
            self.nodes.remove(node);
        }
    }
}

/// Answers a list the way cuGraphGetNodes does: the count where there is no array; else as many as fit it, null behind the last, and
/// how many were written.
fn put_list(array: *mut CUgraphNode, capacity: usize, nodes: impl Iterator<Item = Id>) -> Answer<usize> {
    let mut written = 0;
    for node in nodes.take(capacity) {
        put!(array.wrapping_add(written), CUgraphNode(handle(node)))?;
        written += 1;
    }
    for rest in written..capacity {
        put!(array.wrapping_add(rest), CUgraphNode::null())?;
    }
    Ok(written)
}

fn answer_nodes(array: *mut CUgraphNode, count: *mut usize, nodes: Vec<Id>) -> Answer {
    if array.is_null() {
        return put!(count, nodes.len());
    }
    let capacity = get!(count)?;
    put!(count, put_list(array, capacity, nodes.into_iter())?)
}

unsafe extern "C" fn create(graph: *mut CUgraph, flags: c_uint) -> CUresult {
    in_context(|state| {
        if flags != 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let created = state.fresh();
        put!(graph, CUgraph(handle(created)))?;
        state.graphs.insert(created, Graph::default());
        Ok(())
    })
}

/// Nodes, parameters and child graphs as they are now; not of a graph that a capture is making.
unsafe extern "C" fn clone(copy: *mut CUgraph, original: CUgraph) -> CUresult {
    in_context(|state| {
        let graph = state.graph(original)?;
        if graph.capturing {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let nodes: Vec<(Id, Work, Vec<Id>)> =
            graph.nodes.iter().map(|(&id, node)| (id, node.work.clone(), node.dependencies.clone())).collect();
        let created = state.fresh();
        put!(copy, CUgraph(handle(created)))?;
        let mut cloned = Graph::default();
        let mut copies = BTreeMap::new();
        for (original, work, dependencies) in nodes {
            let node = state.fresh();
            copies.insert(original, node);
            state.nodes.insert(node, created);
            cloned.insert(node, work, dependencies.iter().filter_map(|before| copies.get(before).copied()).collect());
        }
        state.graphs.insert(created, cloned);
        Ok(())
    })
}

/// A graph that a capture is making belongs to the capture.
unsafe extern "C" fn destroy(graph: CUgraph) -> CUresult {
    releasing(|state| {
        if state.graph(graph)?.capturing {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        state.remove_graph(id(graph.0));
        Ok(())
    })
}

unsafe extern "C" fn get_nodes(graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize) -> CUresult {
    in_context(|state| answer_nodes(nodes, count, state.graph(graph)?.nodes.keys().copied().collect()))
}

unsafe extern "C" fn get_root_nodes(graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize) -> CUresult {
    in_context(|state| {
        let graph = state.graph(graph)?;
        let is_root = |(&id, node): (&Id, &Node)| node.dependencies.is_empty().then_some(id);
        answer_nodes(nodes, count, graph.nodes.iter().filter_map(is_root).collect())
    })
}

unsafe extern "C" fn get_edges(
    graph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    count: *mut usize,
) -> CUresult {
    in_context(|state| {
        let graph = state.graph(graph)?;
        match (from.is_null(), to.is_null()) {
            (true, true) => put!(count, graph.edges().count()),
            (false, false) => {
                let capacity = get!(count)?;
                put_list(from, capacity, graph.edges().map(|(from, _)| from))?;
                put!(count, put_list(to, capacity, graph.edges().map(|(_, to)| to))?)
            }
            _ => Err(CUresult::ERROR_INVALID_VALUE),
        }
    })
}

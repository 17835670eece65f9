//! Graphs (CUDA driver API, "Graph Management").
//!
//! Nodes are numbered as they are made. A node only depends on ones that exist when it is made, but edges that are added later may lead
//! anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_uint;

use gridpoint_driver::{CUgraph, CUgraphNode, CUgraphNodeType as Kind, CUresult, Table};

use super::edges::Edge;
use super::state::{Id, State, handle, id};
use super::work::Work;
use super::{Answer, get, in_context, put, releasing};

/// A node: its work, and the edges from the nodes that it depends on.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) work: Work,
    pub(super) dependencies: Vec<Edge<Id>>,
}

impl Work {
    /// The kind of a node with this work.
    pub(super) fn kind(&self) -> Kind {
        match self {
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

impl Node {
    pub(super) fn kind(&self) -> Kind {
        self.work.kind()
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
    /// Adds a node.
    pub(super) fn insert(&mut self, node: Id, work: Work, dependencies: Vec<Edge<Id>>) {
        self.nodes.insert(node, Node { work, dependencies });
    }

    /// The edges, and the node that each leads to.
    pub(super) fn edges(&self) -> impl Iterator<Item = (Edge<Id>, Id)> {
        self.nodes.iter().flat_map(|(&to, node)| node.dependencies.iter().map(move |&edge| (edge, to)))
    }

    /// The nodes in topological order, and of those that are free the one made first; none where the edges form a cycle.
    pub(super) fn order(&self) -> Option<Vec<Id>> {
        let mut missing: BTreeMap<Id, usize> =
            self.nodes.iter().map(|(&node, content)| (node, content.dependencies.len())).collect();
        let mut dependents: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
        for (edge, to) in self.edges() {
            dependents.entry(edge.from).or_default().push(to);
        }
        let mut free: BTreeSet<Id> =
            missing.iter().filter(|&(_, &missing)| missing == 0).map(|(&node, _)| node).collect();
        let mut order = Vec::new();
        while let Some(node) = free.pop_first() {
            order.push(node);
            for dependent in dependents.get(&node).into_iter().flatten() {
                let left = missing.get_mut(dependent)?;
                *left -= 1;
                if *left == 0 {
                    free.insert(*dependent);
                }
            }
        }
        (order.len() == self.nodes.len()).then_some(order)
    }
}

pub(super) fn fill(table: &mut Table) {
    table.cuGraphCreate = create;
    table.cuGraphClone = clone;
    table.cuGraphDestroy = destroy;
    table.cuGraphGetNodes = get_nodes;
    table.cuGraphGetRootNodes = get_root_nodes;
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
pub(super) fn put_list(array: *mut CUgraphNode, capacity: usize, nodes: impl Iterator<Item = Id>) -> Answer<usize> {
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
        let nodes: Vec<(Id, Work, Vec<Edge<Id>>)> =
            graph.nodes.iter().map(|(&id, node)| (id, node.work.clone(), node.dependencies.clone())).collect();
        let created = state.fresh();
        put!(copy, CUgraph(handle(created)))?;
        let copies: BTreeMap<Id, Id> = nodes.iter().map(|&(original, ..)| (original, state.fresh())).collect();
        let mut cloned = Graph::default();
        for (original, work, dependencies) in nodes {
            let Some(&node) = copies.get(&original) else { continue };
            state.nodes.insert(node, created);
            let copy = |edge: &Edge<Id>| Some(edge.moved(*copies.get(&edge.from)?));
            cloned.insert(node, work, dependencies.iter().filter_map(copy).collect());
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

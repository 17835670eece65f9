//! The calls that read and change the edges of graphs (CUDA driver API, "Graph Management"); what edge data there is is in
//! [`super::edges`].
//!
//! A query without an array for edge data answers `LOSSY_QUERY` where an edge is not a full dependency; one that only counts loses
//! nothing. Between two nodes there is at most one edge, whatever its data. Cycles are found out when the graph is instantiated.

use gridpoint_driver::{CUgraph, CUgraphEdgeData, CUgraphNode, CUresult, Table};

use super::edges::{self, Edge};
use super::graphs::{Graph, put_list};
use super::state::{Id, State, id};
use super::{Answer, get, in_context, put};

pub(super) fn fill(table: &mut Table) {
    table.cuGraphGetEdges = get_edges;
    table.cuGraphGetEdges_v2 = get_edges_v2;
    table.cuGraphNodeGetDependencies = get_dependencies;
    table.cuGraphNodeGetDependencies_v2 = get_dependencies_v2;
    table.cuGraphNodeGetDependentNodes = get_dependent_nodes;
    table.cuGraphNodeGetDependentNodes_v2 = get_dependent_nodes_v2;
    table.cuGraphAddDependencies = add;
    table.cuGraphAddDependencies_v2 = add_v2;
    table.cuGraphRemoveDependencies = remove;
    table.cuGraphRemoveDependencies_v2 = remove_v2;
}

/// What a call says of one edge.
struct Wanted {
    edge: Edge<Id>,
    to: Id,
}

/// Reads `count` edges; without an array of data they are full.
fn read_edges(
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
) -> Answer<Vec<Wanted>> {
    let mut read = Vec::new();
    for index in 0..count {
        let (from, to) = (get!(from.wrapping_add(index))?, get!(to.wrapping_add(index))?);
        let mut edge = Edge::full(id(from.0));
        if !data.is_null() {
            edge.data = get!(data.wrapping_add(index))?;
        }
        read.push(Wanted { edge, to: id(to.0) });
    }
    Ok(read)
}

/// Writes as many edges' data as fit `capacity`; `LOSSY_QUERY` where there is no array and one of them is not full.
fn put_data(data: *mut CUgraphEdgeData, capacity: usize, edges: &[Edge<Id>]) -> Answer {
    if data.is_null() {
        return if edges.iter().all(Edge::is_full) { Ok(()) } else { Err(CUresult::ERROR_LOSSY_QUERY) };
    }
    for (index, edge) in edges.iter().take(capacity).enumerate() {
        put!(data.wrapping_add(index), edge.data)?;
    }
    Ok(())
}

/// Answers the nodes at one end of edges, and the edges' data.
fn answer_ends(
    array: *mut CUgraphNode,
    data: *mut CUgraphEdgeData,
    count: *mut usize,
    (ends, edges): (Vec<Id>, Vec<Edge<Id>>),
) -> Answer {
    if array.is_null() {
        return if data.is_null() { put!(count, ends.len()) } else { Err(CUresult::ERROR_INVALID_VALUE) };
    }
    let capacity = get!(count)?;
    put_data(data, capacity, &edges)?;
    put!(count, put_list(array, capacity, ends.into_iter())?)
}

impl Graph {
    /// The edge between two nodes.
    fn edge(&self, from: Id, to: Id) -> Option<&Edge<Id>> {
        self.nodes.get(&to)?.dependencies.iter().find(|edge| edge.from == from)
    }

    /// Adds all of the edges, or none.
    fn add_edges(&mut self, wanted: &[Wanted]) -> Answer {
        for (index, Wanted { edge, to }) in wanted.iter().enumerate() {
            let (Some(before), Some(after)) = (self.nodes.get(&edge.from), self.nodes.get(to)) else {
                return Err(CUresult::ERROR_INVALID_VALUE);
            };
            edges::check(edge.data, before.kind(), after.kind())?;
            let again = wanted[..index].iter().any(|other| (other.edge.from, other.to) == (edge.from, *to));
            if edge.from == *to || again || self.edge(edge.from, *to).is_some() {
                return Err(CUresult::ERROR_INVALID_VALUE);
            }
        }
        for Wanted { edge, to } in wanted {
            if let Some(node) = self.nodes.get_mut(to) {
                node.dependencies.push(*edge);
            }
        }
        Ok(())
    }

    /// Removes all of the edges, or none. Their data must be those of the graph's.
    fn remove_edges(&mut self, wanted: &[Wanted]) -> Answer {
        for (index, Wanted { edge, to }) in wanted.iter().enumerate() {
            let again = wanted[..index].iter().any(|other| (other.edge.from, other.to) == (edge.from, *to));
            if again || self.edge(edge.from, *to) != Some(edge) {
                return Err(CUresult::ERROR_INVALID_VALUE);
            }
        }
        for Wanted { edge, to } in wanted {
            if let Some(node) = self.nodes.get_mut(to) {
                node.dependencies.retain(|other| other != edge);
            }
        }
        Ok(())
    }
}

impl State {
    fn graph_mut(&mut self, graph: CUgraph) -> Answer<&mut Graph> {
        self.graphs.get_mut(&id(graph.0)).ok_or(CUresult::ERROR_INVALID_VALUE)
    }

    /// A node's dependencies and their edges.
    fn dependencies(&self, node: CUgraphNode) -> Answer<(Vec<Id>, Vec<Edge<Id>>)> {
        let edges = self.node(node)?.dependencies.clone();
        Ok((edges.iter().map(|edge| edge.from).collect(), edges))
    }

    /// The nodes that depend on a node, and the edges to them.
    fn dependent_nodes(&self, node: CUgraphNode) -> Answer<(Vec<Id>, Vec<Edge<Id>>)> {
        self.node(node)?;
        let graph = self.nodes.get(&id(node.0)).and_then(|graph| self.graphs.get(graph));
        let edges = graph.into_iter().flat_map(Graph::edges);
        Ok(edges.filter(|(edge, _)| edge.from == id(node.0)).map(|(edge, to)| (to, edge)).unzip())
    }
}

unsafe extern "C" fn get_edges(
    graph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    count: *mut usize,
) -> CUresult {
    // SAFETY: the caller's promise is the one asked for.
    unsafe { get_edges_v2(graph, from, to, std::ptr::null_mut(), count) }
}

unsafe extern "C" fn get_edges_v2(
    graph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    data: *mut CUgraphEdgeData,
    count: *mut usize,
) -> CUresult {
    in_context(|state| {
        let (edges, ends): (Vec<Edge<Id>>, Vec<Id>) = state.graph(graph)?.edges().unzip();
        match (from.is_null(), to.is_null()) {
            (true, true) if data.is_null() => put!(count, edges.len()),
            (false, false) => {
                let capacity = get!(count)?;
                put_data(data, capacity, &edges)?;
                put_list(from, capacity, edges.iter().map(|edge| edge.from))?;
                put!(count, put_list(to, capacity, ends.into_iter())?)
            }
            _ => Err(CUresult::ERROR_INVALID_VALUE),
        }
    })
}

unsafe extern "C" fn get_dependencies(node: CUgraphNode, nodes: *mut CUgraphNode, count: *mut usize) -> CUresult {
    in_context(|state| answer_ends(nodes, std::ptr::null_mut(), count, state.dependencies(node)?))
}

unsafe extern "C" fn get_dependencies_v2(
    node: CUgraphNode,
    nodes: *mut CUgraphNode,
    data: *mut CUgraphEdgeData,
    count: *mut usize,
) -> CUresult {
    in_context(|state| answer_ends(nodes, data, count, state.dependencies(node)?))
}

unsafe extern "C" fn get_dependent_nodes(node: CUgraphNode, nodes: *mut CUgraphNode, count: *mut usize) -> CUresult {
    in_context(|state| answer_ends(nodes, std::ptr::null_mut(), count, state.dependent_nodes(node)?))
}

unsafe extern "C" fn get_dependent_nodes_v2(
    node: CUgraphNode,
    nodes: *mut CUgraphNode,
    data: *mut CUgraphEdgeData,
    count: *mut usize,
) -> CUresult {
    in_context(|state| answer_ends(nodes, data, count, state.dependent_nodes(node)?))
}

unsafe extern "C" fn add(graph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode, count: usize) -> CUresult {
    in_context(|state| state.graph_mut(graph)?.add_edges(&read_edges(from, to, std::ptr::null(), count)?))
}

unsafe extern "C" fn add_v2(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
) -> CUresult {
    in_context(|state| state.graph_mut(graph)?.add_edges(&read_edges(from, to, data, count)?))
}

unsafe extern "C" fn remove(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    count: usize,
) -> CUresult {
    in_context(|state| state.graph_mut(graph)?.remove_edges(&read_edges(from, to, std::ptr::null(), count)?))
}

unsafe extern "C" fn remove_v2(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
) -> CUresult {
    in_context(|state| state.graph_mut(graph)?.remove_edges(&read_edges(from, to, data, count)?))
}

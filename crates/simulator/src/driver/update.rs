//! Updates of executable graphs (CUDA driver API, cuGraphExecUpdate and cuGraphExecKernelNodeSetParams); they concern future launches.

use std::ffi::c_uint;
use std::sync::Arc;

use gridpoint_driver::{
    CUDA_KERNEL_NODE_PARAMS_v2, CUgraph, CUgraphExec, CUgraphExecUpdateResult as Why, CUgraphExecUpdateResultInfo,
    CUgraphNode, CUresult, Table,
};

use super::executables::{Executable, Image, ImageNode};
use super::launch::Arguments;
use super::state::{Id, State, handle, id};
use super::work::{Source, Work};
use super::{Answer, get, in_context, put};

pub(super) fn fill(table: &mut Table) {
    table.cuGraphExecKernelNodeSetParams_v2 = kernel_node_set_params;
    table.cuGraphExecUpdate_v2 = update;
    table.cuGraphNodeGetEnabled = get_enabled;
    table.cuGraphNodeSetEnabled = set_enabled;
}

/// Why an update is impossible: the reason, the node of the new graph, and the dependency's source where it is about one.
struct Refusal {
    why: Why,
    node: Id,
    from: Id,
}

impl State {
    fn executable_mut(&mut self, executable: CUgraphExec) -> Answer<&mut Executable> {
        self.executables.get_mut(&id(executable.0)).ok_or(CUresult::ERROR_INVALID_VALUE)
    }

    /// The two kinds of memory of a copy or memset, which an update may not change.
    fn memory_kinds(&self, work: &Work) -> [bool; 2] {
        let ours = |address: u64| self.memory.find(address as usize, 1).is_some();
        match work {
            Work::Copy { to, from: Source::Address(from), .. } => [ours(*to), ours(*from)],
            Work::Copy { to, from: Source::Staged(_), .. } => [ours(*to), false],
            Work::Fill { at, .. } => [ours(*at), false],
            _ => [false; 2],
        }
    }

    /// Compares node by node, in the images' order: kinds, dependencies with what their edges stand for, and what an update may not
    /// change.
    fn compare(&self, old: &Image, new: &Image, node_priority: bool) -> Result<(), Refusal> {
        if old.nodes.len() != new.nodes.len() {
            return Err(Refusal { why: Why::TOPOLOGY_CHANGED, node: 0, from: 0 });
        }
        for (before, after) in old.nodes.iter().zip(&new.nodes) {
            let refuse = |why| Err(Refusal { why, node: after.source, from: 0 });
            if std::mem::discriminant(&before.work) != std::mem::discriminant(&after.work) {
                return refuse(Why::NODE_TYPE_CHANGED);
            }
            if before.dependencies != after.dependencies {
                let other = after.dependencies.iter().find(|edge| !before.dependencies.contains(edge));
                let from = other.map_or(0, |edge| new.nodes[edge.from].source);
                return Err(Refusal { why: Why::TOPOLOGY_CHANGED, node: after.source, from });
            }
            if self.memory_kinds(&before.work) != self.memory_kinds(&after.work) {
                return refuse(Why::PARAMETERS_CHANGED);
            }
            if let (Work::Graph(old), Work::Graph(new)) = (&before.work, &after.work) {
                self.compare(old, new, node_priority)?;
            }
            if let (Work::Kernel(old), Work::Kernel(new)) = (&before.work, &after.work)
                && node_priority
                && old.priority != new.priority
            {
                return refuse(Why::ATTRIBUTES_CHANGED);
            }
        }
        Ok(())
    }
}

/// The node is one of the graph that was instantiated, and must still exist.
unsafe extern "C" fn kernel_node_set_params(
    executable: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_KERNEL_NODE_PARAMS_v2,
) -> CUresult {
    in_context(|state| {
        state.executable(executable)?;
        state.node(node)?;
        let params = get!(params)?;
        if params.func.is_null() && !params.kern.is_null() {
            return Err(CUresult::ERROR_NOT_SUPPORTED);
        }
        let source = id(node.0);
        let old = state.executable(executable)?.image.nodes.iter().find_map(|found| match &found.work {
            Work::Kernel(old) if found.source == source => Some(Arc::clone(old)),
            _ => None,
        });
        let old = old.ok_or(CUresult::ERROR_INVALID_VALUE)?;
        let kernel = state.kernel(Arguments::from(params).with_attributes_of(&old))?;
        let image = Arc::make_mut(&mut state.executable_mut(executable)?.image);
        let node = image.nodes.iter_mut().find(|found| found.source == id(node.0));
        match node.map(|node| &mut node.work) {
            Some(Work::Kernel(old)) => {
                *old = kernel;
                Ok(())
            }
            _ => Err(CUresult::ERROR_INVALID_VALUE),
        }
    })
}

impl State {
    /// The part of an executable graph that came from a node and can be switched off: a kernel, a copy or a memset.
    fn switchable(&mut self, executable: CUgraphExec, node: CUgraphNode) -> Answer<&mut ImageNode> {
        self.node(node)?;
        let image = Arc::make_mut(&mut self.executable_mut(executable)?.image);
        let found = image.nodes.iter_mut().find(|found| found.source == id(node.0));
        let switchable =
            |found: &&mut ImageNode| matches!(found.work, Work::Kernel(_) | Work::Copy { .. } | Work::Fill { .. });
        found.filter(switchable).ok_or(CUresult::ERROR_INVALID_VALUE)
    }
}

unsafe extern "C" fn get_enabled(executable: CUgraphExec, node: CUgraphNode, enabled: *mut c_uint) -> CUresult {
    in_context(|state| put!(enabled, c_uint::from(state.switchable(executable, node)?.enabled)))
}

/// A node that is switched off does nothing; what depends on it still waits for what it depends on.
unsafe extern "C" fn set_enabled(executable: CUgraphExec, node: CUgraphNode, enabled: c_uint) -> CUresult {
    in_context(|state| {
        state.switchable(executable, node)?.enabled = enabled != 0;
        Ok(())
    })
}

unsafe extern "C" fn update(
    executable: CUgraphExec,
    graph: CUgraph,
    result: *mut CUgraphExecUpdateResultInfo,
) -> CUresult {
    in_context(|state| {
        let own = state.executable(executable)?;
        let (old, node_priority) = (Arc::clone(&own.image), own.node_priority);
        let graph = state.graph(graph)?;
        if graph.capturing {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let mut answer = CUgraphExecUpdateResultInfo::default();
        let Some(mut new) = Image::new(graph) else {
            answer.result = Why::ERROR;
            put!(result, answer)?;
            return Err(CUresult::ERROR_GRAPH_EXEC_UPDATE_FAILURE);
        };
        let refused = state.compare(&old, &new, node_priority).err();
        if let Some(Refusal { why, node, from }) = &refused {
            answer.result = *why;
            answer.error_node = CUgraphNode(handle(*node));
            answer.error_from_node = CUgraphNode(handle(*from));
        }
        put!(result, answer)?;
        if refused.is_some() {
            return Err(CUresult::ERROR_GRAPH_EXEC_UPDATE_FAILURE);
        }
        for (before, after) in old.nodes.iter().zip(&mut new.nodes) {
            after.source = before.source;
            after.enabled = before.enabled;
        }
        state.executable_mut(executable)?.image = Arc::new(new);
        Ok(())
    })
}

//! Nodes of graphs (CUDA driver API, "Graph Management").

use std::sync::Arc;

use gridpoint_driver::{
    CUDA_KERNEL_NODE_PARAMS_v1, CUDA_KERNEL_NODE_PARAMS_v2, CUcontext, CUfunction, CUgraph, CUgraphNode,
    CUgraphNodeType, CUkernel, CUresult, Table,
};

use super::edges::Edge;
use super::graphs::Node;
use super::launch::Arguments;
use super::state::{PRIMARY, State, handle, id};
use super::work::{Kernel, Work};
use super::{Answer, get, in_context, put};

pub(super) fn fill(table: &mut Table) {
    table.cuGraphAddKernelNode = add_kernel_node;
    table.cuGraphNodeGetType = get_type;
    table.cuGraphKernelNodeSetParams_v2 = kernel_node_set_params;
    table.cuGraphKernelNodeGetParams = kernel_node_get_params;
    table.cuGraphKernelNodeGetParams_v2 = kernel_node_get_params_v2;
}

impl State {
    pub(super) fn node(&self, node: CUgraphNode) -> Answer<&Node> {
        let graph = self.nodes.get(&id(node.0)).and_then(|graph| self.graphs.get(graph));
        graph.and_then(|graph| graph.nodes.get(&id(node.0))).ok_or(CUresult::ERROR_INVALID_VALUE)
    }

    pub(super) fn kernel_node(&self, node: CUgraphNode) -> Answer<&Arc<Kernel>> {
        match &self.node(node)?.work {
            Work::Kernel(kernel) => Ok(kernel),
            _ => Err(CUresult::ERROR_INVALID_VALUE),
        }
    }

    /// A node's work, to be changed.
    pub(super) fn node_work(&mut self, node: CUgraphNode) -> Answer<&mut Work> {
        let graph = self.nodes.get(&id(node.0)).and_then(|graph| self.graphs.get_mut(graph));
        let node = graph.and_then(|graph| graph.nodes.get_mut(&id(node.0)));
        node.map(|node| &mut node.work).ok_or(CUresult::ERROR_INVALID_VALUE)
    }
}

impl From<CUDA_KERNEL_NODE_PARAMS_v1> for Arguments {
    fn from(params: CUDA_KERNEL_NODE_PARAMS_v1) -> Self {
        Self {
            function: params.func,
            grid: [params.grid_dim_x, params.grid_dim_y, params.grid_dim_z],
            block: [params.block_dim_x, params.block_dim_y, params.block_dim_z],
            cluster: [1; 3],
            programmatic: false,
            priority: 0,
            shared_bytes: params.shared_mem_bytes,
            kernel_params: params.kernel_params,
            extra: params.extra,
        }
    }
}

impl From<CUDA_KERNEL_NODE_PARAMS_v2> for Arguments {
    fn from(params: CUDA_KERNEL_NODE_PARAMS_v2) -> Self {
        Self {
            function: params.func,
            grid: [params.grid_dim_x, params.grid_dim_y, params.grid_dim_z],
            block: [params.block_dim_x, params.block_dim_y, params.block_dim_z],
            cluster: [1; 3],
            programmatic: false,
            priority: 0,
            shared_bytes: params.shared_mem_bytes,
            kernel_params: params.kernel_params,
            extra: params.extra,
        }
    }
}

unsafe extern "C" fn add_kernel_node(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> CUresult {
    in_context(|state| {
        let nodes = &state.graph(graph)?.nodes;
        let mut before = Vec::new();
        for index in 0..count {
            let dependency = id(get!(dependencies.wrapping_add(index))?.0);
            if !nodes.contains_key(&dependency) || before.contains(&dependency) {
                return Err(CUresult::ERROR_INVALID_VALUE);
            }
            before.push(dependency);
        }
        let kernel = state.kernel(get!(params)?.into())?;
        let added = state.fresh();
        put!(node, CUgraphNode(handle(added)))?;
        let graph = id(graph.0);
        state.nodes.insert(added, graph);
        if let Some(graph) = state.graphs.get_mut(&graph) {
            graph.insert(added, Work::Kernel(kernel), before.into_iter().map(Edge::full).collect());
        }
        Ok(())
    })
}

/// Executable graphs made before keep the old parameters.
unsafe extern "C" fn kernel_node_set_params(node: CUgraphNode, params: *const CUDA_KERNEL_NODE_PARAMS_v2) -> CUresult {
    in_context(|state| {
        let old = Arc::clone(state.kernel_node(node)?);
        let params = get!(params)?;
        if params.func.is_null() && !params.kern.is_null() {
            return Err(CUresult::ERROR_NOT_SUPPORTED);
        }
        let kernel = state.kernel(Arguments::from(params).with_attributes_of(&old))?;
        *state.node_work(node)? = Work::Kernel(kernel);
        Ok(())
    })
}

unsafe extern "C" fn get_type(node: CUgraphNode, kind: *mut CUgraphNodeType) -> CUresult {
    in_context(|state| put!(kind, state.node(node)?.kind()))
}

/// The addresses in the answer live as long as the node.
unsafe extern "C" fn kernel_node_get_params(node: CUgraphNode, params: *mut CUDA_KERNEL_NODE_PARAMS_v1) -> CUresult {
    in_context(|state| {
        let kernel = state.kernel_node(node)?;
        let [grid_dim_x, grid_dim_y, grid_dim_z] = kernel.grid;
        let [block_dim_x, block_dim_y, block_dim_z] = kernel.block;
        let answer = CUDA_KERNEL_NODE_PARAMS_v1 {
            func: CUfunction(handle(kernel.function)),
            grid_dim_x,
            grid_dim_y,
            grid_dim_z,
            block_dim_x,
            block_dim_y,
            block_dim_z,
            shared_mem_bytes: kernel.shared_bytes,
            kernel_params: kernel.addresses(),
            extra: std::ptr::null_mut(),
        };
        put!(params, answer)
    })
}

/// The addresses in the answer live as long as the node.
unsafe extern "C" fn kernel_node_get_params_v2(node: CUgraphNode, params: *mut CUDA_KERNEL_NODE_PARAMS_v2) -> CUresult {
    in_context(|state| {
        let kernel = state.kernel_node(node)?;
        let [grid_dim_x, grid_dim_y, grid_dim_z] = kernel.grid;
        let [block_dim_x, block_dim_y, block_dim_z] = kernel.block;
        let answer = CUDA_KERNEL_NODE_PARAMS_v2 {
            func: CUfunction(handle(kernel.function)),
            grid_dim_x,
            grid_dim_y,
            grid_dim_z,
            block_dim_x,
            block_dim_y,
            block_dim_z,
            shared_mem_bytes: kernel.shared_bytes,
            kernel_params: kernel.addresses(),
            extra: std::ptr::null_mut(),
            kern: CUkernel::null(),
            ctx: CUcontext(handle(PRIMARY)),
        };
        put!(params, answer)
    })
}

//! Launches that somebody else made on a raw stream, read back from what they were captured as.

use std::ffi::c_void;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use gridpoint_driver as driver;
use gridpoint_driver::{
    CUDA_KERNEL_NODE_PARAMS_v2, CUfunction, CUgraphEdgeData, CUgraphNode, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchConfig, CUresult,
};

use crate::graph::edges_of;
use crate::{Graph, GraphTemplate, RuntimeError, Stream};

/// Attributes of a kernel node that change what it does or when (CUDA driver API, `CUlaunchAttributeID`); programmatic order is in the edges.
const ATTRIBUTES: [CUlaunchAttributeID; 8] = [
    CUlaunchAttributeID::ACCESS_POLICY_WINDOW,
    CUlaunchAttributeID::COOPERATIVE,
    CUlaunchAttributeID::CLUSTER_DIMENSION,
    CUlaunchAttributeID::CLUSTER_SCHEDULING_POLICY_PREFERENCE,
    CUlaunchAttributeID::PRIORITY,
    CUlaunchAttributeID::MEM_SYNC_DOMAIN_MAP,
    CUlaunchAttributeID::MEM_SYNC_DOMAIN,
    CUlaunchAttributeID::PREFERRED_SHARED_MEMORY_CARVEOUT,
];

/// Everything by which a device could tell two captured graphs apart: equal identities may share one executable graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GraphIdentity {
    nodes: Vec<NodeIdentity>,
    edges: Vec<(usize, usize, CUgraphEdgeData)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct NodeIdentity {
    function: CUfunction,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    attributes: Attributes,
    parameters: Vec<Box<[u8]>>,
}

/// Launches captured from a raw stream: an eager step as they are, or an executable graph.
///
/// `Send` and `Sync`: calls on the driver's graph are behind a lock, and what a launch reads never changes.
pub struct CapturedLaunches {
    template: Mutex<GraphTemplate>,
    /// In an order that follows the edges.
    nodes: Vec<CapturedNode>,
    identity: Option<GraphIdentity>,
}

/// A kernel node as it is launched. The parameters are those of the driver's node, which the template keeps.
struct CapturedNode {
    kernel: CUDA_KERNEL_NODE_PARAMS_v2,
    cluster: [u32; 3],
    cooperative: bool,
    /// Whether it may begin before the node in front of it has ended.
    programmatic: bool,
}

// SAFETY: the pointers lead to memory of the driver's nodes, which lives as long as the template beside them and is only read; calls on
// the template itself go through its lock.
unsafe impl Send for CapturedLaunches {}
// SAFETY: as above.
unsafe impl Sync for CapturedLaunches {}

impl CapturedLaunches {
    /// Reads the nodes and edges of `template`. The driver must be 12.3 or newer.
    ///
    /// # Errors
    /// The driver's error.
    pub fn read(template: GraphTemplate) -> Result<Self, RuntimeError> {
        let handles = template.node_handles();
        let edges = edges_of(template.raw(), handles)?;
        let order = ordered(handles.len(), &edges);
        let mut place = vec![0; handles.len()];
        for (at, &node) in order.iter().enumerate() {
            place[node] = at;
        }
        let mut edges: Vec<_> = edges.into_iter().map(|(from, to, data)| (place[from], place[to], data)).collect();
        edges.sort_unstable_by_key(|&(from, to, data)| (from, to, data.from_port, data.to_port));

        let mut nodes = Vec::with_capacity(order.len());
        let mut identities = Some(Vec::with_capacity(order.len()));
        for (at, &index) in order.iter().enumerate() {
            let handle = handles[index];
            let kernel = kernel_of(handle)?;
            let attributes = Attributes::of(handle);
            let cluster = [0, 1, 2].map(|axis| attributes.word(CUlaunchAttributeID::CLUSTER_DIMENSION, axis).max(1));
            let cooperative = attributes.word(CUlaunchAttributeID::COOPERATIVE, 0) != 0;
            let mut before = edges.iter().filter(|&&(_, to, _)| to == at).peekable();
            let programmatic = before.peek().is_some()
                && before.all(|&(from, _, data)| from + 1 == at && data == CUgraphEdgeData::PROGRAMMATIC);
            nodes.push(CapturedNode { kernel, cluster, cooperative, programmatic });
            let identity = parameters_of(&kernel).map(|parameters| NodeIdentity {
                function: kernel.func,
                grid: [kernel.grid_dim_x, kernel.grid_dim_y, kernel.grid_dim_z],
                block: [kernel.block_dim_x, kernel.block_dim_y, kernel.block_dim_z],
                shared_bytes: kernel.shared_mem_bytes,
                attributes,
                parameters,
            });
            identities = identities.zip(identity).map(|(mut all, one)| {
                all.push(one);
                all
            });
        }
        let identity = identities.map(|nodes| GraphIdentity { nodes, edges });
        Ok(Self { template: Mutex::new(template), nodes, identity })
    }

    /// Kernels.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// By what it can be compared; none where the driver cannot tell the parameters of a kernel, such as one of a library handle.
    pub fn identity(&self) -> Option<&GraphIdentity> {
        self.identity.as_ref()
    }

    /// An executable graph of the same launches, as [`GraphTemplate::instantiate`] makes it.
    ///
    /// # Errors
    /// The driver's error.
    pub fn instantiate<R>(&self, retained: R) -> Result<Graph<R>, RuntimeError> {
        self.template.lock().unwrap_or_else(PoisonError::into_inner).instantiate(retained)
    }

    /// As [`GraphTemplate::print`].
    ///
    /// # Errors
    /// [`RuntimeError::GraphNotPrinted`] when the file cannot be written.
    pub fn print(&self, path: &Path) -> Result<(), RuntimeError> {
        self.template.lock().unwrap_or_else(PoisonError::into_inner).print(path)
    }

    /// Launches the kernels one by one on `stream`. What the graph would run side by side runs one after another; attributes of
    /// scheduling alone (priority, cache windows) are those of `stream`.
    ///
    /// # Errors
    /// The driver's error of the first launch that fails.
    pub fn launch(&self, stream: &Stream) -> Result<(), RuntimeError> {
        self.nodes.iter().try_for_each(|node| node.launch(stream))
    }
}

impl CapturedNode {
    fn launch(&self, stream: &Stream) -> Result<(), RuntimeError> {
        let kernel = &self.kernel;
        let mut cluster = CUlaunchAttributeValue { pad: [0; 64] };
        cluster.cluster = self.cluster;
        let mut attributes = Vec::with_capacity(3);
        if self.cluster != [1, 1, 1] {
            attributes.push(CUlaunchAttribute {
                id: CUlaunchAttributeID::CLUSTER_DIMENSION,
                pad: [0; 4],
                value: cluster,
            });
        }
        if self.cooperative {
            attributes.push(CUlaunchAttribute::number(CUlaunchAttributeID::COOPERATIVE, 1));
        }
        if self.programmatic {
            attributes.push(CUlaunchAttribute::number(CUlaunchAttributeID::PROGRAMMATIC_STREAM_SERIALIZATION, 1));
        }
        let config = CUlaunchConfig {
            grid_dim_x: kernel.grid_dim_x,
            grid_dim_y: kernel.grid_dim_y,
            grid_dim_z: kernel.grid_dim_z,
            block_dim_x: kernel.block_dim_x,
            block_dim_y: kernel.block_dim_y,
            block_dim_z: kernel.block_dim_z,
            shared_mem_bytes: kernel.shared_mem_bytes,
            stream: stream.raw(),
            attrs: attributes.as_mut_ptr(),
            num_attrs: attributes.len() as u32,
        };
        // A kernel of a library takes the function's place in a launch (CUDA driver API, cuLaunchKernelEx).
        let function = if kernel.func.is_null() { CUfunction(kernel.kern.0) } else { kernel.func };
        // SAFETY: function, geometry and parameters are those of a launch that was captured; whoever captured it keeps alive what it
        // addresses, and the parameters are memory of the driver's node.
        let code = unsafe { (driver::table().cuLaunchKernelEx)(&config, function, kernel.kernel_params, kernel.extra) };
        Ok(driver::check("cuLaunchKernelEx", code)?)
    }
}

/// Nodes in an order that follows the edges, and the driver's otherwise.
fn ordered(nodes: usize, edges: &[(usize, usize, CUgraphEdgeData)]) -> Vec<usize> {
    let mut waits = vec![0_usize; nodes];
    let mut after = vec![Vec::new(); nodes];
    for &(from, to, _) in edges {
        waits[to] += 1;
        after[from].push(to);
    }
    let mut free: std::collections::BTreeSet<usize> = (0..nodes).filter(|&node| waits[node] == 0).collect();
    let mut order = Vec::with_capacity(nodes);
    while let Some(node) = free.pop_first() {
        order.push(node);
        for &next in &after[node] {
            waits[next] -= 1;
            if waits[next] == 0 {
                free.insert(next);
            }
        }
    }
    order
}

fn kernel_of(node: CUgraphNode) -> Result<CUDA_KERNEL_NODE_PARAMS_v2, RuntimeError> {
    let mut kernel = CUDA_KERNEL_NODE_PARAMS_v2::default();
    // SAFETY: the node is a kernel node of a live graph and the pointer is that of a live struct.
    let code = unsafe { (driver::table().cuGraphKernelNodeGetParams_v2)(node, &mut kernel) };
    driver::check("cuGraphKernelNodeGetParams_v2", code)?;
    Ok(kernel)
}

/// A node's [`ATTRIBUTES`], each with its value or why it has none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Attributes([(CUresult, [u8; 64]); ATTRIBUTES.len()]);

impl Attributes {
    fn of(node: CUgraphNode) -> Self {
        Self(ATTRIBUTES.map(|attribute| {
            let mut value = CUlaunchAttributeValue { pad: [0; 64] };
            // SAFETY: the node is a kernel node of a live graph and the pointer is that of a live union, all of it initialised.
            let code = unsafe { (driver::table().cuGraphKernelNodeGetAttribute)(node, attribute, &mut value) };
            // SAFETY: all bytes were initialised, and the driver writes plain data.
            (code, unsafe { value.pad })
        }))
    }

    /// Word `index` of an attribute's value; 0 where it has none.
    fn word(&self, attribute: CUlaunchAttributeID, index: usize) -> u32 {
        let values = ATTRIBUTES.iter().zip(&self.0);
        let found = values.filter(|&(&known, (code, _))| known == attribute && code.is_success());
        let words = found.map(|(_, (_, bytes))| bytes.as_chunks().0[index]);
        words.map(u32::from_ne_bytes).next().unwrap_or(0)
    }
}

/// The bytes of each parameter; none where the driver cannot tell them.
fn parameters_of(kernel: &CUDA_KERNEL_NODE_PARAMS_v2) -> Option<Vec<Box<[u8]>>> {
    if kernel.func.is_null() || !kernel.extra.is_null() {
        return None;
    }
    let mut parameters = Vec::new();
    loop {
        let (mut offset, mut size) = (0_usize, 0_usize);
        // SAFETY: the function's module is loaded as long as the graph that uses it; both pointers are those of live integers.
        let code =
            unsafe { (driver::table().cuFuncGetParamInfo)(kernel.func, parameters.len(), &mut offset, &mut size) };
        match code {
            // Beyond the last parameter.
            CUresult::ERROR_INVALID_VALUE => return Some(parameters),
            code if !code.is_success() => return None,
            _ => {}
        }
        // SAFETY: the driver's array has an address for each of the function's parameters.
        let address: *mut c_void = unsafe { *kernel.kernel_params.add(parameters.len()) };
        // SAFETY: the address leads to the driver's copy of that parameter, of `size` bytes.
        parameters.push(unsafe { std::slice::from_raw_parts(address.cast::<u8>(), size) }.into());
    }
}

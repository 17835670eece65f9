//! A capture in progress, the graph that it makes, and the executable graph made of that.
//!
//! `Stream -> Recording -> GraphTemplate -> Graph`: a recording borrows its stream; finishing it consumes it, dropping it ends the
//! capture and throws away what was recorded, so that neither an error nor a panic in between leaves a stream capturing. The capture is
//! thread-local: other threads may allocate and synchronise meanwhile. A template is host memory alone; only an executable graph takes device
//! memory.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use gridpoint_driver as driver;
use gridpoint_driver::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUgraph, CUgraphEdgeData, CUgraphExec, CUgraphNode, CUgraphNodeType,
    CUstreamCaptureMode, CUstreamCaptureStatus,
};

use crate::stream::report;
use crate::{Device, RuntimeError, Stream};

/// A stream capture in progress.
pub struct Recording<'stream> {
    stream: &'stream Stream,
    open: bool,
}

impl<'stream> Recording<'stream> {
    pub(crate) fn begin(stream: &'stream Stream) -> Result<Self, RuntimeError> {
        // SAFETY: the stream's handle is live.
        let code =
            unsafe { (driver::table().cuStreamBeginCapture_v2)(stream.raw(), CUstreamCaptureMode::THREAD_LOCAL) };
        driver::check("cuStreamBeginCapture_v2", code)?;
        Ok(Self { stream, open: true })
    }

    /// The stream that records.
    pub fn stream(&self) -> &'stream Stream {
        self.stream
    }

    /// The edges that the capture has recorded so far, in the driver's order. The driver must be 12.3 or newer.
    ///
    /// # Errors
    /// The driver's error.
    pub fn edges(&self) -> Result<Vec<RecordedEdge>, RuntimeError> {
        let table = driver::table();
        let mut status = CUstreamCaptureStatus::default();
        let mut graph = CUgraph::null();
        // SAFETY: the stream's handle is live; both pointers are those of live values, and what is not asked for may be null.
        let code = unsafe {
            (table.cuStreamGetCaptureInfo_v3)(
                self.stream.raw(),
                &mut status,
                std::ptr::null_mut(),
                &mut graph,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        driver::check("cuStreamGetCaptureInfo_v3", code)?;
        let nodes = nodes_of(graph)?;
        let edges = edges_of(graph, &nodes)?;
        Ok(edges
            .into_iter()
            .map(|(from, to, data)| RecordedEdge {
                from,
                to,
                programmatic: data == CUgraphEdgeData::PROGRAMMATIC,
                full: data == CUgraphEdgeData::default(),
            })
            .collect())
    }

    /// Ends the capture: what was recorded, to be made executable.
    ///
    /// # Errors
    /// [`RuntimeError::MemoryNodes`] when anything but kernels was recorded, [`RuntimeError::CaptureInvalidated`] when a call was made
    /// meanwhile that a capture does not allow, or the driver's error.
    pub fn finish(mut self) -> Result<GraphTemplate, RuntimeError> {
        let mut template = self.end()?;
        template.nodes = kernel_nodes(template.raw)?;
        Ok(template)
    }

    fn end(&mut self) -> Result<GraphTemplate, RuntimeError> {
        self.open = false;
        let mut raw = CUgraph::null();
        // SAFETY: the stream's handle is live and the pointer is that of a live handle.
        let code = unsafe { (driver::table().cuStreamEndCapture)(self.stream.raw(), &mut raw) };
        let template = GraphTemplate { raw, nodes: Vec::new(), device: Arc::clone(self.stream.device()) };
        match code {
            driver::CUresult::ERROR_STREAM_CAPTURE_INVALIDATED => Err(RuntimeError::CaptureInvalidated),
            code => driver::check("cuStreamEndCapture", code).map(|()| template).map_err(RuntimeError::from),
        }
    }
}

/// An edge between two nodes of a capture, by their places in the driver's list of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedEdge {
    /// The node that is depended on.
    pub from: usize,
    /// The node that depends.
    pub to: usize,
    /// Whether it is what a programmatic launch leaves: from the port of `griddepcontrol.launch_dependents`, of the programmatic type.
    pub programmatic: bool,
    /// Whether it is a dependency on the whole of a node.
    pub full: bool,
}

/// The nodes of a live graph.
fn nodes_of(graph: CUgraph) -> Result<Vec<CUgraphNode>, RuntimeError> {
    let table = driver::table();
    let mut count = 0_usize;
    // SAFETY: the caller's graph is live; with a null array the call only counts.
    driver::check("cuGraphGetNodes", unsafe { (table.cuGraphGetNodes)(graph, std::ptr::null_mut(), &mut count) })?;
    let mut nodes = vec![CUgraphNode::null(); count];
    // SAFETY: the array holds `count` handles.
    driver::check("cuGraphGetNodes", unsafe { (table.cuGraphGetNodes)(graph, nodes.as_mut_ptr(), &mut count) })?;
    Ok(nodes)
}

/// The nodes of a live graph, all of them kernels.
fn kernel_nodes(graph: CUgraph) -> Result<Vec<CUgraphNode>, RuntimeError> {
    let nodes = nodes_of(graph)?;
    let mut others = 0;
    for &node in &nodes {
        let mut kind = CUgraphNodeType::default();
        // SAFETY: the node belongs to the live graph.
        driver::check("cuGraphNodeGetType", unsafe { (driver::table().cuGraphNodeGetType)(node, &mut kind) })?;
        others += usize::from(kind != CUgraphNodeType::KERNEL);
    }
    if others > 0 { Err(RuntimeError::MemoryNodes { memory_nodes: others }) } else { Ok(nodes) }
}

/// The edges of a live graph with these nodes.
pub(crate) fn edges_of(
    graph: CUgraph,
    nodes: &[CUgraphNode],
) -> Result<Vec<(usize, usize, CUgraphEdgeData)>, RuntimeError> {
    let table = driver::table();
    let mut count = 0_usize;
    let (none, no_data) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the caller's graph is live; with null arrays the call only counts.
    let code = unsafe { (table.cuGraphGetEdges_v2)(graph, none, none, no_data, &mut count) };
    driver::check("cuGraphGetEdges_v2", code)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let (mut from, mut to) = (vec![CUgraphNode::null(); count], vec![CUgraphNode::null(); count]);
    let mut data = vec![CUgraphEdgeData::default(); count];
    // SAFETY: as above; each array holds `count` elements.
    let code =
        unsafe { (table.cuGraphGetEdges_v2)(graph, from.as_mut_ptr(), to.as_mut_ptr(), data.as_mut_ptr(), &mut count) };
    driver::check("cuGraphGetEdges_v2", code)?;
    let place = |node: CUgraphNode| nodes.iter().position(|&known| known == node).unwrap_or(usize::MAX);
    let ends = from.into_iter().zip(to).zip(data).take(count);
    Ok(ends.map(|((from, to), data)| (place(from), place(to), data)).collect())
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if self.open {
            // The error that led here is on its way to the caller; that of the aborted capture adds nothing.
            let _ = self.end();
        }
    }
}

/// What a capture recorded: kernels and the order between them, on the host alone.
///
/// `Send`, and not `Sync`: the driver does not synchronise calls on one graph (CUDA driver API, "Graph object thread safety").
pub struct GraphTemplate {
    raw: CUgraph,
    nodes: Vec<CUgraphNode>,
    device: Arc<Device>,
}

impl GraphTemplate {
    /// Kernel nodes.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Makes an executable graph, which keeps `retained` alive: whatever owns the memory and the kernels that its nodes address. The
    /// device has it before the first launch where [`Graph::upload`] says so, else with it.
    ///
    /// # Errors
    /// The driver's error.
    pub fn instantiate<R>(&self, retained: R) -> Result<Graph<R>, RuntimeError> {
        let mut parameters = CUDA_GRAPH_INSTANTIATE_PARAMS::default();
        let mut executable = CUgraphExec::null();
        // SAFETY: the graph is live and the structs are those of the call.
        let code =
            unsafe { (driver::table().cuGraphInstantiateWithParams)(&mut executable, self.raw, &mut parameters) };
        driver::check("cuGraphInstantiateWithParams", code)?;
        Ok(Graph {
            executable,
            nodes: self.nodes(),
            not_sync: PhantomData,
            _retained: retained,
            _device: Arc::clone(&self.device),
        })
    }

    pub(crate) fn raw(&self) -> CUgraph {
        self.raw
    }

    pub(crate) fn node_handles(&self) -> &[CUgraphNode] {
        &self.nodes
    }
}

impl Drop for GraphTemplate {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: the graph is live and not used again.
            let code = unsafe { (driver::table().cuGraphDestroy)(self.raw) };
            report("cuGraphDestroy", code);
        }
    }
}

/// An executable graph: one launch replays all kernels of a step. It keeps alive what it replays on.
///
/// `Send` where `R` is, and not `Sync`: the driver does not synchronise calls on one executable graph.
pub struct Graph<R> {
    executable: CUgraphExec,
    nodes: usize,
    not_sync: PhantomData<Cell<()>>,
    // Held for their lifetimes: replays read and write the memory, and run the kernels, that they own.
    _retained: R,
    _device: Arc<Device>,
}

impl<R> Graph<R> {
    /// Kernel nodes.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Moves the graph to the device, so that its first launch costs what the others cost.
    ///
    /// # Errors
    /// The driver's error.
    pub fn upload(&self, stream: &Stream) -> Result<(), RuntimeError> {
        // SAFETY: both handles are live.
        let code = unsafe { (driver::table().cuGraphUpload)(self.executable, stream.raw()) };
        Ok(driver::check("cuGraphUpload", code)?)
    }

    /// Enqueues one replay on `stream`. Replays of one graph run one after another.
    ///
    /// # Errors
    /// The driver's error.
    pub fn launch(&self, stream: &Stream) -> Result<(), RuntimeError> {
        // SAFETY: both handles are live, and the memory that the nodes address is retained.
        let code = unsafe { (driver::table().cuGraphLaunch)(self.executable, stream.raw()) };
        Ok(driver::check("cuGraphLaunch", code)?)
    }
}

impl<R> Drop for Graph<R> {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used again; the driver defers the destruction of a graph that still runs.
        let code = unsafe { (driver::table().cuGraphExecDestroy)(self.executable) };
        report("cuGraphExecDestroy", code);
    }
}

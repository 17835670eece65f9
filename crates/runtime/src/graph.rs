//! A capture in progress and the executable graph that it makes.
//!
//! `Stream -> Recording -> Graph`: a recording borrows its stream; finishing it consumes it, dropping it ends the capture and throws away
//! what was recorded, so that an error in between never leaves a stream capturing. The capture is thread-local: other threads may allocate
//! and synchronise meanwhile.

use std::any::Any;
use std::sync::Arc;

use gridpoint_driver as driver;
use gridpoint_driver::{
    CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD, CUDA_GRAPH_INSTANTIATE_PARAMS, CUgraph, CUgraphEdgeData, CUgraphExec,
    CUgraphNode, CUgraphNodeType, CUstreamCaptureMode, CUstreamCaptureStatus,
};

use crate::{RuntimeError, Stream};

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
        let mut count = 0_usize;
        let (none, no_data) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the graph is live while the stream captures; with null arrays the call only counts.
        let code = unsafe { (table.cuGraphGetEdges_v2)(graph, none, none, no_data, &mut count) };
        driver::check("cuGraphGetEdges_v2", code)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let (mut from, mut to) = (vec![CUgraphNode::null(); count], vec![CUgraphNode::null(); count]);
        let mut data = vec![CUgraphEdgeData::default(); count];
        // SAFETY: as above; each array holds `count` elements.
        let code = unsafe {
            (table.cuGraphGetEdges_v2)(graph, from.as_mut_ptr(), to.as_mut_ptr(), data.as_mut_ptr(), &mut count)
        };
        driver::check("cuGraphGetEdges_v2", code)?;
        let place = |node: CUgraphNode| nodes.iter().position(|&known| known == node).unwrap_or(usize::MAX);
        let ends = from.into_iter().zip(to).zip(data).take(count);
        Ok(ends
            .map(|((from, to), data)| RecordedEdge {
                from: place(from),
                to: place(to),
                programmatic: data == CUgraphEdgeData::PROGRAMMATIC,
                full: data == CUgraphEdgeData::default(),
            })
            .collect())
    }

    /// Ends the capture and makes an executable graph of it, uploaded to the device. The graph keeps `retained` alive: whatever owns the
    /// memory that its kernels address.
    ///
    /// # Errors
    /// [`RuntimeError::MemoryNodes`] when anything but kernels was recorded, or the driver's error.
    pub fn finish(mut self, retained: Arc<dyn Any + Send + Sync>) -> Result<Graph, RuntimeError> {
        let template = self.end()?;
        let nodes = template.kernel_nodes()?;
        let mut parameters = CUDA_GRAPH_INSTANTIATE_PARAMS {
            flags: CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD,
            upload_stream: self.stream.raw(),
            ..Default::default()
        };
        let mut executable = CUgraphExec::null();
        // SAFETY: the graph is live and the structs are those of the call.
        let code =
            unsafe { (driver::table().cuGraphInstantiateWithParams)(&mut executable, template.0, &mut parameters) };
        driver::check("cuGraphInstantiateWithParams", code)?;
        Ok(Graph { executable, nodes, retained })
    }

    pub(crate) fn end(&mut self) -> Result<Template, RuntimeError> {
        self.open = false;
        let mut graph = CUgraph::null();
        // SAFETY: the stream's handle is live and the pointer is that of a live handle.
        let code = unsafe { (driver::table().cuStreamEndCapture)(self.stream.raw(), &mut graph) };
        let template = Template(graph);
        driver::check("cuStreamEndCapture", code)?;
        Ok(template)
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

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if self.open {
            // The error that led here is on its way to the caller; that of the aborted capture adds nothing.
            let _ = self.end();
        }
    }
}

/// A destructor has no caller to tell.
fn report(call: &'static str, code: driver::CUresult) {
    if let Err(error) = driver::check(call, code) {
        tracing::warn!("{error}");
    }
}

/// A graph that is not executable yet.
pub(crate) struct Template(CUgraph);

impl Template {
    pub(crate) fn raw(&self) -> CUgraph {
        self.0
    }

    /// How many nodes there are, all of them kernels.
    fn kernel_nodes(&self) -> Result<usize, RuntimeError> {
        let table = driver::table();
        let nodes = nodes_of(self.0)?;
        let mut others = 0;
        for &node in &nodes {
            let mut kind = CUgraphNodeType::default();
            // SAFETY: the node belongs to the live graph.
            driver::check("cuGraphNodeGetType", unsafe { (table.cuGraphNodeGetType)(node, &mut kind) })?;
            others += usize::from(kind != CUgraphNodeType::KERNEL);
        }
        if others > 0 { Err(RuntimeError::MemoryNodes { memory_nodes: others }) } else { Ok(nodes.len()) }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the graph is live and not used again.
            let code = unsafe { (driver::table().cuGraphDestroy)(self.0) };
            report("cuGraphDestroy", code);
        }
    }
}

/// An executable graph: one launch replays all kernels of a step. It keeps alive what it replays on.
pub struct Graph {
    executable: CUgraphExec,
    nodes: usize,
    #[expect(dead_code, reason = "held for its lifetime: replays read and write the memory it owns")]
    retained: Arc<dyn Any + Send + Sync>,
}

impl Graph {
    /// Kernel nodes.
    pub fn nodes(&self) -> usize {
        self.nodes
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

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used again; the driver defers the destruction of a graph that still runs.
        let code = unsafe { (driver::table().cuGraphExecDestroy)(self.executable) };
        report("cuGraphExecDestroy", code);
    }
}

//! Executable graphs (CUDA driver API, "Graph Management").
//!
//! Instantiation copies the graph. A launch enqueues the copy as it is then: a later update or destruction changes nothing of it. The
//! launches of one executable graph run one after another, on whatever streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use gridpoint_driver::{
    CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH as AUTO_FREE,
    CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH as DEVICE_LAUNCH, CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD as UPLOAD,
    CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY as NODE_PRIORITY, CUDA_GRAPH_INSTANTIATE_PARAMS, CUgraph,
    CUgraphExec, CUgraphInstantiateResult, CUgraphNode, CUresult, CUstream, Table,
};

use super::edges::Edge;
use super::events::Mark;
use super::graphs::Graph;
use super::state::{Id, State, handle, id};
use super::work::Work;
use super::{Answer, get, in_context, put, releasing};

/// Device bytes that an executable graph takes beside its nodes.
const GRAPH_BYTES: u64 = 64 << 10;
/// Device bytes that a node takes: what driver 470 took, measured over 500 to 2000 nodes (NVIDIA developer forum).
const NODE_BYTES: u64 = 64 << 10;

/// A node of an executable graph: the node it came from, its work, and which nodes it waits for and which wait for it.
#[derive(Clone, Debug)]
pub(super) struct ImageNode {
    pub(super) source: Id,
    pub(super) work: Work,
    /// Whether launches run it.
    pub(super) enabled: bool,
    pub(super) dependencies: Vec<Edge<usize>>,
    pub(super) dependents: Vec<usize>,
}

/// A copy of a graph's nodes, in topological order.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) nodes: Vec<ImageNode>,
}

impl Image {
    /// None where the graph's edges form a cycle.
    pub(super) fn new(graph: &Graph) -> Option<Self> {
        let order = graph.order()?;
        let places: BTreeMap<Id, usize> = order.iter().enumerate().map(|(place, &node)| (node, place)).collect();
        let place = |edge: &Edge<Id>| Some(edge.moved(*places.get(&edge.from)?));
        let copy = |(&source, node): (&Id, &super::graphs::Node)| ImageNode {
            source,
            work: node.work.clone(),
            enabled: true,
            dependencies: node.dependencies.iter().filter_map(place).collect(),
            dependents: Vec::new(),
        };
        let mut nodes: Vec<ImageNode> =
            order.iter().filter_map(|node| graph.nodes.get_key_value(node)).map(copy).collect();
        for node in 0..nodes.len() {
            for before in nodes[node].dependencies.clone() {
                nodes[before.from].dependents.push(node);
            }
        }
        Some(Self { nodes })
    }

    fn device_bytes(&self) -> u64 {
        let children: u64 = self.children().map(|child| child.device_bytes()).sum();
        GRAPH_BYTES + NODE_BYTES * self.nodes.len() as u64 + children
    }

    fn children(&self) -> impl Iterator<Item = &Arc<Self>> {
        self.nodes.iter().filter_map(|node| match &node.work {
            Work::Graph(child) => Some(child),
            _ => None,
        })
    }

    /// The events that the graph's nodes wait for and record.
    fn events(&self, waits: &mut Vec<Id>, records: &mut Vec<Id>) {
        for node in &self.nodes {
            match &node.work {
                Work::Wait(event) => waits.push(*event),
                Work::Record(event) => records.push(*event),
                Work::Graph(child) => child.events(waits, records),
                _ => {}
            }
        }
    }
}

/// An executable graph.
#[derive(Debug)]
pub(super) struct Executable {
    pub(super) image: Arc<Image>,
    /// Whether its kernels run with the priorities of their nodes, which an update then may not change.
    pub(super) node_priority: bool,
    /// The entry of its latest launch.
    latest: Option<(Id, u64)>,
}

impl Executable {
    /// What it takes of the device's memory until it is destroyed.
    pub(super) fn device_bytes(&self) -> u64 {
        self.image.device_bytes()
    }
}

pub(super) fn fill(table: &mut Table) {
    table.cuGraphInstantiateWithFlags = instantiate_with_flags;
    table.cuGraphInstantiateWithParams = instantiate_with_params;
    table.cuGraphUpload = upload;
    table.cuGraphLaunch = launch;
    table.cuGraphExecDestroy = destroy;
}

impl State {
    pub(super) fn executable(&self, executable: CUgraphExec) -> Answer<&Executable> {
        self.executables.get(&id(executable.0)).ok_or(CUresult::ERROR_INVALID_VALUE)
    }

    fn instantiate(&mut self, executable: *mut CUgraphExec, graph: CUgraph, flags: u64) -> Answer {
        if flags & !(AUTO_FREE | UPLOAD | DEVICE_LAUNCH | NODE_PRIORITY) != 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let graph = self.graph(graph)?;
        if graph.capturing {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        if flags & DEVICE_LAUNCH != 0 {
            return Err(CUresult::ERROR_NOT_SUPPORTED);
        }
        let image = Image::new(graph).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        self.reserve(image.device_bytes())?;
        let created = self.fresh();
        put!(executable, CUgraphExec(handle(created)))?;
        let node_priority = flags & NODE_PRIORITY != 0;
        self.executables.insert(created, Executable { image: Arc::new(image), node_priority, latest: None });
        Ok(())
    }

    fn upload(&mut self, stream: CUstream) -> Answer {
        let stream = self.stream_id(id(stream.0))?;
        self.refuse_in_capture(stream, CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED)?;
        self.enqueue(stream, Work::Empty, Vec::new()).map(drop)
    }

    fn launch(&mut self, executable: CUgraphExec, stream: Id) -> Answer {
        let found = self.executable(executable)?;
        let (image, latest) = (Arc::clone(&found.image), found.latest);
        let capture = self.capture_of(stream)?;
        let stream = self.stream_id(stream)?;
        if let Some(capture) = capture {
            return self.capture_node(capture, stream, Work::Graph(image)).map(drop);
        }
        let (mut waits, mut records) = (Vec::new(), Vec::new());
        image.events(&mut waits, &mut records);
        let mut after = Vec::from_iter(latest);
        for event in waits {
            if let Some(Mark::Stream { stream, sequence }) = self.events.get(&event).map(|event| &event.mark) {
                after.push((*stream, *sequence));
            }
        }
        let sequence = self.enqueue(stream, Work::Graph(image), after)?;
        for event in records {
            if let Some(event) = self.events.get_mut(&event) {
                event.remark(Mark::Stream { stream, sequence });
            }
        }
        if let Some(executable) = self.executables.get_mut(&id(executable.0)) {
            executable.latest = Some((stream, sequence));
        }
        Ok(())
    }
}

/// `UPLOAD` needs a stream, which only cuGraphInstantiateWithParams takes.
unsafe extern "C" fn instantiate_with_flags(executable: *mut CUgraphExec, graph: CUgraph, flags: u64) -> CUresult {
    in_context(|state| {
        if flags & UPLOAD != 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        state.instantiate(executable, graph, flags)
    })
}

unsafe extern "C" fn instantiate_with_params(
    executable: *mut CUgraphExec,
    graph: CUgraph,
    params: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
) -> CUresult {
    in_context(|state| {
        let mut answers = get!(params)?;
        let stream = answers.upload_stream;
        let answer = state.stream_id(id(stream.0)).and_then(|_| state.instantiate(executable, graph, answers.flags));
        let answer = answer.and_then(|()| if answers.flags & UPLOAD != 0 { state.upload(stream) } else { Ok(()) });
        answers.error_node = CUgraphNode::null();
        answers.result = match answer {
            Ok(()) => CUgraphInstantiateResult::SUCCESS,
            Err(CUresult::ERROR_NOT_SUPPORTED) => CUgraphInstantiateResult::NODE_OPERATION_NOT_SUPPORTED,
            Err(_) if state.graph(graph).is_ok_and(|graph| graph.order().is_none()) => {
                CUgraphInstantiateResult::INVALID_STRUCTURE
            }
            Err(_) => CUgraphInstantiateResult::ERROR,
        };
        put!(params, answers)?;
        answer
    })
}

unsafe extern "C" fn upload(executable: CUgraphExec, stream: CUstream) -> CUresult {
    in_context(|state| {
        state.executable(executable)?;
        state.upload(stream)
    })
}

unsafe extern "C" fn launch(executable: CUgraphExec, stream: CUstream) -> CUresult {
    in_context(|state| state.launch(executable, id(stream.0)))
}

/// Launches that are enqueued still run.
unsafe extern "C" fn destroy(executable: CUgraphExec) -> CUresult {
    releasing(|state| state.executables.remove(&id(executable.0)).map(drop).ok_or(CUresult::ERROR_INVALID_VALUE))
}

//! The calls of stream capture; their rules are in [`super::capture`].

use std::ffi::c_uint;

use gridpoint_driver::{
    CUgraph, CUgraphEdgeData, CUgraphNode, CUresult, CUstream, CUstreamCaptureMode as Mode,
    CUstreamCaptureStatus as Status, Table,
};

use super::capture::add_tail;
use super::edges::{Edge, check_outgoing};
use super::state::{Id, LEGACY, State, handle, id};
use super::{Answer, capture, get, in_context, initialised, put};

pub(super) fn fill(table: &mut Table) {
    table.cuStreamBeginCapture_v2 = begin;
    table.cuStreamEndCapture = end;
    table.cuStreamIsCapturing = is_capturing;
    table.cuStreamGetCaptureInfo_v2 = get_capture_info_v2;
    table.cuStreamGetCaptureInfo_v3 = get_capture_info_v3;
    table.cuStreamUpdateCaptureDependencies = update_capture_dependencies;
    table.cuStreamUpdateCaptureDependencies_v2 = update_capture_dependencies_v2;
    table.cuThreadExchangeStreamCaptureMode = exchange_mode;
}

impl State {
    /// A stream's status. For the legacy stream while a blocking stream captures the answer is `STREAM_CAPTURE_IMPLICIT`, which
    /// invalidates nothing.
    fn capture_status(&mut self, stream: CUstream) -> Answer<(Id, Status)> {
        let stream = self.stream_id(id(stream.0))?;
        if stream == LEGACY && !self.blocking_captures().is_empty() {
            return Err(CUresult::ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        let capture = self.streams.get(&stream).and_then(|stream| stream.capture);
        let status = match capture.and_then(|capture| self.captures.get(&capture)) {
            None => Status::NONE,
            Some(capture) if capture.invalid => Status::INVALIDATED,
            Some(_) => Status::ACTIVE,
        };
        Ok((stream, status))
    }
}

unsafe extern "C" fn begin(stream: CUstream, mode: Mode) -> CUresult {
    in_context(|state| state.begin_capture(id(stream.0), mode))
}

/// The graph is null where the answer is an error.
unsafe extern "C" fn end(stream: CUstream, graph: *mut CUgraph) -> CUresult {
    in_context(|state| {
        put!(graph, CUgraph::null())?;
        put!(graph, CUgraph(handle(state.end_capture(id(stream.0))?)))
    })
}

unsafe extern "C" fn is_capturing(stream: CUstream, status: *mut Status) -> CUresult {
    in_context(|state| put!(status, state.capture_status(stream)?.1))
}

unsafe extern "C" fn get_capture_info_v2(
    stream: CUstream,
    status: *mut Status,
    number: *mut u64,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    count: *mut usize,
) -> CUresult {
    // SAFETY: the caller's promise is the one asked for.
    unsafe { get_capture_info_v3(stream, status, number, graph, dependencies, std::ptr::null_mut(), count) }
}

/// The nodes and edge data of the answer are valid until the next call on the stream. Nodes without an array for edge data answer
/// `LOSSY_QUERY` where a dependency is not a full one.
unsafe extern "C" fn get_capture_info_v3(
    stream: CUstream,
    status: *mut Status,
    number: *mut u64,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    data: *mut *const CUgraphEdgeData,
    count: *mut usize,
) -> CUresult {
    in_context(|state| {
        if dependencies.is_null() && !data.is_null() {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let (stream, found) = state.capture_status(stream)?;
        put!(status, found)?;
        if found != Status::ACTIVE {
            return Ok(());
        }
        let own = state.streams.get_mut(&stream).ok_or(CUresult::ERROR_INVALID_HANDLE)?;
        let capture_id = own.capture.ok_or(CUresult::ERROR_ILLEGAL_STATE)?;
        let capture = state.captures.get(&capture_id).ok_or(CUresult::ERROR_ILLEGAL_STATE)?;
        let tails = capture.streams.get(&stream).map(Vec::as_slice).unwrap_or_default();
        if !dependencies.is_null() && data.is_null() && !tails.iter().all(|tail| tail.edge.is_full()) {
            return Err(CUresult::ERROR_LOSSY_QUERY);
        }
        own.reported = tails.iter().map(|tail| CUgraphNode(handle(tail.edge.from))).collect();
        own.reported_data = tails.iter().map(|tail| tail.edge.data).collect();
        if !number.is_null() {
            put!(number, capture_id)?;
        }
        if !graph.is_null() {
            put!(graph, CUgraph(handle(capture.graph)))?;
        }
        if !dependencies.is_null() {
            put!(dependencies, own.reported.as_ptr())?;
        }
        if !data.is_null() {
            put!(data, own.reported_data.as_ptr())?;
        }
        if !count.is_null() {
            put!(count, own.reported.len())?;
        }
        Ok(())
    })
}

unsafe extern "C" fn update_capture_dependencies(
    stream: CUstream,
    dependencies: *mut CUgraphNode,
    count: usize,
    flags: c_uint,
) -> CUresult {
    // SAFETY: the caller's promise is the one asked for.
    unsafe { update_capture_dependencies_v2(stream, dependencies, std::ptr::null(), count, flags) }
}

/// Flag 0 adds to what the next node of the stream depends on, flag 1 replaces it. Without edge data the dependencies are full.
unsafe extern "C" fn update_capture_dependencies_v2(
    stream: CUstream,
    dependencies: *mut CUgraphNode,
    data: *const CUgraphEdgeData,
    count: usize,
    flags: c_uint,
) -> CUresult {
    in_context(|state| {
        if flags > 1 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let capture = state.capture_of(id(stream.0))?.ok_or(CUresult::ERROR_ILLEGAL_STATE)?;
        let stream = state.stream_id(id(stream.0))?;
        let capture = state.captures.get_mut(&capture).ok_or(CUresult::ERROR_ILLEGAL_STATE)?;
        let graph = state.graphs.get(&capture.graph).ok_or(CUresult::ERROR_ILLEGAL_STATE)?;
        let mut edges = Vec::new();
        for index in 0..count {
            let mut edge = Edge::full(id(get!(dependencies.wrapping_add(index))?.0));
            let node = graph.nodes.get(&edge.from).ok_or(CUresult::ERROR_INVALID_VALUE)?;
            if !data.is_null() {
                edge.data = get!(data.wrapping_add(index))?;
            }
            check_outgoing(edge.data, node.kind())?;
            edges.push(edge);
        }
        let tails = capture.streams.entry(stream).or_default();
        if flags == 1 {
            tails.clear();
        }
        edges.into_iter().for_each(|edge| add_tail(tails, edge));
        Ok(())
    })
}

unsafe extern "C" fn exchange_mode(mode: *mut Mode) -> CUresult {
    initialised(|_| {
        let wanted = get!(mode)?;
        if wanted > Mode::RELAXED {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        put!(mode, capture::exchange_mode(wanted))
    })
}

//! Programmatic dependent launch as graphs know it: the edges that a capture makes, who is told of them, and what is refused.

use std::ffi::c_void;

use gridpoint_driver::*;

use CUlaunchAttributeID as Id;

#[macro_use]
mod driver_support;
use driver_support::{Device, Parameters, config, device, step};

const WRONG: CUresult = CUresult::ERROR_INVALID_VALUE;
const LOSSY: CUresult = CUresult::ERROR_LOSSY_QUERY;
const FULL: CUgraphEdgeData = CUgraphEdgeData { from_port: 0, to_port: 0, kind: 0, reserved: [0; 5] };
const PROGRAMMATIC: CUgraphEdgeData = CUgraphEdgeData::PROGRAMMATIC;
const NODE: CUgraphNode = CUgraphNode::null();

fn null<T>() -> *mut T {
    std::ptr::null_mut()
}

fn number(id: CUlaunchAttributeID, value: i32) -> CUlaunchAttribute {
    CUlaunchAttribute::number(id, value)
}

fn serialisation(value: i32) -> CUlaunchAttribute {
    number(CUlaunchAttributeID::PROGRAMMATIC_STREAM_SERIALIZATION, value)
}

/// Launches a kernel that does nothing, as `blocks` blocks.
fn nothing(device: &Device, stream: CUstream, blocks: u32, attributes: &mut [CUlaunchAttribute]) {
    let config = config(blocks, stream, attributes);
    let none = std::ptr::null_mut();
    ok!(cuLaunchKernelEx(&config, device.function(c"nothing"), none, none));
}

fn plain(device: &Device, stream: CUstream) {
    nothing(device, stream, 1, &mut []);
}

fn programmatic(device: &Device, stream: CUstream) {
    nothing(device, stream, 1, &mut [serialisation(1)]);
}

fn begin(device: &Device) -> CUstream {
    let stream = device.stream(CU_STREAM_NON_BLOCKING);
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    stream
}

/// A capture of one kernel and a stream that forks off behind it, with an event to join them.
fn forked(device: &Device) -> (CUstream, CUstream, CUevent) {
    let (stream, other) = (begin(device), device.stream(CU_STREAM_NON_BLOCKING));
    let (fork, join) = (device.event(CU_EVENT_DISABLE_TIMING), device.event(CU_EVENT_DISABLE_TIMING));
    plain(device, stream);
    ok!(cuEventRecord(fork, stream));
    ok!(cuStreamWaitEvent(other, fork, 0));
    (stream, other, join)
}

/// Two kernels, the second launched with the attribute.
fn pair(device: &Device) -> CUgraph {
    let stream = begin(device);
    plain(device, stream);
    programmatic(device, stream);
    device.end(stream).unwrap()
}

/// Two kernels, the second launched without it.
fn full_pair(device: &Device) -> CUgraph {
    let stream = begin(device);
    plain(device, stream);
    plain(device, stream);
    device.end(stream).unwrap()
}

/// A graph of kernels without edges, made by calls.
fn loose(device: &Device, count: usize) -> (CUgraph, Vec<CUgraphNode>) {
    let mut graph = CUgraph::null();
    ok!(cuGraphCreate(&mut graph, 0));
    let params = CUDA_KERNEL_NODE_PARAMS_v1 {
        func: device.function(c"nothing"),
        grid_dim_x: 4,
        grid_dim_y: 1,
        grid_dim_z: 1,
        block_dim_x: 1,
        block_dim_y: 1,
        block_dim_z: 1,
        shared_mem_bytes: 0,
        kernel_params: std::ptr::null_mut(),
        extra: std::ptr::null_mut(),
    };
    let mut nodes = vec![NODE; count];
    for node in &mut nodes {
        ok!(cuGraphAddKernelNode(node, graph, std::ptr::null(), 0, &params));
    }
    (graph, nodes)
}

/// A graph's edges by the places of their nodes, with their data.
fn edges(device: &Device, graph: CUgraph) -> Vec<(usize, usize, CUgraphEdgeData)> {
    let mut count = 0;
    ok!(cuGraphGetEdges_v2(graph, null(), null(), null(), &mut count));
    let (mut from, mut to, mut data) = (vec![NODE; count], vec![NODE; count], vec![FULL; count]);
    ok!(cuGraphGetEdges_v2(graph, from.as_mut_ptr(), to.as_mut_ptr(), data.as_mut_ptr(), &mut count));
    let nodes = device.nodes(graph);
    let place = |node: CUgraphNode| nodes.iter().position(|&other| other == node).unwrap();
    from.into_iter().zip(to).zip(data).map(|((from, to), data)| (place(from), place(to), data)).collect()
}

fn add(graph: CUgraph, from: CUgraphNode, to: CUgraphNode, data: CUgraphEdgeData) -> CUresult {
    answer!(cuGraphAddDependencies_v2(graph, &from, &to, &data, 1))
}

fn remove(graph: CUgraph, from: CUgraphNode, to: CUgraphNode, data: CUgraphEdgeData) -> CUresult {
    answer!(cuGraphRemoveDependencies_v2(graph, &from, &to, &data, 1))
}

/// The half edges of a capturing stream as cuStreamGetCaptureInfo_v3 hands them out.
fn half_edges(stream: CUstream) -> (Vec<CUgraphNode>, Vec<CUgraphEdgeData>) {
    let (mut status, mut count) = (CUstreamCaptureStatus::NONE, 0);
    let (mut nodes, mut data) = (std::ptr::null(), std::ptr::null());
    ok!(cuStreamGetCaptureInfo_v3(stream, &mut status, null(), null(), &mut nodes, &mut data, &mut count));
    assert_eq!(status, CUstreamCaptureStatus::ACTIVE);
    // SAFETY: the call answered as many of both, which are valid until the next call on the stream.
    unsafe { (std::slice::from_raw_parts(nodes, count).to_vec(), std::slice::from_raw_parts(data, count).to_vec()) }
}

/// What the older form answers where the caller wants the nodes, or only their number.
fn older_info(stream: CUstream, wants_nodes: bool) -> CUresult {
    let (mut status, mut count, mut nodes) = (CUstreamCaptureStatus::NONE, 0, std::ptr::null());
    let nodes = if wants_nodes { &raw mut nodes } else { null() };
    answer!(cuStreamGetCaptureInfo_v2(stream, &mut status, null(), null(), nodes, &mut count))
}

fn replace_half_edges(stream: CUstream, node: CUgraphNode, data: CUgraphEdgeData) -> CUresult {
    let mut node = node;
    answer!(cuStreamUpdateCaptureDependencies_v2(stream, &mut node, &data, 1, 1))
}

#[test]
fn a_captured_launch_with_the_attribute_depends_programmatically_on_the_kernel_before_it() {
    let device = device();
    let stream = begin(&device);
    // The first node has nothing before it.
    programmatic(&device, stream);
    plain(&device, stream);
    programmatic(&device, stream);
    nothing(&device, stream, 1, &mut [serialisation(0)]);
    nothing(&device, stream, 1, &mut [serialisation(7)]);
    let graph = device.end(stream).unwrap();
    assert_eq!(edges(&device, graph), [(0, 1, FULL), (1, 2, PROGRAMMATIC), (2, 3, FULL), (3, 4, PROGRAMMATIC)]);
    ok!(cuGraphLaunch(device.instantiate(graph), CU_STREAM_LEGACY));
    ok!(cuCtxSynchronize());
}

#[test]
fn what_is_no_kernel_stays_a_full_dependency() {
    let device = device();
    let data = device.buffer(&[1]);
    let stream = begin(&device);
    plain(&device, stream);
    ok!(cuMemsetD32Async(data, 3, 1, stream));
    programmatic(&device, stream);
    ok!(cuMemsetD32Async(data, 4, 1, stream));
    let graph = device.end(stream).unwrap();
    assert_eq!(edges(&device, graph), [(0, 1, FULL), (1, 2, FULL), (2, 3, FULL)]);
}

#[test]
fn what_a_stream_waits_for_stays_a_full_dependency() {
    let device = device();
    let (stream, other, join) = forked(&device);
    // Nothing came before it in its own stream.
    programmatic(&device, other);
    programmatic(&device, other);
    ok!(cuEventRecord(join, other));
    programmatic(&device, stream);
    ok!(cuStreamWaitEvent(stream, join, 0));
    // Its own stream's kernel, and the one that was waited for.
    programmatic(&device, stream);
    let graph = device.end(stream).unwrap();
    let expected = [(0, 1, FULL), (1, 2, PROGRAMMATIC), (0, 3, PROGRAMMATIC), (2, 4, FULL), (3, 4, PROGRAMMATIC)];
    assert_eq!(edges(&device, graph), expected);
}

#[test]
fn a_wait_for_the_streams_own_event_makes_the_dependency_full() {
    let device = device();
    let (stream, event) = (begin(&device), device.event(CU_EVENT_DISABLE_TIMING));
    plain(&device, stream);
    ok!(cuEventRecord(event, stream));
    ok!(cuStreamWaitEvent(stream, event, 0));
    programmatic(&device, stream);
    let graph = device.end(stream).unwrap();
    assert_eq!(edges(&device, graph), [(0, 1, FULL)]);
}

#[test]
fn queries_without_room_for_edge_data_answer_that_they_would_lose_it() {
    let device = device();
    let graph = pair(&device);
    let nodes = device.nodes(graph);
    let (mut from, mut to, mut count) = (NODE, NODE, 1);
    assert_eq!(answer!(cuGraphGetEdges(graph, &mut from, &mut to, &mut count)), LOSSY);
    assert_eq!(answer!(cuGraphGetEdges_v2(graph, &mut from, &mut to, null(), &mut count)), LOSSY);
    assert_eq!(answer!(cuGraphNodeGetDependencies(nodes[1], &mut from, &mut count)), LOSSY);
    assert_eq!(answer!(cuGraphNodeGetDependencies_v2(nodes[1], &mut from, null(), &mut count)), LOSSY);
    assert_eq!(answer!(cuGraphNodeGetDependentNodes(nodes[0], &mut to, &mut count)), LOSSY);
    assert_eq!(answer!(cuGraphNodeGetDependentNodes_v2(nodes[0], &mut to, null(), &mut count)), LOSSY);
    assert_eq!((from, to, count), (NODE, NODE, 1));
    // Other nodes of the graph have nothing to lose.
    ok!(cuGraphNodeGetDependencies(nodes[0], &mut from, &mut count));
    assert_eq!((from, count), (NODE, 0));
}

#[test]
fn queries_that_only_count_lose_nothing() {
    let device = device();
    let graph = pair(&device);
    let nodes = device.nodes(graph);
    let mut counts = [0; 3];
    ok!(cuGraphGetEdges(graph, null(), null(), &mut counts[0]));
    ok!(cuGraphNodeGetDependencies(nodes[1], null(), &mut counts[1]));
    ok!(cuGraphNodeGetDependentNodes(nodes[0], null(), &mut counts[2]));
    assert_eq!(counts, [1; 3]);
}

#[test]
fn queries_with_room_hand_the_edge_data_out() {
    let device = device();
    let graph = pair(&device);
    let nodes = device.nodes(graph);
    // Room for two where there is one: the second node is null, the second data stay.
    let unused = CUgraphEdgeData { reserved: [9; 5], ..FULL };
    let (mut found, mut data, mut count) = ([nodes[0]; 2], [unused; 2], 2);
    ok!(cuGraphNodeGetDependencies_v2(nodes[1], found.as_mut_ptr(), data.as_mut_ptr(), &mut count));
    assert_eq!((found, data, count), ([nodes[0], NODE], [PROGRAMMATIC, unused], 1));
    let (mut found, mut data, mut count) = ([nodes[0]; 2], [unused; 2], 2);
    ok!(cuGraphNodeGetDependentNodes_v2(nodes[0], found.as_mut_ptr(), data.as_mut_ptr(), &mut count));
    assert_eq!((found, data, count), ([nodes[1], NODE], [PROGRAMMATIC, unused], 1));
    assert_eq!(edges(&device, graph), [(0, 1, PROGRAMMATIC)]);
    // No room at all is no error, and nothing is written.
    let (mut data, mut count) = (unused, 0);
    ok!(cuGraphNodeGetDependencies_v2(nodes[1], found.as_mut_ptr(), &mut data, &mut count));
    assert_eq!((data, count), (unused, 0));
}

#[test]
fn edge_data_are_asked_for_only_together_with_the_nodes() {
    let device = device();
    let graph = pair(&device);
    let nodes = device.nodes(graph);
    let (mut data, mut node, mut count) = (FULL, NODE, 1);
    assert_eq!(answer!(cuGraphGetEdges_v2(graph, null(), null(), &mut data, &mut count)), WRONG);
    assert_eq!(answer!(cuGraphGetEdges_v2(graph, &mut node, null(), &mut data, &mut count)), WRONG);
    assert_eq!(answer!(cuGraphNodeGetDependencies_v2(nodes[1], null(), &mut data, &mut count)), WRONG);
    assert_eq!(answer!(cuGraphNodeGetDependentNodes_v2(nodes[0], null(), &mut data, &mut count)), WRONG);
    let stream = begin(&device);
    let (mut status, mut data) = (CUstreamCaptureStatus::NONE, std::ptr::null());
    let answer = answer!(cuStreamGetCaptureInfo_v3(stream, &mut status, null(), null(), null(), &mut data, &mut count));
    assert_eq!(answer, WRONG);
    device.end(stream).unwrap();
}

#[test]
fn full_edges_are_told_by_every_form() {
    let device = device();
    let graph = full_pair(&device);
    let nodes = device.nodes(graph);
    let (mut from, mut to, mut count) = (NODE, NODE, 1);
    ok!(cuGraphGetEdges(graph, &mut from, &mut to, &mut count));
    assert_eq!((from, to), (nodes[0], nodes[1]));
    let (mut from, mut to) = (NODE, NODE);
    ok!(cuGraphNodeGetDependencies(nodes[1], &mut from, &mut count));
    ok!(cuGraphNodeGetDependentNodes_v2(nodes[0], &mut to, std::ptr::null_mut(), &mut count));
    assert_eq!((from, to, count), (nodes[0], nodes[1], 1));
    assert_eq!(answer!(cuGraphNodeGetDependencies(CUgraphNode(graph.0), &mut from, &mut count)), WRONG);
}

#[test]
fn a_clone_has_the_edge_data_of_its_original() {
    let device = device();
    let graph = pair(&device);
    let nodes = device.nodes(graph);
    let mut clone = CUgraph::null();
    ok!(cuGraphClone(&mut clone, graph));
    // What becomes of the original changes nothing.
    assert_eq!(remove(graph, nodes[0], nodes[1], PROGRAMMATIC), CUresult::SUCCESS);
    assert_eq!(edges(&device, clone), [(0, 1, PROGRAMMATIC)]);
    // Nor does it matter that an edge leads to a node that was made before.
    assert_eq!(add(graph, nodes[1], nodes[0], PROGRAMMATIC), CUresult::SUCCESS);
    ok!(cuGraphClone(&mut clone, graph));
    assert_eq!(edges(&device, clone), [(1, 0, PROGRAMMATIC)]);
}

#[test]
fn the_attribute_says_nothing_of_the_half_edge_behind_the_launch() {
    let device = device();
    let stream = begin(&device);
    plain(&device, stream);
    programmatic(&device, stream);
    assert_eq!(older_info(stream, true), CUresult::SUCCESS);
    let (nodes, data) = half_edges(stream);
    assert_eq!((nodes.len(), data), (1, vec![FULL]));
    device.end(stream).unwrap();
}

#[test]
fn half_edges_keep_the_data_that_they_are_given() {
    let device = device();
    let stream = begin(&device);
    plain(&device, stream);
    let (first, _) = half_edges(stream);
    assert_eq!(replace_half_edges(stream, first[0], PROGRAMMATIC), CUresult::SUCCESS);
    assert_eq!(half_edges(stream), (first.clone(), vec![PROGRAMMATIC]));
    assert_eq!((older_info(stream, true), older_info(stream, false)), (LOSSY, CUresult::SUCCESS));
    // The launch needs no attribute then.
    plain(&device, stream);
    // Without data the half edge is a full one, also for a launch with the attribute.
    let (mut second, _) = half_edges(stream);
    ok!(cuStreamUpdateCaptureDependencies(stream, second.as_mut_ptr(), 1, 1));
    programmatic(&device, stream);
    let graph = device.end(stream).unwrap();
    assert_eq!(edges(&device, graph), [(0, 1, PROGRAMMATIC), (1, 2, FULL)]);
}

#[test]
fn of_two_half_edges_from_a_node_the_stricter_stays() {
    let device = device();
    let stream = begin(&device);
    plain(&device, stream);
    let (first, _) = half_edges(stream);
    let add = |data: CUgraphEdgeData| {
        let mut node = first[0];
        ok!(cuStreamUpdateCaptureDependencies_v2(stream, &mut node, &data, 1, 0));
        half_edges(stream).1
    };
    let launch_order = CUgraphEdgeData { from_port: CU_GRAPH_KERNEL_NODE_PORT_LAUNCH_ORDER, ..FULL };
    assert_eq!(add(PROGRAMMATIC), [FULL]);
    assert_eq!(replace_half_edges(stream, first[0], launch_order), CUresult::SUCCESS);
    assert_eq!(add(PROGRAMMATIC), [PROGRAMMATIC]);
    assert_eq!(add(launch_order), [PROGRAMMATIC]);
    assert_eq!(add(FULL), [FULL]);
    device.end(stream).unwrap();
}

#[test]
fn a_half_edge_that_no_node_of_its_kind_has_is_refused() {
    let device = device();
    let data = device.buffer(&[1]);
    let stream = begin(&device);
    ok!(cuMemsetD32Async(data, 3, 1, stream));
    let (memset, _) = half_edges(stream);
    assert_eq!(replace_half_edges(stream, memset[0], PROGRAMMATIC), WRONG);
    assert_eq!(half_edges(stream), (memset, vec![FULL]));
    device.end(stream).unwrap();
}

#[test]
fn only_a_kernel_follows_a_programmatic_half_edge() {
    let device = device();
    let data = device.buffer(&[1]);
    let stream = begin(&device);
    plain(&device, stream);
    let (first, _) = half_edges(stream);
    assert_eq!(replace_half_edges(stream, first[0], PROGRAMMATIC), CUresult::SUCCESS);
    assert_eq!(answer!(cuMemsetD32Async(data, 3, 1, stream)), WRONG);
    assert_eq!(device.end(stream), Err(CUresult::ERROR_STREAM_CAPTURE_INVALIDATED));
}

#[test]
fn a_capture_does_not_end_with_a_half_edge_that_waits_for_less_than_a_node() {
    let device = device();
    let stream = begin(&device);
    plain(&device, stream);
    let (first, _) = half_edges(stream);
    assert_eq!(replace_half_edges(stream, first[0], PROGRAMMATIC), CUresult::SUCCESS);
    assert_eq!(device.end(stream), Err(CUresult::ERROR_STREAM_CAPTURE_UNJOINED));
    // Not even where the end of that node is waited for in another way.
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    plain(&device, stream);
    let (mut first, _) = half_edges(stream);
    plain(&device, stream);
    ok!(cuStreamUpdateCaptureDependencies_v2(stream, first.as_mut_ptr(), &PROGRAMMATIC, 1, 0));
    assert_eq!(device.end(stream), Err(CUresult::ERROR_STREAM_CAPTURE_UNJOINED));
}

#[test]
fn a_stream_that_was_joined_stays_joined_behind_programmatic_launches() {
    let device = device();
    let (stream, other, join) = forked(&device);
    programmatic(&device, other);
    ok!(cuEventRecord(join, other));
    ok!(cuStreamWaitEvent(stream, join, 0));
    programmatic(&device, stream);
    programmatic(&device, stream);
    let graph = device.end(stream).unwrap();
    let expected = [(0, 1, FULL), (0, 2, PROGRAMMATIC), (1, 2, FULL), (2, 3, PROGRAMMATIC)];
    assert_eq!(edges(&device, graph), expected);
}

#[test]
fn a_programmatic_edge_joins_no_stream() {
    for (data, expected) in [(FULL, Ok(())), (PROGRAMMATIC, Err(CUresult::ERROR_STREAM_CAPTURE_UNJOINED))] {
        let device = device();
        let (stream, other) = (begin(&device), device.stream(CU_STREAM_NON_BLOCKING));
        let event = device.event(CU_EVENT_DISABLE_TIMING);
        plain(&device, stream);
        ok!(cuEventRecord(event, stream));
        ok!(cuStreamWaitEvent(other, event, 0));
        plain(&device, other);
        let (mut last, _) = half_edges(other);
        ok!(cuStreamUpdateCaptureDependencies_v2(stream, last.as_mut_ptr(), &data, 1, 0));
        plain(&device, stream);
        assert_eq!(device.end(stream).map(drop), expected, "{data:?}");
    }
}

#[test]
fn edges_that_there_cannot_be_are_refused() {
    let device = device();
    let data = device.buffer(&[1]);
    let stream = begin(&device);
    plain(&device, stream);
    plain(&device, stream);
    ok!(cuMemsetD32Async(data, 3, 1, stream));
    let graph = device.end(stream).unwrap();
    let nodes = device.nodes(graph);
    let [first, second, memset] = nodes[..] else { panic!("{nodes:?}") };
    assert_eq!(remove(graph, first, second, FULL), CUresult::SUCCESS);
    assert_eq!(remove(graph, second, memset, FULL), CUresult::SUCCESS);
    let launch_order = CU_GRAPH_KERNEL_NODE_PORT_LAUNCH_ORDER;
    let refused = [
        // From and into what is no kernel.
        (memset, first, PROGRAMMATIC),
        (first, memset, PROGRAMMATIC),
        (memset, first, CUgraphEdgeData { from_port: launch_order, ..FULL }),
        (first, memset, CUgraphEdgeData { from_port: launch_order, ..PROGRAMMATIC }),
        // Port and kind that do not go together.
        (first, second, CUgraphEdgeData { from_port: 0, ..PROGRAMMATIC }),
        (first, second, CUgraphEdgeData { kind: 0, ..PROGRAMMATIC }),
        (first, memset, CUgraphEdgeData { kind: 0, ..PROGRAMMATIC }),
        // Ports and kinds that there are not.
        (first, second, CUgraphEdgeData { from_port: 3, ..PROGRAMMATIC }),
        (first, second, CUgraphEdgeData { from_port: 3, ..FULL }),
        (first, second, CUgraphEdgeData { kind: 2, ..PROGRAMMATIC }),
        (first, second, CUgraphEdgeData { to_port: 1, ..PROGRAMMATIC }),
        (first, second, CUgraphEdgeData { to_port: 1, ..FULL }),
        (first, second, CUgraphEdgeData { reserved: [0, 0, 0, 0, 1], ..PROGRAMMATIC }),
        // Nodes that are the same, or not the graph's.
        (first, first, FULL),
        (first, NODE, FULL),
        (NODE, first, FULL),
    ];
    for (from, to, data) in refused {
        assert_eq!(add(graph, from, to, data), WRONG, "{data:?}");
    }
    assert_eq!(edges(&device, graph), []);
    // What remains is allowed.
    assert_eq!(add(graph, first, second, PROGRAMMATIC), CUresult::SUCCESS);
    let data = CUgraphEdgeData { from_port: launch_order, ..FULL };
    assert_eq!(add(graph, first, memset, data), CUresult::SUCCESS);
    assert_eq!(edges(&device, graph), [(0, 1, PROGRAMMATIC), (0, 2, data)]);
}

#[test]
fn between_two_nodes_there_is_one_edge() {
    let device = device();
    let (graph, nodes) = loose(&device, 3);
    ok!(cuGraphAddDependencies(graph, nodes.as_ptr(), nodes[1..].as_ptr(), 2));
    assert_eq!(edges(&device, graph), [(0, 1, FULL), (1, 2, FULL)]);
    for data in [FULL, PROGRAMMATIC] {
        assert_eq!(add(graph, nodes[0], nodes[1], data), WRONG);
    }
    // Not even twice in one call, of which nothing is done then.
    let (from, to) = ([nodes[0]; 2], [nodes[2]; 2]);
    let data = [FULL, PROGRAMMATIC];
    assert_eq!(answer!(cuGraphAddDependencies_v2(graph, from.as_ptr(), to.as_ptr(), data.as_ptr(), 2)), WRONG);
    assert_eq!(edges(&device, graph).len(), 2);
    assert_eq!(answer!(cuGraphAddDependencies(graph, std::ptr::null(), nodes.as_ptr(), 1)), WRONG);
    ok!(cuGraphAddDependencies(graph, std::ptr::null(), std::ptr::null(), 0));
}

#[test]
fn an_edge_is_removed_by_its_data() {
    let device = device();
    let graph = pair(&device);
    let nodes = device.nodes(graph);
    assert_eq!(answer!(cuGraphRemoveDependencies(graph, &nodes[0], &nodes[1], 1)), WRONG);
    let none = std::ptr::null();
    assert_eq!(answer!(cuGraphRemoveDependencies_v2(graph, &nodes[0], &nodes[1], none, 1)), WRONG);
    assert_eq!(remove(graph, nodes[1], nodes[0], PROGRAMMATIC), WRONG);
    // The same edge twice: nothing is removed.
    let (from, to, data) = ([nodes[0]; 2], [nodes[1]; 2], [PROGRAMMATIC; 2]);
    assert_eq!(answer!(cuGraphRemoveDependencies_v2(graph, from.as_ptr(), to.as_ptr(), data.as_ptr(), 2)), WRONG);
    assert_eq!(edges(&device, graph), [(0, 1, PROGRAMMATIC)]);
    assert_eq!(remove(graph, nodes[0], nodes[1], PROGRAMMATIC), CUresult::SUCCESS);
    assert_eq!(edges(&device, graph), []);
    assert_eq!(add(graph, nodes[0], nodes[1], FULL), CUresult::SUCCESS);
    ok!(cuGraphRemoveDependencies(graph, &nodes[0], &nodes[1], 1));
    assert_eq!(edges(&device, graph), []);
}

#[test]
fn an_edge_to_a_node_made_before_changes_the_order() {
    let device = device();
    let data = device.buffer(&[1]);
    let stream = begin(&device);
    device.mix(stream, data, 1, 5);
    device.mix(stream, data, 1, 7);
    let graph = device.end(stream).unwrap();
    let nodes = device.nodes(graph);
    ok!(cuGraphRemoveDependencies(graph, &nodes[0], &nodes[1], 1));
    ok!(cuGraphAddDependencies(graph, &nodes[1], &nodes[0], 1));
    ok!(cuGraphLaunch(device.instantiate(graph), CU_STREAM_LEGACY));
    ok!(cuCtxSynchronize());
    assert_eq!(device.peek(data), step(step(1, 7), 5));
}

#[test]
fn a_cycle_is_found_when_the_graph_is_instantiated() {
    let device = device();
    let graph = pair(&device);
    let executable = device.instantiate(graph);
    let nodes = device.nodes(graph);
    assert_eq!(add(graph, nodes[1], nodes[0], FULL), CUresult::SUCCESS);
    let mut made = CUgraphExec::null();
    assert_eq!(answer!(cuGraphInstantiateWithFlags(&mut made, graph, 0)), WRONG);
    let mut params = CUDA_GRAPH_INSTANTIATE_PARAMS::default();
    assert_eq!(answer!(cuGraphInstantiateWithParams(&mut made, graph, &mut params)), WRONG);
    assert_eq!((made, params.result), (CUgraphExec::null(), CUgraphInstantiateResult::INVALID_STRUCTURE));
    let mut result = CUgraphExecUpdateResultInfo::default();
    let answer = answer!(cuGraphExecUpdate_v2(executable, graph, &mut result));
    assert_eq!(answer, CUresult::ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    assert_eq!(result.result, CUgraphExecUpdateResult::ERROR);
}

#[test]
fn an_update_does_not_change_what_an_edge_stands_for() {
    let device = device();
    let (with, without) = (pair(&device), full_pair(&device));
    for (own, other) in [(with, without), (without, with)] {
        let executable = device.instantiate(own);
        let mut result = CUgraphExecUpdateResultInfo::default();
        let answer = answer!(cuGraphExecUpdate_v2(executable, other, &mut result));
        assert_eq!(answer, CUresult::ERROR_GRAPH_EXEC_UPDATE_FAILURE);
        let nodes = device.nodes(other);
        assert_eq!(result.result, CUgraphExecUpdateResult::TOPOLOGY_CHANGED);
        assert_eq!((result.error_node, result.error_from_node), (nodes[1], nodes[0]));
        ok!(cuGraphExecUpdate_v2(executable, own, &mut result));
    }
}

#[test]
fn graphviz_shows_which_edges_are_programmatic() {
    let device = device();
    let stream = begin(&device);
    plain(&device, stream);
    programmatic(&device, stream);
    plain(&device, stream);
    let graph = device.end(stream).unwrap();
    let path = std::env::temp_dir().join(format!("gridpoint-programmatic-{}.dot", std::process::id()));
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    ok!(cuGraphDebugDotPrint(graph, name.as_ptr(), 0));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let edges: Vec<&str> = text.lines().filter(|line| line.contains("->")).collect();
    assert_eq!(edges.len(), 2, "{text}");
    assert!(edges[0].contains("programmatic") && !edges[1].contains("programmatic"), "{text}");
}

/// An attribute of a node: its bytes as a number and as a cluster.
fn attribute(node: CUgraphNode, id: CUlaunchAttributeID) -> Result<(i32, [u32; 3]), CUresult> {
    let mut value = CUlaunchAttributeValue { pad: [0xff; 64] };
    let answer = answer!(cuGraphKernelNodeGetAttribute(node, id, &mut value));
    // SAFETY: any bytes are numbers.
    if answer.is_success() { Ok(unsafe { (value.value, value.cluster) }) } else { Err(answer) }
}

fn set(node: CUgraphNode, attribute: CUlaunchAttribute) -> CUresult {
    answer!(cuGraphKernelNodeSetAttribute(node, attribute.id, &attribute.value))
}

fn clusters(extent: [u32; 3]) -> CUlaunchAttribute {
    let value = CUlaunchAttributeValue { cluster: extent };
    CUlaunchAttribute { id: CUlaunchAttributeID::CLUSTER_DIMENSION, pad: [0; 4], value }
}

#[test]
fn a_captured_kernel_has_the_cluster_and_the_priority_of_its_launch() {
    let device = device();
    let mut stream = CUstream::null();
    ok!(cuStreamCreateWithPriority(&mut stream, CU_STREAM_NON_BLOCKING, -3));
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    plain(&device, stream);
    nothing(&device, stream, 4, &mut [number(Id::PRIORITY, -1), clusters([2, 1, 1])]);
    let none = std::ptr::null_mut();
    ok!(cuLaunchKernel(device.function(c"nothing"), 1, 1, 1, 1, 1, 1, 0, stream, none, none));
    let graph = device.end(stream).unwrap();
    let nodes = device.nodes(graph);
    let priorities: Vec<i32> = nodes.iter().map(|&node| attribute(node, Id::PRIORITY).unwrap().0).collect();
    assert_eq!(priorities, [-3, -1, -3]);
    assert_eq!(attribute(nodes[0], Id::CLUSTER_DIMENSION).unwrap().1, [1, 1, 1]);
    assert_eq!(attribute(nodes[1], Id::CLUSTER_DIMENSION).unwrap().1, [2, 1, 1]);
    assert_eq!(attribute(nodes[1], Id::COOPERATIVE).unwrap().0, 0);
}

#[test]
fn programmatic_serialisation_is_no_attribute_of_a_node() {
    let device = device();
    let nodes = device.nodes(pair(&device));
    assert_eq!(attribute(nodes[1], Id::PROGRAMMATIC_STREAM_SERIALIZATION), Err(WRONG));
    assert_eq!(set(nodes[0], serialisation(1)), WRONG);
    // Nor are these, and these are not kept.
    assert_eq!(attribute(nodes[1], Id::SYNCHRONIZATION_POLICY), Err(WRONG));
    assert_eq!(attribute(nodes[1], Id::MEM_SYNC_DOMAIN), Err(CUresult::ERROR_NOT_SUPPORTED));
    assert_eq!(set(nodes[1], number(Id::COOPERATIVE, 1)), CUresult::ERROR_NOT_SUPPORTED);
}

#[test]
fn attributes_of_a_node_are_set_and_copied() {
    let device = device();
    let (_, nodes) = loose(&device, 2);
    assert_eq!(attribute(nodes[0], Id::PRIORITY).unwrap().0, 0);
    assert_eq!(set(nodes[0], number(Id::PRIORITY, -2)), CUresult::SUCCESS);
    assert_eq!(set(nodes[0], clusters([4, 1, 1])), CUresult::SUCCESS);
    assert_eq!(set(nodes[0], clusters([3, 1, 1])), WRONG);
    assert_eq!(set(nodes[0], clusters([0, 1, 1])), WRONG);
    ok!(cuGraphKernelNodeCopyAttributes(nodes[1], nodes[0]));
    for &node in &nodes {
        assert_eq!(attribute(node, Id::PRIORITY).unwrap().0, -2);
        assert_eq!(attribute(node, Id::CLUSTER_DIMENSION).unwrap().1, [4, 1, 1]);
    }
    // A grid that the cluster does not divide.
    let other = device.nodes(pair(&device));
    assert_eq!(answer!(cuGraphKernelNodeCopyAttributes(other[0], nodes[0])), WRONG);
    assert_eq!(answer!(cuGraphKernelNodeGetAttribute(nodes[0], Id::PRIORITY, std::ptr::null_mut())), WRONG);
    assert_eq!(attribute(NODE, Id::PRIORITY), Err(WRONG));
}

#[test]
fn attributes_of_a_node_outlive_its_parameters_and_change_no_executable_graph() {
    let device = device();
    let (graph, nodes) = loose(&device, 1);
    assert_eq!(set(nodes[0], number(Id::PRIORITY, -2)), CUresult::SUCCESS);
    let mut executable = CUgraphExec::null();
    ok!(cuGraphInstantiateWithFlags(&mut executable, graph, CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY));
    let mut params = CUDA_KERNEL_NODE_PARAMS_v2::default();
    ok!(cuGraphKernelNodeGetParams_v2(nodes[0], &mut params));
    ok!(cuGraphKernelNodeSetParams_v2(nodes[0], &params));
    assert_eq!(attribute(nodes[0], Id::PRIORITY).unwrap().0, -2);
    let mut result = CUgraphExecUpdateResultInfo::default();
    ok!(cuGraphExecUpdate_v2(executable, graph, &mut result));
    assert_eq!(set(nodes[0], number(Id::PRIORITY, -1)), CUresult::SUCCESS);
    let answer = answer!(cuGraphExecUpdate_v2(executable, graph, &mut result));
    assert_eq!(answer, CUresult::ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    assert_eq!((result.result, result.error_node), (CUgraphExecUpdateResult::ATTRIBUTES_CHANGED, nodes[0]));
    // Where node priorities are not asked for, they may change.
    let executable = device.instantiate(graph);
    assert_eq!(set(nodes[0], number(Id::PRIORITY, 0)), CUresult::SUCCESS);
    ok!(cuGraphExecUpdate_v2(executable, graph, &mut result));
}

#[test]
fn a_node_that_is_no_kernel_has_no_kernel_attributes() {
    let device = device();
    let data = device.buffer(&[1]);
    let stream = begin(&device);
    plain(&device, stream);
    ok!(cuMemsetD32Async(data, 3, 1, stream));
    let nodes = device.nodes(device.end(stream).unwrap());
    assert_eq!(attribute(nodes[1], Id::PRIORITY), Err(WRONG));
    assert_eq!(set(nodes[1], number(Id::PRIORITY, -1)), WRONG);
    assert_eq!(answer!(cuGraphKernelNodeCopyAttributes(nodes[1], nodes[0])), WRONG);
    assert_eq!(answer!(cuGraphKernelNodeCopyAttributes(nodes[0], nodes[1])), WRONG);
}

#[test]
fn a_node_added_without_edge_data_has_full_edges_whatever_its_attributes() {
    let device = device();
    let graph = pair(&device);
    let nodes = device.nodes(graph);
    let mut params = CUDA_KERNEL_NODE_PARAMS_v1 {
        func: CUfunction::null(),
        grid_dim_x: 0,
        grid_dim_y: 0,
        grid_dim_z: 0,
        block_dim_x: 0,
        block_dim_y: 0,
        block_dim_z: 0,
        shared_mem_bytes: 0,
        kernel_params: std::ptr::null_mut(),
        extra: std::ptr::null_mut(),
    };
    ok!(cuGraphKernelNodeGetParams(nodes[1], &mut params));
    let mut added = NODE;
    ok!(cuGraphAddKernelNode(&mut added, graph, &nodes[1], 1, &params));
    ok!(cuGraphKernelNodeCopyAttributes(added, nodes[1]));
    assert_eq!(edges(&device, graph), [(0, 1, PROGRAMMATIC), (1, 2, FULL)]);
}

#[test]
fn events_of_a_launch_are_not_supported() {
    let device = device();
    let none: *mut *mut c_void = std::ptr::null_mut();
    for id in [Id::PROGRAMMATIC_EVENT, Id::LAUNCH_COMPLETION_EVENT] {
        let mut attribute = number(id, 0);
        let config = config(1, CU_STREAM_LEGACY, std::slice::from_mut(&mut attribute));
        let answer = answer!(cuLaunchKernelEx(&config, device.function(c"nothing"), none, none));
        assert_eq!(answer, CUresult::ERROR_NOT_SUPPORTED);
    }
}

#[test]
fn launches_with_the_attribute_give_the_results_of_launches_without() {
    let device = device();
    let data = device.buffer(&[1]);
    let stream = begin(&device);
    for value in [5, 7] {
        let mut parameters = Parameters { data, count: 1, value };
        let mut addresses = [(&raw mut parameters).cast::<c_void>()];
        let mut attribute = serialisation(1);
        let config = config(1, stream, std::slice::from_mut(&mut attribute));
        let none = std::ptr::null_mut();
        ok!(cuLaunchKernelEx(&config, device.function(c"mix"), addresses.as_mut_ptr(), none));
    }
    let graph = device.end(stream).unwrap();
    assert_eq!(edges(&device, graph), [(0, 1, PROGRAMMATIC)]);
    ok!(cuGraphLaunch(device.instantiate(graph), CU_STREAM_LEGACY));
    ok!(cuCtxSynchronize());
    assert_eq!(device.peek(data), step(step(1, 5), 7));
}

#[test]
fn a_caller_older_than_edge_data_gets_the_functions_without() {
    let _device = device();
    let find = |name: &std::ffi::CStr, version: i32| {
        let mut address = std::ptr::null_mut();
        ok!(cuGetProcAddress(name.as_ptr(), &mut address, version, 0));
        address
    };
    for (name, newest, before) in [
        (c"cuGraphGetEdges", c"cuGraphGetEdges_v2", c"cuGraphGetEdges"),
        (c"cuGraphAddDependencies", c"cuGraphAddDependencies_v2", c"cuGraphAddDependencies"),
        (c"cuStreamGetCaptureInfo", c"cuStreamGetCaptureInfo_v3", c"cuStreamGetCaptureInfo_v2"),
    ] {
        assert_eq!(find(name, 12_030), find(newest, 12_030), "{name:?}");
        assert_ne!(find(name, 12_020), find(newest, 12_030), "{name:?}");
        assert_eq!(find(name, 12_020), find(before, 12_020), "{name:?}");
    }
}

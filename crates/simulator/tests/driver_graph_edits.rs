//! Graphs that are copied, edited and switched off in part, and captures whose dependencies are set by hand.

use std::ffi::c_void;

use gridpoint_driver::*;

#[macro_use]
mod driver_support;
use driver_support::{Device, Parameters, device, step};

const WRONG: CUresult = CUresult::ERROR_INVALID_VALUE;

/// A graph of `values.len()` kernels, one after another.
fn chain(device: &Device, data: u64, values: &[u32]) -> CUgraph {
    let stream = device.stream(CU_STREAM_NON_BLOCKING);
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    values.iter().for_each(|&value| device.mix(stream, data, 1, value));
    device.end(stream).unwrap()
}

/// What one launch makes of 1.
fn replay(device: &Device, executable: CUgraphExec, data: u64) -> u32 {
    ok!(cuMemsetD32_v2(data, 1, 1));
    ok!(cuGraphLaunch(executable, CU_STREAM_LEGACY));
    ok!(cuCtxSynchronize());
    device.peek(data)
}

fn apply(values: &[u32]) -> u32 {
    values.iter().copied().fold(1, step)
}

fn set_value(device: &Device, node: CUgraphNode, data: u64, value: u32) -> CUresult {
    let mut parameters = Parameters { data, count: 1, value };
    let mut addresses = [(&raw mut parameters).cast::<c_void>()];
    let params = CUDA_KERNEL_NODE_PARAMS_v2 {
        func: device.function(c"mix"),
        grid_dim_x: 1,
        grid_dim_y: 1,
        grid_dim_z: 1,
        block_dim_x: 1,
        block_dim_y: 1,
        block_dim_z: 1,
        kernel_params: addresses.as_mut_ptr(),
        ..CUDA_KERNEL_NODE_PARAMS_v2::default()
    };
    answer!(cuGraphKernelNodeSetParams_v2(node, &params))
}

#[test]
fn a_clone_is_independent_of_its_original() {
    let device = device();
    let data = device.buffer(&[1]);
    let graph = chain(&device, data, &[5, 7]);
    let mut clone = CUgraph::null();
    ok!(cuGraphClone(&mut clone, graph));
    assert_ne!(clone, graph);
    let (old, new) = (device.nodes(graph), device.nodes(clone));
    assert!(new.len() == 2 && new.iter().all(|node| !old.contains(node)));
    ok!(cuGraphDestroy(graph));
    assert_eq!(replay(&device, device.instantiate(clone), data), apply(&[5, 7]));
    let mut edges = 0;
    ok!(cuGraphGetEdges(clone, std::ptr::null_mut(), std::ptr::null_mut(), &mut edges));
    assert_eq!(edges, 1);
    assert_eq!(answer!(cuGraphClone(&mut clone, graph)), WRONG);
    assert_eq!(answer!(cuGraphClone(std::ptr::null_mut(), clone)), WRONG);
}

#[test]
fn parameters_of_a_node_hold_for_what_is_instantiated_after() {
    let device = device();
    let data = device.buffer(&[1]);
    let graph = chain(&device, data, &[5, 7]);
    let before = device.instantiate(graph);
    let nodes = device.nodes(graph);
    assert_eq!(set_value(&device, nodes[1], data, 11), CUresult::SUCCESS);
    assert_eq!(replay(&device, before, data), apply(&[5, 7]));
    assert_eq!(replay(&device, device.instantiate(graph), data), apply(&[5, 11]));
    // An update brings them to the executable graph that was there before.
    let mut result = CUgraphExecUpdateResultInfo::default();
    ok!(cuGraphExecUpdate_v2(before, graph, &mut result));
    assert_eq!(replay(&device, before, data), apply(&[5, 11]));
    assert_eq!(set_value(&device, CUgraphNode(graph.0), data, 1), WRONG);
}

#[test]
fn a_node_that_is_switched_off_is_passed_over() {
    let device = device();
    let data = device.buffer(&[1]);
    let graph = chain(&device, data, &[5, 7, 11]);
    let executable = device.instantiate(graph);
    let nodes = device.nodes(graph);
    let enabled = |node| {
        let mut enabled = 9;
        ok!(cuGraphNodeGetEnabled(executable, node, &mut enabled));
        enabled
    };
    assert_eq!(enabled(nodes[1]), 1);
    // A launch that is queued keeps what it was.
    ok!(cuMemsetD32_v2(data, 1, 1));
    ok!(cuGraphLaunch(executable, CU_STREAM_LEGACY));
    ok!(cuGraphNodeSetEnabled(executable, nodes[1], 0));
    ok!(cuCtxSynchronize());
    assert_eq!(device.peek(data), apply(&[5, 7, 11]));
    assert_eq!((enabled(nodes[1]), replay(&device, executable, data)), (0, apply(&[5, 11])));
    let mut result = CUgraphExecUpdateResultInfo::default();
    ok!(cuGraphExecUpdate_v2(executable, graph, &mut result));
    assert_eq!(enabled(nodes[1]), 0);
    ok!(cuGraphNodeSetEnabled(executable, nodes[1], 1));
    assert_eq!(replay(&device, executable, data), apply(&[5, 7, 11]));

    unsafe extern "C" fn nothing(_: *mut c_void) {}
    let stream = device.stream(0);
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    ok!(cuLaunchHostFunc(stream, Some(nothing), std::ptr::null_mut()));
    let host = device.end(stream).unwrap();
    let own = device.instantiate(host);
    assert_eq!(answer!(cuGraphNodeSetEnabled(own, device.nodes(host)[0], 0)), WRONG, "only kernels, copies, memsets");
    assert_eq!(answer!(cuGraphNodeSetEnabled(own, nodes[0], 0)), WRONG, "a node of another graph");
}

#[test]
fn dependencies_of_a_capture_are_added_and_replaced() {
    let device = device();
    let data = device.buffer(&[1, 1, 1]);
    let stream = device.stream(CU_STREAM_NON_BLOCKING);
    let set = |nodes: &mut [CUgraphNode], flags| {
        answer!(cuStreamUpdateCaptureDependencies(stream, nodes.as_mut_ptr(), nodes.len(), flags))
    };
    assert_eq!(set(&mut [], 1), CUresult::ERROR_ILLEGAL_STATE);
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    let tail = || {
        let (mut status, mut count, mut nodes) = (CUstreamCaptureStatus::NONE, 0, std::ptr::null());
        let none = std::ptr::null_mut::<u64>();
        ok!(cuStreamGetCaptureInfo_v2(stream, &mut status, none, std::ptr::null_mut(), &mut nodes, &mut count));
        // SAFETY: the answer holds `count` nodes until the next call on the stream.
        unsafe { std::slice::from_raw_parts(nodes, count) }.to_vec()
    };
    device.mix(stream, data, 1, 5);
    let first = tail();
    assert_eq!(set(&mut [], 1), CUresult::SUCCESS);
    device.mix(stream, data + 4, 1, 5);
    let second = tail();
    assert_eq!(set(&mut first.clone(), 0), CUresult::SUCCESS);
    assert_eq!(tail(), [first[0], second[0]]);
    assert_eq!(set(&mut first.clone(), 2), WRONG);
    assert_eq!(set(&mut [CUgraphNode(stream.0)], 0), WRONG);
    device.mix(stream, data + 8, 1, 5);
    let graph = device.end(stream).unwrap();
    let (mut edges, mut roots) = (0, 0);
    ok!(cuGraphGetEdges(graph, std::ptr::null_mut(), std::ptr::null_mut(), &mut edges));
    ok!(cuGraphGetRootNodes(graph, std::ptr::null_mut(), &mut roots));
    assert_eq!((edges, roots), (2, 2));

    // A node that the stream no longer depends on is one of the graph's ends; only other streams have to be joined.
    device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
    device.mix(stream, data, 1, 5);
    assert_eq!(set(&mut [], 1), CUresult::SUCCESS);
    assert_eq!(device.nodes(device.end(stream).unwrap()).len(), 1);
}

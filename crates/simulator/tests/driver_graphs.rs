//! Graphs of the simulated device: replays equal eager runs, instantiation is a copy, updates keep to CUDA's restrictions. The device has
//! a seed, so that independent nodes run in any order.

use std::collections::BTreeSet;
use std::ffi::{CString, c_void};

use gridpoint_driver::CUgraphExecUpdateResult as Why;
use gridpoint_driver::CUgraphNodeType as Kind;
use gridpoint_driver::CUstreamCaptureMode as Mode;
use gridpoint_driver::*;
use gridpoint_simulator::Options;

#[macro_use]
mod driver_support;
use driver_support::{Device, Parameters, device_with, options, step};

const NON_BLOCKING: u32 = CU_STREAM_NON_BLOCKING;

fn device() -> Device {
    device_with(Options { seed: Some(7), ..options() })
}

fn kinds(device: &Device, graph: CUgraph) -> Vec<Kind> {
    let kind = |node| {
        let mut kind = Kind(99);
        ok!(cuGraphNodeGetType(node, &mut kind));
        kind
    };
    device.nodes(graph).into_iter().map(kind).collect()
}

fn edges(graph: CUgraph) -> Vec<(CUgraphNode, CUgraphNode)> {
    let mut count = 0;
    ok!(cuGraphGetEdges(graph, std::ptr::null_mut(), std::ptr::null_mut(), &mut count));
    let (mut from, mut to) = (vec![CUgraphNode::null(); count], vec![CUgraphNode::null(); count]);
    ok!(cuGraphGetEdges(graph, from.as_mut_ptr(), to.as_mut_ptr(), &mut count));
    from.into_iter().zip(to).collect()
}

/// Enqueues work on a stream.
type Recorder<'a> = &'a dyn Fn(&Device, CUstream);

/// A captured graph of `work`.
fn capture(device: &Device, work: impl Fn(CUstream)) -> CUgraph {
    let stream = device.stream(NON_BLOCKING);
    device.begin(stream, Mode::THREAD_LOCAL);
    work(stream);
    device.end(stream).unwrap()
}

unsafe extern "C" fn increment(data: *mut c_void) {
    // SAFETY: the tests give the address of live pinned memory.
    unsafe { *data.cast::<u32>() += 1 }
}

#[test]
fn a_replay_equals_the_eager_run() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let (data, copy, host) = (device.buffer(&[1, 2, 3]), device.buffer(&[0; 3]), device.pinned(&[0; 3]));
    let work = |stream| {
        device.mix(stream, data, 3, 5);
        ok!(cuMemcpyDtoDAsync_v2(copy, data, 12, stream));
        ok!(cuMemsetD32Async(data, 4, 1, stream));
        device.mix(stream, copy, 3, 7);
        ok!(cuMemcpyDtoHAsync_v2(host.cast(), copy, 12, stream));
        ok!(cuLaunchHostFunc(stream, Some(increment), host.cast()));
    };
    // SAFETY: the pinned memory is live and no work runs.
    let result = || unsafe { std::slice::from_raw_parts(host, 3) }.to_vec();
    let graph = capture(&device, work);
    assert_eq!(
        kinds(&device, graph),
        [Kind::KERNEL, Kind::MEMCPY, Kind::MEMSET, Kind::KERNEL, Kind::MEMCPY, Kind::HOST]
    );
    let nodes = device.nodes(graph);
    assert_eq!(edges(graph), nodes.windows(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>());
    let executable = device.instantiate(graph);
    let mut runs = Vec::new();
    for replay in [false, true, true] {
        ok!(cuMemcpyHtoD_v2(data, [1_u32, 2, 3].as_ptr().cast(), 12));
        ok!(cuCtxSynchronize());
        if replay {
            ok!(cuGraphLaunch(executable, stream));
        } else {
            work(stream);
        }
        ok!(cuStreamSynchronize(stream));
        runs.push(result());
    }
    assert_eq!(runs[0], [step(step(1, 5), 7) + 1, step(step(2, 5), 7), step(step(3, 5), 7)]);
    assert_eq!((&runs[1], &runs[2]), (&runs[0], &runs[0]));
}

#[test]
fn instantiation_and_capture_copy() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let data = device.buffer(&[1]);
    let graph = capture(&device, |stream| device.mix(stream, data, 1, 5));
    let executable = device.instantiate(graph);
    ok!(cuGraphDestroy(graph));
    assert_eq!(answer!(cuGraphDestroy(graph)), CUresult::ERROR_INVALID_VALUE);
    ok!(cuGraphUpload(executable, stream));
    ok!(cuGraphLaunch(executable, stream));
    assert_eq!(device.peek(data), 1, "a launch is enqueued");
    // A graph that is destroyed while a launch waits still runs.
    ok!(cuGraphExecDestroy(executable));
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data), step(1, 5));
    assert_eq!(answer!(cuGraphLaunch(executable, stream)), CUresult::ERROR_INVALID_VALUE);
    assert_eq!(answer!(cuGraphExecDestroy(executable)), CUresult::ERROR_INVALID_VALUE);
}

#[test]
fn pinned_memory_is_read_at_each_replay() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let (data, source) = (device.buffer(&[0]), device.pinned(&[1]));
    let graph = capture(&device, |stream| ok!(cuMemcpyHtoDAsync_v2(data, source.cast(), 4, stream)));
    let executable = device.instantiate(graph);
    for value in [3, 4] {
        ok!(cuGraphLaunch(executable, stream));
        // SAFETY: the pinned memory is live.
        unsafe { source.write(value) };
        ok!(cuStreamSynchronize(stream));
        assert_eq!(device.peek(data), value);
    }
}

#[test]
fn launches_of_one_executable_run_one_after_another() {
    let device = device();
    let (one, two) = (device.stream(NON_BLOCKING), device.stream(NON_BLOCKING));
    let data = device.buffer(&[1]);
    let executable = device.instantiate(capture(&device, |stream| device.mix(stream, data, 1, 5)));
    device.mix(one, data, 1, 9);
    ok!(cuGraphLaunch(executable, one));
    ok!(cuGraphLaunch(executable, two));
    ok!(cuStreamSynchronize(two));
    assert_eq!(device.peek(data), step(step(step(1, 9), 5), 5));
}

#[test]
fn independent_nodes_run_in_any_order_and_dependent_ones_in_theirs() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let data = device.buffer(&[1]);
    let mut graph = CUgraph::null();
    ok!(cuGraphCreate(&mut graph, 0));
    let add = |value: u32, dependencies: &[CUgraphNode]| {
        let mut parameters = Parameters { data, count: 1, value };
        let mut addresses = [(&raw mut parameters).cast::<c_void>()];
        let params = CUDA_KERNEL_NODE_PARAMS_v1 {
            func: device.function(c"mix"),
            grid_dim_x: 1,
            grid_dim_y: 1,
            grid_dim_z: 1,
            block_dim_x: 1,
            block_dim_y: 1,
            block_dim_z: 1,
            shared_mem_bytes: 0,
            kernel_params: addresses.as_mut_ptr(),
            extra: std::ptr::null_mut(),
        };
        let mut node = CUgraphNode::null();
        ok!(cuGraphAddKernelNode(&mut node, graph, dependencies.as_ptr(), dependencies.len(), &params));
        node
    };
    let (left, right) = (add(5, &[]), add(7, &[]));
    let last = add(9, &[left, right]);
    assert_eq!(edges(graph), [(left, last), (right, last)]);
    let (mut roots, mut count) = ([CUgraphNode::null(); 3], 3);
    ok!(cuGraphGetRootNodes(graph, roots.as_mut_ptr(), &mut count));
    assert_eq!((roots, count), ([left, right, CUgraphNode::null()], 2));
    let executable = device.instantiate(graph);
    let mut seen = BTreeSet::new();
    for _ in 0..32 {
        ok!(cuMemsetD32Async(data, 1, 1, stream));
        ok!(cuGraphLaunch(executable, stream));
        ok!(cuStreamSynchronize(stream));
        seen.insert(device.peek(data));
    }
    assert_eq!(seen, BTreeSet::from([step(step(step(1, 7), 5), 9), step(step(step(1, 5), 7), 9)]));
    let foreign = [CUgraphNode(graph.0)];
    let refused = answer!(cuGraphAddKernelNode(&mut CUgraphNode::null(), graph, foreign.as_ptr(), 1, std::ptr::null()));
    assert_eq!(refused, CUresult::ERROR_INVALID_VALUE);
}

#[test]
fn kernel_nodes_tell_their_parameters_and_executables_take_new_ones() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let data = device.buffer(&[1]);
    let graph = capture(&device, |stream| device.mix(stream, data, 1, 5));
    let node = device.nodes(graph)[0];
    let executable = device.instantiate(graph);
    let mut params = CUDA_KERNEL_NODE_PARAMS_v2::default();
    ok!(cuGraphKernelNodeGetParams_v2(node, &mut params));
    assert_eq!((params.func, params.grid_dim_x, params.block_dim_z), (device.function(c"mix"), 1, 1));
    // SAFETY: the answer's addresses live as long as the node, and the kernel takes `Parameters`.
    let mut parameters = unsafe { *(*params.kernel_params).cast::<Parameters>() };
    assert_eq!((parameters.data, parameters.value), (data, 5));
    let mut same = [CUgraphNode::null(); 1];
    let mut count = 1;
    ok!(cuGraphGetNodes(graph, same.as_mut_ptr(), &mut count));

    ok!(cuGraphLaunch(executable, stream));
    parameters.value = 7;
    let mut addresses = [(&raw mut parameters).cast::<c_void>()];
    params.kernel_params = addresses.as_mut_ptr();
    ok!(cuGraphExecKernelNodeSetParams_v2(executable, node, &params));
    ok!(cuGraphLaunch(executable, stream));
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data), step(step(1, 5), 7), "only later launches change");
    params.block_dim_x = 65;
    let refused = answer!(cuGraphExecKernelNodeSetParams_v2(executable, node, &params));
    assert_eq!(refused, CUresult::ERROR_INVALID_VALUE);
    ok!(cuGraphDestroy(graph));
    let refused = answer!(cuGraphExecKernelNodeSetParams_v2(executable, node, &params));
    assert_eq!(refused, CUresult::ERROR_INVALID_VALUE);
}

#[test]
fn an_update_needs_the_same_topology_and_kinds() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let data = device.buffer(&[1]);
    let mix = |value: u32| move |device: &Device, stream| device.mix(stream, data, 1, value);
    let graph = |works: &[Recorder<'_>]| capture(&device, |stream| works.iter().for_each(|work| work(&device, stream)));
    let copy = |_: &Device, stream| ok!(cuMemcpyDtoDAsync_v2(data, data, 4, stream));
    // Pageable memory; nothing here runs the copy.
    let upload = |_: &Device, stream| ok!(cuMemcpyHtoDAsync_v2(data, [0_u32].as_ptr().cast(), 4, stream));

    let executable = device.instantiate(graph(&[&mix(5), &mix(6)]));
    let mut result = CUgraphExecUpdateResultInfo::default();
    let mut update = |executable, graph| {
        let code = answer!(cuGraphExecUpdate_v2(executable, graph, &mut result));
        assert_eq!(code.is_success(), result.result == Why::SUCCESS);
        assert!(code.is_success() || code == CUresult::ERROR_GRAPH_EXEC_UPDATE_FAILURE);
        (result.result, result.error_node)
    };
    assert_eq!(update(executable, graph(&[&mix(5)])).0, Why::TOPOLOGY_CHANGED);
    let other = graph(&[&mix(5), &copy]);
    assert_eq!(update(executable, other), (Why::NODE_TYPE_CHANGED, device.nodes(other)[1]));
    assert_eq!(update(device.instantiate(other), graph(&[&mix(5), &upload])).0, Why::PARAMETERS_CHANGED);
    ok!(cuGraphLaunch(executable, stream));
    assert_eq!(update(executable, graph(&[&mix(7), &mix(8)])).0, Why::SUCCESS);
    ok!(cuGraphLaunch(executable, stream));
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data), [5, 6, 7, 8].into_iter().fold(1, step));
}

#[test]
fn executables_take_device_memory_and_may_find_none() {
    let device = device();
    let free = || {
        let (mut free, mut total) = (0, 0);
        ok!(cuMemGetInfo_v2(&mut free, &mut total));
        free
    };
    let data = device.buffer(&[1]);
    let graph = capture(&device, |stream| device.mix(stream, data, 1, 5));
    let before = free();
    let executable = device.instantiate(graph);
    assert_eq!(before - free(), 128 << 10);
    ok!(cuGraphExecDestroy(executable));
    assert_eq!(free(), before);
    ok!(cuMemAlloc_v2(&mut 0, before - 1000));
    let code = answer!(cuGraphInstantiateWithFlags(&mut CUgraphExec::null(), graph, 0));
    assert_eq!(code, CUresult::ERROR_OUT_OF_MEMORY);
}

#[test]
fn instantiation_flags_are_checked() {
    let device = device();
    let data = device.buffer(&[1]);
    let stream = device.stream(NON_BLOCKING);
    let graph = capture(&device, |stream| device.mix(stream, data, 1, 5));
    let mut executable = CUgraphExec::null();
    let refused = answer!(cuGraphInstantiateWithFlags(&mut executable, graph, CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD));
    assert_eq!(refused, CUresult::ERROR_INVALID_VALUE);
    assert_eq!(answer!(cuGraphInstantiateWithFlags(&mut executable, graph, 64)), CUresult::ERROR_INVALID_VALUE);
    let mut params = CUDA_GRAPH_INSTANTIATE_PARAMS {
        flags: CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD,
        upload_stream: stream,
        result: CUgraphInstantiateResult::ERROR,
        ..Default::default()
    };
    ok!(cuGraphInstantiateWithParams(&mut executable, graph, &mut params));
    assert_eq!(params.result, CUgraphInstantiateResult::SUCCESS);
    ok!(cuGraphLaunch(executable, stream));
    ok!(cuStreamSynchronize(stream));
    assert_eq!(device.peek(data), step(1, 5));
    params.flags = CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
    let refused = answer!(cuGraphInstantiateWithParams(&mut executable, graph, &mut params));
    assert_eq!(refused, CUresult::ERROR_NOT_SUPPORTED);
    assert_eq!(params.result, CUgraphInstantiateResult::NODE_OPERATION_NOT_SUPPORTED);
    ok!(cuStreamDestroy_v2(stream));
    params.flags = CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD;
    let refused = answer!(cuGraphInstantiateWithParams(&mut executable, graph, &mut params));
    assert_eq!(refused, CUresult::ERROR_INVALID_HANDLE);
}

#[test]
fn a_graph_can_be_launched_in_a_capture_and_events_can_be_nodes() {
    let device = device();
    let stream = device.stream(NON_BLOCKING);
    let (data, other) = (device.buffer(&[1]), device.stream(NON_BLOCKING));
    let event = device.event(0);
    let child = device.instantiate(capture(&device, |stream| device.mix(stream, data, 1, 5)));
    let graph = capture(&device, |stream| {
        ok!(cuGraphLaunch(child, stream));
        ok!(cuEventRecordWithFlags(event, stream, CU_EVENT_RECORD_EXTERNAL));
    });
    assert_eq!(kinds(&device, graph), [Kind::GRAPH, Kind::EVENT_RECORD]);
    ok!(cuGraphLaunch(device.instantiate(graph), stream));
    ok!(cuStreamWaitEvent(other, event, 0));
    device.mix(other, data, 1, 7);
    ok!(cuStreamSynchronize(other));
    assert_eq!(device.peek(data), step(step(1, 5), 7));
    ok!(cuEventQuery(event));
}

#[test]
fn a_graph_is_printed_for_graphviz() {
    let device = device();
    let data = device.buffer(&[1]);
    let graph = capture(&device, |stream| {
        device.mix(stream, data, 1, 5);
        ok!(cuMemsetD8Async(data, 0, 4, stream));
    });
    let path = std::env::temp_dir().join(format!("gridpoint-{}.dot", std::process::id()));
    let text = CString::new(path.to_str().unwrap()).unwrap();
    ok!(cuGraphDebugDotPrint(graph, text.as_ptr(), CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE));
    let dot = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(dot.starts_with("digraph dot {") && dot.ends_with("}\n"), "{dot}");
    assert!(
        dot.contains("\"graph_1_node_0\" [label=\"kernel mix grid [1, 1, 1] block [1, 1, 1] shared 0\"];"),
        "{dot}"
    );
    assert!(dot.contains("\"graph_1_node_0\" -> \"graph_1_node_1\";"), "{dot}");
    let nowhere = answer!(cuGraphDebugDotPrint(graph, c"/nowhere/graph.dot".as_ptr(), 0));
    assert_eq!(nowhere, CUresult::ERROR_OPERATING_SYSTEM);
    assert_eq!(answer!(cuGraphDebugDotPrint(graph, std::ptr::null(), 0)), CUresult::ERROR_INVALID_VALUE);
}

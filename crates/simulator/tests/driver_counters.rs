//! Counts of launches behind the driver: in a graph and outside of one.

use gridpoint_driver::CUstreamCaptureMode as Mode;
use gridpoint_driver::*;
use gridpoint_simulator::Options;
use gridpoint_simulator::counters::{ByteCounts, record, take};

#[macro_use]
mod driver_support;
use driver_support::{Parameters, device_with, options};

#[test]
fn a_graph_counts_what_its_launches_share_once() {
    let device = device_with(Options { seed: Some(7), ..options() });
    let stream = device.stream(CU_STREAM_NON_BLOCKING);
    let data = device.buffer(&[0; 4]);
    // The test kernel `outside` tells of a write of four bytes.
    let write = |word: u64| {
        let parameters = Parameters { data: data + word * 4, count: 0, value: 0 };
        assert_eq!(device.launch(c"outside", stream, parameters), CUresult::SUCCESS);
    };
    device.begin(stream, Mode::THREAD_LOCAL);
    [0, 1, 1].into_iter().for_each(write);
    let executable = device.instantiate(device.end(stream).unwrap());
    write(0);
    ok!(cuStreamSynchronize(stream));
    record();
    write(3);
    ok!(cuGraphLaunch(executable, stream));
    write(3);
    ok!(cuGraphLaunch(executable, stream));
    ok!(cuStreamSynchronize(stream));
    let recorded = take();
    write(2);
    ok!(cuStreamSynchronize(stream));
    let graphs: Vec<_> = recorded.launches.iter().map(|launch| launch.graph).collect();
    assert_eq!(graphs, [None, Some(0), Some(0), Some(0), None, Some(1), Some(1), Some(1)]);
    for launch in &recorded.launches {
        assert_eq!((launch.kernel.as_str(), launch.grid), ("outside", [1, 1, 1]));
        assert_eq!(launch.counts.written, ByteCounts { distinct: 4, total: 4 });
        assert_eq!(launch.counts.idle_blocks, 0);
    }
    assert_eq!(recorded.graphs.len(), 2);
    for graph in &recorded.graphs {
        assert_eq!(graph.launches, 3);
        assert_eq!(graph.counts.written, ByteCounts { distinct: 8, total: 12 });
    }
    assert_eq!(take(), Default::default(), "nothing is counted when nobody records");
}

//! Streams under a seed: every order that the dependencies allow is met under some seed, and none that they forbid under any.

use std::collections::BTreeSet;

use gridpoint_driver::*;
use gridpoint_simulator::reseed;

#[macro_use]
mod driver_support;
use driver_support::{Device, Parameters, device, step};

const NON_BLOCKING: u32 = CU_STREAM_NON_BLOCKING;
const SEEDS: u64 = 32;

/// What `program` answers under every seed, and as late as possible; nothing of one run is left for the next.
fn outcomes(device: &Device, program: impl Fn(&Device) -> u32) -> BTreeSet<u32> {
    let seeds = (0..SEEDS).map(Some).chain([None]);
    let found = seeds.map(|seed| {
        reseed(seed);
        let found = program(device);
        ok!(cuCtxSynchronize());
        found
    });
    let found = found.collect();
    reseed(None);
    found
}

/// A producer on one stream and a consumer on another, which copies what the producer made.
fn produce_and_consume(device: &Device, with_event: bool) -> u32 {
    let (producer, consumer) = (device.stream(NON_BLOCKING), device.stream(NON_BLOCKING));
    let (data, copy) = (device.buffer(&[1]), device.buffer(&[0]));
    let event = device.event(CU_EVENT_DISABLE_TIMING);
    device.mix(producer, data, 1, 5);
    ok!(cuEventRecord(event, producer));
    if with_event {
        ok!(cuStreamWaitEvent(consumer, event, 0));
    }
    ok!(cuMemcpyDtoDAsync_v2(copy, data, 4, consumer));
    ok!(cuStreamSynchronize(consumer));
    device.peek(copy)
}

#[test]
fn a_missing_event_shows_under_some_seed_and_a_recorded_one_holds_under_all() {
    let device = device();
    let (right, wrong) = (step(1, 5), 1);
    assert_eq!(outcomes(&device, |device| produce_and_consume(device, false)), BTreeSet::from([wrong, right]));
    assert_eq!(outcomes(&device, |device| produce_and_consume(device, true)), BTreeSet::from([right]));
}

#[test]
fn a_wait_may_find_other_streams_further_than_it_asked() {
    let device = device();
    let program = |device: &Device| {
        let (one, two) = (device.stream(NON_BLOCKING), device.stream(NON_BLOCKING));
        let (data, other) = (device.buffer(&[1]), device.buffer(&[1]));
        device.mix(one, data, 1, 5);
        device.mix(two, other, 1, 7);
        ok!(cuStreamSynchronize(one));
        assert_eq!(device.peek(data), step(1, 5));
        device.peek(other)
    };
    assert_eq!(outcomes(&device, program), BTreeSet::from([1, step(1, 7)]));
}

#[test]
fn operations_of_three_streams_meet_in_every_order() {
    let device = device();
    let program = |device: &Device| {
        let data = device.buffer(&[1]);
        for value in [5, 7, 11] {
            device.mix(device.stream(NON_BLOCKING), data, 1, value);
        }
        ok!(cuCtxSynchronize());
        device.peek(data)
    };
    let orders = [[5, 7, 11], [5, 11, 7], [7, 5, 11], [7, 11, 5], [11, 5, 7], [11, 7, 5]];
    let all = orders.map(|order| order.into_iter().fold(1, step));
    assert_eq!(outcomes(&device, program), BTreeSet::from(all));
}

#[test]
fn the_legacy_stream_and_one_stream_keep_their_order_under_all_seeds() {
    let device = device();
    let program = |device: &Device| {
        let (blocking, free) = (device.stream(0), device.stream(NON_BLOCKING));
        let (data, noise) = (device.buffer(&[1]), device.buffer(&[1]));
        device.mix(blocking, data, 1, 5);
        device.mix(free, noise, 1, 1);
        device.mix(CU_STREAM_LEGACY, data, 1, 7);
        device.mix(free, noise, 1, 2);
        device.mix(blocking, data, 1, 11);
        ok!(cuCtxSynchronize());
        assert_eq!(device.peek(noise), step(step(1, 1), 2));
        device.peek(data)
    };
    assert_eq!(outcomes(&device, program), BTreeSet::from([step(step(step(1, 5), 7), 11)]));
}

#[test]
fn another_stream_comes_between_the_nodes_of_a_graph() {
    let device = device();
    let program = |device: &Device| {
        let (stream, other) = (device.stream(NON_BLOCKING), device.stream(NON_BLOCKING));
        let data = device.buffer(&[1]);
        device.begin(stream, CUstreamCaptureMode::THREAD_LOCAL);
        device.mix(stream, data, 1, 5);
        device.mix(stream, data, 1, 7);
        let executable = device.instantiate(device.end(stream).unwrap());
        ok!(cuGraphLaunch(executable, stream));
        device.mix(other, data, 1, 11);
        ok!(cuCtxSynchronize());
        device.peek(data)
    };
    let all = [[11, 5, 7], [5, 11, 7], [5, 7, 11]].map(|order| order.into_iter().fold(1, step));
    assert_eq!(outcomes(&device, program), BTreeSet::from(all));
}

#[test]
fn equal_seeds_give_equal_schedules() {
    let device = device();
    let program = |seed| {
        reseed(Some(seed));
        let data = device.buffer(&[1]);
        let streams = [0; 4].map(|_| device.stream(NON_BLOCKING));
        for value in 0..40_u32 {
            device.mix(streams[value as usize % 4], data, 1, value);
        }
        ok!(cuCtxSynchronize());
        device.peek(data)
    };
    let found: BTreeSet<u32> = (0..8).map(program).collect();
    assert_eq!(found.len(), 8);
    assert_eq!((0..8).map(program).collect::<BTreeSet<u32>>(), found);
    reseed(None);
}

#[test]
fn a_fault_between_streams_drops_all_work() {
    let device = device();
    for seed in 0..SEEDS {
        reseed(Some(seed));
        let (one, two) = (device.stream(NON_BLOCKING), device.stream(NON_BLOCKING));
        let data = device.buffer(&[1]);
        let outside = Parameters { data: data + 4, count: 0, value: 0 };
        assert_eq!(device.launch(c"outside", one, outside), CUresult::SUCCESS);
        device.mix(one, data, 1, 5);
        device.mix(two, data, 1, 7);
        assert_eq!(answer!(cuCtxSynchronize()), CUresult::ERROR_ILLEGAL_ADDRESS);
        gridpoint_simulator::reset();
        ok!(cuCtxSynchronize());
        assert!([1, step(1, 7)].contains(&device.peek(data)), "seed {seed}");
    }
    reseed(None);
}

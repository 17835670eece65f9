//! Random programs over several streams: a wait runs exactly what it must, in every order that the rules know, and nothing more.

use gridpoint_driver::*;
use proptest::prelude::*;

#[macro_use]
mod driver_support;
use driver_support::{Device, device};

const SLOTS: usize = 64;
const EVENTS: usize = 3;
/// The legacy stream, two blocking streams, two that do not synchronise with the legacy stream.
const STREAMS: usize = 5;
const LEGACY: usize = 0;
const BLOCKING: std::ops::Range<usize> = 0..3;

#[derive(Clone, Copy, Debug)]
enum Call {
    Set { stream: usize },
    Record { event: usize, stream: usize },
    Wait { stream: usize, event: usize },
    SynchronizeStream { stream: usize },
    SynchronizeEvent { event: usize },
    SynchronizeContext,
}

fn call() -> impl Strategy<Value = Call> {
    let (stream, event) = (0..STREAMS, 0..EVENTS);
    prop_oneof![
        8 => stream.clone().prop_map(|stream| Call::Set { stream }),
        3 => (event.clone(), stream.clone()).prop_map(|(event, stream)| Call::Record { event, stream }),
        3 => (stream.clone(), event.clone()).prop_map(|(stream, event)| Call::Wait { stream, event }),
        1 => stream.prop_map(|stream| Call::SynchronizeStream { stream }),
        1 => event.prop_map(|event| Call::SynchronizeEvent { event }),
        1 => Just(Call::SynchronizeContext),
    ]
}

/// What CUDA's rules say: entries, what each must run after, and which have run.
#[derive(Default)]
struct Model {
    streams: Vec<usize>,
    after: Vec<Vec<usize>>,
    done: Vec<bool>,
    events: [Option<usize>; EVENTS],
}

impl Model {
    fn enqueue(&mut self, stream: usize, after: Option<usize>) -> usize {
        let synchronises = |other: usize| {
            other == stream
                || (stream == LEGACY && BLOCKING.contains(&other))
                || (other == LEGACY && BLOCKING.contains(&stream))
        };
        let before = (0..self.streams.len()).filter(|&entry| synchronises(self.streams[entry]));
        self.after.push(before.chain(after).collect());
        self.streams.push(stream);
        self.done.push(false);
        self.done.len() - 1
    }

    fn run(&mut self, entry: usize) {
        if !std::mem::replace(&mut self.done[entry], true) {
            self.after[entry].clone().into_iter().for_each(|before| self.run(before));
        }
    }

    fn run_streams(&mut self, which: impl Fn(usize) -> bool) {
        for entry in 0..self.streams.len() {
            if which(self.streams[entry]) {
                self.run(entry);
            }
        }
    }
}

/// A program on the device and in the model, call by call.
struct Run<'device> {
    device: &'device Device,
    slots: u64,
    streams: Vec<CUstream>,
    events: Vec<CUevent>,
    model: Model,
    /// The entry of each slot that is set.
    sets: Vec<usize>,
}

impl<'device> Run<'device> {
    fn new(device: &'device Device) -> Self {
        let mut streams = vec![CU_STREAM_LEGACY];
        streams.extend([0, 0, CU_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING].map(|flags| device.stream(flags)));
        let events = (0..EVENTS).map(|_| device.event(0)).collect();
        let slots = device.buffer(&[0; SLOTS]);
        Self { device, slots, streams, events, model: Model::default(), sets: Vec::new() }
    }

    fn call(&mut self, call: Call) {
        let Self { slots, streams, events, model, sets, .. } = self;
        match call {
            Call::Set { stream } => {
                ok!(cuMemsetD32Async(*slots + 4 * sets.len() as u64, 1, 1, streams[stream]));
                sets.push(model.enqueue(stream, None));
            }
            Call::Record { event, stream } => {
                ok!(cuEventRecord(events[event], streams[stream]));
                model.events[event] = Some(model.enqueue(stream, None));
            }
            Call::Wait { stream, event } => {
                ok!(cuStreamWaitEvent(streams[stream], events[event], 0));
                if let Some(record) = model.events[event] {
                    model.enqueue(stream, Some(record));
                }
            }
            Call::SynchronizeStream { stream } => {
                ok!(cuStreamSynchronize(streams[stream]));
                model.run_streams(|other| other == stream);
            }
            Call::SynchronizeEvent { event } => {
                ok!(cuEventSynchronize(events[event]));
                model.events[event].into_iter().for_each(|record| model.run(record));
            }
            Call::SynchronizeContext => {
                ok!(cuCtxSynchronize());
                model.run_streams(|_| true);
            }
        }
    }

    /// Which slots are set on the device.
    fn ran(&self) -> Vec<bool> {
        (0..self.sets.len()).map(|slot| self.device.peek(self.slots + 4 * slot as u64) == 1).collect()
    }

    /// Which slots the model says are set.
    fn expected(&self) -> Vec<bool> {
        self.sets.iter().map(|&entry| self.model.done[entry]).collect()
    }
}

proptest! {
    #[test]
    fn a_wait_runs_exactly_what_it_must(calls in prop::collection::vec(call(), 1..SLOTS)) {
        let device = device();
        gridpoint_simulator::reseed(None);
        let mut run = Run::new(&device);
        for call in calls {
            run.call(call);
            prop_assert_eq!(run.ran(), run.expected(), "after {:?}", call);
        }
    }

    /// Under a seed more may have run, but nothing before what it must run after.
    #[test]
    fn a_seeded_wait_runs_what_it_must_and_breaks_no_order(
        calls in prop::collection::vec(call(), 1..SLOTS),
        seed: u64,
    ) {
        let device = device();
        gridpoint_simulator::reseed(Some(seed));
        let mut run = Run::new(&device);
        for call in calls {
            run.call(call);
            let ran = run.ran();
            // What has run makes what it depends on have run.
            for (slot, _) in ran.iter().enumerate().filter(|&(_, &ran)| ran) {
                run.model.run(run.sets[slot]);
            }
            prop_assert_eq!(ran, run.expected(), "after {:?}", call);
        }
        gridpoint_simulator::reseed(None);
    }
}

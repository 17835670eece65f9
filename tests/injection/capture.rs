//! A capture of somebody else's launches on a raw stream, made to fail at every driver call: the points before the failure work.

use std::sync::Arc;

use gridpoint_graph::{GraphSet, Incomplete, Launched, PointRecording};
use gridpoint_plan::{GridPoint, Limits, Plan, Policy, plan};
use gridpoint_runtime::parameters::FillParameters;
use gridpoint_runtime::{Arena, ArenaLayout, Device, Kernel, Recording, Region, RuntimeError, Stream};
use gridpoint_simulator::{CallCounts, Injection, leaks};

use super::{CODE, SURVIVED, sampled};

const TOKENS: u64 = 64;

/// A step that fills as many numbers as its point has tokens.
struct Toy {
    kernel: Kernel<FillParameters>,
    arena: Arena,
    numbers: Region<u16>,
    plan: Plan,
}

impl Toy {
    fn new(device: &Arc<Device>) -> Self {
        let mut layout = ArenaLayout::new();
        let numbers = layout.reserve("numbers", TOKENS).expect("small");
        let limits = Limits { max_requests: 3, max_tokens: 24, ..Limits::default() };
        Self {
            kernel: device.kernel("fill_random", 0).expect("the kernel"),
            arena: Arena::new(device, "a toy", &layout).expect("memory"),
            numbers,
            plan: plan(&limits, &Policy::default()).expect("a plan"),
        }
    }

    fn launch(&self, point: GridPoint, stream: &Stream) -> Result<(), RuntimeError> {
        let parameters = FillParameters {
            target: self.arena.pointer(self.numbers),
            count: u64::from(point.tokens),
            seed: u64::from(point.tokens),
            half_width: 1.0,
            offset: 0.0,
            tensor: 0,
            reserved: 0,
        };
        stream.launch(&self.kernel.launch(1, &parameters))
    }

    fn capture(&self, stream: &Stream) -> Result<GraphSet<&Arena>, Box<Incomplete<&Arena>>> {
        let record = |recording: &mut PointRecording<'_>, point| self.launch(point, recording.stream()?);
        GraphSet::capture(&self.plan, stream, &self.arena, record)
    }

    fn numbers(&self, stream: &Stream, step: impl FnOnce() -> Result<(), RuntimeError>) -> Vec<u16> {
        self.arena.fill(self.numbers, 0xFF).expect("the device works");
        step().and_then(|()| stream.synchronize()).expect("the device works");
        let mut numbers = vec![0; TOKENS as usize];
        self.arena.download(self.numbers, 0, &mut numbers).expect("the device works");
        numbers
    }

    /// The points that a set has are the first of the plan, and replay as they should.
    fn check(&self, set: &mut GraphSet<&Arena>, stream: &Stream, what: &str) {
        assert_eq!(set.points(), &self.plan.points()[..set.points().len()], "{what}");
        for (index, point) in set.points().to_vec().into_iter().enumerate() {
            let expected = self.numbers(stream, || self.launch(point, stream));
            let found = self.numbers(stream, || {
                assert_eq!(set.replay(index, stream)?, Launched::Replay, "{what}: {point}");
                Ok(())
            });
            assert_eq!(found, expected, "{what}: {point}");
        }
    }
}

/// Every driver call of a capture fails once.
pub(super) fn every_call(device: &Arc<Device>) {
    let (toy, stream) = (Toy::new(device), Stream::new(device).expect("a stream"));
    let before = leaks();
    let counts = CallCounts::start();
    let mut whole = toy.capture(&stream).expect("the device works");
    let calls = counts.all();
    drop(counts);
    toy.check(&mut whole, &stream, "nothing fails");
    drop(whole);
    assert!(calls.iter().any(|(function, _)| *function == "cuGraphKernelNodeGetParams_v2"), "{calls:?}");
    for (function, calls) in calls {
        for call in sampled(calls) {
            let what = format!("{function}, call {call} of {calls}");
            let injection = Injection::once(function, call, CODE).expect("a function of the table").install();
            let captured = toy.capture(&stream);
            assert_eq!(injection.fired(), 1, "{what}");
            drop(injection);
            let mut set = match captured {
                Ok(set) => {
                    // Without the attributes or parameters of a kernel its graph is shared less, which is right as well.
                    let shared = ["cuFuncGetParamInfo", "cuGraphKernelNodeGetAttribute"];
                    assert!(SURVIVED.contains(&function) || shared.contains(&function), "{what}: no error");
                    assert_eq!(set.points().len(), toy.plan.len(), "{what}");
                    set
                }
                Err(incomplete) => {
                    let Incomplete { error, set } = *incomplete;
                    let words = error.to_string();
                    assert!(words.contains(&format!("`{function}` failed: {}", CODE.name())), "{what}: {words}");
                    assert!(words.contains(&error.point.to_string()), "{what}: {words}");
                    assert!(set.points().len() < error.number, "{what}: {words}");
                    set
                }
            };
            toy.check(&mut set, &stream, &what);
            drop(set);
            stream.record().and_then(Recording::finish).expect("the stream is out of capture");
            assert_eq!(leaks(), before, "{what}");
        }
    }
}

/// The device has memory for some of the graphs.
pub(super) fn memory_runs_out(device: &Arc<Device>) {
    let (toy, stream) = (Toy::new(device), Stream::new(device).expect("a stream"));
    let free = device.memory().expect("the device works").free;
    let whole = toy.capture(&stream).expect("the device works");
    let taken = free - device.memory().expect("the device works").free;
    let graphs = whole.summary().distinct as u64;
    drop(whole);
    for made in 0..graphs {
        let injection = Injection::out_of_memory_after(taken * made / graphs).install();
        let incomplete = toy.capture(&stream).err().expect("less memory than it needs");
        drop(injection);
        let Incomplete { error, mut set } = *incomplete;
        let words = error.to_string();
        assert!(words.contains("CUDA_ERROR_OUT_OF_MEMORY"), "{made} of {graphs}: {words}");
        assert_eq!(set.summary().distinct as u64, made, "{words}");
        assert_eq!(set.points().len() + 1, error.number, "{words}");
        toy.check(&mut set, &stream, &words);
        drop(set);
        assert_eq!(device.memory().expect("the device works").free, free, "{words}");
    }
}

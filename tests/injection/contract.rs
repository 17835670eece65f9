//! Sleep, wake and update with every driver call failing once: the state that is left says what it is, nothing is lost, the engine goes on.

use std::collections::BTreeSet;

use gridpoint_driver::CUresult;
use gridpoint_engine::{Engine, EngineError, InFlight, Memory, NotReady};
use gridpoint_model::{DeviceWeights, ElementType, GivenTensor, Weights};
use gridpoint_runtime::{Arena, ArenaLayout, Region, RuntimeError};
use gridpoint_simulator::{CallCounts, Injection, leaks};
use safetensors::SafeTensors;

use crate::{Bench, CODE, finish, request, support};

/// What a graph, a capture or a tensor map is made by.
const MAKING: [&str; 3] = ["cuGraphInstantiateWithParams", "cuStreamBeginCapture_v2", "cuTensorMapEncodeTiled"];
/// Bytes of a piece of physical memory, and what sizes are multiples of on the simulated device.
const PIECE: u64 = 2 << 20;

/// The checkpoint's tensors on the device.
struct Trainer {
    arena: Arena,
    tensors: Vec<(String, Vec<usize>, Region<u8>)>,
}

impl Trainer {
    fn new(bench: &Bench) -> Self {
        let file =
            std::fs::read(support::data("tests/models/llama-gqa/model.safetensors")).expect("the weights are there");
        let file = SafeTensors::deserialize(&file).expect("the file is good");
        let mut layout = ArenaLayout::new();
        let mut reserve = |bytes: &[u8]| layout.reserve("a tensor", bytes.len() as u64).expect("sizes are small");
        let tensors: Vec<_> =
            file.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec(), reserve(view.data()))).collect();
        let arena = Arena::new(&bench.device, "a trainer's tensors", &layout).expect("the memory is there");
        for (name, _, region) in &tensors {
            let view = file.tensor(name).expect("it is among them");
            arena.upload(*region, 0, view.data()).expect("the device works");
        }
        Self { arena, tensors }
    }

    fn weights(&self, bench: &Bench) -> DeviceWeights<'_> {
        let given = self.tensors.iter().map(|(name, shape, region)| GivenTensor {
            name: name.clone(),
            shape: shape.clone(),
            element: ElementType::BFloat16,
            bytes: self.arena.bytes_of(*region).expect("the memory is there"),
        });
        DeviceWeights::new(&bench.config, given).expect("the tensors are the model's")
    }
}

/// What is done to an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Sleep,
    Wake,
    UpdateFromFolder,
    UpdateFromDevice,
}

impl Deed {
    const ALL: [Self; 4] = [Self::Sleep, Self::Wake, Self::UpdateFromFolder, Self::UpdateFromDevice];

    fn run(self, engine: &mut Engine, weights: (&Weights<'_>, &DeviceWeights<'_>)) -> Result<(), EngineError> {
        match self {
            Self::Sleep => engine.sleep(Memory::Both).map(drop),
            Self::Wake => engine.wake(Memory::Both).map(drop),
            Self::UpdateFromFolder => engine.update_weights(weights.0, InFlight::Refuse).map(drop),
            Self::UpdateFromDevice => engine.update_weights(weights.1, InFlight::Refuse).map(drop),
        }
    }

    /// Brings an engine that is ready to where the deed begins.
    fn prepare(self, engine: &mut Engine) {
        if self != Self::Sleep {
            engine.sleep(Memory::Both).expect("it sleeps");
        }
        if matches!(self, Self::UpdateFromFolder | Self::UpdateFromDevice) {
            engine.wake(Memory::Both).expect("it wakes");
        }
    }
}

/// All of it, with an engine's tokens when nothing fails.
pub(crate) fn check(bench: &Bench, expected: &[u32]) {
    let before = bench.state();
    deeds(bench, expected);
    a_failed_update_refuses_steps(bench, expected);
    pieces(bench);
    without_virtual_memory(bench, expected);
    assert_eq!(bench.state(), before);
}

/// Back to where steps run, by what a caller would do.
fn recover(engine: &mut Engine, weights: &Weights<'_>) {
    if engine.asleep().is_some() {
        engine.wake(Memory::Both).expect("it wakes");
    }
    if engine.ready().is_err() {
        engine.update_weights(weights, InFlight::Refuse).expect("the weights are good");
    }
}

fn tokens(engine: &mut Engine) -> Vec<u32> {
    let id = request(engine);
    finish(engine).expect("the steps run");
    engine.take(id).expect("a result").tokens
}

fn deeds(bench: &Bench, expected: &[u32]) {
    let trainer = Trainer::new(bench);
    let host = Weights::new(&bench.config, &bench.checkpoint).expect("the weights are those of the configuration");
    let device = trainer.weights(bench);
    let weights = (&host, &device);
    let mut engine = bench.engine().expect("an engine");
    assert_eq!(tokens(&mut engine), expected);
    let free = |bench: &Bench| bench.device.memory().expect("the device works").free;
    let (awake, alive) = (free(bench), leaks().len());
    let held = engine.memory().kv_cache + engine.memory().weights;

    // Once as it should be: the memory is given back to the byte, and nothing is made anew.
    let making = CallCounts::start();
    let mut calls = Vec::new();
    for deed in Deed::ALL {
        deed.prepare(&mut engine);
        let counts = CallCounts::start();
        deed.run(&mut engine, weights).unwrap_or_else(|error| panic!("{deed:?}: {error}"));
        calls.push(counts.all());
        let asleep = if deed == Deed::Sleep { held } else { 0 };
        assert_eq!(free(bench), awake + asleep, "{deed:?}");
        recover(&mut engine, &host);
        assert_eq!(tokens(&mut engine), expected, "{deed:?}");
    }
    assert_eq!(MAKING.map(|function| making.of(function)), [0; 3], "nothing is captured or encoded again");
    drop(making);

    let mut wrong = Vec::new();
    for (deed, calls) in Deed::ALL.into_iter().zip(calls) {
        for (function, calls) in calls {
            for call in BTreeSet::from([1, calls.div_ceil(2), calls]) {
                let what = format!("{deed:?}: {function}, call {call} of {calls}");
                deed.prepare(&mut engine);
                let injection = Injection::once(function, call, CODE).expect("a function of the table").install();
                let done = deed.run(&mut engine, weights).map_err(|error| error.to_string());
                if injection.fired() != 1 {
                    wrong.push(format!("{what}: fired {} times", injection.fired()));
                }
                drop(injection);
                let named = format!("`{function}` failed: {}", CODE.name());
                match done {
                    Err(error) if error.starts_with(&named) => {}
                    other => wrong.push(format!("{what}: reported as {other:?}")),
                }
                // A refused step says why, and a state that claims to be ready is.
                if engine.ready().is_err() && !matches!(engine.step(), Err(EngineError::NotReady(_))) {
                    wrong.push(format!("{what}: a step was taken"));
                }
                if matches!(deed, Deed::UpdateFromFolder | Deed::UpdateFromDevice) && engine.ready().is_ok() {
                    wrong.push(format!("{what}: ready without weights"));
                }
                recover(&mut engine, &host);
                if tokens(&mut engine) != expected {
                    wrong.push(format!("{what}: other tokens"));
                }
                if (free(bench), leaks().len()) != (awake, alive) {
                    let now = (free(bench), leaks().len());
                    wrong.push(format!("{what}: free and alive {now:?}, before {:?}", (awake, alive)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the failures are wrong:\n{}", wrong.len(), wrong.join("\n"));

    // Memory that somebody else took meanwhile is named, with the numbers.
    engine.sleep(Memory::Both).expect("it sleeps");
    let injection = Injection::out_of_memory_after(engine.memory().weights).install();
    let error = engine.wake(Memory::Both).expect_err("there is only room for the weights");
    drop(injection);
    let kv_cache = engine.memory().kv_cache;
    assert!(
        matches!(&error, EngineError::Runtime(RuntimeError::OutOfMemory { what, needed, .. }) if what == "the kv cache" && *needed == kv_cache),
        "{error}"
    );
    assert_eq!(engine.asleep(), Some(Memory::KvCache));
    assert_eq!(free(bench), awake + kv_cache);
    recover(&mut engine, &host);
    assert_eq!(tokens(&mut engine), expected);

    // An engine that is dropped asleep leaves nothing either; the caller compares.
    engine.sleep(Memory::Both).expect("it sleeps");
}

/// An update over weights that are whole, cut off in the middle: they are of two models, and no step is taken until one succeeds.
fn a_failed_update_refuses_steps(bench: &Bench, expected: &[u32]) {
    let host = Weights::new(&bench.config, &bench.checkpoint).expect("the weights are those of the configuration");
    let mut engine = bench.engine().expect("an engine");
    let id = request(&mut engine);
    engine.step().expect("the step runs");
    let injection = Injection::once("cuMemcpyHtoDAsync_v2", 5, CODE).expect("a function of the table").install();
    assert!(engine.update_weights(&host, InFlight::KeepStale).is_err());
    drop(injection);
    assert!(matches!(engine.step(), Err(EngineError::NotReady(NotReady::WeightsMixed))));
    engine.update_weights(&host, InFlight::KeepStale).expect("the weights are good");
    finish(&mut engine).expect("the steps run");
    assert_eq!(engine.take(id).expect("a result").tokens, expected);
}

/// Memory of three pieces, of which any call may fail: afterwards it is there as it was, or released as a whole, at the same addresses.
fn pieces(bench: &Bench) {
    let mut layout = ArenaLayout::new();
    let region = layout.reserve::<u32>("words", 5 << 18).expect("sizes are small");
    let make = || Arena::releasable_in_pieces(&bench.device, "three pieces", &layout, PIECE + 1);
    let free = || bench.device.memory().expect("the device works").free;
    let values: Vec<u32> = (0..5 << 18).collect();
    let works = |arena: &Arena| {
        let mut found = vec![0; values.len()];
        arena.upload(region, 0, &values).expect("the memory is there");
        arena.download(region, 0, &mut found).expect("the memory is there");
        assert_eq!(found, values);
    };
    let before = bench.state();
    let counts = CallCounts::start();
    let arena = make().expect("the memory is there");
    let made = ["cuMemAddressReserve", "cuMemCreate", "cuMemMap", "cuMemRelease", "cuMemSetAccess"];
    assert_eq!(made.map(|function| counts.of(function)), [1, 3, 3, 3, 1]);
    drop(counts);
    let (address, bytes) = (arena.pointer(region), arena.bytes());
    assert_eq!((bytes, free()), (3 * PIECE, before.1 - 3 * PIECE), "5 MiB take three pieces of 2 MiB");
    works(&arena);

    arena.release().expect("nothing fails");
    assert_eq!((free(), arena.is_released(), arena.pointer(region)), (before.1, true, address));
    let refused = [
        arena.upload(region, 0, &[1]).map(drop),
        arena.download(region, 0, &mut [0]).map(drop),
        arena.fill(region, 0),
        arena.bytes_of(region).map(drop),
    ];
    for error in refused {
        assert_eq!(error, Err(RuntimeError::Released { what: "three pieces".to_owned() }));
    }
    for function in ["cuMemGetInfo_v2", "cuMemCreate", "cuMemMap", "cuMemRelease", "cuMemSetAccess"] {
        for call in [1, 2, 3] {
            let injection = Injection::once(function, call, CODE).expect("a function of the table").install();
            let restored = arena.restore();
            let fired = injection.fired() > 0;
            drop(injection);
            assert_eq!(restored.is_err(), fired, "{function}, call {call}");
            assert_eq!(arena.is_released(), fired, "{function}, call {call}");
            assert_eq!(free(), before.1 - if fired { 0 } else { bytes }, "{function}, call {call}");
            arena.restore().expect("nothing fails");
            works(&arena);
            arena.release().expect("nothing fails");
        }
    }
    for pieces in 0..3 {
        let injection = Injection::out_of_memory_after(pieces * PIECE).install();
        let error = arena.restore().expect_err("there is less memory");
        drop(injection);
        let named = matches!(&error, RuntimeError::OutOfMemory { what, needed, .. } if what == "three pieces" && *needed == bytes);
        assert!(named && free() == before.1, "{error}");
    }
    for call in [1, 2, 3] {
        arena.restore().expect("nothing fails");
        let injection = Injection::once("cuMemUnmap", call, CODE).expect("a function of the table").install();
        assert!(arena.release().is_err());
        drop(injection);
        assert!(arena.is_released(), "unmapped in part, it counts as released");
        assert_eq!(free(), before.1);
        arena.restore().expect("nothing fails");
        works(&arena);
        // Before the first piece is unmapped all is as it was.
        let injection = Injection::once("cuCtxSynchronize", 1, CODE).expect("a function of the table").install();
        assert!(arena.release().is_err());
        drop(injection);
        assert!(!arena.is_released());
        works(&arena);
        // Dropped in either state.
        if call == 2 {
            let other = make().expect("the memory is there");
            let injection = Injection::once("cuMemUnmap", call, CODE).expect("a function of the table").install();
            assert!(other.release().is_err());
            drop(injection);
        }
    }
    drop(arena);
    assert_eq!(bench.state(), before);
    for (function, calls) in [("cuMemAddressReserve", 1), ("cuMemCreate", 3), ("cuMemMap", 3), ("cuMemSetAccess", 1)] {
        for call in 1..=calls {
            let injection = Injection::once(function, call, CODE).expect("a function of the table").install();
            assert!(make().is_err(), "{function}, call {call}");
            drop(injection);
            assert_eq!(bench.state(), before, "{function}, call {call}");
        }
    }
}

/// A driver that does not know virtual memory: all works but the sleep, which says so and changes nothing.
fn without_virtual_memory(bench: &Bench, expected: &[u32]) {
    let code = CUresult::ERROR_INVALID_VALUE;
    let injection = Injection::onwards("cuDeviceGetAttribute", 1, code).expect("a function of the table").install();
    let mut engine = bench.engine().expect("an engine");
    drop(injection);
    let id = request(&mut engine);
    engine.step().expect("the step runs");
    let error = engine.sleep(Memory::Both).expect_err("the memory is there for good");
    assert!(
        matches!(&error, EngineError::Runtime(RuntimeError::NotReleasable { what, .. }) if what == "the kv cache"),
        "{error}"
    );
    assert_eq!((engine.asleep(), engine.ready()), (None, Ok(())));
    finish(&mut engine).expect("the steps run");
    assert_eq!(engine.take(id).expect("a result").tokens, expected);
}

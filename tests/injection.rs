//! Every driver call that an engine makes, made to fail once: no panic, a typed error that names the call, nothing left behind, and the
//! next engine on the same device computes the same tokens.

#[path = "injection/contract.rs"]
mod contract;
#[path = "support/simulated.rs"]
mod simulated;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use gridpoint_driver::CUresult;
use gridpoint_engine::{Engine, EngineError, EngineOptions, NewRequest, RequestId};
use gridpoint_model::{Checkpoint, ModelConfig, Weights};
use gridpoint_plan::{Limits, Plan, Policy, plan};
use gridpoint_runtime::Device;
use gridpoint_simulator::{CallCounts, Injection, Leak, leaks};

/// What failing calls answer: nothing in the engine treats this code in a way of its own.
const CODE: CUresult = CUresult::ERROR_OPERATING_SYSTEM;
/// Of the calls of one function, this many fail at most, the first and the last among them.
const SAMPLES: u64 = 8;
const STEPS: u64 = 3;

/// A call inside [`Engine::new`] whose failure is logged and harms nothing: the template of a captured graph is given back.
const SURVIVED: &str = "cuGraphDestroy";

/// All that an engine is made from.
struct Bench {
    device: Arc<Device>,
    config: ModelConfig,
    checkpoint: Checkpoint,
    plan: Plan,
    options: EngineOptions,
}

impl Bench {
    fn new() -> Self {
        let device = simulated::open(None, false).expect("the simulated device");
        let folder = support::data("tests/models/llama-gqa");
        let limits = Limits { max_requests: 1, max_tokens: 16, ..Limits::default() };
        Self {
            device,
            config: ModelConfig::load(&folder).expect("the configuration is good"),
            checkpoint: Checkpoint::open(&folder).expect("the weights are there"),
            plan: plan(&limits, &Policy::default()).expect("a plan"),
            options: EngineOptions {
                max_requests: 1,
                max_tokens: 16,
                // A short rotary table: it is made hundreds of times.
                max_sequence_length: Some(128),
                kv_pages: Some(5),
                ..EngineOptions::default()
            },
        }
    }

    fn engine(&self) -> Result<Engine, EngineError> {
        let weights = Weights::new(&self.config, &self.checkpoint).expect("the weights are those of the configuration");
        Engine::new(&self.device, &self.config, &weights, &self.plan, &self.options, |_| {})
    }

    /// What a device that works answers; `watch` is called when the engine has run and is still there.
    fn tokens_watched(&self, watch: impl FnOnce()) -> Vec<u32> {
        let mut engine = self.engine().expect("an engine");
        let id = request(&mut engine);
        finish(&mut engine).expect("the steps run");
        assert_eq!(engine.totals().total, STEPS);
        watch();
        engine.take(id).expect("a result").tokens
    }

    fn tokens(&self) -> Vec<u32> {
        self.tokens_watched(|| ())
    }

    /// What is alive, and the bytes of memory free.
    fn state(&self) -> (Vec<Leak>, u64) {
        (leaks(), self.device.memory().expect("the device works").free)
    }
}

fn request(engine: &mut Engine) -> RequestId {
    engine.add(NewRequest::greedy(vec![1, 2], STEPS as u32)).expect("a good request")
}

fn finish(engine: &mut Engine) -> Result<(), EngineError> {
    while engine.step()?.is_some() {}
    Ok(())
}

/// Makes an engine and runs it; after a step that failed, goes on with the same one, `tries` times at most. The errors, and the tokens if
/// there are any.
fn run(bench: &Bench, tries: usize) -> (Vec<String>, Option<Vec<u32>>) {
    let mut errors = Vec::new();
    let mut engine = match bench.engine() {
        Ok(engine) => engine,
        Err(error) => return (vec![error.to_string()], None),
    };
    let id = request(&mut engine);
    while let Err(error) = finish(&mut engine) {
        errors.push(error.to_string());
        if errors.len() == tries {
            break;
        }
    }
    (errors, engine.take(id).map(|finished| finished.tokens))
}

/// Numbers from 1 to `calls`: all, or some at equal distances.
fn sampled(calls: u64) -> BTreeSet<u64> {
    let samples = calls.min(SAMPLES);
    (0..samples).map(|sample| 1 + sample * (calls - 1) / (samples - 1).max(1)).collect()
}

/// One test, since an injection concerns the whole process.
#[test]
fn a_failed_call_is_named_and_leaves_nothing_behind() {
    let bench = Bench::new();
    let expected = bench.tokens();
    let before = bench.state();
    assert_eq!(before.0, []);
    let counts = CallCounts::start();
    let mut running = Vec::new();
    assert_eq!(bench.tokens_watched(|| running = counts.all()), expected);
    let calls = counts.all();
    drop(counts);
    assert!(calls.len() >= 25, "{calls:?}");

    let mut wrong = Vec::new();
    for (function, calls) in calls {
        // Those after it are made by destructors.
        let last = running.iter().find(|(name, _)| *name == function).map_or(0, |&(_, calls)| calls);
        for call in sampled(calls) {
            let what = format!("{function}, call {call} of {calls}");
            let name = format!("`{function}` failed: {}", CODE.name());
            let injection = Injection::once(function, call, CODE).expect("a function of the table").install();
            let (errors, tokens) = run(&bench, 2);
            if injection.fired() != 1 {
                wrong.push(format!("{what}: fired {} times", injection.fired()));
            }
            drop(injection);
            let reported = errors.len() == 1 || (errors.is_empty() && (call > last || function == SURVIVED));
            if !reported || errors.iter().any(|error| !error.starts_with(&name)) {
                wrong.push(format!("{what}: reported as {errors:?}"));
            }
            if tokens.is_some_and(|tokens| tokens != expected) {
                wrong.push(format!("{what}: other tokens from the same engine"));
            }
            if bench.state() != before {
                wrong.push(format!("{what}: left {:?}, had {before:?}", bench.state()));
            }
            if bench.tokens() != expected {
                wrong.push(format!("{what}: other tokens from the next engine"));
            }
        }
        // A function that never works again.
        let injection = Injection::onwards(function, 1, CODE).expect("a function of the table").install();
        let _ = run(&bench, 1);
        drop(injection);
        if bench.state() != before || bench.tokens() != expected {
            wrong.push(format!("{function}, all calls: left {:?}, had {before:?}", bench.state()));
        }
    }
    assert!(wrong.is_empty(), "{} of the failures are wrong:\n{}", wrong.len(), wrong.join("\n"));

    an_unguarded_slot_is_waited_for(&bench, &expected);
    out_of_memory(&bench, &expected);
    opening(&bench, &expected);
    contract::check(&bench, &expected);
}

/// A slot of pinned memory behind which no event could be recorded is still read by a copy: it may not be written before that is over.
fn an_unguarded_slot_is_waited_for(bench: &Bench, expected: &[u32]) {
    let mut engine = bench.engine().expect("an engine");
    let id = request(&mut engine);
    let injection = Injection::once("cuEventRecord", 1, CODE).expect("a function of the table").install();
    let counts = CallCounts::start();
    assert!(engine.step().is_err());
    assert_eq!((injection.fired(), counts.of("cuStreamSynchronize")), (1, 1));
    finish(&mut engine).expect("the steps run");
    assert_eq!(engine.take(id).expect("a result").tokens, expected);
}

/// Taking the device again, with every call failing once: named, retained as often as released, and good the next time.
fn opening(bench: &Bench, expected: &[u32]) {
    let open = || Device::open(0, &gridpoint::kernels::simulated_images());
    let counts = CallCounts::start();
    drop(open().expect("the device"));
    let calls = counts.all();
    drop(counts);
    for (function, calls) in calls {
        for call in sampled(calls) {
            let injection = Injection::once(function, call, CODE).expect("a function of the table").install();
            let opened = open().map(drop).map_err(|error| error.to_string());
            drop(injection);
            let what = format!("{function}, call {call} of {calls}");
            match opened {
                // Destructors, and a call that cust makes before the device makes it again.
                Ok(()) => assert!(
                    ["cuModuleUnload", "cuDevicePrimaryCtxRelease_v2"].contains(&function)
                        || (function == "cuCtxSetCurrent" && call == 1),
                    "{what}"
                ),
                Err(error) => assert!(error.starts_with(&format!("`{function}` failed")), "{what}: {error}"),
            }
        }
    }
    bench.device.make_current().expect("the device is still there");
    assert_eq!(bench.tokens(), expected);
}

/// Memory that runs out anywhere is named, with what asked for it.
fn out_of_memory(bench: &Bench, expected: &[u32]) {
    let before = bench.state();
    let engine = bench.engine().expect("an engine");
    let used = before.1 - bench.state().1;
    drop(engine);
    for part in 0..8 {
        let bytes = used * part / 8;
        let injection = Injection::out_of_memory_after(bytes).install();
        let error = bench.engine().map(drop).expect_err("less memory than it needs").to_string();
        assert!(injection.fired() > 0, "{bytes} of {used} bytes: {error}");
        drop(injection);
        let named = error.contains("bytes of device memory") || error.contains("CUDA_ERROR_OUT_OF_MEMORY");
        assert!(named, "{bytes} of {used} bytes: {error}");
        assert_eq!(bench.state(), before, "{bytes} of {used} bytes: {error}");
    }
    assert_eq!(bench.tokens(), expected);
}

//! Every driver call that an engine makes, made to fail once: no panic, a typed error that names the call, nothing left behind, and the
//! next engine on the same device computes the same tokens.

#[path = "injection/capture.rs"]
mod capture;
#[path = "injection/contract.rs"]
mod contract;
#[cfg(target_os = "linux")]
#[path = "support/nvtx.rs"]
mod nvtx;
#[path = "support/simulated.rs"]
mod simulated;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use gridpoint::profile::Steps;
use gridpoint_driver::CUresult;
use gridpoint_engine::{Engine, EngineError, EngineOptions, NewRequest, RequestId};
use gridpoint_graph::verify::VerifyOptions;
use gridpoint_model::{Checkpoint, ModelConfig, Weights};
use gridpoint_plan::{Limits, Plan, Policy, plan};
use gridpoint_runtime::Device;
use gridpoint_simulator::{CallCounts, Injection, Leak, leaks};

/// What failing calls answer: nothing in the engine treats this code in a way of its own.
const CODE: CUresult = CUresult::ERROR_OPERATING_SYSTEM;
/// Of the calls of one function, this many fail at most, the first and the last among them.
const SAMPLES: u64 = 8;
const STEPS: u64 = 3;

/// Calls inside [`Engine::new`] whose failure is logged and harms nothing: the report asks for free memory, templates of captured graphs are
/// given back, and so is all that was made to learn what graphs take.
const SURVIVED: [&str; 9] = [
    "cuGraphDestroy",
    "cuMemGetInfo_v2",
    "cuGraphExecDestroy",
    "cuStreamSynchronize",
    "cuStreamDestroy_v2",
    "cuCtxSynchronize",
    "cuMemUnmap",
    "cuMemAddressFree",
    "cuMemFree_v2",
];

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

/// A profiler that hears of every range of this process, those of the calls that fail among them.
struct Ranges {
    #[cfg(target_os = "linux")]
    folder: (tempfile::TempDir, std::path::PathBuf),
}

impl Ranges {
    fn listen() -> Self {
        #[cfg(target_os = "linux")]
        {
            let folder = tempfile::tempdir().expect("a folder");
            let library = nvtx::library(folder.path());
            gridpoint_runtime::ranges::listen(&library).expect("the library listens");
            Self { folder: (folder, library) }
        }
        #[cfg(not(target_os = "linux"))]
        Self {}
    }

    /// Every range was closed, also where an error ended it.
    fn check(self) {
        #[cfg(target_os = "linux")]
        {
            let ranges = nvtx::Heard::read(&self.folder.1);
            assert!(ranges.all().len() > 1000, "{} ranges", ranges.all().len());
        }
    }
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
    let ranges = Ranges::listen();
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
            let reported = errors.len() == 1 || (errors.is_empty() && (call > last || SURVIVED.contains(&function)));
            if !reported || errors.iter().any(|error| !error.contains(&name)) {
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
    the_steps_of_a_span_are_profiled(&bench);
    out_of_memory(&bench, &expected);
    opening(&bench, &expected);
    verifying(&bench);
    contract::check(&bench, &expected);
    capture::every_call(&bench.device);
    capture::memory_runs_out(&bench.device);
    ranges.check();
}

/// A slot of pinned memory behind which no event could be recorded is still read by a copy: it may not be written before that is over.
fn an_unguarded_slot_is_waited_for(bench: &Bench, expected: &[u32]) {
    let mut engine = bench.engine().expect("an engine");
    let id = request(&mut engine);
    // The first event of a step stands before the copy.
    let injection = Injection::once("cuEventRecord", 2, CODE).expect("a function of the table").install();
    let counts = CallCounts::start();
    assert!(engine.step().is_err());
    assert_eq!((injection.fired(), counts.of("cuStreamSynchronize")), (1, 1));
    finish(&mut engine).expect("the steps run");
    assert_eq!(engine.take(id).expect("a result").tokens, expected);
}

/// A profiler is told of the steps of a span and of no other, and that they are over also where one fails.
fn the_steps_of_a_span_are_profiled(bench: &Bench) {
    let told = |counts: &CallCounts| (counts.of("cuProfilerStart"), counts.of("cuProfilerStop"));
    for (span, after_each) in [
        ("2:2", [(0, 0), (1, 1), (1, 1)]),
        ("1:2", [(1, 0), (1, 1), (1, 1)]),
        ("3:9", [(0, 0), (0, 0), (1, 0)]),
        ("4:4", [(0, 0), (0, 0), (0, 0)]),
    ] {
        let mut engine = bench.engine().expect("an engine");
        request(&mut engine);
        let mut steps = Steps::new(Some(span.parse().expect("a span")));
        let counts = CallCounts::start();
        for expected in after_each {
            assert!(steps.run(&mut engine).expect("the step runs").is_some());
            assert_eq!(told(&counts), expected, "{span}");
        }
        assert!(steps.run(&mut engine).expect("nothing is left").is_none());
        let (starts, stops) = told(&counts);
        assert_eq!(starts, stops, "{span}");
    }

    let mut engine = bench.engine().expect("an engine");
    let id = request(&mut engine);
    let mut steps = Steps::new(Some("2:3".parse().expect("a span")));
    steps.run(&mut engine).expect("the step runs");
    let counts = CallCounts::start();
    let injection = Injection::once("cuGraphLaunch", 1, CODE).expect("a function of the table").install();
    // The profiler listens before the launch that fails, and no longer when the error is told.
    assert!(steps.run(&mut engine).is_err());
    assert_eq!((injection.fired(), told(&counts)), (1, (1, 1)));
    drop(injection);
    // What is planned anew is recorded.
    steps.run(&mut engine).expect("the step runs");
    assert_eq!(told(&counts), (2, 1));
    while steps.run(&mut engine).expect("the steps run").is_some() {}
    assert_eq!(told(&counts), (2, 2));
    assert!(engine.take(id).is_some());

    let mut engine = bench.engine().expect("an engine");
    request(&mut engine);
    for (function, words) in
        [("cuProfilerStart", "`cuProfilerStart` failed"), ("cuProfilerStop", "`cuProfilerStop` failed")]
    {
        let injection = Injection::once(function, 1, CODE).expect("a function of the table").install();
        let mut steps = Steps::new(Some("1:1".parse().expect("a span")));
        let error = steps.run(&mut engine).expect_err("the call fails").to_string();
        assert!(error.starts_with(words), "{error}");
        drop(injection);
    }
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

/// A proof of replay during which a call fails: the call, the graph and the step are named, and the next proof on the same engine finds
/// nothing wrong.
fn verifying(bench: &Bench) {
    let limits = Limits { max_requests: 1, max_tokens: 1, max_sequence_length: 70, ..Limits::default() };
    let plan = plan(&limits, &Policy { decode_only: true, ..Policy::default() }).expect("a plan");
    let weights = Weights::new(&bench.config, &bench.checkpoint).expect("the weights are those of the configuration");
    let options = EngineOptions { max_tokens: 1, max_sequence_length: Some(70), ..bench.options.clone() };
    let mut engine = Engine::new(&bench.device, &bench.config, &weights, &plan, &options, |_| {}).expect("an engine");
    let proof = VerifyOptions { soak: 2, ..VerifyOptions::default() };
    let before = bench.state();
    let counts = CallCounts::start();
    assert_eq!(engine.verify(&proof, |_| {}).expect("the device works").mismatches, 0);
    let calls = counts.all();
    drop(counts);
    for name in ["cuGraphLaunch", "cuMemsetD8_v2", "cuMemcpyDtoH_v2", "cuMemcpyHtoD_v2", "cuEventRecord"] {
        assert!(calls.iter().any(|(function, _)| *function == name), "{name}: {calls:?}");
    }
    for (function, calls) in calls {
        for call in BTreeSet::from([1, calls.div_ceil(2)]) {
            let what = format!("{function}, call {call} of {calls}");
            let injection = Injection::once(function, call, CODE).expect("a function of the table").install();
            let failed = engine.verify(&proof, |_| {}).expect_err("a call fails");
            assert_eq!(injection.fired(), 1, "{what}");
            drop(injection);
            let words = failed.to_string();
            // Before there is anything to prove.
            if function == "cuCtxSetCurrent" {
                assert!(words.contains(&format!("`{function}` failed: {}", CODE.name())), "{what}: {words}");
                continue;
            }
            let EngineError::Verify(failure) = failed else { panic!("{what}: {words}") };
            assert!(words.starts_with(&failure.doing) && words.contains("graph [1]: 0 P + 1 D"), "{what}: {words}");
            assert!(words.contains(&format!("`{function}` failed: {}", CODE.name())), "{what}: {words}");
            assert_eq!(failure.report.mismatches, 0, "{what}");
            assert_eq!(bench.state(), before, "{what}");
        }
    }
    assert_eq!(engine.verify(&proof, |_| {}).expect("the device works").mismatches, 0);
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

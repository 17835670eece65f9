//! A graph set with launches of its caller's: kernels that write numbers which follow from the point, as values and on a raw stream.

use std::error::Error;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gridpoint_engine::{Engine, EngineError, EngineOptions, MemoryReport, NewRequest};
use gridpoint_graph::{
    CaptureMode, CaptureOptions, EagerReason, GraphCosts, GraphSet, Launched, PointRecording, RecordedPlan,
};
use gridpoint_plan::{GraphCount, GridPoint, Limits, Plan, Policy, plan};
use gridpoint_runtime::parameters::FillParameters;
use gridpoint_runtime::{Arena, ArenaLayout, Device, Kernel, Launches, Region, RuntimeError, Stream};

use crate::support::{Case, TestDevice};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("capture/a_raw_stream_shares_graphs_as_values_do", a_raw_stream_shares_graphs_as_values_do),
        Case::new("capture/every_mode_runs_every_point", every_mode_runs_every_point),
        Case::new("capture/in_the_background_disturbs_nobody", in_the_background_disturbs_nobody),
        Case::new("capture/what_fails_inside_the_closure_is_named", what_fails_inside_the_closure_is_named),
        Case::new("capture/replays_take_no_memory", replays_take_no_memory),
        Case::new("capture/the_memory_of_graphs_is_predicted", the_memory_of_graphs_is_predicted),
        Case::new("capture/memory_is_known_before_the_cache_is_sized", memory_is_known_before_the_cache_is_sized),
        Case::new("capture/points_are_dropped_for_a_budget", points_are_dropped_for_a_budget),
        Case::new("capture/a_region_of_another_arena_is_refused", a_region_of_another_arena_is_refused),
    ]
}

const POISON: u8 = 0xFF;
const REQUESTS: u32 = 6;
const TOKENS: u32 = 48;

/// Memory that a step fills with numbers, one for each token and request of its point.
struct Toy {
    kernel: Kernel<FillParameters>,
    arena: Arc<Arena>,
    tokens: Region<u16>,
    requests: Region<u16>,
}

impl Toy {
    fn new(device: &Arc<Device>, plan: &Plan) -> Self {
        let most = |count: fn(&GridPoint) -> u64| plan.points().iter().map(count).max().expect("points");
        let mut layout = ArenaLayout::new();
        let tokens = layout.reserve("tokens", most(|point| point.tokens.into())).expect("small");
        let requests = layout.reserve("requests", most(GridPoint::requests)).expect("small");
        let arena = Arc::new(Arena::new(device, "a toy", &layout).expect("memory"));
        Self { kernel: device.kernel("fill_random", 0).expect("the kernel"), arena, tokens, requests }
    }

    fn launches(&self, point: GridPoint) -> Launches {
        let fill = |region: Region<u16>, count: u64, tensor| FillParameters {
            target: self.arena.pointer(region),
            count,
            seed: u64::from(point.tokens),
            half_width: 1.0,
            offset: 0.0,
            tensor,
            reserved: 0,
        };
        let mut launches = Launches::new();
        launches.push(&self.kernel, 1, &fill(self.tokens, point.tokens.into(), 1));
        launches.push(&self.kernel, 1, &fill(self.requests, point.tokens.div_ceil(2).into(), 2));
        launches
    }

    /// What the memory holds after `step`, before which it held nothing.
    fn after(&self, stream: &Stream, step: impl FnOnce() -> Result<(), RuntimeError>) -> Vec<u16> {
        self.arena.fill(self.tokens, POISON).expect("the device works");
        self.arena.fill(self.requests, POISON).expect("the device works");
        step().expect("the step runs");
        stream.synchronize().expect("the step runs");
        let mut all = vec![0; (self.tokens.count() + self.requests.count()) as usize];
        let (tokens, requests) = all.split_at_mut(self.tokens.count() as usize);
        self.arena.download(self.tokens, 0, tokens).expect("the device works");
        self.arena.download(self.requests, 0, requests).expect("the device works");
        all
    }

    /// As its launches one by one, of which no set knows.
    fn expected(&self, stream: &Stream, point: GridPoint) -> Vec<u16> {
        self.after(stream, || self.launches(point).launch(stream))
    }

    /// Replays every point that is captured; the others run eagerly for the reason given.
    fn check(&self, set: &mut GraphSet<Arc<Arena>>, stream: &Stream, eager: Option<EagerReason>) {
        for (index, point) in set.points().to_vec().into_iter().enumerate() {
            let expected = self.expected(stream, point);
            let mut launched = None;
            let found = self.after(stream, || {
                launched = Some(set.replay(index, stream)?);
                Ok(())
            });
            assert_eq!(found, expected, "{point} replayed");
            assert_eq!(launched, Some(eager.map_or(Launched::Replay, Launched::Eager)), "{point}");
            assert_eq!(self.after(stream, || set.launch_eagerly(index, stream)), expected, "{point} launched");
        }
    }
}

fn small_plan() -> Plan {
    let limits = Limits { max_requests: REQUESTS, max_tokens: TOKENS, ..Limits::default() };
    plan(&limits, &Policy::default()).expect("a plan")
}

fn distinct_tokens(plan: &Plan) -> usize {
    plan.distinct_by(|point| point.tokens)
}

fn a_raw_stream_shares_graphs_as_values_do(device: &TestDevice) {
    let (plan, stream) = (small_plan(), device.stream());
    let toy = Toy::new(device.device(), &plan);
    let values = |recording: &mut PointRecording<'_>, point| recording.launch(toy.launches(point));
    let raw = |recording: &mut PointRecording<'_>, point| toy.launches(point).launch(recording.stream()?);
    // The first launch is a value and the second is not.
    let mixed = |recording: &mut PointRecording<'_>, point| {
        let launches = toy.launches(point);
        recording.launch(launches.prefix(1))?;
        recording.stream()?.launch(&launches.as_slice()[1])
    };
    for (name, set) in [
        ("values", GraphSet::capture(&plan, stream, Arc::clone(&toy.arena), values)),
        ("raw", GraphSet::capture(&plan, stream, Arc::clone(&toy.arena), raw)),
        ("mixed", GraphSet::capture(&plan, stream, Arc::clone(&toy.arena), mixed)),
    ] {
        let mut set = set.unwrap_or_else(|failed| panic!("{name}: {failed}"));
        let summary = *set.summary();
        let distinct = distinct_tokens(&plan);
        assert_eq!((summary.graphs, summary.distinct, summary.nodes), (plan.len(), distinct, 2 * distinct), "{name}");
        assert_eq!(set.launches(0).is_some(), name == "values");
        toy.check(&mut set, stream, None);
    }
}

fn options(mode: CaptureMode, threads: usize) -> CaptureOptions {
    let threads = NonZeroUsize::new(threads).expect("at least one");
    CaptureOptions { mode, threads, ..CaptureOptions::default() }
}

/// The toy's plan, recorded and captured as the options say.
fn captured(toy: &Toy, plan: &Plan, stream: &Stream, options: &CaptureOptions) -> GraphSet<Arc<Arena>> {
    let record = |recording: &mut PointRecording<'_>, point| recording.launch(toy.launches(point));
    let recorded = RecordedPlan::record(plan, stream, record).unwrap_or_else(|failed| panic!("{}", failed.0));
    recorded.capture(stream, Arc::clone(&toy.arena), options, |_| {}).expect("a capture")
}

fn every_mode_runs_every_point(device: &TestDevice) {
    let (plan, stream) = (small_plan(), device.stream());
    let toy = Toy::new(device.device(), &plan);
    let distinct = distinct_tokens(&plan);
    for threads in [1, 3] {
        let mut set = captured(&toy, &plan, stream, &options(CaptureMode::All, threads));
        assert_eq!((set.summary().graphs, set.summary().distinct), (plan.len(), distinct));
        toy.check(&mut set, stream, None);
    }

    let mut lazy = captured(&toy, &plan, stream, &options(CaptureMode::Lazy, 1));
    assert_eq!((lazy.summary().graphs, lazy.summary().distinct), (0, 0));
    assert_eq!(lazy.replay(0, stream), Ok(Launched::Replay));
    assert_eq!((lazy.is_captured(0), lazy.is_captured(plan.len() - 1), lazy.summary().distinct), (true, false, 1));
    toy.check(&mut lazy, stream, None);
    assert_eq!(lazy.summary().graphs, plan.len());

    let mut off = captured(&toy, &plan, stream, &options(CaptureMode::Off, 1));
    toy.check(&mut off, stream, Some(EagerReason::SwitchedOff));
    off.capture_rest();
    assert_eq!(off.summary().graphs, 0);

    let mut background = captured(&toy, &plan, stream, &options(CaptureMode::Background, 1));
    background.capture_rest();
    assert_eq!((background.summary().graphs, background.summary().distinct), (plan.len(), distinct));
    toy.check(&mut background, stream, None);
    // Dropped while the thread still has work.
    drop(captured(&toy, &plan, stream, &options(CaptureMode::Background, 1)));
}

/// Steps run, and another thread allocates, copies and launches, while graphs are captured.
fn in_the_background_disturbs_nobody(device: &TestDevice) {
    let limits = Limits { max_requests: 64, max_tokens: 2048, ..Limits::default() };
    let plan = plan(&limits, &Policy::default()).expect("a plan");
    let stream = device.stream();
    let toy = Toy::new(device.device(), &plan);
    let (over, device) = (AtomicBool::new(false), device.device());
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            device.make_current().expect("the device works");
            let own = Stream::new(device).expect("a stream");
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) || rounds < 3 {
                let small = small_plan();
                let toy = Toy::new(device, &small);
                toy.expected(&own, small.points()[0]);
                rounds += 1;
            }
        });
        let mut set = captured(&toy, &plan, stream, &options(CaptureMode::Background, 1));
        let mut eager = 0;
        // The smallest points last, so that some steps come before their graph.
        for index in (0..plan.len()).rev() {
            let expected = toy.expected(stream, set.points()[index]);
            let found = toy.after(stream, || {
                let launched = set.replay(index, stream)?;
                assert!(
                    [Launched::Replay, Launched::Eager(EagerReason::NotYetCaptured)].contains(&launched),
                    "{launched:?}"
                );
                eager += usize::from(launched != Launched::Replay);
                Ok(())
            });
            assert_eq!(found, expected, "{}", set.points()[index]);
        }
        set.capture_rest();
        assert_eq!(set.summary().graphs, plan.len(), "{eager} steps ran eagerly meanwhile");
        toy.check(&mut set, stream, None);
        over.store(true, Ordering::Relaxed);
        other.join().expect("the other thread met no error");
    });
}

/// What a closure may do wrong at a point, and what the error says of it.
type Wrong = fn(&mut PointRecording<'_>, &Toy) -> Result<(), Box<dyn Error + Send + Sync>>;

fn what_fails_inside_the_closure_is_named(device: &TestDevice) {
    let (plan, stream) = (small_plan(), device.stream());
    let toy = Toy::new(device.device(), &plan);
    let wrong: [(&str, Wrong, &str); 6] = [
        ("its own error", |_, _| Err("the shop is closed".into()), "the shop is closed"),
        (
            "its own error inside the capture",
            |recording, _| {
                recording.stream()?;
                Err("the shop is closed".into())
            },
            "the shop is closed",
        ),
        (
            "an allocation whose error is kept back",
            |recording, toy| {
                let device = Arc::clone(recording.stream()?.device());
                let mut layout = ArenaLayout::new();
                layout.reserve::<u8>("more", 100)?;
                assert!(Arena::new(&device, "more", &layout).is_err(), "no allocation while this thread captures");
                let _ = toy;
                Ok(())
            },
            "the capture was invalidated: an allocation, a synchronisation",
        ),
        ("a synchronisation", |recording, _| Ok(recording.stream()?.synchronize()?), "cuStreamSynchronize"),
        ("a panic", |_, _| resume_unwind(Box::new("no such shelf")), "recording it panicked: no such shelf"),
        (
            "a panic inside the capture",
            |recording, _| {
                recording.stream()?;
                resume_unwind(Box::new(format!("shelf {} is empty", 3)))
            },
            "recording it panicked: shelf 3 is empty",
        ),
    ];
    for (what, wrong, words) in wrong {
        for bad in [0, 3, plan.len() - 1] {
            let mut number = 0;
            let record = |recording: &mut PointRecording<'_>, point| {
                number += 1;
                if number == bad + 1 { wrong(recording, &toy) } else { Ok(recording.launch(toy.launches(point))?) }
            };
            let failed = GraphSet::capture(&plan, stream, Arc::clone(&toy.arena), record).err();
            let failed = failed.unwrap_or_else(|| panic!("{what} at point {bad} is no error"));
            let (error, mut set) = (failed.error.to_string(), failed.set);
            let named = format!("graph {} of {}, {}, cannot be captured: ", bad + 1, plan.len(), plan.points()[bad]);
            assert!(error.starts_with(&named) && error.contains(words), "{what}: {error}");
            assert_eq!(set.points(), &plan.points()[..bad], "{what}");
            toy.check(&mut set, stream, None);
            // The stream is out of capture, and can be captured again.
            stream.record().and_then(gridpoint_runtime::Recording::finish).expect("a new capture");
        }
    }
}

fn replays_take_no_memory(device: &TestDevice) {
    let (plan, stream) = (small_plan(), device.stream());
    let toy = Toy::new(device.device(), &plan);
    let mut set = captured(&toy, &plan, stream, &options(CaptureMode::All, 1));
    let free = || device.device().memory().expect("the device works").free;
    let before = free();
    for index in (0..plan.len()).cycle().take(4 * plan.len()) {
        assert_eq!(set.replay(index, stream), Ok(Launched::Replay));
    }
    stream.synchronize().expect("the replays run");
    assert_eq!(free(), before);
    assert_eq!(set.summary().pool.allocated, 0, "the toy says of no point what it touches");
}

/// The driver's share is within 5 % or 32 MiB of what two batches of other graphs said; on the simulated device it is exact.
fn the_memory_of_graphs_is_predicted(device: &TestDevice) {
    const ROUNDS: usize = 20;
    let (plan, stream) = (small_plan(), device.stream());
    let toy = Toy::new(device.device(), &plan);
    let record = |recording: &mut PointRecording<'_>, point: GridPoint| {
        // The more tokens, the more launches.
        (0..ROUNDS * point.tokens as usize / 8 + 1).try_for_each(|_| recording.launch(toy.launches(point)))
    };
    let recorded = RecordedPlan::record(&plan, stream, record).unwrap_or_else(|failed| panic!("{}", failed.0));
    let (nodes, longest) = (recorded.nodes(), recorded.longest().expect("launches").clone());
    let costs = GraphCosts::measure(stream, &longest).expect("the device works");
    let predicted = costs.of_all(&nodes).bytes;
    let set =
        recorded.capture(stream, Arc::clone(&toy.arena), &options(CaptureMode::All, 1), |_| {}).expect("a capture");
    let measured = set.summary().pool.reserved;
    let off = predicted.abs_diff(measured);
    let allowed = if simulated(device) { 0 } else { (measured / 20).max(32 << 20) };
    assert!(off <= allowed, "predicted {predicted} bytes for {nodes:?} nodes, measured {measured}: {costs:?}");
}

/// An engine for the plan, and what it answers.
fn served(device: &TestDevice, plan: &Plan, options: &EngineOptions) -> Result<(Engine, Vec<u32>), EngineError> {
    let folder = super::shapes::smallest();
    let mut engine = Engine::new(device.device(), &folder.config, &folder.weights(), plan, options, |_| {})?;
    let id = engine.add(NewRequest::greedy(vec![1, 2, 3], 4)).expect("a good request");
    while engine.step()?.is_some() {}
    let tokens = engine.take(id).expect("a result").tokens;
    Ok((engine, tokens))
}

fn engine_options() -> EngineOptions {
    EngineOptions {
        max_requests: REQUESTS,
        max_tokens: TOKENS,
        max_sequence_length: Some(64),
        kv_pages: Some(8),
        ..EngineOptions::default()
    }
}

fn memory_is_known_before_the_cache_is_sized(device: &TestDevice) {
    let free = || device.device().memory().expect("the device works").free;
    let (plan, before) = (small_plan(), free());
    let (engine, _) = served(device, &plan, &engine_options()).expect("an engine");
    let memory = *engine.memory();
    let measured = memory.graphs.measured.expect("all graphs are captured");
    assert_eq!((memory.graphs.graphs, memory.graphs.nodes), (engine.capture().distinct, engine.capture().nodes));
    let within = |found: u64, expected: u64| match simulated(device) {
        true => found == expected,
        false => found.abs_diff(expected) <= (expected / 20).max(32 << 20),
    };
    assert!(within(memory.graphs.predicted, measured), "{memory}");
    let taken = before - free();
    assert!(within(taken, memory.total() + measured), "{taken} bytes are gone: {memory}");
    assert!(taken <= memory.budget, "{memory}");

    // The largest point alone has the same memory: graphs add nothing to the pool.
    let limits = Limits { max_requests: REQUESTS, max_tokens: TOKENS, ..Limits::default() };
    let largest = gridpoint_plan::plan(&limits, &Policy { graph_count: GraphCount::Count(1), ..Policy::default() });
    let largest = largest.expect("a plan");
    assert!(largest.len() < plan.len() && largest.points()[0] == plan.points()[0]);
    let (alone, _) = served(device, &largest, &engine_options()).expect("an engine");
    let own = |memory: &MemoryReport| [memory.workspace, memory.logit_rows, memory.step_block, memory.kv_cache];
    assert_eq!(own(alone.memory()), own(&memory));

    // The cache gets what the budget leaves, up to a page and the granularity of its memory.
    let budget = memory.total() + measured + (16 << 20);
    let options = EngineOptions { memory_budget: Some(budget), kv_pages: Some(1_000_000), ..engine_options() };
    let (more, _) = served(device, &plan, &options).expect("an engine");
    let taken = more.memory().total() + more.memory().graphs.predicted;
    assert!(taken <= budget && budget - taken < more.memory().kv_page + (4 << 20), "{}", more.memory());
    assert!(more.memory().kv_pages > memory.kv_pages, "{}", more.memory());
}

fn simulated(device: &TestDevice) -> bool {
    device.device().properties().name.contains("simulated")
}

fn points_are_dropped_for_a_budget(device: &TestDevice) {
    let plan = small_plan();
    let (engine, expected) = served(device, &plan, &engine_options()).expect("an engine");
    assert_eq!(engine.dropped_points(), []);
    let memory = *engine.memory();
    drop(engine);
    if !simulated(device) {
        return;
    }
    let others = memory.total();
    for (share, some) in [(1.0, false), (0.7, true), (0.4, true)] {
        let graphs = (memory.graphs.predicted as f64 * share) as u64;
        let options = EngineOptions { memory_budget: Some(others + graphs), ..engine_options() };
        let (engine, tokens) = served(device, &plan, &options).expect("an engine");
        assert_eq!(tokens, expected, "{share}");
        let dropped = engine.dropped_points();
        assert_eq!(dropped.is_empty(), !some, "{share}: {dropped:?}");
        assert_eq!(engine.points().len() + dropped.len(), plan.len(), "{share}");
        for gone in dropped {
            assert!(!engine.points().contains(&gone.point) && engine.points().contains(&gone.replaced_by), "{gone:?}");
        }
        assert!(engine.memory().graphs.predicted <= graphs, "{share}: {}", engine.memory());
        assert_eq!(engine.totals().eager, 0, "{share}: batches take larger points");
    }
    let refused =
        |options: EngineOptions| served(device, &plan, &options).map(drop).expect_err("too little").to_string();
    let words = refused(EngineOptions { memory_budget: Some(others + 1), ..engine_options() });
    assert!(words.starts_with("the plan's graphs do not fit: the budget of bytes is `"), "{words}");
    let words = refused(EngineOptions { memory_budget: Some(memory.weights), ..engine_options() });
    assert!(words.starts_with("the budget of device memory is `"), "{words}");
    let budget = Some(Duration::from_nanos(1));
    let words = refused(EngineOptions { capture_budget: budget, ..engine_options() });
    assert!(words.starts_with("the plan's graphs do not fit: the budget of seconds is `0.000000001`"), "{words}");
    let part = refused(EngineOptions { memory_utilization: 1.5, ..engine_options() });
    assert!(part.starts_with("memory_utilization is `1.5`"), "{part}");
}

/// Also one that lies within the arena.
fn a_region_of_another_arena_is_refused(device: &TestDevice) {
    let plan = small_plan();
    let [toy, other] = [(); 2].map(|()| Toy::new(device.device(), &plan));
    let mut numbers = [0; 2];
    let refused = RuntimeError::OtherLayout { what: "a toy".to_owned() };
    assert_eq!(other.arena.fill(toy.tokens, 0), Err(refused.clone()));
    assert_eq!(other.arena.upload(toy.tokens, 0, &numbers), Err(refused.clone()));
    assert_eq!(other.arena.download(toy.tokens, 0, &mut numbers), Err(refused));
    assert_eq!(toy.arena.fill(toy.tokens, 0), Ok(()));
}

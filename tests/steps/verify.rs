//! Proof of replay: graphs that are right verify, and a planted fault of each kind is found where it is.

use gridpoint_engine::{Engine, EngineError, EngineOptions, ModelSubject, NewRequest};
use gridpoint_graph::verify::{
    Captured, Comparison, Mismatch, Padding, RealStep, Room, Subject, Tensor, VerifyOptions, VerifyReport, verify,
};
use gridpoint_plan::{GraphCount, GridPoint, Limits, Plan, Policy, TokenCeiling, plan};
use gridpoint_runtime::parameters::GRIDPOINT_ROWS_TOKENS;
use gridpoint_runtime::{Launch, Launches, RuntimeError, Stream};

use super::rig::{Folder, Rig, RigGraphs};
use super::shapes;
use crate::support::{Case, TestDevice};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("verify/the_graphs_that_serve", the_graphs_that_serve),
        Case::new(NOTHING_IS_WRONG, nothing_is_wrong),
        Case::new("verify/a_frozen_scalar", a_frozen_scalar),
        Case::new("verify/a_scalar_baked_in_anew", a_scalar_baked_in_anew),
        Case::new("verify/a_stale_pointer", a_stale_pointer),
        Case::new("verify/a_replay_that_does_nothing", a_replay_that_does_nothing),
    ]
}

/// The case that a planted kernel trips over.
pub(crate) const NOTHING_IS_WRONG: &str = "verify/nothing_is_wrong";

const SEQUENCE: u32 = 130;
const PAGES: u32 = 12;
/// The word of the parameters of `rms_norm` that holds which rows it covers.
const NORM_ROWS: usize = 5;

fn options(soak: u64) -> VerifyOptions {
    VerifyOptions { soak, seed: 3, ..VerifyOptions::default() }
}

/// Graphs for few requests and tokens: all that there are, or of `counts` token counts.
fn small(max_requests: u32, max_tokens: u32, counts: GraphCount) -> Plan {
    let limits = Limits { max_requests, max_tokens, max_sequence_length: SEQUENCE, ..Limits::default() };
    let token_ceiling = TokenCeiling::new(true, None);
    let policy = Policy { token_ceiling, graph_count: counts, ..Policy::default() };
    plan(&limits, &policy).expect("a plan")
}

/// Three points that share graphs.
fn few() -> Plan {
    small(2, 4, GraphCount::Count(1))
}

/// The point with prefills and decodes.
fn mixed(plan: &Plan) -> GridPoint {
    *plan.points().iter().find(|point| point.prefills > 0 && point.decodes > 0).expect("a mixed point")
}

/// The proof of a rig's graphs.
fn proof(rig: &mut Rig, options: &VerifyOptions) -> VerifyReport {
    let (graphs, model, ring, stream) = rig.parts();
    let mut subject = ModelSubject::new(model, ring.address(), u64::MAX);
    verify(graphs, &mut subject, ring, stream, options, |_| {}).expect("the device works")
}

#[track_caller]
fn first(report: &VerifyReport, comparison: Comparison) -> &Mismatch {
    report.first_of(comparison).unwrap_or_else(|| panic!("nothing of {comparison:?} in {report:?}"))
}

/// The launches with one replaced.
fn replaced(launches: Launches, kernel: &str, replace: impl Fn(Launch) -> Launch) -> Launches {
    let one = |launch: &Launch| if launch.name() == kernel { replace(launch.clone()) } else { launch.clone() };
    launches.as_slice().iter().map(one).collect()
}

fn nothing_is_wrong(device: &TestDevice) {
    let simulated = device.device().properties().name.contains("simulated");
    let (plan, folder, soak) = match simulated {
        true => (few(), shapes::smallest(), 8),
        false => (small(12, 96, GraphCount::Auto), Folder::read("tests/models/llama-gqa"), 2000),
    };
    let mut rig = Rig::new(device, &folder, &plan, if simulated { PAGES } else { 64 }, SEQUENCE);
    let report = proof(&mut rig, &options(soak));
    if let Some(first) = &report.first {
        panic!("{} mismatches, the first: {first}", report.mismatches);
    }
    assert_eq!((report.graphs, report.soaked, report.reduced), (plan.len(), soak, 0), "{report:?}");
    assert!(report.distinct >= 1 && report.distinct < plan.len(), "{report:?}");
    // Each point at least twice, and each graph with more steps.
    assert!(report.shapes > plan.len() as u64 && report.replays > 2 * report.shapes, "{report:?}");
}

/// An engine's own graphs, between two requests.
fn the_graphs_that_serve(device: &TestDevice) {
    let folder = shapes::smallest();
    let options = EngineOptions {
        max_requests: 2,
        max_tokens: 4,
        max_sequence_length: Some(SEQUENCE),
        kv_pages: Some(PAGES),
        ..EngineOptions::default()
    };
    let plan = few();
    let mut engine =
        Engine::new(device.device(), &folder.config, &folder.weights(), &plan, &options, |_| {}).expect("an engine");
    let answer = |engine: &mut Engine| {
        let id = engine.add(NewRequest::greedy(vec![1, 2, 3], 4)).expect("a good request");
        while engine.step().expect("the steps run").is_some() {}
        engine.take(id).expect("a result").tokens
    };
    let before = answer(&mut engine);
    let options = self::options(3);
    let mut seen = Vec::new();
    let report = engine.verify(&options, |progress| seen.push(*progress)).expect("the device works");
    assert_eq!((report.mismatches, report.graphs), (0, plan.len()), "{report:?}");
    let last = seen.last().expect("progress");
    assert_eq!((last.done, last.total, last.replays), (plan.len() as u64 + 3, plan.len() as u64 + 3, report.replays));
    assert_eq!(answer(&mut engine), before, "the engine serves as before");

    // A request that waits is not in the way, one that runs is.
    let id = engine.add(NewRequest::greedy(vec![1], 3)).expect("a good request");
    let brief = VerifyOptions { most_tokens: Some(1), ..options };
    assert_eq!(engine.verify(&brief, |_| {}).expect("nothing runs").mismatches, 0);
    engine.step().expect("the step runs");
    let refused = engine.verify(&brief, |_| {}).expect_err("a request runs");
    assert!(matches!(refused, EngineError::Busy { running: 1 }), "{refused}");
    assert_eq!(refused.to_string(), "`1` requests are running: graphs can be verified only while none is");
    assert!(engine.cancel(id));
    assert_eq!(answer(&mut engine), before);
}

/// One graph was captured of a step of decodes, in which row i of the head reads token i, and holds on to that.
fn a_frozen_scalar(device: &TestDevice) {
    let plan = few();
    let frozen = mixed(&plan);
    let mut rig = Rig::captured_of(device, &shapes::smallest(), &plan, (PAGES, SEQUENCE), |model, step, point| {
        let launches = model.record(point, step)?;
        let rows = |launch: Launch| launch.with_parameter(NORM_ROWS, u64::from(GRIDPOINT_ROWS_TOKENS));
        Ok(if point == frozen { replaced(launches, "rms_norm", rows) } else { launches })
    });
    let report = proof(&mut rig, &options(0));
    let launches = report.first.as_ref().expect("a mismatch");
    assert_eq!((launches.comparison, launches.point, launches.tensor), (Comparison::Launches, frozen, "launches"));
    assert_eq!((launches.kernel, launches.index.len(), launches.index[1]), (Some("rms_norm"), 2, NORM_ROWS as u64));
    assert_eq!((launches.found, launches.expected), (Some(0), Some(1)));

    let results = first(&report, Comparison::Fresh);
    assert_eq!((results.point, results.axes[0]), (frozen, "row"), "{results}");
    assert!(["token", "log_probability", "logits"].contains(&results.tensor), "{results}");
    let words = results.to_string();
    assert!(words.starts_with(&format!("graph {frozen}, replayed with the step ")), "{words}");
    assert!(words.contains("something is frozen in it or its memory has moved"), "{words}");
    assert_eq!(report.kinds.len(), 2, "{report:?}");
    assert!(report.mismatches >= 3, "{report:?}");
}

/// The model as [`ModelSubject`] with launches as a test has them.
struct Altered<'a, F> {
    model: ModelSubject<'a>,
    alter: F,
}

impl<F: Fn(GridPoint, Launches) -> Launches> Subject for Altered<'_, F> {
    type Error = EngineError;

    fn room(&self) -> Room {
        self.model.room()
    }

    fn record(&self, point: GridPoint) -> Result<Launches, EngineError> {
        Ok((self.alter)(point, self.model.record(point)?))
    }

    fn prepare(&mut self, padding: Padding, step: &RealStep) -> Result<(), EngineError> {
        self.model.prepare(padding, step)
    }

    fn collect(&mut self, logit_rows: u32) -> Result<Vec<Tensor>, EngineError> {
        self.model.collect(logit_rows)
    }
}

/// Whoever records takes it from the point's capacities that all rows are decodes, so that nothing differs but the results.
fn a_scalar_baked_in_anew(device: &TestDevice) {
    let plan = few();
    let baked = mixed(&plan);
    let bake = |point: GridPoint, launches: Launches| {
        let rows = |launch: Launch| launch.with_parameter(NORM_ROWS, u64::from(GRIDPOINT_ROWS_TOKENS));
        if point == baked { replaced(launches, "rms_norm", rows) } else { launches }
    };
    let mut rig = Rig::captured_of(device, &shapes::smallest(), &plan, (PAGES, SEQUENCE), |model, step, point| {
        Ok(bake(point, model.record(point, step)?))
    });
    let (graphs, model, ring, stream) = rig.parts();
    let mut subject = Altered { model: ModelSubject::new(model, ring.address(), u64::MAX), alter: bake };
    let report = verify(graphs, &mut subject, ring, stream, &options(0), |_| {}).expect("the device works");
    assert_eq!(report.kinds.len(), 1, "{report:?}");
    let found = first(&report, Comparison::Exact);
    assert_eq!(found.point, baked);
    assert!(["token", "log_probability", "logits"].contains(&found.tensor), "{found}");
    assert!(found.to_string().contains("a capacity stands for a count"), "{found}");
}

/// One graph was captured when the model lay elsewhere.
fn a_stale_pointer(device: &TestDevice) {
    let plan = few();
    let folder = shapes::smallest();
    let stale = *plan.points().last().expect("a point");
    let former = Rig::new(device, &folder, &plan, PAGES, SEQUENCE);
    let mut rig = Rig::captured_of(device, &folder, &plan, (PAGES, SEQUENCE), |model, step, point| {
        let source = if point == stale { &former.model } else { model };
        source.record(point, step)
    });
    let report = proof(&mut rig, &options(0));
    let launches = report.first.as_ref().expect("a mismatch");
    assert_eq!((launches.comparison, launches.point), (Comparison::Launches, stale), "{launches}");
    assert_eq!((launches.index[0], launches.kernel), (0, Some("schedule_attention")), "{launches}");
    // Its keys went to where the model was.
    let results = first(&report, Comparison::Fresh);
    assert_eq!(results.point, stale, "{results}");
    assert_eq!(report.kinds.len(), 2, "{report:?}");
}

/// Graphs of which one replay, counted from 0, is lost.
struct Losing<'a> {
    graphs: &'a mut RigGraphs,
    lost: u64,
    replays: u64,
}

impl Captured for Losing<'_> {
    fn points(&self) -> &[GridPoint] {
        self.graphs.points()
    }

    fn launches(&self, index: usize) -> Option<&Launches> {
        self.graphs.launches(index)
    }

    fn replay(&mut self, index: usize, stream: &Stream) -> Result<(), RuntimeError> {
        self.replays += 1;
        match self.replays == self.lost + 1 {
            true => Ok(()),
            false => Captured::replay(self.graphs, index, stream),
        }
    }
}

/// A fault that comes once, in a chain, where a step after it has what it left.
fn a_replay_that_does_nothing(device: &TestDevice) {
    let plan = small(1, 1, GraphCount::Count(1));
    let mut rig = Rig::new(device, &shapes::smallest(), &plan, PAGES, SEQUENCE);
    let alone = proof(&mut rig, &options(0));
    assert_eq!(alone.mismatches, 0, "{alone:?}");
    let (graphs, model, ring, stream) = rig.parts();
    let mut losing = Losing { graphs, lost: alone.replays + 5, replays: 0 };
    let mut subject = ModelSubject::new(model, ring.address(), u64::MAX);
    let report = verify(&mut losing, &mut subject, ring, stream, &options(30), |_| {}).expect("the device works");
    assert_eq!((report.soaked, report.replays), (30, alone.replays + 30));
    let found = report.first.as_ref().expect("a mismatch");
    assert_eq!((found.comparison, report.kinds.len()), (Comparison::Soak, 1), "{report:?}");
    assert!(["token", "log_probability"].contains(&found.tensor), "{found}");
    assert!(report.mismatches < 10, "{report:?}");
}

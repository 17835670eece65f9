//! A request's tokens do not depend on its company: on chunking, slots, order of arrival, graphs, or where its pages lie.

use gridpoint_engine::{Engine, EngineOptions, NewRequest, RequestId, SamplingParameters};
use gridpoint_graph::CaptureMode;
use gridpoint_plan::{Limits, Policy, plan};

use super::rig::Folder;
use crate::support::{Case, TestDevice};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("batching/tokens_do_not_depend_on_company", tokens_do_not_depend_on_company),
        Case::new("batching/cancelling_harms_no_other", cancelling_harms_no_other),
        Case::new("batching/an_engine_changes_threads", an_engine_changes_threads),
        Case::new("batching/a_step_without_a_point_says_why", a_step_without_a_point_says_why),
    ]
}

/// Tokens and the bits of their log-probabilities, prompt first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    tokens: Vec<u32>,
    logprobs: Vec<u32>,
}

/// How a run is batched.
#[derive(Clone, Copy, Debug)]
struct Batching {
    max_requests: u32,
    max_tokens: u32,
    capture: CaptureMode,
    /// Requests come in this order, `stride` apart, one after every `every` steps.
    stride: usize,
    every: usize,
    kv_pages: u32,
}

fn requests(vocabulary: usize) -> Vec<NewRequest> {
    let prompt = |index: u32, length: u32| (0..length).map(|i| (index * 97 + i * 31 + 5) % vocabulary as u32).collect();
    let lengths = [1, 5, 64, 65, 130, 40, 2];
    (0..)
        .zip(lengths)
        .map(|(index, length)| NewRequest {
            prompt: prompt(index, length),
            max_new_tokens: 6 + index % 3,
            // Every other one is drawn, with filters.
            sampling: match index % 2 {
                0 => SamplingParameters::GREEDY,
                _ => SamplingParameters { temperature: 0.9, top_k: 40, top_p: 0.95, seed: u64::from(index) },
            },
            logprobs: true,
            stop_tokens: Vec::new(),
        })
        .collect()
}

fn engine(device: &TestDevice, folder: &Folder, batching: Batching) -> Engine {
    let Batching { max_requests, max_tokens, capture, kv_pages, .. } = batching;
    let limits = Limits { max_requests, max_tokens, ..Limits::default() };
    let policy = Policy { token_ceiling: gridpoint_plan::TokenCeiling::new(true, None), ..Policy::default() };
    let plan = plan(&limits, &policy).expect("a plan");
    let options =
        EngineOptions { max_requests, max_tokens, kv_pages: Some(kv_pages), capture, ..EngineOptions::default() };
    Engine::new(device.device(), &folder.config, &folder.weights(), &plan, &options, |_| {}).expect("an engine")
}

fn outcome(engine: &mut Engine, id: RequestId) -> Outcome {
    let finished = engine.take(id).expect("a result");
    let logprobs = finished.logprobs.expect("they were asked for");
    let bits = logprobs.prompt.into_iter().flatten().chain(logprobs.tokens).map(f32::to_bits).collect();
    Outcome { tokens: finished.tokens, logprobs: bits }
}

/// Every request's outcome under one way of batching, in the requests' own order.
fn run(device: &TestDevice, folder: &Folder, batching: Batching) -> Vec<Outcome> {
    let requests = requests(folder.config.vocab_size);
    let mut engine = engine(device, folder, batching);
    let mut order = (0..requests.len()).map(|place| place * batching.stride % requests.len()).peekable();
    let mut ids: Vec<Option<RequestId>> = vec![None; requests.len()];
    for step in 0.. {
        if step % batching.every == 0
            && let Some(index) = order.next()
        {
            ids[index] = Some(engine.add(requests[index].clone()).expect("a request"));
        }
        if engine.step().expect("the step runs").is_none() && order.peek().is_none() {
            break;
        }
    }
    let (totals, graphs) = (engine.totals().clone(), engine.capture().graphs);
    match batching.capture {
        CaptureMode::All | CaptureMode::Lazy => {
            assert!(graphs > 0 && totals.eager == 0 && totals.replayed == totals.total, "{batching:?}: {totals:?}");
        }
        CaptureMode::Background => {
            let waited = totals.reasons.get("not_yet_captured").copied().unwrap_or(0);
            assert_eq!((totals.eager, totals.replayed), (waited, totals.total - waited), "{batching:?}");
        }
        CaptureMode::Off => assert_eq!((totals.replayed, totals.eager), (0, totals.total), "{batching:?}"),
    }
    ids.into_iter().map(|id| outcome(&mut engine, id.expect("it was added"))).collect()
}

fn tokens_do_not_depend_on_company(device: &TestDevice) {
    let folder = Folder::read("tests/models/llama-gqa");
    let alone =
        Batching { max_requests: 1, max_tokens: 256, capture: CaptureMode::Off, stride: 1, every: 1, kv_pages: 4 };
    let expected = run(device, &folder, alone);
    let others = [
        Batching { max_requests: 8, max_tokens: 256, capture: CaptureMode::All, stride: 1, every: 1, kv_pages: 40 },
        Batching { max_requests: 8, max_tokens: 16, capture: CaptureMode::All, stride: 3, every: 1, kv_pages: 40 },
        Batching { max_requests: 8, max_tokens: 16, capture: CaptureMode::Off, stride: 3, every: 2, kv_pages: 40 },
        Batching { max_requests: 5, max_tokens: 5, capture: CaptureMode::Lazy, stride: 2, every: 1, kv_pages: 30 },
        Batching {
            max_requests: 5,
            max_tokens: 5,
            capture: CaptureMode::Background,
            stride: 2,
            every: 1,
            kv_pages: 30,
        },
        Batching { max_requests: 3, max_tokens: 70, capture: CaptureMode::All, stride: 5, every: 3, kv_pages: 9 },
        Batching { max_requests: 5, max_tokens: 5, capture: CaptureMode::All, stride: 2, every: 1, kv_pages: 30 },
    ];
    for batching in others {
        let found = run(device, &folder, batching);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.tokens, expected.tokens, "{batching:?}, request {index}: tokens");
            for (position, (found, expected)) in found.logprobs.iter().zip(&expected.logprobs).enumerate() {
                let (one, other) = (f32::from_bits(*found), f32::from_bits(*expected));
                assert_eq!(
                    found, expected,
                    "{batching:?}, request {index}, log-probability {position}: {one}, {other}"
                );
            }
        }
    }
}

fn cancelling_harms_no_other(device: &TestDevice) {
    let folder = Folder::read("tests/models/llama-gqa");
    let batching =
        Batching { max_requests: 8, max_tokens: 64, capture: CaptureMode::All, stride: 1, every: 1, kv_pages: 40 };
    let expected = run(device, &folder, batching);
    let mut engine = engine(device, &folder, batching);
    let ids: Vec<_> =
        requests(folder.config.vocab_size).into_iter().map(|new| engine.add(new).expect("a request")).collect();
    for step in 0.. {
        if step == 3 {
            assert!(engine.cancel(ids[2]) && engine.cancel(ids[4]));
        }
        if engine.step().expect("the step runs").is_none() {
            break;
        }
    }
    for (index, id) in ids.into_iter().enumerate().filter(|(index, _)| ![2, 4].contains(index)) {
        assert_eq!(outcome(&mut engine, id), expected[index], "request {index}");
    }
}

fn a_step_without_a_point_says_why(device: &TestDevice) {
    let folder = Folder::read("tests/models/llama-gqa");
    let limits = Limits { max_requests: 4, max_tokens: 64, ..Limits::default() };
    let plan = plan(&limits, &Policy { decode_only: true, ..Policy::default() }).expect("a plan");
    let options = EngineOptions { max_requests: 4, max_tokens: 64, kv_pages: Some(9), ..EngineOptions::default() };
    let mut engine =
        Engine::new(device.device(), &folder.config, &folder.weights(), &plan, &options, |_| {}).expect("an engine");
    engine.add(NewRequest::greedy(vec![1, 2, 3], 3)).expect("a request");
    let mut reports = Vec::new();
    while let Some(outcome) = engine.step().expect("the step runs") {
        let report = outcome.report.to_string();
        reports.push(report.split(';').next().expect("a report").to_owned());
    }
    assert_eq!(
        reports,
        [
            "step 3:1:0 runs eagerly: no point has P >= 1",
            "step 1:0:1 replays [1]: 0 P + 1 D, padding 0 T, 0 P, 0 D",
            "step 1:0:1 replays [1]: 0 P + 1 D, padding 0 T, 0 P, 0 D",
        ]
    );
}

/// Made here, run and dropped on a thread that has no context of its own.
fn an_engine_changes_threads(device: &TestDevice) {
    let folder = Folder::read("tests/models/llama-gqa");
    let batching =
        Batching { max_requests: 2, max_tokens: 8, capture: CaptureMode::All, stride: 1, every: 1, kv_pages: 5 };
    let tokens = |mut engine: Engine| {
        let id = engine.add(NewRequest::greedy(vec![1, 2, 3], 3)).expect("a request");
        while engine.step().expect("the step runs").is_some() {}
        engine.take(id).expect("a result").tokens
    };
    let here = tokens(engine(device, &folder, batching));
    let moved = engine(device, &folder, batching);
    let there = std::thread::spawn(move || tokens(moved)).join().expect("no panic");
    assert_eq!(here, there);
}

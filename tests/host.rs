//! A step allocates nothing on the host once the engine has settled, on a device that does nothing.
//!
//! Settled means: no request is admitted and none ends, steps replay, and one of the same shape went before.

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/idle.rs"]
mod idle;

use std::hint::black_box;

use allocations::{Counting, during};
use gridpoint_engine::{Engine, NewRequest, SamplingParameters};
use gridpoint_graph::StepKind;
use idle::{CONTEXT, Served};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requests that decode.
const REQUESTS: u32 = 64;
/// Steps that are counted: over one page's end.
const STEPS: u32 = 100;
/// Steps that go before: each of the ring's slots is used, and buffers are as large as they become.
const SETTLING: u32 = 4;

#[test]
fn a_planted_allocation_is_found() {
    assert_eq!(during(|| black_box(1)).0, 0);
    assert_eq!(during(|| black_box(Box::new(1))).0, 1);
    assert_eq!(during(|| black_box(vec![0_u64; 100])).0, 1, "zeroed memory");
    let mut full: Vec<u32> = black_box(Vec::with_capacity(1));
    full.push(1);
    assert_eq!(during(|| full.push(2)).0, 1, "a reallocation");
    let elsewhere = during(|| std::thread::spawn(|| during(|| black_box(Box::new(1))).0).join());
    assert_eq!(elsewhere.1.expect("the thread ends"), 1);
}

/// One test, since a process has one driver and its context is current in one thread.
#[test]
fn settled_steps_allocate_nothing() {
    let device = idle::open();
    let served = Served::new(&device, CONTEXT);

    let plain = NewRequest::greedy(vec![1; CONTEXT], idle::NEW_TOKENS);
    let mut engine = served.decoding(REQUESTS, &plain);
    assert_eq!(allocations_of(&mut engine, STEPS), 0, "decodes");
    // The counter sees the engine's own allocations too: those of a request that comes.
    let (allocated, _) = during(|| {
        engine.cancel(gridpoint_engine::RequestId(0));
        engine.add(NewRequest::greedy(vec![1, 2, 3], 2)).expect("a request");
        engine.step().expect("a step").map(|outcome| outcome.events.len())
    });
    assert!(allocated > 0, "a request was admitted out of nothing");

    let sampling = SamplingParameters { temperature: 0.7, top_p: 0.9, top_k: 40, seed: 5 };
    let logged = NewRequest { logprobs: true, stop_tokens: vec![9, 10], sampling, ..plain.clone() };
    let mut engine = served.decoding(REQUESTS, &logged);
    assert_eq!(allocations_of(&mut engine, STEPS), 0, "decodes with log-probabilities");

    // Beside the decodes a long prompt is computed in parts, and scored. It was admitted, and has had its first parts, when counting begins.
    let budget = REQUESTS + 16;
    let short = NewRequest::greedy(vec![1; 8], idle::NEW_TOKENS);
    let mut engine = served.decoding_within((REQUESTS + 1, budget), REQUESTS, &short);
    engine.add(NewRequest { prompt: vec![1; CONTEXT], ..logged }).expect("a request");
    assert_eq!(allocations_of(&mut engine, 20), 0, "decodes beside a chunked prompt");
    let totals = engine.totals();
    assert!(totals.points.keys().any(|point| point.prefills > 0), "no step was mixed: {totals:?}");
}

/// Allocations in so many steps, after those that settle the engine. All of them replay and have one shape.
fn allocations_of(engine: &mut Engine, steps: u32) -> u64 {
    for _ in 0..SETTLING {
        engine.step().expect("a step");
    }
    let mut allocations = 0;
    let mut shape = None;
    for _ in 0..steps {
        let (allocated, report) = during(|| engine.step().expect("a step").expect("requests are left").report);
        assert!(matches!(report.kind, StepKind::Replay { .. }), "{report}");
        assert_eq!(*shape.get_or_insert(report.shape), report.shape, "{report}");
        allocations += allocated;
    }
    allocations
}

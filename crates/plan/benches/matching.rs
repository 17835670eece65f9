//! Time of one match, beside a plain scan over the same points in the same run: `cargo bench -p gridpoint-plan`.
#![allow(missing_docs, reason = "criterion's macros make functions without documentation")]

use std::hint::black_box;

use criterion::{Bencher, BenchmarkId, Criterion, criterion_group, criterion_main};
use gridpoint_plan::{GridPoint, Limits, Matcher, Matching, Policy, Sizing, StepShape, TokenCeiling, plan};

/// A power of two.
const STEPS: usize = 4096;

/// The plans of the headline, and the largest of the reference's tables.
fn matching(criterion: &mut Criterion) {
    let cases = [
        (60, Sizing::Exponential, TokenCeiling::Decodes),
        (123, Sizing::Linear, TokenCeiling::Decodes),
        (2121, Sizing::Linear, TokenCeiling::AllPrefills),
    ];
    let mut group = criterion.benchmark_group("match");
    for (points, sizing, token_ceiling) in cases {
        let policy = Policy { sizing, token_ceiling, ..Policy::default() };
        let plan = plan(&Limits::default(), &policy).expect("a plan");
        assert_eq!(plan.len(), points);
        let matcher = Matcher::new(plan.points());
        let steps = steps(plan.token_counts().and_then(|counts| counts.first().copied()).expect("points"));
        for &step in &steps {
            assert_eq!(matcher.find(step, Matching::NonStrict).point(), scan(plan.points(), step), "{step}");
        }
        let find = |step| matcher.find(step, Matching::NonStrict).point();
        let strict = |step| matcher.find(step, Matching::Strict).point();
        group.bench_function(BenchmarkId::new("matcher", points), |bencher| each(bencher, &steps, find));
        group.bench_function(BenchmarkId::new("matcher, strict", points), |bencher| each(bencher, &steps, strict));
        group.bench_function(BenchmarkId::new("linear scan", points), |bencher| {
            each(bencher, &steps, |step| scan(plan.points(), step));
        });
    }
    group.finish();
}

/// One step after the other, in their order.
fn each(bencher: &mut Bencher<'_>, steps: &[StepShape], find: impl Fn(StepShape) -> Option<GridPoint>) {
    let mut next = 0;
    bencher.iter(|| {
        next = (next + 1) % STEPS;
        find(black_box(steps[next]))
    });
}

/// Mixed and decode-only steps, a few of them above the ceiling, in an order that a branch predictor does not learn.
fn steps(ceiling: u32) -> Vec<StepShape> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut draw = |below: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(below)) as u32
    };
    let mut step = || match draw(3) {
        0 => {
            let decodes = 1 + draw(400);
            StepShape { tokens: decodes, prefills: 0, decodes }
        }
        _ => {
            let prefills = 1 + draw(20);
            let decodes = draw(380);
            let least = prefills + decodes;
            StepShape { tokens: least + draw(ceiling.max(least) - least + 8), prefills, decodes }
        }
    };
    (0..STEPS).map(|_| step()).collect()
}

/// The smallest of the points that fit.
fn scan(points: &[GridPoint], step: StepShape) -> Option<GridPoint> {
    let requests = u64::from(step.prefills) + u64::from(step.decodes);
    let fits = |point: &&GridPoint| {
        point.tokens >= step.tokens
            && match step.prefills {
                0 => point.prefills == 0 && point.decodes >= step.decodes,
                _ => point.prefills >= step.prefills && point.requests() >= requests,
            }
    };
    points.iter().filter(fits).min().copied()
}

criterion_group!(benches, matching);
criterion_main!(benches);

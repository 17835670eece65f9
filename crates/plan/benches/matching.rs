//! Nanoseconds of one match on the largest plan of the reference table (2121 points), beside a plain scan.
//!
//! Run with `cargo run --release -p gridpoint-plan --example matching_time`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::hint::black_box;
use std::time::Instant;

use gridpoint_plan::{GridPoint, Limits, Matcher, Matching, Policy, Sizing, StepShape, TokenCeiling, plan};

fn main() -> Result<(), gridpoint_plan::PlanError> {
    let policy = |sizing| Policy { sizing, token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() };
    for sizing in [Sizing::Exponential, Sizing::Linear] {
        let plan = plan(&Limits::default(), &policy(sizing.clone()))?;
        let matcher = Matcher::new(plan.points());
        let steps = steps();
        let fast = time(&steps, 200, |step| matcher.find(step, Matching::NonStrict).point());
        let strict = time(&steps, 200, |step| matcher.find(step, Matching::Strict).point());
        let plain = time(&steps, 5, |step| scan(plan.points(), step));
        println!("{sizing}, {} points: find {fast:.0} ns, strict {strict:.0} ns, plain scan {plain:.0} ns", plan.len());
    }
    Ok(())
}

/// Mixed, decode-only and missing steps, in an order that a branch predictor does not learn.
fn steps() -> Vec<StepShape> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % below) as u32
    };
    let mut step = || {
        let decodes = draw(400);
        match draw(3) {
            0 => StepShape { tokens: decodes, prefills: 0, decodes },
            _ => StepShape { tokens: decodes + 1 + draw(16384), prefills: 1 + draw(20), decodes },
        }
    };
    (0..4096).map(|_| step()).collect()
}

fn scan(points: &[GridPoint], step: StepShape) -> Option<GridPoint> {
    let fits = |point: &&GridPoint| {
        point.tokens >= step.tokens
            && match step.prefills {
                0 => point.prefills == 0 && point.decodes >= step.decodes,
                _ => {
                    point.prefills >= step.prefills
                        && point.requests() >= u64::from(step.prefills) + u64::from(step.decodes)
                }
            }
    };
    points.iter().filter(fits).min().copied()
}

fn time(steps: &[StepShape], rounds: u32, find: impl Fn(StepShape) -> Option<GridPoint>) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        for &step in steps {
            black_box(find(black_box(step)));
        }
    }
    start.elapsed().as_nanos() as f64 / f64::from(rounds) / steps.len() as f64
}

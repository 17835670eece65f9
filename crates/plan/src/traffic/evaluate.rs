//! What a plan makes of traffic: misses, padding, time.

use super::cost::CostCurve;
use super::histogram::StepHistogram;
use crate::matcher::{Match, Matcher, Matching};
use crate::plan::Plan;

/// Tokens of an eager step are a multiple of it (Megatron-LM, TOKEN_ROUNDER).
const EAGER_ROUNDER: u64 = 64;

/// A plan against counted steps. Fractions, not per cent; each is 0 where there is nothing to divide.
///
/// A step `(t, p, d)` that replays a point `(T, P, D)` executes T tokens. A step without a point is eager and executes t
/// rounded up to a multiple of 64; what launching its kernels one by one costs is not counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The number of steps.
    pub steps: u64,
    /// Eager steps over all steps.
    pub miss_rate: f64,
    /// The tokens executed over the tokens t, less 1; of all steps.
    pub token_padding: f64,
    /// The time of the tokens executed over the time of the tokens t, less 1; of all steps.
    pub time_overhead: f64,
    /// P over p, each summed up, less 1; of the replayed steps with prefills.
    pub prefill_slack: f64,
    /// P + D over p + d, each summed up, less 1; of all replayed steps.
    pub slot_padding: f64,
    /// The time of the tokens executed, in picoseconds.
    pub picoseconds: u128,
    /// How many steps replay each point, in the plan's order.
    pub hits: Vec<u64>,
}

/// Runs the steps against the plan. `matcher` is the plan's own, `Matcher::new(plan.points())`.
///
/// # Panics
/// With a matcher of more points than the plan has.
#[must_use]
pub fn evaluate(
    plan: &Plan,
    matcher: &Matcher,
    matching: Matching,
    steps: &StepHistogram,
    cost: &CostCurve,
) -> Evaluation {
    let mut hits = vec![0; plan.len()];
    let mut misses = 0;
    let (mut tokens, mut time) = (Ratio::default(), Ratio::default());
    let (mut prefills, mut slots) = (Ratio::default(), Ratio::default());
    for (step, count) in steps.iter() {
        let executed = match matcher.find(step, matching) {
            Match::Replay { index, point, .. } => {
                hits[index] += count;
                if step.prefills > 0 {
                    prefills.add(point.prefills.into(), step.prefills.into(), count);
                }
                slots.add(point.requests(), u64::from(step.prefills) + u64::from(step.decodes), count);
                u64::from(point.tokens)
            }
            Match::Eager { .. } => {
                misses += count;
                u64::from(step.tokens).next_multiple_of(EAGER_ROUNDER)
            }
        };
        tokens.add(executed, step.tokens.into(), count);
        time.add(cost.picoseconds(executed), cost.picoseconds(step.tokens.into()), count);
    }
    let misses = Ratio { captured: u128::from(misses), real: steps.steps().into() };
    Evaluation {
        steps: steps.steps(),
        miss_rate: misses.quotient().unwrap_or(0.0),
        token_padding: tokens.excess(),
        time_overhead: time.excess(),
        prefill_slack: prefills.excess(),
        slot_padding: slots.excess(),
        picoseconds: time.captured,
        hits,
    }
}

/// Two sums. A histogram counts at most 2^62 steps, and no term is above 2^62.
#[derive(Debug, Clone, Copy, Default)]
struct Ratio {
    captured: u128,
    real: u128,
}

impl Ratio {
    fn add(&mut self, captured: u64, real: u64, count: u64) {
        self.captured += u128::from(captured) * u128::from(count);
        self.real += u128::from(real) * u128::from(count);
    }

    fn quotient(self) -> Option<f64> {
        (self.real > 0).then(|| self.captured as f64 / self.real as f64)
    }

    /// The quotient less 1, from the difference, so that no padding is exactly 0.
    fn excess(self) -> f64 {
        if self.real == 0 { 0.0 } else { self.captured.abs_diff(self.real) as f64 / self.real as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::GridPoint;

    fn points(list: &[(u32, u32, u32)]) -> Vec<GridPoint> {
        list.iter().map(|&(tokens, prefills, decodes)| GridPoint { tokens, prefills, decodes }).collect()
    }

    #[test]
    fn each_number_is_what_it_says() {
        let plan = Plan::from_points(points(&[(512, 4, 60), (512, 1, 63), (64, 0, 64), (8, 0, 8)]));
        let mut steps = StepHistogram::default();
        for (step, count) in [("7:0:7", 4), ("300:1:40", 2), ("400:3:10", 1), ("600:1:10", 1)] {
            steps.add(step.parse().expect("a step"), count).expect("a step");
        }
        let cost = CostCurve::analytic(0.0, 1e-6).expect("a curve");
        let found = evaluate(&plan, &Matcher::new(plan.points()), Matching::NonStrict, &steps, &cost);
        assert_eq!((found.steps, &found.hits[..]), (8, &[1, 2, 0, 4][..]));
        let real = 28.0 + 600.0 + 400.0 + 600.0;
        let executed = 32.0 + 1024.0 + 512.0 + 640.0;
        assert!((found.miss_rate - 0.125).abs() < 1e-12);
        assert!((found.token_padding - (executed / real - 1.0)).abs() < 1e-12);
        assert!((found.time_overhead - found.token_padding).abs() < 1e-12);
        assert!((found.prefill_slack - (6.0 / 5.0 - 1.0)).abs() < 1e-12);
        assert!((found.slot_padding - ((32.0 + 128.0 + 64.0) / (28.0 + 82.0 + 13.0) - 1.0)).abs() < 1e-12);
        assert_eq!(found.picoseconds, (executed as u128) * 1_000_000);
    }

    #[test]
    fn nothing_is_zero() {
        let matcher = Matcher::new(&[]);
        let found =
            evaluate(&Plan::default(), &matcher, Matching::Strict, &StepHistogram::default(), &CostCurve::default());
        let fractions =
            [found.miss_rate, found.token_padding, found.time_overhead, found.prefill_slack, found.slot_padding];
        assert_eq!((fractions, found.steps), ([0.0; 5], 0));
    }

    #[test]
    fn sizes_at_the_integer_limits_are_summed() {
        let plan = Plan::from_points(points(&[(u32::MAX, u32::MAX, 0), (u32::MAX, 0, u32::MAX)]));
        let mut steps = StepHistogram::default();
        for (step, count) in [("4294967295:1:0", 1), ("4294967295:4294967295:0", 7), ("1:0:1", (1 << 62) - 8)] {
            steps.add(step.parse().expect("a step"), count).expect("a step");
        }
        let cost = CostCurve::analytic(3600.0, 1.0).expect("a curve");
        for (plan, misses) in [(plan, 0.0), (Plan::default(), 1.0)] {
            let found = evaluate(&plan, &Matcher::new(plan.points()), Matching::NonStrict, &steps, &cost);
            assert_eq!(found.miss_rate, misses);
            assert!(found.token_padding.is_finite() && found.time_overhead.is_finite());
        }
    }
}

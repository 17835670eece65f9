//! Known figures on the first half of the Azure conversation trace of 2023: policies on the second half of the
//! simulated steps, fits having seen the first.

use gridpoint_plan::traffic::{
    ArrivalRate, CostCurve, Evaluation, Simulation, SimulationOptions, StepHistogram, Trace, evaluate, fit, simulate,
};
use gridpoint_plan::{Limits, Matcher, Matching, Policy, TokenCeiling, plan};

const LIMITS: Limits = Limits {
    max_requests: 256,
    max_tokens: 8192,
    max_sequence_length: 131_072,
    tensor_parallel: 1,
    speculative_tokens: 0,
};

fn trace() -> Trace {
    Trace::parse(include_bytes!("data/azure2023_conv_h1.csv"), "azure2023_conv_h1.csv").expect("a trace")
}

fn simulated(limits: &Limits, load: f64) -> Simulation {
    let options = SimulationOptions {
        max_requests: limits.max_requests,
        max_tokens: limits.max_tokens,
        kv_tokens: 880_000,
        max_sequence_length: limits.max_sequence_length,
        arrivals: ArrivalRate::Load(load),
    };
    simulate(&trace(), &options, &CostCurve::default()).expect("a simulation")
}

/// All prefills, sized as said.
fn policy(sizing: &str) -> Policy {
    let sizing = sizing.parse().expect("a sizing");
    Policy { sizing, token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() }
}

fn evaluated(limits: &Limits, policy: &Policy, steps: &StepHistogram, cost: &CostCurve) -> (usize, Evaluation) {
    let plan = plan(limits, policy).expect("a plan");
    let found = evaluate(&plan, &Matcher::new(plan.points()), Matching::NonStrict, steps, cost);
    assert_eq!(found.hits.iter().sum::<u64>(), steps.steps() - (found.miss_rate * steps.steps() as f64).round() as u64);
    (plan.len(), found)
}

fn assert_near(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{what}: {found:.4}, expected {expected} within {tolerance}");
}

#[test]
fn exponential_costs_a_third_of_the_time_and_a_fit_of_36_sizes_hardly_any() {
    let (cost, simulation) = (CostCurve::default(), simulated(&LIMITS, 0.85));
    assert_eq!(simulation.requests(), 9739);
    let (first, second) = simulation.halves().expect("halves");
    assert_eq!(first.steps() + second.steps(), simulation.steps());

    let (graphs, exponential) = evaluated(&LIMITS, &policy("exponential"), &second, &cost);
    assert_eq!((graphs, exponential.miss_rate), (98, 0.0));
    assert_near("time overhead", exponential.time_overhead, 0.364, 0.02);
    assert_near("token padding", exponential.token_padding, 0.427, 0.03);
    assert!((0.0..=0.26).contains(&exponential.prefill_slack), "{}", exponential.prefill_slack);

    let (_, linear) = evaluated(&LIMITS, &policy("linear"), &second, &cost);
    assert_near("time overhead", linear.time_overhead, 0.003, 0.001);
    assert!(linear.prefill_slack > 7.0, "{}", linear.prefill_slack);
    let (_, geometric) = evaluated(&LIMITS, &policy("geometric:1.41"), &second, &cost);
    assert_near("time overhead", geometric.time_overhead, 0.146, 0.015);

    let sizes = fit(&first, 36, &LIMITS, &policy("exponential"), &cost).expect("a fit");
    assert_eq!(sizes.len(), 36);
    let (_, fitted) = evaluated(&LIMITS, &sizes.policy(&policy("exponential")), &second, &cost);
    assert!(fitted.time_overhead <= 0.075, "{}", fitted.time_overhead);
    assert_near("time overhead", fitted.time_overhead, 0.061, 0.005);
    assert_eq!(fitted.miss_rate, 0.0);
}

#[test]
fn steps_look_as_described() {
    // Load; mixed steps of all steps; of mixed steps, mean P and those of a full budget.
    for (load, mixed_steps, prefills, full) in
        [(0.15, 0.020, 1.04, 0.00), (0.5, 0.079, 1.27, 0.01), (0.85, 0.217, 1.74, 0.03), (1.3, 0.636, 1.80, 0.02)]
    {
        let steps = simulated(&LIMITS, load).histogram().expect("steps");
        let mixed: Vec<_> = steps.iter().filter(|(step, _)| step.prefills > 0).collect();
        let count: u64 = mixed.iter().map(|(_, count)| count).sum();
        assert_near("mixed steps", count as f64 / steps.steps() as f64, mixed_steps, mixed_steps * 0.2);
        let total: u64 = mixed.iter().map(|(step, count)| u64::from(step.prefills) * count).sum();
        assert_near("mean P", total as f64 / count as f64, prefills, 0.08);
        let at_budget: u64 = mixed.iter().filter(|(step, _)| step.tokens == 8192).map(|(_, count)| count).sum();
        assert_near("full steps", at_budget as f64 / count as f64, full, 0.01);
    }
}

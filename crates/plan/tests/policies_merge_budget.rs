//! Merging never changes what a step launches; budgets hold, keep what every batch needs, and say what they cost.

use std::time::Duration;

use gridpoint_plan::{
    Budget, BudgetError, DecodeAxis, GraphCost, GridPoint, KernelKey, Limits, Match, Matcher, Matching, Plan, Policy,
    PrefillAxis, Ratio, Sizing, StepShape, TokenCeiling, plan,
};
use proptest::prelude::*;

fn headline() -> Plan {
    plan(&Limits::default(), &Policy::default()).expect("a plan")
}

fn plan_of(policy: &Policy) -> Plan {
    plan(&Limits { max_requests: 40_000, max_tokens: 40_000, ..Limits::default() }, policy).expect("a plan")
}

/// A plan of any points that a batch can have.
fn points() -> impl Strategy<Value = Plan> {
    let point = (1..40_u32, 0..8_u32, 0..12_u32).prop_filter_map("a batch", |(tokens, prefills, decodes)| {
        (1..=tokens).contains(&(prefills + decodes)).then_some((tokens, prefills, decodes))
    });
    prop::collection::vec(point, 0..60).prop_map(|points| {
        let points: Vec<String> = points
            .iter()
            .map(|(tokens, prefills, decodes)| {
                format!(r#"{{"tokens":{tokens},"prefills":{prefills},"decodes":{decodes}}}"#)
            })
            .collect();
        serde_json::from_str(&format!(r#"{{"points":[{}]}}"#, points.join(","))).expect("a plan")
    })
}

/// A plan of the planner, on every kind of grid.
fn planned() -> impl Strategy<Value = Plan> {
    let ratio = || (1.3..4.0_f64).prop_map(|ratio| Ratio::new(ratio).expect("a ratio"));
    let sizing = prop_oneof![
        Just(Sizing::Exponential),
        Just(Sizing::Hybrid),
        (ratio(), ratio()).prop_map(|(decode, prefill)| Sizing::Geometric { decode, prefill }),
    ];
    let prefill_axis =
        prop_oneof![Just(PrefillAxis::Auto), Just(PrefillAxis::Off), ratio().prop_map(PrefillAxis::Geometric)];
    let decode_axis = prop_oneof![2 => Just(DecodeAxis::Rest), 1 => ratio().prop_map(DecodeAxis::Geometric)];
    (sizing, prefill_axis, decode_axis, 1..40_u32, 0..200_u32, 0..3_u32).prop_map(
        |(sizing, prefill_axis, decode_axis, max_requests, spare, speculative_tokens)| {
            let max_tokens = max_requests * (speculative_tokens + 1) + spare;
            let limits = Limits { max_requests, max_tokens, speculative_tokens, ..Limits::default() };
            let policy = Policy {
                sizing,
                prefill_axis,
                decode_axis,
                token_ceiling: TokenCeiling::AllPrefills,
                ..Policy::default()
            };
            plan(&limits, &policy).expect("a plan")
        },
    )
}

fn any_plan() -> impl Strategy<Value = Plan> {
    prop_oneof![points(), planned()]
}

/// Steps around the points, where answers change, and at random.
fn steps(plan: &Plan, random: &[(u32, u32, u32)]) -> Vec<StepShape> {
    let around = plan.points().iter().flat_map(|point| {
        let step = StepShape { tokens: point.tokens, prefills: point.prefills, decodes: point.decodes };
        [
            step,
            StepShape { tokens: step.tokens + 1, ..step },
            StepShape { prefills: step.prefills.saturating_sub(1), ..step },
            StepShape { decodes: step.decodes / 2, ..step },
        ]
    });
    let random = random.iter().map(|&(tokens, prefills, decodes)| StepShape { tokens, prefills, decodes });
    around.chain(random).collect()
}

fn graphs(count: u64) -> Budget {
    Budget { graphs: Some(count), ..Budget::default() }
}

fn matching() -> impl Strategy<Value = Matching> {
    prop::sample::select(vec![Matching::Strict, Matching::NonStrict])
}

fn random_steps() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
    prop::collection::vec((0..300_u32, 0..40_u32, 0..40_u32), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_merged_plan_launches_the_same_kernels(
        plan in any_plan(),
        matching in matching(),
        random in random_steps(),
        coarse in any::<bool>(),
    ) {
        // The default key, or one of kernels that derive their work from counts on the device.
        let key = |point: &GridPoint| if coarse { (point.tokens / 4, 0, false) } else {
            (point.tokens, point.requests(), point.prefills > 0)
        };
        let merged = plan.merge_identical(matching, key);
        let mut kept = plan.points().iter();
        prop_assert!(merged.points().iter().all(|point| kept.any(|other| other == point)), "another order");
        prop_assert_eq!(merged.distinct_by(key), plan.distinct_by(key));
        let (before, after) = (Matcher::new(plan.points()), Matcher::new(merged.points()));
        for step in steps(&plan, &random) {
            let (before, after) = (before.find(step, matching).point(), after.find(step, matching).point());
            prop_assert_eq!(before.map(|point| key(&point)), after.map(|point| key(&point)), "{}", step);
        }
    }

    #[test]
    fn a_budget_pads_as_much_as_it_says(
        plan in any_plan(),
        matching in matching(),
        random in random_steps(),
        count in 1..40_u64,
        weighted in any::<bool>(),
    ) {
        let weight = |point: &GridPoint| f64::from(point.tokens % 5);
        let weight: Option<&dyn Fn(&GridPoint) -> f64> = if weighted { Some(&weight) } else { None };
        let cost = |point: &GridPoint| GraphCost { bytes: u64::from(point.tokens), ..GraphCost::default() };
        let budgeted = match graphs(count).apply(&plan, matching, cost, weight) {
            Ok(budgeted) => budgeted,
            Err(BudgetError::TooSmall { points, .. }) => {
                // Exactly what cannot be dropped is a budget that holds.
                prop_assert!(points > count);
                prop_assert!(graphs(points).apply(&plan, matching, cost, weight).is_ok());
                return Ok(());
            }
            Err(error) => panic!("{error}"),
        };
        prop_assert_eq!(budgeted.plan.len() as u64, count.min(plan.len() as u64));
        prop_assert_eq!(budgeted.plan.len() + budgeted.dropped.len(), plan.len());
        prop_assert_eq!(budgeted.cost.bytes, budgeted.plan.points().iter().map(|point| u64::from(point.tokens)).sum::<u64>());
        let (before, after) = (Matcher::new(plan.points()), Matcher::new(budgeted.plan.points()));
        let worst = budgeted.worst_token_factor();
        for step in steps(&plan, &random) {
            let (Some(before), after) = (before.find(step, matching).point(), after.find(step, matching).point()) else {
                continue;
            };
            let Some(after) = after else { panic!("{step} lost its graph {before}") };
            prop_assert!(f64::from(after.tokens) <= f64::from(before.tokens) * worst * (1.0 + 1e-12), "{step}: {before} to {after}");
        }
        for dropped in &budgeted.dropped {
            let GridPoint { tokens, prefills, decodes } = dropped.point;
            let found = after.find(StepShape { tokens, prefills, decodes }, matching);
            prop_assert_eq!(found.point(), Some(dropped.replaced_by));
        }
    }

    #[test]
    fn budgets_of_bytes_and_seconds_hold_and_nothing_more_fits(plan in planned(), share in 0.05..1.0_f64) {
        let cost = |point: &GridPoint| GraphCost {
            bytes: 1000 + u64::from(point.tokens) * 10,
            capture_time: Duration::from_millis(5 + u64::from(point.prefills)),
        };
        let all = Budget::default().apply(&plan, Matching::NonStrict, cost, None).expect("no budget");
        prop_assert_eq!((&all.plan, all.dropped.len()), (&plan, 0));
        let budget = Budget {
            bytes: Some(((all.cost.bytes as f64 * share) as u64).max(1)),
            capture_time: Some(all.cost.capture_time.mul_f64(share)),
            ..Budget::default()
        };
        let Ok(budgeted) = budget.apply(&plan, Matching::NonStrict, cost, None) else { return Ok(()) };
        let holds = |cost: GraphCost| Some(cost.bytes) <= budget.bytes && Some(cost.capture_time) <= budget.capture_time;
        prop_assert!(holds(budgeted.cost));
        for dropped in &budgeted.dropped {
            let more = cost(&dropped.point);
            prop_assert!(!holds(GraphCost {
                bytes: budgeted.cost.bytes + more.bytes,
                capture_time: budgeted.cost.capture_time + more.capture_time,
            }), "{} still fits", dropped.point);
        }
    }
}

#[test]
fn points_with_the_same_tokens_go_first() {
    let plan = headline();
    let budgeted = |count| graphs(count).apply(&plan, Matching::NonStrict, |_| GraphCost::default(), None);
    // 17 different kernels: down to there nobody pays a token.
    let cheap = budgeted(17).expect("a plan");
    assert_eq!((cheap.plan.len(), cheap.dropped.len(), cheap.worst_token_factor()), (17, 43, 1.0));
    assert!(cheap.dropped.iter().all(|dropped| dropped.slot_factor() == 1.0));
    assert_eq!(cheap.plan, plan.merge_identical(Matching::NonStrict, KernelKey::of));
    let ten = budgeted(10).expect("a plan");
    assert!(ten.worst_token_factor() > 1.9 && ten.worst_token_factor() < 5.0, "{}", ten.worst_token_factor());
    let two = budgeted(2).expect("a plan");
    assert_eq!(
        two.plan.points().iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["[396]: 396 P + 0 D", "[396]: 0 P + 396 D"]
    );
    assert_eq!(two.worst_token_factor(), 396.0);
    assert_eq!(
        budgeted(1).expect_err("two are needed").to_string(),
        "the budget of graphs is `1`; the 2 graphs without which some batch finds none take 2"
    );
}

#[test]
fn traffic_keeps_what_it_uses() {
    let limits = Limits { max_requests: 64, max_tokens: 64, ..Limits::default() };
    let plan = plan(&limits, &Policy { decode_only: true, ..Policy::default() }).expect("a plan");
    let kept = |weight: &dyn Fn(&GridPoint) -> f64| {
        let budgeted = graphs(3).apply(&plan, Matching::NonStrict, |_| GraphCost::default(), Some(weight));
        budgeted.expect("a plan").plan.points().iter().map(|point| point.tokens).collect::<Vec<_>>()
    };
    let small = kept(&|point| if point.tokens <= 2 { 1.0 } else { 0.0 });
    assert_eq!(small.iter().copied().filter(|tokens| *tokens <= 2).count(), 2, "{small:?}");
    let large = kept(&|point| if point.tokens >= 16 { 1.0 } else { 0.0 });
    assert_eq!(large.iter().copied().filter(|tokens| *tokens >= 16).count(), 3, "{large:?}");
}

#[test]
fn contradictory_budgets_are_sentences() {
    let plan = headline();
    let apply = |budget: Budget, weight: Option<&dyn Fn(&GridPoint) -> f64>| {
        let cost = |_: &GridPoint| GraphCost { bytes: u64::MAX, capture_time: Duration::from_millis(1500) };
        budget.apply(&plan, Matching::NonStrict, cost, weight).expect_err("no plan").to_string()
    };
    let none = Budget::default();
    assert_eq!(apply(graphs(0), None), "the budget of graphs is `0`; it must be above 0");
    assert_eq!(apply(Budget { bytes: Some(0), ..none }, None), "the budget of bytes is `0`; it must be above 0");
    let zero = Budget { capture_time: Some(Duration::ZERO), ..none };
    assert_eq!(apply(zero, None), "the budget of seconds is `0`; it must be above 0");
    assert_eq!(
        apply(Budget { bytes: Some(u64::MAX), ..none }, None),
        "the budget of bytes is `18446744073709551615`; the 2 graphs without which some batch finds none take \
         36893488147419103230"
    );
    assert_eq!(
        apply(none.seconds(2.5).expect("a budget"), None),
        "the budget of seconds is `2.5`; the 2 graphs without which some batch finds none take 3"
    );
    for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300, 1e-300] {
        let error = none.seconds(seconds).expect_err("no budget").to_string();
        assert!(error.starts_with(&format!("the budget of seconds is `{seconds}`; it must be")), "{error}");
    }
    for weight in [f64::NAN, -1.0, f64::INFINITY] {
        let error = apply(graphs(20), Some(&|_| weight));
        assert!(error.starts_with(&format!("the weight of points[0] is `{weight}`; it must be")), "{error}");
    }
    let every = Policy { sizing: Sizing::list((1..=40_000).collect(), vec![]), ..Policy::default() };
    let huge = plan_of(&every);
    assert_eq!(
        graphs(9).apply(&huge, Matching::Strict, |_| GraphCost::default(), None),
        Err(BudgetError::TooManyPoints { points: 40_000 })
    );
    let empty = graphs(1).apply(&Plan::default(), Matching::Strict, |_| GraphCost::default(), None);
    assert!(empty.is_ok_and(|budgeted| budgeted.plan.is_empty()));
}

#[test]
fn costs_of_nodes_saturate() {
    let cost = |bytes, capture_time| GraphCost { bytes, capture_time };
    let found = GraphCost::of_nodes(cost(100, Duration::from_millis(2)), cost(7, Duration::from_micros(3)), 1000);
    assert_eq!(found, cost(7100, Duration::from_millis(5)));
    let most = cost(u64::MAX, Duration::MAX);
    assert_eq!(GraphCost::of_nodes(most, most, u32::MAX), most);
}

#[test]
fn large_plans_are_cut_in_moments() {
    let policy = Policy { sizing: Sizing::Linear, token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() };
    let plan = plan(&Limits::default(), &policy).expect("a plan");
    assert_eq!(plan.len(), 2121);
    let budgeted = graphs(60).apply(&plan, Matching::NonStrict, |_| GraphCost::default(), None).expect("a plan");
    assert_eq!(budgeted.plan.len(), 60);
    let find = |points: &[GridPoint], step: &str| {
        let step = step.parse().expect("a step");
        matches!(Matcher::new(points).find(step, Matching::NonStrict), Match::Replay { .. })
    };
    assert!(find(budgeted.plan.points(), "16384:3:100") && find(budgeted.plan.points(), "396:0:396"));
}

//! Fits against every other choice of sizes on small cases, and against the exponential plan on any traffic.

use gridpoint_plan::traffic::{
    CostCurve, Evaluation, FitError, StepHistogram, TokenSizes, evaluate, exponential_sizes, fit,
};
use gridpoint_plan::{Limits, Matcher, Matching, Policy, StepShape, TokenCeiling, plan};
use proptest::prelude::*;

fn all_prefills() -> Policy {
    Policy { token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() }
}

fn evaluated(
    limits: &Limits,
    policy: &Policy,
    matching: Matching,
    steps: &StepHistogram,
    cost: &CostCurve,
) -> Evaluation {
    let plan = plan(limits, policy).expect("a plan");
    evaluate(&plan, &Matcher::new(plan.points()), matching, steps, cost)
}

/// Time, then tokens, of the steps under a plan of these sizes.
fn total(limits: &Limits, sizes: &TokenSizes, base: &Policy, steps: &StepHistogram, cost: &CostCurve) -> (u128, u128) {
    let plan = plan(limits, &sizes.policy(base)).expect("a plan");
    let found = evaluate(&plan, &Matcher::new(plan.points()), Matching::NonStrict, steps, cost);
    let tokens =
        plan.points().iter().zip(&found.hits).map(|(point, &hits)| u128::from(point.tokens) * u128::from(hits));
    (found.picoseconds, tokens.sum())
}

/// Every list with the backbone and `extra` sizes more.
fn every_choice(backbone: &TokenSizes, limits: &Limits, extra: usize) -> Vec<TokenSizes> {
    let aligned = |size: &u32| size.is_multiple_of(limits.tensor_parallel);
    let most_decodes = limits.decode_tokens() as u32;
    let decode = (1..=most_decodes).filter(aligned).filter(|&size| u64::from(size) % limits.tokens_per_decode() == 0);
    let prefill = (2..=backbone.prefill.first().copied().unwrap_or(0)).filter(aligned);
    let decode = decode.filter(|size| !backbone.decode.contains(size)).map(|size| (false, size));
    let prefill = prefill.filter(|size| !backbone.prefill.contains(size)).map(|size| (true, size));
    let mut choices = vec![(backbone.clone(), 0)];
    for (with_prefills, size) in decode.chain(prefill) {
        for (sizes, more) in choices.clone().into_iter().filter(|(_, more)| *more < extra) {
            let mut sizes = sizes;
            if with_prefills { &mut sizes.prefill } else { &mut sizes.decode }.push(size);
            choices.push((sizes, more + 1));
        }
    }
    choices.into_iter().map(|(sizes, _)| sizes).collect()
}

fn cost() -> impl Strategy<Value = CostCurve> {
    let analytic = (0..8_u32, 1..4_u32).prop_map(|(floor, per_token)| {
        CostCurve::analytic(f64::from(floor) * 1e-3, f64::from(per_token) * 1e-3).expect("a curve")
    });
    let table = prop::collection::vec((1..6_u32, 0..4_u32), 2..6).prop_map(|rows| {
        let (mut tokens, mut time, mut text) = (0, 1, String::from("tokens,seconds\n"));
        for (gap, rise) in rows {
            (tokens, time) = (tokens + gap, time + rise);
            text += &format!("{tokens},0.00{time:02}\n");
        }
        CostCurve::parse(text.as_bytes(), "t").expect("a curve")
    });
    (prop_oneof![analytic, table], prop_oneof![4 => Just(1), 1 => 2..9_u32])
        .prop_map(|(curve, tile)| curve.with_tile(tile).expect("a tile"))
}

/// Steps that the limits allow but for max_tokens, in place of which there are at most so many or the least that the
/// requests need. Decodes of a step without prefills fill its tokens.
fn steps(limits: Limits, most_tokens: u32, rows: usize) -> impl Strategy<Value = StepHistogram> {
    let per_decode = limits.tokens_per_decode() as u32;
    let decode = (1..=limits.max_requests).prop_map(move |decodes| StepShape {
        tokens: decodes * per_decode,
        prefills: 0,
        decodes,
    });
    let mixed = (1..=limits.max_requests, any::<u32>(), any::<u32>()).prop_map(move |(requests, split, spare)| {
        let prefills = 1 + split % requests;
        let decodes = requests - prefills;
        let least = prefills + decodes * per_decode;
        let most = prefills.saturating_mul(limits.max_sequence_length).saturating_add(decodes * per_decode);
        let most = most.min(most_tokens.max(least));
        StepShape { tokens: least + spare % (most - least + 1), prefills, decodes }
    });
    prop::collection::vec((prop_oneof![1 => decode, 2 => mixed], 1..20_u64), 1..rows).prop_map(|rows| {
        let mut histogram = StepHistogram::default();
        for (step, count) in rows {
            histogram.add(step, count).expect("a step");
        }
        histogram
    })
}

fn small() -> impl Strategy<Value = (Limits, StepHistogram)> {
    (2..6_u32, 0..9_u32, 1..3_u32, 0..3_u32).prop_flat_map(
        |(max_requests, spare, tensor_parallel, speculative_tokens)| {
            let max_tokens = (max_requests * (speculative_tokens + 1) + spare).next_multiple_of(tensor_parallel);
            let limits =
                Limits { max_requests, max_tokens, max_sequence_length: 1000, tensor_parallel, speculative_tokens };
            (Just(limits), steps(limits, max_tokens, 12))
        },
    )
}

fn large() -> impl Strategy<Value = (Limits, Policy, StepHistogram, StepHistogram)> {
    let limits = (1..300_u32, 0..3000_u32, prop_oneof![1..40_u32, Just(512), Just(4096)], 1..5_u32, 0..4_u32);
    let ceiling =
        prop_oneof![Just(TokenCeiling::Decodes), Just(TokenCeiling::AllPrefills), Just(TokenCeiling::Tokens(1000))];
    let policy = (ceiling, any::<bool>(), prop_oneof![9 => Just(false), 1 => Just(true)]);
    let axes = (
        prop::sample::select(vec!["auto", "auto", "off", "geometric:4"]),
        prop::sample::select(vec!["rest", "rest", "geometric:2"]),
    );
    (limits, policy, axes).prop_flat_map(
        |(
            (max_requests, spare, max_sequence_length, tensor_parallel, speculative_tokens),
            (token_ceiling, batch_invariant, decode_only),
            (prefill_axis, decode_axis),
        )| {
            let max_tokens = (max_requests * (speculative_tokens + 1) + spare).next_multiple_of(tensor_parallel);
            // A sequence holds at least what one decode may add to it.
            let max_sequence_length = max_sequence_length.max(speculative_tokens + 1);
            let limits = Limits { max_requests, max_tokens, max_sequence_length, tensor_parallel, speculative_tokens };
            let (prefill_axis, decode_axis) =
                (prefill_axis.parse().expect("an axis"), decode_axis.parse().expect("an axis"));
            let policy =
                Policy { token_ceiling, batch_invariant, decode_only, prefill_axis, decode_axis, ..Policy::default() };
            let any_steps = || steps(limits, max_tokens.saturating_mul(2), 60);
            (Just(limits), Just(policy), any_steps(), any_steps())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn no_other_choice_costs_less((limits, steps) in small(), cost in cost(), extra in 0..4_usize) {
        let base = all_prefills();
        let backbone = exponential_sizes(&limits, &base).expect("sizes");
        let sizes = fit(&steps, backbone.len() + extra, &limits, &base, &cost).expect("a fit");
        prop_assert!(sizes.len() <= backbone.len() + extra);
        prop_assert!(backbone.decode.iter().all(|size| sizes.decode.contains(size)), "{sizes:?} {backbone:?}");
        prop_assert!(backbone.prefill.iter().all(|size| sizes.prefill.contains(size)), "{sizes:?} {backbone:?}");
        for list in [&sizes.decode, &sizes.prefill] {
            prop_assert!(list.is_sorted_by(|a, b| a > b), "{list:?}");
        }
        let found = total(&limits, &sizes, &base, &steps, &cost);
        let best = every_choice(&backbone, &limits, extra).into_iter().map(|sizes| {
            (total(&limits, &sizes, &base, &steps, &cost), sizes)
        });
        let (best, choice) = best.min_by_key(|(total, _)| *total).expect("a choice");
        prop_assert_eq!(found.0, best.0, "{:?} instead of {:?}", &sizes, &choice);
        if cost.tile() == 1 {
            prop_assert_eq!(found.1, best.1, "{:?} instead of {:?}", &sizes, &choice);
        }
    }

    #[test]
    fn no_traffic_fares_worse_than_under_exponential(
        (limits, policy, seen, unseen) in large(), cost in cost(), extra in 0..40_usize,
    ) {
        let Some(backbone) = exponential_sizes(&limits, &policy).ok().filter(|sizes| !sizes.is_empty()) else {
            return Ok(());
        };
        let sizes = fit(&seen, backbone.len() + extra, &limits, &policy, &cost).expect("a fit");
        let fitted = sizes.policy(&policy);
        // The exponential plan's points are all there.
        let (exponential, points) = (plan(&limits, &policy).expect("a plan"), plan(&limits, &fitted).expect("a plan"));
        for point in exponential.points() {
            prop_assert!(points.points().contains(point), "{point} is not among {sizes:?}");
        }
        for steps in [&seen, &unseen] {
            for matching in [Matching::NonStrict, Matching::Strict] {
                let before = evaluated(&limits, &policy, matching, steps, &cost);
                let after = evaluated(&limits, &fitted, matching, steps, &cost);
                prop_assert!(after.miss_rate <= before.miss_rate);
                // Strictly, a step of many tokens in few prefills may find a size here and none there.
                if matching == Matching::NonStrict || limits.max_sequence_length >= limits.max_tokens {
                    prop_assert_eq!(after.miss_rate, before.miss_rate);
                    prop_assert!(after.picoseconds <= before.picoseconds, "{matching:?} {sizes:?} {before:?} {after:?}");
                }
            }
        }
    }

    #[test]
    fn more_sizes_never_cost_more((limits, policy, seen, _) in large(), cost in cost()) {
        let Some(backbone) = exponential_sizes(&limits, &policy).ok().filter(|sizes| !sizes.is_empty()) else {
            return Ok(());
        };
        let mut previous = evaluated(&limits, &policy, Matching::NonStrict, &seen, &cost).picoseconds;
        for extra in [0, 1, 2, 3, 5, 8, 13, 1000] {
            let sizes = fit(&seen, backbone.len() + extra, &limits, &policy, &cost).expect("a fit");
            let found = evaluated(&limits, &sizes.policy(&policy), Matching::NonStrict, &seen, &cost).picoseconds;
            prop_assert!(found <= previous, "{extra} more sizes: {found} after {previous}");
            previous = found;
        }
    }
}

#[test]
fn fewer_sizes_than_the_backbone_are_refused() {
    let limits = Limits { max_requests: 256, max_tokens: 8192, max_sequence_length: 131_072, ..Limits::default() };
    let error =
        fit(&StepHistogram::default(), 21, &limits, &all_prefills(), &CostCurve::default()).expect_err("21 < 22");
    assert_eq!(error, FitError::TooFewSizes { sizes: 21, backbone: 22 });
    assert_eq!(
        error.to_string(),
        "the number of sizes to fit is `21`; it must be at least 22, the number of exponential sizes, all of which a fit keeps"
    );
    let nothing = fit(&StepHistogram::default(), 36, &limits, &all_prefills(), &CostCurve::default());
    assert_eq!(nothing, exponential_sizes(&limits, &all_prefills()).map_err(FitError::Plan));
}

#[test]
fn every_size_of_a_large_step_is_a_candidate() {
    let limits = Limits { max_requests: 256, max_tokens: 8192, max_sequence_length: 131_072, ..Limits::default() };
    let mut steps = StepHistogram::default();
    for tokens in 2..=8192 {
        steps.add(StepShape { tokens, prefills: 1, decodes: 0 }, u64::from(tokens) % 97 + 1).expect("a step");
    }
    let base = all_prefills();
    let backbone = exponential_sizes(&limits, &base).expect("sizes");
    let sizes = fit(&steps, 64, &limits, &base, &CostCurve::default()).expect("a fit");
    assert_eq!(sizes.len(), 64);
    // Nothing of the floor's time is worth a size.
    assert!(sizes.prefill.iter().filter(|&&size| size < 166).all(|size| backbone.prefill.contains(size)));
    let all = fit(&steps, usize::MAX, &limits, &base, &CostCurve::default()).expect("a fit");
    assert!(all.prefill.iter().copied().eq((2..=8192).rev()));

    let limits = Limits { max_tokens: 65536, ..limits };
    for tokens in 8193..=65536 {
        steps.add(StepShape { tokens, prefills: 1, decodes: 0 }, 1).expect("a step");
    }
    let error = fit(&steps, 8000, &limits, &base, &CostCurve::default());
    assert!(matches!(error, Err(FitError::TooMuchWork { .. })), "{error:?}");
}

#[test]
fn sizes_at_the_integer_limits_neither_overflow_nor_loop() {
    let limits = Limits { max_requests: 8, max_tokens: u32::MAX, max_sequence_length: u32::MAX, ..Limits::default() };
    let mut steps = StepHistogram::default();
    for (tokens, count) in [(1, 1), (u32::MAX - 1, 1 << 60), (u32::MAX, 1 << 60), (1 << 31, 5), (3_000_000_000, 9)] {
        steps.add(StepShape { tokens, prefills: 1, decodes: 0 }, count).expect("a step");
    }
    for batch_invariant in [false, true] {
        for (tensor_parallel, speculative_tokens) in [(1, 0), (7, 3), (u32::MAX, 0), (1 << 31, 1 << 28)] {
            let limits = Limits { tensor_parallel, speculative_tokens, ..limits };
            let policy = Policy { batch_invariant, ..all_prefills() };
            for tile in [1, 128, u32::MAX] {
                let cost = CostCurve::analytic(3600.0, 1.0).and_then(|curve| curve.with_tile(tile)).expect("a curve");
                let Ok(backbone) = exponential_sizes(&limits, &policy) else { continue };
                for sizes in [backbone.len(), backbone.len() + 3, usize::MAX] {
                    let sizes = fit(&steps, sizes, &limits, &policy, &cost).expect("a fit");
                    assert!(sizes.len() >= backbone.len());
                }
            }
        }
    }
}

//! The matcher against a plain scan, over points that no plan would have and over random plans.

use gridpoint_plan::{
    GraphCount, GridPoint, Limits, Match, Matcher, Matching, MissReason, Policy, Sizing, StepShape, TokenCeiling, plan,
};
use proptest::prelude::*;

/// The rules, said once more in the plainest way.
fn fits(point: &GridPoint, step: StepShape, matching: Matching) -> bool {
    let (tokens, prefills, decodes) = (u64::from(step.tokens), u64::from(step.prefills), u64::from(step.decodes));
    u64::from(point.tokens) >= tokens
        && match (prefills, matching) {
            (0, _) => point.prefills == 0 && u64::from(point.decodes) >= decodes,
            (_, Matching::Strict) => u64::from(point.prefills) >= prefills && u64::from(point.decodes) >= decodes,
            (_, Matching::NonStrict) => u64::from(point.prefills) >= prefills && point.requests() >= prefills + decodes,
        }
}

fn scan(points: &[GridPoint], step: StepShape, matching: Matching) -> Option<(usize, GridPoint)> {
    let fitting = points.iter().copied().enumerate().filter(|(_, point)| fits(point, step, matching));
    fitting.min_by_key(|&(index, point)| (point, index))
}

/// Whether the reason, read as a statement about the points, is true.
fn is_true(reason: MissReason, points: &[GridPoint], step: StepShape) -> bool {
    let considered = |point: &&GridPoint| match step.prefills {
        0 => point.prefills == 0,
        prefills => point.prefills >= prefills,
    };
    let mut points_considered = points.iter().filter(considered);
    match reason {
        MissReason::NoPoints => points.is_empty(),
        MissReason::NoDecodeOnlyPoints | MissReason::Prefills { .. } => points_considered.next().is_none(),
        MissReason::Tokens { ceiling, tokens, .. } => {
            u64::from(ceiling) < tokens && points_considered.map(|point| point.tokens).max() == Some(ceiling)
        }
        MissReason::Decodes { decodes, .. } => points_considered.all(|point| u64::from(point.decodes) < decodes),
        MissReason::Requests { requests, .. } => points_considered.all(|point| point.requests() < requests),
        MissReason::Together { .. } => points_considered.next().is_some(),
        _ => false,
    }
}

fn check(points: &[GridPoint], matcher: &Matcher, step: StepShape) -> Result<(), TestCaseError> {
    for matching in [Matching::Strict, Matching::NonStrict] {
        match (matcher.find(step, matching), scan(points, step, matching)) {
            (Match::Replay { index, point, slack }, expected) => {
                prop_assert_eq!(Some((index, point)), expected, "{} {:?}", step, matching);
                prop_assert_eq!(slack.tokens, point.tokens - step.tokens);
                prop_assert_eq!(slack.prefills, point.prefills - step.prefills);
                prop_assert_eq!(slack.decodes, i64::from(point.decodes) - i64::from(step.decodes));
                prop_assert!(slack.requests() >= 0);
            }
            (Match::Eager { reason }, expected) => {
                prop_assert_eq!(expected, None, "{} {:?}: {}", step, matching, reason);
                prop_assert!(is_true(reason, points, step), "{} {:?}: {}", step, matching, reason);
            }
        }
    }
    Ok(())
}

/// Counts from a narrow range collide and dominate each other; wide ones reach the integer limits.
fn count() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..12_u32, 4 => 0..600_u32, 1 => prop_oneof![Just(u32::MAX), Just(u32::MAX - 1), any::<u32>()]]
}

fn point() -> impl Strategy<Value = GridPoint> {
    (count(), prop_oneof![Just(0), count()], count()).prop_map(|(tokens, prefills, decodes)| GridPoint {
        tokens,
        prefills,
        decodes,
    })
}

fn step() -> impl Strategy<Value = StepShape> {
    (count(), prop_oneof![Just(0), count()], count()).prop_map(|(tokens, prefills, decodes)| StepShape {
        tokens,
        prefills,
        decodes,
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    (1..600_u32, 1..5000_u32, 1..5000_u32, prop::sample::select(vec![1, 2, 3, 4, 8]), 0..5_u32).prop_map(
        |(max_requests, spare, max_sequence_length, tensor_parallel, speculative_tokens)| Limits {
            max_requests,
            max_tokens: max_requests * (speculative_tokens + 1) + spare,
            max_sequence_length,
            tensor_parallel,
            speculative_tokens,
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let words = ["exponential", "linear", "hybrid", "geometric:1.3/2.5", "list:1,8,64/24,240"];
    let sizing = prop::sample::select(words.map(|word| word.parse::<Sizing>().expect("a sizing")).to_vec());
    let axes = prop::sample::select(vec![("auto", "rest"), ("off", "rest"), ("geometric:3", "geometric:2")]);
    let count = prop_oneof![Just(GraphCount::Auto), (-3..200_i64).prop_map(GraphCount::Count)];
    let ceiling = prop::sample::select(vec![TokenCeiling::Decodes, TokenCeiling::AllPrefills, TokenCeiling::Tokens(0)]);
    (sizing, count, ceiling, prop::option::of(-1..40_i64), any::<bool>(), any::<bool>(), axes).prop_map(
        |(
            sizing,
            graph_count,
            token_ceiling,
            mixed_prefill_count,
            decode_only,
            batch_invariant,
            (prefill_axis, decode_axis),
        )| Policy {
            sizing,
            graph_count,
            token_ceiling,
            mixed_prefill_count,
            decode_only,
            batch_invariant,
            prefill_axis: prefill_axis.parse().expect("an axis"),
            decode_axis: decode_axis.parse().expect("an axis"),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_points(points in prop::collection::vec(point(), 0..80), steps in prop::collection::vec(step(), 1..40)) {
        let matcher = Matcher::new(&points);
        for step in steps {
            check(&points, &matcher, step)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_plan(limits in limits(), policy in policy(), steps in prop::collection::vec(step(), 1..20)) {
        let Ok(plan) = plan(&limits, &policy) else { return Ok(()) };
        let matcher = Matcher::new(plan.points());
        for step in steps {
            check(plan.points(), &matcher, step)?;
        }
        // Each point finds itself, and what is just above it finds what the scan finds.
        for (index, point) in plan.points().iter().enumerate().step_by(7) {
            let GridPoint { tokens, prefills, decodes } = *point;
            let exact = StepShape { tokens, prefills, decodes };
            let found = matcher.find(exact, Matching::Strict);
            prop_assert!(matches!(found, Match::Replay { index: at, .. } if at == index), "{point}: {found:?}");
            check(plan.points(), &matcher, StepShape { tokens: tokens + 1, ..exact })?;
            check(plan.points(), &matcher, StepShape { prefills: prefills + 1, ..exact })?;
            check(plan.points(), &matcher, StepShape { decodes: decodes + 1, ..exact })?;
        }
    }

    /// Every batch of decodes finds a point, and so does every mixed one up to the ceiling, when nothing forbids it.
    #[test]
    fn nothing_below_the_ceiling_is_missed(limits in limits(), sizing in prop::sample::select(vec![Sizing::Exponential, Sizing::Linear])) {
        let limits = Limits { tensor_parallel: 1, speculative_tokens: 0, ..limits };
        let plan = plan(&limits, &Policy { sizing, ..Policy::default() }).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let matcher = Matcher::new(plan.points());
        for decodes in 1..=limits.max_requests {
            let found = matcher.find(StepShape { tokens: decodes, prefills: 0, decodes }, Matching::NonStrict);
            prop_assert!(found.point().is_some(), "{decodes} decodes of {}: {found:?}", limits.max_requests);
        }
    }
}

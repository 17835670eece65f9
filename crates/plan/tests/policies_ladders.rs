//! Ladders, axes and lists: words, counts, bounds, coverage, hostile numbers.

use gridpoint_plan::{
    DecodeAxis, GraphCount, GridPoint, LadderLaw, Limits, Matcher, Matching, Plan, PlanError, Policy, PrefillAxis,
    Ratio, Sizing, StepShape, TokenCeiling, ladder, plan,
};
use proptest::prelude::*;

fn ratio(ratio: f64) -> Ratio {
    Ratio::new(ratio).expect("a ratio")
}

fn geometric(decode: f64, prefill: f64) -> Sizing {
    Sizing::Geometric { decode: ratio(decode), prefill: ratio(prefill) }
}

fn planned(limits: &Limits, policy: &Policy) -> Plan {
    plan(limits, policy).unwrap_or_else(|error| panic!("{limits:?} {policy:?}: {error}"))
}

fn ascending_tokens(plan: &Plan, of: impl Fn(&&GridPoint) -> bool) -> Vec<u32> {
    let mut tokens: Vec<u32> = plan.points().iter().filter(of).map(|point| point.tokens).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

#[test]
fn hybrid_has_the_references_counts() {
    // Megatron-LM PR #6667 at 396 requests.
    for (ceiling, count) in
        [(TokenCeiling::Decodes, 95), (TokenCeiling::Tokens(512), 98), (TokenCeiling::AllPrefills, 145)]
    {
        let policy = |sizing| Policy { sizing, token_ceiling: ceiling, ..Policy::default() };
        let hybrid = planned(&Limits::default(), &policy(Sizing::Hybrid));
        assert_eq!(hybrid.len(), count, "{ceiling}");
        let with_prefills = |sizing| {
            let plan = planned(&Limits::default(), &policy(sizing));
            plan.points().iter().filter(|point| point.prefills > 0).copied().collect::<Vec<_>>()
        };
        assert_eq!(with_prefills(Sizing::Hybrid), with_prefills(Sizing::Exponential));
        let linear = planned(&Limits::default(), &Policy { decode_only: true, ..policy(Sizing::Linear) });
        assert_eq!(hybrid.counts().decode_only, linear.len());
    }
}

#[test]
fn ratio_two_halves() {
    let sizes = |law, largest| ladder(law, GraphCount::Auto, largest, 1, false).expect("a ladder");
    assert_eq!(sizes(LadderLaw::Geometric(Ratio::TWO), 512), sizes(LadderLaw::Exponential, 512));
    assert_eq!(sizes(LadderLaw::Geometric(Ratio::TWO), 396), [396, 198, 99, 50, 25, 13, 7, 4, 2, 1]);
    // Rounding each term of the series gives 26 sizes for 1.25 and 18 for the square root of 2 up to 512; never padding by more than the ratio
    // takes a few more among the small sizes.
    assert_eq!(sizes(LadderLaw::Geometric(ratio(1.25)), 512).len(), 28);
    assert_eq!(sizes(LadderLaw::Geometric(ratio(std::f64::consts::SQRT_2)), 512).len(), 20);
}

#[test]
fn geometric_ladders_are_cut_from_the_small_end() {
    let cut = |count| ladder(LadderLaw::Geometric(Ratio::TWO), GraphCount::Count(count), 80, 1, false);
    assert_eq!(cut(1), Ok(vec![80]));
    assert_eq!(cut(4), Ok(vec![80, 40, 20, 1]));
    assert_eq!(cut(100), Ok(vec![80, 40, 20, 10, 5, 3, 2, 1]));
    let listed = |count| {
        let policy = Policy {
            sizing: Sizing::list(vec![1, 2, 4, 8], vec![]),
            graph_count: GraphCount::Count(count),
            ..Policy::default()
        };
        ascending_tokens(&planned(&Limits::default(), &policy), |_| true)
    };
    assert_eq!((listed(1), listed(2), listed(9)), (vec![8], vec![1, 8], vec![1, 2, 4, 8]));
}

#[test]
fn axes_have_the_counts_of_the_survey() {
    // Points with prefills alone, counted by an independent program.
    let count = |max_tokens, max_requests, prefills: f64, decode_axis| {
        let limits = Limits { max_requests, max_tokens, max_sequence_length: 1 << 20, ..Limits::default() };
        let policy = Policy {
            sizing: geometric(2.0, 2.0),
            prefill_axis: PrefillAxis::Geometric(ratio(prefills)),
            decode_axis,
            token_ceiling: TokenCeiling::AllPrefills,
            ..Policy::default()
        };
        let plan = planned(&limits, &policy);
        plan.len() - plan.counts().decode_only
    };
    let (two, four) = (DecodeAxis::Geometric(Ratio::TWO), DecodeAxis::Geometric(ratio(4.0)));
    let counts = [(512, 256), (2048, 256), (16384, 512)].map(|(tokens, requests)| {
        [(2.0, DecodeAxis::Rest), (2.0, two), (2.0, four), (4.0, four)]
            .map(|(prefills, decodes)| count(tokens, requests, prefills, decodes))
    });
    // The survey has 126, 176, 348 for ratio 4 on both axes, and 590 for D alone at 512 requests, no power of 4.
    assert_eq!(counts, [[54, 357, 236, 130], [72, 517, 334, 180], [105, 871, 565, 315]]);
}

#[test]
fn one_p_gives_one_point_a_token_count() {
    let limits = Limits { max_requests: 64, max_tokens: 1024, speculative_tokens: 1, ..Limits::default() };
    for sizing in [Sizing::Exponential, Sizing::Hybrid, Sizing::Linear, geometric(1.5, 1.5)] {
        let policy = Policy {
            sizing,
            prefill_axis: PrefillAxis::Off,
            token_ceiling: TokenCeiling::AllPrefills,
            ..Policy::default()
        };
        let plan = planned(&limits, &policy);
        let with_prefills: Vec<_> = plan.points().iter().filter(|point| point.prefills > 0).collect();
        assert_eq!(with_prefills.len(), ascending_tokens(&plan, |point| point.prefills > 0).len());
        assert!(with_prefills.iter().all(|point| point.prefills == point.tokens.min(64) && point.decodes == 0));
    }
}

#[test]
fn lists_are_captured_as_they_stand() {
    let limits = Limits { max_requests: 8, max_tokens: 64, speculative_tokens: 1, ..Limits::default() };
    let list = |decode: &[u32], prefill: &[u32]| {
        let sizing = Sizing::List { decode: decode.to_vec(), prefill: prefill.to_vec() };
        plan(&limits, &Policy { sizing, prefill_axis: PrefillAxis::List(vec![2]), ..Policy::default() })
    };
    let found = list(&[4, 2, 64, 4, 1], &[32, 1]).expect("a plan");
    // A decode takes two tokens, so 1 is none, and 64 stands for the 16 of a full batch.
    assert_eq!(ascending_tokens(&found, |point| point.prefills == 0), [2, 4, 16]);
    assert_eq!(ascending_tokens(&found, |point| point.prefills > 0), [1, 32]);
    assert!(found.points().contains(&GridPoint { tokens: 32, prefills: 2, decodes: 6 }));
    assert!(found.points().contains(&GridPoint { tokens: 1, prefills: 1, decodes: 0 }));
    assert_eq!(list(&[], &[32]).expect("a plan").counts().decode_only, 0);

    let error = |decode: &[u32], prefill: &[u32]| list(decode, prefill).expect_err("no plan").to_string();
    assert_eq!(error(&[], &[]), "the list of token counts is empty; it must have at least one");
    assert_eq!(
        error(&[2, 0], &[]),
        "the list of decode token counts has `0`; each must be from 1 to max_tokens, which is 64"
    );
    assert_eq!(
        error(&[2], &[65]),
        "the list of prefill token counts has `65`; each must be from 1 to max_tokens, which is 64"
    );
    let aligned = Limits { tensor_parallel: 4, ..limits };
    let policy = Policy { sizing: Sizing::list(vec![4], vec![6]), ..Policy::default() };
    assert!(matches!(plan(&aligned, &policy), Err(PlanError::ListedTokensNotAligned { tokens: 6, .. })));
    let huge = Sizing::list((1..=1_000_001).collect(), vec![]);
    let limits = Limits { max_requests: 2_000_000, max_tokens: 2_000_000, ..Limits::default() };
    let refused = plan(&limits, &Policy { sizing: huge, ..Policy::default() });
    assert!(matches!(refused, Err(PlanError::TooManyCandidates { .. })), "{refused:?}");
}

#[test]
fn words_read_back_as_they_print() {
    let words = [
        "exponential",
        "linear",
        "hybrid",
        "geometric:1.41",
        "geometric:1.25/2",
        "geometric:1.0000000000000002/1e300",
        "list:1,2,4",
        "list:1,2,4/512,1024",
        "list:/512",
        "list:7/",
        "list:4294967295",
    ];
    for word in words {
        let sizing: Sizing = word.parse().unwrap_or_else(|error| panic!("{word}: {error}"));
        assert_eq!(sizing.to_string().parse(), Ok(sizing.clone()));
        if !word.contains('e') || word.len() < 20 {
            assert_eq!(sizing.to_string(), word);
        }
    }
    assert_eq!("list:4,1,4,2/9".parse(), Ok(Sizing::list(vec![1, 2, 4], vec![9])));
    for word in ["auto", "off", "geometric:1.5", "list:1,4,16"] {
        assert_eq!(word.parse::<PrefillAxis>().expect("an axis").to_string(), word);
    }
    for word in ["rest", "geometric:4"] {
        assert_eq!(word.parse::<DecodeAxis>().expect("an axis").to_string(), word);
    }
}

#[test]
fn hostile_words_are_sentences() {
    let sizing = |word: &str| word.parse::<Sizing>().expect_err(word).to_string();
    for word in
        ["", ":", "Linear", "geometric", "list", "fibonacci:2", "geometric 2", " hybrid", "hybrid:", "exp:onential"]
    {
        assert!(
            sizing(word).starts_with(&format!("`{word}` is not a sizing; it is `exponential`")),
            "{}",
            sizing(word)
        );
    }
    for (word, number) in [
        ("geometric:", ""),
        ("geometric:1", "1"),
        ("geometric:0.99", "0.99"),
        ("geometric:-2", "-2"),
        ("geometric:NaN", "NaN"),
        ("geometric:inf", "inf"),
        ("geometric:2/1", "1"),
        ("geometric:2/", ""),
        ("geometric:2/3/4", "3/4"),
        ("geometric:1,5", "1,5"),
    ] {
        assert_eq!(sizing(word), format!("the ratio is `{number}`; it must be a finite number above 1"));
    }
    for (word, entry) in [
        ("list:0", "0"),
        ("list:1,,2", ""),
        ("list:1,-2", "-2"),
        ("list:+1", "+1"),
        ("list:1/2/3", "2/3"),
        ("list:4294967296", "4294967296"),
        ("list:1.5", "1.5"),
        ("list:1, 2", " 2"),
    ] {
        assert_eq!(sizing(word), format!("`{entry}` is not a token count; it is a number from 1 to 4294967295"));
    }
    for word in ["list:", "list:/"] {
        assert_eq!(sizing(word), "the list of token counts is empty; it must have at least one");
    }
    for word in ["", "on", "list:", "list:0", "list:1,x", "geometric:1", "geometric:nan", "1.5"] {
        assert!(word.parse::<PrefillAxis>().is_err(), "{word}");
    }
    for word in ["", "off", "geometric:", "geometric:1", "list:1", "geometric:2/2"] {
        assert!(word.parse::<DecodeAxis>().is_err(), "{word}");
    }
}

#[test]
fn ratios_next_to_one_are_refused_where_the_ladder_is_long() {
    let fine = ratio(1.0 + f64::EPSILON);
    let limits = Limits { max_requests: u32::MAX, max_tokens: u32::MAX, ..Limits::default() };
    let policies = [
        Policy { sizing: Sizing::Geometric { decode: fine, prefill: Ratio::TWO }, ..Policy::default() },
        Policy { sizing: Sizing::Geometric { decode: Ratio::TWO, prefill: fine }, ..Policy::default() },
        Policy { prefill_axis: PrefillAxis::Geometric(fine), ..Policy::default() },
        Policy { decode_axis: DecodeAxis::Geometric(fine), ..Policy::default() },
    ];
    for policy in policies {
        let refused = plan(&limits, &policy);
        assert!(
            matches!(refused, Err(PlanError::TooManyCandidates { .. })),
            "{policy:?}: {:?}",
            refused.map(|p| p.len())
        );
    }
    // The same ratio on a short range is every size.
    let small = Limits { max_requests: 50, max_tokens: 50, ..Limits::default() };
    let policy = Policy { sizing: Sizing::Geometric { decode: fine, prefill: fine }, ..Policy::default() };
    assert_eq!(planned(&small, &policy).token_counts().map(<[u32]>::len), Some(50));
}

fn any_ratio() -> impl Strategy<Value = Ratio> {
    prop_oneof![4 => 1.01..4.0_f64, 1 => 4.0..1e6_f64].prop_map(ratio)
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (1..300_u32, 0..4000_u32, 1..3000_u32, 0..4_u32).prop_map(
        |(max_requests, spare, max_sequence_length, speculative_tokens)| Limits {
            max_requests,
            max_tokens: max_requests * (speculative_tokens + 1) + spare,
            max_sequence_length,
            tensor_parallel: 1,
            speculative_tokens,
        },
    )
}

fn any_prefill_axis() -> impl Strategy<Value = PrefillAxis> {
    prop_oneof![
        Just(PrefillAxis::Auto),
        Just(PrefillAxis::Off),
        any_ratio().prop_map(PrefillAxis::Geometric),
        Just(PrefillAxis::List(vec![1])),
    ]
}

fn any_decode_axis() -> impl Strategy<Value = DecodeAxis> {
    prop_oneof![Just(DecodeAxis::Rest), (1.5..8.0_f64).prop_map(|number| DecodeAxis::Geometric(ratio(number)))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Neighbours are within the ratio or adjacent multiples, so that no token count is padded by more than the ratio, but for
    /// alignment.
    #[test]
    fn neighbours_are_within_the_ratio(
        ratio in any_ratio(),
        largest in prop_oneof![1..5000_u32, Just(u32::MAX)],
        alignment in 1..9_u32,
        invariant in any::<bool>(),
    ) {
        let sizes = ladder(LadderLaw::Geometric(ratio), GraphCount::Auto, largest, alignment, invariant);
        let Ok(sizes) = sizes else { return Ok(()) };
        prop_assert!(sizes.is_sorted_by(|a, b| a > b));
        let multiple = if invariant { (64..).step_by(64).find(|size| size % alignment == 0).unwrap() } else { alignment };
        for pair in sizes.windows(2) {
            let (above, below) = (f64::from(pair[0]), f64::from(pair[1]));
            prop_assert!(above <= below * ratio.get() * (1.0 + 1e-12) || pair[0] - pair[1] <= multiple, "{pair:?}");
            prop_assert!(pair[1] % multiple == 0);
        }
        if largest >= alignment && !invariant {
            prop_assert_eq!(sizes.last(), Some(&alignment));
            prop_assert_eq!(sizes.first(), Some(&(largest / alignment * alignment)));
        }
    }

    #[test]
    fn axes_stay_within_their_ratio(ratio in any_ratio(), max_requests in 1..2000_u32) {
        let limits = Limits { max_requests, max_tokens: 4000, ..Limits::default() };
        let policy = Policy {
            sizing: Sizing::list(vec![], vec![4000]),
            prefill_axis: PrefillAxis::Geometric(ratio),
            decode_axis: DecodeAxis::Geometric(ratio),
            ..Policy::default()
        };
        // Ratios next to 1 on both axes make grids that are too large.
        let Ok(plan) = plan(&limits, &policy) else { return Ok(()) };
        let mut prefills: Vec<u32> = plan.points().iter().map(|point| point.prefills).collect();
        prefills.sort_unstable();
        prefills.dedup();
        prop_assert_eq!((prefills.first(), prefills.last()), (Some(&1), Some(&max_requests)));
        for pair in prefills.windows(2) {
            prop_assert!(f64::from(pair[1]) <= f64::from(pair[0]) * ratio.get() || pair[1] == pair[0] + 1, "{pair:?}");
        }
        for point in plan.points().iter().filter(|point| point.prefills == 1 && point.decodes > 1) {
            let below = plan.points().iter().filter(|other| other.prefills == 1 && other.decodes < point.decodes);
            let below = below.map(|other| other.decodes).max().expect("down to 1");
            let bound = f64::from(below) * ratio.get() * (1.0 + 1e-12);
            prop_assert!(f64::from(point.decodes) <= bound || below + 1 == point.decodes, "{point} above {below}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Under a geometric sizing up to max_tokens every batch within the limits replays, whatever the axes are, and pads its
    /// tokens by no more than the ratio, but for alignment.
    #[test]
    fn every_batch_within_limits_replays(
        limits in any_limits(),
        (decode, prefill) in (any_ratio(), any_ratio()),
        prefill_axis in any_prefill_axis(),
        decode_axis in any_decode_axis(),
        batch_invariant in any::<bool>(),
        batches in prop::collection::vec((0.0..1.0_f64, 0.0..1.0_f64, 0.0..1.0_f64), 1..40),
    ) {
        let policy = Policy {
            sizing: Sizing::Geometric { decode, prefill },
            prefill_axis,
            decode_axis,
            token_ceiling: TokenCeiling::AllPrefills,
            batch_invariant,
            ..Policy::default()
        };
        let per_decode = limits.speculative_tokens + 1;
        // A sequence holds at least one decode.
        let limits = Limits { max_sequence_length: limits.max_sequence_length.max(per_decode), ..limits };
        let Ok(plan) = plan(&limits, &policy) else { return Ok(()) };
        let matcher = Matcher::new(plan.points());
        for (a, b, c) in batches {
            let prefills = (a * f64::from(limits.max_requests + 1)) as u32;
            let decodes = (b * f64::from(limits.max_requests - prefills + 1)) as u32;
            let fixed = decodes * per_decode;
            let most = limits.max_tokens.min(prefills.saturating_mul(limits.max_sequence_length) + fixed);
            let least = prefills + fixed;
            if prefills + decodes == 0 || least > most {
                continue;
            }
            let tokens = least + (c * f64::from(most - least + 1)) as u32;
            let step = StepShape { tokens, prefills, decodes };
            let found = matcher.find(step, Matching::NonStrict);
            let Some(point) = found.point() else { panic!("{step} of {limits:?} {policy:?}: {found:?}") };
            let ratio = if prefills == 0 { decode } else { prefill };
            let adjacent = match (batch_invariant, prefills) {
                (true, _) => 64 * per_decode,
                (false, 0) => per_decode,
                (false, _) => 1,
            };
            prop_assert!(
                f64::from(point.tokens) <= f64::from(tokens) * ratio.get() || point.tokens - tokens <= adjacent,
                "{step} replays {point}"
            );
        }
    }

    /// The same for the reference's laws, whose ladders do not look at how long a batch can be.
    #[test]
    fn the_references_laws_cover_what_sequences_fill(
        limits in any_limits(),
        sizing in prop::sample::select(vec![Sizing::Exponential, Sizing::Linear, Sizing::Hybrid]),
        (prefills, decodes, tokens) in (1..300_u32, 0..300_u32, 1..8000_u32),
    ) {
        let limits = Limits { max_sequence_length: limits.max_tokens, ..limits };
        let policy = Policy { sizing, token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() };
        let plan = planned(&limits, &policy);
        let least = prefills + decodes * (limits.speculative_tokens + 1);
        let step = StepShape { tokens: tokens.max(least).min(limits.max_tokens), prefills, decodes };
        if prefills + decodes > limits.max_requests || least > step.tokens || limits.max_tokens < 2 {
            return Ok(());
        }
        let found = Matcher::new(plan.points()).find(step, Matching::NonStrict);
        // Linear plans have a prefill-only point only where the mixed prefill count is below max_requests.
        prop_assert!(found.point().is_some() || policy.sizing == Sizing::Linear, "{step} of {limits:?}: {found:?}");
    }
}

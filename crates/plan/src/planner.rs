//! Limits and policy to plan.

use std::cmp::Reverse;

use crate::axes::PrefillAxis;
use crate::error::PlanError;
use crate::ladder::{BATCH_INVARIANT_ROUNDER, check_candidates, round_down};
use crate::plan::Plan;
use crate::point::GridPoint;
use crate::policy::{GraphCount, Limits, Policy};
use crate::sizing::Sizing;
use crate::token_counts::TokenCounts;

/// The most candidates a plan may be chosen from, and the most points it may have. Graphs cost kilobytes to megabytes
/// each: no device holds that many.
pub const MAX_CANDIDATES: u64 = 1_000_000;

/// Chooses the points to capture, in the order in which they are captured (Megatron-LM PR #3509).
///
/// Every batch of at most `max_requests` decodes finds a decode-only point, unless tensor parallelism does not divide its
/// tokens or a list of sizes ends below it. With mixed points on, each token count T has points for mixed batches, P from the
/// [`PrefillAxis`] and D from the [`DecodeAxis`](crate::DecodeAxis), and one for many short prefills alone. A point is kept if
/// a batch can fill it: `P + D <= max_requests` and `P + D*u <= T <= P*max_sequence_length + D*u`, u being the tokens of one
/// decode. The order is descending by prefill tokens `T - D*u`, then D, then P.
///
/// # Errors
/// Limits or a policy that the reference rejects, a zero where something must be divided, and plans of more than
/// [`MAX_CANDIDATES`] candidates. [`GraphCount::None`] gives an empty plan whatever the rest says.
pub fn plan(limits: &Limits, policy: &Policy) -> Result<Plan, PlanError> {
    if policy.graph_count == GraphCount::None {
        return Ok(Plan::default());
    }
    if let Sizing::List { decode, prefill } = &policy.sizing
        && decode.is_empty()
        && prefill.is_empty()
    {
        return Err(PlanError::EmptyList);
    }
    let token_counts = TokenCounts::new(limits, policy)?;
    let mut candidates = Candidates { limits, policy, points: Vec::new(), seen: 0 };
    if let Some(mixed) = policy.mixed_prefills() {
        let sizes = token_counts.prefill()?;
        let prefills = policy.prefill_axis.values(&policy.sizing, limits.max_requests, mixed)?;
        check_candidates((sizes.len() as u64).saturating_mul(prefills.len() as u64 + 1))?;
        for tokens in sizes {
            candidates.add_with_prefills(tokens, &prefills, mixed)?;
        }
    }
    candidates.add_decode_only(&token_counts.decode()?)?;
    Ok(Plan::from_points(candidates.in_capture_order()))
}

/// The points found so far, each valid.
struct Candidates<'a> {
    limits: &'a Limits,
    policy: &'a Policy,
    points: Vec<GridPoint>,
    /// Candidates so far, valid or not.
    seen: u64,
}

impl Candidates<'_> {
    /// The mixed points of one token count and its prefill-only point.
    fn add_with_prefills(&mut self, tokens: u32, axis: &[u64], mixed: u64) -> Result<(), PlanError> {
        let sizing = &self.policy.sizing;
        let tensor_parallel = self.limits.tensor_parallel;
        if !tokens.is_multiple_of(tensor_parallel) {
            return Err(PlanError::CeilingNotAligned { tokens, tensor_parallel });
        }
        let tokens = u64::from(tokens);
        if tokens < 2 && matches!(sizing, Sizing::Exponential | Sizing::Linear | Sizing::Hybrid) {
            // The reference cannot capture a prefill slot in a single token row.
            return Ok(());
        }
        let fewest = self.policy.prefill_axis.fewest(sizing, mixed);
        let max_requests = u64::from(self.limits.max_requests);
        for &prefills in axis {
            let beside = tokens.saturating_sub(prefills) / self.limits.tokens_per_decode();
            for decodes in self.policy.decode_axis.values(beside.min(max_requests - prefills)) {
                self.add(tokens, prefills, decodes)?;
            }
        }
        let longest_prompt = u64::from(self.limits.max_sequence_length).saturating_sub(1).max(1);
        let prefills = fewest.max(tokens.div_ceil(longest_prompt));
        if self.policy.prefill_axis != PrefillAxis::Auto {
            // The axis may end below max_requests.
            self.add(tokens, max_requests.min(tokens), 0)?;
        } else if prefills < max_requests {
            self.add(tokens, prefills.max(max_requests.min(tokens)), 0)?;
        }
        Ok(())
    }

    fn add_decode_only(&mut self, sizes: &[u32]) -> Result<(), PlanError> {
        let per_decode = self.limits.tokens_per_decode();
        for &size in sizes {
            let decodes = (u64::from(size) / per_decode).min(self.limits.max_requests.into());
            self.add(round_down(decodes * per_decode, self.limits.tensor_parallel.into()), 0, decodes)?;
        }
        Ok(())
    }

    /// Keeps the point if some batch can fill it.
    fn add(&mut self, tokens: u64, prefills: u64, decodes: u64) -> Result<(), PlanError> {
        self.seen += 1;
        check_candidates(self.seen)?;
        let decode_tokens = decodes * self.limits.tokens_per_decode();
        let most = prefills.saturating_mul(self.limits.max_sequence_length.into()).saturating_add(decode_tokens);
        let fits = tokens > 0
            && prefills + decodes <= self.limits.max_requests.into()
            && (prefills + decode_tokens..=most).contains(&tokens);
        if !fits {
            return Ok(());
        }
        let tokens =
            if self.policy.batch_invariant { tokens.next_multiple_of(BATCH_INVARIANT_ROUNDER) } else { tokens };
        let narrow = |count: u64| u32::try_from(count).map_err(|_| PlanError::TokensOutOfRange { tokens });
        let point = GridPoint { tokens: narrow(tokens)?, prefills: narrow(prefills)?, decodes: narrow(decodes)? };
        self.points.push(point);
        Ok(())
    }

    /// Each point once, those with the most prefill tokens first.
    fn in_capture_order(mut self) -> Vec<GridPoint> {
        let per_decode = self.limits.tokens_per_decode();
        let prefill_tokens = |point: &GridPoint| u64::from(point.tokens) - u64::from(point.decodes) * per_decode;
        self.points.sort_unstable_by_key(|point| Reverse((prefill_tokens(point), point.decodes, point.prefills)));
        self.points.dedup();
        self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::TokenCeiling;
    use crate::ratio::Ratio;

    #[test]
    fn sixty_graphs_instead_of_123() {
        let limits = Limits { max_requests: 396, ..Limits::default() };
        let linear = Policy { sizing: Sizing::Linear, ..Policy::default() };
        assert_eq!(plan(&limits, &Policy::default()).map(|plan| plan.len()), Ok(60));
        assert_eq!(plan(&limits, &linear).map(|plan| plan.len()), Ok(123));
    }

    #[test]
    fn decode_only_plans_and_all_prefills() {
        let count = |sizing, decode_only, token_ceiling| {
            let policy = Policy { sizing, decode_only, token_ceiling, ..Policy::default() };
            plan(&Limits::default(), &policy).expect("a plan").len()
        };
        assert_eq!(count(Sizing::Exponential, true, TokenCeiling::Decodes), 9);
        assert_eq!(count(Sizing::Linear, true, TokenCeiling::Decodes), 44);
        assert_eq!(count(Sizing::Exponential, false, TokenCeiling::AllPrefills), 110);
        assert_eq!(count(Sizing::Linear, false, TokenCeiling::AllPrefills), 2121);
        assert_eq!(count(Sizing::Exponential, false, TokenCeiling::Tokens(512)), 63);
        assert_eq!(count(Sizing::Linear, false, TokenCeiling::Tokens(512)), 137);
    }

    #[test]
    fn no_graphs_is_a_plan_whatever_the_limits() {
        let limits = Limits { max_requests: 0, max_tokens: 0, tensor_parallel: 0, ..Limits::default() };
        let policy = Policy { graph_count: GraphCount::None, ..Policy::default() };
        assert_eq!(plan(&limits, &policy), Ok(Plan::default()));
    }

    #[test]
    fn contradictions_are_named() {
        let limits = Limits { max_requests: 10, max_tokens: 100, speculative_tokens: 2, ..Limits::default() };
        let policy = Policy { token_ceiling: TokenCeiling::Tokens(29), ..Policy::default() };
        let error = plan(&limits, &policy).expect_err("29 < 30");
        assert_eq!(
            error.to_string(),
            "the token ceiling is `29`, below the 30 tokens of 10 decode requests with 2 speculative tokens each; it must \
             be at least 30"
        );
        let limits = Limits { max_tokens: 14, ..limits };
        assert!(matches!(plan(&limits, &Policy::default()), Err(PlanError::CeilingBelowDecodes { ceiling: 14, .. })));
        assert_eq!(plan(&Limits { max_requests: 0, ..limits }, &Policy::default()), Err(PlanError::NoRequests));
        assert_eq!(plan(&Limits { max_tokens: 0, ..limits }, &Policy::default()), Err(PlanError::NoTokens));
        assert_eq!(
            plan(&Limits { tensor_parallel: 0, ..limits }, &Policy::default()),
            Err(PlanError::NoTensorParallel)
        );
    }

    #[test]
    fn values_at_the_integer_limits_make_a_plan_or_an_error() {
        let extremes = [0, 1, 2, 7, 4096, u32::MAX - 1, u32::MAX];
        let ceilings = [TokenCeiling::Decodes, TokenCeiling::AllPrefills, TokenCeiling::Tokens(i64::MAX)];
        let counts =
            [GraphCount::Auto, GraphCount::Count(i64::MIN), GraphCount::Count(40), GraphCount::Count(i64::MAX)];
        let fine = Ratio::new(1.0 + f64::EPSILON).expect("a ratio");
        let sizings = [
            Sizing::Exponential,
            Sizing::Linear,
            Sizing::Hybrid,
            Sizing::Geometric { decode: fine, prefill: Ratio::TWO },
            Sizing::list(vec![1, u32::MAX], vec![4096, u32::MAX - 1]),
        ];
        let mut plans = 0;
        for (max_requests, max_tokens) in extremes.iter().flat_map(|&r| extremes.map(|t| (r, t))) {
            for (max_sequence_length, tensor_parallel) in
                [0, 1, u32::MAX].iter().flat_map(|&l| extremes.map(|tp| (l, tp)))
            {
                for (index, speculative_tokens) in [0, 3, u32::MAX].into_iter().enumerate() {
                    let limits =
                        Limits { max_requests, max_tokens, max_sequence_length, tensor_parallel, speculative_tokens };
                    for (sizing, graph_count) in sizings.iter().flat_map(|s| counts.map(|c| (s, c))) {
                        let policy = Policy {
                            sizing: sizing.clone(),
                            graph_count,
                            token_ceiling: ceilings[index],
                            mixed_prefill_count: Some([1, 16, i64::MAX][index]),
                            decode_only: false,
                            batch_invariant: index == 1,
                            ..Policy::default()
                        };
                        let Ok(plan) = plan(&limits, &policy) else { continue };
                        plans += 1;
                        for point in plan.points() {
                            assert!(point.requests() <= max_requests.into() && point.tokens > 0, "{point}");
                        }
                    }
                }
            }
        }
        assert!(plans > 100, "only {plans} plans: the test no longer reaches the planner");
    }

    #[test]
    fn a_plan_that_would_be_too_large_is_refused() {
        let limits = Limits { max_tokens: u32::MAX, ..Limits::default() };
        let policy = Policy { sizing: Sizing::Linear, token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() };
        assert!(matches!(plan(&limits, &policy), Err(PlanError::TooManyCandidates { .. })));
    }
}

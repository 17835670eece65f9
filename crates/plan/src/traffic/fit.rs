//! The token sizes that cost a recorded traffic the least, around those that no traffic fares badly with.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use thiserror::Error;

use super::cost::CostCurve;
use super::histogram::StepHistogram;
use super::segment::{Candidate, Segment, Total};
use crate::error::PlanError;
use crate::ladder::{BATCH_INVARIANT_ROUNDER, least_common_multiple, round_down};
use crate::planner::plan;
use crate::policy::{GraphCount, Limits, Policy};
use crate::sizing::Sizing;
use crate::token_counts::TokenCounts;

/// The most cells of the tables that a fit fills, 4 bytes each: seconds, not minutes.
const MOST_WORK: u128 = 1 << 25;
/// No law of the planner gives points with prefills a single token.
const FEWEST_TOKENS_WITH_PREFILLS: u32 = 2;

/// The token sizes of a plan, as its two ladders list them, each in descending order without repetition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TokenSizes {
    /// Of decode-only points.
    pub decode: Vec<u32>,
    /// Of points with prefills. Empty where the policy has none.
    pub prefill: Vec<u32>,
}

impl TokenSizes {
    /// The number of sizes in both lists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.decode.len() + self.prefill.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A policy with these sizes, and all else as `base` has it: the number of graphs is automatic, so that no size is cut.
    #[must_use]
    pub fn policy(&self, base: &Policy) -> Policy {
        let sizing = Sizing::list(self.decode.clone(), self.prefill.clone());
        Policy { sizing, graph_count: GraphCount::Auto, ..base.clone() }
    }
}

/// Why sizes cannot be fitted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FitError {
    /// Fewer sizes than the exponential plan has, all of which are kept.
    #[error(
        "the number of sizes to fit is `{sizes}`; it must be at least {backbone}, the number of exponential sizes, all of \
         which a fit keeps"
    )]
    TooFewSizes {
        /// The number asked for.
        sizes: usize,
        /// The number of exponential sizes.
        backbone: usize,
    },
    /// A plan without points has no sizes, and no list either.
    #[error("the exponential plan for these limits is empty, so that there is no size to fit")]
    NoSizes,
    /// Too many different token counts for so many sizes.
    #[error(
        "fitting `{sizes}` sizes to {candidates} different token counts takes {work} cells of memory; it can take {limit}"
    )]
    TooMuchWork {
        /// The number asked for.
        sizes: usize,
        /// Different sizes that are worth choosing.
        candidates: usize,
        /// Cells.
        work: u128,
        /// The most cells.
        limit: u128,
    },
    /// The exponential plan does not exist.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// The sizes of the exponential plan for these limits: a plan of this list has the exponential plan's points. Of the policy,
/// the sizing and the number of graphs are ignored.
///
/// # Errors
/// Limits and a policy that make no plan.
pub fn exponential_sizes(limits: &Limits, policy: &Policy) -> Result<TokenSizes, PlanError> {
    let policy = Policy { sizing: Sizing::Exponential, graph_count: GraphCount::Auto, ..policy.clone() };
    let plan = plan(limits, &policy)?;
    // A list says of a decode-only point how many tokens its decodes have, and of others T before batch invariance rounds
    // it up.
    let decode_only = plan.points().iter().filter(|point| point.prefills == 0);
    let decode = decode_only.map(|point| (u64::from(point.decodes) * limits.tokens_per_decode()) as u32).collect();
    let mut prefill = Vec::new();
    if policy.mixed_prefills().is_some() {
        let with_prefills = plan.points().iter().filter(|point| point.prefills > 0);
        let captured: BTreeSet<u64> = with_prefills.map(|point| point.tokens.into()).collect();
        let grain = Grain::of(policy.batch_invariant);
        prefill = TokenCounts::new(limits, &policy)?.prefill()?;
        prefill.retain(|&size| size >= FEWEST_TOKENS_WITH_PREFILLS && captured.contains(&grain.round_up(size.into())));
        for size in prefill.iter_mut().filter(|size| **size > limits.max_tokens) {
            // Batch invariance has rounded beyond what a list may have: the largest size that it rounds to the same.
            let largest = limits.max_tokens - limits.max_tokens % limits.tensor_parallel;
            if grain.round_up(largest.into()) == grain.round_up((*size).into()) {
                *size = largest;
            }
        }
    }
    Ok(TokenSizes { decode: descending(decode), prefill: descending(prefill) })
}

fn descending(mut sizes: Vec<u32>) -> Vec<u32> {
    sizes.sort_unstable_by_key(|&size| Reverse(size));
    sizes.dedup();
    sizes
}

/// Chooses at most `sizes` token sizes, those of [`exponential_sizes`] among them, for which the steps counted take the
/// least time by the cost curve; among choices of the same time, those that execute the fewest tokens.
///
/// The choice is exact, over all lists of sizes that the limits allow and over all ways to divide them between decode-only
/// and mixed steps, by dynamic programming. A step takes the smallest size of its list that has its tokens: that is what
/// [`Matcher`](crate::Matcher) answers for a plan of these sizes, except where strict matching also asks for decode slots.
/// Steps above the largest size run eagerly whatever is chosen. Fewer than `sizes` come back only if every further one
/// would serve no step.
///
/// Only token counts that occur are candidates, rounded up to what the limits allow (multiples of the tensor-parallel size,
/// and of a decode's tokens) and, where that costs nothing, to the end of the curve's tile: any other size could be lowered
/// to the largest token count that it serves and cost no more. Sizes above the largest exponential ones, which would turn
/// eager steps into replays, are no candidates.
///
/// No traffic fares worse than under the exponential plan, seen or not: every step that has a size there has the same size
/// or a smaller one here, and every other step has none in either. That is so of all steps that the limits allow, if a
/// sequence may be as long as one decode's tokens and the policy's prefill axis reaches `max_requests`, as all but lists do;
/// under strict matching, if a sequence may be as long as the largest size. (Where it may not, a step of few prefills can
/// have a graph here that it lacks there.)
///
/// # Errors
/// Fewer `sizes` than exponential ones, limits and a policy that make no plan, more candidates and sizes than memory should
/// hold.
pub fn fit(
    steps: &StepHistogram,
    sizes: usize,
    limits: &Limits,
    policy: &Policy,
    cost: &CostCurve,
) -> Result<TokenSizes, FitError> {
    let backbone = exponential_sizes(limits, policy)?;
    if backbone.is_empty() {
        return Err(FitError::NoSizes);
    }
    let Some(mut extra) = sizes.checked_sub(backbone.len()) else {
        return Err(FitError::TooFewSizes { sizes, backbone: backbone.len() });
    };
    let tensor_parallel = u64::from(limits.tensor_parallel);
    let grain = Grain::of(policy.batch_invariant);
    let list = |sizes: &[u32], with_prefills: bool, alignment: u64| {
        let fewest = if with_prefills { FEWEST_TOKENS_WITH_PREFILLS } else { 1 };
        candidates(sizes, &steps.token_counts(with_prefills), fewest, alignment, grain, cost)
    };
    let decode_alignment = least_common_multiple(limits.tokens_per_decode(), tensor_parallel);
    let decode = list(&backbone.decode, false, decode_alignment);
    let prefill = list(&backbone.prefill, true, tensor_parallel);

    let lists: Vec<&Vec<Candidate>> = decode.iter().chain(&prefill).collect();
    if lists.iter().map(|list| list.len() - 1).sum::<usize>() <= extra {
        let all = |lists: &[Vec<Candidate>]| lists.iter().flatten().rev().map(|candidate| candidate.size).collect();
        return Ok(TokenSizes { decode: all(&decode), prefill: all(&prefill) });
    }
    let work = lists.iter().map(|list| Segment::work(list.len(), extra)).sum();
    if work > MOST_WORK {
        let candidates = lists.iter().map(|list| list.len()).sum();
        return Err(FitError::TooMuchWork { sizes, candidates, work, limit: MOST_WORK });
    }
    let decode_segments = decode.len();
    let segments: Vec<Segment> = decode.into_iter().chain(prefill).map(|list| Segment::new(list, extra)).collect();

    // Each segment's savings never grow, so taking the largest of all, one after the other, is the best division.
    let mut taken = vec![0; segments.len()];
    while extra > 0 {
        let gains = segments.iter().zip(&taken).map(|(segment, &taken)| segment.gain(taken)).enumerate();
        let Some((gain, Reverse(best))) = gains.filter_map(|(index, gain)| Some((gain?, Reverse(index)))).max() else {
            break;
        };
        debug_assert!(gain >= Total::default(), "a size more is no loss");
        taken[best] += 1;
        extra -= 1;
    }
    let chosen = |range: Range<usize>| {
        let chosen = range.rev().flat_map(|index| segments[index].choose(taken[index]));
        chosen.collect::<Vec<u32>>()
    };
    Ok(TokenSizes { decode: chosen(0..decode_segments), prefill: chosen(decode_segments..segments.len()) })
}

/// One list of candidates for each size of a backbone, which is descending: those above the next smaller one, in ascending
/// order, and the size itself as the last. The lists ascend too.
fn candidates(
    backbone: &[u32],
    tokens: &BTreeMap<u32, u64>,
    fewest: u32,
    alignment: u64,
    grain: Grain,
    cost: &CostCurve,
) -> Vec<Vec<Candidate>> {
    let mut below = 0;
    let mut lists = Vec::with_capacity(backbone.len());
    for &largest in backbone.iter().rev() {
        // Raised to the end of what rounding makes of it anyway, a size serves more and costs the same.
        let raise = |size: u64, grain: Grain| round_down(grain.round_up(size), alignment).max(size);
        let size_of = |tokens: u32| {
            let aligned = u64::from(tokens.max(fewest)).next_multiple_of(alignment);
            let size = raise(aligned, grain);
            let raised = raise(size, Grain(cost.tile().into()));
            let price = |size| cost.picoseconds(grain.round_up(size));
            let size = if price(raised) == price(size) { raised } else { size };
            u32::try_from(size).map_or(largest, |size| size.min(largest))
        };
        let mut sizes = BTreeMap::from([(largest, 0)]);
        if below < largest {
            for (&tokens, &count) in tokens.range(below + 1..=largest) {
                *sizes.entry(size_of(tokens)).or_insert(0) += count;
            }
        }
        let candidate = |(size, count): (u32, u64)| {
            let tokens = grain.round_up(size.into());
            let picoseconds = cost.picoseconds(tokens);
            Candidate { size, picoseconds, tokens: u32::try_from(tokens).unwrap_or(u32::MAX), count }
        };
        lists.push(sizes.into_iter().map(candidate).collect());
        below = largest;
    }
    lists
}

/// What tokens are rounded up to multiples of.
#[derive(Debug, Clone, Copy)]
struct Grain(u64);

impl Grain {
    fn of(batch_invariant: bool) -> Self {
        Self(if batch_invariant { BATCH_INVARIANT_ROUNDER } else { 1 })
    }

    /// Of tokens within `u32`.
    fn round_up(self, tokens: u64) -> u64 {
        tokens.checked_next_multiple_of(self.0).unwrap_or(u64::MAX)
    }
}

//! The token counts of the two phases under limits and a policy.

use crate::error::PlanError;
use crate::ladder::{check_candidates, geometric, ladder, least_common_multiple, round_down};
use crate::policy::{GraphCount, Limits, Policy};
use crate::sizing::{LadderLaw, Phase, Sizing};
use crate::words::ascending;

/// Limits and a policy whose plan has token counts.
pub(crate) struct TokenCounts<'a> {
    limits: &'a Limits,
    policy: &'a Policy,
    /// [`GraphCount::Auto`], or a count of at least 1.
    graph_count: GraphCount,
    ceiling: u32,
}

impl<'a> TokenCounts<'a> {
    /// Refuses limits under which nothing can be planned.
    pub(crate) fn new(limits: &'a Limits, policy: &'a Policy) -> Result<Self, PlanError> {
        if limits.tensor_parallel == 0 {
            return Err(PlanError::NoTensorParallel);
        }
        if limits.max_requests == 0 {
            return Err(PlanError::NoRequests);
        }
        if limits.max_tokens == 0 {
            return Err(PlanError::NoTokens);
        }
        let ceiling = match &policy.sizing {
            Sizing::List { .. } => limits.max_tokens,
            _ => checked_ceiling(limits, policy)?,
        };
        let graph_count = match policy.graph_count.normalised() {
            GraphCount::Count(count) => GraphCount::Count(count.clamp(1, i64::from(ceiling))),
            other => other,
        };
        Ok(Self { limits, policy, graph_count, ceiling })
    }

    /// The token counts of points with prefills, descending.
    pub(crate) fn prefill(&self) -> Result<Vec<u32>, PlanError> {
        let largest = match &self.policy.sizing {
            Sizing::List { prefill, .. } => return self.list(prefill, Phase::Prefill),
            Sizing::Geometric { .. } => self.most_tokens_with_prefills().min(self.ceiling),
            _ => self.ceiling,
        };
        if largest == 0 {
            return Ok(Vec::new());
        }
        self.ladder(Phase::Prefill, largest)
    }

    /// The token counts of decode-only points, in any order. An automatic ladder of the reference's laws also reaches down to
    /// one and two times the smallest count that both a decode and tensor parallelism divide; a geometric one has only
    /// multiples of that count.
    pub(crate) fn decode(&self) -> Result<Vec<u32>, PlanError> {
        let decode_tokens = self.limits.decode_tokens();
        let largest = u32::try_from(decode_tokens).map_or(self.ceiling, |tokens| tokens.min(self.ceiling));
        let (per_decode, alignment) = (self.limits.tokens_per_decode(), u64::from(self.limits.tensor_parallel));
        let smallest = least_common_multiple(per_decode, alignment);
        match (&self.policy.sizing, self.graph_count) {
            (Sizing::List { decode, .. }, _) => self.list(decode, Phase::Decode),
            (Sizing::Geometric { decode, .. }, count) if !self.policy.batch_invariant => {
                let count = if let GraphCount::Count(count) = count { u64::try_from(count).ok() } else { None };
                let sizes = geometric(*decode, round_down(largest.into(), smallest), smallest, count)?;
                Ok(sizes.into_iter().filter_map(|tokens| u32::try_from(tokens).ok()).collect())
            }
            (sizing, count) => {
                let mut sizes = self.ladder(Phase::Decode, largest)?;
                if count == GraphCount::Auto && !matches!(sizing, Sizing::Geometric { .. }) {
                    let floors = [smallest, smallest.saturating_mul(2)].into_iter();
                    let floors = floors.filter_map(|size| u32::try_from(size).ok());
                    sizes.extend(floors.filter(|&size| size <= largest));
                }
                Ok(sizes)
            }
        }
    }

    fn ladder(&self, phase: Phase, largest: u32) -> Result<Vec<u32>, PlanError> {
        let law = self.policy.sizing.law(phase).unwrap_or(LadderLaw::Exponential);
        let (tensor_parallel, batch_invariant) = (self.limits.tensor_parallel, self.policy.batch_invariant);
        ladder(law, self.graph_count, largest, tensor_parallel, batch_invariant)
    }

    /// The list, descending, cut to the graph count from its small end, the smallest excepted.
    fn list(&self, list: &[u32], phase: Phase) -> Result<Vec<u32>, PlanError> {
        check_candidates(list.len() as u64)?;
        let Limits { max_tokens, tensor_parallel, .. } = *self.limits;
        if let Some(&tokens) = list.iter().find(|&&tokens| tokens == 0 || tokens > max_tokens) {
            return Err(PlanError::ListedTokensOutOfRange { phase, tokens, max_tokens });
        }
        if let Some(&tokens) = list.iter().find(|tokens| !tokens.is_multiple_of(tensor_parallel)) {
            return Err(PlanError::ListedTokensNotAligned { phase, tokens, tensor_parallel });
        }
        let mut sizes = ascending(list.to_vec());
        sizes.reverse();
        if let GraphCount::Count(count) = self.graph_count {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            match sizes.last().copied() {
                Some(smallest) if count > 1 && sizes.len() > count => {
                    sizes.truncate(count - 1);
                    sizes.push(smallest);
                }
                _ => sizes.truncate(count),
            }
        }
        Ok(sizes)
    }

    /// The most tokens of a step with at least one prefill.
    fn most_tokens_with_prefills(&self) -> u32 {
        let (longest, per_decode) = (u64::from(self.limits.max_sequence_length), self.limits.tokens_per_decode());
        let others = u64::from(self.limits.max_requests) - 1;
        let most = others.saturating_mul(longest.max(per_decode)).saturating_add(longest);
        u32::try_from(most).unwrap_or(u32::MAX)
    }
}

/// The largest token count of a ladder, once the limits allow every decode batch a point.
fn checked_ceiling(limits: &Limits, policy: &Policy) -> Result<u32, PlanError> {
    let (ceiling, needed) = (policy.token_ceiling.resolve(limits), limits.decode_tokens());
    if u64::from(ceiling) < needed {
        return Err(PlanError::CeilingBelowDecodes {
            ceiling: ceiling.into(),
            needed,
            max_requests: limits.max_requests,
            speculative_tokens: limits.speculative_tokens,
        });
    }
    Ok(ceiling)
}

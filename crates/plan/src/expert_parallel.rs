//! Matching for a group of ranks that exchange tokens with each other.

use crate::matcher::{Match, Matcher, Matching};
use crate::miss::MissReason;
use crate::point::StepShape;

/// What each rank of an expert-parallel group does, all ranks having captured the same plan.
///
/// `synchronise` is for dispatchers that need the same token count on every rank: in a group of more than one, a prefill
/// anywhere sends every rank to eager, and otherwise each rank matches the largest token count of all with its own
/// requests. Without it each rank matches alone. (Megatron-LM, the adjustment of batch dimensions for expert parallelism.)
#[must_use]
pub fn match_expert_parallel(
    matcher: &Matcher,
    ranks: &[StepShape],
    matching: Matching,
    synchronise: bool,
) -> Vec<Match> {
    if !synchronise || ranks.len() < 2 {
        return ranks.iter().map(|&step| matcher.find(step, matching)).collect();
    }
    if ranks.iter().any(|step| step.prefills > 0) {
        return vec![Match::Eager { reason: MissReason::PrefillInGroup }; ranks.len()];
    }
    let tokens = ranks.iter().map(|step| step.tokens).max().unwrap_or(0);
    ranks.iter().map(|step| matcher.find(StepShape { tokens, ..*step }, matching)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::GridPoint;

    #[test]
    fn slack_is_counted_from_the_agreed_tokens() {
        let points = [4, 8].map(|size| GridPoint { tokens: size, prefills: 0, decodes: size });
        let matcher = Matcher::new(&points);
        let ranks = [2, 7].map(|size| StepShape { tokens: size, prefills: 0, decodes: size });
        let matched = |synchronise| {
            let found = match_expert_parallel(&matcher, &ranks, Matching::NonStrict, synchronise);
            found.iter().map(Match::point).collect::<Vec<_>>()
        };
        assert_eq!(matched(true), [Some(points[1]), Some(points[1])]);
        assert_eq!(matched(false), [Some(points[0]), Some(points[1])]);
        let with_prefill = [ranks[0], StepShape { tokens: 1, prefills: 1, decodes: 0 }];
        let eager = match_expert_parallel(&matcher, &with_prefill, Matching::NonStrict, true);
        assert_eq!(eager, [Match::Eager { reason: MissReason::PrefillInGroup }; 2]);
    }
}

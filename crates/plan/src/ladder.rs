//! Token counts: the descending sizes of one phase.

use crate::error::PlanError;
use crate::planner::MAX_CANDIDATES;
use crate::policy::GraphCount;
use crate::ratio::Ratio;
use crate::sizing::LadderLaw;

/// Every size under the exponential law is a multiple of it, the largest and the smallest excepted.
const ROUNDER: u64 = 2;
/// Batch-invariant sizes are multiples of it.
pub(crate) const BATCH_INVARIANT_ROUNDER: u64 = 64;

/// The token counts that reach from `max_tokens` down, in descending order, each a multiple of `tensor_parallel` except
/// that the automatic linear ladder keeps its largest as it is.
///
/// [`LadderLaw::Exponential`] and [`LadderLaw::Linear`] are the reference's, their edges included: a `max_tokens` below
/// `tensor_parallel` gives a size 0, and a `max_tokens` of 1 with room for two sizes gives `[2, 1]`.
/// [`plan()`](crate::plan()) filters such sizes out. [`LadderLaw::Geometric`] keeps neighbours `a < b` within `b <= a * ratio`,
/// or adjacent multiples of the alignment, so that no count above the smallest size is padded by more than the ratio, but for
/// alignment; [`GraphCount::Count`] cuts it as it cuts the exponential ladder, from the small end, the smallest excepted.
/// [`GraphCount::None`] gives no sizes.
///
/// # Errors
/// A count, a `max_tokens` or a `tensor_parallel` below 1; more than [`MAX_CANDIDATES`] sizes; sizes beyond `u32`.
pub fn ladder(
    law: LadderLaw,
    graph_count: GraphCount,
    max_tokens: u32,
    tensor_parallel: u32,
    batch_invariant: bool,
) -> Result<Vec<u32>, PlanError> {
    let count = match graph_count.normalised() {
        GraphCount::None => return Ok(Vec::new()),
        GraphCount::Auto => None,
        GraphCount::Count(count) => match u64::try_from(count) {
            Ok(count @ 1..) => Some(count),
            _ => return Err(PlanError::GraphCountTooSmall { count }),
        },
    };
    if tensor_parallel == 0 {
        return Err(PlanError::NoTensorParallel);
    }
    if max_tokens == 0 {
        return Err(PlanError::NoTokens);
    }
    let (largest, alignment) = (u64::from(max_tokens), u64::from(tensor_parallel));
    let sizes = match (law, count) {
        (LadderLaw::Exponential, _) => {
            let count = count.unwrap_or_else(|| (u64::from(max_tokens.max(2).ilog2()) + 2).max(4));
            exponential(largest, count, alignment, batch_invariant)
        }
        (LadderLaw::Linear, None) => linear_automatic(largest, alignment, batch_invariant)?,
        (LadderLaw::Linear, Some(count)) => linear(largest, count, alignment)?,
        (LadderLaw::Geometric(ratio), _) if batch_invariant => {
            let largest = round_down(largest, alignment);
            let aligned = largest.next_multiple_of(BATCH_INVARIANT_ROUNDER);
            let multiple = least_common_multiple(BATCH_INVARIANT_ROUNDER, alignment);
            let mut sizes = geometric(ratio, aligned, multiple, count)?;
            // The planner aligns the largest, once it knows that a batch fills it.
            if let Some(first) = sizes.first_mut() {
                *first = largest;
            }
            sizes
        }
        (LadderLaw::Geometric(ratio), _) => geometric(ratio, round_down(largest, alignment), alignment, count)?,
    };
    sizes.into_iter().map(|tokens| u32::try_from(tokens).map_err(|_| PlanError::TokensOutOfRange { tokens })).collect()
}

/// Halves the running value, which is never rounded itself, and rounds what it emits.
fn exponential(largest: u64, count: u64, alignment: u64, batch_invariant: bool) -> Vec<u64> {
    let (rounder, largest) = if batch_invariant {
        (BATCH_INVARIANT_ROUNDER, largest.next_multiple_of(BATCH_INVARIANT_ROUNDER))
    } else {
        (ROUNDER, largest)
    };
    let largest = round_down(largest, alignment);
    if count == 1 {
        return vec![largest];
    }
    let mut sizes = vec![largest, if batch_invariant { BATCH_INVARIANT_ROUNDER } else { alignment }];
    let mut value = largest;
    for _ in 0..count {
        sizes.push(round_down(value, rounder).max(rounder).next_multiple_of(alignment));
        value /= 2;
        if value == 0 {
            break;
        }
    }
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.dedup();
    // What is too many goes from the small end, but the smallest stays.
    while sizes.len() as u64 > count {
        sizes.remove(sizes.len() - 2);
    }
    sizes
}

/// 1, 2, 4, then every 8 below 256, then every 16.
fn linear_automatic(largest: u64, alignment: u64, batch_invariant: bool) -> Result<Vec<u64>, PlanError> {
    check_candidates(largest / 16)?;
    let candidates = [1, 2, 4].into_iter().chain((8..256).step_by(8)).chain((256..=largest).step_by(16));
    let mut sizes: Vec<u64> = candidates
        .map(|size: u64| if batch_invariant { size.next_multiple_of(BATCH_INVARIANT_ROUNDER) } else { size })
        .map(|size| size.next_multiple_of(alignment))
        .filter(|&size| size <= largest)
        .collect();
    sizes.push(largest);
    sizes.dedup();
    sizes.reverse();
    Ok(sizes)
}

/// Multiples of an even step, and the largest.
fn linear(largest: u64, count: u64, alignment: u64) -> Result<Vec<u64>, PlanError> {
    let step = (largest / count).next_multiple_of(2).next_multiple_of(alignment).max(alignment);
    let largest = round_down(largest, alignment);
    if count == 1 {
        return Ok(vec![largest]);
    }
    check_candidates(largest / step)?;
    let mut sizes: Vec<u64> = (1..).map(|i| i * step).take_while(|&size| size < largest).collect();
    sizes.push(largest);
    sizes.reverse();
    Ok(sizes)
}

/// From `largest` down to `alignment`, in multiples of it below the largest.
pub(crate) fn geometric(ratio: Ratio, largest: u64, alignment: u64, count: Option<u64>) -> Result<Vec<u64>, PlanError> {
    let sizes = std::iter::successors(Some(largest), |&size| Some(ratio.below(size, alignment)));
    let sizes = sizes.take_while(|&size| size > 0);
    let Some(count) = count else {
        let sizes: Vec<u64> = sizes.take(MAX_CANDIDATES as usize + 1).collect();
        check_candidates(sizes.len() as u64)?;
        return Ok(sizes);
    };
    let most = usize::try_from(count.min(MAX_CANDIDATES + 1)).unwrap_or(usize::MAX);
    let mut sizes: Vec<u64> = sizes.take(most).collect();
    check_candidates(sizes.len() as u64)?;
    // What is too many goes from the small end, but the smallest stays.
    match sizes.as_mut_slice() {
        [_, .., smallest] if *smallest > alignment => *smallest = alignment,
        _ => {}
    }
    Ok(sizes)
}

pub(crate) fn least_common_multiple(a: u64, b: u64) -> u64 {
    a / greatest_common_divisor(a, b) * b
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

pub(crate) fn check_candidates(candidates: u64) -> Result<(), PlanError> {
    if candidates > MAX_CANDIDATES {
        return Err(PlanError::TooManyCandidates { candidates, limit: MAX_CANDIDATES });
    }
    Ok(())
}

pub(crate) fn round_down(value: u64, multiple: u64) -> u64 {
    value - value % multiple
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(law: LadderLaw, count: GraphCount, max_tokens: u32) -> Vec<u32> {
        ladder(law, count, max_tokens, 1, false).expect("a ladder")
    }

    #[test]
    fn halving_is_of_the_unrounded_value() {
        let sizes = of(LadderLaw::Exponential, GraphCount::Auto, 396);
        assert_eq!(sizes, [396, 198, 98, 48, 24, 12, 6, 2, 1]);
    }

    #[test]
    fn what_is_too_many_goes_from_the_small_end() {
        assert_eq!(of(LadderLaw::Exponential, GraphCount::Count(4), 80), [80, 40, 20, 1]);
        assert_eq!(of(LadderLaw::Exponential, GraphCount::Count(1), 80), [80]);
    }

    #[test]
    fn the_references_edges_are_kept() {
        assert_eq!(of(LadderLaw::Exponential, GraphCount::Count(2), 1), [2, 1]);
        assert_eq!(ladder(LadderLaw::Exponential, GraphCount::Count(3), 5, 8, false), Ok(vec![8, 0]));
        assert_eq!(ladder(LadderLaw::Linear, GraphCount::Count(16), 1, 8, false), Ok(vec![0]));
    }

    #[test]
    fn linear_steps_are_even_and_end_at_the_largest() {
        assert_eq!(of(LadderLaw::Linear, GraphCount::Count(4), 30), [30, 24, 16, 8]);
        assert_eq!(of(LadderLaw::Linear, GraphCount::Auto, 20), [20, 16, 8, 4, 2, 1]);
        assert!(of(LadderLaw::Linear, GraphCount::None, 20).is_empty());
    }

    #[test]
    fn values_at_the_integer_limits_neither_overflow_nor_loop() {
        let extremes = [0, 1, 2, 63, 64, 65, u32::MAX - 63, u32::MAX - 1, u32::MAX];
        let counts = [i64::MIN, -2, -1, 0, 1, 2, 64, 1_000_000_000_000, i64::MAX].map(GraphCount::Count);
        for (law, invariant) in [LadderLaw::Exponential, LadderLaw::Linear, LadderLaw::Geometric(Ratio::TWO)]
            .into_iter()
            .flat_map(|s| [(s, false), (s, true)])
        {
            for (max_tokens, tensor_parallel) in extremes.iter().flat_map(|&m| extremes.map(|tp| (m, tp))) {
                for count in counts {
                    let sizes = ladder(law, count, max_tokens, tensor_parallel, invariant).unwrap_or_default();
                    assert!(sizes.is_sorted_by(|a, b| a > b), "{law:?} {count} {max_tokens} {tensor_parallel}");
                    assert!(sizes.len() as u64 <= MAX_CANDIDATES + 64);
                }
            }
        }
    }

    #[test]
    fn nothing_to_halve_is_an_error() {
        let at =
            |count, max_tokens, tp| ladder(LadderLaw::Exponential, GraphCount::Count(count), max_tokens, tp, false);
        assert_eq!(at(-2, 80, 1), Err(PlanError::GraphCountTooSmall { count: -2 }));
        assert_eq!(at(0, 80, 1), Err(PlanError::GraphCountTooSmall { count: 0 }));
        assert_eq!(at(4, 0, 1), Err(PlanError::NoTokens));
        assert_eq!(at(4, 80, 0), Err(PlanError::NoTensorParallel));
    }
}

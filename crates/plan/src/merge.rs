//! Points whose captured kernels are the same, and plans without them.

use std::collections::BTreeMap;

use crate::matcher::Matching;
use crate::plan::Plan;
use crate::point::GridPoint;

/// What the kernels of a model of attention layers depend on: points that agree in it launch the same kernels with the same
/// geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelKey {
    /// T.
    pub tokens: u32,
    /// P + D.
    pub requests: u64,
    /// Whether P > 0.
    pub prefills: bool,
}

impl KernelKey {
    /// The key of a point.
    #[must_use]
    pub fn of(point: &GridPoint) -> Self {
        Self { tokens: point.tokens, requests: point.requests(), prefills: point.prefills > 0 }
    }
}

/// Whether every step that fits `point` fits `other` too.
pub(crate) fn covers(other: &GridPoint, point: &GridPoint, matching: Matching) -> bool {
    (other.prefills > 0) == (point.prefills > 0)
        && other.tokens >= point.tokens
        && other.prefills >= point.prefills
        && slots(other, matching) >= slots(point, matching)
}

/// What a step's requests are held against beside P.
fn slots(point: &GridPoint, matching: Matching) -> u64 {
    match matching {
        Matching::NonStrict if point.prefills > 0 => point.requests(),
        _ => point.decodes.into(),
    }
}

impl Plan {
    /// The plan without the points that another point of the same key stands for, in the same order.
    ///
    /// A step that matched a point matches one of the same key afterwards, as long as it is matched by the same rule. A point
    /// is therefore dropped only if a later one in the matcher's order (T, P, D) has its key and takes all its steps, and only
    /// points of that key lie between the two: under [`KernelKey`] and [`Matching::NonStrict`] that leaves the point with the
    /// most prefill slots of each token count in plans whose D is the rest, and there [`Plan::len`] becomes
    /// [`Plan::distinct`]. On other grids a few identical points may stay, each preferred by the matcher to a larger one.
    /// Under [`Matching::Strict`] few points stand for others.
    #[must_use]
    pub fn merge_identical<K: PartialEq>(&self, matching: Matching, key: impl Fn(&GridPoint) -> K) -> Self {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(self.points()[index]));
        let mut kept = vec![true; self.len()];
        let mut run: Option<(K, [Frontier; 2])> = None;
        for index in order {
            let point = &self.points()[index];
            let key = key(point);
            let (_, frontiers) = match &mut run {
                Some(current) if current.0 == key => current,
                other => other.insert((key, Default::default())),
            };
            kept[index] = frontiers[usize::from(point.prefills > 0)].insert(point.prefills, slots(point, matching));
        }
        let points = self.points().iter().zip(&kept).filter(|(_, kept)| **kept).map(|(point, _)| *point);
        Self::from_points(points.collect())
    }
}

/// Of points that come in descending T, those that none before covers: ascending P, descending slots.
#[derive(Debug, Default)]
struct Frontier(BTreeMap<u32, u64>);

impl Frontier {
    /// Adds a point, unless one before covers it.
    fn insert(&mut self, prefills: u32, slots: u64) -> bool {
        // The nearest point with at least as many prefill slots has the most other slots of all such.
        if self.0.range(prefills..).next().is_some_and(|(_, &most)| most >= slots) {
            return false;
        }
        while let Some((&below, &fewer)) = self.0.range(..=prefills).next_back()
            && fewer <= slots
        {
            self.0.remove(&below);
        }
        self.0.insert(prefills, slots);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::plan;
    use crate::policy::{Limits, Policy};

    fn merged(list: &[(u32, u32, u32)], matching: Matching) -> Vec<(u32, u32, u32)> {
        let points = list.iter().map(|&(tokens, prefills, decodes)| GridPoint { tokens, prefills, decodes }).collect();
        let merged = Plan::from_points(points).merge_identical(matching, KernelKey::of);
        merged.points().iter().map(|point| (point.tokens, point.prefills, point.decodes)).collect()
    }

    #[test]
    fn the_headline_plan_has_17_kernels() {
        let plan = plan(&Limits::default(), &Policy::default()).expect("a plan");
        let merged = plan.merge_identical(Matching::NonStrict, KernelKey::of);
        assert_eq!((plan.len(), plan.distinct(), merged.len(), merged.distinct()), (60, 17, 17, 17));
        let most_prefills = merged.points().iter().filter(|point| point.prefills > 0);
        assert!(most_prefills.clone().all(|point| point.prefills == point.tokens.min(396)), "{merged:?}");
        assert_eq!(plan.merge_identical(Matching::Strict, KernelKey::of), plan);
    }

    #[test]
    fn the_point_that_takes_all_steps_stays() {
        let list = [(64, 8, 8), (64, 1, 15), (64, 4, 12), (16, 0, 16)];
        assert_eq!(merged(&list, Matching::NonStrict), [(64, 8, 8), (16, 0, 16)]);
        assert_eq!(merged(&list, Matching::Strict), list);
        assert_eq!(merged(&[(8, 0, 8), (8, 0, 8)], Matching::Strict), [(8, 0, 8)]);
        // Without the first, steps that matched it would match the second, which has other kernels.
        let between = [(64, 1, 15), (64, 4, 60), (64, 8, 8)];
        assert_eq!(merged(&between, Matching::NonStrict), between);
    }

    #[test]
    fn a_key_of_ones_own_may_ignore_requests() {
        let plan = plan(&Limits::default(), &Policy::default()).expect("a plan");
        let key = |point: &GridPoint| (point.tokens, point.prefills > 0);
        assert_eq!(plan.distinct_by(key), plan.merge_identical(Matching::NonStrict, key).len());
        assert_eq!(plan.distinct_by(|_| ()), 1);
        // Neither kind of point stands for the other, whatever the key says.
        assert_eq!(plan.merge_identical(Matching::NonStrict, |_| ()).len(), 2);
    }
}

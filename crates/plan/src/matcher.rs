//! Real batch to captured point.

use crate::miss::MissReason;
use crate::point::{GridPoint, Slack, StepShape};
use crate::successor::{NO_ROWS, Need, Offer, Root, Successor};

/// Rows that are looked at one by one before the index is: most steps replay one of them.
const NEAR: usize = 8;

/// Whether a decode may take a prefill slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Matching {
    /// No: P >= p and D >= d. For models whose decodes and prefills run different kernels over their slots, as recurrent
    /// layers do.
    Strict,
    /// A surplus decode may, in a step that has prefills: P >= p and P + D >= p + d. For pure attention.
    #[default]
    NonStrict,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Match {
    /// It replays the graph of a point.
    Replay {
        /// The point's position in the list that the matcher was made from; the first, if the point is listed twice.
        index: usize,
        /// The point.
        point: GridPoint,
        /// What the replay pads.
        slack: Slack,
    },
    /// It runs eagerly.
    Eager {
        /// Why no point fits.
        reason: MissReason,
    },
}

impl Match {
    /// The point that is replayed, if one is.
    #[must_use]
    pub fn point(&self) -> Option<GridPoint> {
        match self {
            Self::Replay { point, .. } => Some(*point),
            Self::Eager { .. } => None,
        }
    }
}

/// Finds the point that a step replays, in O(log n) and without allocation.
///
/// A point fits a step `(t, p, d)` if T >= t and its slots hold the requests as [`Matching`] says; a step without prefills
/// fits decode-only points alone (P = 0, D >= d). Of the points that fit, the smallest by (T, P, D) is taken. These are the
/// rules of Megatron-LM's matcher, and the answers are exactly those of a scan over all points, whatever the points are.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// Ascending by (T, P, D).
    rows: Vec<GridPoint>,
    /// T of each row: the binary search stays within few cache lines.
    tokens: Vec<u32>,
    /// Each row's position in the list given.
    indices: Vec<usize>,
    /// Ascending by `prefills`: the rows with P >= `prefills`, for every P > 0 that occurs.
    classes: Vec<Class>,
    decode_only: Class,
    successor: Successor,
}

#[derive(Debug, Clone, Copy)]
struct Class {
    prefills: u32,
    root: Root,
    largest_tokens: u32,
}

impl Matcher {
    /// Prepares the points, in any order, in O(n log n) time and memory.
    ///
    /// # Panics
    /// With more points than 2^27, for which its index has no room.
    #[must_use]
    pub fn new(points: &[GridPoint]) -> Self {
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.sort_by_key(|&index| points[index]);
        let rows: Vec<GridPoint> = order.iter().map(|&index| points[index]).collect();

        let mut successor = Successor::new(rows.len());
        let mut by_prefills: Vec<usize> = (0..rows.len()).collect();
        by_prefills.sort_by_key(|&row| std::cmp::Reverse(rows[row].prefills));
        let mut classes: Vec<Class> = Vec::new();
        let mut decode_only = Class { prefills: 0, root: NO_ROWS, largest_tokens: 0 };
        let mut mixed = decode_only;
        for group in by_prefills.chunk_by(|&a, &b| rows[a].prefills == rows[b].prefills) {
            let offers: Vec<(usize, Offer)> = group.iter().map(|&row| (row, offer(&rows[row]))).collect();
            let prefills = rows[group[0]].prefills;
            let base = if prefills == 0 { decode_only } else { mixed };
            let root = successor.extend(base.root, &offers);
            let largest = group.iter().map(|&row| rows[row].tokens).max().unwrap_or(0);
            let class = Class { prefills, root, largest_tokens: largest.max(base.largest_tokens) };
            if prefills == 0 {
                decode_only = class;
            } else {
                mixed = class;
                classes.push(class);
            }
        }
        classes.reverse();

        let tokens = rows.iter().map(|point| point.tokens).collect();
        Self { rows, tokens, indices: order, classes, decode_only, successor }
    }

    /// What the step does.
    #[must_use]
    pub fn find(&self, step: StepShape, matching: Matching) -> Match {
        self.find_counts(step.tokens.into(), step.prefills.into(), step.decodes.into(), matching)
    }

    /// The same for counts beyond those of any real batch.
    #[must_use]
    pub fn find_counts(&self, tokens: u64, prefills: u64, decodes: u64, matching: Matching) -> Match {
        let start = self.tokens.partition_point(|&row| u64::from(row) < tokens);
        let found = if prefills == 0 {
            let fits = |point: &GridPoint| point.prefills == 0 && u64::from(point.decodes) >= decodes;
            self.first(start, Need::Decodes(decodes), fits, || Some(self.decode_only.root))
        } else {
            let root = || self.class(prefills).map(|class| class.root);
            match matching {
                Matching::Strict => {
                    let fits = |point: &GridPoint| {
                        u64::from(point.prefills) >= prefills && u64::from(point.decodes) >= decodes
                    };
                    self.first(start, Need::Decodes(decodes), fits, root)
                }
                Matching::NonStrict => {
                    let requests = prefills.saturating_add(decodes);
                    let fits =
                        |point: &GridPoint| u64::from(point.prefills) >= prefills && point.requests() >= requests;
                    self.first(start, Need::Requests(requests), fits, root)
                }
            }
        };
        match found {
            Some(row) => self.replay(row, tokens, prefills, decodes),
            None => Match::Eager { reason: self.reason(tokens, prefills, decodes, matching) },
        }
    }

    /// The first row from `start` on that fits. `root` is the class of the rows that `fits` may hold for, if there are any.
    fn first(
        &self,
        start: usize,
        need: Need,
        fits: impl Fn(&GridPoint) -> bool,
        root: impl FnOnce() -> Option<Root>,
    ) -> Option<usize> {
        let far = self.rows.len().min(start + NEAR);
        if let Some(row) = (start..far).find(|&row| fits(&self.rows[row])) {
            return Some(row);
        }
        self.successor.first(root()?, far, self.rows.len(), need, |row| fits(&self.rows[row]))
    }

    /// The rows with P >= `prefills`, which is above 0.
    fn class(&self, prefills: u64) -> Option<&Class> {
        self.classes.get(self.classes.partition_point(|class| u64::from(class.prefills) < prefills))
    }

    fn replay(&self, row: usize, tokens: u64, prefills: u64, decodes: u64) -> Match {
        let point = self.rows[row];
        // The row fits: tokens and prefills are within it, and decodes are at most P + D.
        let slack = Slack {
            tokens: (u64::from(point.tokens) - tokens) as u32,
            prefills: (u64::from(point.prefills) - prefills) as u32,
            decodes: i64::from(point.decodes) - decodes as i64,
        };
        Match::Replay { index: self.indices[row], point, slack }
    }

    fn reason(&self, tokens: u64, prefills: u64, decodes: u64, matching: Matching) -> MissReason {
        if self.rows.is_empty() {
            return MissReason::NoPoints;
        }
        let class = if prefills == 0 { Some(&self.decode_only) } else { self.class(prefills) };
        let most = class.and_then(|class| Some((class, self.successor.most(class.root)?)));
        let Some((class, most)) = most else {
            return if prefills == 0 { MissReason::NoDecodeOnlyPoints } else { MissReason::Prefills { prefills } };
        };
        if tokens > class.largest_tokens.into() {
            let ceiling = class.largest_tokens;
            // The ceiling of all points with prefill slots, unless asking for so many of them lowers it.
            let lowered = self.class(1).is_none_or(|all| all.largest_tokens > ceiling);
            return MissReason::Tokens { tokens, ceiling, prefills: if lowered { prefills } else { prefills.min(1) } };
        }
        let requests = prefills.saturating_add(decodes);
        match matching {
            Matching::NonStrict if prefills > 0 => {
                if requests > most.requests {
                    return MissReason::Requests { requests, prefills };
                }
            }
            _ => {
                if decodes > most.decodes {
                    return MissReason::Decodes { decodes, prefills };
                }
            }
        }
        MissReason::Together { tokens, prefills, decodes, matching }
    }
}

fn offer(point: &GridPoint) -> Offer {
    Offer { decodes: point.decodes.into(), requests: point.requests() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(list: &[(u32, u32, u32)]) -> Vec<GridPoint> {
        list.iter().map(|&(tokens, prefills, decodes)| GridPoint { tokens, prefills, decodes }).collect()
    }

    fn find(list: &[(u32, u32, u32)], step: &str, matching: Matching) -> Result<String, String> {
        match Matcher::new(&points(list)).find(step.parse().expect("a step"), matching) {
            Match::Replay { index, slack, .. } => Ok(format!("{index}: {slack}")),
            Match::Eager { reason } => Err(reason.to_string()),
        }
    }

    const PLAN: &[(u32, u32, u32)] = &[(64, 4, 12), (64, 8, 8), (64, 1, 15), (16, 0, 16), (8, 0, 8)];

    #[test]
    fn the_smallest_point_that_fits_is_replayed() {
        assert_eq!(find(PLAN, "7:0:7", Matching::NonStrict), Ok("4: 1 T, 0 P, 1 D".into()));
        assert_eq!(find(PLAN, "40:2:3", Matching::NonStrict), Ok("0: 24 T, 2 P, 9 D".into()));
        assert_eq!(find(PLAN, "40:1:3", Matching::Strict), Ok("2: 24 T, 0 P, 12 D".into()));
    }

    #[test]
    fn surplus_decodes_take_prefill_slots_unless_strict() {
        assert_eq!(find(PLAN, "40:2:14", Matching::NonStrict), Ok("0: 24 T, 2 P, -2 D".into()));
        let reason = "no point has P >= 2 and D >= 14";
        assert_eq!(find(PLAN, "40:2:14", Matching::Strict), Err(reason.into()));
    }

    #[test]
    fn a_miss_says_which_count_is_too_large() {
        let miss = |list, step, matching| find(list, step, matching).expect_err(step);
        assert_eq!(miss(&[], "1:0:1", Matching::Strict), "the plan has no points");
        assert_eq!(miss(&[(8, 1, 7)], "1:0:1", Matching::Strict), "the plan has no decode-only point");
        assert_eq!(miss(PLAN, "10:9:0", Matching::Strict), "no point has P >= 9");
        assert_eq!(miss(PLAN, "65:1:0", Matching::Strict), "tokens 65 above the ceiling 64");
        let taller = &[(64, 8, 8), (128, 4, 12)];
        assert_eq!(
            miss(taller, "65:5:0", Matching::Strict),
            "tokens 65 above the ceiling 64 of the points with P >= 5"
        );
        assert_eq!(miss(taller, "129:3:0", Matching::Strict), "tokens 129 above the ceiling 128");
        assert_eq!(miss(PLAN, "17:0:3", Matching::Strict), "tokens 17 above the ceiling 16 of the decode-only points");
        assert_eq!(miss(PLAN, "9:0:17", Matching::NonStrict), "no decode-only point has D >= 17");
        assert_eq!(miss(PLAN, "9:3:14", Matching::NonStrict), "no point has P >= 3 and P + D >= 17");
        let cross = &[(9, 0, 2), (3, 0, 8), (9, 2, 2), (3, 2, 8)];
        assert_eq!(miss(cross, "8:0:3", Matching::Strict), "no decode-only point has T >= 8 and D >= 3 together");
        assert_eq!(miss(cross, "8:1:3", Matching::Strict), "no point has T >= 8, P >= 1 and D >= 3 together");
        assert_eq!(miss(cross, "8:1:4", Matching::NonStrict), "no point has T >= 8, P >= 1 and P + D >= 5 together");
    }

    #[test]
    fn counts_beyond_any_batch_are_answered() {
        let matcher = Matcher::new(&points(&[(u32::MAX, u32::MAX, u32::MAX), (u32::MAX, 0, u32::MAX)]));
        let most = StepShape { tokens: u32::MAX, prefills: u32::MAX, decodes: u32::MAX };
        let slack = Slack { tokens: 0, prefills: 0, decodes: 0 };
        assert!(matches!(matcher.find(most, Matching::Strict), Match::Replay { slack: found, .. } if found == slack));
        for huge in [1 << 32, 1_000_000_000_000, u64::MAX] {
            for matching in [Matching::Strict, Matching::NonStrict] {
                assert_eq!(matcher.find_counts(huge, 1, 1, matching).point(), None);
                assert_eq!(matcher.find_counts(1, huge, 1, matching).point(), None);
                assert_eq!(matcher.find_counts(1, 0, huge, matching).point(), None);
                assert_eq!(matcher.find_counts(huge, huge, huge, matching).point(), None);
            }
        }
        // Surplus decodes beyond u32 still find the prefill slots of the one point that has them.
        let spilled = matcher.find_counts(1, 1, 1 << 32, Matching::NonStrict);
        assert!(matches!(spilled, Match::Replay { slack: Slack { decodes: -1, .. }, .. }), "{spilled:?}");
    }
}

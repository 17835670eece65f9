//! The exact choice of sizes between two that are given.

use std::ops::{Add, Sub};

/// A sum over steps, smaller being better: time first, then tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Total {
    pub(crate) picoseconds: i128,
    pub(crate) tokens: i128,
}

impl Add for Total {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { picoseconds: self.picoseconds + other.picoseconds, tokens: self.tokens + other.tokens }
    }
}

impl Sub for Total {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { picoseconds: self.picoseconds - other.picoseconds, tokens: self.tokens - other.tokens }
    }
}

/// A size that may be chosen, and the steps that find none smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The size in the list of sizes.
    pub(crate) size: u32,
    /// What a step that takes this size costs, neither less than for the candidate before.
    pub(crate) picoseconds: u64,
    pub(crate) tokens: u32,
    /// Steps whose size this is, so that the candidate before is too small for them.
    pub(crate) count: u64,
}

/// Candidates in ascending order, of which the last is always chosen: the steps of a segment all find a size in it.
#[derive(Debug)]
pub(crate) struct Segment {
    candidates: Vec<Candidate>,
    /// Steps before each candidate, and altogether.
    before: Vec<u64>,
    /// At k: the least total with k sizes besides the last.
    totals: Vec<Total>,
    /// At k and i: where the largest size stands below the i-th candidate when that is the largest of k + 1, plus one; 0
    /// for none.
    choices: Vec<Vec<u32>>,
}

impl Segment {
    /// How many cells [`Segment::new`] fills for so many candidates.
    pub(crate) fn work(candidates: usize, most: usize) -> u128 {
        most.min(candidates - 1) as u128 * candidates as u128
    }

    /// Finds the best choices of 0 to `most` sizes besides the last. `candidates` is not empty.
    ///
    /// The steps between two neighbouring sizes i < j cost `w(i, j) = c(j) * (N(j) - N(i))`: each takes j, c(j) being its
    /// total and N counting the steps up to a candidate. Then `w(a,c) + w(b,d) <= w(a,d) + w(b,c)` for a <= b <= c <= d,
    /// because the difference is `(c(d) - c(c)) * (N(b) - N(a))` and neither c nor N decreases; totals are ordered by time
    /// and then by tokens, and neither part of c decreases. So the best i for j moves up with j, and each layer is filled by
    /// divide and conquer in O(n log n) (Yao 1980; Galil and Park 1992).
    pub(crate) fn new(candidates: Vec<Candidate>, most: usize) -> Self {
        let mut before = vec![0];
        for candidate in &candidates {
            before.push(before[before.len() - 1] + candidate.count);
        }
        let last = candidates.len();
        let mut segment = Self { candidates, before, totals: Vec::new(), choices: Vec::new() };
        // At j: the least total of the steps up to the j-th candidate (from 1) with k sizes and that one.
        let mut layer: Vec<Total> =
            (0..=last).map(|j| if j == 0 { Total::default() } else { segment.cost(0, j) }).collect();
        segment.totals.push(layer[last]);
        segment.choices.push(vec![0; last]);
        for smaller in 1..=most.min(last - 1) {
            let mut next = vec![Total::default(); last + 1];
            let mut choice = vec![0; last];
            segment.fill(&layer, &mut next, &mut choice, (smaller + 1, last), (smaller, last - 1));
            segment.totals.push(next[last]);
            segment.choices.push(choice);
            layer = next;
        }
        segment
    }

    /// What the steps above the i-th candidate and up to the j-th cost with the j-th as their size.
    fn cost(&self, i: usize, j: usize) -> Total {
        let Candidate { picoseconds, tokens, .. } = self.candidates[j - 1];
        let steps = i128::from(self.before[j] - self.before[i]);
        Total { picoseconds: i128::from(picoseconds) * steps, tokens: i128::from(tokens) * steps }
    }

    /// Fills `next` for the candidates `from..=to`, whose best predecessors are among `low..=high`.
    fn fill(
        &self,
        layer: &[Total],
        next: &mut [Total],
        choice: &mut [u32],
        (from, to): (usize, usize),
        (low, high): (usize, usize),
    ) {
        if from > to {
            return;
        }
        let middle = from.midpoint(to);
        let totals = (low..=high.min(middle - 1)).map(|i| (layer[i] + self.cost(i, middle), i));
        let (total, best) = totals.min().expect("a predecessor: low is below every candidate of the range");
        next[middle] = total;
        choice[middle - 1] = best as u32;
        self.fill(layer, next, choice, (from, middle - 1), (low, best));
        self.fill(layer, next, choice, (middle + 1, to), (best, high));
    }

    /// What one more size saves, with `sizes` of them besides the last. None if there is no other candidate.
    ///
    /// It never grows with `sizes`: the least total of k edges is convex in k wherever the costs of edges obey the
    /// inequality of [`Segment::new`] (Aggarwal, Schieber and Tokuyama 1994).
    pub(crate) fn gain(&self, sizes: usize) -> Option<Total> {
        Some(self.totals[sizes] - *self.totals.get(sizes + 1)?)
    }

    /// The best choice of so many sizes besides the last, and the last, in descending order.
    pub(crate) fn choose(&self, sizes: usize) -> Vec<u32> {
        let mut chosen = Vec::with_capacity(sizes + 1);
        let mut at = self.candidates.len();
        for smaller in (0..=sizes).rev() {
            chosen.push(self.candidates[at - 1].size);
            at = self.choices[smaller][at - 1] as usize;
        }
        chosen
    }
}

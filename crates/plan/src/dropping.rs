//! Which point of a plan is missed the least.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::matcher::Matching;
use crate::merge::covers;
use crate::point::GridPoint;

/// What dropping a point loses, the more important first.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Loss {
    /// Weighted tokens that are padded in addition. 0 without weights.
    weighted_tokens: f64,
    /// The largest factors by which a batch is padded.
    tokens: f64,
    slots: f64,
    prefills: f64,
}

impl Eq for Loss {}

impl PartialOrd for Loss {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Loss {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |loss: &Self| [loss.weighted_tokens, loss.tokens, loss.slots, loss.prefills];
        let pairs = key(self).into_iter().zip(key(other));
        pairs.map(|(own, others)| own.total_cmp(&others)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

/// The points of a plan of which some have been dropped.
pub(crate) struct Remaining {
    matching: Matching,
    /// Ascending by (T, P, D), the order in which the matcher prefers points.
    rows: Vec<GridPoint>,
    /// Each row's position in the list given, and back.
    indices: Vec<usize>,
    row_of: Vec<usize>,
    weights: Option<Vec<f64>>,
    kept: Vec<bool>,
    /// The rows whose own batch each row replays.
    clients: Vec<Vec<usize>>,
    /// Every kept row that may be dropped, with a loss that it has or had: losses only grow while rows are dropped.
    queue: BinaryHeap<Reverse<(Loss, usize)>>,
}

impl Remaining {
    pub(crate) fn new(points: &[GridPoint], matching: Matching, weights: Option<Vec<f64>>) -> Self {
        let mut indices: Vec<usize> = (0..points.len()).collect();
        indices.sort_by_key(|&index| points[index]);
        let mut row_of = vec![0; points.len()];
        for (row, &index) in indices.iter().enumerate() {
            row_of[index] = row;
        }
        let rows: Vec<GridPoint> = indices.iter().map(|&index| points[index]).collect();
        let mut remaining = Self {
            matching,
            indices,
            row_of,
            weights,
            kept: vec![true; rows.len()],
            clients: (0..rows.len()).map(|row| vec![row]).collect(),
            queue: BinaryHeap::new(),
            rows,
        };
        remaining.queue =
            (0..remaining.rows.len()).filter_map(|row| remaining.loss(row).map(|loss| Reverse((loss, row)))).collect();
        remaining
    }

    /// Drops the point that is missed the least, and says where it stood. None if each is needed.
    pub(crate) fn drop_least(&mut self) -> Option<usize> {
        while let Some(Reverse((old, row))) = self.queue.pop() {
            let Some(loss) = self.loss(row) else { continue };
            if loss > old {
                self.queue.push(Reverse((loss, row)));
                continue;
            }
            self.kept[row] = false;
            for client in std::mem::take(&mut self.clients[row]) {
                let heir = self.heir(client, row).expect("a loss was counted");
                self.clients[heir].push(client);
            }
            return Some(self.indices[row]);
        }
        None
    }

    /// Takes a point back. No more is dropped after that.
    pub(crate) fn restore(&mut self, index: usize) {
        self.kept[self.row_of[index]] = true;
    }

    /// What replays a batch of the size of a point that was dropped.
    pub(crate) fn replacement(&self, index: usize) -> Option<GridPoint> {
        let row = self.row_of[index];
        if self.kept[row] {
            return None;
        }
        self.heir(row, row).map(|heir| self.rows[heir])
    }

    /// What dropping a row loses. None if one of its batches would find no point.
    fn loss(&self, row: usize) -> Option<Loss> {
        let mut loss = Loss::default();
        for &client in &self.clients[row] {
            let (batch, heir) = (&self.rows[client], &self.rows[self.heir(client, row)?]);
            loss.tokens = loss.tokens.max(factor(heir.tokens.into(), batch.tokens.into()));
            loss.slots = loss.slots.max(factor(heir.requests(), batch.requests()));
            loss.prefills = loss.prefills.max(factor(heir.prefills.into(), batch.prefills.into()));
            if let Some(weights) = &self.weights {
                let more = f64::from(heir.tokens - self.rows[row].tokens);
                loss.weighted_tokens += weights[self.indices[client]] * more;
            }
        }
        Some(loss)
    }

    /// The first row after `after` that replays the batch of a row's size. None before `after` does.
    fn heir(&self, client: usize, after: usize) -> Option<usize> {
        let batch = &self.rows[client];
        (after + 1..self.rows.len()).find(|&row| self.kept[row] && covers(&self.rows[row], batch, self.matching))
    }
}

/// How many times `size` stands in `padded`; 1 for no size at all.
fn factor(padded: u64, size: u64) -> f64 {
    if size == 0 { 1.0 } else { padded as f64 / size as f64 }
}

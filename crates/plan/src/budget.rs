//! Plans within a budget of graphs, bytes and seconds, and what the points left out cost.

use std::time::Duration;

use thiserror::Error;

use crate::dropping::Remaining;
use crate::matcher::Matching;
use crate::plan::Plan;
use crate::point::GridPoint;

/// The most points of a plan that a budget is applied to: the work grows with the square of their number.
pub const MAX_BUDGETED_POINTS: usize = 1 << 15;

/// What a plan may cost at most. A budget that is absent does not bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Graphs.
    pub graphs: Option<u64>,
    /// Bytes of device memory that the graphs take.
    pub bytes: Option<u64>,
    /// Time to capture and instantiate them.
    pub capture_time: Option<Duration>,
}

/// What one graph costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GraphCost {
    /// Bytes of device memory.
    pub bytes: u64,
    /// Time to capture and instantiate it.
    pub capture_time: Duration,
}

impl GraphCost {
    /// A constant and so much for each of a graph's nodes.
    #[must_use]
    pub fn of_nodes(constant: Self, node: Self, nodes: u32) -> Self {
        Self {
            bytes: constant.bytes.saturating_add(node.bytes.saturating_mul(nodes.into())),
            capture_time: constant.capture_time.saturating_add(node.capture_time.saturating_mul(nodes)),
        }
    }
}

/// Why no plan is within a budget.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// A budget for nothing.
    #[error("the budget of {field} is `0`; it must be above 0")]
    Zero {
        /// Which budget.
        field: &'static str,
    },
    /// A number of seconds that is none.
    #[error("the budget of seconds is `{seconds}`; it must be a number above 0 that a clock can count")]
    Seconds {
        /// The number, in words.
        seconds: String,
    },
    /// Without the points that remain, batches that had a graph would have none.
    #[error(
        "the budget of {field} is `{budget}`; the {points} graphs without which some batch finds none take {needed}"
    )]
    TooSmall {
        /// Which budget.
        field: &'static str,
        /// It, in words.
        budget: String,
        /// What the points cost that cannot be dropped, in words.
        needed: String,
        /// How many these are.
        points: u64,
    },
    /// A weight that cannot be compared.
    #[error("the weight of points[{index}] is `{weight}`; it must be a finite number of at least 0")]
    Weight {
        /// The point's position.
        index: usize,
        /// Its weight, in words.
        weight: String,
    },
    /// A plan too large to choose from.
    #[error("the plan has {points} points; a budget is applied to at most {MAX_BUDGETED_POINTS}")]
    TooManyPoints {
        /// How many there are.
        points: usize,
    },
}

/// A plan within its budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Budgeted {
    /// What is left, in the same order.
    pub plan: Plan,
    /// What is not, in the order of the plan given.
    pub dropped: Vec<Dropped>,
    /// What the graphs left cost together.
    pub cost: GraphCost,
}

/// A point that was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// The point.
    pub point: GridPoint,
    /// What replays a batch of the point's own size now.
    pub replaced_by: GridPoint,
}

impl Dropped {
    /// How many times as many tokens its batches replay, at most.
    #[must_use]
    pub fn token_factor(&self) -> f64 {
        f64::from(self.replaced_by.tokens) / f64::from(self.point.tokens)
    }

    /// How many times as many request slots they replay, for a batch that fills the point.
    #[must_use]
    pub fn slot_factor(&self) -> f64 {
        self.replaced_by.requests() as f64 / self.point.requests() as f64
    }
}

impl Budgeted {
    /// The worst padding that the dropped points cause: no batch replays more than so many times the tokens that it would
    /// replay under the plan given. 1 where nothing with other tokens was dropped.
    #[must_use]
    pub fn worst_token_factor(&self) -> f64 {
        self.dropped.iter().map(Dropped::token_factor).fold(1.0, f64::max)
    }
}

impl Budget {
    /// The budget with this many seconds of capture.
    ///
    /// # Errors
    /// 0 and less, not a number, more than a clock can count.
    pub fn seconds(self, seconds: f64) -> Result<Self, BudgetError> {
        match Duration::try_from_secs_f64(seconds) {
            Ok(time) if !time.is_zero() => Ok(Self { capture_time: Some(time), ..self }),
            _ => Err(BudgetError::Seconds { seconds: seconds.to_string() }),
        }
    }

    /// Drops points until the rest is within the budget, the least useful first.
    ///
    /// A batch of each point's own size stands for the traffic. What dropping a point loses is the largest factor between the
    /// tokens that one of these batches replays afterwards and its own; of equal losses the smaller factor of request slots
    /// decides, then that of P, then the smaller point goes. With a weight for every point, the share of steps that it
    /// replays, the tokens that weighted batches pad in addition come first. The point whose loss is the least goes, losses
    /// being counted anew after each; a point without which a batch would find none, the largest of each kind among them,
    /// never goes. In the end, points that turn out to fit beside the rest come back, the last dropped first.
    ///
    /// # Errors
    /// A budget of 0, or below what cannot be dropped; weights that are no finite numbers of at least 0; plans of more than
    /// [`MAX_BUDGETED_POINTS`].
    pub fn apply(
        &self,
        plan: &Plan,
        matching: Matching,
        cost: impl Fn(&GridPoint) -> GraphCost,
        weight: Option<&dyn Fn(&GridPoint) -> f64>,
    ) -> Result<Budgeted, BudgetError> {
        let costs: Vec<GraphCost> = plan.points().iter().map(cost).collect();
        let own: Vec<usize> = (0..plan.len()).collect();
        self.apply_shared(plan, matching, &own, &costs, weight)
    }

    /// As [`Budget::apply`], for points that share graphs: the point at position `i` of the plan replays graph `graph_of[i]`, and a graph
    /// costs `costs[graph]` as long as one of its points is left. The budget of graphs counts graphs, not points.
    ///
    /// # Errors
    /// As [`Budget::apply`].
    ///
    /// # Panics
    /// If a point has no graph in `graph_of`, or a graph no cost.
    pub fn apply_shared(
        &self,
        plan: &Plan,
        matching: Matching,
        graph_of: &[usize],
        costs: &[GraphCost],
        weight: Option<&dyn Fn(&GridPoint) -> f64>,
    ) -> Result<Budgeted, BudgetError> {
        assert_eq!(graph_of.len(), plan.len(), "each point has a graph");
        self.check_not_zero()?;
        if plan.len() > MAX_BUDGETED_POINTS {
            return Err(BudgetError::TooManyPoints { points: plan.len() });
        }
        let weights = weight.map(|weight| weights(plan, weight)).transpose()?;
        let mut remaining = Remaining::new(plan.points(), matching, weights);
        let mut points_of = vec![0_usize; costs.len()];
        graph_of.iter().for_each(|&graph| points_of[graph] += 1);
        let used = points_of.iter().zip(costs).filter(|(points, _)| **points > 0);
        let mut total = used.fold(Total::default(), |total, (_, cost)| total.with(cost));
        let mut dropped = Vec::new();
        while let Some(exceeded) = self.exceeded(&total) {
            let Some(index) = remaining.drop_least() else { return Err(exceeded.error(total.graphs)) };
            let graph = graph_of[index];
            points_of[graph] -= 1;
            if points_of[graph] == 0 {
                total = total.without(&costs[graph]);
            }
            dropped.push(index);
        }
        for index in dropped.into_iter().rev() {
            let graph = graph_of[index];
            let with = if points_of[graph] == 0 { total.with(&costs[graph]) } else { total };
            if self.exceeded(&with).is_none() {
                remaining.restore(index);
                points_of[graph] += 1;
                total = with;
            }
        }
        let cost = total.cost();
        let (mut points, mut left_out) = (Vec::new(), Vec::new());
        for (index, &point) in plan.points().iter().enumerate() {
            match remaining.replacement(index) {
                None => points.push(point),
                Some(replaced_by) => left_out.push(Dropped { point, replaced_by }),
            }
        }
        Ok(Budgeted { plan: Plan::from_points(points), dropped: left_out, cost })
    }

    fn check_not_zero(&self) -> Result<(), BudgetError> {
        let zero = [
            ("graphs", self.graphs == Some(0)),
            ("bytes", self.bytes == Some(0)),
            ("seconds", self.capture_time == Some(Duration::ZERO)),
        ];
        zero.into_iter().find(|(_, zero)| *zero).map_or(Ok(()), |(field, _)| Err(BudgetError::Zero { field }))
    }

    /// The first budget that is exceeded.
    fn exceeded(&self, total: &Total) -> Option<Exceeded> {
        if let Some(budget) = self.graphs.filter(|&budget| budget < total.graphs) {
            return Some(Exceeded { field: "graphs", budget: budget.to_string(), needed: total.graphs.to_string() });
        }
        if let Some(budget) = self.bytes.filter(|&budget| u128::from(budget) < total.bytes) {
            return Some(Exceeded { field: "bytes", budget: budget.to_string(), needed: total.bytes.to_string() });
        }
        let budget = self.capture_time.filter(|budget| budget.as_nanos() < total.nanoseconds)?;
        let needed = total.cost().capture_time;
        let seconds = |time: Duration| time.as_secs_f64().to_string();
        Some(Exceeded { field: "seconds", budget: seconds(budget), needed: seconds(needed) })
    }
}

/// A budget, and what is above it, in words.
struct Exceeded {
    field: &'static str,
    budget: String,
    needed: String,
}

impl Exceeded {
    fn error(self, points: u64) -> BudgetError {
        let Self { field, budget, needed } = self;
        BudgetError::TooSmall { field, budget, needed, points }
    }
}

/// What the graphs of a plan cost together, exactly.
#[derive(Debug, Clone, Copy, Default)]
struct Total {
    graphs: u64,
    bytes: u128,
    nanoseconds: u128,
}

impl Total {
    fn with(self, cost: &GraphCost) -> Self {
        Self {
            graphs: self.graphs + 1,
            bytes: self.bytes + u128::from(cost.bytes),
            nanoseconds: self.nanoseconds + cost.capture_time.as_nanos(),
        }
    }

    fn without(self, cost: &GraphCost) -> Self {
        Self {
            graphs: self.graphs - 1,
            bytes: self.bytes - u128::from(cost.bytes),
            nanoseconds: self.nanoseconds - cost.capture_time.as_nanos(),
        }
    }

    /// The same, as far as the fields reach.
    fn cost(&self) -> GraphCost {
        const SECOND: u128 = 1_000_000_000;
        let seconds = u64::try_from(self.nanoseconds / SECOND);
        let capture_time =
            seconds.map_or(Duration::MAX, |seconds| Duration::new(seconds, (self.nanoseconds % SECOND) as u32));
        GraphCost { bytes: u64::try_from(self.bytes).unwrap_or(u64::MAX), capture_time }
    }
}

fn weights(plan: &Plan, weight: &dyn Fn(&GridPoint) -> f64) -> Result<Vec<f64>, BudgetError> {
    let weights = plan.points().iter().map(weight).enumerate().map(|(index, weight)| {
        if weight.is_finite() && weight >= 0.0 {
            Ok(weight)
        } else {
            Err(BudgetError::Weight { index, weight: weight.to_string() })
        }
    });
    weights.collect()
}

//! One policy after the other on the same traffic.

use gridpoint_plan::traffic::{CostCurve, Evaluation, StepHistogram, evaluate};
use gridpoint_plan::{Limits, Matcher, Matching, Plan, Policy};
use serde::Serialize;

use super::traffic::Traffic;
use crate::args::plan::{Choice, PlanArgs};
use crate::commands::Failure;

/// What traffic makes of a plan.
pub(super) fn judge(plan: &Plan, matching: Matching, steps: &StepHistogram, cost: &CostCurve) -> Evaluation {
    evaluate(plan, &Matcher::new(plan.points()), matching, steps, cost)
}

/// Policies under the same limits, on the same traffic: fits see the early steps, numbers are of the late ones.
pub(super) struct Judged<'a> {
    arguments: &'a PlanArgs,
    pub(super) limits: &'a Limits,
    matching: Matching,
    pub(super) traffic: &'a Traffic,
}

/// A policy in numbers: fractions, not per cent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) policy: String,
    pub(super) graphs: usize,
    /// Different kernels among them.
    pub(super) distinct: usize,
    /// What the graphs take, each by itself.
    pub(super) bytes: u64,
    pub(super) miss_rate: f64,
    pub(super) token_padding: f64,
    pub(super) time_overhead: f64,
    pub(super) prefill_slack: f64,
    pub(super) slot_padding: f64,
}

impl<'a> Judged<'a> {
    pub(super) fn new(arguments: &'a PlanArgs, limits: &'a Limits, matching: Matching, traffic: &'a Traffic) -> Self {
        Self { arguments, limits, matching, traffic }
    }

    /// What the flags say of every policy.
    pub(super) fn base_policy(&self) -> Policy {
        self.arguments.policy.over(Policy::default())
    }

    /// The numbers of one policy.
    ///
    /// # Errors
    /// A policy that makes no plan under these limits.
    pub(super) fn row(&self, choice: &Choice) -> Result<Row, Failure> {
        let made = self.arguments.make(choice, self.limits, self.matching, Some(self.traffic.fit_to_early()))?;
        let plan = &made.reduced.plan;
        let found = judge(plan, self.matching, &self.traffic.late, &self.traffic.cost);
        Ok(Row {
            policy: choice.to_string(),
            graphs: plan.len(),
            distinct: plan.distinct(),
            bytes: self.arguments.reduction.costs.bytes(plan.len()),
            miss_rate: found.miss_rate,
            token_padding: found.token_padding,
            time_overhead: found.time_overhead,
            prefill_slack: found.prefill_slack,
            slot_padding: found.slot_padding,
        })
    }
}

//! From arguments to a plan.

use gridpoint_plan::traffic::{CostCurve, StepHistogram, fit};
use gridpoint_plan::{Limits, Matching, PlanFile, Policy, plan};

use super::{Choice, PlanArgs, Reduced, short_sizing};
use crate::commands::Failure;

/// Limits, policy and costs as asked for, and the plan file that was named.
#[derive(Debug)]
pub(crate) struct Graphs<'a> {
    arguments: &'a PlanArgs,
    file: Option<PlanFile>,
}

/// The traffic that `fit:K` is fitted to and by which budgets weigh points.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FitTo<'a> {
    pub(crate) steps: &'a StepHistogram,
    pub(crate) cost: &'a CostCurve,
}

/// A plan, with the policy that made it.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    /// What the law is called.
    pub(crate) name: String,
    pub(crate) policy: Policy,
    pub(crate) reduced: Reduced,
}

impl<'a> Graphs<'a> {
    pub(super) fn new(arguments: &'a PlanArgs, file: Option<PlanFile>) -> Self {
        Self { arguments, file }
    }

    /// The limits asked for; of those that were not the plan file's, or the defaults with this sequence length.
    pub(crate) fn limits(&self, default_max_sequence_length: u32) -> Limits {
        let default = Limits { max_sequence_length: default_max_sequence_length, ..Limits::default() };
        let file = self.file.as_ref().and_then(|file| file.limits().copied());
        self.arguments.limits.or(file.unwrap_or(default))
    }

    /// What to call the sequence length that was asked for.
    pub(crate) fn sequence_length_name(&self) -> &'static str {
        match (&self.file, self.arguments.limits.max_seq_len) {
            (Some(_), None) => "the plan's max_sequence_length",
            _ => "--max-seq-len",
        }
    }

    /// The plan, for a device: what was left out of it goes to the log.
    ///
    /// # Errors
    /// Limits and a policy that make no plan, budgets that cannot be kept, a fit, which needs traffic.
    pub(crate) fn plan(&self, limits: &Limits) -> Result<gridpoint_plan::Plan, Failure> {
        let Made { reduced, .. } = self.make(limits, Matching::NonStrict, None)?;
        if reduced.plan.len() < reduced.points {
            let worst = reduced.budgeted.as_ref().map_or(1.0, gridpoint_plan::Budgeted::worst_token_factor);
            tracing::info!(
                "{} of {} graphs are left, so that no step replays more than {worst:.2} times its former tokens",
                reduced.plan.len(),
                reduced.points
            );
        }
        Ok(reduced.plan)
    }

    /// The plan of the file, or of the policy under these limits.
    ///
    /// # Errors
    /// As [`Graphs::plan`].
    pub(crate) fn make(&self, limits: &Limits, matching: Matching, fit: Option<FitTo<'_>>) -> Result<Made, Failure> {
        let Some(file) = &self.file else {
            return self.arguments.make(&self.arguments.policy.choice()?, limits, matching, fit);
        };
        let policy = file.policy().cloned().unwrap_or_default();
        let steps = fit.map(|fit| fit.steps);
        let reduced = self.arguments.reduction.apply(file.plan().clone(), matching, steps)?;
        Ok(Made { name: short_sizing(&policy.sizing), policy, reduced })
    }
}

impl PlanArgs {
    /// The plan of a law under these limits, with everything else as the flags say.
    ///
    /// # Errors
    /// As [`Graphs::plan`].
    pub(crate) fn make(
        &self,
        choice: &Choice,
        limits: &Limits,
        matching: Matching,
        fit: Option<FitTo<'_>>,
    ) -> Result<Made, Failure> {
        let policy = self.policy(choice, limits, fit)?;
        let plan = plan(limits, &policy).map_err(Failure::usage)?;
        let reduced = self.reduction.apply(plan, matching, fit.map(|fit| fit.steps))?;
        Ok(Made { name: choice.short(), policy, reduced })
    }

    fn policy(&self, choice: &Choice, limits: &Limits, traffic: Option<FitTo<'_>>) -> Result<Policy, Failure> {
        match choice {
            Choice::Sizing(sizing) => Ok(self.policy.over(Policy { sizing: sizing.clone(), ..Policy::default() })),
            Choice::Preset(preset) => Ok(self.policy.over(preset.policy(limits).map_err(Failure::usage)?)),
            &Choice::Fit(sizes) => {
                let Some(FitTo { steps, cost }) = traffic else {
                    return Err(Failure::Usage(
                        format!(
                            "--sizing is `fit:{sizes}`: it needs traffic to fit, --trace or --steps of `gridpoint plan`, \
                             whose --output goes into --plan"
                        )
                        .into(),
                    ));
                };
                let base = self.policy.over(Policy::default());
                let fitted = fit(steps, sizes, limits, &base, cost)
                    .map_err(|error| Failure::Usage(format!("`fit:{sizes}` has no plan: {error}").into()))?;
                Ok(fitted.policy(&base))
            }
        }
    }
}

//! What a plan may cost: points that others stand for, and budgets.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use gridpoint_plan::traffic::{CostCurve, StepHistogram, evaluate};
use gridpoint_plan::{Budget, BudgetError, Budgeted, GraphCost, GridPoint, KernelKey, Matcher, Matching, Plan};

use crate::args::natural_64;
use crate::commands::Failure;

/// What graphs of small models take in engines that share one pool, where nothing better is known.
const GRAPH_BYTES: u64 = 2 << 20;
const GRAPH_SECONDS: f64 = 0.025;

/// Merging, budgets and the costs that budgets count.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Graphs")]
pub(crate) struct ReductionArgs {
    /// Leave out points whose kernels would be those of another point that takes all their steps.
    #[arg(long)]
    merge_identical: bool,
    /// At most N graphs: points that are missed the least are left out.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = natural_64)]
    budget_graphs: Option<u64>,
    /// At most so many bytes of graphs, as in 300MB or 1.5GiB.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size)]
    budget_bytes: Option<u64>,
    /// At most X seconds of capture.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    budget_seconds: Option<f64>,
    #[command(flatten)]
    pub(crate) costs: GraphCosts,
}

/// What one graph costs.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Graphs")]
pub(crate) struct GraphCosts {
    /// What a graph takes of the device's memory [default: 2MiB].
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size)]
    graph_bytes: Option<u64>,
    /// How long the capture of a graph takes [default: 0.025].
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = seconds)]
    graph_seconds: Option<Duration>,
}

/// A plan after merging and budgets.
#[derive(Debug, Clone)]
pub(crate) struct Reduced {
    /// What is left, and what was dropped for a budget if there is one.
    pub(crate) plan: Plan,
    /// Points before anything was left out.
    pub(crate) points: usize,
    /// Points left out because others stand for them; None where that was not asked for.
    pub(crate) merged: Option<usize>,
    /// What a budget left; None without one.
    pub(crate) budgeted: Option<Budgeted>,
}

impl GraphCosts {
    /// Every graph costs the same.
    pub(crate) fn one(&self) -> GraphCost {
        GraphCost {
            bytes: self.graph_bytes.unwrap_or(GRAPH_BYTES),
            capture_time: self.graph_seconds.unwrap_or(Duration::from_secs_f64(GRAPH_SECONDS)),
        }
    }

    /// The bytes of so many.
    pub(crate) fn bytes(&self, graphs: usize) -> u64 {
        self.one().bytes.saturating_mul(graphs as u64)
    }
}

impl ReductionArgs {
    /// Merges and drops points as asked. Where steps are known, a budget weighs points by the steps that replay them.
    ///
    /// # Errors
    /// Budgets of nothing, or below what cannot be dropped.
    pub(crate) fn apply(
        &self,
        plan: Plan,
        matching: Matching,
        steps: Option<&StepHistogram>,
    ) -> Result<Reduced, Failure> {
        let points = plan.len();
        let (plan, merged) = if self.merge_identical {
            let left = plan.merge_identical(matching, KernelKey::of);
            let merged = points - left.len();
            (left, Some(merged))
        } else {
            (plan, None)
        };
        let Some(budget) = self.budget()? else {
            return Ok(Reduced { plan, points, merged, budgeted: None });
        };
        let weights = steps.map(|steps| weights(&plan, matching, steps));
        let weight = weights.as_ref().map(|weights| |point: &GridPoint| weights.get(point).copied().unwrap_or(0.0));
        let weight = weight.as_ref().map(|weight| weight as &dyn Fn(&GridPoint) -> f64);
        let budgeted = budget.apply(&plan, matching, |_| self.costs.one(), weight).map_err(refused)?;
        Ok(Reduced { plan: budgeted.plan.clone(), points, merged, budgeted: Some(budgeted) })
    }

    fn budget(&self) -> Result<Option<Budget>, Failure> {
        let Self { budget_graphs, budget_bytes, budget_seconds, .. } = *self;
        if budget_graphs.is_none() && budget_bytes.is_none() && budget_seconds.is_none() {
            return Ok(None);
        }
        let budget = Budget { graphs: budget_graphs, bytes: budget_bytes, capture_time: None };
        let budget = budget_seconds.map_or(Ok(budget), |seconds| budget.seconds(seconds));
        budget.map(Some).map_err(refused)
    }
}

/// The share of the steps that each point replays.
fn weights(plan: &Plan, matching: Matching, steps: &StepHistogram) -> BTreeMap<GridPoint, f64> {
    let found = evaluate(plan, &Matcher::new(plan.points()), matching, steps, &CostCurve::default());
    let all = found.steps.max(1) as f64;
    plan.points().iter().zip(found.hits).map(|(&point, hits)| (point, hits as f64 / all)).collect()
}

/// The budget's own sentence, by the name of its flag.
fn refused(error: BudgetError) -> Failure {
    let words = error.to_string();
    Failure::Usage(match words.strip_prefix("the budget of ").and_then(|rest| rest.split_once(" is ")) {
        Some((field, rest)) => format!("--budget-{field} is {rest}").into(),
        None => words.into(),
    })
}

/// Bytes, with a unit or without.
pub(crate) fn size(word: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let expected = || "it must be a number of bytes, such as `300000000`, `300MB` or `1.5GiB`".to_owned();
    let lower = word.to_ascii_lowercase();
    let with_unit =
        UNITS.iter().find_map(|(name, unit)| Some((lower.strip_suffix(&name.to_ascii_lowercase())?, *unit)));
    let (digits, unit) = with_unit.unwrap_or((&lower, 1));
    let digits = digits.trim_end();
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(expected());
    }
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(expected);
    }
    let bytes = digits.parse::<f64>().map_err(|_| expected())? * unit as f64;
    if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(bytes.round() as u64) } else { Err(expected()) }
}

/// Bytes in the unit that fits, of which a kibibyte is the least.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|&(unit, _)| bytes >= unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// Any number, NaN and infinities among them: whoever takes it says which are in range.
pub(crate) fn number(word: &str) -> Result<f64, String> {
    word.parse().map_err(|_| "it must be a number such as `0.5`".to_owned())
}

/// A number of seconds of at least 0.
pub(crate) fn seconds(word: &str) -> Result<Duration, String> {
    let seconds = number(word)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "it must be a number of seconds of at least 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (word, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("300MB", 300_000_000),
            ("300 mb", 300_000_000),
            ("1.5GiB", 3 << 29),
            ("2kib", 2048),
            ("7B", 7),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(word), Ok(bytes), "{word}");
        }
        for word in ["", "MB", "-1", "+1", "nan", "inf", "1e999", "1 x", "99999999TB", "18446744073709551616"] {
            assert!(size(word).is_err(), "{word}");
        }
    }

    #[test]
    fn budgets_go_by_the_names_of_their_flags() {
        let words = |error| match refused(error) {
            Failure::Usage(words) => words.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(words(BudgetError::Zero { field: "graphs" }), "--budget-graphs is `0`; it must be above 0");
        let error = Budget::default().seconds(f64::NAN).expect_err("no number");
        assert!(words(error).starts_with("--budget-seconds is `NaN`; it must be"));
    }
}

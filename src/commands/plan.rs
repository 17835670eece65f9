//! `gridpoint plan`: limits and policy to the graphs to capture, what traffic makes of them, and how policies compare.

mod compare;
mod emit;
mod judged;
mod picture;
mod table;
mod traffic;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gridpoint_plan::traffic::Evaluation;
use gridpoint_plan::{Dropped, GridPoint, Limits, Matching, Plan, PlanFile};
use serde::Serialize;

use crate::args::plan::{Comparison, Made, PlanArgs};
use crate::commands::Failure;
pub(super) use compare::shortened;
use emit::Engine;
use judged::{Judged, judge};
use traffic::{Size, Traffic, TrafficArgs};

/// Sequence length where no model says.
const MAX_SEQUENCE_LENGTH: u32 = 4096;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    traffic: TrafficArgs,
    /// Policies beside each other on the traffic: sizings as --sizing takes them and engines as --preset takes them, with
    /// commas between. Fits see the first half of the steps, all numbers are of the second.
    #[arg(long, value_name = "POLICY,..", requires = "traffic", conflicts_with_all = ["plan", "output", "emit"])]
    compare: Option<Comparison>,
    /// Decodes take no prefill slots, as in models with recurrent layers.
    #[arg(long)]
    strict: bool,
    /// How to print the plan or the comparison.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Print the plan as the flags or the configuration of another engine, and what that engine cannot express.
    #[arg(long, value_enum, value_name = "ENGINE", conflicts_with = "format")]
    emit: Option<Engine>,
    /// Also write the plan to a file that --plan takes, with its policy, limits and version.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A table for people.
    Table,
    /// One object, which `explain --plan` reads.
    Json,
    /// A picture.
    Svg,
}

/// What there is to print of one plan.
struct Printed<'a> {
    limits: Limits,
    made: &'a Made,
    traffic: Option<(&'a Traffic, Evaluation)>,
}

/// Prints the plan. What makes no plan is wrong usage; a plan without points is a plan.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let graphs = arguments.plan.read()?;
    let limits = graphs.limits(MAX_SEQUENCE_LENGTH);
    let matching = if arguments.strict { Matching::Strict } else { Matching::NonStrict };
    if let Some(policies) = &arguments.compare {
        return compare(arguments, policies, &limits, matching, output);
    }
    let traffic = arguments.traffic.read(&limits)?;
    let made = graphs.make(&limits, matching, traffic.as_ref().map(Traffic::fit_to_all))?;
    let plan = &made.reduced.plan;
    let traffic = traffic.as_ref().map(|traffic| (traffic, judge(plan, matching, &traffic.all, &traffic.cost)));
    let printed = Printed { limits, made: &made, traffic };
    let text = match (arguments.emit, arguments.format) {
        (Some(engine), _) => emit::text(engine, &printed),
        (None, Format::Table) => table::text(&printed),
        (None, Format::Json) => json(&printed)?,
        (None, Format::Svg) => picture::grid::svg(&printed)?,
    };
    if let Some(path) = &arguments.output {
        write_plan(path, PlanFile::new(plan.clone(), made.policy.clone(), limits))?;
    }
    print(&text, output)
}

fn compare(
    arguments: &Arguments,
    policies: &Comparison,
    limits: &Limits,
    matching: Matching,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    if arguments.plan.policy.names_law() {
        return Err(Failure::Usage(
            "--compare names the laws to compare: it goes without --sizing, --decode-ratio, --prefill-ratio and --preset"
                .into(),
        ));
    }
    let Some(traffic) = arguments.traffic.read(limits)? else {
        return Err(Failure::Usage("--compare needs --trace or --steps, on which policies are compared".into()));
    };
    let judged = Judged::new(&arguments.plan, limits, matching, &traffic);
    let rows = compare::rows(&judged, policies)?;
    let text = match arguments.format {
        Format::Table => compare::table(&judged, &rows),
        Format::Json => compare::json(&traffic, &rows)?,
        Format::Svg => picture::trade::svg(&judged, policies, &rows)?,
    };
    print(&text, output)
}

fn print(text: &str, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    output.write_all(text.as_bytes()).map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}

fn write_plan(path: &Path, file: PlanFile) -> Result<(), Failure> {
    let text = serde_json::to_string(&file).map_err(Failure::failed)? + "\n";
    fs::write(path, text).map_err(|error: io::Error| {
        Failure::Failed(format!("cannot write the plan `{}`: {error}", path.display()).into())
    })
}

/// The plan's own fields, and others where there is more to say.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    #[serde(skip_serializing_if = "Option::is_none")]
    merged: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<JsonBudget>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluation: Option<JsonEvaluation<'a>>,
}

#[derive(Serialize)]
struct JsonBudget {
    graphs: usize,
    bytes: u64,
    seconds: f64,
    worst_token_factor: f64,
    dropped: Vec<JsonDropped>,
}

#[derive(Serialize)]
struct JsonDropped {
    point: GridPoint,
    replaced_by: GridPoint,
    token_factor: f64,
}

#[derive(Serialize)]
struct JsonEvaluation<'a> {
    miss_rate: f64,
    token_padding: f64,
    time_overhead: f64,
    prefill_slack: f64,
    slot_padding: f64,
    hits: &'a [u64],
}

fn json(printed: &Printed<'_>) -> Result<String, Failure> {
    let reduced = &printed.made.reduced;
    let dropped = |dropped: &Dropped| JsonDropped {
        point: dropped.point,
        replaced_by: dropped.replaced_by,
        token_factor: dropped.token_factor(),
    };
    let json = Json {
        plan: &reduced.plan,
        merged: reduced.merged,
        budget: reduced.budgeted.as_ref().map(|budgeted| JsonBudget {
            graphs: budgeted.plan.len(),
            bytes: budgeted.cost.bytes,
            seconds: budgeted.cost.capture_time.as_secs_f64(),
            worst_token_factor: budgeted.worst_token_factor(),
            dropped: budgeted.dropped.iter().map(dropped).collect(),
        }),
        trace: printed.traffic.as_ref().map(|(traffic, _)| traffic.size),
        evaluation: printed.traffic.as_ref().map(|(_, found)| JsonEvaluation {
            miss_rate: found.miss_rate,
            token_padding: found.token_padding,
            time_overhead: found.time_overhead,
            prefill_slack: found.prefill_slack,
            slot_padding: found.slot_padding,
            hits: &found.hits,
        }),
    };
    Ok(serde_json::to_string(&json).map_err(Failure::failed)? + "\n")
}

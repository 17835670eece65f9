//! `gridpoint plan`: limits and policy to the graphs to capture.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gridpoint_plan::{Limits, Plan, Policy, plan};

use crate::args::plan::PlanArgs;
use crate::commands::Failure;

/// The longest list of token counts that is printed as a list.
const COLUMNS: usize = 80;
/// Sequence length where no model says.
const MAX_SEQUENCE_LENGTH: u32 = 4096;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    plan: PlanArgs,
    /// How to print the plan.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A table for people.
    Table,
    /// One object, which `explain --plan` reads.
    Json,
}

/// Prints the plan. What makes no plan is wrong usage; a plan without points is a plan.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let limits = arguments.plan.limits(MAX_SEQUENCE_LENGTH);
    let policy = arguments.plan.policy();
    let plan = plan(&limits, &policy).map_err(Failure::usage)?;
    match arguments.format {
        Format::Table => write_table(&plan, &limits, &policy, output),
        Format::Json => {
            serde_json::to_writer(&mut *output, &plan).map_err(io::Error::from).and_then(|()| writeln!(output))
        }
    }
    .map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}

fn write_table(plan: &Plan, limits: &Limits, policy: &Policy, output: &mut dyn Write) -> io::Result<()> {
    let Policy { sizing, graph_count, token_ceiling, .. } = policy;
    writeln!(
        output,
        "policy   {sizing} sizing, {graph_count} counts a ladder, token ceiling {}",
        token_ceiling.resolve(limits)
    )?;
    let Limits { max_requests, max_tokens, max_sequence_length, tensor_parallel, speculative_tokens } = limits;
    writeln!(
        output,
        "limits   {max_requests} requests, {max_tokens} tokens a step, {max_sequence_length} tokens a sequence"
    )?;
    if *tensor_parallel != 1 || *speculative_tokens != 0 {
        writeln!(output, "         tensor parallel {tensor_parallel}, speculative tokens {speculative_tokens}")?;
    }
    let Some(token_counts) = plan.token_counts() else {
        return writeln!(output, "graphs   0: every step runs eagerly");
    };
    let counts = plan.counts();
    writeln!(
        output,
        "graphs   {} ({} distinct): {} decode-only, {} mixed, {} prefill-only",
        plan.len(),
        plan.distinct(),
        counts.decode_only,
        counts.mixed,
        counts.prefill_only
    )?;
    writeln!(output, "tokens   {}", summary(token_counts))?;
    writeln!(output, "\n{:>7} {:>10} {:>10} {:>10}  kind", "graph", "T", "P", "D")?;
    for (index, point) in plan.points().iter().enumerate() {
        let (tokens, prefills, decodes) = (point.tokens, point.prefills, point.decodes);
        writeln!(output, "{:>7} {tokens:>10} {prefills:>10} {decodes:>10}  {}", index + 1, point.kind())?;
    }
    Ok(())
}

/// The token counts, in one line.
fn summary(token_counts: &[u32]) -> String {
    let all: Vec<String> = token_counts.iter().map(u32::to_string).collect();
    let all = all.join(" ");
    match token_counts {
        [largest, .., smallest] if all.len() > COLUMNS => {
            format!("{} counts from {largest} down to {smallest}", token_counts.len())
        }
        _ => all,
    }
}

//! `gridpoint verify`: every captured graph replayed with real steps and compared with eager launches, bit for bit.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gridpoint::devices::{self, Choice, Taken};
use gridpoint_driver::probe;
use gridpoint_engine::EngineError;
use gridpoint_graph::Seconds;
use gridpoint_graph::verify::{Mismatch, VerifyOptions, VerifyReport};
use serde_json::{Value, json};

use crate::args::model::ModelArgs;
use crate::args::plan::{PlanArgs, size};
use crate::args::{natural_32, natural_64};
use crate::commands::Failure;
use crate::folder::Folder;
use crate::progress::Bar;

/// Most real tokens of a step on the simulated device, where no other number is given.
const SIMULATED_TOKENS: u32 = 16;

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// Add N replays at random points, in chains without the host in between.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = natural_64)]
    soak: u64,
    /// Seed of the steps: their tokens, pages, contexts and sampling parameters, and of the chains.
    #[arg(long, value_name = "S", default_value_t = 1, allow_negative_numbers = true, value_parser = natural_64)]
    seed: u64,
    /// Most real tokens of a step; the graphs are those of the plan all the same [default: all that a graph holds on a GPU, 16 on the
    /// simulated device].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = natural_32)]
    most_tokens: Option<u32>,
    /// Most of the kv cache that the steps use, which is compared whole after each of them.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", allow_hyphen_values = true, value_parser = size)]
    cache_bytes: u64,
    #[command(flatten)]
    plan: PlanArgs,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Sentences, and one for the first mismatch of each kind.
    Text,
    /// One object.
    Json,
}

/// Captures the plan, proves every graph, and prints what that came to: exit status 1 on a mismatch.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let most_tokens = arguments.bound()?;
    let graphs = arguments.plan.read()?;
    let folder = Folder::read(&arguments.model, &graphs)?;
    let limits = graphs.limits(folder.max_sequence_length);
    // Two pages for each request of the largest step, its tokens, and a sequence of the longest.
    let tokens = limits.max_tokens.min(most_tokens.unwrap_or(u32::MAX));
    let requests = limits.max_requests.min(tokens).max(1);
    let each = u64::from(tokens.div_ceil(requests)) + 2 * u64::from(gridpoint_engine::PAGE_TOKENS);
    let mut wanted = vec![each; requests as usize];
    wanted.push(u64::from(folder.max_sequence_length));
    let mut engine = folder.engine(&arguments.model, &graphs, &wanted, arguments.model.capture.mode())?;

    let options =
        VerifyOptions { soak: arguments.soak, seed: arguments.seed, most_tokens, cache_bytes: arguments.cache_bytes };
    let bar = Bar::verify(engine.points().len() as u64 + options.soak);
    let outcome = engine.verify(&options, |progress| bar.verified(progress));
    bar.finish();
    match outcome {
        Ok(report) => arguments.print(&report, &options, output),
        // What was seen before the device failed says more than the failure.
        Err(EngineError::Verify(failure)) if failure.report.mismatches > 0 => {
            // A stderr that cannot be written to leaves nobody to tell.
            let _ = writeln!(io::stderr(), "error: {failure}");
            arguments.print(&failure.report, &options, output)
        }
        Err(error) => Err(Failure::failed(error)),
    }
}

impl Arguments {
    /// Most real tokens of a step.
    fn bound(&self) -> Result<Option<u32>, Failure> {
        match self.most_tokens {
            Some(0) => Err(Failure::Usage("--most-tokens is `0`: it must be at least 1".into())),
            Some(tokens) => Ok(Some(tokens)),
            None => Ok(simulated(self.model.device.into()).then_some(SIMULATED_TOKENS)),
        }
    }

    fn print(
        &self,
        report: &VerifyReport,
        options: &VerifyOptions,
        output: &mut dyn Write,
    ) -> Result<ExitCode, Failure> {
        match self.format {
            Format::Text => write_text(report, options, output),
            Format::Json => writeln!(output, "{}", object(report, options)),
        }
        .map_err(Failure::output)?;
        Ok(if report.mismatches == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Whether the choice is the simulated device. What the driver fails with is said where the device is taken.
fn simulated(choice: Choice) -> bool {
    match choice {
        Choice::Cuda => false,
        Choice::Simulator => true,
        Choice::Auto => matches!(devices::resolve(&probe()), Ok((Taken::Simulator, _))),
    }
}

fn write_text(report: &VerifyReport, options: &VerifyOptions, output: &mut dyn Write) -> io::Result<()> {
    let VerifyReport { graphs, distinct, shapes, replays, soaked, mismatches, reduced, first, kinds, time } = report;
    let seed = options.seed;
    writeln!(
        output,
        "{graphs} graphs ({distinct} distinct), {replays} replays: {shapes} steps, {soaked} in chains, seed {seed}, in {} s",
        Seconds(*time)
    )?;
    let bound = match options.most_tokens {
        Some(most) => format!(" than {most} tokens (--most-tokens) or"),
        None => String::new(),
    };
    if *reduced > 0 {
        writeln!(
            output,
            "{reduced} of the graphs hold more{bound} than the kv cache that was used (--kv-pages, --cache-bytes): their steps were smaller"
        )?;
    }
    match first {
        Some(_) => {
            writeln!(output, "{mismatches} mismatches; of each kind, how many and the first:")?;
            kinds.iter().try_for_each(|(first, count)| writeln!(output, "{count:>8}  {first}"))
        }
        None if *graphs == 0 => writeln!(output, "there is no graph to verify"),
        None => writeln!(output, "every replay equals eager launches, bit for bit"),
    }
}

fn object(report: &VerifyReport, options: &VerifyOptions) -> Value {
    let VerifyReport { graphs, distinct, shapes, replays, soaked, mismatches, reduced, first, kinds, time } = report;
    json!({
        "graphs": graphs,
        "distinct": distinct,
        "shapes": shapes,
        "replays": replays,
        "soaked": soaked,
        "reduced": reduced,
        "mismatches": mismatches,
        "seed": options.seed,
        "most_tokens": options.most_tokens,
        "seconds": time.as_secs_f64(),
        "first": first.as_ref().map(first_object),
        "kinds": kinds.iter().map(|(first, count)| (first.comparison.word(), *count)).collect::<BTreeMap<_, _>>(),
    })
}

fn first_object(mismatch: &Mismatch) -> Value {
    let Mismatch { point, step, padding, comparison, tensor, axes, index, element, found, expected, kernel } = mismatch;
    let bits = |bits: &Option<u64>| bits.map(|bits| format!("{bits:#x}"));
    // JSON has no NaN: such a value is null.
    let value = |bits: &Option<u64>| bits.map(|bits| element.value(bits));
    json!({
        "point": [point.tokens, point.prefills, point.decodes],
        "step": step.map(|(shape, _)| [shape.tokens, shape.prefills, shape.decodes]),
        "contexts": step.map(|(_, context)| context.to_string()),
        "padding": padding.map(|padding| padding.to_string()),
        "comparison": comparison.word(),
        "tensor": tensor,
        "axes": axes,
        "index": index,
        "found": bits(found),
        "expected": bits(expected),
        "found_value": value(found),
        "expected_value": value(expected),
        "kernel": kernel,
        "words": mismatch.to_string(),
    })
}

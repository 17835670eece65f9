//! `gridpoint bench`: the same requests under several plans, each on an engine of its own: the comparison of Megatron-LM's PR #3509.
//!
//! What could favour a plan is taken from it: an engine that nobody measures pays what a process pays once, every engine runs some
//! requests before its figures begin, and engines follow one another on one device, each dropped before the next is made.

mod differ;
mod measure;
mod table;
mod workload;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gridpoint::devices::{Opened, Taken};
use gridpoint::profile::StepSpan;
use gridpoint_graph::Bytes;
use gridpoint_plan::{Limits, Matching, Plan};

use crate::args::model::ModelArgs;
use crate::args::plan::{Choice, Comparison as Choices, Graphs, Made, PlanArgs};
use crate::args::subject::ShapeArgs;
use crate::args::{natural_32, natural_64};
use crate::commands::Failure;
use crate::folder::{Folder, take_device};
use measure::{Experiment, Measured};
use table::{Comparison, Setting};
use workload::{PromptTokens, Workload};

/// Tokens of all requests are held on the host, those of each round too: at most 1 GiB of them a round.
const MOST_TOKENS: u64 = 1 << 28;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    /// The plans, each once: sizings as --sizing takes them and engines as --preset takes them, with commas between. The others are
    /// compared with the first.
    #[arg(long, value_name = "SIZING,..", default_value = "linear,exponential,hybrid")]
    compare: Choices,
    #[command(flatten)]
    requests: RequestArgs,
    #[command(flatten)]
    plan: PlanArgs,
    /// How to print the figures.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// What the engines are asked for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Requests")]
struct RequestArgs {
    /// Requests, all there from the start, with prompts of random tokens [default: 256, or 12 on the simulated device].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = natural_32)]
    requests: Option<u32>,
    /// The fewest and the most tokens of a prompt, or one number; lengths are uniform between [default: 64:1024, or 4:48 on the simulated
    /// device, and no more than the model takes].
    #[arg(long, value_name = "A:B", allow_negative_numbers = true)]
    prompt_tokens: Option<PromptTokens>,
    /// Tokens to generate for each request; no token ends one sooner [default: 128, or 10 on the simulated device].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = natural_32)]
    new_tokens: Option<u32>,
    /// Seed of the prompts.
    #[arg(long, value_name = "S", default_value_t = 1, allow_negative_numbers = true, value_parser = natural_64)]
    seed: u64,
    /// Times that all requests run under each plan; the figures are those of the median round.
    #[arg(long, value_name = "K", default_value_t = 1, allow_negative_numbers = true, value_parser = natural_32)]
    rounds: u32,
    /// Requests that run before the first round, for at most 8 new tokens, and do not count [default: 16, or 1 on the simulated device].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = natural_32)]
    warm_up: Option<u32>,
    /// Let a profiler that waits for it (nsys profile --capture-range=cudaProfilerApi --capture-range-end=repeat) record steps A to B of the
    /// first round of each plan, counted from 1.
    #[arg(long, value_name = "A:B", allow_hyphen_values = true)]
    profile_steps: Option<StepSpan>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Tables.
    Text,
    /// One object.
    Json,
}

/// What is run where nothing else is asked for.
struct Defaults {
    requests: u32,
    prompt_tokens: PromptTokens,
    new_tokens: u32,
    warm_up: u32,
}

/// The experiment of the pull request, as large as keeps a GPU busy for some seconds.
const FULL: Defaults =
    Defaults { requests: 256, prompt_tokens: PromptTokens { fewest: 64, most: 1024 }, new_tokens: 128, warm_up: 16 };
/// The same, so small that the simulated device runs it in seconds.
const SMALL: Defaults =
    Defaults { requests: 12, prompt_tokens: PromptTokens { fewest: 4, most: 48 }, new_tokens: 10, warm_up: 1 };

/// Runs every plan and prints the comparison: exit status 1 where a plan changed a token.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    arguments.check()?;
    let graphs = arguments.plan.read()?;
    let shape = arguments.shape.read(u32::MAX)?;
    let random = shape.is_some();
    let (model, folder) = match shape {
        Some((shape, config)) => (shape.name.to_owned(), Folder::random(config, &arguments.model, &graphs)?),
        None => (arguments.model.model.display().to_string(), Folder::read(&arguments.model, &graphs)?),
    };
    let limits = folder.limits(&graphs);
    let plans = arguments.plans(&limits)?;
    let Opened { device, taken, .. } = take_device(arguments.model.device.into())?;
    let simulated = taken == Taken::Simulator;
    let (experiment, prompt_tokens) = arguments.requests.experiment(&folder, &graphs, simulated)?;
    if random {
        check_memory(&model, &folder, &device)?;
    }

    let engine = |plan: &Plan| {
        let wanted = experiment.workload.lengths();
        folder.engine_on(&device, &arguments.model, (&limits, plan), &wanted, arguments.model.capture.mode())
    };
    if let Some((choice, made)) = plans.first() {
        // What a process pays once, for kernels and the driver's first graphs, is in no plan's figures.
        experiment.warm_up(&mut engine(&made.reduced.plan)?).map_err(|failure| under(choice, failure))?;
    }
    let mut runs: Vec<Measured> = Vec::with_capacity(plans.len());
    for (choice, Made { name, reduced, .. }) in plans {
        // Each engine is dropped before the next one is made, which takes the same memory.
        let measured = experiment.run(&mut engine(&reduced.plan)?, choice.to_string(), name);
        runs.push(measured.map_err(|failure| under(&choice, failure))?);
    }
    let difference = differ::compare(runs.iter().map(|run| (run.sizing.as_str(), run.tokens())));
    if let Some(difference) = &difference {
        // A stderr that cannot be written to leaves nobody to tell.
        let _ = writeln!(io::stderr(), "error: {difference}");
    }
    let setting = Setting {
        simulated,
        device: &device.properties().name,
        model: &model,
        layers: folder.config.num_hidden_layers,
        prompt_tokens,
        seed: arguments.requests.seed,
        experiment: &experiment,
    };
    let status = if difference.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let comparison = Comparison { setting, runs, difference };
    match arguments.format {
        Format::Text => output.write_all(comparison.text().as_bytes()),
        Format::Json => writeln!(output, "{}", comparison.object()),
    }
    .map_err(Failure::output)?;
    Ok(status)
}

/// The failure, with the plan under which it came.
fn under(choice: &Choice, failure: Failure) -> Failure {
    match failure {
        Failure::Failed(words) => Failure::Failed(format!("under `{}`: {words}", choice.short()).into()),
        other => other,
    }
}

/// Refuses random weights that the device has no memory for, before any is made.
fn check_memory(shape: &str, folder: &Folder, device: &gridpoint_runtime::Device) -> Result<(), Failure> {
    let needed = folder.parameters().saturating_mul(2);
    let memory = device.memory().map_err(Failure::failed)?;
    if needed <= memory.free {
        return Ok(());
    }
    let [needed, free, total] = [needed, memory.free, memory.total].map(Bytes::from);
    let layers = folder.config.num_hidden_layers;
    Err(Failure::Failed(
        format!(
            "--shape is `{shape}` with {layers} layers: its weights take {needed} and {free} of {total} are free, so --layers must be fewer"
        )
        .into(),
    ))
}

impl Arguments {
    /// Refuses what no model can make right.
    fn check(&self) -> Result<(), Failure> {
        let usage = |words: String| Err(Failure::Usage(words.into()));
        if self.plan.names_plan() {
            return usage(
                "--compare names the laws to compare: it goes without --sizing, --decode-ratio, --prefill-ratio, --preset and --plan"
                    .to_owned(),
            );
        }
        let mut words = BTreeSet::new();
        for choice in &self.compare.0 {
            if let Choice::Fit(_) = choice {
                return usage(format!(
                    "--compare has `{choice}`: it needs traffic to fit, `gridpoint plan --sizing {choice} --steps FILE` prints its token \
                     counts, which `list:N,N` takes"
                ));
            }
            if !words.insert(choice.to_string()) {
                return usage(format!("--compare has `{choice}` twice: each plan may be given once"));
            }
        }
        let RequestArgs { requests, new_tokens, rounds, .. } = self.requests;
        for (flag, value) in [("--requests", requests), ("--new-tokens", new_tokens), ("--rounds", Some(rounds))] {
            if value == Some(0) {
                return usage(format!("{flag} is `0`: it must be at least 1"));
            }
        }
        Ok(())
    }

    /// The plans, all made before the first is run.
    fn plans(&self, limits: &Limits) -> Result<Vec<(Choice, Made)>, Failure> {
        let made = |choice: &Choice| Ok((choice.clone(), self.plan.make(choice, limits, Matching::NonStrict, None)?));
        self.compare.0.iter().map(made).collect()
    }
}

impl RequestArgs {
    /// The requests, with defaults that the device runs in some seconds.
    fn experiment(
        &self,
        folder: &Folder,
        graphs: &Graphs<'_>,
        simulated: bool,
    ) -> Result<(Experiment, PromptTokens), Failure> {
        let default = if simulated { SMALL } else { FULL };
        let longest = folder.max_sequence_length;
        let new_tokens = self.new_tokens.unwrap_or_else(|| default.new_tokens.min(longest / 2).max(1));
        let prompt_tokens = self.prompt_tokens.unwrap_or_else(|| {
            let most = longest.saturating_sub(new_tokens).clamp(1, default.prompt_tokens.most);
            PromptTokens { fewest: default.prompt_tokens.fewest.min(most), most }
        });
        let needed = u64::from(prompt_tokens.most) + u64::from(new_tokens);
        if needed > u64::from(longest) {
            return Err(Failure::Usage(
                format!(
                    "--prompt-tokens is `{prompt_tokens}` and --new-tokens `{new_tokens}`: together at most {needed} tokens, and the longest \
                     sequence has {longest} ({} or the model's)",
                    graphs.sequence_length_name()
                )
                .into(),
            ));
        }
        let requests = self.requests.unwrap_or(default.requests);
        if needed * u64::from(requests) > MOST_TOKENS {
            return Err(Failure::Usage(
                format!(
                    "--requests is `{requests}`: with up to {needed} tokens each, of which all are held on the host, it must be at most {}",
                    MOST_TOKENS / needed
                )
                .into(),
            ));
        }
        let vocabulary = u32::try_from(folder.config.vocab_size).unwrap_or(u32::MAX);
        let experiment = Experiment {
            workload: Workload::new(self.seed, requests, prompt_tokens, new_tokens, vocabulary),
            warm_up: self.warm_up.unwrap_or(default.warm_up).min(requests) as usize,
            rounds: self.rounds as usize,
            profile_steps: self.profile_steps,
        };
        Ok((experiment, prompt_tokens))
    }
}

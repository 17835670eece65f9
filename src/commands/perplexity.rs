//! `gridpoint perplexity`: how well a model predicts a text.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gridpoint_engine::{NewRequest, SamplingParameters};
use serde_json::json;

use crate::args::inspect::InspectArgs;
use crate::args::model::ModelArgs;
use crate::args::natural_32;
use crate::args::plan::PlanArgs;
use crate::commands::{Failure, refusals};
use crate::folder::Folder;
use crate::progress::Bar;
use crate::steps as totals;

/// A text larger than this is not scored.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// Arguments of `perplexity`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// The text, UTF-8.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a window: windows follow one another without overlap, and the first token of each is not scored.
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true, value_parser = natural_32)]
    window: u32,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    inspect: InspectArgs,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A sentence.
    Text,
    /// One object.
    Json,
}

/// Scores every token of the text but each window's first, and prints the mean negative log-likelihood in nats.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let graphs = arguments.plan.read()?;
    let folder = Folder::read(&arguments.model, &graphs)?;
    let window = arguments.window;
    if window < 2 || window > folder.max_sequence_length {
        let longest = folder.max_sequence_length;
        return Err(Failure::Usage(
            format!(
                "--window is `{window}`: it must be at least 2 and at most the longest sequence of {longest} tokens"
            )
            .into(),
        ));
    }
    let Some(tokenizer) = &folder.tokenizer else {
        let file = folder.file("tokenizer.json");
        return Err(Failure::Failed(format!("a text needs `{file}`, which does not exist").into()));
    };
    let tokens = tokenizer.encode(&read_text(arguments)?).map_err(Failure::failed)?;
    let windows: Vec<&[u32]> = tokens.chunks(window as usize).filter(|window| window.len() > 1).collect();
    if windows.is_empty() {
        let path = arguments.text.display();
        return Err(Failure::Failed(
            format!("the text `{path}` has `{}` tokens: it must have at least 2", tokens.len()).into(),
        ));
    }

    // As many windows in flight as fill a step; more would only take memory.
    let limits = graphs.limits(folder.max_sequence_length);
    let at_once = (limits.max_tokens / window).saturating_add(1).min(limits.max_requests).min(windows.len() as u32);
    let wanted = vec![u64::from(window); at_once as usize];
    let mut engine = folder.engine(&arguments.model, &graphs, &wanted, arguments.model.capture.mode())?;
    let mut steps = arguments.inspect.begin(&engine)?;
    let bar = Bar::tokens("score", tokens.len() as u64);
    let mut requests = Vec::with_capacity(windows.len());
    for window in windows {
        let request = NewRequest {
            prompt: window.to_vec(),
            max_new_tokens: 0,
            sampling: SamplingParameters::GREEDY,
            logprobs: true,
            stop_tokens: Vec::new(),
        };
        let refused = |error| Failure::Failed(refusals::request(&error).into());
        requests.push(engine.add(request).map_err(refused)?);
    }
    while let Some(outcome) = steps.run(&mut engine).map_err(Failure::failed)? {
        bar.add(outcome.report.shape.tokens);
    }
    bar.finish();

    let (mut scored, mut sum) = (0_u64, 0.0_f64);
    for request in requests {
        let logprobs = engine.take(request).and_then(|finished| finished.logprobs).unwrap_or_default();
        for logprob in logprobs.prompt.into_iter().flatten() {
            scored += 1;
            sum -= f64::from(logprob);
        }
    }
    let mean = sum / scored as f64;
    if !mean.is_finite() {
        return Err(Failure::Failed(
            format!("the mean negative log-likelihood is `{mean}`: the model's logits are not finite").into(),
        ));
    }
    match arguments.format {
        Format::Text => writeln!(output, "{scored} tokens, mean NLL {mean:.6}, perplexity {:.3}", mean.exp()),
        Format::Json => {
            writeln!(output, "{}", json!({"tokens": scored, "mean_nll": mean, "steps": totals::json(engine.totals())}))
        }
    }
    .map_err(Failure::output)?;
    totals::log(engine.totals());
    Ok(ExitCode::SUCCESS)
}

fn read_text(arguments: &Arguments) -> Result<String, Failure> {
    let path = arguments.text.display();
    let mut text = String::new();
    // Bounded, since the path may name a device that never ends.
    let read = File::open(&arguments.text).and_then(|file| file.take(MAX_TEXT_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| match error.kind() {
        ErrorKind::InvalidData => Failure::Failed(format!("the text `{path}` is not UTF-8, which it must be").into()),
        _ => Failure::Failed(format!("cannot read the text `{path}`: {error}").into()),
    })?;
    if text.len() as u64 > MAX_TEXT_BYTES {
        return Err(Failure::Failed(
            format!("the text `{path}` is larger than {MAX_TEXT_BYTES} bytes, the most that is scored").into(),
        ));
    }
    Ok(text)
}

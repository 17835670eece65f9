//! `gridpoint generate`: prompts in, text out, every step a replay.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use gridpoint::profile::Steps;
use gridpoint_engine::{
    Engine, Event, FinishReason, FinishedRequest, NewRequest, RequestError, RequestId, SamplingParameters,
};
use gridpoint_graph::CaptureMode;
use gridpoint_model::PointProducts;
use gridpoint_plan::{Dropped, GridPoint};
use serde_json::{Value, json};

use crate::args::inspect::InspectArgs;
use crate::args::model::ModelArgs;
use crate::args::plan::{Graphs, PlanArgs};
use crate::args::{natural_32, natural_64, real};
use crate::commands::texts::{TextStream, Texts};
use crate::commands::{Failure, refusals};
use crate::folder::Folder;
use crate::progress::Bar;
use crate::steps;
use crate::summary::{Run, Summary};

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    inspect: InspectArgs,
    /// Launch the kernels of each step one by one instead of replaying a captured graph.
    #[arg(long)]
    eager: bool,
    /// Write how often which step (tokens, prefills, decodes) came: `plan --steps FILE` fits a plan to it.
    #[arg(long, value_name = "FILE")]
    record_steps: Option<PathBuf>,
    /// How to print the results.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// What is to be continued.
#[derive(Debug, Args)]
#[group(required = true)]
struct PromptArgs {
    /// A text to continue; may be given several times.
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_ids")]
    prompt: Vec<String>,
    /// Token ids to continue; may be given several times.
    #[arg(long, value_name = "1,2,3", allow_hyphen_values = true)]
    prompt_ids: Vec<TokenIds>,
}

/// How tokens are drawn.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
struct SamplingArgs {
    /// Most tokens to generate for each prompt.
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true, value_parser = natural_32)]
    max_new_tokens: u32,
    /// Divides the logits; 0 always takes the most probable token.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = real)]
    temperature: f32,
    /// Draw from the K most probable tokens; 0 is all.
    #[arg(long, value_name = "K", default_value_t = 0, allow_negative_numbers = true, value_parser = natural_32)]
    top_k: u32,
    /// Draw from the most probable tokens that together reach this probability; 1 is all.
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true, value_parser = real)]
    top_p: f32,
    /// Seed of the draws, which depend on it and on the token's position alone.
    #[arg(long, value_name = "S", default_value_t = 0, allow_negative_numbers = true, value_parser = natural_64)]
    seed: u64,
    /// Add the log-probabilities of prompt and generated tokens, before temperature.
    #[arg(long)]
    logprobs: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// The generated text: one prompt's as it comes, several prompts' whole and in order.
    Text,
    /// One object.
    Json,
}

/// A list of token ids, `1,2,3`. An empty word is an empty list, which the engine refuses in its own words.
#[derive(Debug, Clone, PartialEq)]
struct TokenIds(Vec<u32>);

#[derive(Debug, thiserror::Error)]
#[error("token ids are numbers from 0 to 4294967295 with commas between, such as `1,2,3`, and `{word}` is none")]
struct ParseTokenIdsError {
    word: String,
}

impl FromStr for TokenIds {
    type Err = ParseTokenIdsError;

    fn from_str(list: &str) -> Result<Self, ParseTokenIdsError> {
        let id = |word: &str| word.trim().parse().map_err(|_| ParseTokenIdsError { word: word.trim().to_owned() });
        if list.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        list.split(',').map(id).collect::<Result<_, _>>().map(Self)
    }
}

/// A prompt and what has come of it.
struct Item {
    prompt_ids: Vec<u32>,
    outcome: Outcome,
}

enum Outcome {
    /// It was taken.
    Request(RequestId),
    /// It has ended.
    Finished(FinishedRequest),
    /// It failed; other prompts went on.
    Failed(String),
}

/// Generates for all prompts together and prints what came of each, in their order.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    arguments.sampling.check()?;
    let graphs = arguments.plan.read()?;
    let folder = Folder::read(&arguments.model, &graphs)?;
    let requests = arguments.requests(&folder)?;
    let vocabulary = folder.config.vocab_size as u32;
    let refusal = |request: &NewRequest| request.validate(folder.max_sequence_length, vocabulary).err();
    all_refused(requests.iter().map(|request| refusal(request).map(|error| refusals::request(&error))))?;

    let new_tokens = u64::from(arguments.sampling.max_new_tokens);
    let wanted: Vec<u64> = requests.iter().map(|request| request.prompt.len() as u64 + new_tokens).collect();
    let mode = if arguments.eager { CaptureMode::Off } else { arguments.model.capture.mode() };
    let mut engine = folder.engine(&arguments.model, &graphs, &wanted, mode)?;
    let mut steps = arguments.inspect.begin(&engine)?;
    let mut items: Vec<Item> = requests.into_iter().map(|request| Item::add(request, &mut engine)).collect();
    all_refused(items.iter().map(|item| match &item.outcome {
        Outcome::Failed(words) => Some(words.clone()),
        _ => None,
    }))?;

    let texts = Texts { tokenizer: folder.tokenizer.as_ref(), stop_tokens: &folder.config.eos_token_ids };
    let streams = arguments.format == Format::Text && items.len() == 1;
    if streams {
        stream(&mut engine, steps, texts.stream(), output)?;
    } else {
        let longest = u64::from(folder.max_sequence_length);
        let bar = Bar::tokens("generate", wanted.iter().map(|&tokens| tokens.min(longest)).sum());
        while let Some(outcome) = steps.run(&mut engine).map_err(Failure::failed)? {
            bar.add(outcome.report.shape.tokens);
        }
        bar.finish();
    }
    for item in &mut items {
        item.take(&mut engine);
    }
    if let Some(path) = &arguments.record_steps {
        record_steps(&engine, path)?;
    }
    match arguments.format {
        Format::Text if streams => {}
        Format::Text => print_all(&items, &texts, output)?,
        Format::Json => print_json(&items, &texts, &engine, output)?,
    }
    finish(&engine, &folder, arguments, &graphs, &items)
}

fn record_steps(engine: &Engine, path: &Path) -> Result<(), Failure> {
    let text = serde_json::to_string(engine.recorded_steps()).map_err(Failure::failed)?;
    std::fs::write(path, text + "\n").map_err(|error| {
        Failure::Failed(format!("cannot write the steps to `{}` (--record-steps): {error}", path.display()).into())
    })
}

/// Fails if every request was refused, with the first one's words.
fn all_refused(words: impl Iterator<Item = Option<String>>) -> Result<(), Failure> {
    let words: Vec<Option<String>> = words.collect();
    let count = words.len();
    let Some(mut refused) = words.into_iter().collect::<Option<Vec<String>>>() else { return Ok(()) };
    match refused.drain(..).next() {
        Some(first) if count == 1 => Err(Failure::Failed(first.into())),
        Some(first) => {
            Err(Failure::Failed(format!("none of the {count} prompts can be run; prompt 1: {first}").into()))
        }
        None => Ok(()),
    }
}

/// Runs all steps and prints the tokens as they come.
fn stream(
    engine: &mut Engine,
    mut steps: Steps,
    mut text: TextStream<'_>,
    output: &mut dyn Write,
) -> Result<(), Failure> {
    while let Some(outcome) = steps.run(engine).map_err(Failure::failed)? {
        for event in outcome.events {
            if let Event::Token { token, .. } = event {
                text.push(*token, output)?;
            }
        }
    }
    text.finish(output)
}

/// Says on stderr what failed and how the run went.
fn finish(
    engine: &Engine,
    folder: &Folder,
    arguments: &Arguments,
    graphs: &Graphs<'_>,
    items: &[Item],
) -> Result<ExitCode, Failure> {
    let mut stderr = io::stderr();
    let mut status = ExitCode::SUCCESS;
    let mut generated = 0;
    for (index, item) in items.iter().enumerate() {
        match &item.outcome {
            Outcome::Finished(finished) => generated += finished.tokens.len() as u64,
            Outcome::Failed(words) => {
                status = ExitCode::FAILURE;
                // A stderr that cannot be written to leaves nobody to tell.
                let _ = writeln!(stderr, "error: prompt {}: {words}", index + 1);
            }
            Outcome::Request(_) => {}
        }
    }
    let limits = graphs.limits(folder.max_sequence_length);
    let run = Run {
        parameters: folder.parameters(),
        requests: items.len(),
        max_new_tokens: arguments.sampling.max_new_tokens,
        max_requests: limits.max_requests,
        max_tokens: limits.max_tokens,
        generated,
    };
    let _ = writeln!(stderr, "{}", Summary::new(engine, &run));
    steps::log(engine.totals());
    Ok(status)
}

impl Item {
    /// Puts a request in line.
    fn add(request: NewRequest, engine: &mut Engine) -> Self {
        let prompt_ids = request.prompt.clone();
        let outcome = match engine.add(request) {
            Ok(request) => Outcome::Request(request),
            Err(error) => Outcome::Failed(refusals::request(&error)),
        };
        Self { prompt_ids, outcome }
    }

    /// Takes what came of the request once the engine has run it.
    fn take(&mut self, engine: &mut Engine) {
        let Outcome::Request(request) = self.outcome else { return };
        self.outcome = match engine.take(request) {
            Some(finished) if finished.reason == FinishReason::Failed => Outcome::Failed(format!(
                "the model's logits after `{}` tokens are NaN: the checkpoint or the activations are out of range",
                finished.prompt.len() + finished.tokens.len()
            )),
            Some(finished) => Outcome::Finished(finished),
            None => Outcome::Failed(format!("request {request} was lost")),
        };
    }

    fn json(&self, texts: &Texts<'_>) -> Result<Value, Failure> {
        let mut result = json!({"prompt_ids": self.prompt_ids});
        match &self.outcome {
            Outcome::Finished(finished) => {
                result["tokens"] = json!(finished.tokens);
                result["text"] = json!(texts.text(&finished.tokens)?);
                result["finish_reason"] = json!(match finished.reason {
                    FinishReason::Stop => "stop",
                    _ => "length",
                });
                if let Some(logprobs) = &finished.logprobs {
                    result["prompt_logprobs"] = json!(logprobs.prompt);
                    result["logprobs"] = json!(logprobs.tokens);
                }
            }
            Outcome::Failed(words) => result["error"] = json!(words),
            Outcome::Request(request) => result["error"] = json!(format!("request {request} has not ended")),
        }
        Ok(result)
    }
}

/// Every text whole, an empty line between two.
fn print_all(items: &[Item], texts: &Texts<'_>, output: &mut dyn Write) -> Result<(), Failure> {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            writeln!(output).map_err(Failure::output)?;
        }
        if let Outcome::Finished(finished) = &item.outcome {
            writeln!(output, "{}", texts.readable(&finished.tokens)?).map_err(Failure::output)?;
        }
    }
    Ok(())
}

fn print_json(items: &[Item], texts: &Texts<'_>, engine: &Engine, output: &mut dyn Write) -> Result<(), Failure> {
    let results = items.iter().map(|item| item.json(texts)).collect::<Result<Vec<Value>, Failure>>()?;
    let capture = engine.capture();
    let answer = json!({
        "results": results,
        "plan": {"graphs": capture.graphs, "distinct": capture.distinct},
        "memory": memory(engine),
        "steps": steps::json(engine.totals()),
        "launches": engine.launch_order().to_string(),
        "products": products(engine),
        "step_seconds": engine.run_time().as_secs_f64(),
        "capture_seconds": capture.times.total.as_secs_f64(),
    });
    writeln!(output, "{answer}").map_err(Failure::output)
}

/// Device memory by use, in bytes, and the points that there was no room for.
fn memory(engine: &Engine) -> Value {
    let memory = engine.memory();
    let point = |dropped: &Dropped| {
        let GridPoint { tokens, prefills, decodes } = dropped.point;
        json!([tokens, prefills, decodes])
    };
    json!({
        "budget": memory.budget,
        "weights": memory.weights,
        "workspace": memory.workspace,
        "logit_rows": memory.logit_rows,
        "step_block": memory.step_block,
        "graphs_predicted": memory.graphs.predicted,
        "graphs_measured": memory.graphs.measured,
        "kv_cache": memory.kv_cache,
        "kv_pages": memory.kv_pages,
        "dropped_points": engine.dropped_points().iter().map(point).collect::<Vec<_>>(),
    })
}

/// The kernels that products take, each with the token counts of its points.
fn products(engine: &Engine) -> Value {
    let mut groups: Vec<(PointProducts, Vec<u32>)> = Vec::new();
    for &point in engine.points() {
        let products = engine.products(point);
        match groups.iter_mut().find(|(known, _)| known.alike(&products)) {
            Some((_, tokens)) if tokens.contains(&point.tokens) => {}
            Some((_, tokens)) => tokens.push(point.tokens),
            None => groups.push((products, vec![point.tokens])),
        }
    }
    let group = |(products, tokens): &(PointProducts, Vec<u32>)| {
        let taken = products.0.iter().map(|choice| {
            let words = format!("{} ({})", choice.kernel, choice.origin);
            (choice.operation.to_owned(), Value::String(words))
        });
        json!({"tokens": tokens, "kernels": taken.collect::<serde_json::Map<_, _>>()})
    };
    Value::Array(groups.iter().map(group).collect())
}

impl Arguments {
    /// A request for every prompt, in order.
    fn requests(&self, folder: &Folder) -> Result<Vec<NewRequest>, Failure> {
        let request = |prompt| NewRequest {
            prompt,
            max_new_tokens: self.sampling.max_new_tokens,
            sampling: self.sampling.parameters(),
            logprobs: self.sampling.logprobs,
            stop_tokens: folder.config.eos_token_ids.clone(),
        };
        Ok(self.prompts.encode(folder)?.into_iter().map(request).collect())
    }
}

impl PromptArgs {
    /// The token ids of every prompt, in order.
    fn encode(&self, folder: &Folder) -> Result<Vec<Vec<u32>>, Failure> {
        if self.prompt.is_empty() {
            return Ok(self.prompt_ids.iter().map(|ids| ids.0.clone()).collect());
        }
        let Some(tokenizer) = &folder.tokenizer else {
            let file = folder.file("tokenizer.json");
            let words = format!("--prompt needs `{file}`, which does not exist: give token ids with --prompt-ids");
            return Err(Failure::Usage(words.into()));
        };
        self.prompt.iter().map(|text| tokenizer.encode(text)).collect::<Result<_, _>>().map_err(Failure::failed)
    }
}

impl SamplingArgs {
    fn parameters(&self) -> SamplingParameters {
        let Self { temperature, top_k, top_p, seed, .. } = *self;
        SamplingParameters { temperature, top_k, top_p, seed }
    }

    /// Refuses what no prompt can make right.
    fn check(&self) -> Result<(), Failure> {
        let words = match self.parameters().validate() {
            Err(error) => refusals::sampling(&error),
            Ok(()) if self.max_new_tokens == 0 && !self.logprobs => refusals::request(&RequestError::NothingToDo),
            Ok(()) => return Ok(()),
        };
        Err(Failure::Usage(words.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_ids_are_numbers_with_commas() {
        let ids = |list: &str| list.parse::<TokenIds>().map(|ids| ids.0).map_err(|error| error.to_string());
        assert_eq!(ids("1,2, 3"), Ok(vec![1, 2, 3]));
        assert_eq!(ids(""), Ok(vec![]));
        for (list, word) in [("1,,2", "``"), ("1,x", "`x`"), ("-1", "`-1`"), ("4294967296", "`4294967296`")] {
            assert!(ids(list).unwrap_err().contains(word), "{list}");
        }
    }
}

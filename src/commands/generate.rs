//! `gridpoint generate`: prompts in, text out, every step a replay.

use std::io::{self, Write};
use std::num::ParseIntError;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use gridpoint_engine::{Engine, Event, FinishReason, FinishedRequest, NewRequest, RequestId, SamplingParameters};
use gridpoint_graph::StepTotals;
use gridpoint_model::{TokenStream, Tokenizer};
use serde_json::{Value, json};

use crate::args::model::ModelArgs;
use crate::args::plan::PlanArgs;
use crate::commands::Failure;
use crate::folder::Folder;
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
    /// Launch the kernels of each step one by one instead of replaying a captured graph.
    #[arg(long)]
    eager: bool,
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
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    max_new_tokens: u32,
    /// Divides the logits; 0 always takes the most probable token.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Draw from the K most probable tokens; 0 is all.
    #[arg(long, value_name = "K", default_value_t = 0, allow_negative_numbers = true)]
    top_k: u32,
    /// Draw from the most probable tokens that together reach this probability; 1 is all.
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,
    /// Seed of the draws, which depend on it and on the token's position alone.
    #[arg(long, value_name = "S", default_value_t = 0, allow_negative_numbers = true)]
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
#[error(
    "token ids are numbers from 0 to 4294967295 with commas between, such as `1,2,3`, and `{word}` is none: {reason}"
)]
struct ParseTokenIdsError {
    word: String,
    reason: ParseIntError,
}

impl FromStr for TokenIds {
    type Err = ParseTokenIdsError;

    fn from_str(list: &str) -> Result<Self, ParseTokenIdsError> {
        let id = |word: &str| {
            word.trim().parse().map_err(|reason| ParseTokenIdsError { word: word.trim().to_owned(), reason })
        };
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
    let sampling = arguments.sampling.parameters();
    sampling.validate().map_err(Failure::usage)?;
    let folder = Folder::read(&arguments.model, &arguments.plan)?;
    let prompts = arguments.prompts.encode(&folder)?;
    let new_tokens = u64::from(arguments.sampling.max_new_tokens);
    let wanted: Vec<u64> = prompts.iter().map(|ids| ids.len() as u64 + new_tokens).collect();
    let mut engine = folder.engine(&arguments.model, &arguments.plan, &wanted, !arguments.eager)?;

    let mut items = Vec::with_capacity(prompts.len());
    for prompt_ids in prompts {
        let request = NewRequest {
            prompt: prompt_ids.clone(),
            max_new_tokens: arguments.sampling.max_new_tokens,
            sampling,
            logprobs: arguments.sampling.logprobs,
            stop_tokens: folder.config.eos_token_ids.clone(),
        };
        let outcome = engine.add(request).map_or_else(|error| Outcome::Failed(error.to_string()), Outcome::Request);
        items.push(Item { prompt_ids, outcome });
    }
    if items.iter().all(|item| matches!(item.outcome, Outcome::Failed(_))) {
        let words = items.into_iter().find_map(|item| match item.outcome {
            Outcome::Failed(words) => Some(words),
            _ => None,
        });
        return Err(Failure::Failed(words.unwrap_or_default().into()));
    }

    let text = Texts { tokenizer: folder.tokenizer.as_ref(), stop_tokens: &folder.config.eos_token_ids };
    let streams = arguments.format == Format::Text && items.len() == 1;
    let mut stream = streams.then(|| text.stream());
    while let Some(outcome) = engine.step().map_err(Failure::failed)? {
        for event in &outcome.events {
            if let (Some(stream), Event::Token { token, .. }) = (&mut stream, event) {
                stream.push(*token, output)?;
            }
        }
    }
    if let Some(stream) = stream {
        stream.finish(output)?;
    }

    for item in &mut items {
        if let Outcome::Request(request) = item.outcome {
            item.outcome = match engine.take(request) {
                Some(finished) if finished.reason == FinishReason::Failed => Outcome::Failed(format!(
                    "after token `{}` the model's logits are NaN: the checkpoint or the activations are out of range",
                    finished.prompt.len() + finished.tokens.len()
                )),
                Some(finished) => Outcome::Finished(finished),
                None => Outcome::Failed(format!("request {request} was lost")),
            };
        }
    }
    match arguments.format {
        Format::Text if streams => {}
        Format::Text => text.print_all(&items, output)?,
        Format::Json => text.print_json(&items, &engine, output)?,
    }
    finish(&engine, &folder, arguments, &items)
}

/// Says on stderr what failed and how the run went.
fn finish(engine: &Engine, folder: &Folder, arguments: &Arguments, items: &[Item]) -> Result<ExitCode, Failure> {
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
    let limits = arguments.plan.limits(folder.max_sequence_length);
    let run = Run {
        parameters: folder.parameters(),
        requests: items.len(),
        max_new_tokens: arguments.sampling.max_new_tokens,
        max_requests: limits.max_requests,
        max_tokens: limits.max_tokens,
        generated,
    };
    let _ = writeln!(stderr, "{}", Summary::new(engine, &run));
    Ok(status)
}

impl PromptArgs {
    /// The token ids of every prompt, in order.
    fn encode(&self, folder: &Folder) -> Result<Vec<Vec<u32>>, Failure> {
        if self.prompt.is_empty() {
            return Ok(self.prompt_ids.iter().map(|ids| ids.0.clone()).collect());
        }
        let Some(tokenizer) = &folder.tokenizer else {
            return Err(Failure::Usage(
                "--prompt needs a tokenizer and the model folder has no `tokenizer.json`: give token ids with --prompt-ids".into(),
            ));
        };
        self.prompt.iter().map(|text| tokenizer.encode(text)).collect::<Result<_, _>>().map_err(Failure::failed)
    }
}

impl SamplingArgs {
    fn parameters(&self) -> SamplingParameters {
        let Self { temperature, top_k, top_p, seed, .. } = *self;
        SamplingParameters { temperature, top_k, top_p, seed }
    }
}

/// How tokens become text: not at all without a tokenizer, and without the token that ended the sequence.
struct Texts<'a> {
    tokenizer: Option<&'a Tokenizer>,
    stop_tokens: &'a [u32],
}

impl<'a> Texts<'a> {
    fn text(&self, finished: &FinishedRequest) -> Result<Option<String>, Failure> {
        let Some(tokenizer) = self.tokenizer else { return Ok(None) };
        let shown = match finished.tokens.split_last() {
            Some((last, rest)) if self.stop_tokens.contains(last) => rest,
            _ => &finished.tokens[..],
        };
        tokenizer.decode(shown).map(Some).map_err(Failure::failed)
    }

    fn stream(&self) -> TextStream<'a> {
        TextStream { tokens: self.tokenizer.map(Tokenizer::stream), stop_tokens: self.stop_tokens, anything: false }
    }

    /// Every text whole, an empty line between two.
    fn print_all(&self, items: &[Item], output: &mut dyn Write) -> Result<(), Failure> {
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                writeln!(output).map_err(Failure::output)?;
            }
            if let Outcome::Finished(finished) = &item.outcome {
                let text = self.text(finished)?.unwrap_or_else(|| joined(&finished.tokens));
                writeln!(output, "{text}").map_err(Failure::output)?;
            }
        }
        Ok(())
    }

    fn print_json(&self, items: &[Item], engine: &Engine, output: &mut dyn Write) -> Result<(), Failure> {
        let results = items.iter().map(|item| self.result(item)).collect::<Result<Vec<Value>, Failure>>()?;
        let capture = engine.capture();
        let StepTotals { total, replayed, eager } = *engine.totals();
        let answer = json!({
            "results": results,
            "plan": {"graphs": capture.graphs, "distinct": capture.distinct},
            "steps": {"total": total, "replayed": replayed, "eager": eager},
            "capture_seconds": capture.time.as_secs_f64(),
        });
        writeln!(output, "{answer}").map_err(Failure::output)
    }

    fn result(&self, item: &Item) -> Result<Value, Failure> {
        let mut result = json!({"prompt_ids": item.prompt_ids});
        match &item.outcome {
            Outcome::Finished(finished) => {
                result["tokens"] = json!(finished.tokens);
                result["text"] = json!(self.text(finished)?);
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

/// One request's text as it comes, or its token ids where there is no tokenizer.
struct TextStream<'a> {
    tokens: Option<TokenStream>,
    stop_tokens: &'a [u32],
    anything: bool,
}

impl TextStream<'_> {
    fn push(&mut self, token: u32, output: &mut dyn Write) -> Result<(), Failure> {
        let piece = match &mut self.tokens {
            Some(_) if self.stop_tokens.contains(&token) => return Ok(()),
            Some(stream) => stream.push(token).map_err(Failure::failed)?,
            None if self.anything => format!(" {token}"),
            None => token.to_string(),
        };
        self.anything = true;
        output.write_all(piece.as_bytes()).and_then(|()| output.flush()).map_err(Failure::output)
    }

    fn finish(self, output: &mut dyn Write) -> Result<(), Failure> {
        let rest = self.tokens.map(TokenStream::finish).transpose().map_err(Failure::failed)?;
        writeln!(output, "{}", rest.unwrap_or_default()).and_then(|()| output.flush()).map_err(Failure::output)
    }
}

/// Token ids for people.
fn joined(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
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

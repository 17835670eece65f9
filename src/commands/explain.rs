//! `gridpoint explain`: what each step of a list would replay.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use gridpoint_plan::{Match, Matcher, Matching};

use crate::args::plan::read_plan;
use crate::commands::Failure;

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The plan, as `plan --output` wrote it or `plan --format json` printed it.
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Decodes take no prefill slots, as in models with recurrent layers.
    #[arg(long)]
    strict: bool,
    /// How to print the answers.
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    /// Steps: tokens, prefills and decodes of a batch.
    #[arg(value_name = "t:p:d", required = true)]
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A sentence a step.
    Text,
    /// An object a step.
    Json,
}

/// Prints one line a step, in their order.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let file = read_plan(&arguments.plan).map_err(Failure::failed)?;
    let matcher = Matcher::new(file.plan().points());
    let matching = if arguments.strict { Matching::Strict } else { Matching::NonStrict };
    for step in &arguments.steps {
        let [tokens, prefills, decodes] = step.counts;
        let answer = matcher.find_counts(tokens, prefills, decodes, matching);
        match arguments.format {
            Format::Text => write_text(step, &answer, output),
            Format::Json => write_json(step, &answer, output),
        }
        .map_err(Failure::output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_text(step: &Step, answer: &Match, output: &mut dyn Write) -> io::Result<()> {
    let step = step.digits.join(":");
    match answer {
        Match::Replay { point, slack, .. } => writeln!(output, "{step} replays {point}, padding {slack}"),
        Match::Eager { reason } => writeln!(output, "{step} runs eagerly: {reason}"),
    }
}

fn write_json(step: &Step, answer: &Match, output: &mut dyn Write) -> io::Result<()> {
    let step = step.digits.join(",");
    match answer {
        Match::Replay { point, .. } => {
            let point = [point.tokens, point.prefills, point.decodes];
            writeln!(output, r#"{{"step":[{step}],"point":{}}}"#, serde_json::to_string(&point)?)
        }
        Match::Eager { reason } => {
            let reason = serde_json::to_string(&reason.to_string())?;
            writeln!(output, r#"{{"step":[{step}],"point":null,"reason":{reason}}}"#)
        }
    }
}

/// Any triple of natural numbers. Those beyond `u64` stand as `u64::MAX`, which no point reaches, and print as given.
#[derive(Debug, Clone)]
struct Step {
    digits: [String; 3],
    counts: [u64; 3],
}

#[derive(Debug, thiserror::Error)]
#[error("a step is `t:p:d`, the tokens, prefills and decodes of a batch, for example `300:3:120`")]
struct ParseStepError;

impl FromStr for Step {
    type Err = ParseStepError;

    fn from_str(word: &str) -> Result<Self, ParseStepError> {
        let digits = |part: &str| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let significant = part.trim_start_matches('0');
            is_number.then(|| if significant.is_empty() { "0".to_owned() } else { significant.to_owned() })
        };
        let digits: Option<Vec<String>> = word.split(':').map(digits).collect();
        let digits: [String; 3] = digits.and_then(|digits| digits.try_into().ok()).ok_or(ParseStepError)?;
        let counts = digits.each_ref().map(|digits| digits.parse().unwrap_or(u64::MAX));
        Ok(Self { digits, counts })
    }
}

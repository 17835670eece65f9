//! The whole engine inside a program: requests in, tokens out, and what each step was.

use std::error::Error;
use std::io::{Write, stdout};
use std::path::Path;

use gridpoint::devices::{self, Choice};
use gridpoint_engine::{Engine, EngineOptions, Event, NewRequest};
use gridpoint_model::{Checkpoint, ModelConfig, Tokenizer, Weights};
use gridpoint_plan::{Limits, Policy, plan};

fn main() -> Result<(), Box<dyn Error>> {
    let mut output = stdout();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/shakespeare-3m");
    let config = ModelConfig::load(&folder)?;
    let checkpoint = Checkpoint::open(&folder)?;
    let weights = Weights::new(&config, &checkpoint)?;
    let tokenizer = Tokenizer::load(&folder, config.vocab_size)?.ok_or("the folder has no tokenizer.json")?;

    let device = devices::open(Choice::Auto, None)?.device;
    let limits = Limits { max_requests: 4, max_tokens: 64, ..Limits::default() };
    let plan = plan(&limits, &Policy::default())?;
    let options = EngineOptions { max_requests: 4, max_tokens: 64, kv_pages: Some(9), ..EngineOptions::default() };
    let mut engine = Engine::new(&device, &config, &weights, &plan, &options, |_| {})?;

    let prompts = ["ROMEO:", "JULIET:"];
    for prompt in prompts {
        engine.add(NewRequest::greedy(tokenizer.encode(prompt)?, 4))?;
    }
    let mut finished = Vec::new();
    while let Some(outcome) = engine.step()? {
        writeln!(output, "{}", outcome.report)?;
        finished.extend(outcome.events.iter().filter_map(|event| match event {
            Event::Finished { request, .. } => Some(*request),
            Event::Token { .. } => None,
        }));
    }
    for request in finished {
        let Some(result) = engine.take(request) else { continue };
        writeln!(output, "{:?}", tokenizer.decode(&result.tokens)?)?;
    }
    let totals = engine.totals();
    writeln!(output, "{} steps, {} of them replays", totals.total, totals.replayed)?;
    Ok(())
}

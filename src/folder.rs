//! A model folder, read and checked, and the engine that is made of it.

use std::io::IsTerminal;
use std::sync::Arc;

use gridpoint::devices::{self, Taken};
use gridpoint_engine::{Engine, EngineError, EngineOptions, pages_for};
use gridpoint_model::{Checkpoint, ModelConfig, Tokenizer, WeightPlan, Weights};
use gridpoint_plan::{Plan, plan};
use gridpoint_runtime::Device;

use crate::args::model::ModelArgs;
use crate::args::plan::PlanArgs;
use crate::commands::Failure;
use crate::progress::CaptureBar;

/// What a model folder holds.
pub(crate) struct Folder {
    pub(crate) config: ModelConfig,
    pub(crate) tokenizer: Option<Tokenizer>,
    checkpoint: Checkpoint,
    /// Tokens of the longest sequence: the model's, or fewer where the arguments ask for it.
    pub(crate) max_sequence_length: u32,
}

impl Folder {
    /// Reads the folder that the arguments name. Logging starts here.
    pub(crate) fn read(model: &ModelArgs, plan: &PlanArgs) -> Result<Self, Failure> {
        log_to_stderr(model.verbose);
        let config = ModelConfig::load(&model.model).map_err(Failure::failed)?;
        let tokenizer = Tokenizer::load(&model.model, config.vocab_size).map_err(Failure::failed)?;
        let checkpoint = Checkpoint::open(&model.model).map_err(Failure::failed)?;
        let longest = u32::try_from(config.max_position_embeddings).unwrap_or(u32::MAX);
        let asked = plan.limits(longest).max_sequence_length;
        if asked > longest {
            tracing::warn!("--max-seq-len is `{asked}`: the model's longest sequence of {longest} tokens is used");
        }
        Ok(Self { config, tokenizer, checkpoint, max_sequence_length: asked.min(longest) })
    }

    /// Number of weights.
    pub(crate) fn parameters(&self) -> u64 {
        WeightPlan::new(&self.config).parameters()
    }

    /// Plans the graphs, takes the device, and makes an engine whose cache holds `tokens_wanted` tokens for each of these requests
    /// at once, as far as slots and memory go.
    pub(crate) fn engine(
        &self,
        model: &ModelArgs,
        plan_args: &PlanArgs,
        tokens_wanted: &[u64],
        replay: bool,
    ) -> Result<Engine, Failure> {
        let limits = plan_args.limits(self.max_sequence_length);
        let limits = gridpoint_plan::Limits { max_sequence_length: self.max_sequence_length, ..limits };
        let plan: Plan = plan(&limits, &plan_args.policy()).map_err(Failure::usage)?;
        let weights = Weights::new(&self.config, &self.checkpoint).map_err(Failure::failed)?;
        let options = EngineOptions {
            max_requests: limits.max_requests,
            max_tokens: limits.max_tokens,
            max_sequence_length: Some(self.max_sequence_length),
            kv_pages: Some(model.kv_pages.unwrap_or_else(|| self.pages_wanted(limits.max_requests, tokens_wanted))),
            replay,
            ..EngineOptions::default()
        };
        let device = take_device(model)?;
        let bar = CaptureBar::new(plan.len());
        let engine = Engine::new(&device, &self.config, &weights, &plan, &options, |progress| bar.advance(progress));
        bar.finish();
        engine.map_err(|error| match error {
            EngineError::Limits(_) | EngineError::SequenceLength { .. } | EngineError::MemoryUtilization { .. } => {
                Failure::usage(error)
            }
            other => Failure::failed(other),
        })
    }

    /// Pages of the `max_requests` requests that want most, and the dummy page.
    fn pages_wanted(&self, max_requests: u32, tokens_wanted: &[u64]) -> u32 {
        let longest = u64::from(self.max_sequence_length);
        let mut pages: Vec<u64> =
            tokens_wanted.iter().map(|&tokens| u64::from(pages_for(tokens.min(longest) as u32))).collect();
        pages.sort_unstable_by(|a, b| b.cmp(a));
        let sum: u64 = pages.iter().take(max_requests as usize).sum();
        u32::try_from(sum + 1).unwrap_or(u32::MAX).max(2)
    }
}

/// The device that the arguments ask for; says which and why where that was left open.
fn take_device(model: &ModelArgs) -> Result<Arc<Device>, Failure> {
    let opened = devices::open(model.device.into(), None).map_err(Failure::failed)?;
    if let (Taken::Simulator, Some(reason)) = (opened.taken, &opened.reason) {
        tracing::info!(target: "gridpoint", "running on the simulated device: {reason}");
    }
    Ok(opened.device)
}

/// Where stderr is a file or a pipe, every captured graph is a line; on a terminal a bar stands for them.
fn log_to_stderr(verbose: u8) {
    let on_terminal = std::io::stderr().is_terminal();
    let level = match verbose {
        0 if on_terminal => "warn,gridpoint=info",
        0 | 1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .with_ansi(on_terminal)
        .with_target(false)
        .without_time()
        .finish();
    // A second command in one process keeps the first one's log.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

//! A model folder, read and checked, or a shape in its place, and the engine that is made of it.

use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gridpoint::devices::{self, Choice, DeviceError, Opened, Taken};
use gridpoint_engine::{Engine, EngineOptions, pages_for};
use gridpoint_graph::{Bytes, CaptureMode};
use gridpoint_model::{Checkpoint, KvCache, ModelConfig, Tokenizer, WeightPlan, WeightSource, Weights};
use gridpoint_plan::{Limits, Plan};
use gridpoint_runtime::{Device, RuntimeError};

use crate::args::model::{DEFAULT_MODEL, KernelsChoice, ModelArgs};
use crate::args::plan::Graphs;
use crate::args::subject::SEED;
use crate::commands::{Failure, refusals};
use crate::progress::Bar;

/// The kv cache has a dummy page and one that a request can have.
const LEAST_PAGES: u32 = 2;

/// What a model folder holds.
pub(crate) struct Folder {
    pub(crate) config: ModelConfig,
    pub(crate) tokenizer: Option<Tokenizer>,
    path: PathBuf,
    /// None where the weights are random.
    checkpoint: Option<Checkpoint>,
    /// Tokens of the longest sequence: the model's, or fewer where the arguments ask for it.
    pub(crate) max_sequence_length: u32,
}

impl Folder {
    /// Reads the folder that the arguments name. Logging starts here.
    pub(crate) fn read(model: &ModelArgs, plan: &Graphs<'_>) -> Result<Self, Failure> {
        log_to_stderr(model.verbose);
        look_for(&model.model)?;
        let config = ModelConfig::load(&model.model).map_err(Failure::failed)?;
        let tokenizer = Tokenizer::load(&model.model, config.vocab_size).map_err(Failure::failed)?;
        let checkpoint = Checkpoint::open(&model.model).map_err(Failure::failed)?;
        Self { config, tokenizer, path: model.model.clone(), checkpoint: Some(checkpoint), max_sequence_length: 0 }
            .within(model, plan)
    }

    /// A model of random weights in place of a folder. Logging starts here.
    pub(crate) fn random(config: ModelConfig, model: &ModelArgs, plan: &Graphs<'_>) -> Result<Self, Failure> {
        log_to_stderr(model.verbose);
        Self { config, tokenizer: None, path: PathBuf::new(), checkpoint: None, max_sequence_length: 0 }
            .within(model, plan)
    }

    /// With the longest sequence that the arguments ask for.
    fn within(self, model: &ModelArgs, plan: &Graphs<'_>) -> Result<Self, Failure> {
        let config = &self.config;
        let longest = u32::try_from(config.max_position_embeddings).unwrap_or(u32::MAX);
        let asked = plan.limits(longest).max_sequence_length;
        if asked == 0 {
            return Err(usage(format!("--max-seq-len is `0`: it must be from 1 to the model's {longest}")));
        }
        if asked > longest {
            let name = plan.sequence_length_name();
            tracing::warn!("{name} is `{asked}`: the model's longest sequence of {longest} tokens is used");
        }
        if let Some(pages) = model.kv_pages.filter(|&pages| pages < LEAST_PAGES) {
            return Err(usage(format!(
                "--kv-pages is `{pages}`: it must be at least {LEAST_PAGES}, of which one is the dummy page"
            )));
        }
        Ok(Self { max_sequence_length: asked.min(longest), ..self })
    }

    /// The path of one of the folder's files, for messages.
    pub(crate) fn file(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
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
        graphs: &Graphs<'_>,
        tokens_wanted: &[u64],
        capture: CaptureMode,
    ) -> Result<Engine, Failure> {
        let limits = self.limits(graphs);
        let plan = graphs.plan(&limits)?;
        let Opened { device, .. } = take_device(model.device.into())?;
        self.engine_on(&device, model, (&limits, &plan), tokens_wanted, capture)
    }

    /// The limits asked for, within the model's.
    pub(crate) fn limits(&self, graphs: &Graphs<'_>) -> Limits {
        let limits = graphs.limits(self.max_sequence_length);
        for (flag, value, none) in
            [("--tp", limits.tensor_parallel, 1), ("--speculative-tokens", limits.speculative_tokens, 0)]
        {
            if value != none {
                tracing::warn!(
                    "{flag} is `{value}`: it shapes the graphs and nothing else, the model runs as with `{none}`"
                );
            }
        }
        Limits { max_sequence_length: self.max_sequence_length, ..limits }
    }

    /// As [`Self::engine`], for a plan on a device.
    pub(crate) fn engine_on(
        &self,
        device: &Arc<Device>,
        model: &ModelArgs,
        (limits, plan): (&Limits, &Plan),
        tokens_wanted: &[u64],
        capture: CaptureMode,
    ) -> Result<Engine, Failure> {
        let weights = self.checkpoint.as_ref().map(|checkpoint| Weights::new(&self.config, checkpoint));
        let weights = weights.transpose().map_err(Failure::failed)?;
        let source = weights.as_ref().map_or(WeightSource::Random(SEED), WeightSource::Checkpoint);
        let products = model.products.read_with(device.properties(), model.kernels)?;
        let mut options = EngineOptions {
            max_requests: limits.max_requests,
            max_tokens: limits.max_tokens,
            max_sequence_length: Some(self.max_sequence_length),
            kv_pages: Some(model.kv_pages.unwrap_or_else(|| self.pages_wanted(limits.max_requests, tokens_wanted))),
            launches: model.launches.map(Into::into),
            portable: model.kernels == KernelsChoice::Portable,
            products: products.table.clone(),
            ..EngineOptions::default()
        };
        model.capture.apply(capture, &mut options);
        if let Some(pages) = model.kv_pages {
            self.check_pages(pages, device)?;
        }
        let bar = Bar::capture(plan.len());
        let engine = Engine::new(device, &self.config, source, plan, &options, |progress| bar.captured(progress));
        bar.finish();
        let engine = engine.map_err(|error| refusals::engine(error, limits))?;
        products.log();
        let pages = engine.memory().kv_pages;
        if let Some(asked) = model.kv_pages.filter(|&asked| asked > pages) {
            tracing::warn!("--kv-pages is `{asked}`: there is memory for `{pages}`");
        }
        Ok(engine)
    }

    /// Refuses pages that the device has no memory for before memory is touched.
    fn check_pages(&self, pages: u32, device: &Device) -> Result<(), Failure> {
        let page = KvCache::page_bytes(&self.config);
        let free = device.memory().map_err(Failure::failed)?.free;
        let needed = page.saturating_mul(u64::from(pages));
        if needed <= free {
            return Ok(());
        }
        let [needed, available] = [needed, free].map(Bytes::from);
        let most = free / page.max(1);
        Err(Failure::Failed(
            format!("--kv-pages is `{pages}`: they take {needed} and {available} are free, so it must be below {most}")
                .into(),
        ))
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

/// Arguments that cannot be meant.
fn usage(words: String) -> Failure {
    Failure::Usage(words.into())
}

/// Refuses a path that is no folder, and says from where it was looked for.
pub(crate) fn look_for(folder: &Path) -> Result<(), Failure> {
    let found = match folder.metadata() {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "is not a folder".to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => match std::env::current_dir() {
            Ok(current) if folder.is_relative() => format!("does not exist in `{}`", current.display()),
            _ => "does not exist".to_owned(),
        },
        Err(error) => format!("cannot be read: {error}"),
    };
    let default = match folder == Path::new(DEFAULT_MODEL) {
        true => " (the default is the model in gridpoint's repository)",
        false => "",
    };
    let name = folder.display();
    Err(Failure::Failed(
        format!("--model is `{name}`, which {found}: it must be a Hugging Face model folder{default}").into(),
    ))
}

/// The device that was asked for; says which and why where that was left open.
pub(crate) fn take_device(choice: Choice) -> Result<Opened, Failure> {
    let opened = devices::open(choice, None).map_err(|error| match error {
        DeviceError::Runtime(RuntimeError::NoDevice { .. }) => {
            Failure::Failed(format!("{error}; `--device simulator` runs without one").into())
        }
        other => Failure::failed(other),
    })?;
    if let (Taken::Simulator, Some(reason)) = (opened.taken, &opened.reason) {
        tracing::info!(target: "gridpoint::device", "running on the simulated device: {reason}");
    }
    Ok(opened)
}

/// Where stderr is a file or a pipe, every captured graph is a line; on a terminal a bar stands for them.
fn log_to_stderr(verbose: u8) {
    let on_terminal = std::io::stderr().is_terminal();
    let level = match verbose {
        // The colons keep the crates out whose names begin alike.
        0 if on_terminal => "warn,gridpoint::device=info,gridpoint::memory=info",
        0 | 1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // A line that stderr does not take is dropped: to say so on stderr would panic.
        .log_internal_errors(false)
        .with_target(false)
        .without_time()
        .finish();
    // A second command in one process keeps the first one's log.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

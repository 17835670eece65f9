//! When graphs are captured: arguments of every command that captures.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, ValueEnum};
use gridpoint_engine::EngineOptions;
use gridpoint_graph::CaptureMode;

use crate::args::plan::{number, seconds, size};
use crate::args::positive;

/// When and on what graphs are captured.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Capture")]
pub(crate) struct CaptureArgs {
    /// When graphs are captured: before the first step (all), each at the first step that needs it (lazy), or on a thread of their own while
    /// steps without a graph are launched kernel by kernel (background).
    #[arg(long, value_enum, default_value = "all")]
    capture: CaptureChoice,
    /// Threads that capture before the first step.
    #[arg(long, value_name = "N", default_value = "1", allow_negative_numbers = true, value_parser = positive)]
    capture_threads: NonZeroUsize,
    /// Most seconds that capture may take, by what graphs take on this device: points that are missed least are dropped [default: no limit].
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    capture_budget: Option<Duration>,
    /// Most device memory that the run may take in all, as in 300MB or 1.5GiB: weights, a step's memory, graphs, kv cache [default: no limit
    /// beside --gpu-memory-utilization].
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size)]
    memory_budget: Option<u64>,
    /// The part of the device's memory that may be in use, above 0 and at most 1; what other programs use counts.
    #[arg(long, value_name = "X", default_value = "0.9", allow_negative_numbers = true, value_parser = part)]
    gpu_memory_utilization: f64,
}

/// A part above 0 and at most 1.
fn part(word: &str) -> Result<f64, String> {
    let part = number(word)?;
    match part > 0.0 && part <= 1.0 {
        true => Ok(part),
        false => Err("it must be a number above 0 and at most 1".to_owned()),
    }
}

/// The names of the modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CaptureChoice {
    /// All before the first step.
    All,
    /// Each at the first step that needs it.
    Lazy,
    /// On a thread of their own.
    Background,
}

impl CaptureArgs {
    /// When graphs are captured.
    pub(crate) fn mode(&self) -> CaptureMode {
        match self.capture {
            CaptureChoice::All => CaptureMode::All,
            CaptureChoice::Lazy => CaptureMode::Lazy,
            CaptureChoice::Background => CaptureMode::Background,
        }
    }

    /// Writes what was asked for into an engine's options; `mode` is when graphs are captured.
    pub(crate) fn apply(&self, mode: CaptureMode, options: &mut EngineOptions) {
        options.capture = mode;
        options.capture_threads = self.capture_threads;
        options.capture_budget = self.capture_budget;
        options.memory_budget = self.memory_budget;
        options.memory_utilization = self.gpu_memory_utilization;
    }
}

//! When graphs are captured: arguments of every command that captures.

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use gridpoint_graph::CaptureMode;

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

    /// Threads that capture before the first step.
    pub(crate) fn threads(&self) -> NonZeroUsize {
        self.capture_threads
    }
}

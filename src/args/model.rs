//! Which model runs on which device: the arguments of every command that runs one.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gridpoint::devices::Choice;
use gridpoint_model::LaunchOrder;

use crate::args::capture::CaptureArgs;
use crate::args::natural_32;
use crate::args::products::ProductsArgs;

/// The model folder where none is given: the one that is part of the repository.
pub(crate) const DEFAULT_MODEL: &str = "assets/shakespeare-3m";

/// Model folder and device.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A Hugging Face model folder: config.json, safetensors, tokenizer.json.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_MODEL)]
    pub(crate) model: PathBuf,
    /// Where it runs: the first GPU of compute capability 8.0 or newer if there is one and else the simulated device (auto), that GPU (cuda),
    /// the simulated device.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) device: DeviceChoice,
    /// Most pages of 64 tokens in the kv cache, a dummy page among them [default: what the requests need at once].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = natural_32)]
    pub(crate) kv_pages: Option<u32>,
    /// How the launches of a step depend on each other [default: programmatic where the device has it].
    #[arg(long, value_enum)]
    pub(crate) launches: Option<LaunchesChoice>,
    /// Which kernels are taken. No choice changes a result.
    #[arg(long, value_enum, default_value = "best")]
    pub(crate) kernels: KernelsChoice,
    #[command(flatten)]
    pub(crate) products: ProductsArgs,
    #[command(flatten)]
    pub(crate) capture: CaptureArgs,
    /// Log every captured graph (-v) and every step (-vv).
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The names of the devices.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum DeviceChoice {
    /// A GPU where there is one, else the simulated device.
    Auto,
    /// A GPU.
    Cuda,
    /// The simulated device.
    Simulator,
}

/// The names of the launch orders.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LaunchesChoice {
    /// Each begins before the one in front of it has ended and waits where it needs its results; from compute capability 9.0 on.
    Programmatic,
    /// Each begins when the one in front of it has ended.
    Serial,
}

/// The names of the sets of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KernelsChoice {
    /// The best of the device.
    Best,
    /// Those that run on every GPU, also where the device has better ones; without the table of measured choices, unless --products names it.
    Portable,
}

impl From<LaunchesChoice> for LaunchOrder {
    fn from(choice: LaunchesChoice) -> Self {
        match choice {
            LaunchesChoice::Programmatic => Self::Programmatic,
            LaunchesChoice::Serial => Self::Serial,
        }
    }
}

impl From<DeviceChoice> for Choice {
    fn from(choice: DeviceChoice) -> Self {
        match choice {
            DeviceChoice::Auto => Self::Auto,
            DeviceChoice::Cuda => Self::Cuda,
            DeviceChoice::Simulator => Self::Simulator,
        }
    }
}

//! The commands, one file each, and what they have in common: the way they fail.

mod bench;
mod capture;
mod devices;
pub(crate) mod dump;
mod explain;
mod generate;
mod kernels;
mod perplexity;
mod plan;
pub(crate) mod refusals;
mod texts;
mod timing;
mod tune;
mod verify;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// LLM inference in which every step is one replay of a CUDA graph captured beforehand.
#[derive(Debug, Parser)]
#[command(name = "gridpoint", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue prompts: plan the graphs, capture them, replay every step.
    Generate(Box<generate::Arguments>),
    /// Print the graphs that limits and a policy ask for, in the order in which they are captured.
    Plan(Box<plan::Arguments>),
    /// Say which graph of a plan each step replays and what that pads, or why it runs eagerly.
    Explain(explain::Arguments),
    /// Score a text: mean negative log-likelihood over windows.
    Perplexity(Box<perplexity::Arguments>),
    /// Say what was found on this machine and which device would be taken.
    Devices(devices::Arguments),
    /// Count or time what each kernel of a step does, beside what the step's shape needs.
    Kernels(Box<kernels::Arguments>),
    /// Time every kernel that the products of a model may take on this device, and keep the fastest of each in a file.
    Tune(Box<tune::Arguments>),
    /// Replay every captured graph with real steps and compare it with eager launches, bit for bit.
    Verify(Box<verify::Arguments>),
    /// Run the same requests under several plans and print what each costs and brings, side by side.
    Bench(Box<bench::Arguments>),
    /// Capture a plan on one thread and on several: where the time goes, and what its graphs take of the device's memory.
    Capture(Box<capture::Arguments>),
}

impl Command {
    /// Runs the command. Results go to `output`, which is buffered; everything else goes to stderr.
    pub(crate) fn run(self, output: &mut dyn Write) -> Result<ExitCode, Failure> {
        match self {
            Self::Generate(arguments) => generate::run(&arguments, output),
            Self::Plan(arguments) => plan::run(&arguments, output),
            Self::Explain(arguments) => explain::run(&arguments, output),
            Self::Perplexity(arguments) => perplexity::run(&arguments, output),
            Self::Devices(arguments) => devices::run(&arguments, output),
            Self::Kernels(arguments) => kernels::run(&arguments, output),
            Self::Tune(arguments) => tune::run(&arguments, output),
            Self::Verify(arguments) => verify::run(&arguments, output),
            Self::Bench(arguments) => bench::run(&arguments, output),
            Self::Capture(arguments) => capture::run(&arguments, output),
        }
    }
}

/// Why a command ends without its result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments cannot be meant: exit status 2.
    Usage(Box<dyn Error>),
    /// What was asked cannot be done: exit status 1.
    Failed(Box<dyn Error>),
    /// Whoever read the output has had enough: exit status 0, in silence.
    ClosedPipe,
}

impl Failure {
    /// Arguments that cannot be meant.
    pub(crate) fn usage(error: impl Error + 'static) -> Self {
        Self::Usage(error.into())
    }

    /// Something that cannot be done.
    pub(crate) fn failed(error: impl Error + 'static) -> Self {
        Self::Failed(error.into())
    }

    /// The failure of a write to stdout.
    pub(crate) fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Failed(format!("cannot write to stdout: {error}").into()),
        }
    }

    /// Says it in one line and gives the exit status.
    pub(crate) fn report(self, mut stderr: impl Write) -> ExitCode {
        let (error, status) = match self {
            Self::Usage(error) => (error, ExitCode::from(2)),
            Self::Failed(error) => (error, ExitCode::FAILURE),
            Self::ClosedPipe => return ExitCode::SUCCESS,
        };
        // A stderr that cannot be written to leaves nobody to tell.
        let _ = writeln!(stderr, "error: {error}");
        status
    }
}

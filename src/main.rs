//! The gridpoint program: it reads arguments, runs one command and prints what that answers.

mod args;
mod commands;
mod folder;
mod progress;
mod steps;
mod summary;

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use gridpoint_runtime::ranges;

use crate::commands::{Cli, Failure};

fn main() -> ExitCode {
    let_profiler_listen();
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return args::usage::report(&error),
    };
    let mut output = BufWriter::new(io::stdout().lock());
    let outcome = command.run(&mut output).and_then(|status| {
        output.flush().map_err(Failure::output)?;
        Ok(status)
    });
    // After a failure, what the command had begun to write is dropped, not flushed: stdout stays empty.
    let _ = output.into_parts();
    outcome.unwrap_or_else(|failure| failure.report(io::stderr()))
}

/// A profiler that wants NVTX ranges says by this variable which library listens (NVTX 3). A run without its profiler is still a run.
fn let_profiler_listen() {
    let variable = "NVTX_INJECTION64_PATH";
    let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) else { return };
    if let Err(error) = ranges::listen(Path::new(&path)) {
        // A stderr that cannot be written to leaves nobody to tell.
        let _ = writeln!(io::stderr(), "warning: no ranges are recorded, {variable} is set: {error}");
    }
}

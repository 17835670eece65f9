//! The gridpoint program: it reads arguments, runs one command and prints what that answers.

mod args;
mod commands;
mod folder;
mod progress;
mod steps;
mod summary;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::commands::{Cli, Failure};

fn main() -> ExitCode {
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

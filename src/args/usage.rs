//! What clap has to say, in the form of every other error: one line on stderr and exit status 2.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::commands::{Cli, Failure};

/// Help and version go to stdout as they are. Without a command the help goes to stderr; everything else is one line there.
pub(crate) fn report(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let printed = error.print().map_err(Failure::output);
            printed.map_or_else(|failure| failure.report(io::stderr()), |()| ExitCode::SUCCESS)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A stderr that cannot be written to leaves nobody to tell.
            let _ = error.print();
            ExitCode::from(2)
        }
        kind => {
            let _ = writeln!(io::stderr(), "{}", sentence(kind, &error.render().to_string()));
            ExitCode::from(2)
        }
    }
}

/// The lines above the usage, joined, and what there is instead of an unknown word.
fn sentence(kind: ErrorKind, text: &str) -> String {
    let mut sentence = String::new();
    for line in text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage: ")) {
        match line.strip_prefix("tip: ") {
            _ if line.is_empty() || line.starts_with("For more information, try") => {}
            Some(tip) => sentence.extend(["; ", tip]),
            None if sentence.is_empty() => sentence.push_str(line),
            None => sentence.extend([" ", line]),
        }
    }
    match kind {
        ErrorKind::InvalidSubcommand => {
            let command = Cli::command();
            let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
            sentence + "; the commands are " + &names.join(", ")
        }
        ErrorKind::UnknownArgument if !sentence.contains("; ") => sentence + "; `--help` lists what there is",
        _ => sentence,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn says(words: &[&str]) -> String {
        let error = Cli::try_parse_from([&["gridpoint"], words].concat()).expect_err("not to be understood");
        sentence(error.kind(), &error.render().to_string())
    }

    #[test]
    fn one_line_says_what_would_be_right() {
        assert_eq!(
            says(&["sing"]),
            "error: unrecognized subcommand 'sing'; the commands are generate, plan, explain, perplexity, devices, kernels, tune, verify, bench, capture"
        );
        assert_eq!(
            says(&["devices", "--format", "xml"]),
            "error: invalid value 'xml' for '--format <FORMAT>' [possible values: text, json]"
        );
        assert_eq!(
            says(&["generate"]),
            "error: the following required arguments were not provided: <--prompt <TEXT>|--prompt-ids <1,2,3>>"
        );
        assert_eq!(
            says(&["generate", "--promt", "x"]),
            "error: unexpected argument '--promt' found; a similar argument exists: '--prompt'"
        );
        assert_eq!(
            says(&["devices", "--quick"]),
            "error: unexpected argument '--quick' found; `--help` lists what there is"
        );
    }
}

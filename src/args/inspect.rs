//! What a run leaves for whoever looks into it: arguments of every command that runs an engine.

use std::path::PathBuf;

use clap::Args;
use gridpoint::profile::{StepSpan, Steps};
use gridpoint_engine::Engine;

use crate::commands::{Failure, dump};

/// Graphs to look at, and steps to profile.
#[derive(Debug, Args)]
#[command(next_help_heading = "Inspection")]
pub(crate) struct InspectArgs {
    /// Write every distinct graph to a folder: as NAME.dot for Graphviz, as NAME.json with each kernel's geometry and parameters, and index.json
    /// with the points of each.
    #[arg(long, value_name = "DIR")]
    dump_graphs: Option<PathBuf>,
    /// Let a profiler that waits for it (nsys profile --capture-range=cudaProfilerApi) record steps A to B, counted from 1.
    #[arg(long, value_name = "A:B", allow_hyphen_values = true)]
    profile_steps: Option<StepSpan>,
}

impl InspectArgs {
    /// Writes what there is to write before the first step, and gives what runs the steps.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn begin(&self, engine: &Engine) -> Result<Steps, Failure> {
        if let Some(folder) = &self.dump_graphs {
            dump::write(engine, folder)?;
        }
        Ok(Steps::new(self.profile_steps))
    }
}

//! The progress bar of a capture, on a terminal.

use gridpoint_graph::{Bytes, CaptureProgress};
use indicatif::{ProgressBar, ProgressStyle};

/// A bar on stderr that is not drawn where stderr is no terminal, and gone when it is done.
pub(crate) struct CaptureBar(ProgressBar);

impl CaptureBar {
    /// A bar for this many graphs.
    pub(crate) fn new(graphs: usize) -> Self {
        let bar = ProgressBar::new(graphs as u64);
        if let Ok(style) = ProgressStyle::with_template("capture {bar:24} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// One more graph.
    pub(crate) fn advance(&self, progress: &CaptureProgress) {
        self.0.set_position(progress.number as u64);
        let pool = Bytes::from(progress.pool.reserved);
        self.0.set_message(format!("{} | pool {pool}", progress.point));
    }

    /// Takes the bar off the terminal.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

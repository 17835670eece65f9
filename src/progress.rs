//! Progress bars, on a terminal.

use std::borrow::Cow;

use gridpoint_graph::verify::VerifyProgress;
use gridpoint_graph::{Bytes, CaptureProgress};
use indicatif::{ProgressBar, ProgressStyle};

/// A bar on stderr that is not drawn where stderr is no terminal, and gone when it is done or dropped.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// The bar of a capture of this many graphs.
    pub(crate) fn capture(graphs: usize) -> Self {
        Self::new("capture {bar:24} {pos}/{len} {msg}", graphs as u64, "")
    }

    /// The bar of a run over at most this many tokens; `what` is a word for what is done with them.
    pub(crate) fn tokens(what: &'static str, tokens: u64) -> Self {
        Self::new("{msg} {bar:24} {pos}/{len} tokens", tokens, what)
    }

    /// The bar of products that are timed at so many counts of rows.
    pub(crate) fn rows(counts: usize) -> Self {
        Self::new("tune {bar:24} {pos}/{len} counts of rows", counts as u64, "")
    }

    /// The bar of a proof of so many graphs and chained replays.
    pub(crate) fn verify(total: u64) -> Self {
        Self::new("verify {bar:24} {pos}/{len} {msg}", total, "")
    }

    fn new(template: &str, length: u64, message: impl Into<Cow<'static, str>>) -> Self {
        let bar = ProgressBar::new(length).with_message(message);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// One more graph.
    pub(crate) fn captured(&self, progress: &CaptureProgress) {
        let pool = Bytes::from(progress.pool.reserved);
        self.0.set_message(format!("{} | pool {pool}", progress.point));
        self.0.set_position(progress.number as u64);
    }

    /// One more graph, or chain of replays, is proved.
    pub(crate) fn verified(&self, progress: &VerifyProgress) {
        let VerifyProgress { done, point, replays, mismatches, .. } = progress;
        self.0.set_message(format!("{point} | {replays} replays, {mismatches} mismatches"));
        self.0.set_position(*done);
    }

    /// More tokens, or counts.
    pub(crate) fn add(&self, tokens: u32) {
        self.0.inc(u64::from(tokens));
    }

    /// Takes the bar off the terminal.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

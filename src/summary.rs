//! The line that ends a run, in the shape of Megatron-LM's `gpt_dynamic_inference` (PR #3509).

use std::fmt;
use std::time::Duration;

use gridpoint_engine::{Engine, MemoryReport};
use gridpoint_graph::Seconds;

/// Device memory of a run, in bytes: weights, workspace, step block, kv cache and what the driver takes for graphs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// What steps can touch: the workspace of captured graphs, and of the kv cache the most pages that were held at once.
    pub(crate) allocated: u64,
    /// All of it.
    pub(crate) reserved: u64,
}

impl Footprint {
    /// What an engine has taken so far.
    pub(crate) fn of(engine: &Engine) -> Self {
        let (memory, capture) = (*engine.memory(), engine.capture());
        let unused_pages = u64::from(memory.kv_pages.saturating_sub(engine.peak_pages() + 1)) * memory.kv_page;
        let now = capture.pool.reserved.saturating_sub(memory.workspace);
        // Once all are captured, with what measuring their cost left with the driver.
        let graphs = memory.graphs.measured.unwrap_or(now);
        let workspace = if capture.graphs > 0 { capture.pool.allocated } else { memory.workspace };
        Self {
            allocated: memory.weights + workspace + memory.step_block + memory.kv_cache - unused_pages,
            reserved: memory.total() + graphs,
        }
    }
}

/// What the line says. Every figure was counted or measured in the run.
pub(crate) struct Summary {
    parameters: u64,
    graphs: usize,
    distinct: usize,
    requests: usize,
    max_new_tokens: u32,
    memory: MemoryReport,
    max_requests: u32,
    max_tokens: u32,
    generated: u64,
    seconds: f64,
    footprint: Footprint,
    steps: u64,
    capture: Option<Duration>,
}

/// What the engine does not know of the run.
pub(crate) struct Run {
    pub(crate) parameters: u64,
    pub(crate) requests: usize,
    pub(crate) max_new_tokens: u32,
    pub(crate) max_requests: u32,
    pub(crate) max_tokens: u32,
    pub(crate) generated: u64,
}

impl Summary {
    /// The summary of what `engine` did.
    pub(crate) fn new(engine: &Engine, run: &Run) -> Self {
        let capture = engine.capture();
        Self {
            parameters: run.parameters,
            graphs: capture.graphs,
            distinct: capture.distinct,
            requests: run.requests,
            max_new_tokens: run.max_new_tokens,
            memory: *engine.memory(),
            max_requests: run.max_requests,
            max_tokens: run.max_tokens,
            generated: run.generated,
            seconds: engine.run_time().as_secs_f64(),
            footprint: Footprint::of(engine),
            steps: engine.totals().total,
            capture: (capture.graphs > 0).then_some(capture.times.total),
        }
    }
}

/// `3m` for 3,407,104 weights, `8b` for 8,030,261,248.
fn model_size(parameters: u64) -> String {
    let units = [(1_000_000_000, "b"), (1_000_000, "m"), (1_000, "k")];
    match units.into_iter().find(|&(unit, _)| parameters >= unit) {
        Some((unit, name)) => format!("{}{name}", (parameters as f64 / unit as f64).round()),
        None => parameters.to_string(),
    }
}

/// The largest unit that leaves a number of at least 1.
pub(crate) fn unit(bytes: u64) -> (f64, &'static str) {
    let units = [(1_u64 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    units.into_iter().find(|&(unit, _)| bytes >= unit).map_or((1.0, "bytes"), |(unit, name)| (unit as f64, name))
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} | dynamic | ", model_size(self.parameters))?;
        match self.graphs {
            0 => write!(formatter, "graphs -- | ")?,
            graphs => write!(formatter, "graphs {graphs} ({} distinct) | ", self.distinct)?,
        }
        write!(formatter, "requests: cli, n {}, g {} | ", self.requests, self.max_new_tokens)?;
        let (kv_unit, kv_name) = unit(self.memory.kv_cache);
        let kv_size = self.memory.kv_cache as f64 / kv_unit;
        write!(
            formatter,
            "kv: {kv_size:.*} {kv_name}, {} pages [r {}, t {}]",
            // No decimal where it would be zero.
            usize::from((kv_size * 10.0).round() % 10.0 != 0.0),
            self.memory.kv_pages,
            self.max_requests,
            self.max_tokens
        )?;
        let throughput = if self.seconds > 0.0 { self.generated as f64 / self.seconds } else { 0.0 };
        write!(formatter, " … throughput: {throughput:.3} tok/s … total time: {:.3}s", self.seconds)?;
        // The smaller number decides, so that it has a digit that counts.
        let Footprint { allocated, reserved } = self.footprint;
        let (size, name) = unit(allocated);
        write!(
            formatter,
            " … mem {:.1} allocated/{:.1} reserved {name} … steps: {}",
            allocated as f64 / size,
            reserved as f64 / size,
            self.steps
        )?;
        match self.capture {
            Some(time) => write!(formatter, " … capture {} sec", Seconds(time)),
            None => write!(formatter, " … capture --"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_sizes_are_short() {
        assert_eq!(model_size(3_407_104), "3m");
        assert_eq!(model_size(8_030_261_248), "8b");
        assert_eq!(model_size(1_499), "1k");
        assert_eq!(model_size(12), "12");
    }

    #[test]
    fn the_line_has_the_shape_of_the_pull_request() {
        let memory = MemoryReport { kv_cache: 16 << 20, kv_pages: 128, ..MemoryReport::default() };
        let summary = Summary {
            parameters: 3_407_104,
            graphs: 60,
            distinct: 17,
            requests: 4,
            max_new_tokens: 64,
            memory,
            max_requests: 396,
            max_tokens: 16_384,
            generated: 10,
            seconds: 0.5,
            footprint: Footprint { allocated: 31_247_565, reserved: 38_063_309 },
            steps: 74,
            capture: Some(Duration::from_millis(410)),
        };
        assert_eq!(
            summary.to_string(),
            "3m | dynamic | graphs 60 (17 distinct) | requests: cli, n 4, g 64 | kv: 16 MB, 128 pages [r 396, t 16384] … \
             throughput: 20.000 tok/s … total time: 0.500s … mem 29.8 allocated/36.3 reserved MB … steps: 74 … capture 0.41 sec"
        );
    }
}

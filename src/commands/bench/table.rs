//! A comparison as tables, and as one object.

use std::fmt::Write;
use std::time::Duration;

use gridpoint_graph::Seconds;
use serde_json::{Value, json};

use super::differ::Difference;
use super::measure::{Experiment, Measured, Round};
use super::workload::PromptTokens;
use crate::commands::plan::shortened;
use crate::commands::timing::SIMULATED;
use crate::summary::unit;

/// What was run, where.
pub(super) struct Setting<'a> {
    pub(super) simulated: bool,
    pub(super) device: &'a str,
    pub(super) model: &'a str,
    pub(super) layers: usize,
    pub(super) prompt_tokens: PromptTokens,
    pub(super) seed: u64,
    pub(super) experiment: &'a Experiment,
}

/// What came of it: the first sizing is what the others are compared with.
pub(super) struct Comparison<'a> {
    pub(super) setting: Setting<'a>,
    pub(super) runs: Vec<Measured>,
    /// The first token that another plan changed.
    pub(super) difference: Option<Difference>,
}

/// A sizing beside the first one.
struct Relation {
    /// Times the first one's tokens a second.
    throughput: f64,
    /// Bytes that it reserves beyond the first one.
    reserved: i128,
}

impl Relation {
    fn new(first: &Measured, run: &Measured) -> Self {
        let throughput = |run: &Measured| run.median().rate(run.median().generated());
        let reserved = |run: &Measured| i128::from(run.footprint.reserved);
        Self { throughput: throughput(run) / throughput(first), reserved: reserved(run) - reserved(first) }
    }
}

/// Rows under each other: the first column to the left, the others to the right.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let length = |cell: &String| cell.chars().count();
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| rows.iter().map(|row| length(&row[column])).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            // A String takes whatever is written to it.
            let _ = write!(line, "  {cell:>width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Milliseconds with three decimals.
fn milliseconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}

/// `3 rounds`, `1 round`.
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl Comparison<'_> {
    /// At most 120 columns.
    pub(super) fn text(&self) -> String {
        let Setting { simulated, device, model, layers, prompt_tokens, seed, experiment } = &self.setting;
        let Experiment { workload, warm_up, rounds, .. } = experiment;
        let mut text = String::new();
        // A String takes whatever is written to it.
        if *simulated {
            let _ = writeln!(text, "{SIMULATED}\n");
        }
        let PromptTokens { fewest, most } = prompt_tokens;
        let _ = writeln!(text, "{device}: {model}, {}", counted(*layers, "layer"));
        let _ = writeln!(
            text,
            "{}, prompts of {fewest} to {most} tokens, {} in all, {} new tokens each, seed {seed}",
            counted(workload.prompts.len(), "request"),
            workload.prompt_tokens(),
            workload.new_tokens,
        );
        let _ = writeln!(
            text,
            "{}{}, after {} that {} not count\n",
            if *rounds == 1 { "" } else { "median of " },
            counted(*rounds, "round"),
            counted(*warm_up, "request"),
            if *warm_up == 1 { "does" } else { "do" },
        );
        text.push_str(&self.outcomes());
        text.push('\n');
        text.push_str(&self.steps());
        for run in self.runs.iter().filter(|run| run.dropped_points > 0) {
            let (points, name) = (counted(run.dropped_points, "point"), shortened(&run.name));
            let _ =
                writeln!(text, "\n{name}: {points} dropped, for which memory or the capture budget does not suffice");
        }
        let _ = match (&self.difference, self.runs.first()) {
            (None, Some(run)) => {
                writeln!(text, "\nevery plan generated the same {} tokens in every round", run.median().generated())
            }
            (Some(difference), _) => {
                let Difference { sizing, request, .. } = difference;
                writeln!(text, "\nPLANS DIFFER: `{sizing}` generated other tokens, first in request {request}")
            }
            (None, None) => Ok(()),
        };
        text.push_str(
            "\nreserved: weights, workspace, step block, kv cache, graphs; allocated: what steps touch of it\n\
             throughput, memory (reserved): beside the first sizing; tok/s: generated, prompt tok/s: read, in the same time\n\
             hits: steps that were replays; padding: tokens that they add; ms: on the device; host: of a step, without the wait\n",
        );
        text
    }

    /// Graphs, memory, throughput.
    fn outcomes(&self) -> String {
        let (size, name) = unit(self.runs.first().map_or(0, |run| run.footprint.allocated));
        let headings = [
            "sizing".to_owned(),
            "graphs".to_owned(),
            "distinct".to_owned(),
            "capture s".to_owned(),
            format!("allocated {name}"),
            format!("reserved {name}"),
            "tok/s".to_owned(),
            "prompt tok/s".to_owned(),
            "throughput".to_owned(),
            "memory".to_owned(),
        ];
        let row = |(number, run): (usize, &Measured)| {
            let (round, relation) = (run.median(), Relation::new(&self.runs[0], run));
            let beside = |words: String| if number == 0 { "-".to_owned() } else { words };
            [
                shortened(&run.name),
                run.capture.graphs.to_string(),
                run.capture.distinct.to_string(),
                Seconds(run.capture.times.total).to_string(),
                format!("{:.1}", run.footprint.allocated as f64 / size),
                format!("{:.1}", run.footprint.reserved as f64 / size),
                format!("{:.1}", round.rate(round.generated())),
                format!("{:.1}", round.rate(self.setting.experiment.workload.prompt_tokens())),
                beside(format!("x{:.2}", relation.throughput)),
                beside(difference_of_size(relation.reserved)),
            ]
        };
        let rows: Vec<_> = std::iter::once(headings).chain(self.runs.iter().enumerate().map(row)).collect();
        aligned(&rows)
    }

    /// How the steps ran.
    fn steps(&self) -> String {
        let headings = [
            "sizing",
            "steps",
            "replayed",
            "eager",
            "hits %",
            "padding %",
            "mean ms",
            "median ms",
            "99 % ms",
            "host us",
        ]
        .map(str::to_owned);
        let row = |run: &Measured| {
            let round = run.median();
            let Round { totals, steps, .. } = round;
            [
                shortened(&run.name),
                totals.total.to_string(),
                totals.replayed.to_string(),
                totals.eager.to_string(),
                format!("{:.1}", totals.hit_rate() * 100.0),
                format!("{:.1}", totals.token_padding() * 100.0),
                milliseconds(steps.mean),
                milliseconds(steps.median),
                milliseconds(steps.percentile_99),
                format!("{:.1}", round.host().as_secs_f64() * 1e6),
            ]
        };
        let rows: Vec<_> = std::iter::once(headings).chain(self.runs.iter().map(row)).collect();
        aligned(&rows)
    }

    /// One object; times in seconds and microseconds, memory in bytes.
    pub(super) fn object(&self) -> Value {
        let Setting { simulated, device, model, layers, prompt_tokens, seed, experiment } = &self.setting;
        let Experiment { workload, warm_up, rounds, .. } = experiment;
        json!({
            "device": device,
            "simulated": simulated,
            "note": simulated.then_some(SIMULATED),
            "model": model,
            "layers": layers,
            "requests": workload.prompts.len(),
            "prompt_tokens": [prompt_tokens.fewest, prompt_tokens.most],
            "all_prompt_tokens": workload.prompt_tokens(),
            "new_tokens": workload.new_tokens,
            "seed": seed,
            "warm_up": warm_up,
            "rounds": rounds,
            "tokens_equal": self.difference.is_none(),
            "first_difference": self.difference.as_ref().map(|difference| {
                let Difference { sizing, round, request, position, found, expected, reference } = difference;
                json!({
                    "sizing": sizing,
                    "round": round,
                    "request": request,
                    "position": position,
                    "found": found,
                    "expected": expected,
                    "reference": reference,
                })
            }),
            "runs": self.runs.iter().map(|run| self.run(run)).collect::<Vec<_>>(),
        })
    }

    fn run(&self, run: &Measured) -> Value {
        let (round, relation) = (run.median(), Relation::new(&self.runs[0], run));
        let Round { time, totals, steps, .. } = round;
        let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
        json!({
            "sizing": run.sizing,
            "graphs": run.capture.graphs,
            "distinct": run.capture.distinct,
            "capture_seconds": run.capture.times.total.as_secs_f64(),
            "memory_allocated": run.footprint.allocated,
            "memory_reserved": run.footprint.reserved,
            "kv_pages": run.kv_pages,
            "step_budget": run.step_budget,
            "dropped_points": run.dropped_points,
            "throughput": round.rate(round.generated()),
            "prompt_throughput": round.rate(self.setting.experiment.workload.prompt_tokens()),
            "generated_tokens": round.generated(),
            "seconds": time.as_secs_f64(),
            "round_seconds": run.rounds.iter().map(|round| round.time.as_secs_f64()).collect::<Vec<_>>(),
            "steps": totals.total,
            "replayed_steps": totals.replayed,
            "eager_steps": totals.eager,
            "eager_reasons": totals.reasons,
            "hit_rate": totals.hit_rate(),
            "tokens": totals.tokens,
            "padded_tokens": totals.padded_tokens,
            "token_padding": totals.token_padding(),
            "step_microseconds": {
                "mean": microseconds(steps.mean),
                "median": microseconds(steps.median),
                "percentile_99": microseconds(steps.percentile_99),
            },
            "host_microseconds": microseconds(round.host()),
            "relative_throughput": relation.throughput,
            "relative_memory_reserved": relation.reserved,
        })
    }
}

/// `-1.2 GB`, `+512.0 KB`, `+0.0`.
fn difference_of_size(bytes: i128) -> String {
    if bytes == 0 {
        return "+0.0".to_owned();
    }
    let sign = if bytes < 0 { '-' } else { '+' };
    // Memory is counted in 64 bits.
    let magnitude = u64::try_from(bytes.unsigned_abs()).unwrap_or(u64::MAX);
    let (size, name) = unit(magnitude);
    format!("{sign}{:.1} {name}", magnitude as f64 / size)
}

#[cfg(test)]
mod tests {
    use gridpoint_graph::{CaptureSummary, StepTotals};

    use super::*;
    use crate::commands::bench::measure::StepTimes;
    use crate::commands::bench::workload::Workload;
    use crate::summary::Footprint;

    fn measured(name: &str, milliseconds: u64, reserved: u64) -> Measured {
        let mut capture = CaptureSummary { graphs: 1138, distinct: 1021, ..CaptureSummary::default() };
        capture.times.total = Duration::from_millis(12_410);
        let totals = StepTotals { total: 123_456, replayed: 120_000, eager: 3_456, ..StepTotals::default() };
        let round = Round {
            time: Duration::from_millis(milliseconds),
            totals,
            steps: StepTimes { mean: Duration::from_millis(123), ..StepTimes::default() },
            tokens: vec![vec![7; 100_000]; 2],
        };
        Measured {
            sizing: name.to_owned(),
            name: name.to_owned(),
            capture,
            footprint: Footprint { allocated: 60 << 30, reserved },
            kv_pages: 40_000,
            step_budget: 396,
            dropped_points: 3,
            rounds: vec![round],
        }
    }

    #[test]
    fn the_widest_numbers_fit_120_columns() {
        let workload = Workload { prompts: vec![vec![1; 90_000]; 3], new_tokens: 128 };
        let experiment = Experiment { workload, warm_up: 1, rounds: 1, profile_steps: None };
        let setting = Setting {
            simulated: true,
            device: "a device",
            model: "llama-3-8b",
            layers: 32,
            prompt_tokens: PromptTokens { fewest: 64, most: 1024 },
            seed: 1,
            experiment: &experiment,
        };
        let runs = vec![measured("linear", 1030, 70 << 30), measured("list:1..99999 (1000 counts)", 1000, 68 << 30)];
        let comparison = Comparison { setting, runs, difference: None };
        let text = comparison.text();
        assert!(text.starts_with(SIMULATED), "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= 120, "{line}");
        }
        assert!(text.contains("x1.03") && text.contains("-2.0 GB"), "{text}");
        assert!(text.contains("3 requests, prompts of 64 to 1024 tokens, 270000 in all, 128 new tokens each, seed 1"));
        assert!(text.contains("\nlinear: 3 points dropped, for which memory"), "{text}");
        let object = comparison.object();
        assert_eq!(object["runs"][1]["relative_memory_reserved"], json!(-2_i64 << 30));
        assert_eq!((&object["tokens_equal"], &object["first_difference"]), (&json!(true), &json!(null)));
    }

    #[test]
    fn differences_of_size_have_a_sign() {
        assert_eq!(difference_of_size(0), "+0.0");
        assert_eq!(difference_of_size(-(3 << 29)), "-1.5 GB");
        assert_eq!(difference_of_size(512), "+512.0 bytes");
    }
}

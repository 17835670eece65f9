//! `gridpoint capture`: how long the graphs of a plan take to capture on this device, on one thread and on several, and their memory.

use std::fmt::Write as _;
use std::io::Write;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use gridpoint::captures::{Captures, CapturesError, ThreadTimes, measure};
use gridpoint::devices::{self, Taken};
use gridpoint_graph::CaptureTimes;
use serde_json::{Value, json};

use super::kernels::Format;
use super::timing::SIMULATED;
use crate::args::model::DeviceChoice;
use crate::args::plan::{PlanArgs, bytes};
use crate::args::positive;
use crate::args::subject::SubjectArgs;
use crate::commands::Failure;

/// Arguments of `capture`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Numbers of threads that capture.
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_value = "1,2,4,8",
        allow_negative_numbers = true,
        value_parser = positive
    )]
    threads: Vec<NonZeroUsize>,
    /// Captures on each number of threads, of which the one with the median time is shown.
    #[arg(long, value_name = "N", default_value = "5", allow_negative_numbers = true, value_parser = positive)]
    repeats: NonZeroUsize,
    /// Where it runs.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    plan: PlanArgs,
    /// How to print the times.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Captures the plan on each number of threads and prints where the time went.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    let text =
        arguments.subject.with_model(u32::MAX, |model, config, source| {
            let graphs = arguments.plan.read()?;
            let longest = u32::try_from(config.max_position_embeddings).unwrap_or(u32::MAX);
            let plan = graphs.plan(&graphs.limits(longest))?;
            let opened = devices::open(arguments.device.into(), None).map_err(Failure::failed)?;
            let simulated = opened.taken == Taken::Simulator;
            let captures = measure(&opened.device, config, source, &plan, &arguments.threads, arguments.repeats)
                .map_err(|error| match error {
                    CapturesError::NoGraphs => Failure::usage(error),
                    other => Failure::failed(other),
                })?;
            let device = &opened.device.properties().name;
            let layers = config.num_hidden_layers;
            Ok(match arguments.format {
                Format::Text => {
                    let warning = if simulated { format!("{SIMULATED}\n\n") } else { String::new() };
                    warning + &table(&captures, &format!("{device}: {model}, {layers} layers"))
                }
                Format::Json => {
                    let runs: Vec<Value> = captures.threads.iter().map(object).collect();
                    let answer = json!({
                        "device": device,
                        "simulated": simulated,
                        "model": model,
                        "layers": layers,
                        "graph_bytes": captures.costs.graph.bytes,
                        "node_bytes": captures.costs.node_bytes,
                        "predicted_bytes": captures.predicted_bytes,
                        "measured_bytes": captures.measured_bytes,
                        "captures": runs,
                    });
                    format!("{answer}\n")
                }
            })
        })?;
    output.write_all(text.as_bytes()).map_err(Failure::output)?;
    Ok(ExitCode::SUCCESS)
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn object(one: &ThreadTimes) -> Value {
    let CaptureTimes { record, capture, instantiate, upload, total } = one.summary.times;
    json!({
        "threads": one.threads,
        "graphs": one.summary.graphs,
        "distinct": one.summary.distinct,
        "nodes": one.summary.nodes,
        "record_ms": milliseconds(record),
        "capture_ms": milliseconds(capture),
        "instantiate_ms": milliseconds(instantiate),
        "upload_ms": milliseconds(upload),
        "total_ms": milliseconds(total),
    })
}

fn table(captures: &Captures, head: &str) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{head}");
    if let Some(ThreadTimes { summary, .. }) = captures.threads.first() {
        let (graphs, distinct, nodes) = (summary.graphs, summary.distinct, summary.nodes);
        let _ = writeln!(text, "{graphs} graphs, {distinct} of them different, {nodes} nodes");
    }
    let _ = writeln!(
        text,
        "memory of the driver: {} predicted ({} a graph and {} a node), {} measured\n",
        bytes(captures.predicted_bytes),
        bytes(captures.costs.graph.bytes),
        bytes(captures.costs.node_bytes.round() as u64),
        bytes(captures.measured_bytes)
    );
    let _ = writeln!(
        text,
        "{:>7}  {:>9}  {:>10}  {:>14}  {:>9}  {:>8}  {:>12}",
        "threads", "record ms", "capture ms", "instantiate ms", "upload ms", "total ms", "ms a graph"
    );
    for ThreadTimes { threads, summary } in &captures.threads {
        let CaptureTimes { record, capture, instantiate, upload, total } = summary.times;
        let [record, capture, instantiate, upload, total] =
            [record, capture, instantiate, upload, total].map(milliseconds);
        let each = total / summary.distinct.max(1) as f64;
        let _ = writeln!(
            text,
            "{threads:>7}  {record:>9.3}  {capture:>10.3}  {instantiate:>14.3}  {upload:>9.3}  {total:>8.3}  {each:>12.3}"
        );
    }
    text.push_str("\nrecord: launches collected and compared; the parts of several threads are sums over them\n");
    text
}

//! What capturing a plan takes: recording, instantiating, uploading, on one thread and on several, as points and layers grow. Prints a JSON object a line.
//!
//! On a GPU the model is of the shape of Llama-3-8B, with random weights. On the simulated device it has as many layers and so as many launches,
//! but is small; its times are those of the simulated driver.

use std::error::Error;
use std::io::{Write, stdout};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use gridpoint::devices::{self, Choice, Taken};
use gridpoint::rig::{Rig, RigShape};
use gridpoint_graph::{CaptureMode, CaptureOptions, CaptureTimes, GraphCosts, PointRecording, RecordedPlan};
use gridpoint_model::{ModelConfig, SHAPES, WeightSource};
use gridpoint_plan::{GridPoint, Limits, Policy, TokenCeiling, plan};
use gridpoint_runtime::{Device, Stream};
use serde_json::json;

/// (max_tokens, max_requests) of the plans: 62, 80 and 113 points.
const PLANS: [(u32, u32); 3] = [(512, 256), (2048, 256), (16_384, 512)];
const LAYERS: [usize; 3] = [8, 16, 32];
const THREADS: [usize; 4] = [1, 2, 4, 8];
/// Of so many captures the one with the median time is printed.
const REPEATS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let opened = devices::open(Choice::Auto, None)?;
    let shape = match opened.taken {
        Taken::Simulator => None,
        _ => SHAPES.iter().find(|shape| shape.name == "llama-3-8b"),
    };
    let small = || ModelConfig::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/llama-gqa"));
    let mut config = shape.map_or_else(small, |shape| shape.config(None))?;
    let name = shape.map_or("small", |shape| shape.name);
    let stream = Stream::new(&opened.device)?;
    for layers in LAYERS {
        config.num_hidden_layers = layers;
        // Growth with layers is seen at the largest plan, growth with points at the most layers.
        let plans = if layers == LAYERS[LAYERS.len() - 1] { &PLANS[..] } else { &PLANS[PLANS.len() - 1..] };
        for &limits in plans {
            capture(&opened.device, &stream, &config, name, limits)?;
        }
    }
    Ok(())
}

fn capture(
    device: &Arc<Device>,
    stream: &Stream,
    config: &ModelConfig,
    name: &str,
    (max_tokens, max_requests): (u32, u32),
) -> Result<(), Box<dyn Error>> {
    let limits = Limits { max_requests, max_tokens, ..Limits::default() };
    let policy = Policy { token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() };
    let plan = plan(&limits, &policy)?;
    let largest = GridPoint { tokens: max_tokens, prefills: max_requests, decodes: 0 };
    let rig = Rig::new(device, config, WeightSource::Random(0), &[RigShape::full(largest, 0)])?;
    let record =
        |recording: &mut PointRecording<'_>, point| recording.launch(rig.model.record(point, rig.ring.address())?);
    let recorded = || RecordedPlan::record(&plan, stream, record).map_err(|failed| failed.0);
    let costs = match recorded()?.longest() {
        Some(launches) => GraphCosts::measure(stream, launches)?,
        None => GraphCosts::default(),
    };
    for threads in THREADS {
        let threads = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
        let options = CaptureOptions { mode: CaptureMode::All, threads, ..CaptureOptions::default() };
        let mut summaries = Vec::new();
        for _ in 0..REPEATS {
            let set =
                recorded()?.capture(stream, rig.model.memory(), &options, |_| {}).map_err(|failed| failed.error)?;
            summaries.push(*set.summary());
        }
        summaries.sort_by_key(|summary| summary.times.total);
        let summary = summaries[REPEATS / 2];
        let CaptureTimes { record, capture, instantiate, upload, total } = summary.times;
        let milliseconds = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let line = json!({
            "device": device.properties().name,
            "shape": name,
            "layers": config.num_hidden_layers,
            "points": summary.graphs,
            "distinct": summary.distinct,
            "nodes": summary.nodes,
            "threads": threads,
            "record_ms": milliseconds(record),
            "capture_ms": milliseconds(capture),
            "instantiate_ms": milliseconds(instantiate),
            "upload_ms": milliseconds(upload),
            "total_ms": milliseconds(total),
            "ms_per_distinct_graph": milliseconds(total) / summary.distinct as f64,
            "predicted_bytes": costs.of_all(&recorded()?.nodes()).bytes,
            "measured_bytes": summary.pool.reserved,
        });
        writeln!(stdout(), "{line}")?;
    }
    Ok(())
}

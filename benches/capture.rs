//! What capturing a plan takes: recording, instantiating, uploading, on one thread and on several, as points and layers grow. Prints a JSON object a line.
//!
//! On a GPU the model is of the shape of Llama-3-8B, with random weights. On the simulated device it has as many layers and so as many launches,
//! but is small; its times are those of the simulated driver. `gridpoint capture` times one plan.

use std::error::Error;
use std::io::{Write, stdout};
use std::num::NonZeroUsize;
use std::path::Path;

use gridpoint::captures::{Captures, measure};
use gridpoint::devices::{self, Choice, Taken};
use gridpoint_graph::CaptureTimes;
use gridpoint_model::{ModelConfig, SHAPES, WeightSource};
use gridpoint_plan::{Limits, Policy, TokenCeiling, plan};
use serde_json::json;

/// (max_tokens, max_requests) of the plans: 62, 80 and 113 points.
const PLANS: [(u32, u32); 3] = [(512, 256), (2048, 256), (16_384, 512)];
const LAYERS: [usize; 3] = [8, 16, 32];
const THREADS: [usize; 4] = [1, 2, 4, 8];
/// Of so many captures the one with the median time is printed.
const REPEATS: NonZeroUsize = NonZeroUsize::new(5).expect("not zero");

fn main() -> Result<(), Box<dyn Error>> {
    let opened = devices::open(Choice::Auto, None)?;
    let shape = match opened.taken {
        Taken::Simulator => None,
        Taken::Cuda(_) => SHAPES.iter().find(|shape| shape.name == "llama-3-8b"),
    };
    let small = || ModelConfig::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/llama-gqa"));
    let mut config = shape.map_or_else(small, |shape| shape.config(None))?;
    let name = shape.map_or("small", |shape| shape.name);
    let threads: Vec<NonZeroUsize> = THREADS.into_iter().filter_map(NonZeroUsize::new).collect();
    for layers in LAYERS {
        config.num_hidden_layers = layers;
        // Growth with layers is seen at the largest plan, growth with points at the most layers.
        let plans = if layers == LAYERS[LAYERS.len() - 1] { &PLANS[..] } else { &PLANS[PLANS.len() - 1..] };
        for &(max_tokens, max_requests) in plans {
            let limits = Limits { max_requests, max_tokens, ..Limits::default() };
            let policy = Policy { token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() };
            let plan = plan(&limits, &policy)?;
            let captures = measure(&opened.device, &config, WeightSource::Random(0), &plan, &threads, REPEATS)?;
            print(&captures, &opened.device.properties().name, name, layers)?;
        }
    }
    Ok(())
}

fn print(captures: &Captures, device: &str, shape: &str, layers: usize) -> Result<(), Box<dyn Error>> {
    for one in &captures.threads {
        let CaptureTimes { record, capture, instantiate, upload, total } = one.summary.times;
        let milliseconds = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let line = json!({
            "device": device,
            "shape": shape,
            "layers": layers,
            "points": one.summary.graphs,
            "distinct": one.summary.distinct,
            "nodes": one.summary.nodes,
            "threads": one.threads,
            "record_ms": milliseconds(record),
            "capture_ms": milliseconds(capture),
            "instantiate_ms": milliseconds(instantiate),
            "upload_ms": milliseconds(upload),
            "total_ms": milliseconds(total),
            "ms_per_distinct_graph": milliseconds(total) / one.summary.distinct as f64,
            "predicted_bytes": captures.predicted_bytes,
            "measured_bytes": captures.measured_bytes,
        });
        writeln!(stdout(), "{line}")?;
    }
    Ok(())
}

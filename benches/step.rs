//! Decode steps of the shipped model, replayed against launched kernel by kernel, in one run on one device.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use gridpoint::devices::{self, Choice};
use gridpoint_engine::{Engine, EngineOptions, NewRequest};
use gridpoint_graph::CaptureMode;
use gridpoint_model::{Checkpoint, ModelConfig, Weights};
use gridpoint_plan::{Limits, Policy, plan};

/// Requests that decode together.
const REQUESTS: u32 = 4;
/// Decode steps of each kind that are timed, after the first ones.
const STEPS: usize = 40;
const WARM_UP: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let opened = devices::open(Choice::Auto, None)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/shakespeare-3m");
    let config = ModelConfig::load(&folder)?;
    let checkpoint = Checkpoint::open(&folder)?;
    let weights = Weights::new(&config, &checkpoint)?;
    let limits = Limits { max_requests: REQUESTS, max_sequence_length: 512, ..Limits::default() };
    let plan = plan(&limits, &Policy::default())?;
    let engine = |capture| {
        let options = EngineOptions {
            max_requests: REQUESTS,
            max_sequence_length: Some(512),
            kv_pages: Some(REQUESTS * 8 + 1),
            capture,
            ..EngineOptions::default()
        };
        Engine::new(&opened.device, &config, &weights, &plan, &options, |_| {})
    };
    let replayed = median_microseconds(&mut engine(CaptureMode::All)?)?;
    let eager = median_microseconds(&mut engine(CaptureMode::Off)?)?;
    let device = &opened.device.properties().name;
    writeln!(
        std::io::stdout(),
        r#"{{"device":"{device}","decodes":{REQUESTS},"replay_us":{replayed:.1},"eager_us":{eager:.1},"eager_over_replay":{:.3}}}"#,
        eager / replayed
    )?;
    Ok(())
}

/// Median time of a decode step, host and device together, in microseconds.
fn median_microseconds(engine: &mut Engine) -> Result<f64, Box<dyn Error>> {
    for request in 0..REQUESTS {
        engine.add(NewRequest::greedy(vec![request + 1], (STEPS + WARM_UP) as u32 + 1))?;
    }
    let mut times = Vec::with_capacity(STEPS);
    for step in 0..=STEPS + WARM_UP {
        let started = Instant::now();
        engine.step()?;
        if step > WARM_UP {
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

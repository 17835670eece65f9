//! What a trainer in the same process waits for: sleep, wake, and an update of the weights, from a folder and from tensors on the device.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gridpoint::devices::{self, Choice};
use gridpoint_engine::{Engine, EngineOptions, InFlight, Memory, NewRequest};
use gridpoint_model::{Checkpoint, DeviceWeights, ElementType, GivenTensor, ModelConfig, Weights};
use gridpoint_plan::{Limits, Policy, plan};
use gridpoint_runtime::{Arena, ArenaLayout, Device, Region};
use safetensors::SafeTensors;

/// Repetitions; the medians are printed.
const ROUNDS: usize = 5;
/// Requests of a step.
const REQUESTS: u32 = 4;

/// `cargo bench --bench contract -- [DIR [PAGES]]`: another model's folder, and the pages of the kv cache.
fn main() -> Result<(), Box<dyn Error>> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/shakespeare-3m");
    // cargo adds flags of its own.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let folder = arguments.next().map_or(shipped, PathBuf::from);
    let kv_pages = arguments.next().map(|pages| pages.parse()).transpose()?;
    let opened = devices::open(Choice::Auto, None)?;
    let device = &opened.device;
    let config = ModelConfig::load(&folder)?;
    let checkpoint = Checkpoint::open(&folder)?;
    let weights = Weights::new(&config, &checkpoint)?;
    let limits = Limits { max_requests: REQUESTS, max_tokens: 64, max_sequence_length: 512, ..Limits::default() };
    let plan = plan(&limits, &Policy::default())?;
    let options = EngineOptions {
        max_requests: REQUESTS,
        max_tokens: 64,
        max_sequence_length: Some(512),
        kv_pages: kv_pages.or(Some(REQUESTS * 8 + 1)),
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(device, &config, &weights, &plan, &options, |_| {})?;
    let expected = tokens(&mut engine)?;
    let trainer = Trainer::new(device, &folder)?;
    let on_device = trainer.weights(&config, weights.element())?;

    let [mut sleep, mut wake, mut sleep_both, mut wake_both, mut from_folder, mut from_device] =
        [(); 6].map(|()| Vec::with_capacity(ROUNDS));
    let mut moved = Default::default();
    for _ in 0..ROUNDS {
        sleep.push(milliseconds(|| engine.sleep(Memory::KvCache))?.0);
        wake.push(milliseconds(|| engine.wake(Memory::KvCache))?.0);
        sleep_both.push(milliseconds(|| engine.sleep(Memory::Both))?.0);
        wake_both.push(milliseconds(|| engine.wake(Memory::Both))?.0);
        from_folder.push(milliseconds(|| engine.update_weights(&weights, InFlight::Refuse))?.0);
        let (time, report) = milliseconds(|| engine.update_weights(&on_device, InFlight::Refuse))?;
        from_device.push(time);
        moved = report.bytes;
        if tokens(&mut engine)? != expected {
            return Err("the tokens after an update are others: the times are of no use".into());
        }
    }
    let memory = engine.memory();
    let [sleep, wake, sleep_both, wake_both, from_folder, from_device] =
        [sleep, wake, sleep_both, wake_both, from_folder, from_device].map(median);
    writeln!(
        std::io::stdout(),
        r#"{{"device":"{}","kv_cache_bytes":{},"weights_bytes":{},"sleep_kv_ms":{sleep:.3},"wake_kv_ms":{wake:.3},"sleep_both_ms":{sleep_both:.3},"wake_both_ms":{wake_both:.3},"update_from_folder_ms":{from_folder:.3},"update_from_folder_bytes":{},"update_from_device_ms":{from_device:.3},"update_from_device_on_device_bytes":{},"update_from_device_to_host_bytes":{},"update_from_device_to_device_bytes":{}}}"#,
        device.properties().name,
        memory.kv_cache,
        memory.weights,
        weights.plan().bytes(),
        moved.on_device,
        moved.to_host,
        moved.to_device,
    )?;
    Ok(())
}

/// How long it takes, in milliseconds, and what comes of it.
fn milliseconds<T, E>(deed: impl FnOnce() -> Result<T, E>) -> Result<(f64, T), E> {
    let started = Instant::now();
    let result = deed()?;
    Ok((started.elapsed().as_secs_f64() * 1e3, result))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn tokens(engine: &mut Engine) -> Result<Vec<u32>, Box<dyn Error>> {
    let id = engine.add(NewRequest::greedy(vec![1, 2, 3], 8))?;
    while engine.step()?.is_some() {}
    Ok(engine.take(id).ok_or("a finished request has a result")?.tokens)
}

/// A checkpoint's tensors on the device, as a trainer has them.
struct Trainer {
    arena: Arena,
    tensors: Vec<(String, Vec<usize>, Region<u8>)>,
}

impl Trainer {
    fn new(device: &std::sync::Arc<Device>, folder: &Path) -> Result<Self, Box<dyn Error>> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                paths.push(path);
            }
        }
        let files = paths.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
        let mut layout = ArenaLayout::new();
        let (mut tensors, mut contents) = (Vec::new(), Vec::new());
        let files = files.iter().map(|file| SafeTensors::deserialize(file)).collect::<Result<Vec<_>, _>>()?;
        for (name, view) in files.iter().flat_map(SafeTensors::iter) {
            let region = layout.reserve("a trainer's tensor", view.data().len() as u64)?;
            tensors.push((name.to_owned(), view.shape().to_vec(), region));
            contents.push(view.data());
        }
        let arena = Arena::new(device, "a trainer's tensors", &layout)?;
        for ((_, _, region), bytes) in tensors.iter().zip(contents) {
            arena.upload(*region, 0, bytes)?;
        }
        Ok(Self { arena, tensors })
    }

    fn weights(&self, config: &ModelConfig, element: ElementType) -> Result<DeviceWeights<'_>, Box<dyn Error>> {
        let mut given = Vec::new();
        for (name, shape, region) in &self.tensors {
            let bytes = self.arena.bytes_of(*region)?;
            given.push(GivenTensor { name: name.clone(), shape: shape.clone(), element, bytes });
        }
        Ok(DeviceWeights::new(config, given)?)
    }
}

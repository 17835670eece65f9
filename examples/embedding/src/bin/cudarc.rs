//! Graphs over memory that cudarc allocated, beside cudarc's own work, in one process and one context. Needs a GPU: cudarc has no other device.

use std::error::Error;
use std::io::{Write, stdout};

use cudarc::driver::{CudaContext, CudaSlice, DevicePtr};
use gridpoint_driver::{Found, probe};
use gridpoint_graph::{GraphSet, PointRecording};
use gridpoint_plan::{GridPoint, Limits, Match, Policy, StepShape, TokenCeiling, plan};
use gridpoint_runtime::Stream;

#[path = "../toy.rs"]
mod toy;

use toy::{Toy, ToyParameters};

const MAX_TOKENS: usize = 64;

/// What the graphs address: the set owns it, so that no graph outlives it.
struct Buffers {
    count: CudaSlice<u32>,
    values: CudaSlice<f32>,
    squares: CudaSlice<f32>,
    output: CudaSlice<f32>,
}

fn address<T>(slice: &CudaSlice<T>) -> *mut T {
    let (address, _read) = slice.device_ptr(slice.stream());
    std::ptr::with_exposed_provenance_mut(address as usize)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut output = stdout();
    if !matches!(probe(), Found::Devices { .. }) {
        writeln!(output, "there is no GPU: cudarc has no other device")?;
        return Ok(());
    }
    // Both retain the device's primary context, and neither resets it.
    let theirs = CudaContext::new(0)?.new_stream()?;
    let device = toy::open()?;
    let (toy, stream) = (Toy::load(&device)?, Stream::new(&device)?);

    let tokens = 40_u16;
    let numbers: Vec<f32> = (0..MAX_TOKENS as u16).map(f32::from).collect();
    let buffers = Buffers {
        count: theirs.clone_htod(&[u32::from(tokens)])?,
        values: theirs.clone_htod(&numbers)?,
        squares: theirs.alloc_zeros(MAX_TOKENS)?,
        output: theirs.alloc_zeros(MAX_TOKENS)?,
    };
    let parameters = ToyParameters {
        count: address(&buffers.count),
        values: address(&buffers.values),
        squares: address(&buffers.squares),
        output: address(&buffers.output),
    };
    // Also steps of more tokens than requests are captured.
    let policy = Policy { token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() };
    let plan = plan(&Limits { max_requests: 8, max_tokens: 64, ..Limits::default() }, &policy)?;
    let record = |recording: &mut PointRecording<'_>, point: GridPoint| toy.record(recording, point, &parameters);
    let mut graphs = GraphSet::capture(&plan, &stream, buffers, record).map_err(|incomplete| incomplete.error)?;

    let step = StepShape { tokens: tokens.into(), prefills: 1, decodes: 0 };
    let Match::Replay { index, point, .. } = graphs.find(step) else {
        return Err(format!("no point of the plan fits {step}").into());
    };
    // Two streams, so whoever comes second waits for the first.
    theirs.synchronize()?;
    let launched = graphs.replay(index, &stream)?;
    stream.synchronize()?;
    let found = theirs.clone_dtoh(&graphs.memory().output)?;
    theirs.synchronize()?;
    let expected: Vec<f32> =
        numbers.iter().map(|value| if *value < f32::from(tokens) { value * value + 1.0 } else { 0.0 }).collect();
    if found != expected {
        return Err(format!("found {found:?}").into());
    }
    writeln!(output, "step {step} as {point}: {launched:?}, {} of {MAX_TOKENS} values written", tokens)?;
    Ok(())
}

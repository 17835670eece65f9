//! gridpoint's graphs with kernels of one's own: a plan is captured, and each step is a copy and one replay.

use std::error::Error;
use std::io::{Write, stdout};
use std::sync::Arc;

use gridpoint_graph::{GraphSet, Launched, PointRecording};
use gridpoint_plan::{GridPoint, Limits, Match, Policy, StepShape, TokenCeiling, plan};
use gridpoint_runtime::{Arena, ArenaLayout, PinnedBuffer, Stream};

#[path = "../toy.rs"]
mod toy;

use toy::{Toy, ToyParameters};

const MAX_TOKENS: u32 = 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let mut output = stdout();
    let device = toy::open()?;
    let (toy, stream) = (Toy::load(&device)?, Stream::new(&device)?);
    // Also steps of more tokens than requests are captured.
    let policy = Policy { token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() };
    let plan = plan(&Limits { max_requests: 8, max_tokens: MAX_TOKENS, ..Limits::default() }, &policy)?;

    // One allocation, cut into regions: every graph aliases it, since steps run one after another.
    let mut layout = ArenaLayout::new();
    let count = layout.reserve::<u32>("count", 1)?;
    let values = layout.reserve::<f32>("values", MAX_TOKENS.into())?;
    let squares = layout.reserve::<f32>("squares", MAX_TOKENS.into())?;
    let results = layout.reserve::<f32>("results", MAX_TOKENS.into())?;
    let arena = Arc::new(Arena::new(&device, "the toy's memory", &layout)?);
    let parameters = ToyParameters {
        count: arena.pointer(count),
        values: arena.pointer(values),
        squares: arena.pointer(squares),
        output: arena.pointer(results),
    };

    let record = |recording: &mut PointRecording<'_>, point: GridPoint| toy.record(recording, point, &parameters);
    let mut graphs = GraphSet::capture(&plan, &stream, Arc::clone(&arena), record)?;
    let summary = graphs.summary();
    writeln!(output, "{} graphs, {} distinct, {} nodes", summary.graphs, summary.distinct, summary.nodes)?;

    let (mut host_count, mut host_values) =
        (PinnedBuffer::<u32>::new(1)?, PinnedBuffer::<f32>::new(MAX_TOKENS as usize)?);
    for tokens in [5_u32, 1, 300, 1024] {
        let step = StepShape { tokens, prefills: 1, decodes: 0 };
        let Match::Replay { index, point, slack } = graphs.find(step) else {
            return Err(format!("no point of the plan fits {step}").into());
        };
        host_count.as_mut_slice()[0] = tokens;
        let numbers = host_values.as_mut_slice().iter_mut().zip(0_u16..);
        numbers.for_each(|(value, number)| *value = f32::from(number));
        stream.upload(&arena, count, &host_count, 1)?;
        stream.upload(&arena, values, &host_values, tokens as usize)?;
        let launched = graphs.replay(index, &stream)?;
        stream.synchronize()?;

        let mut found = vec![0.0; tokens as usize];
        arena.download(results, 0, &mut found)?;
        let right = found.iter().zip(0_u16..).all(|(&value, number)| value == f32::from(number).powi(2) + 1.0);
        if launched != Launched::Replay || !right {
            return Err(format!("step {step}: {launched:?}, {found:?}").into());
        }
        writeln!(output, "step {step} replays {point}, padding {slack}: {:?}", found.last())?;
    }
    Ok(())
}

//! One step of a point, run on the simulated device, with what each of its launches did beside what its shape needs.

use std::any::Any;
use std::sync::Arc;

use gridpoint_graph::{LogitRequest, RequestKind, StepError, StepLayout, StepRing};
use gridpoint_model::{
    Capacity, Kernels, KvCache, LaunchNeed, Model, ModelConfig, ModelError, Need, RequestLengths, StepLengths,
    WeightStore, Weights, Workspace,
};
use gridpoint_plan::{GridPoint, StepShape};
use gridpoint_runtime::parameters::GRIDPOINT_PAGE_TOKENS;
use gridpoint_runtime::{Arena, ArenaLayout, Device, RuntimeError, Stream};
use gridpoint_simulator::counters::{self, Counts, GraphCounts, LaunchCounts, Recorded};

/// Most pages of the cache, so that page numbers fit the step block.
const MOST_PAGES: u64 = 1 << 24;

/// A step that is to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountedShape {
    /// The point whose graph is replayed.
    pub point: GridPoint,
    /// The real counts: each decode has one token, prefills share the others evenly.
    pub real: StepShape,
    /// Tokens in the cache of each decode before the step; prefills have none.
    pub context: u32,
}

/// Why a step was not counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// The point has no room for the step.
    #[error("a step of `{real}` does not fit the point {point}: each count must be at most the point's")]
    TooLarge {
        /// The step.
        real: StepShape,
        /// The point.
        point: GridPoint,
    },
    /// The step's tokens cannot be those of its requests.
    #[error(
        "a step of `{0}` cannot be: it must have a request, a token for each decode, and at least one for each prefill"
    )]
    Impossible(StepShape),
    /// A sequence longer than the model's.
    #[error("a sequence of `{tokens}` tokens: it must be at most the model's `{longest}`")]
    TooLong {
        /// Its tokens.
        tokens: u64,
        /// The longest.
        longest: u64,
    },
    /// More of the cache than can be addressed.
    #[error("the step's sequences take `{pages}` pages of the kv cache: they must take at most `{MOST_PAGES}`")]
    Pages {
        /// Pages.
        pages: u64,
    },
    /// Launches that nobody counted.
    #[error("`{counted}` of the step's `{launches}` launches were counted: the device must be the simulated one")]
    NotCounted {
        /// Launches counted.
        counted: usize,
        /// Launches of the step.
        launches: usize,
    },
    /// The step block refused the step.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The model's error.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device's error.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// A launch of the step.
#[derive(Clone, Debug)]
pub struct CountedLaunch {
    /// What it did.
    pub counts: LaunchCounts,
    /// What its shape needs.
    pub need: LaunchNeed,
}

/// The launches of one kernel, summed.
#[derive(Clone, Debug)]
pub struct CountedKernel {
    /// Its name.
    pub kernel: String,
    /// What it was launched for, each once.
    pub operations: Vec<&'static str>,
    /// How many launches.
    pub launches: u64,
    /// What they did; distinct bytes are those of each launch.
    pub counts: Counts,
    /// Bytes read that they need.
    pub read: Need,
    /// Bytes written that they need.
    pub written: Need,
    /// Multiplications m16n8k16 that they need.
    pub multiplies: Need,
}

/// A counted step.
#[derive(Clone, Debug)]
pub struct CountedStep {
    /// Its launches in the order of the graph.
    pub launches: Vec<CountedLaunch>,
    /// The whole graph, in which bytes that several launches touch count once as distinct.
    pub graph: GraphCounts,
}

impl CountedStep {
    /// The kernels in the order in which they first ran.
    #[must_use]
    pub fn kernels(&self) -> Vec<CountedKernel> {
        let mut kernels: Vec<CountedKernel> = Vec::new();
        for CountedLaunch { counts, need } in &self.launches {
            let index = kernels.iter().position(|known| known.kernel == counts.kernel).unwrap_or_else(|| {
                kernels.push(CountedKernel {
                    kernel: counts.kernel.clone(),
                    operations: Vec::new(),
                    launches: 0,
                    counts: Counts::default(),
                    read: Need::default(),
                    written: Need::default(),
                    multiplies: Need::default(),
                });
                kernels.len() - 1
            });
            let kernel = &mut kernels[index];
            kernel.launches += 1;
            kernel.counts.add(&counts.counts);
            if !kernel.operations.contains(&need.operation) {
                kernel.operations.push(need.operation);
            }
            for (sum, more) in [
                (&mut kernel.read, need.read),
                (&mut kernel.written, need.written),
                (&mut kernel.multiplies, need.multiplies),
            ] {
                sum.least += more.least;
                sum.tiled += more.tiled;
            }
        }
        kernels
    }
}

impl CountedShape {
    /// Tokens that each prefill has, the longer ones first.
    fn prefills(&self) -> impl Iterator<Item = u32> {
        let StepShape { tokens, prefills, decodes } = self.real;
        let (tokens, count) = (tokens - decodes, prefills.max(1));
        (0..prefills).map(move |index| tokens / count + u32::from(index < tokens % count))
    }

    /// The requests in the order of the step block.
    fn requests(&self) -> impl Iterator<Item = RequestLengths> {
        let decode = RequestLengths { queries: 1, keys: self.context.saturating_add(1) };
        let decodes = std::iter::repeat_n(decode, self.real.decodes as usize);
        decodes.chain(self.prefills().map(|queries| RequestLengths { queries, keys: queries }))
    }

    fn check(&self, config: &ModelConfig) -> Result<(), CountError> {
        let Self { point, real, .. } = *self;
        let spare = real.tokens.checked_sub(real.decodes);
        let possible = spare.is_some_and(|spare| if real.prefills == 0 { spare == 0 } else { spare >= real.prefills });
        if !possible || real.tokens == 0 {
            return Err(CountError::Impossible(real));
        }
        if real.tokens > point.tokens || real.prefills > point.prefills || real.decodes > point.decodes {
            return Err(CountError::TooLarge { real, point });
        }
        let tokens = self.requests().map(|one| u64::from(one.keys)).max().unwrap_or(0);
        let longest = config.max_position_embeddings as u64;
        if tokens > longest {
            return Err(CountError::TooLong { tokens, longest });
        }
        Ok(())
    }
}

/// Captures the point, replays it with the real step once and counts. The device must be that of [`crate::devices::open_counted`].
///
/// Every request samples one token greedily. Keys and values before the step are zeros.
///
/// # Errors
/// A step that cannot be, or the device's error.
pub fn count_step(
    device: &Arc<Device>,
    config: &ModelConfig,
    weights: &Weights<'_>,
    shape: &CountedShape,
) -> Result<CountedStep, CountError> {
    shape.check(config)?;
    let CountedShape { point, real, .. } = *shape;
    let requests: Vec<RequestLengths> = shape.requests().collect();
    let page = GRIDPOINT_PAGE_TOKENS;
    let longest = requests.iter().map(|one| one.keys).max().unwrap_or(1);
    let columns = longest.div_ceil(page);
    let pages: u64 = 1 + requests.iter().map(|one| u64::from(one.keys.div_ceil(page))).sum::<u64>();
    if pages > MOST_PAGES {
        return Err(CountError::Pages { pages });
    }
    let rows = u32::try_from(point.requests()).unwrap_or(u32::MAX);
    let capacity = Capacity {
        tokens: point.tokens,
        requests: rows,
        logit_rows: rows,
        sequence_length: longest,
        pages: u32::try_from(pages).unwrap_or(u32::MAX),
    };

    let mut layout = ArenaLayout::new();
    let store = WeightStore::reserve(&mut layout, config, weights.plan(), longest)?;
    let uploaded = Model::upload(device, config, weights, &layout, &store)?;
    let mut layout = ArenaLayout::new();
    let workspace = Workspace::reserve(&mut layout, config, capacity)?;
    let block_layout = StepLayout::new(point, rows, columns)?;
    let block = layout.reserve("step block", u64::from(block_layout.bytes()).div_ceil(8))?;
    let cache = KvCache::reserve(&mut layout, config, capacity.pages)?;
    let arena = Arc::new(Arena::new(device, "the step's memory", &layout)?);
    let kernels = Kernels::load(device, weights.element(), config.head_dim)?;
    let model = Model::new(config.clone(), kernels, (uploaded, store), (Arc::clone(&arena), workspace, cache));
    model.clear_cache()?;

    let stream = Stream::new(device)?;
    let mut ring = StepRing::new(&arena, block, rows)?;
    let launches = model.record(point, ring.address());
    let recording = stream.record()?;
    launches.launch(&stream)?;
    let retained: Arc<dyn Any + Send + Sync> = Arc::new(model.memory());
    let graph = recording.finish(retained)?;

    let vocabulary = u32::try_from(config.vocab_size).unwrap_or(u32::MAX).max(1);
    let packed = ring.pack(block_layout, |step| {
        // Page 0 is the dummy page.
        let (mut token, mut page_number) = (0, 1);
        for (index, request) in requests.iter().enumerate() {
            let kind = if index < real.decodes as usize { RequestKind::Decode } else { RequestKind::Prefill };
            let tokens: Vec<u32> = (token..).take(request.queries as usize).map(|token| token % vocabulary).collect();
            token += request.queries;
            let count = request.keys.div_ceil(page);
            let pages: Vec<u32> = (page_number..page_number + count).collect();
            page_number += count;
            let first = step.push_request(kind, &tokens, request.keys - request.queries, &pages)?;
            let sample =
                LogitRequest::Sample { temperature: 0.0, top_p: 1.0, top_k: 0, position: request.keys, seed: 0 };
            step.push_logits(first + request.queries - 1, sample)?;
        }
        Ok::<(), StepError>(())
    })?;
    stream.synchronize()?;
    counters::record();
    let ticket = ring.submit(packed, &stream, |stream| graph.launch(stream));
    let done =
        ticket.map_err(CountError::from).and_then(|ticket| ring.wait(&ticket).map(drop).map_err(CountError::from));
    let Recorded { launches: counted, graphs } = counters::take();
    done?;

    let lengths = StepLengths { requests, distinct_tokens: real.tokens.min(vocabulary) };
    let needs = model.needs(point, &launches, &lengths);
    let names = launches.as_slice().iter().map(gridpoint_runtime::Launch::name);
    let Some(graph) = graphs.into_iter().next().filter(|_| counted.iter().map(|one| one.kernel.as_str()).eq(names))
    else {
        return Err(CountError::NotCounted { counted: counted.len(), launches: launches.as_slice().len() });
    };
    let launches = counted.into_iter().zip(needs).map(|(counts, need)| CountedLaunch { counts, need }).collect();
    Ok(CountedStep { launches, graph })
}

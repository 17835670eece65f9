//! A model in device memory that is just large enough for given steps, to count or to time them.

use std::sync::Arc;

use gridpoint_graph::{LogitRequest, PackedStep, RequestKind, StepError, StepLayout, StepRing};
use gridpoint_model::{
    Capacity, Kernels, KvCache, LaunchNeed, Model, ModelConfig, ModelError, RequestLengths, StepLengths, WeightSource,
    WeightStore, Workspace,
};
use gridpoint_plan::{GridPoint, StepShape};
use gridpoint_runtime::parameters::GRIDPOINT_PAGE_TOKENS;
use gridpoint_runtime::{Arena, ArenaLayout, Device, Launches, RuntimeError};

/// Most pages of the cache, so that page numbers fit the step block.
const MOST_PAGES: u64 = 1 << 24;

/// A step that is to be run: a point and what really is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RigShape {
    /// The point whose graph is replayed.
    pub point: GridPoint,
    /// The real counts: each decode has one token, prefills share the others evenly.
    pub real: StepShape,
    /// Tokens in the cache of each decode before the step; prefills have none.
    pub context: u32,
}

/// Why a step cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
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

/// Which pages of the cache the requests have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// One behind the other.
    InOrder,
    /// Scattered over the cache, as after a long run; no page is shared.
    Scattered,
}

/// How the rows of a step are sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub top_k: u32,
}

impl Sampling {
    /// The likeliest token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: 0 };
}

impl RigShape {
    /// The point's own counts: without prefills there are no tokens beside the decodes'.
    #[must_use]
    pub fn full(point: GridPoint, context: u32) -> Self {
        let GridPoint { tokens, prefills, decodes } = point;
        let tokens = if prefills == 0 { decodes } else { tokens };
        Self { point, real: StepShape { tokens, prefills, decodes }, context }
    }

    /// Tokens that each prefill has, the longer ones first.
    fn prefills(&self) -> impl Iterator<Item = u32> {
        let StepShape { tokens, prefills, decodes } = self.real;
        let (tokens, count) = (tokens - decodes, prefills.max(1));
        (0..prefills).map(move |index| tokens / count + u32::from(index < tokens % count))
    }

    /// The requests in the order of the step block.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestLengths> {
        let decode = RequestLengths { queries: 1, keys: self.context.saturating_add(1) };
        let decodes = std::iter::repeat_n(decode, self.real.decodes as usize);
        decodes.chain(self.prefills().map(|queries| RequestLengths { queries, keys: queries })).collect()
    }

    /// Pages of all requests.
    fn pages(&self) -> u64 {
        self.requests().iter().map(|one| u64::from(one.keys.div_ceil(GRIDPOINT_PAGE_TOKENS))).sum()
    }

    fn longest(&self) -> u32 {
        self.requests().iter().map(|one| one.keys).max().unwrap_or(1)
    }

    fn rows(&self) -> u32 {
        u32::try_from(self.point.requests()).unwrap_or(u32::MAX)
    }

    /// Whether a model of this configuration can run the step.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, config: &ModelConfig) -> Result<(), RigError> {
        let Self { point, real, .. } = *self;
        let spare = real.tokens.checked_sub(real.decodes);
        let possible = spare.is_some_and(|spare| if real.prefills == 0 { spare == 0 } else { spare >= real.prefills });
        if !possible || real.tokens == 0 {
            return Err(RigError::Impossible(real));
        }
        if real.tokens > point.tokens || real.prefills > point.prefills || real.decodes > point.decodes {
            return Err(RigError::TooLarge { real, point });
        }
        let (tokens, longest) = (u64::from(self.longest()), config.max_position_embeddings as u64);
        if tokens > longest {
            return Err(RigError::TooLong { tokens, longest });
        }
        let pages = 1 + self.pages();
        if pages > MOST_PAGES { Err(RigError::Pages { pages }) } else { Ok(()) }
    }
}

/// The model, and a ring of steps.
pub struct Rig {
    /// The model.
    pub model: Model,
    /// The steps on their way.
    pub ring: StepRing,
    columns: u32,
    rows: u32,
    pages: u32,
}

impl Rig {
    /// Places a model for any of these steps. The cache and the activations are as the device hands them out.
    ///
    /// # Errors
    /// A step that cannot be, too little memory, or the device's error.
    pub fn new(
        device: &Arc<Device>,
        config: &ModelConfig,
        source: WeightSource<'_>,
        shapes: &[RigShape],
    ) -> Result<Self, RigError> {
        shapes.iter().try_for_each(|shape| shape.check(config))?;
        let largest = |of: fn(&RigShape) -> u32| shapes.iter().map(of).max().unwrap_or(1);
        let longest = largest(RigShape::longest);
        let rows = largest(RigShape::rows);
        let columns = longest.div_ceil(GRIDPOINT_PAGE_TOKENS);
        // Page 0 is the dummy page; `check` bounds the others.
        let pages = 1 + largest(|shape| u32::try_from(shape.pages()).unwrap_or(u32::MAX - 1));
        let capacity = Capacity {
            tokens: largest(|shape| shape.point.tokens),
            requests: rows,
            logit_rows: rows,
            sequence_length: longest,
            pages,
        };
        let mut layout = ArenaLayout::new();
        let store = WeightStore::reserve(&mut layout, config, &source.plan(config), longest)?;
        let placed = Arc::new(Arena::new(device, "the model's weights", &layout)?);
        Model::load_into(&placed, &mut Model::staging(device, &store)?, config, source, &store)?;
        let kernels = Kernels::load(device, source.element(), config.head_dim)?;
        let mut layout = ArenaLayout::new();
        let workspace = Workspace::reserve(&mut layout, config, &kernels, capacity)?;
        let mut bytes = 0;
        for shape in shapes {
            bytes = bytes.max(StepLayout::new(shape.point, shape.rows(), columns)?.bytes());
        }
        let block = layout.reserve("step block", u64::from(bytes).div_ceil(8))?;
        let cache = KvCache::reserve(&mut layout, config, pages)?;
        let arena = Arc::new(Arena::new(device, "the step's memory", &layout)?);
        let ring = StepRing::new(&arena, block, rows)?;
        let model =
            Model::new(config.clone(), kernels, (placed, store), (Arc::clone(&arena), workspace), (arena, cache))?;
        Ok(Self { model, ring, columns, rows, pages })
    }

    /// The launches of a point.
    ///
    /// # Errors
    /// The driver's error.
    pub fn record(&self, point: GridPoint) -> Result<Launches, RigError> {
        Ok(self.model.record(point, self.ring.address())?)
    }

    /// What each of `launches`, those of the shape's point, needs in the step.
    #[must_use]
    pub fn needs(&self, shape: &RigShape, launches: &Launches) -> Vec<LaunchNeed> {
        let vocabulary = u32::try_from(self.model.config().vocab_size).unwrap_or(u32::MAX);
        let lengths =
            StepLengths { requests: shape.requests(), distinct_tokens: shape.real.tokens.min(vocabulary.max(1)) };
        self.model.needs(shape.point, launches, &lengths)
    }

    /// Writes the step into the ring's next slot; every request samples one token.
    ///
    /// # Errors
    /// A step that was not among those of [`Rig::new`] and is larger, or the device's error.
    pub fn pack(&mut self, shape: &RigShape, pages: Pages, sampling: Sampling) -> Result<PackedStep, RigError> {
        let requests = shape.requests();
        let vocabulary = u32::try_from(self.model.config().vocab_size).unwrap_or(u32::MAX).max(1);
        let layout = StepLayout::new(shape.point, shape.rows().min(self.rows), self.columns)?;
        let mut free: Vec<u32> = (1..self.pages).collect();
        if pages == Pages::Scattered {
            scatter(&mut free);
        }
        let mut free = free.into_iter();
        let packed = self.ring.pack(layout, |step| {
            let mut token = 0;
            for (index, request) in requests.iter().enumerate() {
                let decodes = shape.real.decodes as usize;
                let kind = if index < decodes { RequestKind::Decode } else { RequestKind::Prefill };
                let tokens: Vec<u32> =
                    (token..).take(request.queries as usize).map(|token| token % vocabulary).collect();
                token += request.queries;
                let count = request.keys.div_ceil(GRIDPOINT_PAGE_TOKENS);
                let pages: Vec<u32> = free.by_ref().take(count as usize).collect();
                let first = step.push_request(kind, &tokens, request.keys - request.queries, &pages)?;
                let Sampling { temperature, top_p, top_k } = sampling;
                let sample =
                    LogitRequest::Sample { temperature, top_p, top_k, position: request.keys, seed: index as u64 };
                step.push_logits(first + request.queries - 1, sample)?;
            }
            Ok::<(), StepError>(())
        })?;
        Ok(packed)
    }
}

/// Shuffles by a fixed sequence (Fisher and Yates, with the multiplier of Knuth's MMIX generator).
fn scatter(numbers: &mut [u32]) {
    let mut state = 1_u64;
    for last in (1..numbers.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        numbers.swap(last, ((state >> 33) % (last as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_pages_are_all_pages() {
        let mut pages: Vec<u32> = (1..1000).collect();
        scatter(&mut pages);
        assert!(pages.windows(2).filter(|pair| pair[1] == pair[0] + 1).count() < 10);
        pages.sort_unstable();
        assert!(pages.into_iter().eq(1..1000));
    }

    #[test]
    fn prefills_share_tokens_and_decodes_have_their_context() {
        let point = GridPoint { tokens: 16, prefills: 2, decodes: 3 };
        let requests = RigShape::full(point, 100).requests();
        let lengths: Vec<(u32, u32)> = requests.iter().map(|one| (one.queries, one.keys)).collect();
        assert_eq!(lengths, [(1, 101), (1, 101), (1, 101), (7, 7), (6, 6)]);
    }
}

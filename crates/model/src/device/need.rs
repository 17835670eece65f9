//! What the launches of a step need by their shapes: bytes of global memory and matrix multiplications. The formulas stand in
//! docs/kernels.md.

mod hopper;
mod products;

use gridpoint_plan::GridPoint;
use gridpoint_runtime::parameters::{
    GRIDPOINT_ATTENTION_D256_THREADS, GRIDPOINT_ATTENTION_SPLIT_ROWS, GRIDPOINT_ATTENTION_THREADS,
    GRIDPOINT_ATTENTION_TILE_ROWS, GRIDPOINT_CHUNK_TOKENS, GRIDPOINT_PAGE_TOKENS, GRIDPOINT_SAMPLE_THREADS,
    GRIDPOINT_SCHEDULE_THREADS,
};
use gridpoint_runtime::{Launch, Launches};

use self::products::Product;
use super::attention::Attention;
use super::model::Model;
use super::products::Epilogue;

const BF16: u64 = 2;
const WORD: u64 = 4;
/// Bytes of a result, of an item of the attention work list, and of the list's head.
const RESULT: u64 = 8;
const WORK_ITEM: u64 = 32;
const LIST_HEAD: u64 = 16;
/// Elements of a vector access, and threads of a warp.
const VECTOR: u64 = 8;
const WARP: u64 = 32;
/// Tokens of a page, query rows of an attention tile, and of a request whose keys are split into chunks.
const PAGE: u64 = GRIDPOINT_PAGE_TOKENS as u64;
const TILE_ROWS: u64 = GRIDPOINT_ATTENTION_TILE_ROWS as u64;
const SPLIT_ROWS: u64 = GRIDPOINT_ATTENTION_SPLIT_ROWS as u64;
/// Rows, columns and depth of a matrix multiplication.
const ROWS: u64 = 16;
const COLUMNS: u64 = 8;
const DEPTH: u64 = 16;
/// Widest row that a block of the normalisation keeps in registers, and the widest of one warp.
const NORM_HELD_WIDTH: u64 = 8192;
const NORM_WARP_WIDTH: u64 = 1024;
const NORM_BLOCK: u64 = 256;

/// One request's part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLengths {
    /// Tokens that the step computes.
    pub queries: u32,
    /// Tokens in the cache after the step.
    pub keys: u32,
}

/// The real counts of a step in which every request has one logit row, sampled greedily.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepLengths {
    /// The requests.
    pub requests: Vec<RequestLengths>,
    /// Different token ids.
    pub distinct_tokens: u32,
}

/// A need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// The least that the operation needs: each byte once, each multiplication that holds an element of the result.
    pub least: u64,
    /// What the kernel needs as it is laid out: its tiles, and what each thread reads of the step block.
    pub tiled: u64,
}

impl Need {
    fn exactly(count: u64) -> Self {
        Self { least: count, tiled: count }
    }

    fn and(self, least: u64, tiled: u64) -> Self {
        Self { least: self.least + least, tiled: self.tiled + tiled }
    }
}

/// What a launch needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchNeed {
    /// What the launch is for, in a few words.
    pub operation: &'static str,
    /// Bytes read: different ones, and accesses.
    pub read: Need,
    /// Bytes written.
    pub written: Need,
    /// Matrix multiplications m16n8k16.
    pub multiplies: Need,
    /// What it computes, and how much of what it reads only its own layer has.
    pub work: Work,
}

/// What a launch computes, for comparisons with other implementations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// The arithmetic.
    pub arithmetic: Arithmetic,
    /// Bytes read that launches of other layers do not read: weights, keys and values of this step's requests.
    pub layer_bytes: u64,
}

/// Arithmetic by kind, in exact sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// None worth counting.
    #[default]
    Light,
    /// A product of `[m, k]` and `[n, k]`.
    Product {
        /// Real rows.
        m: u64,
        /// Output columns, of SwiGLU gate and up both.
        n: u64,
        /// Depth.
        k: u64,
    },
    /// Attention.
    Attention {
        /// Multiply-adds of scores and weighted values under the causal mask.
        multiply_adds: u64,
    },
}

impl Arithmetic {
    /// Multiply-adds; two floating-point operations each.
    #[must_use]
    pub fn multiply_adds(&self) -> u64 {
        match *self {
            Self::Light => 0,
            Self::Product { m, n, k } => m * n * k,
            Self::Attention { multiply_adds } => multiply_adds,
        }
    }
}

/// Sizes of the model and of the step.
struct Sizes<'a> {
    lengths: &'a StepLengths,
    tokens: u64,
    requests: u64,
    hidden: u64,
    query_heads: u64,
    kv_heads: u64,
    head_dim: u64,
    attention: &'a Attention,
}

impl Model {
    /// What each of `launches`, which [`Model::record`] made for `point`, needs in a step of these lengths.
    #[must_use]
    pub fn needs(&self, point: GridPoint, launches: &Launches, lengths: &StepLengths) -> Vec<LaunchNeed> {
        let config = &self.config;
        let [hidden, intermediate, vocabulary, query, qkv] =
            [config.hidden_size, config.intermediate_size, config.vocab_size, config.query_size(), config.qkv_size()]
                .map(|size| size as u64);
        let sizes = Sizes {
            lengths,
            tokens: lengths.requests.iter().map(|request| u64::from(request.queries)).sum(),
            requests: lengths.requests.len() as u64,
            hidden,
            query_heads: config.num_attention_heads as u64,
            kv_heads: config.num_key_value_heads as u64,
            head_dim: config.head_dim as u64,
            attention: &self.kernels.attention,
        };
        let tokens = sizes.tokens;
        let head_rows = self.head_rows(point);
        let weights = self.tensors();
        let kernels = &self.kernels;
        let mut list = launches.as_slice().iter().map(Geometry::of);
        let mut next = || list.next().unwrap_or_default();
        next();
        let mut needs = vec![sizes.schedule(), sizes.embedding(next().all_threads())];
        for layer in &weights.layers {
            let product = |operation, n, k, epilogue| Product {
                operation,
                rows: tokens,
                capacity: point.tokens,
                n,
                k,
                bias: false,
                normalised: false,
                epilogue,
            };
            let qkv = product("qkv product", qkv, hidden, Epilogue::Rotary);
            sizes.product(
                kernels,
                &Product { bias: layer.qkv_bias.is_some(), normalised: true, ..qkv },
                &mut next,
                &mut needs,
            );
            needs.push(sizes.attention(next().all_threads()));
            let out = product("output product", hidden, query, Epilogue::Residual);
            sizes.product(kernels, &Product { bias: layer.o_bias.is_some(), ..out }, &mut next, &mut needs);
            let gate_up = product("gate-up product", 2 * intermediate, hidden, Epilogue::SwiGlu);
            sizes.product(kernels, &Product { normalised: true, ..gate_up }, &mut next, &mut needs);
            let down = product("down product", hidden, intermediate, Epilogue::Residual);
            sizes.product(kernels, &down, &mut next, &mut needs);
        }
        needs.push(sizes.norm("gathered norm", sizes.requests, true, next().all_threads()));
        let head = Product {
            operation: "head",
            rows: sizes.requests,
            capacity: head_rows,
            n: vocabulary,
            k: hidden,
            bias: false,
            normalised: false,
            epilogue: Epilogue::Logits,
        };
        sizes.product(kernels, &head, &mut next, &mut needs);
        needs.push(sizes.sample(vocabulary, next().all_threads()));
        needs
    }
}

/// A launch's geometry.
#[derive(Clone, Copy, Default)]
struct Geometry {
    blocks: u64,
    threads: u64,
    shared_bytes: u64,
}

impl Geometry {
    fn of(launch: &Launch) -> Self {
        let [blocks, threads, shared_bytes] = [launch.blocks(), launch.threads(), launch.shared_bytes()].map(u64::from);
        Self { blocks, threads, shared_bytes }
    }

    fn all_threads(self) -> u64 {
        self.blocks * self.threads
    }
}

/// A request's items in the attention work list.
struct Items {
    rows: u64,
    keys: u64,
    /// Chunks of a request whose rows fit one warp; then tiles are none.
    chunks: u64,
    /// Tiles of query rows.
    tiles: u64,
}

impl Items {
    fn count(&self) -> u64 {
        self.chunks + self.tiles
    }

    /// Pages of its keys.
    fn pages(&self) -> u64 {
        self.keys.div_ceil(PAGE)
    }

    /// Parts that meet through partial results.
    fn parts(&self) -> u64 {
        if self.chunks > 1 { self.chunks } else { 0 }
    }
}

impl Sizes<'_> {
    fn group(&self) -> u64 {
        self.query_heads / self.kv_heads
    }

    fn items(&self) -> impl Iterator<Item = Items> {
        self.lengths.requests.iter().map(|request| {
            let (rows, keys) = (u64::from(request.queries) * self.group(), u64::from(request.keys));
            let split = rows <= SPLIT_ROWS;
            let chunks = if split { keys.div_ceil(GRIDPOINT_CHUNK_TOKENS.into()) } else { 0 };
            let tiles = if split { 0 } else { rows.div_ceil(self.attention.tile_rows().into()) };
            Items { rows, keys, chunks, tiles }
        })
    }

    fn schedule(&self) -> LaunchNeed {
        let items: u64 = self.items().map(|items| items.count()).sum();
        let counters = self.items().filter(|items| items.parts() > 0).count() as u64 * self.kv_heads;
        // Two counts and two offsets of the block; starts and lengths.
        let least = 4 * WORD + (2 * self.requests + 1) * WORD;
        // A request is read to find the longest item and to be scanned, an item's request to be counted and to be placed: three words of
        // the request and two offsets each.
        let control = u64::from(GRIDPOINT_SCHEDULE_THREADS) * 2 * WORD;
        let tiled = control + (2 * self.requests + 2 * items) * 5 * WORD;
        LaunchNeed {
            operation: "schedule",
            read: Need { least, tiled },
            written: Need::exactly(LIST_HEAD + items * WORK_ITEM + counters * WORD),
            multiplies: Need::default(),
            work: Work::default(),
        }
    }

    fn embedding(&self, threads: u64) -> LaunchNeed {
        let row = self.hidden * BF16;
        LaunchNeed {
            operation: "embedding",
            read: Need {
                least: 2 * WORD + self.tokens * WORD + u64::from(self.lengths.distinct_tokens) * row,
                // A token id for each vector.
                tiled: threads * 2 * WORD + self.tokens * (row + self.hidden / VECTOR * WORD),
            },
            written: Need::exactly(self.tokens * row),
            multiplies: Need::default(),
            work: Work::default(),
        }
    }

    fn norm(&self, operation: &'static str, rows: u64, gathers: bool, threads: u64) -> LaunchNeed {
        let row = self.hidden * BF16;
        let row_threads = if self.hidden <= NORM_WARP_WIDTH { WARP } else { NORM_BLOCK };
        let again = self.hidden.saturating_sub(NORM_HELD_WIDTH) * BF16;
        let gathered = if gathers { WORD } else { 0 };
        LaunchNeed {
            operation,
            read: Need {
                least: (1 + u64::from(gathers)) * WORD + rows * gathered + rows * row + row,
                // The weights for each row.
                tiled: threads * 2 * WORD + rows * (2 * row + again + row_threads * gathered),
            },
            written: Need::exactly(rows * row),
            multiplies: Need::default(),
            work: Work { layer_bytes: row, ..Work::default() },
        }
    }

    fn attention(&self, threads: u64) -> LaunchNeed {
        let hopper = matches!(self.attention, Attention::Tensors { .. });
        let (mut read, mut written, mut multiplies) = (Need::default(), Need::default(), Need::default());
        for items in self.items() {
            let [more_read, more_written] = match (hopper, items.chunks > 0) {
                (false, false) => self.tiles(&items),
                (false, true) => self.chunks(&items),
                (true, false) => self.hopper_tiles(&items),
                (true, true) => self.hopper_chunks(&items),
            };
            let more_multiplies = self.attention_multiplies(&items);
            for (sum, more) in
                [(&mut read, more_read), (&mut written, more_written), (&mut multiplies, more_multiplies)]
            {
                sum.least += more.least * self.kv_heads;
                sum.tiled += more.tiled * self.kv_heads;
            }
            // Five words of an item, three more where parts meet, or all eight as two vectors; and the pages' numbers.
            let words = if hopper { items.count() * 8 } else { items.count() * 5 + items.parts() * 3 };
            read.least += (words + items.pages()) * WORD;
        }
        // Four words of the block and two or three of the list's head; starts and lengths.
        read.least += (6 + u64::from(hopper) + 2 * self.requests + 1) * WORD;
        read.tiled += WORD * if hopper { hopper::grid_words(threads) } else { threads * 2 };
        LaunchNeed { operation: "attention", read, written, multiplies, work: self.attention_work() }
    }

    fn attention_work(&self) -> Work {
        let (mut scores, mut tokens) = (0, 0);
        for request in &self.lengths.requests {
            let [queries, keys] = [request.queries, request.keys].map(u64::from);
            // The last query sees all keys, each before it one fewer.
            scores += queries * keys - queries * queries.saturating_sub(1) / 2;
            tokens += keys;
        }
        Work {
            arithmetic: Arithmetic::Attention { multiply_adds: 2 * scores * self.query_heads * self.head_dim },
            layer_bytes: tokens * 2 * self.kv_heads * self.head_dim * BF16,
        }
    }

    /// Threads of a block of attention.
    fn attention_threads(&self) -> u64 {
        u64::from(if self.head_dim == 256 { GRIDPOINT_ATTENTION_D256_THREADS } else { GRIDPOINT_ATTENTION_THREADS })
    }

    /// Threads of a block of attention that share sixteen query rows.
    fn strip_threads(&self) -> u64 {
        self.attention_threads() / (TILE_ROWS / ROWS)
    }

    /// Bytes read and written of one key-value head of a request that is tiles of query rows.
    fn tiles(&self, items: &Items) -> [Need; 2] {
        let (head, token) = (self.head_dim * BF16, 2 * self.head_dim * BF16);
        let mut tiled = items.rows * head;
        let (block, strip_threads) = (self.attention_threads(), self.strip_threads());
        for tile in 0..items.tiles {
            let limit = self.limit(items, (tile + 1) * TILE_ROWS);
            let pages = limit.div_ceil(PAGE);
            // Every thread reads the pages' numbers and twelve words of the item, of its request and of the block, of which a warp that stores
            // reads six again.
            tiled += limit * token + block * (pages + 12) * WORD;
            let rows = (items.rows - tile * TILE_ROWS).min(TILE_ROWS);
            tiled += rows.div_ceil(ROWS) * strip_threads * 6 * WORD;
        }
        let read = Need { least: items.rows * head + items.keys * token, tiled };
        [read, Need::exactly(items.rows * head)]
    }

    /// As [`Sizes::tiles`], of a request that is chunks of keys.
    fn chunks(&self, items: &Items) -> [Need; 2] {
        let (head, token) = (self.head_dim * BF16, 2 * self.head_dim * BF16);
        let (chunks, parts) = (items.chunks, items.parts());
        let states = SPLIT_ROWS * 2 * 4;
        let partial = SPLIT_ROWS * self.head_dim * 4 + states;
        let counter = if parts > 0 { WORD } else { 0 };
        let (block, strip_threads) = (self.attention_threads(), self.strip_threads());
        // The words of an item, as for a tile; with parts also its counter, for the warp that stores a partial three words, and for the block
        // that merges seven and two a part.
        let control = if parts > 0 {
            parts * (block * 13 + strip_threads * 3) + block * (7 + 2 * parts)
        } else {
            block * 12 + strip_threads * 6
        };
        let read = Need {
            least: items.rows * head + items.keys * token + parts * partial + counter,
            // Queries for each chunk; partials once and their states by each warp; the counter goes up once a part.
            tiled: chunks * items.rows * head
                + items.keys * token
                + parts * (partial + (block / WARP - 1) * states + WORD)
                + (items.pages() * block + control) * WORD,
        };
        let output = items.rows * head + parts * partial + counter;
        [read, Need { least: output, tiled: output + parts * WORD }]
    }

    /// Multiplications of one key-value head of a request: scores and weighted values of each sixteen query rows.
    fn attention_multiplies(&self, items: &Items) -> Need {
        let [across, down] = [self.head_dim / DEPTH, self.head_dim / COLUMNS];
        let mut need = Need::default();
        for strip in 0..items.rows.div_ceil(ROWS) {
            let limit = self.limit(items, (strip + 1) * ROWS);
            need.least += limit.div_ceil(COLUMNS) * across + limit.div_ceil(DEPTH) * down;
            // Whole groups of keys, as deep as a multiplication.
            need.tiled += limit.div_ceil(DEPTH) * (DEPTH / COLUMNS * across + down);
        }
        if let Attention::Tensors { .. } = self.attention {
            need.tiled = self.hopper_multiplies(items);
        }
        need
    }

    /// Keys that the rows of a request below `end` see.
    fn limit(&self, items: &Items, end: u64) -> u64 {
        let last_token = (end.min(items.rows) - 1) / self.group();
        items.keys - (items.rows / self.group() - 1 - last_token)
    }

    fn sample(&self, vocabulary: u64, threads: u64) -> LaunchNeed {
        let row = vocabulary * 4;
        let row_threads = u64::from(GRIDPOINT_SAMPLE_THREADS);
        LaunchNeed {
            operation: "sample",
            read: Need {
                // Two counts and an address of the block; target and temperature of a row.
                least: 4 * WORD + self.requests * (2 * WORD + row),
                // The logits for the largest and again for the sum; every thread reads the row's words and the token's logit.
                tiled: threads * 4 * WORD + self.requests * (2 * row + row_threads * 3 * WORD),
            },
            written: Need::exactly(self.requests * RESULT),
            multiplies: Need::default(),
            work: Work::default(),
        }
    }
}

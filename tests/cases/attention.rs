//! kernels/attention.cu on the lists of kernels/schedule.cu: against float64, and its bits against themselves, whatever the batch, the
//! tile, the chunking of the prompt, the padding and the grid. What no token owns (other pages, page tails, padding) is NaN.

use gridpoint_runtime::parameters::{
    AttentionParameters, GRIDPOINT_ATTENTION_D64_SHARED_BYTES, GRIDPOINT_ATTENTION_D96_SHARED_BYTES,
    GRIDPOINT_ATTENTION_D128_SHARED_BYTES, GRIDPOINT_ATTENTION_D256_SHARED_BYTES, GRIDPOINT_ATTENTION_D256_THREADS,
    GRIDPOINT_ATTENTION_THREADS, GRIDPOINT_PAGE_TOKENS,
};
use half::bf16;

use super::fixture::{Element, Random};
use super::schedule::{Batch, Capacities, Request, Schedule};
use crate::support::{Case, DeviceVec, TestDevice};

const PAGE: usize = GRIDPOINT_PAGE_TOKENS as usize;
const POISON: u16 = 0xffff;
/// Rows of a partial.
const PARTIAL_ROWS: usize = 16;
/// Scores in float32 (error below 2^-14 for the scores here, which stay under 2^8) and the base-2 exponential: relative to the same sum.
const ARITHMETIC: f64 = 1.0 / 8192.0;

/// The cases of these kernels.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, run| Case { name, run };
    vec![
        case("attention/decodes_match_float64", decodes_match_float64 as fn(&TestDevice)),
        case("attention/prefills_match_float64", prefills_match_float64),
        case("attention/mixed_batches_match_float64", mixed_batches_match_float64),
        case("attention/sharp_scores_match_float64", sharp_scores_match_float64),
        case("attention/every_instance_matches_float64", every_instance_matches_float64),
        case("attention/grid_padding_and_pages_keep_bits", grid_padding_and_pages_keep_bits),
        case("attention/chunking_keeps_bits_d64", chunking_keeps_bits_d64),
        case("attention/chunking_keeps_bits_d128", chunking_keeps_bits_d128),
        case("attention/chunking_keeps_bits_d96", chunking_keeps_bits_d96),
        case("attention/chunking_keeps_bits_d256", chunking_keeps_bits_d256),
        case("attention/nan_stays_in_its_request", nan_stays_in_its_request),
        case("attention/a_refused_list_gives_nan", a_refused_list_gives_nan),
    ]
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) kv: usize,
    pub(super) group: usize,
    pub(super) dim: usize,
    pub(super) element: Element,
    /// Whether a token's row holds its queries alone.
    compact: bool,
}

impl Heads {
    fn query(self) -> usize {
        self.kv * self.group
    }

    fn width(self) -> usize {
        self.query() * self.dim
    }

    fn pitch(self) -> usize {
        if self.compact { self.width() } else { (self.query() + 2 * self.kv) * self.dim }
    }

    /// The kernel with its threads and its bytes of shared memory.
    fn kernel(self) -> (&'static str, u32, u32) {
        let (bf16, f16, threads, shared) = match self.dim {
            64 => (
                "attention_d64",
                "attention_d64_f16",
                GRIDPOINT_ATTENTION_THREADS,
                GRIDPOINT_ATTENTION_D64_SHARED_BYTES,
            ),
            96 => (
                "attention_d96",
                "attention_d96_f16",
                GRIDPOINT_ATTENTION_THREADS,
                GRIDPOINT_ATTENTION_D96_SHARED_BYTES,
            ),
            128 => (
                "attention_d128",
                "attention_d128_f16",
                GRIDPOINT_ATTENTION_THREADS,
                GRIDPOINT_ATTENTION_D128_SHARED_BYTES,
            ),
            _ => (
                "attention_d256",
                "attention_d256_f16",
                GRIDPOINT_ATTENTION_D256_THREADS,
                GRIDPOINT_ATTENTION_D256_SHARED_BYTES,
            ),
        };
        (if self.element == Element::Bf16 { bf16 } else { f16 }, threads, shared)
    }

    fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
}

/// Queries [tokens, Hq * d], keys and values [tokens, Hkv * d] of one sequence.
pub(super) struct Sequence {
    queries: Vec<u16>,
    keys: Vec<u16>,
    values: Vec<u16>,
}

impl Sequence {
    pub(super) fn random(random: &mut Random, heads: Heads, tokens: usize, sharpness: f64) -> Self {
        let mut matrix = |width: usize, scale: f64| {
            (0..tokens * width).map(|_| heads.element.bits(scale * random.normal())).collect()
        };
        Self {
            queries: matrix(heads.width(), sharpness),
            keys: matrix(heads.kv * heads.dim, 1.0),
            values: matrix(heads.kv * heads.dim, 1.0),
        }
    }
}

/// How a batch lies in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    /// Grid of the attention kernel.
    pub(super) blocks: u32,
    /// Capacities above the real counts.
    pub(super) slack: usize,
    /// Order of the pages.
    pub(super) seed: u64,
}

const PLACEMENT: Placement = Placement { blocks: 5, slack: 3, seed: 1 };

/// Part of a sequence that one step appends and asks for: its first `cached` tokens, the last `query` of which are new.
pub(super) type Part<'a> = (&'a Sequence, Request);

/// What a batch has on the device.
pub(super) struct World {
    pub(super) step: DeviceVec<u8>,
    pub(super) batch: Batch,
    qkv: DeviceVec<u16>,
    pub(super) keys: DeviceVec<u16>,
    pub(super) values: DeviceVec<u16>,
    /// Pages of the pool.
    pub(super) pool: usize,
}

impl World {
    pub(super) fn new(device: &TestDevice, heads: Heads, parts: &[Part], placement: Placement) -> Self {
        let mut random = Random(placement.seed);
        let requests: Vec<Request> = parts.iter().map(|(_, request)| *request).collect();
        // Page 0 is the dummy page; two more stay unused.
        let pool = 3 + requests.iter().map(|request| request.cached.div_ceil(PAGE)).sum::<usize>();
        let mut free: Vec<i32> = (1..pool as i32).collect();
        let mut pages: Vec<Vec<i32>> = Vec::new();
        for request in &requests {
            pages
                .push((0..request.cached.div_ceil(PAGE)).map(|_| free.swap_remove(random.below(free.len()))).collect());
        }
        let batch = Batch { requests, pages };
        let mut qkv = vec![POISON; (batch.tokens() + placement.slack) * heads.pitch()];
        let mut keys = vec![POISON; pool * heads.kv * PAGE * heads.dim];
        let mut values = keys.clone();
        let mut row = 0;
        for ((sequence, request), pages) in parts.iter().zip(&batch.pages) {
            for token in request.cached - request.query..request.cached {
                qkv[row * heads.pitch()..][..heads.width()]
                    .copy_from_slice(&sequence.queries[token * heads.width()..][..heads.width()]);
                row += 1;
            }
            for token in 0..request.cached {
                for head in 0..heads.kv {
                    let target = ((pages[token / PAGE] as usize * heads.kv + head) * PAGE + token % PAGE) * heads.dim;
                    let source = (token * heads.kv + head) * heads.dim;
                    keys[target..][..heads.dim].copy_from_slice(&sequence.keys[source..][..heads.dim]);
                    values[target..][..heads.dim].copy_from_slice(&sequence.values[source..][..heads.dim]);
                }
            }
        }
        Self {
            step: device.upload(&batch.step_block(placement.slack, |_| true)),
            batch,
            qkv: device.upload(&qkv),
            keys: device.upload(&keys),
            values: device.upload(&values),
            pool,
        }
    }

    /// Output [tokens, Hq * d] of one launch over `schedule`.
    pub(super) fn attend(
        &self,
        device: &TestDevice,
        heads: Heads,
        schedule: &Schedule,
        capacities: Capacities,
        placement: Placement,
    ) -> Vec<u16> {
        self.attend_by(device, heads, schedule, capacities, placement, |parameters| {
            let (name, threads, shared) = heads.kernel();
            device.launch(name, placement.blocks, threads, shared, &parameters).expect(name);
        })
    }

    /// As [`Self::attend`], launched by `launch`.
    pub(super) fn attend_by(
        &self,
        device: &TestDevice,
        heads: Heads,
        schedule: &Schedule,
        capacities: Capacities,
        placement: Placement,
        launch: impl FnOnce(AttentionParameters),
    ) -> Vec<u16> {
        let output = device.poisoned::<u16>((self.batch.tokens() + placement.slack) * heads.width());
        let partial_output = device.poisoned::<f32>(capacities.partials * heads.kv * PARTIAL_ROWS * heads.dim);
        let partial_state = device.poisoned::<f32>(capacities.partials * heads.kv * PARTIAL_ROWS * 2);
        let parameters = AttentionParameters {
            step: self.step.as_ptr().cast(),
            list: schedule.list.as_ptr().cast(),
            queries: self.qkv.as_ptr(),
            key_cache: self.keys.as_ptr(),
            value_cache: self.values.as_ptr(),
            output: output.as_mut_ptr(),
            partial_output: partial_output.as_mut_ptr(),
            partial_state: partial_state.as_mut_ptr(),
            counters: schedule.counters.as_mut_ptr(),
            scale: heads.scale(),
            query_heads: heads.query() as u32,
            kv_heads: heads.kv as u32,
            query_pitch: heads.pitch() as u32,
        };
        launch(parameters);
        let mut rows = device.download(&output);
        let padding = rows.split_off(self.batch.tokens() * heads.width());
        assert!(padding.iter().all(|&bits| bits == POISON), "{heads:?}, {placement:?}: a padded row was written");
        rows
    }
}

/// Schedules and attends one step; a second layer on the same list must find its counters as the first one did.
fn attend(device: &TestDevice, heads: Heads, parts: &[Part], placement: Placement) -> Vec<u16> {
    let world = World::new(device, heads, parts, placement);
    let capacities = Capacities::of(&world.batch, heads.group);
    let schedule = Schedule::run(device, &world.step, capacities, heads.kv, heads.group);
    let output = world.attend(device, heads, &schedule, capacities, placement);
    if capacities.partials > 0 && placement.seed == PLACEMENT.seed {
        let again = world.attend(device, heads, &schedule, capacities, placement);
        assert!(again == output, "{heads:?}, {placement:?}: a second layer on the same list gives other bits");
    }
    output
}

/// One head of one token in float64, and the error allowed at each element.
///
/// The weights of P.V are rounded to elements but not their sum, and the output is rounded once more: each by half a unit in the last place,
/// relative to sum(weight x |value|). Weights below the normal numbers of the element type err by half its least number, relative to
/// a chunk's greatest weight, 1, and so does an output; bf16's least number is nothing beside float32's.
fn reference(heads: Heads, sequence: &Sequence, token: usize, head: usize) -> Vec<(f64, f64)> {
    let value = |bits: u16| heads.element.value(bits);
    let kv_head = head / heads.group;
    let query = &sequence.queries[token * heads.width() + head * heads.dim..][..heads.dim];
    let row = |matrix: &[u16], key: usize, i: usize| value(matrix[(key * heads.kv + kv_head) * heads.dim + i]);
    let scores: Vec<f64> = (0..=token)
        .map(|key| {
            f64::from(heads.scale())
                * (0..heads.dim).map(|i| value(query[i]) * row(&sequence.keys, key, i)).sum::<f64>()
        })
        .collect();
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..heads.dim)
        .map(|i| {
            let terms = weights.iter().enumerate().map(|(key, weight)| weight / total * row(&sequence.values, key, i));
            let (sum, magnitude) =
                terms.fold((0.0, 0.0), |(sum, magnitude), term| (sum + term, magnitude + term.abs()));
            let values: f64 = match heads.element {
                Element::Bf16 => 0.0,
                Element::F16 => (0..=token).map(|key| row(&sequence.values, key, i).abs()).sum(),
            };
            let subnormal = heads.element.half_least() * (1.0 + values);
            (sum, (2.0 * heads.element.rounding() + ARITHMETIC) * magnitude + subnormal)
        })
        .collect()
}

fn check(device: &TestDevice, heads: Heads, requests: &[(usize, usize)], sharpness: f64, seed: u64) {
    let mut random = Random(seed);
    let sequences: Vec<Sequence> =
        requests.iter().map(|&(_, cached)| Sequence::random(&mut random, heads, cached, sharpness)).collect();
    let parts: Vec<Part> = sequences
        .iter()
        .zip(requests)
        .map(|(sequence, &(query, cached))| (sequence, Request { query, cached }))
        .collect();
    let output = attend(device, heads, &parts, PLACEMENT);
    let mut row = 0;
    for (index, (sequence, request)) in parts.iter().enumerate() {
        for token in request.cached - request.query..request.cached {
            for head in 0..heads.query() {
                let found = &output[row * heads.width() + head * heads.dim..][..heads.dim];
                for (i, (&bits, (expected, tolerance))) in
                    found.iter().zip(reference(heads, sequence, token, head)).enumerate()
                {
                    let value = heads.element.value(bits);
                    assert!(
                        (value - expected).abs() <= tolerance,
                        "{heads:?}, request {index} {request:?}, token {token}, head {head}, element {i}: {value}, expected {expected} within {tolerance}"
                    );
                }
            }
            row += 1;
        }
    }
}

pub(super) fn heads(kv: usize, group: usize, dim: usize) -> Heads {
    Heads { kv, group, dim, element: Element::Bf16, compact: false }
}

/// In float16, with queries alone in a token's row.
pub(super) fn heads_f16(kv: usize, group: usize, dim: usize) -> Heads {
    Heads { element: Element::F16, compact: true, ..heads(kv, group, dim) }
}

fn decodes_match_float64(device: &TestDevice) {
    let lengths = [1, 63, 64, 65, 511, 512, 513, 1300];
    let decodes: Vec<(usize, usize)> = lengths.iter().map(|&length| (1, length)).collect();
    for (index, heads) in
        [heads(2, 1, 64), heads(1, 2, 128), heads(1, 3, 64), heads(1, 4, 128), heads(2, 7, 64), heads(1, 16, 128)]
            .into_iter()
            .enumerate()
    {
        check(device, heads, &decodes, 1.0, 31 + index as u64);
    }
    // More parts than are merged at once.
    check(device, heads(1, 4, 64), &[(1, 4700), (4, 4100)], 1.0, 39);
}

fn prefills_match_float64(device: &TestDevice) {
    check(device, heads(1, 1, 64), &[(1, 1), (16, 16), (17, 17), (64, 64), (65, 65)], 1.0, 41);
    check(device, heads(2, 2, 64), &[(33, 33), (20, 530), (3, 64)], 1.0, 42);
    check(device, heads(1, 3, 128), &[(50, 50), (7, 515)], 1.0, 43);
    check(device, heads(1, 4, 64), &[(90, 1100)], 1.0, 44);
    check(device, heads(1, 7, 128), &[(20, 70), (3, 3)], 1.0, 45);
    check(device, heads(2, 16, 64), &[(9, 66), (1, 513), (2, 513)], 1.0, 46);
}

fn mixed_batches_match_float64(device: &TestDevice) {
    check(device, heads(2, 3, 64), &[(1, 700), (1, 5), (1, 64), (30, 30), (25, 600), (0, 0), (1, 1)], 1.0, 51);
    check(device, heads(1, 4, 128), &[(1, 513), (0, 40), (1, 128), (40, 200)], 1.0, 52);
    check(device, heads(1, 2, 64), &[], 1.0, 53);
}

fn sharp_scores_match_float64(device: &TestDevice) {
    // Weights that underflow, and maxima that move from page to page.
    check(device, heads(1, 4, 64), &[(1, 1300), (20, 600)], 24.0, 61);
}

/// What the cases above leave out: head dimensions, float16, groups and lengths around pages and chunks.
fn every_instance_matches_float64(device: &TestDevice) {
    check(device, heads(1, 3, 96), &[(1, 1), (1, 63), (1, 64), (1, 65), (1, 513), (20, 70)], 1.0, 101);
    check(device, heads(2, 8, 96), &[(2, 66), (9, 40), (0, 0)], 1.0, 102);
    check(device, heads_f16(1, 16, 96), &[(1, 65), (1, 511), (3, 3)], 1.0, 103);
    check(device, heads(1, 1, 256), &[(1, 1), (1, 512), (1, 513), (17, 65)], 1.0, 104);
    check(device, heads(1, 7, 256), &[(1, 63), (1, 64), (5, 70)], 1.0, 105);
    check(device, heads_f16(1, 4, 256), &[(1, 2050), (9, 17)], 1.0, 106);
    check(device, heads_f16(2, 4, 64), &[(1, 65), (1, 600), (20, 40)], 1.0, 107);
    check(device, heads_f16(1, 8, 128), &[(1, 513), (10, 74)], 24.0, 108);
    check(device, heads_f16(1, 16, 256), &[], 1.0, 109);
}

/// Fails naming the first coordinate at which two outputs differ.
pub(super) fn assert_same_bits(found: &[u16], expected: &[u16], heads: Heads, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
        let (row, head, element) = (at / heads.width(), at % heads.width() / heads.dim, at % heads.dim);
        panic!(
            "{heads:?}, {what}: row {row}, head {head}, element {element}: bits {:#06x}, expected {:#06x}",
            found[at], expected[at]
        );
    }
}

fn grid_padding_and_pages_keep_bits(device: &TestDevice) {
    for heads in [heads(2, 4, 64), heads(1, 3, 128)] {
        let requests = [(1, 1200), (1, 65), (1, 512), (40, 40), (23, 550)];
        let mut random = Random(71);
        let sequences: Vec<Sequence> =
            requests.iter().map(|&(_, cached)| Sequence::random(&mut random, heads, cached, 1.0)).collect();
        let parts: Vec<Part> = sequences
            .iter()
            .zip(requests)
            .map(|(sequence, (query, cached))| (sequence, Request { query, cached }))
            .collect();
        let expected = attend(device, heads, &parts, Placement { blocks: 1, slack: 0, seed: 1 });
        for placement in [
            Placement { blocks: 3, slack: 0, seed: 2 },
            Placement { blocks: 1, slack: 67, seed: 3 },
            Placement { blocks: 40, slack: 5, seed: 4 },
        ] {
            assert_same_bits(&attend(device, heads, &parts, placement), &expected, heads, &format!("{placement:?}"));
        }
        // Each request alone.
        let mut row = 0;
        for (index, part) in parts.iter().enumerate() {
            let alone = attend(device, heads, &[*part], Placement { blocks: 2, slack: 1, seed: 5 });
            assert_same_bits(
                &alone,
                &expected[row * heads.width()..][..alone.len()],
                heads,
                &format!("request {index} alone"),
            );
            row += part.1.query;
        }
    }
}

/// The output of every token of `sequence` when its prompt comes in steps of `size` tokens, from token `first` on, beside `company`.
fn in_steps(
    device: &TestDevice,
    heads: Heads,
    sequence: &Sequence,
    (first, tokens): (usize, usize),
    size: usize,
    company: &[Part],
) -> Vec<u16> {
    let mut output = Vec::new();
    let mut cached = first;
    while cached < tokens {
        let query = size.min(tokens - cached);
        cached += query;
        let mut parts = company.to_vec();
        parts.push((sequence, Request { query, cached }));
        let before: usize = company.iter().map(|(_, request)| request.query).sum();
        output.extend_from_slice(
            &attend(device, heads, &parts, Placement { blocks: 3, slack: 0, seed: cached as u64 + 100 })
                [before * heads.width()..],
        );
    }
    output
}

/// Every token of a sequence that crosses two chunk boundaries has the same bits in one step, in steps of any size, and as a decode.
fn chunking_keeps_bits(device: &TestDevice, heads: Heads, tokens: usize) {
    let mut random = Random(81);
    let sequence = Sequence::random(&mut random, heads, tokens, 2.0);
    let other = Sequence::random(&mut random, heads, 70, 1.0);
    let whole = in_steps(device, heads, &sequence, (0, tokens), tokens, &[]);
    assert!(whole.iter().all(|&bits| !bf16::from_bits(bits).is_nan()), "{heads:?}: NaN");
    for (first, size) in [(0, 100), (0, 64), (tokens - 120, 7), (tokens - 300, 33)] {
        let found = in_steps(device, heads, &sequence, (first, tokens), size, &[]);
        assert_same_bits(
            &found,
            &whole[first * heads.width()..],
            heads,
            &format!("steps of {size} tokens from token {first}"),
        );
    }
    let company = [(&other, Request { query: 1, cached: 70 }), (&other, Request { query: 13, cached: 44 })];
    for token in [0, 1, 62, 63, 64, 127, 300, 447, 510, 511, 512, 513, 575, 576, tokens - 1] {
        for company in [&[][..], &company[..]] {
            let found = in_steps(device, heads, &sequence, (token, token + 1), 1, company);
            assert_same_bits(
                &found,
                &whole[token * heads.width()..][..heads.width()],
                heads,
                &format!("token {token} as a decode beside {}", company.len()),
            );
        }
    }
}

fn chunking_keeps_bits_d64(device: &TestDevice) {
    chunking_keeps_bits(device, heads(1, 2, 64), 1100);
}

fn chunking_keeps_bits_d128(device: &TestDevice) {
    chunking_keeps_bits(device, heads(1, 1, 128), 640);
}

/// As `chunking_keeps_bits`, for a few steps around the end of the first chunk.
fn chunking_keeps_bits_at_the_chunk(device: &TestDevice, heads: Heads) {
    let tokens = 530;
    let sequence = Sequence::random(&mut Random(82), heads, tokens, 2.0);
    let whole = in_steps(device, heads, &sequence, (tokens - 130, tokens), 130, &[]);
    for (first, size) in [(tokens - 130, 71), (tokens - 31, 7), (511, 1)] {
        let found = in_steps(device, heads, &sequence, (first, tokens), size, &[]);
        let expected = &whole[(first + 130 - tokens) * heads.width()..];
        assert_same_bits(&found, expected, heads, &format!("steps of {size} tokens from token {first}"));
    }
}

fn chunking_keeps_bits_d96(device: &TestDevice) {
    chunking_keeps_bits_at_the_chunk(device, heads_f16(1, 3, 96));
}

fn chunking_keeps_bits_d256(device: &TestDevice) {
    chunking_keeps_bits_at_the_chunk(device, heads(1, 2, 256));
}

fn nan_stays_in_its_request(device: &TestDevice) {
    let heads = heads(1, 4, 64);
    let mut random = Random(91);
    let [good, mut bad] = [(); 2].map(|()| Sequence::random(&mut random, heads, 90, 1.0));
    // From token 70 on all keys and values of the bad sequence are NaN: earlier tokens must not see them.
    bad.keys[70 * heads.dim..].fill(POISON);
    bad.values[70 * heads.dim..].fill(POISON);
    let parts = [
        (&good, Request { query: 1, cached: 90 }),
        (&bad, Request { query: 1, cached: 90 }),
        (&bad, Request { query: 70, cached: 70 }),
        (&good, Request { query: 60, cached: 90 }),
    ];
    let output = attend(device, heads, &parts, PLACEMENT);
    for (row, values) in output.chunks_exact(heads.width()).enumerate() {
        let expected = row == 1;
        assert!(
            values.iter().all(|&bits| bf16::from_bits(bits).is_nan() == expected),
            "row {row}: NaN is wrong, it should be {expected}"
        );
    }
}

fn a_refused_list_gives_nan(device: &TestDevice) {
    for heads in [heads(2, 2, 64), heads_f16(1, 2, 256)] {
        let sequence = Sequence::random(&mut Random(95), heads, 30, 1.0);
        let placement = PLACEMENT;
        let world = World::new(device, heads, &[(&sequence, Request { query: 30, cached: 30 })], placement);
        let short = Capacities { items: 0, counters: 1, partials: 0 };
        let schedule = Schedule::run(device, &world.step, short, heads.kv, heads.group);
        let output = world.attend(device, heads, &schedule, short, placement);
        assert!(output.iter().all(|&bits| bits == 0x7fff), "{heads:?}: a live row of a refused list is not NaN");
    }
}

//! The rotary epilogue of kernels/epilogue.cuh against float64: queries rotated into their buffer, keys rotated and values copied to
//! scattered pages, and nothing written anywhere else. Heads of queries and keys keep their pairs as neighbours.

use gridpoint_runtime::parameters::{
    GRIDPOINT_GEMM_64X64_SHARED_BYTES, GRIDPOINT_GEMM_128X128_SHARED_BYTES, GRIDPOINT_GEMM_THREADS,
    GRIDPOINT_PAGE_TOKENS, GRIDPOINT_SCALE_GIVEN, GemmParameters,
};

use super::fixture::Random;
use super::products::{Element, Epilogue, Form, Launch, Problem, parameters};
use super::schedule::{Batch, Request};
use crate::support::{Case, TestDevice};

const PAGE: usize = GRIDPOINT_PAGE_TOKENS as usize;
const POISON: u16 = 0xffff;
/// Products and sum of a rotation in float32, relative to the sum of magnitudes.
const ARITHMETIC: f64 = 1.0 / 4_194_304.0;

/// The cases of this epilogue.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("rotary/rotates_and_appends", rotates_and_appends),
        Case::new("rotary/grid_padding_and_tile_keep_bits", grid_padding_and_tile_keep_bits),
    ]
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) query: usize,
    pub(crate) kv: usize,
    pub(crate) dim: usize,
}

impl Heads {
    /// Columns of the product.
    fn columns(self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }
}

pub(crate) struct Run {
    heads: Heads,
    batch: Batch,
    pool: usize,
    problem: Problem,
    rotary: Vec<f32>,
}

#[derive(PartialEq)]
pub(crate) struct Outputs {
    queries: Vec<u16>,
    keys: Vec<u16>,
    values: Vec<u16>,
}

/// Every third token has no slot.
fn stored(row: usize) -> bool {
    row % 3 != 2
}

/// Every product here has a bias and scales.
const FORM: Form = Form { epilogue: Epilogue::Logits, bias: true, scaled: true };

impl Run {
    /// `requests` are (new tokens, tokens in the cache after them); products over `k` values.
    pub(crate) fn random(element: Element, heads: Heads, requests: &[(usize, usize)], k: usize) -> Self {
        let mut random = Random((heads.query * heads.dim + k) as u64);
        let requests: Vec<Request> = requests.iter().map(|&(query, cached)| Request { query, cached }).collect();
        let pool: usize = requests.iter().map(|request| request.cached.div_ceil(PAGE)).sum::<usize>() + 2;
        let mut free: Vec<i32> = (0..pool as i32).collect();
        let pages = requests
            .iter()
            .map(|request| {
                (0..request.cached.div_ceil(PAGE)).map(|_| free.swap_remove(random.below(free.len()))).collect()
            })
            .collect();
        let batch = Batch { requests, pages };
        let positions = batch.requests.iter().map(|request| request.cached).max().unwrap_or(0);
        let rotary = (0..positions * heads.dim / 2).flat_map(|_| {
            let angle = std::f64::consts::TAU * random.uniform();
            [angle.cos() as f32, angle.sin() as f32]
        });
        let problem = Problem::new(element, (batch.tokens(), heads.columns(), k));
        Self { heads, rotary: rotary.collect(), pool, batch, problem }
    }

    pub(crate) fn launch(&self, device: &TestDevice, slack: usize, blocks: u32, launch: Launch<'_>) -> Outputs {
        let Self { heads, problem, .. } = self;
        let rows = problem.rows + slack;
        let mut activations = problem.activations.clone();
        activations.resize(rows * problem.k, POISON);
        let activations = device.upload(&activations);
        let (weights, bias) = (device.upload(&problem.weights), device.upload(&problem.bias));
        let row_scales = device.upload(&problem.row_scales);
        let queries = device.poisoned::<u16>(rows * heads.query * heads.dim);
        let keys = device.poisoned::<u16>(self.pool * heads.kv * PAGE * heads.dim);
        let values = device.poisoned::<u16>(self.pool * heads.kv * PAGE * heads.dim);
        let rotary = device.upload(&self.rotary);
        let step = device.upload(&self.batch.step_block(slack, stored));
        let parameters = GemmParameters {
            activations: activations.as_ptr(),
            weights: weights.as_ptr(),
            bias: bias.as_ptr(),
            output: queries.as_mut_ptr().cast(),
            row_scales: row_scales.as_ptr(),
            scaled: GRIDPOINT_SCALE_GIVEN,
            key_cache: keys.as_mut_ptr(),
            value_cache: values.as_mut_ptr(),
            rotary: rotary.as_ptr(),
            query_heads: heads.query as u32,
            kv_heads: heads.kv as u32,
            head_dim: heads.dim as u32,
            ..parameters(step.as_ptr().cast(), problem, 0)
        };
        launch(device, parameters, rows, blocks).unwrap_or_else(|error| panic!("{heads:?}: {error}"));
        let mut outputs = Outputs {
            queries: device.download(&queries),
            keys: device.download(&keys),
            values: device.download(&values),
        };
        let padding = outputs.queries.split_off(problem.rows * heads.query * heads.dim);
        assert!(padding.iter().all(|&bits| bits == POISON), "a padded row was written");
        outputs
    }

    /// The elements of head `head` of a row, rotated by a row of the table where there is one, and the error allowed at each.
    fn expected(&self, row: usize, head: usize, rotary: Option<&[f32]>) -> Vec<(f64, f64)> {
        let dim = self.heads.dim;
        let x: Vec<(f64, f64)> = (0..dim).map(|i| self.problem.linear(FORM, row, head * dim + i)).collect();
        let rounded = |value: f64, error: f64| (value, error + self.problem.element.rounding(value.abs() + error));
        let Some(rotary) = rotary else { return x.into_iter().map(|(value, error)| rounded(value, error)).collect() };
        let element = |i: usize| {
            let (cos, sin) = (f64::from(rotary[i / 2 * 2]), f64::from(rotary[i / 2 * 2 + 1]));
            let ((own, own_error), (other, other_error)) = (x[i], x[i ^ 1]);
            let (own, other) = (own * cos, if i.is_multiple_of(2) { -other * sin } else { other * sin });
            let error = own_error * cos.abs() + other_error * sin.abs();
            rounded(own + other, error + ARITHMETIC * (own.abs() + other.abs()))
        };
        (0..dim).map(element).collect()
    }

    pub(crate) fn check(&self, found: &Outputs) {
        let Heads { query, kv, dim } = self.heads;
        let near = |found: &[u16], expected: Vec<(f64, f64)>, what: &str| {
            for (i, (&bits, (expected, tolerance))) in found.iter().zip(expected).enumerate() {
                let value = self.problem.element.value(bits);
                assert!(
                    (value - expected).abs() <= tolerance,
                    "{:?}, {what}, element {i}: {value}, expected {expected} within {tolerance}",
                    self.heads
                );
            }
        };
        let mut written = vec![false; self.pool * PAGE];
        let mut row = 0;
        for (request, pages) in self.batch.requests.iter().zip(&self.batch.pages) {
            for position in request.cached - request.query..request.cached {
                let rotary = &self.rotary[position * dim..][..dim];
                for head in 0..query {
                    let at = (row * query + head) * dim;
                    let expected = self.expected(row, head, Some(rotary));
                    near(&found.queries[at..][..dim], expected, &format!("token {row}, query head {head}"));
                }
                if stored(row) {
                    let (page, place) = (pages[position / PAGE] as usize, position % PAGE);
                    written[page * PAGE + place] = true;
                    for head in 0..kv {
                        let at = ((page * kv + head) * PAGE + place) * dim;
                        let key = self.expected(row, query + head, Some(rotary));
                        near(&found.keys[at..][..dim], key, &format!("token {row}, key head {head}"));
                        let value = self.expected(row, query + kv + head, None);
                        near(&found.values[at..][..dim], value, &format!("token {row}, value head {head}"));
                    }
                }
                row += 1;
            }
        }
        for (slot, _) in written.iter().enumerate().filter(|(_, written)| !**written) {
            for head in 0..kv {
                let at = ((slot / PAGE * kv + head) * PAGE + slot % PAGE) * dim;
                let untouched = |cache: &[u16]| cache[at..][..dim].iter().all(|&bits| bits == POISON);
                assert!(
                    untouched(&found.keys) && untouched(&found.values),
                    "{:?}: slot {slot} belongs to no token and was written",
                    self.heads
                );
            }
        }
    }
}

const TILES: [(&str, u32); 2] =
    [("64x64", GRIDPOINT_GEMM_64X64_SHARED_BYTES), ("128x128", GRIDPOINT_GEMM_128X128_SHARED_BYTES)];

/// A launch of kernels/gemm.cu.
fn tile(
    element: Element,
    (tile, shared_bytes): (&str, u32),
) -> impl Fn(&TestDevice, GemmParameters, usize, u32) -> Result<(), String> {
    let name: &'static str = format!("gemm_{tile}_rotary{}", if element == Element::F16 { "_f16" } else { "" }).leak();
    move |device, parameters, _, blocks| {
        device
            .launch(name, blocks, GRIDPOINT_GEMM_THREADS, shared_bytes, &parameters)
            .map_err(|error| format!("{name}: {error}"))
    }
}

/// A launch of the tile of 64 x 64, whose bits every product gives.
pub(crate) fn reference_launch(
    element: Element,
) -> impl Fn(&TestDevice, GemmParameters, usize, u32) -> Result<(), String> {
    tile(element, TILES[0])
}

pub(crate) const REQUESTS: [(usize, usize); 6] = [(1, 1), (1, 64), (1, 65), (1, 200), (70, 70), (5, 130)];

fn rotates_and_appends(device: &TestDevice) {
    for (index, (heads, requests)) in [
        (Heads { query: 1, kv: 1, dim: 64 }, &REQUESTS[..]),
        (Heads { query: 6, kv: 2, dim: 64 }, &REQUESTS),
        (Heads { query: 3, kv: 1, dim: 96 }, &REQUESTS),
        (Heads { query: 7, kv: 1, dim: 128 }, &REQUESTS),
        (Heads { query: 4, kv: 4, dim: 128 }, &[(1, 1)]),
        (Heads { query: 2, kv: 1, dim: 256 }, &REQUESTS[1..4]),
        (Heads { query: 4, kv: 2, dim: 64 }, &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let element = Element::ALL[index % 2];
        let run = Run::random(element, heads, requests, 40);
        run.check(&run.launch(device, 2, 3, &tile(element, TILES[index / 2 % 2])));
    }
}

fn grid_padding_and_tile_keep_bits(device: &TestDevice) {
    let run = Run::random(Element::Bf16, Heads { query: 6, kv: 3, dim: 64 }, &REQUESTS, 72);
    let expected = run.launch(device, 0, 1, &tile(Element::Bf16, TILES[0]));
    for (slack, blocks, which) in [(0, 7, 0), (50, 1, 1), (9, 40, 0)] {
        assert!(
            run.launch(device, slack, blocks, &tile(Element::Bf16, TILES[which])) == expected,
            "{slack} padded tokens, {blocks} blocks, tile {}: other bits",
            TILES[which].0
        );
    }
}

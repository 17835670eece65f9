//! kernels/rope.cu against float64: rotation in place, append to scattered pages, and nothing written anywhere else.

use super::fixture::{Element, Random};
use super::schedule::{Batch, Request};
use crate::support::{Case, TestDevice};
use gridpoint_runtime::parameters::{GRIDPOINT_PAGE_TOKENS, GRIDPOINT_ROPE_THREADS, RopeAppendParameters};

const PAGE: usize = GRIDPOINT_PAGE_TOKENS as usize;
const POISON: u16 = 0xffff;
/// Products and sum in float32, relative to the sum of magnitudes.
const ARITHMETIC: f64 = 1.0 / 4_194_304.0;

/// The cases of these kernels.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, run| Case { name, run };
    vec![
        case("rope/rotates_and_appends", rotates_and_appends as fn(&TestDevice)),
        case("rope/grid_and_padding_keep_bits", grid_and_padding_keep_bits),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Heads {
    query: usize,
    kv: usize,
    dim: usize,
    element: Element,
}

impl Heads {
    fn pitch(self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }
}

struct Run {
    batch: Batch,
    pool: usize,
    qkv: Vec<u16>,
    rotary: Vec<f32>,
}

#[derive(PartialEq)]
struct Outputs {
    qkv: Vec<u16>,
    keys: Vec<u16>,
    values: Vec<u16>,
}

/// Every third token has no slot.
fn stored(row: usize) -> bool {
    row % 3 != 2
}

impl Run {
    fn random(seed: u64, heads: Heads, requests: &[(usize, usize)]) -> Self {
        let mut random = Random(seed);
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
        let qkv = (0..batch.tokens() * heads.pitch()).map(|_| heads.element.bits(random.normal())).collect();
        let positions = batch.requests.iter().map(|request| request.cached).max().unwrap_or(0);
        let rotary = (0..positions * heads.dim / 2).flat_map(|_| {
            let angle = std::f64::consts::TAU * random.uniform();
            [angle.cos() as f32, angle.sin() as f32]
        });
        Self { qkv, rotary: rotary.collect(), pool, batch }
    }

    fn launch(&self, device: &TestDevice, heads: Heads, slack: usize, blocks: u32) -> Outputs {
        let mut rows = self.qkv.clone();
        rows.resize(rows.len() + slack * heads.pitch(), POISON);
        let qkv = device.upload(&rows);
        let keys = device.poisoned::<u16>(self.pool * heads.kv * PAGE * heads.dim);
        let values = device.poisoned::<u16>(self.pool * heads.kv * PAGE * heads.dim);
        let rotary = device.upload(&self.rotary);
        let step = device.upload(&self.batch.step_block(slack, stored));
        let parameters = RopeAppendParameters {
            step: step.as_ptr().cast(),
            qkv: qkv.as_mut_ptr(),
            key_cache: keys.as_mut_ptr(),
            value_cache: values.as_mut_ptr(),
            rotary: rotary.as_ptr(),
            query_heads: heads.query as u32,
            kv_heads: heads.kv as u32,
            head_dim: heads.dim as u32,
            reserved: 0,
        };
        let names = match heads.dim {
            64 => ["rope_append_d64", "rope_append_d64_f16"],
            96 => ["rope_append_d96", "rope_append_d96_f16"],
            128 => ["rope_append_d128", "rope_append_d128_f16"],
            _ => ["rope_append_d256", "rope_append_d256_f16"],
        };
        let name = names[usize::from(heads.element == Element::F16)];
        device.launch(name, blocks, GRIDPOINT_ROPE_THREADS, 0, &parameters).expect(name);
        let mut outputs =
            Outputs { qkv: device.download(&qkv), keys: device.download(&keys), values: device.download(&values) };
        let padding = outputs.qkv.split_off(self.qkv.len());
        assert!(padding.iter().all(|&bits| bits == POISON), "a padded row was written");
        outputs
    }
}

/// The rotated head in float64, and the error allowed at each element.
fn rotated(element_type: Element, head: &[u16], rotary: &[f32]) -> Vec<(f64, f64)> {
    let half = head.len() / 2;
    let x: Vec<f64> = head.iter().map(|&bits| element_type.value(bits)).collect();
    let element = |i: usize| {
        let (cos, sin) = (f64::from(rotary[i % half * 2]), f64::from(rotary[i % half * 2 + 1]));
        let (own, other) = if i < half { (x[i] * cos, -x[i + half] * sin) } else { (x[i] * cos, x[i - half] * sin) };
        let sum = own + other;
        let rounding = element_type.rounding() * sum.abs() + element_type.half_least();
        (sum, rounding + ARITHMETIC * (own.abs() + other.abs()))
    };
    (0..head.len()).map(element).collect()
}

fn assert_rotated(element: Element, found: &[u16], source: &[u16], rotary: &[f32], what: &str) {
    for (i, (&bits, (expected, tolerance))) in found.iter().zip(rotated(element, source, rotary)).enumerate() {
        let value = element.value(bits);
        assert!(
            (value - expected).abs() <= tolerance,
            "{what}, element {i}: {value}, expected {expected} within {tolerance}"
        );
    }
}

fn check(device: &TestDevice, heads: Heads, requests: &[(usize, usize)], seed: u64) {
    let run = Run::random(seed, heads, requests);
    let found = run.launch(device, heads, 2, 3);
    let dim = heads.dim;
    let mut keys = vec![false; run.pool * PAGE];
    let mut row = 0;
    for (request, pages) in run.batch.requests.iter().zip(&run.batch.pages) {
        for position in request.cached - request.query..request.cached {
            let rotary = &run.rotary[position * dim..][..dim];
            let source = |head: usize| &run.qkv[row * heads.pitch() + head * dim..][..dim];
            for head in 0..heads.query {
                assert_rotated(
                    heads.element,
                    &found.qkv[row * heads.pitch() + head * dim..][..dim],
                    source(head),
                    rotary,
                    &format!("{heads:?}, token {row}, query head {head}"),
                );
            }
            let rest = row * heads.pitch() + heads.query * dim..(row + 1) * heads.pitch();
            assert!(
                found.qkv[rest.clone()] == run.qkv[rest],
                "{heads:?}, token {row}: keys and values in the projection changed"
            );
            if stored(row) {
                let (page, place) = (pages[position / PAGE] as usize, position % PAGE);
                keys[page * PAGE + place] = true;
                for head in 0..heads.kv {
                    let at = ((page * heads.kv + head) * PAGE + place) * dim;
                    assert_rotated(
                        heads.element,
                        &found.keys[at..][..dim],
                        source(heads.query + head),
                        rotary,
                        &format!("{heads:?}, token {row}, key head {head}"),
                    );
                    assert!(
                        found.values[at..][..dim] == *source(heads.query + heads.kv + head),
                        "{heads:?}, token {row}, value head {head} is not a copy"
                    );
                }
            }
            row += 1;
        }
    }
    for (slot, _) in keys.iter().enumerate().filter(|(_, written)| !**written) {
        for head in 0..heads.kv {
            let at = ((slot / PAGE * heads.kv + head) * PAGE + slot % PAGE) * dim;
            let untouched = |cache: &[u16]| cache[at..][..dim].iter().all(|&bits| bits == POISON);
            assert!(
                untouched(&found.keys) && untouched(&found.values),
                "{heads:?}: slot {slot} belongs to no token and was written"
            );
        }
    }
}

const REQUESTS: [(usize, usize); 6] = [(1, 1), (1, 64), (1, 65), (1, 200), (70, 70), (5, 130)];

fn rotates_and_appends(device: &TestDevice) {
    let heads = |query, kv, dim, element| Heads { query, kv, dim, element };
    let (bf16, f16) = (Element::Bf16, Element::F16);
    check(device, heads(1, 1, 64, bf16), &REQUESTS, 21);
    check(device, heads(6, 2, 64, bf16), &REQUESTS, 22);
    check(device, heads(7, 1, 128, bf16), &REQUESTS, 23);
    check(device, heads(4, 4, 128, f16), &[(1, 1)], 24);
    check(device, heads(4, 2, 64, bf16), &[], 25);
    check(device, heads(3, 1, 96, bf16), &REQUESTS[2..], 27);
    check(device, heads(2, 2, 96, f16), &REQUESTS[..3], 28);
    check(device, heads(2, 1, 256, bf16), &REQUESTS[..3], 29);
    check(device, heads(1, 1, 256, f16), &[(5, 66)], 30);
    check(device, heads(2, 1, 64, f16), &[(5, 66)], 31);
}

fn grid_and_padding_keep_bits(device: &TestDevice) {
    let heads = Heads { query: 6, kv: 3, dim: 64, element: Element::Bf16 };
    let run = Run::random(26, heads, &REQUESTS);
    let expected = run.launch(device, heads, 0, 1);
    for (slack, blocks) in [(0, 7), (50, 1), (9, 40)] {
        assert!(
            run.launch(device, heads, slack, blocks) == expected,
            "{slack} padded tokens, {blocks} blocks: other bits"
        );
    }
}

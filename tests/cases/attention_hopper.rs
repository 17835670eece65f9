//! kernels/attention_hopper.cu: the bits of kernels/attention.cu, whose numbers tests/cases/attention.rs holds to float64, on lists with tiles of
//! 128 query rows. Devices without warpgroups skip them.

use gridpoint_runtime::parameters::{
    AttentionTensorParameters, GRIDPOINT_ATTENTION_HOPPER_SHARED_BYTES, GRIDPOINT_ATTENTION_HOPPER_THREADS,
    GRIDPOINT_ATTENTION_HOPPER_TILE_ROWS, GRIDPOINT_PAGE_TOKENS,
};
use gridpoint_runtime::{Swizzle, TensorElement, TensorMap};

use super::attention::{Heads, Part, Placement, Sequence, World, assert_same_bits, heads, heads_f16};
use super::fixture::{Element, Random};
use super::instructions::capability;
use super::schedule::{Capacities, Request, Schedule};
use crate::support::{Case, DeviceVec, TestDevice};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("attention_hopper/decodes_keep_bits", decodes_keep_bits),
        Case::new("attention_hopper/tiles_keep_bits", tiles_keep_bits),
        Case::new("attention_hopper/mixed_batches_keep_bits", mixed_batches_keep_bits),
        Case::new("attention_hopper/grids_keep_bits", grids_keep_bits),
        Case::new("attention_hopper/a_refused_list_gives_nan", a_refused_list_gives_nan),
    ]
}

const ROWS: usize = GRIDPOINT_ATTENTION_HOPPER_TILE_ROWS as usize;

/// A tensor map of keys or values.
fn map(heads: Heads, world: &World, cache: &DeviceVec<u16>) -> TensorMap {
    let element = match heads.element {
        Element::Bf16 => TensorElement::Bf16,
        Element::F16 => TensorElement::F16,
    };
    let address = cache.as_ptr().expose_provenance() as u64;
    let (columns, swizzle) =
        if heads.dim.is_multiple_of(64) { (64, Swizzle::Bytes128) } else { (32, Swizzle::Bytes64) };
    let page = GRIDPOINT_PAGE_TOKENS;
    let blocks = heads.dim / columns;
    TensorMap::new(
        element,
        address,
        [columns as u64, (world.pool * heads.kv) as u64 * u64::from(page), blocks as u64],
        &[heads.dim as u64 * 2, columns as u64 * 2],
        [columns as u32, page, blocks as u32],
        swizzle,
    )
    .expect("a valid map")
}

/// Output [tokens, Hq * d] of one launch over `schedule`.
fn attend(
    device: &TestDevice,
    heads: Heads,
    world: &World,
    schedule: &Schedule,
    capacities: Capacities,
    placement: Placement,
) -> Vec<u16> {
    world.attend_by(device, heads, schedule, capacities, placement, |attention| {
        let parameters = AttentionTensorParameters {
            maps: [map(heads, world, &world.keys), map(heads, world, &world.values)],
            attention,
            reserved: [0; 10],
        };
        let [bf16, f16] = match heads.dim {
            64 => ["attention_hopper_d64", "attention_hopper_d64_f16"],
            96 => ["attention_hopper_d96", "attention_hopper_d96_f16"],
            _ => ["attention_hopper_d128", "attention_hopper_d128_f16"],
        };
        let name = if heads.element == Element::Bf16 { bf16 } else { f16 };
        let (threads, shared) = (GRIDPOINT_ATTENTION_HOPPER_THREADS, GRIDPOINT_ATTENTION_HOPPER_SHARED_BYTES);
        device.launch(name, placement.blocks, threads, shared, &parameters).expect(name);
    })
}

/// Attends a step of (query, cached) by both kernels, by this one on grids of each of `grids` blocks, in two layers on one list.
fn check(device: &TestDevice, heads: Heads, requests: &[(usize, usize)], sharpness: f64, grids: &[u32], seed: u64) {
    if !capability(device).1 {
        return;
    }
    let mut random = Random(seed);
    let sequences: Vec<Sequence> =
        requests.iter().map(|&(_, cached)| Sequence::random(&mut random, heads, cached, sharpness)).collect();
    let parts: Vec<Part> = sequences
        .iter()
        .zip(requests)
        .map(|(sequence, &(query, cached))| (sequence, Request { query, cached }))
        .collect();
    let placement = |blocks| Placement { blocks, slack: 2, seed };
    let world = World::new(device, heads, &parts, placement(1));
    let capacities = Capacities::of(&world.batch, heads.group);
    let schedule = Schedule::run(device, &world.step, capacities, heads.kv, heads.group);
    let expected = world.attend(device, heads, &schedule, capacities, placement(7));
    let schedule = Schedule::of_tiles(device, &world.step, capacities, heads.kv, heads.group, ROWS);
    for &blocks in grids {
        let output = attend(device, heads, &world, &schedule, capacities, placement(blocks));
        assert_same_bits(&output, &expected, heads, &format!("{requests:?} on {blocks} blocks"));
    }
}

fn decodes_keep_bits(device: &TestDevice) {
    // One and several chunks, page tails, more items than a block's warps, more parts than are merged at once.
    check(device, heads(2, 3, 64), &[(1, 1), (1, 63), (1, 64), (1, 513), (1, 1300), (5, 70)], 1.0, &[1, 3], 201);
    check(device, heads(1, 16, 96), &[(1, 65), (1, 1100)], 1.0, &[1], 202);
    check(device, heads(1, 4, 128), &[(1, 512), (1, 577), (2, 130)], 1.0, &[2], 203);
    check(device, heads_f16(1, 8, 64), &[(1, 600), (2, 66)], 24.0, &[1], 204);
    check(device, heads_f16(2, 3, 96), &[(1, 513), (3, 3)], 1.0, &[2], 205);
    check(device, heads_f16(1, 8, 128), &[(1, 530)], 1.0, &[1], 206);
}

fn tiles_keep_bits(device: &TestDevice) {
    // Tiles of one warpgroup and of two, of two chunks, without the last row's page, with maxima that move.
    check(device, heads(1, 1, 64), &[(17, 17), (65, 65)], 1.0, &[1], 211);
    check(device, heads(1, 4, 64), &[(33, 545)], 24.0, &[2], 212);
    check(device, heads(1, 3, 96), &[(43, 70)], 1.0, &[1], 213);
    check(device, heads(1, 8, 128), &[(17, 130)], 1.0, &[1], 214);
    check(device, heads(1, 2, 128), &[(9, 516)], 1.0, &[1], 215);
    check(device, heads_f16(1, 2, 64), &[(40, 70)], 1.0, &[1], 216);
    check(device, heads_f16(1, 2, 96), &[(10, 66)], 1.0, &[1], 217);
    check(device, heads_f16(1, 16, 128), &[(5, 68)], 24.0, &[1], 218);
}

fn mixed_batches_keep_bits(device: &TestDevice) {
    check(device, heads(2, 3, 64), &[(1, 700), (0, 5), (1, 64), (30, 30), (0, 0), (50, 90)], 1.0, &[1, 2], 221);
    check(device, heads(1, 4, 128), &[(1, 513), (0, 40), (36, 70), (1, 1)], 1.0, &[2], 222);
    check(device, heads(1, 2, 64), &[], 1.0, &[1], 223);
}

fn grids_keep_bits(device: &TestDevice) {
    check(device, heads(2, 2, 64), &[(1, 520), (9, 20), (1, 3), (70, 80)], 1.0, &[1, 2, 3, 9], 231);
}

fn a_refused_list_gives_nan(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    for heads in [heads(2, 2, 64), heads_f16(1, 2, 96)] {
        let sequence = Sequence::random(&mut Random(241), heads, 30, 1.0);
        let placement = Placement { blocks: 2, slack: 3, seed: 1 };
        let world = World::new(device, heads, &[(&sequence, Request { query: 30, cached: 30 })], placement);
        let short = Capacities { items: 0, counters: 1, partials: 0 };
        let schedule = Schedule::of_tiles(device, &world.step, short, heads.kv, heads.group, ROWS);
        let output = attend(device, heads, &world, &schedule, short, placement);
        assert!(output.iter().all(|&bits| bits == 0x7fff), "{heads:?}: a live row of a refused list is not NaN");
    }
}

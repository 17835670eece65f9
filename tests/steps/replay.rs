//! Replay equals eager, and a padded replay equals the exact shape, bit for bit, with NaN and other requests' data in the padding.

use gridpoint_graph::RequestKind;
use gridpoint_plan::{GridPoint, Limits, Match, Matcher, Matching, Policy, StepShape, plan};

use super::rig::{Folder, Launch, Rig, Row};
use crate::support::{Case, TestDevice};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("replay/every_point_equals_eager", every_point_equals_eager),
        Case::new("replay/padded_equals_exact", padded_equals_exact),
        Case::new("replay/the_same_graph_twice_gives_the_same_bits", the_same_graph_twice_gives_the_same_bits),
    ]
}

const REQUESTS: u32 = 12;
/// Long enough for two chunks of attention.
const SEQUENCE: u32 = 640;
const PAGES_EACH: u32 = SEQUENCE.div_ceil(64);

fn small_plan() -> gridpoint_plan::Plan {
    let limits = Limits { max_requests: REQUESTS, max_tokens: 96, max_sequence_length: SEQUENCE, ..Limits::default() };
    let policy = Policy { token_ceiling: gridpoint_plan::TokenCeiling::new(true, None), ..Policy::default() };
    plan(&limits, &policy).expect("a plan")
}

/// Pages of request slot `slot`, none of them shared and none in order.
fn pages(slot: u32) -> Vec<u32> {
    (0..PAGES_EACH).map(|page| (slot * PAGES_EACH + page) * 7 % (REQUESTS * PAGES_EACH)).collect()
}

/// A token id for a request at a position.
fn token(slot: u32, position: u32, vocabulary: usize) -> u32 {
    (slot * 131 + position * 29 + 7) % vocabulary as u32
}

/// Cached tokens of each slot before a step: none, within a page, at a page's end, beyond a chunk.
fn cached(slot: u32) -> u32 {
    [1, 63, 64, 130, 511, 512, 600, 17, 255, 40, 300, 5][slot as usize % 12]
}

fn row(slot: u32, kind: RequestKind, first: u32, count: u32, vocabulary: usize) -> Row {
    let tokens = (first..first + count).map(|position| token(slot, position, vocabulary)).collect();
    Row { kind, tokens, first_position: first, pages: pages(slot) }
}

/// A batch of `p` prefills and `d` decodes with `t` tokens, decodes first; prefills share what the decodes leave.
fn batch(shape: StepShape, vocabulary: usize) -> Vec<Row> {
    let StepShape { tokens, prefills, decodes } = shape;
    let mut rows: Vec<Row> =
        (0..decodes).map(|slot| row(slot, RequestKind::Decode, cached(slot), 1, vocabulary)).collect();
    let mut left = tokens - decodes;
    for index in 0..prefills {
        let count = left.div_ceil(prefills - index);
        left -= count;
        let slot = decodes + index;
        // Every other prefill goes on where an earlier chunk ended.
        let first = if index % 2 == 0 { 0 } else { cached(slot).min(SEQUENCE - count) };
        rows.push(row(slot, RequestKind::Prefill, first, count, vocabulary));
    }
    rows
}

/// Fills the cache of every slot, so that later rows find keys and values before them.
fn fill_cache(rig: &mut Rig, vocabulary: usize, most_tokens: u32) {
    for slot in 0..REQUESTS {
        let mut first = 0;
        while first < SEQUENCE {
            let count = most_tokens.min(SEQUENCE - first);
            let point = GridPoint { tokens: count, prefills: 1, decodes: 0 };
            rig.run(Launch::Recorded(point), point, &[row(slot, RequestKind::Prefill, first, count, vocabulary)]);
            first += count;
        }
    }
}

/// Shapes that a point replays: its own, and fewer of everything.
fn shapes(point: GridPoint) -> Vec<StepShape> {
    let GridPoint { tokens, prefills, decodes } = point;
    let full = StepShape { tokens: if prefills == 0 { decodes } else { tokens }, prefills, decodes };
    let mut shapes = vec![full];
    let (fewer_prefills, fewer_decodes) = (prefills.div_ceil(2), decodes / 2);
    let least = fewer_prefills + fewer_decodes;
    if least > 0 {
        let most = if fewer_prefills == 0 { fewer_decodes } else { tokens - tokens / 3 };
        shapes.push(StepShape { tokens: most.max(least), prefills: fewer_prefills, decodes: fewer_decodes });
    }
    shapes.dedup();
    shapes
}

fn rig(device: &TestDevice) -> (Rig, gridpoint_plan::Plan, usize) {
    let folder = Folder::read("tests/models/llama-gqa");
    let plan = small_plan();
    let mut rig = Rig::new(device, &folder, &plan, REQUESTS * PAGES_EACH + 1, SEQUENCE);
    fill_cache(&mut rig, folder.config.vocab_size, 96);
    (rig, plan, folder.config.vocab_size)
}

fn every_point_equals_eager(device: &TestDevice) {
    let (mut rig, plan, vocabulary) = rig(device);
    assert!(plan.len() > 20, "the plan has {} points", plan.len());
    for (index, &point) in plan.points().iter().enumerate() {
        let shape = shapes(point).pop().expect("a shape");
        let rows = batch(shape, vocabulary);
        let replayed = rig.run(Launch::Replay(index), point, &rows);
        replayed.assert_finite(&format!("{point}, step {shape}"));
        rig.model.poison_workspace().expect("the device works");
        let eager = rig.run(Launch::Eager(index), point, &rows);
        replayed.assert_equals(&eager, &format!("{point}, step {shape}: replay against eager"));
    }
}

fn padded_equals_exact(device: &TestDevice) {
    let (mut rig, plan, vocabulary) = rig(device);
    let matcher = Matcher::new(plan.points());
    let largest = plan.points().iter().copied().max_by_key(|point| (point.tokens, point.requests())).expect("points");
    // What lies in every slot and in the cache's pages beforehand: a step of the largest point.
    let filler =
        batch(StepShape { tokens: largest.tokens, prefills: largest.prefills, decodes: largest.decodes }, vocabulary);
    let mut checked = 0;
    for text in
        ["1:0:1", "5:0:5", "9:0:9", "2:1:0", "3:1:2", "20:3:4", "30:1:0", "37:2:9", "50:5:5", "61:1:3", "90:9:2"]
    {
        let shape: StepShape = text.parse().expect("a shape");
        let rows = batch(shape, vocabulary);
        let own = GridPoint { tokens: shape.tokens, prefills: shape.prefills, decodes: shape.decodes };
        rig.spoil(&filler, largest);
        let exact = rig.run(Launch::Recorded(own), own, &rows);
        exact.assert_finite(&format!("step {shape}"));
        // The point that the matcher gives, and the largest that fits.
        let Match::Replay { index, .. } = matcher.find(shape, Matching::NonStrict) else {
            panic!("no point fits {shape}");
        };
        let fits = |point: &GridPoint| Matcher::new(&[*point]).find(shape, Matching::NonStrict).point().is_some();
        let widest =
            (0..plan.len()).filter(|&index| fits(&plan.points()[index])).max_by_key(|&index| plan.points()[index]);
        for index in [Some(index), widest].into_iter().flatten() {
            let point = plan.points()[index];
            rig.spoil(&filler, largest);
            let padded = rig.run(Launch::Replay(index), point, &rows);
            padded.assert_equals(&exact, &format!("step {shape} replayed as {point} against its own shape"));
            checked += 1;
        }
    }
    assert!(checked > 15, "{checked} replays were checked");
}

fn the_same_graph_twice_gives_the_same_bits(device: &TestDevice) {
    let (mut rig, plan, vocabulary) = rig(device);
    let index = plan.points().iter().position(|point| point.prefills > 1 && point.decodes > 2).expect("a mixed point");
    let point = plan.points()[index];
    let rows = batch(shapes(point).pop().expect("a shape"), vocabulary);
    let first = rig.run(Launch::Replay(index), point, &rows);
    for turn in 1..4 {
        rig.run(Launch::Replay(index), point, &rows).assert_equals(&first, &format!("{point}, replay {turn}"));
    }
}

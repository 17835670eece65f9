//! Steps whose launches overlap (programmatic dependent launch) equal steps whose launches run one after another, bit for bit; and the
//! edges of captured steps are those that overlap needs.

use gridpoint_graph::RequestKind;
use gridpoint_model::LaunchOrder;
use gridpoint_plan::{GridPoint, Limits, Match, Matcher, Matching, Plan, Policy, StepShape, plan};

use super::rig::{Folder, Launch, Rig, Row};
use crate::support::random::Random;
use crate::support::{Case, TestDevice};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new(CHAINED_EQUALS_SERIAL, programmatic_steps_equal_serial_ones),
        Case::new("chain/captured_edges_are_programmatic", captured_edges_are_programmatic),
        Case::new("chain/launches_in_another_order_are_others", launches_in_another_order_are_others),
    ]
}

/// The case that also runs under seeds, and that the plants of whole steps trip over.
pub(crate) const CHAINED_EQUALS_SERIAL: &str = "chain/programmatic_steps_equal_serial_ones";

const REQUESTS: u32 = 5;
const MOST_TOKENS: u32 = 96;
/// Long enough for two chunks of attention.
const SEQUENCE: u32 = 640;
const PAGES_EACH: u32 = SEQUENCE.div_ceil(64);

/// Steps that are compared: on a GPU enough for rare orders of blocks to come.
fn steps(device: &TestDevice) -> usize {
    let simulated = device.device().properties().name.contains("simulated");
    if simulated { 8 } else { 4000 }
}

fn small_plan() -> Plan {
    let limits =
        Limits { max_requests: REQUESTS, max_tokens: MOST_TOKENS, max_sequence_length: SEQUENCE, ..Limits::default() };
    let policy = Policy { token_ceiling: gridpoint_plan::TokenCeiling::new(true, None), ..Policy::default() };
    plan(&limits, &policy).expect("a plan")
}

fn rig(device: &TestDevice, folder: &Folder, plan: &Plan, order: LaunchOrder) -> Rig {
    Rig::in_order(device, folder, plan, (REQUESTS * PAGES_EACH + 1, SEQUENCE), Some(order))
}

/// Sequences that grow from step to step, each in pages of its own.
struct Traffic {
    random: Random,
    vocabulary: usize,
    /// Tokens in the cache of each slot.
    lengths: [u32; REQUESTS as usize],
}

impl Traffic {
    fn row(&mut self, slot: usize, count: u32, kind: RequestKind) -> Row {
        let pages = (0..PAGES_EACH).map(|page| (slot as u32 * PAGES_EACH + page) * 7 % (REQUESTS * PAGES_EACH));
        let first_position = self.lengths[slot];
        self.lengths[slot] += count;
        let tokens = (0..count).map(|_| self.random.below(self.vocabulary) as u32).collect();
        Row { kind, tokens, first_position, pages: pages.collect() }
    }

    /// A step of a random shape: decodes of some sequences, then chunks of others. A sequence that is full begins anew.
    fn step(&mut self) -> Vec<Row> {
        for length in &mut self.lengths {
            if *length == SEQUENCE {
                *length = 0;
            }
        }
        let mut slots: Vec<usize> = (0..REQUESTS as usize).collect();
        for last in (1..slots.len()).rev() {
            slots.swap(last, self.random.below(last + 1));
        }
        slots.truncate(1 + self.random.below(slots.len()));
        let decodes = self.random.below(slots.len() + 1);
        let mut left = MOST_TOKENS - slots.len() as u32;
        let mut rows = Vec::new();
        for (index, slot) in slots.into_iter().enumerate() {
            if index < decodes && self.lengths[slot] > 0 {
                rows.push(self.row(slot, 1, RequestKind::Decode));
                continue;
            }
            let most = left.min(SEQUENCE - self.lengths[slot] - 1);
            let more = self.random.below(most as usize + 1) as u32;
            left -= more;
            rows.push(self.row(slot, 1 + more, RequestKind::Prefill));
        }
        rows.sort_by_key(|row| row.kind == RequestKind::Prefill);
        rows
    }
}

fn shape_of(rows: &[Row]) -> StepShape {
    let decodes = rows.iter().filter(|row| row.kind == RequestKind::Decode).count() as u32;
    let tokens = rows.iter().map(|row| row.tokens.len() as u32).sum();
    StepShape { tokens, prefills: rows.len() as u32 - decodes, decodes }
}

/// Every step's shape differs from the one before it in the same step block, so that a kernel that began too early, or read a count of
/// the step before, would be seen. The caches differ from then on, too.
fn programmatic_steps_equal_serial_ones(device: &TestDevice) {
    if LaunchOrder::best(device.device()) == LaunchOrder::Serial {
        return;
    }
    let folder = Folder::read("tests/models/llama-gqa");
    let plan = small_plan();
    let matcher = Matcher::new(plan.points());
    let mut serial = rig(device, &folder, &plan, LaunchOrder::Serial);
    let mut chained = rig(device, &folder, &plan, LaunchOrder::Programmatic);
    let vocabulary = folder.config.vocab_size;
    let mut traffic = Traffic { random: Random(5), vocabulary, lengths: [0; REQUESTS as usize] };
    for number in 0..steps(device) {
        let rows = traffic.step();
        let shape = shape_of(&rows);
        let Match::Replay { index, point, .. } = matcher.find(shape, Matching::NonStrict) else {
            panic!("no point fits {shape}");
        };
        // Some steps are launched kernel by kernel.
        let launch = if traffic.random.below(4) == 0 { Launch::Eager(index) } else { Launch::Replay(index) };
        let expected = serial.run(Launch::Replay(index), point, &rows);
        let found = chained.run(launch, point, &rows);
        let what = format!("step {number}, {shape} as {point}, {launch:?}");
        expected.assert_finite(&what);
        found.assert_equals(&expected, &format!("{what}: programmatic launches against serial ones"));
    }
}

/// A captured step is one chain: programmatic edges between neighbours, none in front of the first kernel.
fn captured_edges_are_programmatic(device: &TestDevice) {
    let folder = Folder::read("tests/models/llama-gqa");
    let plan = small_plan();
    let best = LaunchOrder::best(device.device());
    for order in [LaunchOrder::Serial, best] {
        let rig = rig(device, &folder, &plan, order);
        let point = GridPoint { tokens: 40, prefills: 2, decodes: 3 };
        let (kernels, edges) = rig.recorded_edges(point);
        assert_eq!(edges.len() + 1, kernels, "{order}: edges of {kernels} kernels");
        let mut degrees = vec![[0; 2]; kernels];
        for edge in &edges {
            let programmatic = order == LaunchOrder::Programmatic;
            assert_eq!((edge.programmatic, edge.full), (programmatic, !programmatic), "{order}: {edge:?}");
            degrees[edge.from][0] += 1;
            degrees[edge.to][1] += 1;
        }
        let ends = |ends: [i32; 2]| degrees.iter().filter(|&&degree| degree == ends).count();
        assert_eq!([ends([1, 0]), ends([0, 1]), ends([1, 1])], [1, 1, kernels - 2], "{order}: {degrees:?}");
    }
}

/// Graphs are told apart by their launches: one captured in one order never stands for the other.
fn launches_in_another_order_are_others(device: &TestDevice) {
    if LaunchOrder::best(device.device()) == LaunchOrder::Serial {
        return;
    }
    let folder = Folder::read("tests/models/llama-gqa");
    let rig = rig(device, &folder, &small_plan(), LaunchOrder::Serial);
    let point = GridPoint { tokens: 40, prefills: 2, decodes: 3 };
    let serial = rig.recorded(point);
    assert_eq!(serial, rig.recorded(point));
    let chained = serial.clone().chained();
    assert_ne!(serial, chained);
    let programmatic = chained.as_slice().iter().position(gridpoint_runtime::Launch::is_programmatic);
    assert_eq!(programmatic, Some(1), "the first launch follows the copy of the step block");
    assert!(chained.as_slice()[1..].iter().all(gridpoint_runtime::Launch::is_programmatic));
}

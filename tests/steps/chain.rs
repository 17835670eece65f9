//! Steps whose launches overlap (programmatic dependent launch) equal steps whose launches run one after another, bit for bit; and the
//! edges of captured steps are those that overlap needs.

use std::collections::VecDeque;

use gridpoint_graph::{RING_SLOTS, RequestKind};
use gridpoint_model::LaunchOrder;
use gridpoint_plan::{GridPoint, Limits, Match, Matcher, Matching, Plan, Policy, StepShape, plan};

use super::rig::{Answer, Folder, Launch, Rig, Row};
use crate::support::random::Random;
use crate::support::{Case, TestDevice};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new(CHAINED_EQUALS_SERIAL, programmatic_steps_equal_serial_ones),
        Case::new(BACK_TO_BACK_EQUALS_SERIAL, replays_back_to_back_equal_serial_ones),
        Case::new(AGAIN_AND_AGAIN, a_step_again_and_again_gives_the_same_bits),
        Case::new("chain/captured_edges_are_programmatic", captured_edges_are_programmatic),
        Case::new("chain/launches_in_another_order_are_others", launches_in_another_order_are_others),
    ]
}

/// The case that also runs under seeds, and that the plants of whole steps trip over.
pub(crate) const CHAINED_EQUALS_SERIAL: &str = "chain/programmatic_steps_equal_serial_ones";

/// The same without the host between two steps.
pub(crate) const BACK_TO_BACK_EQUALS_SERIAL: &str = "chain/replays_back_to_back_equal_serial_ones";
/// One step over and over.
pub(crate) const AGAIN_AND_AGAIN: &str = "chain/a_step_again_and_again_gives_the_same_bits";

const REQUESTS: u32 = 5;
const MOST_TOKENS: u32 = 96;
/// Long enough for two chunks of attention.
const SEQUENCE: u32 = 640;
const PAGES_EACH: u32 = SEQUENCE.div_ceil(64);

/// How many steps a case compares: on a GPU enough for rare orders of blocks to come.
fn steps(device: &TestDevice, simulated: usize, on_a_gpu: usize) -> usize {
    if device.device().properties().name.contains("simulated") { simulated } else { on_a_gpu }
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
    for number in 0..steps(device, 8, 4000) {
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

/// Runs all steps as fast as the ring takes them, and hands on what each answered.
fn back_to_back(
    rig: &mut Rig,
    steps: &[(usize, GridPoint, Vec<Row>)],
    mut answered: impl FnMut(usize, Vec<(i32, u32)>),
) {
    let mut tickets = VecDeque::new();
    for (number, (index, point, rows)) in steps.iter().enumerate() {
        if tickets.len() == RING_SLOTS {
            let ticket = tickets.pop_front().expect("the ring is full");
            answered(number - RING_SLOTS, rig.results(&ticket));
        }
        tickets.push_back(rig.submit(Launch::Replay(*index), *point, rows));
    }
    let first = steps.len() - tickets.len();
    for (place, ticket) in tickets.iter().enumerate() {
        answered(first + place, rig.results(ticket));
    }
}

/// The host waits for no step before the next ones are in the stream, so that a step begins while the one before it ends. The results of
/// every step are compared, and at the end the logits of a step that attends to all that was cached.
fn replays_back_to_back_equal_serial_ones(device: &TestDevice) {
    if LaunchOrder::best(device.device()) == LaunchOrder::Serial {
        return;
    }
    let folder = Folder::read("tests/models/llama-gqa");
    let plan = small_plan();
    let matcher = Matcher::new(plan.points());
    let vocabulary = folder.config.vocab_size;
    let mut traffic = Traffic { random: Random(6), vocabulary, lengths: [0; REQUESTS as usize] };
    let placed = |rows: Vec<Row>| match matcher.find(shape_of(&rows), Matching::NonStrict) {
        Match::Replay { index, point, .. } => (index, point, rows),
        Match::Eager { .. } => panic!("no point fits {}", shape_of(&rows)),
    };
    let mut taken: Vec<_> = (0..steps(device, 5, 6000)).map(|_| placed(traffic.step())).collect();
    // A row of every sequence, whose cache the steps before have filled.
    let last = (0..REQUESTS as usize).filter(|&slot| (1..SEQUENCE).contains(&traffic.lengths[slot]));
    let last: Vec<usize> = last.collect();
    let rows: Vec<Row> = last.into_iter().map(|slot| traffic.row(slot, 1, RequestKind::Decode)).collect();
    taken.push(placed(rows));

    let mut serial = rig(device, &folder, &plan, LaunchOrder::Serial);
    let mut chained = rig(device, &folder, &plan, LaunchOrder::Programmatic);
    let mut expected = Vec::with_capacity(taken.len());
    back_to_back(&mut serial, &taken, |_, results| expected.push(results));
    back_to_back(&mut chained, &taken, |number, results| {
        assert_eq!(results, expected[number], "step {number} of {} back to back, {}", taken.len(), taken[number].1);
    });
    let rows = taken.last().map_or(0, |(.., rows)| rows.len());
    let [expected, found] = [&serial, &chained].map(|rig| Answer { logits: rig.logits(rows), results: Vec::new() });
    expected.assert_finite("the last step");
    found.assert_equals(&expected, "the last step: programmatic launches against serial ones");
}

/// A step that writes into the cache what is there already gives its own bits however often it is replayed.
fn a_step_again_and_again_gives_the_same_bits(device: &TestDevice) {
    if LaunchOrder::best(device.device()) == LaunchOrder::Serial {
        return;
    }
    let folder = Folder::read("tests/models/llama-gqa");
    let plan = small_plan();
    let matcher = Matcher::new(plan.points());
    let mut chained = rig(device, &folder, &plan, LaunchOrder::Programmatic);
    let vocabulary = folder.config.vocab_size;
    let mut traffic = Traffic { random: Random(7), vocabulary, lengths: [0; REQUESTS as usize] };
    let [replays, looks] = [steps(device, 3, 2000), steps(device, 2, 16)];
    // Sequences to attend to; then decodes, a chunk beside decodes, a chunk alone.
    for slots in [(0, REQUESTS as usize, 19), (REQUESTS as usize, 0, 0), (2, 2, 17), (0, 1, MOST_TOKENS)] {
        let (decodes, chunks, tokens) = slots;
        let decodes = (0..decodes).map(|slot| traffic.row(slot, 1, RequestKind::Decode)).collect::<Vec<_>>();
        let chunks = (0..chunks).map(|slot| traffic.row(REQUESTS as usize - 1 - slot, tokens, RequestKind::Prefill));
        let rows: Vec<Row> = decodes.into_iter().chain(chunks).collect();
        let shape = shape_of(&rows);
        let Match::Replay { index, point, .. } = matcher.find(shape, Matching::NonStrict) else {
            panic!("no point fits {shape}");
        };
        let expected = chained.run(Launch::Replay(index), point, &rows);
        expected.assert_finite(&format!("{shape} as {point}"));
        let same: Vec<_> = (0..replays.div_ceil(looks)).map(|_| (index, point, rows.clone())).collect();
        for look in 0..looks {
            back_to_back(&mut chained, &same, |number, results| {
                assert_eq!(results, expected.results, "{shape} as {point}, replay {number} behind look {look}");
            });
            let found = Answer { logits: chained.logits(rows.len()), results: expected.results.clone() };
            found.assert_equals(&expected, &format!("{shape} as {point}, look {look}"));
        }
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

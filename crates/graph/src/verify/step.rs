//! A real step: its rows, what is asked of them, and where their cache lies.

use gridpoint_plan::{GridPoint, StepShape};
use gridpoint_runtime::parameters::GRIDPOINT_PAGE_TOKENS;

use super::random::Random;
use super::{Case, Context, Room};
use crate::{LogitRequest, RequestKind, StepError, StepLayout, StepWriter};

/// Tokens of one page of the cache.
const PAGE: u32 = GRIDPOINT_PAGE_TOKENS;
/// Tokens of one chunk of attention, at whose ends kernels change their way.
const CHUNK: u32 = gridpoint_runtime::parameters::GRIDPOINT_CHUNK_TOKENS;

/// One request's part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRow {
    /// What it does.
    pub kind: RequestKind,
    /// The tokens that it computes.
    pub tokens: Vec<u32>,
    /// Tokens of its sequence that are in the cache before the step.
    pub first_position: u32,
    /// Pages of all its tokens.
    pub pages: Vec<u32>,
}

/// A step with everything that a block holds.
#[derive(Clone, Debug, PartialEq)]
pub struct RealStep {
    shape: StepShape,
    rows: Vec<RequestRow>,
    /// Token rows, and what is asked of them.
    logits: Vec<(u32, LogitRequest)>,
}

impl RealStep {
    /// A step of a case, in random pages, with random tokens and sampling parameters.
    pub(super) fn new(case: &Case, room: &Room, random: &mut Random) -> Self {
        let mut free: Vec<u32> = (0..room.pages).collect();
        random.shuffle(&mut free);
        let counts = counts(case.shape, room, random);
        let least = |count: u32| (count + 1).div_ceil(PAGE);
        // What is left when each request has the pages of its own tokens and of one more.
        let mut spare = room.pages.saturating_sub(counts.iter().map(|&count| least(count)).sum());
        let mut rows = Vec::with_capacity(counts.len());
        for (index, &count) in counts.iter().enumerate() {
            let kind = if (index as u32) < case.shape.decodes { RequestKind::Decode } else { RequestKind::Prefill };
            let lent = match case.context {
                // Half of what is left, so that lengths differ by much.
                Context::Long => spare.div_ceil(2),
                Context::Short => 0,
                Context::Mixed => spare / (counts.len() - index) as u32 + u32::from(spare > 0),
            }
            .min(spare);
            let most = room.sequence_length.min((least(count) + lent) * PAGE).saturating_sub(count);
            let first_position = first_position(case.context, kind, most, random);
            let pages = (first_position + count).div_ceil(PAGE);
            spare = spare.saturating_sub(pages.saturating_sub(least(count)));
            let pages = free.split_off(free.len().saturating_sub(pages as usize));
            let tokens = (0..count).map(|_| random.below(room.vocabulary.into()) as u32).collect();
            rows.push(RequestRow { kind, tokens, first_position, pages });
        }
        let logits = logits(&rows, case.scores, room, random);
        Self { shape: case.shape, rows, logits }
    }

    /// The real counts.
    #[must_use]
    pub fn shape(&self) -> StepShape {
        self.shape
    }

    /// The requests, decodes first.
    #[must_use]
    pub fn rows(&self) -> &[RequestRow] {
        &self.rows
    }

    /// Rows of the language-model head.
    #[must_use]
    pub fn logit_rows(&self) -> u32 {
        self.logits.len() as u32
    }

    /// The step as a point of its own.
    pub(super) fn own_point(&self) -> GridPoint {
        let StepShape { tokens, prefills, decodes } = self.shape;
        GridPoint { tokens, prefills, decodes }
    }

    /// Most pages of a request.
    pub(super) fn columns(&self) -> u32 {
        self.rows.iter().map(|row| row.pages.len() as u32).max().unwrap_or(0)
    }

    /// The block of `point`, with rows of so many pages.
    pub(super) fn layout(&self, point: GridPoint, columns: u32, room: &Room) -> Result<StepLayout, StepError> {
        let fitting = point.requests().min(u64::from(room.logit_rows)) as u32;
        StepLayout::new(point, self.logit_rows().max(fitting), columns)
    }

    /// Writes the step.
    pub(super) fn write(&self, block: &mut StepWriter<'_>) -> Result<(), StepError> {
        for row in &self.rows {
            block.push_request(row.kind, &row.tokens, row.first_position, &row.pages)?;
        }
        self.logits.iter().try_for_each(|&(row, request)| block.push_logits(row, request).map(|_| ()))
    }
}

/// Tokens of each request: one of a decode, and what is left dealt out unevenly.
fn counts(shape: StepShape, room: &Room, random: &mut Random) -> Vec<u32> {
    let StepShape { tokens, prefills, decodes } = shape;
    let mut counts = vec![1; decodes as usize];
    let mut left = tokens.saturating_sub(decodes);
    for behind in (0..prefills).rev() {
        // Each that follows needs one, and holds at most a sequence.
        let most = left.saturating_sub(behind).min(room.sequence_length);
        let least = u64::from(left).saturating_sub(u64::from(behind) * u64::from(room.sequence_length)).max(1) as u32;
        let count = if behind == 0 {
            most
        } else {
            random.between(least, most.min(left.div_ceil(behind + 1).saturating_mul(2).max(least)))
        };
        counts.push(count.max(1));
        left = left.saturating_sub(count);
    }
    counts
}

/// Tokens in the cache before the step, at most `most`: one at least for a decode, where there is room.
fn first_position(context: Context, kind: RequestKind, most: u32, random: &mut Random) -> u32 {
    let least = u32::from(kind == RequestKind::Decode).min(most);
    match context {
        Context::Short => least,
        Context::Long => most,
        Context::Mixed => {
            let ends = [0, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, CHUNK - 1, CHUNK, CHUNK + 1];
            let first = match random.below(2) {
                0 => ends[random.below(ends.len() as u64) as usize],
                _ => random.between(least, most),
            };
            first.clamp(least, most)
        }
    }
}

/// A row of the head for the last token of most requests, and for the tokens of prompts that are scored, as far as there is room.
fn logits(rows: &[RequestRow], scores: bool, room: &Room, random: &mut Random) -> Vec<(u32, LogitRequest)> {
    let mut room_left = (room.logit_rows as usize).saturating_sub(rows.len());
    let (mut logits, mut first) = (Vec::new(), 0);
    for (index, row) in rows.iter().enumerate() {
        let count = row.tokens.len() as u32;
        if scores && row.kind == RequestKind::Prefill {
            for token in first..(first + count - 1).min(first + room_left as u32) {
                room_left -= 1;
                logits.push((token, LogitRequest::Score(random.below(room.vocabulary.into()) as u32)));
            }
        }
        // A part of a prompt samples nothing; the step's last row does, so that there is something to compare.
        let samples = row.kind == RequestKind::Decode || index + 1 == rows.len() || random.below(4) > 0;
        if samples && logits.len() < room.logit_rows as usize {
            logits.push((first + count - 1, sample(row, random)));
        }
        first += count;
    }
    logits
}

fn sample(row: &RequestRow, random: &mut Random) -> LogitRequest {
    let (temperature, top_p, top_k) = match random.below(4) {
        0 | 1 => (0.0, 1.0, 0),
        2 => (0.8, 1.0, 5),
        _ => (1.0, 0.9, 0),
    };
    let position = row.first_position + row.tokens.len() as u32;
    LogitRequest::Sample { temperature, top_p, top_k, position, seed: random.bits() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::case::Bounds;
    use super::*;

    const ROOM: Room =
        Room { tokens: 512, requests: 24, logit_rows: 40, sequence_length: 640, pages: 70, vocabulary: 100 };

    /// Every case of several points, in several rooms, under several seeds.
    fn each_step(check: impl Fn(&Case, &Room, &RealStep)) {
        for pages in [70, 26, 5] {
            let room = Room { pages, ..ROOM };
            for (tokens, prefills, decodes) in [(512, 3, 20), (64, 8, 8), (16, 0, 16), (300, 1, 0), (8, 4, 0)] {
                let bounds = Bounds { room, most_tokens: u32::MAX };
                for case in bounds.all(GridPoint { tokens, prefills, decodes }).cases {
                    for seed in 0..5 {
                        check(&case, &room, &RealStep::new(&case, &room, &mut Random::new(seed)));
                    }
                }
            }
        }
    }

    #[test]
    fn steps_are_what_the_case_says() {
        each_step(|case, room, step| {
            let what = format!("{case:?} in {} pages", room.pages);
            let kinds = |kind| step.rows().iter().filter(|row| row.kind == kind).count() as u32;
            assert_eq!(
                (kinds(RequestKind::Prefill), kinds(RequestKind::Decode)),
                (case.shape.prefills, case.shape.decodes)
            );
            assert_eq!(step.rows().iter().map(|row| row.tokens.len() as u32).sum::<u32>(), case.shape.tokens, "{what}");
            assert!(step.logit_rows() >= 1 && step.logit_rows() <= room.logit_rows, "{what}");
            for row in step.rows() {
                let length = row.first_position + row.tokens.len() as u32;
                assert!(length <= room.sequence_length, "{what}: {length}");
                assert_eq!(row.pages.len() as u32, length.div_ceil(PAGE), "{what}");
                assert!(row.kind == RequestKind::Prefill || row.tokens.len() == 1, "{what}");
            }
        });
    }

    #[test]
    fn no_page_has_two_holders() {
        each_step(|case, room, step| {
            let pages: Vec<u32> = step.rows().iter().flat_map(|row| row.pages.iter().copied()).collect();
            assert!(pages.iter().all(|&page| page < room.pages), "{case:?}");
            assert_eq!(pages.iter().collect::<HashSet<_>>().len(), pages.len(), "{case:?} in {} pages", room.pages);
        });
    }

    #[test]
    fn a_long_context_is_as_long_as_a_sequence() {
        let shape = StepShape { tokens: 4, prefills: 0, decodes: 4 };
        let case = Case { shape, context: Context::Long, scores: false };
        let step = RealStep::new(&case, &ROOM, &mut Random::new(1));
        assert_eq!(step.rows()[0].first_position, ROOM.sequence_length - 1);
        let short = RealStep::new(&Case { context: Context::Short, ..case }, &ROOM, &mut Random::new(1));
        assert!(short.rows().iter().all(|row| row.first_position == 1));
    }
}

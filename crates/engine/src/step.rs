//! A step as planned: rows of tokens to compute, decodes before prefills; and what comes back from it.

use std::ops::Range;

use crate::pages::pages_for;
use crate::request::{FinishReason, Request, RequestId, SamplingParameters};

/// What a row of a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowKind {
    /// Computes the one token sampled last.
    Decode,
    /// Computes tokens of the prompt. One of a single token is still a prefill in the step's counts.
    Prefill,
}

/// One request's part of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRow<'a> {
    /// Whose row it is.
    pub request: RequestId,
    /// What it does.
    pub kind: RowKind,
    /// The token ids to compute, at least one.
    pub tokens: &'a [u32],
    /// Position of the first of them in the sequence: the number of tokens in the kv cache before the step.
    pub first_position: u32,
    /// Tokens in the kv cache after the step: `first_position + tokens.len()`.
    pub kv_length: u32,
    /// The pages that hold them, `ceil(kv_length / 64)`: position `i` lies in page `pages[i / 64]`.
    pub pages: &'a [u32],
    /// Whether the row yields the request's next token: a decode, and a prefill that reaches the end of the prompt (unless
    /// the prompt is only scored).
    pub samples: bool,
    /// How that token is drawn.
    pub sampling: SamplingParameters,
    /// Where log-probabilities of the prompt are wanted: `targets[i]` is the token whose log-probability is wanted after
    /// `tokens[i]`. Empty otherwise; one shorter than `tokens` where the row reaches the end of the prompt.
    pub targets: &'a [u32],
}

impl StepRow<'_> {
    /// Position in the sequence of the token sampled after this row: the counter of its draw.
    #[must_use]
    pub fn sampled_position(&self) -> u32 {
        self.kv_length
    }
}

/// Tokens to compute at once: `decodes` decode rows, then `prefills` prefill rows, without gaps.
///
/// Rows of one kind stand in order of arrival. All token ids, page ids and targets of a step lie end to end in three
/// buffers that go from step to step.
#[derive(Debug, Default)]
pub struct Step {
    number: u64,
    records: Vec<Record>,
    tokens: Vec<u32>,
    pages: Vec<u32>,
    targets: Vec<u32>,
    decodes: usize,
}

#[derive(Debug)]
struct Record {
    request: RequestId,
    first_position: u32,
    samples: bool,
    sampling: SamplingParameters,
    tokens: Range<usize>,
    pages: Range<usize>,
    targets: Range<usize>,
}

impl Step {
    /// Counts the steps planned, from 1; a step that was dropped has had its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Number of decode rows: d.
    #[must_use]
    pub fn decodes(&self) -> usize {
        self.decodes
    }

    /// Number of prefill rows: p.
    #[must_use]
    pub fn prefills(&self) -> usize {
        self.records.len() - self.decodes
    }

    /// The token ids of all rows, end to end: t of them.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Rows of the language-model head: one for each token that is sampled and for each prompt token that is scored.
    #[must_use]
    pub fn logit_rows(&self) -> usize {
        self.targets.len() + self.records.iter().filter(|record| record.samples).count()
    }

    /// The rows, decodes first.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = StepRow<'_>> + Clone {
        self.records.iter().enumerate().map(|(index, record)| StepRow {
            request: record.request,
            kind: if index < self.decodes { RowKind::Decode } else { RowKind::Prefill },
            tokens: &self.tokens[record.tokens.clone()],
            first_position: record.first_position,
            kv_length: record.first_position + record.tokens.len() as u32,
            pages: &self.pages[record.pages.clone()],
            samples: record.samples,
            sampling: record.sampling,
            targets: &self.targets[record.targets.clone()],
        })
    }

    /// The same buffers, empty, for step `number`.
    pub(crate) fn restarted(mut self, number: u64) -> Self {
        self.records.clear();
        self.tokens.clear();
        self.pages.clear();
        self.targets.clear();
        Self { number, decodes: 0, ..self }
    }

    /// Adds a row of `request`'s next tokens, at most `count`, and says how many they are.
    pub(crate) fn push(&mut self, request: &Request, pages: &[u32], count: u32) -> u32 {
        let pending = request.pending(count);
        let count = pending.len() as u32;
        let pages = &pages[..pages_for(request.cached() + count) as usize];
        if request.kind() == RowKind::Decode {
            debug_assert_eq!(self.prefills(), 0, "decodes come before prefills");
            self.decodes += 1;
        }
        self.records.push(Record {
            request: request.id(),
            first_position: request.cached(),
            samples: request.samples_after(count),
            sampling: request.sampling(),
            tokens: append(&mut self.tokens, pending),
            pages: append(&mut self.pages, pages),
            targets: append(&mut self.targets, request.targets(count)),
        });
        count
    }
}

/// Appends `part` to `whole` and says where it lies.
fn append(whole: &mut Vec<u32>, part: &[u32]) -> Range<usize> {
    let start = whole.len();
    whole.extend_from_slice(part);
    start..whole.len()
}

/// A token and the natural logarithm of its probability before temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// Token id.
    pub token: u32,
    /// Its log-probability.
    pub logprob: f32,
}

/// What a row of a step came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowOutput<'a> {
    /// The next token: there exactly if the row samples.
    pub sampled: Option<Sampled>,
    /// Log-probabilities of the row's targets, one each.
    pub prompt_logprobs: &'a [f32],
}

/// What happened to a request in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// It has a new token.
    Token {
        /// The request.
        request: RequestId,
        /// Token id.
        token: u32,
        /// Its log-probability before temperature.
        logprob: f32,
    },
    /// It has ended and its result can be taken.
    Finished {
        /// The request.
        request: RequestId,
        /// Why it ended.
        reason: FinishReason,
    },
}

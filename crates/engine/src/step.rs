//! A step as planned: rows of tokens to compute, decodes before prefills; and what comes back from it.

use std::sync::Arc;

use crate::pages::{Pages, pages_for};
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
/// Rows of one kind stand in order of arrival. All token ids and targets of a step lie end to end in two buffers. Page ids are read where
/// the request has them. All of it goes from step to step.
#[derive(Debug, Default)]
pub struct Step {
    number: u64,
    /// The rows, and behind them rows of earlier steps.
    records: Vec<Record>,
    rows: usize,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    decodes: usize,
    /// Rows that sample.
    samples: usize,
    /// Most pages of a row.
    page_columns: u32,
}

/// A row, with the parts of the buffers that are its own.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) request: RequestId,
    sampling: SamplingParameters,
    first_position: u32,
    tokens: Part,
    targets: Part,
    /// The list of the request's pages, of which the row needs the first.
    pages: Arc<[u32]>,
    columns: u32,
    pub(crate) samples: bool,
}

impl Record {
    /// Tokens that it computes.
    pub(crate) fn token_count(&self) -> u32 {
        self.tokens.count
    }

    /// Log-probabilities that are wanted of it.
    pub(crate) fn target_count(&self) -> usize {
        self.targets.count as usize
    }
}

/// A part of a buffer. 32 bits count every token of a step: the budget has as many.
#[derive(Debug, Clone, Copy)]
struct Part {
    start: u32,
    count: u32,
}

impl Part {
    /// Appends `part` to `whole` and says where it lies.
    fn append(whole: &mut Vec<u32>, part: &[u32]) -> Self {
        let start = whole.len() as u32;
        // One element, as of a decode, is no call of memcpy.
        match *part {
            [one] => whole.push(one),
            _ => whole.extend_from_slice(part),
        }
        Self { start, count: part.len() as u32 }
    }

    fn of(self, whole: &[u32]) -> &[u32] {
        &whole[self.start as usize..][..self.count as usize]
    }
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
        self.rows - self.decodes
    }

    /// The token ids of all rows, end to end: t of them.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Rows of the language-model head: one for each token that is sampled and for each prompt token that is scored.
    #[must_use]
    pub fn logit_rows(&self) -> usize {
        self.targets.len() + self.samples
    }

    /// Most pages of a row: columns of its page table.
    #[must_use]
    pub fn page_columns(&self) -> u32 {
        self.page_columns
    }

    /// The rows without what they read.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records[..self.rows]
    }

    /// The rows, decodes first.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = StepRow<'_>> + Clone {
        self.records().iter().enumerate().map(|(index, record)| StepRow {
            request: record.request,
            kind: if index < self.decodes { RowKind::Decode } else { RowKind::Prefill },
            tokens: record.tokens.of(&self.tokens),
            first_position: record.first_position,
            kv_length: record.first_position + record.tokens.count,
            pages: &record.pages[..record.columns as usize],
            samples: record.samples,
            sampling: record.sampling,
            targets: record.targets.of(&self.targets),
        })
    }

    /// The same buffers, empty, for step `number`.
    pub(crate) fn restarted(mut self, number: u64) -> Self {
        self.tokens.clear();
        self.targets.clear();
        Self { number, rows: 0, decodes: 0, samples: 0, page_columns: 0, ..self }
    }

    /// Adds a row of `request`'s next tokens, at most `count`, and says how many they are.
    pub(crate) fn push(&mut self, request: &Request, pages: &Pages, count: u32) -> u32 {
        let pending = request.pending(count);
        let count = pending.len() as u32;
        let columns = pages_for(request.cached() + count);
        if request.kind() == RowKind::Decode {
            debug_assert_eq!(self.prefills(), 0, "decodes come before prefills");
            self.decodes += 1;
        }
        let samples = request.samples_after(count);
        self.samples += usize::from(samples);
        self.page_columns = self.page_columns.max(columns);
        let (tokens, targets) =
            (Part::append(&mut self.tokens, pending), Part::append(&mut self.targets, request.targets(count)));
        let (id, sampling, first_position) = (request.id(), request.sampling(), request.cached());
        match self.records.get_mut(self.rows) {
            Some(record) => {
                // A decode has the row that it had in the step before, as a rule: nothing is counted up or down then.
                if !Arc::ptr_eq(&record.pages, pages.list()) {
                    record.pages = Arc::clone(pages.list());
                }
                record.request = id;
                record.sampling = sampling;
                record.first_position = first_position;
                record.tokens = tokens;
                record.targets = targets;
                record.columns = columns;
                record.samples = samples;
            }
            None => {
                let pages = Arc::clone(pages.list());
                self.records.push(Record {
                    request: id,
                    sampling,
                    first_position,
                    tokens,
                    targets,
                    pages,
                    columns,
                    samples,
                });
            }
        }
        self.rows += 1;
        count
    }
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

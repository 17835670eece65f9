//! A model that is only a hash, on a device that is only a paged array: what a scheduler's steps are judged by.
//!
//! The next token is a hash of all tokens before it, so a request that reads one foreign, stale or missing token goes
//! astray. The device reads every earlier token through the row's page table, as attention does.

use std::collections::HashMap;

use gridpoint_engine::{
    Event, FinishReason, FinishedRequest, NewRequest, PAGE_TOKENS, RequestId, RowKind, RowOutput, Sampled, Scheduler,
    Step,
};

/// Extends the hash of a prefix by a token (the 64-bit mixer of splitmix64).
fn extend(hash: u64, token: u32) -> u64 {
    let mixed = (hash ^ u64::from(token)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The token after a prefix; the seed takes part as sampling would.
fn next_token(hash: u64, seed: u64, vocabulary: u32) -> u32 {
    ((hash ^ seed).rotate_left(17) % u64::from(vocabulary)) as u32
}

/// "Log-probability" of `token` after a prefix.
fn logprob(hash: u64, token: u32) -> f32 {
    -((extend(hash, token) % 1000) as f32) / 64.0
}

/// What `new` comes to by itself, worked out in the plainest way.
pub(crate) fn alone(new: &NewRequest, max_sequence_length: u32, vocabulary: u32) -> FinishedRequest {
    let room = max_sequence_length as usize - new.prompt.len();
    let max_new_tokens = room.min(new.max_new_tokens as usize);
    let mut hash = extend(0, new.prompt[0]);
    let mut logprobs = gridpoint_engine::Logprobs { prompt: vec![None], tokens: Vec::new() };
    for &token in &new.prompt[1..] {
        logprobs.prompt.push(Some(logprob(hash, token)));
        hash = extend(hash, token);
    }
    let (mut tokens, mut reason) = (Vec::new(), FinishReason::Length);
    while tokens.len() < max_new_tokens && reason == FinishReason::Length {
        let token = next_token(hash, new.sampling.seed, vocabulary);
        tokens.push(token);
        logprobs.tokens.push(logprob(hash, token));
        hash = extend(hash, token);
        if new.stop_tokens.contains(&token) {
            reason = FinishReason::Stop;
        }
    }
    FinishedRequest {
        prompt: new.prompt.clone(),
        tokens,
        logprobs: new.logprobs.then_some(logprobs),
        max_new_tokens: max_new_tokens as u32,
        reason,
    }
}

/// The device: one array of tokens, a page after the other.
pub(crate) struct Device {
    cache: Vec<u32>,
    dummy: u32,
    vocabulary: u32,
    /// Tokens cached so far of each request, to see that positions are contiguous.
    cached: HashMap<RequestId, u32>,
}

/// A row's results, owned.
pub(crate) struct Computed {
    sampled: Option<Sampled>,
    prompt_logprobs: Vec<f32>,
}

impl Device {
    pub(crate) fn new(scheduler: &Scheduler) -> Self {
        let dummy = scheduler.pool().dummy();
        // No token has this id: reading what nobody wrote leads astray.
        let cache = vec![u32::MAX; ((dummy + 1) * PAGE_TOKENS) as usize];
        Self { cache, dummy, vocabulary: scheduler.limits().vocabulary, cached: HashMap::new() }
    }

    /// Computes `step` and checks what every row promises. A step computed and not committed leaves `cached` as it was.
    pub(crate) fn compute(&mut self, step: &Step) -> Vec<Computed> {
        assert_eq!(step.rows().len(), step.decodes() + step.prefills());
        assert_eq!(step.tokens().len(), step.rows().map(|row| row.tokens.len()).sum::<usize>());
        step.rows()
            .enumerate()
            .map(|(index, row)| {
                let decode = index < step.decodes();
                assert_eq!(row.kind, if decode { RowKind::Decode } else { RowKind::Prefill }, "row {index}");
                assert!(if decode { row.tokens.len() == 1 } else { !row.tokens.is_empty() }, "row {index}");
                let cached = self.cached.get(&row.request).copied().unwrap_or(0);
                assert_eq!(row.first_position, cached, "row {index}: positions are contiguous");
                assert_eq!(row.kv_length, cached + row.tokens.len() as u32, "row {index}");
                assert_eq!(row.pages.len(), row.kv_length.div_ceil(PAGE_TOKENS) as usize, "row {index}");
                assert!(row.pages.iter().all(|&page| page < self.dummy), "row {index} writes the dummy page");
                let slot = |position: u32| {
                    (row.pages[(position / PAGE_TOKENS) as usize] * PAGE_TOKENS + position % PAGE_TOKENS) as usize
                };
                let mut hash = (0..cached).fold(0, |hash, position| extend(hash, self.cache[slot(position)]));
                let mut prompt_logprobs = Vec::new();
                for (offset, &token) in row.tokens.iter().enumerate() {
                    self.cache[slot(cached + offset as u32)] = token;
                    hash = extend(hash, token);
                    prompt_logprobs.extend(row.targets.get(offset).map(|&target| logprob(hash, target)));
                }
                assert_eq!(row.sampled_position(), row.kv_length);
                let sampled = row.samples.then(|| {
                    let token = next_token(hash, row.sampling.seed, self.vocabulary);
                    Sampled { token, logprob: logprob(hash, token) }
                });
                Computed { sampled, prompt_logprobs }
            })
            .collect()
    }

    /// Loses everything that was cached.
    #[allow(dead_code, reason = "each test target uses some of it")]
    pub(crate) fn forget(&mut self) {
        self.cache.fill(u32::MAX);
        self.cached.clear();
    }

    /// Computes and commits `step`.
    pub(crate) fn run(&mut self, scheduler: &mut Scheduler, step: Step) -> Vec<Event> {
        let computed = self.compute(&step);
        self.cached.extend(step.rows().map(|row| (row.request, row.kv_length)));
        scheduler.commit(step, &outputs(&computed)).expect("the step planned last, with outputs that fit").to_vec()
    }
}

/// The view of `computed` that a commit takes.
pub(crate) fn outputs(computed: &[Computed]) -> Vec<RowOutput<'_>> {
    computed.iter().map(|row| RowOutput { sampled: row.sampled, prompt_logprobs: &row.prompt_logprobs }).collect()
}

/// A step in a line: `D 0@5 | P 1[0..4]+`, where `+` marks the prefills that sample.
pub(crate) fn render(step: &Step) -> String {
    let rows = step.rows().map(|row| {
        let (id, first, end) = (row.request.0, row.first_position, row.kv_length);
        match row.kind {
            RowKind::Decode => format!("D {id}@{first}"),
            RowKind::Prefill => format!("P {id}[{first}..{end}]{}", if row.samples { "+" } else { "" }),
        }
    });
    rows.collect::<Vec<_>>().join(" | ")
}

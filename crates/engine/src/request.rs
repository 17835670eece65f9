//! A request: what is asked for, how far it has come, and what came of it.

use std::fmt;

use crate::error::{IntegrityError, RequestError, SamplingError};
use crate::step::{RowKind, Sampled};

/// Names a request for as long as its scheduler lives; given out in order of arrival and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(
    /// The count of requests taken before it.
    pub u64,
);

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}`", self.0)
    }
}

/// How the next token is drawn from the logits. The draw depends on these and on the token's position alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParameters {
    /// Divides the logits; 0 takes the largest logit (greedy) and makes the rest irrelevant.
    pub temperature: f32,
    /// Keeps the largest `top_k` logits; 0 keeps all.
    pub top_k: u32,
    /// Keeps the most probable tokens until their sum reaches `top_p`, in (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Key of the draws.
    pub seed: u64,
}

impl SamplingParameters {
    /// The smallest temperature above 0: its reciprocal times any logit a model produces is far inside float32.
    pub const MIN_TEMPERATURE: f32 = 1e-5;

    /// The largest logit, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };

    /// Whether each parameter is in its range.
    ///
    /// # Errors
    /// The first that is not, NaN included.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let Self { temperature, top_k: _, top_p, seed: _ } = *self;
        if !(temperature == 0.0 || (temperature.is_finite() && temperature >= Self::MIN_TEMPERATURE)) {
            return Err(SamplingError::Temperature { value: temperature });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(SamplingError::TopP { value: top_p });
        }
        Ok(())
    }
}

impl Default for SamplingParameters {
    fn default() -> Self {
        Self::GREEDY
    }
}

/// A request as its user states it. Nothing is checked before [`crate::Scheduler::add`].
#[derive(Debug, Clone, PartialEq)]
pub struct NewRequest {
    /// Token ids to continue, at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to generate. More than the longest sequence has room for are cut to what fits, with a warning. 0 is only
    /// allowed with `logprobs`: the prompt is scored and nothing generated.
    pub max_new_tokens: u32,
    /// How tokens are drawn.
    pub sampling: SamplingParameters,
    /// Whether log-probabilities of the prompt and of the generated tokens are kept.
    pub logprobs: bool,
    /// Token ids that end the request. The one that does is kept in its tokens.
    pub stop_tokens: Vec<u32>,
}

impl NewRequest {
    /// A greedy request without stop tokens or log-probabilities.
    #[must_use]
    pub fn greedy(prompt: Vec<u32>, max_new_tokens: u32) -> Self {
        Self { prompt, max_new_tokens, sampling: SamplingParameters::GREEDY, logprobs: false, stop_tokens: Vec::new() }
    }

    /// What can be known of the request without an engine, for sequences of at most `max_sequence_length` tokens with ids
    /// below `vocabulary`: an engine that has the pages takes what passes.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub fn validate(&self, max_sequence_length: u32, vocabulary: u32) -> Result<(), RequestError> {
        self.sampling.validate()?;
        if self.prompt.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        if self.max_new_tokens == 0 && !self.logprobs {
            return Err(RequestError::NothingToDo);
        }
        let (length, longest) = (self.prompt.len(), max_sequence_length.saturating_sub(self.max_new_tokens.min(1)));
        if length > longest as usize {
            return Err(RequestError::PromptTooLong { length, longest, max_sequence_length });
        }
        match self.prompt.iter().enumerate().find(|&(_, &token)| token >= vocabulary) {
            Some((position, &token)) => Err(RequestError::TokenOutsideVocabulary { token, position, vocabulary }),
            None => Ok(()),
        }
    }
}

/// Why a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// It has as many tokens as it may have.
    Length,
    /// It sampled one of its stop tokens.
    Stop,
    /// Its user took it back.
    Cancelled,
    /// The model's logits for it held nothing but NaN and infinities, so there is no next token. Other requests go on.
    Failed,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestStatus {
    /// In line for a slot and pages: for the first time, or again after the kv cache was lost.
    Waiting,
    /// Admitted.
    Running,
    /// Ended; its result waits to be taken.
    Finished(FinishReason),
}

/// Natural logarithms of probabilities, before temperature.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Logprobs {
    /// One for each prompt token; `None` for the first, which nothing predicts. Shorter than the prompt if the request was
    /// cancelled inside it.
    pub prompt: Vec<Option<f32>>,
    /// One for each generated token.
    pub tokens: Vec<f32>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedRequest {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The generated tokens, with the stop token where one ended it.
    pub tokens: Vec<u32>,
    /// Log-probabilities, where they were asked for.
    pub logprobs: Option<Logprobs>,
    /// The limit on new tokens that held: what was asked for, or less where the longest sequence had no room for it.
    pub max_new_tokens: u32,
    /// Why it ended.
    pub reason: FinishReason,
}

/// A request that was taken and has not ended.
///
/// Its counts are ordered `cached <= known <= limit` and `prompt <= prefill <= known`; everything else is derived from them.
#[derive(Debug)]
pub(crate) struct Request {
    id: RequestId,
    /// The prompt, then what was generated: `known` tokens.
    tokens: Vec<u32>,
    prompt: u32,
    /// Tokens that are computed as a prompt: the prompt, and what had been generated when the kv cache was lost.
    prefill: u32,
    cached: u32,
    limit: u32,
    sampling: SamplingParameters,
    stop_tokens: Box<[u32]>,
    // In a box: steps walk over all running requests, and few have any.
    logprobs: Option<Box<Logprobs>>,
    /// Number of the last step that computed a token of it, 0 before.
    served: u64,
}

impl Request {
    /// Takes `new` on with at most `limit` tokens, prompt included. The caller has checked that the prompt is not empty and
    /// that `prompt <= limit`.
    pub(crate) fn new(id: RequestId, new: NewRequest, limit: u32) -> Self {
        let NewRequest { prompt: tokens, max_new_tokens: _, sampling, logprobs, stop_tokens } = new;
        let prompt = tokens.len() as u32;
        let logprobs = logprobs.then(|| Box::new(Logprobs { prompt: vec![None], tokens: Vec::new() }));
        let stop_tokens = stop_tokens.into_boxed_slice();
        let prefill = prompt;
        let request =
            Self { id, tokens, prompt, prefill, cached: 0, limit, sampling, stop_tokens, logprobs, served: 0 };
        debug_assert_eq!(request.check_counts(), Ok(()));
        request
    }

    /// Takes the memory of all that it may become, so that its steps take none. It is called where the request gets its pages, so that
    /// at most as many tokens are provided for as the kv cache holds, however long the line is.
    pub(crate) fn reserve(&mut self) {
        let missing = self.limit.saturating_sub(self.known()) as usize;
        self.tokens.reserve_exact(missing);
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.prompt.reserve_exact((self.prompt as usize).saturating_sub(logprobs.prompt.len()));
            logprobs.tokens.reserve_exact(missing);
        }
    }

    pub(crate) fn id(&self) -> RequestId {
        self.id
    }

    pub(crate) fn sampling(&self) -> SamplingParameters {
        self.sampling
    }

    /// Tokens it may reach, prompt included: what its pages are reserved for.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Tokens in the kv cache: the position of the first token to compute.
    pub(crate) fn cached(&self) -> u32 {
        self.cached
    }

    pub(crate) fn served(&self) -> u64 {
        self.served
    }

    /// A request whose prompt is not wholly cached is prefilled, one token or many; and one whose cache was lost, until it is where it was.
    pub(crate) fn kind(&self) -> RowKind {
        if self.cached < self.prefill { RowKind::Prefill } else { RowKind::Decode }
    }

    /// What was cached is lost and has to be computed again, as a prompt of all tokens that are known. Log-probabilities of a prompt that was
    /// cut short are counted anew with it; those of a whole prompt stand and are not asked for again.
    pub(crate) fn forget_cache(&mut self) {
        (self.cached, self.prefill) = (0, self.known());
        if let Some(logprobs) = self.logprobs.as_mut().filter(|logprobs| logprobs.prompt.len() < self.prompt as usize) {
            logprobs.prompt.truncate(1);
        }
        debug_assert_eq!(self.check_counts(), Ok(()));
    }

    /// The next tokens to compute, at most `count`.
    pub(crate) fn pending(&self, count: u32) -> &[u32] {
        let pending = &self.tokens[self.cached as usize..];
        &pending[..pending.len().min(count as usize)]
    }

    /// Whether computing the next `count` tokens yields a new one: they reach the end of what is known and there is room.
    pub(crate) fn samples_after(&self, count: u32) -> bool {
        self.cached + count == self.known() && self.known() < self.limit
    }

    /// The prompt tokens that the next `count` tokens predict, where log-probabilities are kept: target `i` is the token
    /// after pending token `i`. The last prompt token predicts none of them, and a prompt whose log-probabilities are all there has none.
    pub(crate) fn targets(&self, count: u32) -> &[u32] {
        if self.logprobs.as_ref().is_none_or(|logprobs| logprobs.prompt.len() >= self.prompt as usize) {
            return &[];
        }
        let start = (self.cached + 1).min(self.prompt);
        let end = (self.cached + 1 + count).min(self.prompt);
        &self.tokens[start as usize..end as usize]
    }

    /// `count` tokens more are cached after step `step`; what they yielded is appended. The reason if that ends it. A yield of
    /// NaN ends it without being appended: no distribution stands behind it.
    pub(crate) fn advance(
        &mut self,
        count: u32,
        step: u64,
        sampled: Option<Sampled>,
        prompt_logprobs: &[f32],
    ) -> Option<FinishReason> {
        self.cached += count;
        self.served = step;
        if sampled.is_some_and(|sampled| sampled.logprob.is_nan()) || prompt_logprobs.iter().any(|one| one.is_nan()) {
            return Some(FinishReason::Failed);
        }
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.prompt.extend(prompt_logprobs.iter().map(|&logprob| Some(logprob)));
            logprobs.tokens.extend(sampled.map(|sampled| sampled.logprob));
        }
        self.tokens.extend(sampled.map(|sampled| sampled.token));
        debug_assert_eq!(self.check_counts(), Ok(()));
        if sampled.is_some_and(|sampled| self.stop_tokens.contains(&sampled.token)) {
            return Some(FinishReason::Stop);
        }
        let prompt_done = self.cached >= self.prompt;
        (prompt_done && self.known() == self.limit).then_some(FinishReason::Length)
    }

    /// Its result.
    pub(crate) fn finish(self, reason: FinishReason) -> FinishedRequest {
        let Self { tokens: mut prompt, prompt: length, limit, logprobs, .. } = self;
        let mut logprobs = logprobs.map(|logprobs| *logprobs);
        let tokens = prompt.split_off(length as usize);
        // A result may wait for long: it keeps no memory of what the request did not become.
        prompt.shrink_to_fit();
        if let Some(logprobs) = &mut logprobs {
            logprobs.prompt.shrink_to_fit();
            logprobs.tokens.shrink_to_fit();
        }
        FinishedRequest { prompt, tokens, logprobs, max_new_tokens: limit - length, reason }
    }

    /// The one place that states how the counts are ordered.
    pub(crate) fn check_counts(&self) -> Result<(), IntegrityError> {
        let Self { id: request, prompt, prefill, cached, limit, .. } = *self;
        let known = self.known();
        let ordered = 1 <= prompt && prompt <= prefill && prefill <= known && cached <= known && known <= limit;
        if ordered { Ok(()) } else { Err(IntegrityError::Counts { request, cached, known, limit }) }
    }

    fn known(&self) -> u32 {
        self.tokens.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f32, top_p: f32) -> Result<(), SamplingError> {
        SamplingParameters { temperature, top_p, ..SamplingParameters::GREEDY }.validate()
    }

    #[test]
    fn sampling_parameters_in_range_pass() {
        for temperature in [0.0, -0.0, 1e-5, 1.0, f32::MAX] {
            assert_eq!(sampling(temperature, 1.0), Ok(()), "temperature {temperature}");
        }
        for top_p in [f32::MIN_POSITIVE, 0.5, 1.0] {
            assert_eq!(sampling(1.0, top_p), Ok(()), "top_p {top_p}");
        }
    }

    #[test]
    fn sampling_parameters_out_of_range_are_named() {
        for (temperature, top_p, says) in [
            (f32::NAN, 1.0, "temperature is `NaN`"),
            (f32::INFINITY, 1.0, "temperature is `inf`"),
            (-1.0, 1.0, "temperature is `-1`"),
            (1e-6, 1.0, "temperature is `0.000001`: it must be 0 (greedy) or a finite number of at least 0.00001"),
            (1.0, 0.0, "top_p is `0`: it must be above 0 and at most 1 (1 = off)"),
            (1.0, 1.5, "top_p is `1.5`"),
            (1.0, -0.5, "top_p is `-0.5`"),
            (0.0, f32::NAN, "top_p is `NaN`"),
        ] {
            let message = sampling(temperature, top_p).unwrap_err().to_string();
            assert!(message.starts_with(says), "{message}");
        }
    }

    #[test]
    fn planted_counts_out_of_order_are_found() {
        let request = || Request::new(RequestId(3), NewRequest::greedy(vec![1, 2], 2), 4);
        assert_eq!(request().check_counts(), Ok(()));
        let corruptions: [fn(&mut Request); 3] = [|r| r.cached = 3, |r| r.limit = 1, |r| r.tokens.truncate(1)];
        for corrupt in corruptions {
            let mut request = request();
            corrupt(&mut request);
            assert!(matches!(request.check_counts(), Err(IntegrityError::Counts { request: RequestId(3), .. })));
        }
    }

    /// The cache is lost twice: inside the prompt, whose log-probabilities are then counted anew, and behind it, where they stand.
    #[test]
    fn a_lost_cache_is_computed_again_and_nothing_is_told_twice() {
        let new = NewRequest { logprobs: true, ..NewRequest::greedy(vec![10, 11, 12], 3) };
        let mut request = Request::new(RequestId(0), new, 6);
        assert_eq!(request.advance(1, 1, None, &[-1.0]), None);
        request.forget_cache();
        assert_eq!((request.pending(9), request.targets(9)), (&[10, 11, 12][..], &[11, 12][..]));
        assert_eq!(request.advance(3, 2, Some(Sampled { token: 13, logprob: -3.0 }), &[-1.0, -2.0]), None);
        assert_eq!(request.kind(), RowKind::Decode);
        request.forget_cache();
        assert_eq!(request.kind(), RowKind::Prefill);
        assert_eq!((request.pending(9), request.targets(9)), (&[10, 11, 12, 13][..], &[][..]));
        assert!(!request.samples_after(3));
        // Once more in the middle of it.
        assert_eq!(request.advance(3, 3, None, &[]), None);
        assert_eq!(request.kind(), RowKind::Prefill, "what was generated is part of the prompt now");
        request.forget_cache();
        assert!(request.samples_after(4));
        assert_eq!(request.advance(4, 4, Some(Sampled { token: 14, logprob: -4.0 }), &[]), None);
        assert_eq!((request.kind(), request.pending(9)), (RowKind::Decode, &[14][..]));
        assert_eq!(request.advance(1, 5, Some(Sampled { token: 15, logprob: -5.0 }), &[]), Some(FinishReason::Length));
        let finished = request.finish(FinishReason::Length);
        let logprobs = Logprobs { prompt: vec![None, Some(-1.0), Some(-2.0)], tokens: vec![-3.0, -4.0, -5.0] };
        assert_eq!((finished.tokens, finished.logprobs), (vec![13, 14, 15], Some(logprobs)));
    }

    #[test]
    fn targets_follow_the_pending_tokens_inside_the_prompt() {
        let new = NewRequest { logprobs: true, ..NewRequest::greedy(vec![10, 11, 12], 2) };
        let mut request = Request::new(RequestId(0), new, 5);
        assert_eq!(request.targets(2), &[11, 12]);
        assert_eq!(request.targets(3), &[11, 12]);
        assert_eq!(request.advance(1, 1, None, &[-1.0]), None);
        assert_eq!((request.pending(9), request.targets(1)), (&[11, 12][..], &[12][..]));
        assert!(!request.samples_after(1));
        assert!(request.samples_after(2));
        assert_eq!(request.advance(2, 2, Some(Sampled { token: 13, logprob: -3.0 }), &[-2.0]), None);
        assert_eq!((request.kind(), request.pending(9), request.targets(1)), (RowKind::Decode, &[13][..], &[][..]));
        assert_eq!(request.advance(1, 3, Some(Sampled { token: 14, logprob: -4.0 }), &[]), Some(FinishReason::Length));
        let finished = request.finish(FinishReason::Length);
        let logprobs = Logprobs { prompt: vec![None, Some(-1.0), Some(-2.0)], tokens: vec![-3.0, -4.0] };
        assert_eq!((finished.tokens, finished.logprobs), (vec![13, 14], Some(logprobs)));
    }
}

//! Who computes what in the next step, and what that changes. Pure: no device, no clock, no randomness.

use std::borrow::Borrow;
use std::collections::{BTreeMap, VecDeque};

use crate::error::{IntegrityError, LimitsError, RequestError, StepError};
use crate::pages::{PagePool, Pages, pages_for};
use crate::request::{FinishReason, FinishedRequest, NewRequest, Request, RequestId, RequestStatus};
use crate::step::{Event, RowKind, RowOutput, Sampled, Step};

/// What bounds a scheduler's steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Most requests running at once, and so most rows of a step.
    pub max_requests: u32,
    /// Most tokens of a step.
    pub step_budget: u32,
    /// Most tokens of a request, prompt and new ones together.
    pub max_sequence_length: u32,
    /// Number of token ids.
    pub vocabulary: u32,
    /// Pages of the kv cache, the dummy page among them.
    pub pages: u32,
}

impl SchedulerLimits {
    fn validate(&self) -> Result<(), LimitsError> {
        let Self { max_requests, step_budget, max_sequence_length, vocabulary, pages: _ } = *self;
        let limits = [
            ("max_requests", max_requests),
            ("step_budget", step_budget),
            ("max_sequence_length", max_sequence_length),
            ("vocabulary", vocabulary),
        ];
        match limits.into_iter().find(|&(_, value)| value == 0) {
            Some((name, _)) => Err(LimitsError::Zero { name }),
            None => Ok(()),
        }
    }
}

/// A request with a slot and its pages.
#[derive(Debug)]
struct Running {
    request: Request,
    pages: Pages,
    /// Set within a commit, which takes those out that ended, all at once: many may end in one step.
    ended: Option<FinishReason>,
}

impl Running {
    /// Whether it is past its prompt.
    fn decodes(&self) -> bool {
        self.request.kind() == RowKind::Decode
    }
}

/// Requests in line, running and finished, and the pages between them. The crate's front page states its rules.
///
/// Admission is first come, first served, so both the line and the running requests stand in order of their ids.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    pool: PagePool,
    waiting: VecDeque<Request>,
    running: Vec<Running>,
    finished: BTreeMap<RequestId, FinishedRequest>,
    next_id: u64,
    /// Number of the step planned last: the only one that can be committed, and that once, since a commit consumes it.
    step: u64,
    // What follows is memory that goes from step to step, so that a step allocates nothing.
    /// Buffers of the step committed last.
    spare: Step,
    /// Indices of the running decodes that a step serves, where it cannot serve all.
    chosen: Vec<usize>,
    /// What happened in the step committed last.
    events: Vec<Event>,
}

impl Scheduler {
    /// A scheduler without requests.
    ///
    /// # Errors
    /// A limit of 0, or fewer than 2 pages.
    pub fn new(limits: SchedulerLimits) -> Result<Self, LimitsError> {
        limits.validate()?;
        Ok(Self {
            limits,
            pool: PagePool::new(limits.pages)?,
            waiting: VecDeque::new(),
            running: Vec::new(),
            finished: BTreeMap::new(),
            next_id: 0,
            step: 0,
            spare: Step::default(),
            chosen: Vec::new(),
            events: Vec::new(),
        })
    }

    /// Puts a request at the end of the line. It may be called at any time, a step under way included.
    ///
    /// New tokens beyond the longest sequence are cut to what fits, with a warning;
    /// [`FinishedRequest::max_new_tokens`] holds the number that held.
    ///
    /// # Errors
    /// What is wrong with the request; nothing has changed then.
    pub fn add(&mut self, new: NewRequest) -> Result<RequestId, RequestError> {
        let limit = self.check(&new)?;
        let id = RequestId(self.next_id);
        let max_new_tokens = limit - new.prompt.len() as u32;
        if max_new_tokens < new.max_new_tokens {
            let (asked, longest) = (new.max_new_tokens, self.limits.max_sequence_length);
            tracing::warn!(
                "request {id} asks for `{asked}` new tokens: `{max_new_tokens}` fit the longest sequence of `{longest}`"
            );
        }
        self.waiting.push_back(Request::new(id, new, limit));
        self.next_id += 1;
        Ok(id)
    }

    /// The tokens that `new` may reach, prompt included.
    fn check(&self, new: &NewRequest) -> Result<u32, RequestError> {
        let SchedulerLimits { max_sequence_length, vocabulary, .. } = self.limits;
        new.validate(max_sequence_length, vocabulary)?;
        let length = new.prompt.len() as u32;
        let limit = length.saturating_add(new.max_new_tokens).min(max_sequence_length);
        let (needed, capacity) = (pages_for(limit), self.pool.capacity());
        if needed > capacity {
            return Err(RequestError::TooManyPages { needed, capacity, max_new_tokens: limit - length });
        }
        Ok(limit)
    }

    /// Plans the next step under the step budget; `None` exactly if no request is waiting or running.
    ///
    /// Called again without a commit between, it drops the step planned before and plans anew.
    pub fn next_step(&mut self) -> Option<Step> {
        self.next_step_within(self.limits.step_budget)
    }

    /// As [`Scheduler::next_step`], with at most `budget` tokens, taken into `[1, step_budget]`.
    ///
    /// Under a constant budget there are never more decodes than it: a request becomes a decode by a prefill that took a
    /// token of what the decodes left. Where the budget was lowered and there are, those served longest ago are served.
    pub fn next_step_within(&mut self, budget: u32) -> Option<Step> {
        self.step += 1;
        let mut step = std::mem::take(&mut self.spare).restarted(self.step);
        let mut left = budget.clamp(1, self.limits.step_budget);
        if self.running.len() <= left as usize {
            for Running { request, pages, .. } in self.running.iter().filter(|running| running.decodes()) {
                left -= step.push(request, pages, 1);
            }
        } else {
            self.choose_decodes(left);
            for &index in &self.chosen {
                let Running { request, pages, .. } = &self.running[index];
                left -= step.push(request, pages, 1);
            }
        }
        if step.decodes() < self.running.len() {
            for Running { request, pages, .. } in self.running.iter().filter(|running| !running.decodes()) {
                if left == 0 {
                    break;
                }
                left -= step.push(request, pages, left);
            }
        }
        while left > 0
            && let Some(Running { request, pages, .. }) = self.admit()
        {
            left -= step.push(request, pages, left);
        }
        if step.tokens().is_empty() {
            self.reuse(step);
            return None;
        }
        Some(step)
    }

    /// Sets `chosen` to the running decodes to serve, at most `count`: least recently served first, ties to the older.
    fn choose_decodes(&mut self, count: u32) {
        let Self { running, chosen, .. } = self;
        let decodes = running.iter().enumerate().filter(|(_, running)| running.decodes());
        chosen.clear();
        chosen.extend(decodes.map(|(index, _)| index));
        if chosen.len() > count as usize {
            // The running requests stand in order of age. A stable sort would take memory.
            chosen.sort_unstable_by_key(|&index| (running[index].request.served(), index));
            chosen.truncate(count as usize);
            chosen.sort_unstable();
        }
    }

    /// Takes back the buffers of a step that will not be committed or was.
    pub(crate) fn reuse(&mut self, step: Step) {
        self.spare = step;
    }

    /// Gives the head of the line a slot and its pages, if both are there.
    fn admit(&mut self) -> Option<&Running> {
        if self.running.len() >= self.limits.max_requests as usize {
            return None;
        }
        let pages = self.pool.allocate(pages_for(self.waiting.front()?.limit()))?;
        let mut request = self.waiting.pop_front()?;
        request.reserve();
        self.running.push(Running { request, pages, ended: None });
        self.running.last()
    }

    /// Makes `step` true: its tokens are cached, what it sampled is appended, requests that ended give up slot and pages.
    /// `outputs` has one entry a row; events come in the order of the rows, and are kept until the next commit. Rows of requests
    /// cancelled since the step was planned are dropped.
    ///
    /// # Errors
    /// A step other than the one planned last, or outputs that do not fit it; nothing has changed then.
    pub fn commit<'a>(
        &mut self,
        step: Step,
        outputs: impl IntoIterator<Item: Borrow<RowOutput<'a>>, IntoIter: ExactSizeIterator + Clone>,
    ) -> Result<&[Event], StepError> {
        let made_true = self.make_true(&step, outputs.into_iter());
        self.reuse(step);
        made_true.map(|()| self.events())
    }

    /// What happened in the step committed last.
    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    /// The work of [`Scheduler::commit`], for outputs that borrow from the step. Whoever calls it gives the step back next, so that none
    /// is committed twice.
    pub(crate) fn make_true<'a>(
        &mut self,
        step: &Step,
        outputs: impl ExactSizeIterator<Item: Borrow<RowOutput<'a>>> + Clone,
    ) -> Result<(), StepError> {
        self.check_outputs(step, outputs.clone())?;
        self.events.clear();
        self.events.reserve(2 * step.records().len());
        // The rows of one kind and the running requests stand in the same order: the next one is the likely one.
        let (mut likely, mut ended) = (0, false);
        for (row, output) in step.records().iter().zip(outputs) {
            let (request, output) = (row.request, output.borrow());
            let Some(index) = self.find_running_from(likely, request) else { continue };
            let running = &mut self.running[index];
            let (sampled, prompt_logprobs) = (output.sampled, output.prompt_logprobs);
            let reason = running.request.advance(row.token_count(), step.number(), sampled, prompt_logprobs);
            let token = output.sampled.filter(|_| reason != Some(FinishReason::Failed));
            if let Some(Sampled { token, logprob }) = token {
                self.events.push(Event::Token { request, token, logprob });
            }
            likely = index + 1;
            if let Some(reason) = reason {
                running.ended = Some(reason);
                ended = true;
                self.events.push(Event::Finished { request, reason });
            }
        }
        if ended {
            for Running { request, pages, ended } in self.running.extract_if(.., |running| running.ended.is_some()) {
                self.pool.release(pages);
                self.finished.extend(ended.map(|reason| (request.id(), request.finish(reason))));
            }
        }
        Ok(())
    }

    fn check_outputs<'a>(
        &self,
        step: &Step,
        outputs: impl ExactSizeIterator<Item: Borrow<RowOutput<'a>>>,
    ) -> Result<(), StepError> {
        if step.number() != self.step {
            return Err(StepError::Stale { number: step.number() });
        }
        let rows = step.records().len();
        if rows != outputs.len() {
            return Err(StepError::OutputCount { rows, outputs: outputs.len() });
        }
        let vocabulary = self.limits.vocabulary;
        for (row, (planned, output)) in step.records().iter().zip(outputs).enumerate() {
            let (request, output) = (planned.request, output.borrow());
            match output.sampled {
                None if planned.samples => return Err(StepError::TokenMissing { row, request }),
                Some(_) if !planned.samples => return Err(StepError::TokenUnexpected { row, request }),
                Some(sampled) if sampled.token >= vocabulary => {
                    return Err(StepError::TokenOutsideVocabulary { row, request, token: sampled.token, vocabulary });
                }
                _ => {}
            }
            let (expected, got) = (planned.target_count(), output.prompt_logprobs.len());
            if expected != got {
                return Err(StepError::PromptLogprobCount { row, request, expected, got });
            }
        }
        Ok(())
    }

    /// Ends a request that has not ended, wherever it stands, and says whether there was one. Its result can be taken.
    ///
    /// A step under way may still write its pages: they go to others only in a step planned later, so steps must reach the
    /// device in the order they were planned.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        if let Ok(index) = self.find_running(id) {
            self.finish_running(index, FinishReason::Cancelled);
            return true;
        }
        let place = self.waiting.binary_search_by_key(&id, Request::id).ok();
        let Some(request) = place.and_then(|index| self.waiting.remove(index)) else { return false };
        self.finished.insert(id, request.finish(FinishReason::Cancelled));
        true
    }

    /// The kv cache is lost: every running request goes back to the front of the line, in order of arrival, and says how many they were. Their
    /// tokens and log-probabilities so far stand; when they run again, prompt and generated tokens are computed as one prompt, and
    /// the next token is the one that would have come. A step planned before can no longer be committed.
    pub fn forget_cache(&mut self) -> usize {
        self.step += 1;
        let running = std::mem::take(&mut self.running);
        let count = running.len();
        for Running { mut request, pages, .. } in running.into_iter().rev() {
            self.pool.release(pages);
            request.forget_cache();
            self.waiting.push_front(request);
        }
        count
    }

    /// Hands over the result of a finished request. It is kept until then, and given once.
    pub fn take(&mut self, id: RequestId) -> Option<FinishedRequest> {
        self.finished.remove(&id)
    }

    /// Where a request stands; `None` if it was never added or its result was taken.
    #[must_use]
    pub fn status(&self, id: RequestId) -> Option<RequestStatus> {
        if self.find_running(id).is_ok() {
            return Some(RequestStatus::Running);
        }
        if self.waiting.binary_search_by_key(&id, Request::id).is_ok() {
            return Some(RequestStatus::Waiting);
        }
        self.finished.get(&id).map(|finished| RequestStatus::Finished(finished.reason))
    }

    /// The limits it was made with.
    #[must_use]
    pub fn limits(&self) -> &SchedulerLimits {
        &self.limits
    }

    /// The pages and how many are free.
    #[must_use]
    pub fn pool(&self) -> &PagePool {
        &self.pool
    }

    /// Number of requests in line.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of requests running.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Every page is free or held by exactly one running request, each holds what its limit needs, counts and orders hold.
    ///
    /// # Errors
    /// The first promise found broken.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        self.pool.check_integrity()?;
        let (running, max_requests) = (self.running.len(), self.limits.max_requests);
        if running > max_requests as usize {
            return Err(IntegrityError::TooManyRunning { running, max_requests });
        }
        let mut owners: BTreeMap<u32, RequestId> = BTreeMap::new();
        for Running { request, pages, .. } in &self.running {
            let (id, held, needed) = (request.id(), pages.ids().len() as u32, pages_for(request.limit()));
            if held != needed {
                return Err(IntegrityError::WrongReservation { request: id, held, needed });
            }
            for &page in pages.ids() {
                if !self.pool.is_used(page) {
                    return Err(IntegrityError::OwnedButFree { page, request: id });
                }
                if let Some(first) = owners.insert(page, id) {
                    return Err(IntegrityError::Shared { page, first, second: id });
                }
            }
        }
        let (used, owned) = (self.pool.used(), owners.len() as u32);
        if used != owned {
            return Err(IntegrityError::UsedButNotOwned { used, owned });
        }
        let line = || self.running.iter().map(|running| &running.request).chain(&self.waiting);
        line().try_for_each(Request::check_counts)?;
        match line().zip(line().skip(1)).find(|(first, second)| first.id() >= second.id()) {
            Some((first, second)) => Err(IntegrityError::Order { first: first.id(), second: second.id() }),
            None => Ok(()),
        }
    }

    /// Where the running request stands; `likely` is looked at first.
    fn find_running_from(&self, likely: usize, id: RequestId) -> Option<usize> {
        match self.running.get(likely) {
            Some(running) if running.request.id() == id => Some(likely),
            _ => self.find_running(id).ok(),
        }
    }

    fn find_running(&self, id: RequestId) -> Result<usize, usize> {
        self.running.binary_search_by_key(&id, |running| running.request.id())
    }

    fn finish_running(&mut self, index: usize, reason: FinishReason) {
        let Running { request, pages, .. } = self.running.remove(index);
        self.pool.release(pages);
        self.finished.insert(request.id(), request.finish(reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each defect is planted in a scheduler of two running requests and one in line, and the check names it.
    #[test]
    fn the_check_finds_planted_defects() {
        let corrupted = |corrupt: fn(&mut Scheduler)| {
            let limits =
                SchedulerLimits { max_requests: 2, step_budget: 8, max_sequence_length: 128, vocabulary: 10, pages: 9 };
            let mut scheduler = Scheduler::new(limits).unwrap();
            for _ in 0..3 {
                scheduler.add(NewRequest::greedy(vec![1, 2], 100)).unwrap();
            }
            assert!(scheduler.next_step().is_some());
            assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.check_integrity()), (2, 1, Ok(())));
            corrupt(&mut scheduler);
            scheduler.check_integrity().unwrap_err()
        };
        let [first, second] = [RequestId(0), RequestId(1)];
        assert_eq!(
            corrupted(|s| s.running[1].pages = Pages::forged(vec![2, 1])),
            IntegrityError::Shared { page: 1, first, second }
        );
        assert_eq!(
            corrupted(|s| s.running[1].pages = Pages::forged(vec![2])),
            IntegrityError::WrongReservation { request: second, held: 1, needed: 2 }
        );
        assert_eq!(
            corrupted(|s| s.running[0].pages = Pages::forged(vec![0, 7])),
            IntegrityError::OwnedButFree { page: 7, request: first }
        );
        assert_eq!(corrupted(|s| drop(s.pool.allocate(1))), IntegrityError::UsedButNotOwned { used: 5, owned: 4 });
        assert_eq!(corrupted(|s| s.running.swap(0, 1)), IntegrityError::Order { first: second, second: first });
        assert_eq!(
            corrupted(|s| s.limits.max_requests = 1),
            IntegrityError::TooManyRunning { running: 2, max_requests: 1 }
        );
    }
}

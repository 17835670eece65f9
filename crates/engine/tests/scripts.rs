//! The scheduler's rules, one readable script each.

mod common;

use common::{Device, alone, outputs, render};
use gridpoint_engine::{
    Event, FinishReason, LimitsError, NewRequest, RequestError, RequestId, RequestStatus, RowOutput, Sampled,
    SamplingParameters, Scheduler, SchedulerLimits, StepError,
};

const LIMITS: SchedulerLimits =
    SchedulerLimits { max_requests: 4, step_budget: 8, max_sequence_length: 256, vocabulary: 1003, pages: 17 };

fn scheduler(limits: SchedulerLimits) -> (Scheduler, Device) {
    let scheduler = Scheduler::new(limits).unwrap();
    let device = Device::new(&scheduler);
    (scheduler, device)
}

fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|position| position * 7 % 1003).collect()
}

/// Runs until nothing is left to do and returns the steps as lines.
fn run(scheduler: &mut Scheduler, device: &mut Device) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(step) = scheduler.next_step() {
        lines.push(render(&step));
        device.run(scheduler, step);
        scheduler.check_integrity().unwrap();
    }
    lines
}

#[test]
fn one_request_is_prefilled_and_decoded() {
    let (mut scheduler, mut device) = scheduler(LIMITS);
    let new = NewRequest::greedy(prompt(5), 3);
    let id = scheduler.add(new.clone()).unwrap();
    assert_eq!(scheduler.status(id), Some(RequestStatus::Waiting));
    assert_eq!(run(&mut scheduler, &mut device), ["P 0[0..5]+", "D 0@5", "D 0@6"]);
    assert_eq!(scheduler.status(id), Some(RequestStatus::Finished(FinishReason::Length)));
    assert_eq!(scheduler.take(id), Some(alone(&new, 256, 1003)));
    assert_eq!((scheduler.take(id), scheduler.status(id)), (None, None));
}

#[test]
fn a_long_prompt_is_cut_into_chunks_of_the_budget() {
    let (mut scheduler, mut device) = scheduler(LIMITS);
    scheduler.add(NewRequest::greedy(prompt(17), 2)).unwrap();
    // The last chunk is a single token and still a prefill.
    assert_eq!(run(&mut scheduler, &mut device), ["P 0[0..8]", "P 0[8..16]", "P 0[16..17]+", "D 0@17"]);
}

#[test]
fn decodes_come_first_and_only_the_last_prefill_is_partial() {
    let (mut scheduler, mut device) = scheduler(LIMITS);
    for length in [3, 2, 9] {
        scheduler.add(NewRequest::greedy(prompt(length), 3)).unwrap();
    }
    let expected =
        ["P 0[0..3]+ | P 1[0..2]+ | P 2[0..3]", "D 0@3 | D 1@2 | P 2[3..9]+", "D 0@4 | D 1@3 | D 2@9", "D 2@10"];
    assert_eq!(run(&mut scheduler, &mut device), expected);
}

#[test]
fn the_head_of_the_line_waits_for_pages_and_blocks_those_behind_it() {
    // 3 usable pages: request 0 takes 2, request 1 needs 2, request 2 would fit.
    let (mut scheduler, mut device) = scheduler(SchedulerLimits { pages: 4, ..LIMITS });
    scheduler.add(NewRequest::greedy(prompt(2), 63)).unwrap();
    scheduler.add(NewRequest::greedy(prompt(3), 62)).unwrap();
    scheduler.add(NewRequest::greedy(prompt(1), 2)).unwrap();
    let lines = run(&mut scheduler, &mut device);
    assert_eq!(lines[0], "P 0[0..2]+");
    assert!(lines[1..63].iter().enumerate().all(|(index, line)| *line == format!("D 0@{}", index + 2)));
    assert_eq!(lines[63], "P 1[0..3]+ | P 2[0..1]+");
    assert_eq!(lines[64], "D 1@3 | D 2@1");
}

#[test]
fn max_requests_holds_back_the_line() {
    let (mut scheduler, mut device) = scheduler(SchedulerLimits { max_requests: 2, ..LIMITS });
    for new_tokens in [1, 3, 1] {
        scheduler.add(NewRequest::greedy(prompt(2), new_tokens)).unwrap();
    }
    assert_eq!(run(&mut scheduler, &mut device), ["P 0[0..2]+ | P 1[0..2]+", "D 1@2 | P 2[0..2]+", "D 1@3"]);
}

#[test]
fn requests_may_come_between_steps_and_while_one_is_under_way() {
    let (mut scheduler, mut device) = scheduler(LIMITS);
    scheduler.add(NewRequest::greedy(prompt(2), 3)).unwrap();
    let step = scheduler.next_step().unwrap();
    scheduler.add(NewRequest::greedy(prompt(2), 2)).unwrap();
    device.run(&mut scheduler, step);
    assert_eq!(run(&mut scheduler, &mut device), ["D 0@2 | P 1[0..2]+", "D 0@3 | D 1@2"]);
}

#[test]
fn a_stop_token_ends_the_request_and_is_kept() {
    let free = alone(&NewRequest::greedy(prompt(4), 10), 256, 1003);
    let stop = free.tokens[2];
    let (mut scheduler, mut device) = scheduler(LIMITS);
    let id = scheduler.add(NewRequest { stop_tokens: vec![1002, stop], ..NewRequest::greedy(prompt(4), 10) }).unwrap();
    let mut events = Vec::new();
    while let Some(step) = scheduler.next_step() {
        events.extend(device.run(&mut scheduler, step));
    }
    assert_eq!(events.last(), Some(&Event::Finished { request: id, reason: FinishReason::Stop }));
    assert!(matches!(events[events.len() - 2], Event::Token { token, .. } if token == stop));
    let finished = scheduler.take(id).unwrap();
    assert_eq!((&finished.tokens[..], finished.reason), (&free.tokens[..3], FinishReason::Stop));
}

#[test]
fn a_prompt_is_scored_across_chunks() {
    let (mut scheduler, mut device) = scheduler(SchedulerLimits { step_budget: 3, ..LIMITS });
    let new = NewRequest { logprobs: true, ..NewRequest::greedy(prompt(7), 2) };
    let id = scheduler.add(new.clone()).unwrap();
    assert_eq!(run(&mut scheduler, &mut device), ["P 0[0..3]", "P 0[3..6]", "P 0[6..7]+", "D 0@7"]);
    let finished = scheduler.take(id).unwrap();
    assert_eq!(finished.logprobs.as_ref().map(|logprobs| (logprobs.prompt.len(), logprobs.tokens.len())), Some((7, 2)));
    assert_eq!(finished, alone(&new, 256, 1003));
}

#[test]
fn a_prompt_of_the_longest_sequence_can_be_scored_without_a_new_token() {
    let (mut scheduler, mut device) = scheduler(SchedulerLimits { max_sequence_length: 8, ..LIMITS });
    let new = NewRequest { logprobs: true, ..NewRequest::greedy(prompt(8), 0) };
    let id = scheduler.add(new.clone()).unwrap();
    assert_eq!(run(&mut scheduler, &mut device), ["P 0[0..8]"]);
    assert_eq!(scheduler.take(id), Some(alone(&new, 8, 1003)));
}

#[test]
fn new_tokens_are_cut_to_the_longest_sequence() {
    let (mut scheduler, mut device) = scheduler(SchedulerLimits { max_sequence_length: 6, ..LIMITS });
    let id = scheduler.add(NewRequest::greedy(prompt(4), u32::MAX)).unwrap();
    run(&mut scheduler, &mut device);
    let finished = scheduler.take(id).unwrap();
    assert_eq!((finished.tokens.len(), finished.max_new_tokens, finished.reason), (2, 2, FinishReason::Length));
}

#[test]
fn a_bad_request_is_named_and_harms_no_other() {
    let (mut scheduler, mut device) = scheduler(SchedulerLimits { pages: 3, ..LIMITS });
    let good = NewRequest::greedy(prompt(4), 3);
    let id = scheduler.add(good.clone()).unwrap();
    let nan = SamplingParameters { temperature: f32::NAN, ..SamplingParameters::GREEDY };
    for (bad, says) in [
        (NewRequest::greedy(vec![], 3), "the prompt is empty: it must have at least 1 token"),
        (
            NewRequest::greedy(vec![5, 1003, 9999], 3),
            "prompt token `1003` at position `1` is outside the vocabulary: it must be below `1003`",
        ),
        (
            NewRequest::greedy(prompt(256), 3),
            "the prompt has `256` tokens: at most `255` leave room for a new one within the longest sequence of `256` tokens",
        ),
        (NewRequest::greedy(prompt(4), 0), "max_new_tokens is `0`: it must be at least 1, or"),
        (NewRequest::greedy(prompt(100), 29), "the request needs `3` kv pages for its prompt and `29` new tokens"),
        (NewRequest { sampling: nan, ..good.clone() }, "temperature is `NaN`: it must be 0 (greedy) or"),
    ] {
        let message = scheduler.add(bad).unwrap_err().to_string();
        assert!(message.starts_with(says), "{message}");
    }
    assert_eq!(run(&mut scheduler, &mut device).len(), 3);
    assert_eq!(scheduler.take(id), Some(alone(&good, 256, 1003)));
    assert_eq!(scheduler.add(good), Ok(RequestId(1)));
    assert!(matches!(scheduler.add(NewRequest::greedy(prompt(100), 29)), Err(RequestError::TooManyPages { .. })));
}

#[test]
fn limits_that_nothing_fits_are_refused() {
    let zero = |name| Some(LimitsError::Zero { name });
    let error = |limits| Scheduler::new(limits).err();
    assert_eq!(error(SchedulerLimits { max_requests: 0, ..LIMITS }), zero("max_requests"));
    assert_eq!(error(SchedulerLimits { step_budget: 0, ..LIMITS }), zero("step_budget"));
    assert_eq!(error(SchedulerLimits { max_sequence_length: 0, ..LIMITS }), zero("max_sequence_length"));
    assert_eq!(error(SchedulerLimits { vocabulary: 0, ..LIMITS }), zero("vocabulary"));
    assert_eq!(error(SchedulerLimits { pages: 1, ..LIMITS }), Some(LimitsError::TooFewPages { pages: 1 }));
}

#[test]
fn a_request_can_be_taken_back_anywhere() {
    let (mut scheduler, mut device) = scheduler(SchedulerLimits { max_requests: 2, ..LIMITS });
    let ids: Vec<RequestId> =
        [3, 12, 2].iter().map(|&length| scheduler.add(NewRequest::greedy(prompt(length), 4)).unwrap()).collect();
    let step = scheduler.next_step().unwrap();
    assert_eq!(render(&step), "P 0[0..3]+ | P 1[0..5]");
    device.run(&mut scheduler, step);
    let step = scheduler.next_step().unwrap();
    assert_eq!(render(&step), "D 0@3 | P 1[5..12]+");
    // Request 1 while its prefill is under way, request 2 in line.
    assert!(scheduler.cancel(ids[1]) && scheduler.cancel(ids[2]));
    assert!(!scheduler.cancel(ids[1]) && !scheduler.cancel(RequestId(99)));
    scheduler.check_integrity().unwrap();
    let events = device.run(&mut scheduler, step);
    assert!(matches!(events[..], [Event::Token { request: RequestId(0), .. }]), "{events:?}");
    for id in &ids[1..] {
        let cancelled = scheduler.take(*id).unwrap();
        assert_eq!((cancelled.tokens.len(), cancelled.reason), (0, FinishReason::Cancelled));
    }
    assert_eq!(run(&mut scheduler, &mut device), ["D 0@4", "D 0@5"]);
}

#[test]
fn a_dropped_step_is_planned_anew() {
    let (mut scheduler, mut device) = scheduler(LIMITS);
    let new = NewRequest::greedy(prompt(5), 2);
    let id = scheduler.add(new.clone()).unwrap();
    let lost = scheduler.next_step().unwrap();
    let again = scheduler.next_step().unwrap();
    assert_eq!(render(&lost), render(&again));
    let computed = device.compute(&lost);
    assert_eq!(scheduler.commit(lost, &outputs(&computed)), Err(StepError::Stale { number: 1 }));
    device.run(&mut scheduler, again);
    run(&mut scheduler, &mut device);
    assert_eq!(scheduler.take(id), Some(alone(&new, 256, 1003)));
}

#[test]
fn outputs_that_do_not_fit_the_step_change_nothing() {
    let (mut scheduler, mut device) = scheduler(LIMITS);
    let scored = NewRequest { logprobs: true, ..NewRequest::greedy(prompt(3), 2) };
    let ids = [scored.clone(), NewRequest::greedy(prompt(9), 2)].map(|new| scheduler.add(new).unwrap());
    let request = ids[0];
    let good = RowOutput { sampled: Some(Sampled { token: 1, logprob: -1.0 }), prompt_logprobs: &[-1.0, -2.0] };
    let none = RowOutput { sampled: None, prompt_logprobs: &[] };
    let outside = RowOutput { sampled: Some(Sampled { token: 1003, logprob: -1.0 }), ..good };
    for (outputs, error) in [
        (vec![good], StepError::OutputCount { rows: 2, outputs: 1 }),
        (vec![RowOutput { sampled: None, ..good }, none], StepError::TokenMissing { row: 0, request }),
        (
            vec![good, RowOutput { prompt_logprobs: &[], ..good }],
            StepError::TokenUnexpected { row: 1, request: ids[1] },
        ),
        (vec![outside, none], StepError::TokenOutsideVocabulary { row: 0, request, token: 1003, vocabulary: 1003 }),
        (
            vec![RowOutput { prompt_logprobs: &[-1.0], ..good }, none],
            StepError::PromptLogprobCount { row: 0, request, expected: 2, got: 1 },
        ),
    ] {
        let step = scheduler.next_step().unwrap();
        assert_eq!(render(&step), "P 0[0..3]+ | P 1[0..5]");
        assert_eq!(scheduler.commit(step, &outputs), Err(error));
        scheduler.check_integrity().unwrap();
    }
    run(&mut scheduler, &mut device);
    assert_eq!(scheduler.take(request), Some(alone(&scored, 256, 1003)));
}

/// Five decodes under a budget lowered to two: each is served within ceil(5 / 2) = 3 steps, least recently served first.
#[test]
fn more_decodes_than_the_budget_take_turns() {
    let (mut scheduler, mut device) = scheduler(SchedulerLimits { max_requests: 5, ..LIMITS });
    for _ in 0..5 {
        scheduler.add(NewRequest::greedy(prompt(1), 5)).unwrap();
    }
    let first = scheduler.next_step().unwrap();
    device.run(&mut scheduler, first);
    let mut lines = Vec::new();
    for _ in 0..5 {
        let step = scheduler.next_step_within(2).unwrap();
        lines.push(render(&step));
        device.run(&mut scheduler, step);
    }
    assert_eq!(lines, ["D 0@1 | D 1@1", "D 2@1 | D 3@1", "D 0@2 | D 4@1", "D 1@2 | D 2@2", "D 0@3 | D 3@2"]);
}

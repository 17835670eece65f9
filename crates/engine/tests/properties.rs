//! Whatever comes, goes and is asked for: every request gets what it would get alone, and no limit is ever crossed.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Device, alone, render};
use gridpoint_engine::{
    Event, FinishReason, FinishedRequest, NewRequest, RequestId, RequestStatus, RowKind, RowOutput, SamplingParameters,
    Scheduler, SchedulerLimits, Step, StepError, StepRow, pages_for,
};
use proptest::prelude::*;

/// One thing that happens before a step.
#[derive(Debug, Clone)]
enum Action {
    Add(NewRequest),
    /// Cancels the request of this number (modulo those added), planned step under way or not.
    Cancel {
        which: usize,
        under_way: bool,
    },
    /// Plans a step and loses it.
    Lose,
    /// Lowers the budget of the next step.
    Budget(u32),
    /// Nothing: a step passes.
    Wait,
}

fn new_request(vocabulary: u32) -> impl Strategy<Value = NewRequest> {
    let length = prop_oneof![4 => 1_usize..12, 1 => 12_usize..200];
    let prompt = length.prop_flat_map(move |length| prop::collection::vec(0..vocabulary, length));
    let new_tokens = prop_oneof![4 => 1_u32..12, 1 => 12_u32..200];
    let stop = prop::collection::vec(0..vocabulary, 0..3);
    (prompt, new_tokens, any::<u64>(), any::<bool>(), any::<bool>(), stop).prop_map(
        |(prompt, max_new_tokens, seed, logprobs, only_score, stop_tokens)| {
            let sampling = SamplingParameters { temperature: 1.0, seed, ..SamplingParameters::GREEDY };
            let max_new_tokens = if logprobs && only_score { 0 } else { max_new_tokens };
            NewRequest { prompt, max_new_tokens, sampling, logprobs, stop_tokens }
        },
    )
}

fn limits() -> impl Strategy<Value = SchedulerLimits> {
    (1_u32..7, 1_u32..48, 8_u32..260, 2_u32..12).prop_map(|(max_requests, step_budget, max_sequence_length, pages)| {
        SchedulerLimits { max_requests, step_budget, max_sequence_length, vocabulary: 50, pages }
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => new_request(50).prop_map(Action::Add),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(which, under_way)| Action::Cancel { which, under_way }),
        1 => Just(Action::Lose),
        1 => (1_u32..48).prop_map(Action::Budget),
        4 => Just(Action::Wait),
    ]
}

/// Everything a run shows.
#[derive(Debug, Default, PartialEq)]
struct Run {
    steps: Vec<String>,
    events: Vec<Event>,
    results: BTreeMap<RequestId, FinishedRequest>,
    asked: BTreeMap<RequestId, NewRequest>,
}

/// Plays `actions`, one step after each, then runs to the end, checking each step.
fn play(limits: SchedulerLimits, actions: &[Action]) -> Run {
    let mut scheduler = Scheduler::new(limits).unwrap();
    let mut device = Device::new(&scheduler);
    let mut run = Run::default();
    // Requests that have sampled a token.
    let mut decoding: BTreeSet<RequestId> = BTreeSet::new();
    // No run takes more steps than it has tokens to compute; a scheduler that stalls or spins does.
    let mut patience = actions.len() + 1;
    let mut actions = actions.iter();
    loop {
        let action = actions.next();
        let (mut budget, mut cancel) = (limits.step_budget, None);
        match action {
            Some(Action::Add(new)) => {
                let (waiting, running) = (scheduler.waiting(), scheduler.running());
                match scheduler.add(new.clone()) {
                    Ok(id) => {
                        patience += new.prompt.len() + new.max_new_tokens as usize;
                        run.asked.insert(id, new.clone());
                    }
                    Err(_) => assert_eq!((scheduler.waiting(), scheduler.running()), (waiting, running)),
                }
            }
            Some(Action::Cancel { which, under_way }) if !run.asked.is_empty() => {
                let id = RequestId((which % run.asked.len()) as u64);
                if *under_way {
                    cancel = Some(id);
                } else {
                    scheduler.cancel(id);
                }
            }
            Some(Action::Lose) => drop(scheduler.next_step()),
            Some(Action::Budget(lower)) => budget = (*lower).min(budget),
            _ => {}
        }
        let Some(step) = scheduler.next_step_within(budget) else {
            assert_eq!((scheduler.waiting(), scheduler.running()), (0, 0), "requests were left behind");
            if action.is_none() {
                break;
            }
            continue;
        };
        patience = patience.checked_sub(1).expect("the run takes more steps than it has tokens");
        check_step(&scheduler, &step, budget, &run.asked);
        run.steps.push(render(&step));
        decoding.retain(|&id| scheduler.status(id) == Some(RequestStatus::Running));
        assert!(decoding.len() <= limits.step_budget as usize, "more decodes than a whole budget serves");
        assert_eq!(step.decodes(), decoding.len().min(budget as usize), "decodes come first: {}", render(&step));
        assert!(step.rows().take(step.decodes()).all(|row| decoding.contains(&row.request)), "{}", render(&step));
        decoding.extend(step.rows().filter(|row| row.samples).map(|row| row.request));
        if let Some(id) = cancel {
            scheduler.cancel(id);
        }
        run.events.extend(device.run(&mut scheduler, step));
        scheduler.check_integrity().unwrap();
    }
    assert_eq!(scheduler.pool().used(), 0, "pages were lost");
    for &id in run.asked.keys() {
        run.results.insert(id, scheduler.take(id).expect("every request ends"));
    }
    run
}

/// Limits hold, prefills are whole but for the last, and no token of the budget is left while somebody could use it.
fn check_step(scheduler: &Scheduler, step: &Step, budget: u32, asked: &BTreeMap<RequestId, NewRequest>) {
    let limits = scheduler.limits();
    assert!(step.tokens().len() <= budget as usize, "{}", render(step));
    assert!(step.rows().len() <= limits.max_requests as usize, "{}", render(step));
    assert!(scheduler.running() <= limits.max_requests as usize);
    let prefills: Vec<_> = step.rows().filter(|row| row.kind == RowKind::Prefill).collect();
    let whole = |row: &StepRow<'_>| row.kv_length as usize == asked[&row.request].prompt.len();
    assert!(prefills.iter().rev().skip(1).all(whole), "only the last prefill may be partial: {}", render(step));
    assert!(prefills.is_sorted_by_key(|row| row.request), "{}", render(step));
    if step.tokens().len() < budget as usize {
        assert_eq!(step.rows().len(), scheduler.running(), "somebody was passed over: {}", render(step));
        assert!(prefills.iter().all(whole), "a prompt was cut for nothing: {}", render(step));
        let head = asked.iter().find(|&(&id, _)| scheduler.status(id) == Some(RequestStatus::Waiting));
        if let Some((_, head)) = head
            && scheduler.running() < limits.max_requests as usize
        {
            let limit = (head.prompt.len() as u32 + head.max_new_tokens).min(limits.max_sequence_length);
            assert!(pages_for(limit) > scheduler.pool().free(), "the head of the line fits: {}", render(step));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// The main law: chunking, company, order of arrival, cancelled neighbours, lost steps and lowered budgets do not show.
    #[test]
    fn every_request_gets_what_it_gets_alone(limits in limits(), actions in prop::collection::vec(action(), 1..40)) {
        let run = play(limits, &actions);
        for (id, new) in &run.asked {
            let (expected, got) = (alone(new, limits.max_sequence_length, limits.vocabulary), &run.results[id]);
            if got.reason == FinishReason::Cancelled {
                prop_assert!(expected.tokens.starts_with(&got.tokens), "request {} before its end", id);
            } else {
                prop_assert_eq!(&expected, got, "request {}", id);
            }
            let streamed = run.events.iter().filter_map(|event| match event {
                Event::Token { request, token, .. } if request == id => Some(*token),
                _ => None,
            });
            prop_assert_eq!(&streamed.collect::<Vec<_>>(), &got.tokens, "what was streamed is what was kept");
            let ends = run.events.iter().filter(|event| matches!(event, Event::Finished { request, .. } if request == id));
            prop_assert_eq!(ends.count(), usize::from(got.reason != FinishReason::Cancelled));
        }
    }

    /// Losing the kv cache, once or often, planned step under way or not, does not show in any result; nothing is streamed twice.
    #[test]
    fn a_lost_cache_does_not_show(
        limits in limits(),
        requests in prop::collection::vec(new_request(50), 1..8),
        losses in prop::collection::vec((0_usize..40, any::<bool>()), 1..6),
    ) {
        let mut scheduler = Scheduler::new(limits).unwrap();
        let mut device = Device::new(&scheduler);
        let asked: Vec<(RequestId, NewRequest)> =
            requests.into_iter().filter_map(|new| Some((scheduler.add(new.clone()).ok()?, new))).collect();
        let mut streamed: BTreeMap<RequestId, Vec<u32>> = BTreeMap::new();
        for number in 0.. {
            let lost = losses.iter().find(|&&(at, _)| at == number);
            let planned = if lost.is_some_and(|&(_, planned)| planned) { scheduler.next_step() } else { None };
            if lost.is_some() {
                let (running, waiting) = (scheduler.running(), scheduler.waiting());
                prop_assert_eq!(scheduler.forget_cache(), running);
                device.forget();
                prop_assert_eq!((scheduler.running(), scheduler.waiting()), (0, running + waiting));
                prop_assert_eq!(scheduler.pool().used(), 0);
                prop_assert_eq!(scheduler.check_integrity(), Ok(()));
            }
            if let Some(stale) = planned {
                let number = stale.number();
                let rows = stale.rows().len();
                let outputs = vec![RowOutput { sampled: None, prompt_logprobs: &[] }; rows];
                prop_assert_eq!(scheduler.commit(stale, &outputs), Err(StepError::Stale { number }));
            }
            let Some(step) = scheduler.next_step() else { break };
            prop_assert!(step.rows().take(step.decodes()).all(|row| row.samples), "a decode without a token");
            for event in device.run(&mut scheduler, step) {
                if let Event::Token { request, token, .. } = event {
                    streamed.entry(request).or_default().push(token);
                }
            }
            prop_assert_eq!(scheduler.check_integrity(), Ok(()));
        }
        for (id, new) in asked {
            let expected = alone(&new, limits.max_sequence_length, limits.vocabulary);
            prop_assert_eq!(streamed.remove(&id).unwrap_or_default(), expected.tokens.clone());
            prop_assert_eq!(scheduler.take(id), Some(expected), "request {}", id);
        }
    }

    /// Equal calls give equal steps, events and results.
    #[test]
    fn a_run_can_be_repeated(limits in limits(), actions in prop::collection::vec(action(), 1..20)) {
        prop_assert_eq!(play(limits, &actions), play(limits, &actions));
    }

    /// First come, first served: first tokens are computed in order of arrival.
    #[test]
    fn requests_start_in_order_of_arrival(limits in limits(), actions in prop::collection::vec(action(), 1..30)) {
        let run = play(limits, &actions);
        let started: Vec<u64> = run.steps.iter().flat_map(|line| line.split(" | ")).filter_map(|row| {
            row.strip_prefix("P ").and_then(|row| row.split_once("[0..")).and_then(|(id, _)| id.parse().ok())
        }).collect();
        prop_assert!(started.is_sorted(), "{:?}", started);
    }

    /// Under a constant budget decodes never exceed it, so each is served in every step: no decode ever waits.
    /// Under one lowered to `b` with `n` decodes, each is served within ceil(n / b) steps.
    #[test]
    fn no_decode_starves(requests in 1_u32..9, step_budget in 1_u32..9, lowered in 1_u32..9) {
        let limits = SchedulerLimits { max_requests: 8, step_budget, max_sequence_length: 128, vocabulary: 50, pages: 17 };
        let mut scheduler = Scheduler::new(limits).unwrap();
        let mut device = Device::new(&scheduler);
        for _ in 0..requests {
            scheduler.add(NewRequest::greedy(vec![1], 100)).unwrap();
        }
        let mut decoding: BTreeMap<RequestId, u64> = BTreeMap::new();
        for _ in 0..20 {
            let step = scheduler.next_step().unwrap();
            prop_assert_eq!(step.decodes(), decoding.len(), "a decode was passed over");
            let number = step.number();
            decoding.extend(step.rows().filter(|row| row.samples).map(|row| (row.request, number)));
            device.run(&mut scheduler, step);
        }
        let (decodes, budget) = (decoding.len() as u64, u64::from(lowered.min(step_budget)));
        for _ in 0..40 {
            let step = scheduler.next_step_within(lowered).unwrap();
            prop_assert_eq!(step.decodes() as u64, decodes.min(budget));
            for row in step.rows().take(step.decodes()) {
                let waited = step.number() - decoding[&row.request];
                prop_assert!(waited <= decodes.div_ceil(budget), "request {} waited {} steps", row.request, waited);
                decoding.insert(row.request, step.number());
            }
            let number = step.number();
            prop_assert!(decoding.values().all(|last| number - last < decodes.div_ceil(budget)));
            device.run(&mut scheduler, step);
        }
    }
}

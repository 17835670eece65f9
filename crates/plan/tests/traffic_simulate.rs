//! The simulation against the plainest one, step by step, and at the integer limits.

use std::collections::VecDeque;

use gridpoint_plan::StepShape;
use gridpoint_plan::traffic::{
    ArrivalRate, CostCurve, Request, Simulation, SimulationError, SimulationOptions, Trace, simulate,
};
use proptest::prelude::*;

fn trace(requests: &[Request]) -> Trace {
    let row =
        |request: &Request| format!("{},{},{}\n", request.arrival_seconds, request.input_tokens, request.output_tokens);
    let text = format!("arrival_s,input_tokens,output_tokens\n{}", requests.iter().map(row).collect::<String>());
    Trace::parse(text.as_bytes(), "t").expect("a trace")
}

/// The rules of the simulation, said once more in the plainest way: the steps, and how many until the last admission.
fn plain(requests: &[Request], options: &SimulationOptions, factor: f64, cost: &CostCurve) -> (Vec<StepShape>, usize) {
    struct Active {
        prompt: u32,
        outputs: u32,
        reserved: u64,
    }
    let fits = |request: &&Request| request.tokens() <= u64::from(options.max_sequence_length).min(options.kv_tokens);
    let arrival = |request: &Request| (request.arrival_seconds / factor * 1e12) as u128;
    let mut waiting: VecDeque<Request> = requests.iter().filter(fits).copied().collect();
    let mut active: Vec<Active> = Vec::new();
    let (mut steps, mut admitted, mut now) = (Vec::new(), 0, 0);
    while !waiting.is_empty() || !active.is_empty() {
        let decodes = active.iter().filter(|request| request.prompt == 0).count() as u32;
        let mut left = options.max_tokens - decodes;
        // First the decodes, whose requests are those with a prompt that is done.
        for request in active.iter_mut().filter(|request| request.prompt == 0) {
            request.outputs -= 1;
        }
        let mut prefills = 0;
        let mut partial = active.iter().position(|request| request.prompt > 0);
        loop {
            if let Some(index) = partial {
                let chunk = active[index].prompt.min(left);
                (active[index].prompt, left) = (active[index].prompt - chunk, left - chunk);
                prefills += 1;
                if active[index].prompt > 0 {
                    break;
                }
                // The end of a prompt yields an output.
                active[index].outputs = active[index].outputs.saturating_sub(1);
            }
            let reserved: u64 = active.iter().map(|request| request.reserved).sum();
            assert!(reserved <= options.kv_tokens && active.len() <= options.max_requests as usize);
            match waiting.front() {
                Some(next)
                    if left > 0
                        && arrival(next) <= now
                        && active.len() < options.max_requests as usize
                        && reserved + next.tokens() <= options.kv_tokens =>
                {
                    let &Request { input_tokens: prompt, output_tokens: outputs, .. } = next;
                    active.push(Active { prompt, outputs, reserved: next.tokens() });
                    waiting.pop_front();
                    admitted = steps.len() + 1;
                    partial = Some(active.len() - 1);
                }
                _ => break,
            }
        }
        let tokens = options.max_tokens - left;
        if tokens == 0 {
            now = arrival(&waiting[0]);
            continue;
        }
        steps.push(StepShape { tokens, prefills, decodes });
        now += u128::from(cost.picoseconds(tokens.into()));
        active.retain(|request| request.prompt > 0 || request.outputs > 0);
    }
    (steps, admitted)
}

fn expanded(simulation: &Simulation) -> Vec<StepShape> {
    let runs = simulation.drained_runs().iter();
    runs.flat_map(|run| std::iter::repeat_n(run.step, run.count as usize)).collect()
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let request = (prop_oneof![Just(0.0), 0.0..0.1_f64], prop_oneof![1..8_u32, 1..200_u32], 0..30_u32);
    prop::collection::vec(request, 1..40).prop_map(|requests| {
        let mut arrival_seconds = 0.0;
        let requests = requests.into_iter().map(|(gap, input_tokens, output_tokens)| {
            arrival_seconds += gap;
            Request { arrival_seconds, input_tokens, output_tokens }
        });
        requests.collect()
    })
}

fn options() -> impl Strategy<Value = SimulationOptions> {
    let arrivals =
        prop_oneof![(0.01..4.0_f64).prop_map(ArrivalRate::Load), (0.01..100.0_f64).prop_map(ArrivalRate::Factor)];
    (1..12_u32, 0..64_u32, 20..600_u64, 20..300_u32, arrivals).prop_map(
        |(max_requests, spare, kv_tokens, max_sequence_length, arrivals)| SimulationOptions {
            max_requests,
            max_tokens: max_requests + spare,
            kv_tokens,
            max_sequence_length,
            arrivals,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_token_is_computed_once(requests in requests(), options in options()) {
        let cost = CostCurve::default();
        let simulation = match simulate(&trace(&requests), &options, &cost) {
            Ok(simulation) => simulation,
            Err(error) => {
                let expected = matches!(error, SimulationError::NothingFits { .. } | SimulationError::NoSpan { .. });
                prop_assert!(expected, "{error}");
                return Ok(());
            }
        };
        let (steps, admitted) = plain(&requests, &options, simulation.rate_factor(), &cost);
        prop_assert_eq!(&expanded(&simulation), &steps);
        prop_assert_eq!(simulation.steps(), admitted as u64);

        let kept = requests.iter().filter(|request| {
            request.tokens() <= u64::from(options.max_sequence_length).min(options.kv_tokens)
        });
        let kept: Vec<&Request> = kept.collect();
        prop_assert_eq!(simulation.requests(), kept.len());
        let sum = |tokens: fn(&StepShape) -> u32| steps.iter().map(|step| u64::from(tokens(step))).sum::<u64>();
        let prompts: u64 = kept.iter().map(|request| u64::from(request.input_tokens)).sum();
        let outputs: u64 = kept.iter().map(|request| u64::from(request.output_tokens.saturating_sub(1))).sum();
        prop_assert_eq!(sum(|step| step.decodes), outputs);
        prop_assert_eq!(sum(|step| step.tokens), prompts + outputs);
        for step in &steps {
            prop_assert!(step.tokens <= options.max_tokens && step.prefills + step.decodes <= options.max_requests);
        }

        let (first, second) = simulation.halves().expect("halves");
        prop_assert_eq!(first.steps(), simulation.steps() / 2);
        prop_assert_eq!(first.steps() + second.steps(), simulation.steps());
        let mut both = first;
        for (step, count) in second.iter() {
            both.add(step, count).expect("a step");
        }
        prop_assert_eq!(both, simulation.histogram().expect("steps"));
    }
}

#[test]
fn sizes_at_the_integer_limits_neither_overflow_nor_loop() {
    let request =
        |arrival_seconds, input_tokens, output_tokens| Request { arrival_seconds, input_tokens, output_tokens };
    let requests = [
        request(0.0, u32::MAX, 0),
        request(0.0, 1, u32::MAX - 1),
        request(1e-9, u32::MAX - 1, 1),
        request(0.5, u32::MAX, u32::MAX),
        request(1e9, 7, 7),
    ];
    let slow = CostCurve::analytic(3600.0, 1.0).expect("a curve");
    let fast = CostCurve::analytic(1e-12, 0.0).expect("a curve");
    for (max_requests, max_tokens) in [(1, 1), (2, 3), (1, u32::MAX), (u32::MAX, u32::MAX)] {
        for (kv_tokens, cost) in [(u64::MAX, &slow), (u64::MAX, &fast), (u64::from(u32::MAX), &fast)] {
            for arrivals in [1e-6, 1.0, 1e6].iter().flat_map(|&x| [ArrivalRate::Load(x), ArrivalRate::Factor(x)]) {
                let options =
                    SimulationOptions { max_requests, max_tokens, kv_tokens, max_sequence_length: u32::MAX, arrivals };
                let simulation = simulate(&trace(&requests), &options, cost).expect("a simulation");
                assert_eq!(simulation.requests(), 4);
                let runs = simulation.drained_runs();
                assert!(runs.len() < 100, "{} runs", runs.len());
                let tokens = runs.iter().map(|run| u128::from(run.step.tokens) * u128::from(run.count)).sum::<u128>();
                assert_eq!(tokens, 3 * u128::from(u32::MAX) - 2 + 13);
                simulation.halves().expect("halves");
            }
        }
    }
}

#[test]
fn engines_and_rates_that_are_none_are_refused() {
    let requests = [1.0, 2.0].map(|arrival_seconds| Request { arrival_seconds, input_tokens: 9, output_tokens: 3 });
    let valid = SimulationOptions {
        max_requests: 4,
        max_tokens: 8,
        kv_tokens: 100,
        max_sequence_length: 100,
        arrivals: ArrivalRate::Load(0.5),
    };
    let error = |requests: &[Request], options| {
        simulate(&trace(requests), &options, &CostCurve::default()).expect_err("refused").to_string()
    };
    assert_eq!(
        error(&requests, SimulationOptions { max_requests: 0, ..valid }),
        "max_requests is `0`; it must be at least 1"
    );
    assert!(
        error(&requests, SimulationOptions { max_tokens: 3, ..valid }).starts_with("max_tokens is `3`; it must be")
    );
    assert!(
        error(&requests, SimulationOptions { kv_tokens: 11, ..valid }).starts_with("each of the trace's `2` requests")
    );
    assert!(error(&requests[..1], valid).starts_with("the trace's requests all arrive at once"));
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e7] {
        let load = error(&requests, SimulationOptions { arrivals: ArrivalRate::Load(rate), ..valid });
        assert!(load.starts_with("the load is `"), "{load}");
        let factor = error(&requests, SimulationOptions { arrivals: ArrivalRate::Factor(rate), ..valid });
        assert!(factor.starts_with("the rate factor is `"), "{factor}");
    }
}

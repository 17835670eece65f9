//! What the host spends on a decode step, on a device that does nothing: choosing, matching, packing, copying, launching, committing; and of
//! it choosing and committing alone, by a scheduler without a device.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/support/idle.rs"]
mod idle;

use gridpoint_engine::{Engine, NewRequest, RowOutput, Sampled, Scheduler, SchedulerLimits, pages_for};
use idle::{CONTEXT, NEW_TOKENS, Served};

/// Numbers of requests that decode.
const REQUESTS: [u32; 7] = [1, 4, 16, 64, 256, 1024, 2048];
/// Tokens in the cache of each of 256 requests.
const CONTEXTS: [usize; 3] = [CONTEXT, 4096, 16_384];
/// Steps that are timed of one engine: fewer than its requests have tokens left.
const STEPS: u64 = NEW_TOKENS as u64 / 2;

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group
}

/// Times `step` of what `made` makes, anew after so many steps.
fn time<T>(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, made: impl Fn() -> T, step: impl Fn(&mut T)) {
    let (mut current, mut left) = (made(), STEPS);
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut time = Duration::ZERO;
            for _ in 0..iterations {
                if left == 0 {
                    (current, left) = (made(), STEPS);
                }
                let started = Instant::now();
                step(&mut current);
                time += started.elapsed();
                left -= 1;
            }
            time
        });
    });
}

fn engine_step(engine: &mut Engine) {
    black_box(engine.step().expect("a step"));
}

fn steps(criterion: &mut Criterion) {
    let device = idle::open();
    let served = Served::new(&device, CONTEXT);
    let request = NewRequest::greedy(vec![1; CONTEXT], NEW_TOKENS);
    let mut of_requests = group(criterion, "host");
    for requests in REQUESTS {
        of_requests.throughput(Throughput::Elements(u64::from(requests)));
        let id = BenchmarkId::new("step", requests);
        time(&mut of_requests, id, || served.decoding(requests, &request), engine_step);
    }
    for requests in REQUESTS {
        of_requests.throughput(Throughput::Elements(u64::from(requests)));
        let id = BenchmarkId::new("plan and commit", requests);
        time(&mut of_requests, id, || scheduler(requests, &request), plan_and_commit);
    }
    of_requests.finish();

    let mut of_contexts = group(criterion, "host of 256 requests");
    for context in CONTEXTS {
        let served = Served::new(&device, context);
        let request = NewRequest::greedy(vec![1; context], NEW_TOKENS);
        let id = BenchmarkId::new("step by context", context);
        time(&mut of_contexts, id, || served.decoding(256, &request), engine_step);
    }
    of_contexts.finish();
}

/// A scheduler in which so many requests like `request` decode, and their answers.
fn scheduler(requests: u32, request: &NewRequest) -> (Scheduler, Vec<RowOutput<'static>>) {
    let length = request.prompt.len() as u32 + request.max_new_tokens;
    let limits = SchedulerLimits {
        max_requests: requests,
        step_budget: 16_384.max(requests),
        max_sequence_length: length,
        vocabulary: 256,
        pages: requests * pages_for(length) + 1,
    };
    let mut scheduler = Scheduler::new(limits).expect("the limits are good");
    for _ in 0..requests {
        scheduler.add(request.clone()).expect("a request");
    }
    let answer = |samples: bool| RowOutput {
        sampled: samples.then_some(Sampled { token: 1, logprob: -1.0 }),
        prompt_logprobs: &[],
    };
    loop {
        let step = scheduler.next_step().expect("requests are left");
        let decodes = step.decodes() as u32;
        let outputs: Vec<_> = step.rows().map(|row| answer(row.samples)).collect();
        scheduler.commit(step, &outputs).expect("its outputs");
        if decodes == requests {
            return (scheduler, outputs);
        }
    }
}

fn plan_and_commit((scheduler, outputs): &mut (Scheduler, Vec<RowOutput<'static>>)) {
    let step = scheduler.next_step().expect("requests are left");
    black_box(scheduler.commit(step, outputs.iter()).expect("its outputs"));
}

criterion_group!(benches, steps);
criterion_main!(benches);

//! What the host spends on a decode step (choosing, matching, packing, copying, launching, committing), on a device that does nothing.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/support/idle.rs"]
mod idle;

use gridpoint_engine::NewRequest;
use idle::{CONTEXT, NEW_TOKENS, Served};

/// Steps of one engine that are timed: fewer than its requests have tokens left.
const STEPS: u64 = NEW_TOKENS as u64 / 2;

fn steps(criterion: &mut Criterion) {
    let device = idle::open();
    let served = Served::new(&device);
    let request = NewRequest::greedy(vec![1; CONTEXT], NEW_TOKENS);
    let mut group = criterion.benchmark_group("host");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for requests in [1, 4, 16, 64, 256, 1024, 2048] {
        group.throughput(Throughput::Elements(u64::from(requests)));
        let mut engine = served.decoding(requests, &request);
        let mut left = STEPS;
        group.bench_function(BenchmarkId::new("step", requests), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut time = Duration::ZERO;
                for _ in 0..iterations {
                    if left == 0 {
                        engine = served.decoding(requests, &request);
                        left = STEPS;
                    }
                    let started = Instant::now();
                    black_box(engine.step().expect("a step"));
                    time += started.elapsed();
                    left -= 1;
                }
                time
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);

//! The cases that run on every device, by suite.

mod attention;
mod attention_hopper;
mod embedding;
mod fill;
mod fixture;
mod gemm;
mod gemm_hopper;
mod instructions;
mod norm;
mod products;
mod rotary;
mod row_scale;
mod sample;
mod schedule;
mod skinny;
mod warpgroups;

use crate::support::Case;

/// A list of cases; their names begin with the suite's.
pub(crate) type Suite = fn() -> Vec<Case>;

/// One suite for each file of `kernels/*.cu`, and for what products share; those of fill.cu and bandwidth.cu are one.
const KERNELS: [Suite; 12] = [
    attention::cases,
    attention_hopper::cases,
    embedding::cases,
    fill::cases,
    gemm::cases,
    gemm_hopper::cases,
    norm::cases,
    rotary::cases,
    row_scale::cases,
    sample::cases,
    schedule::cases,
    skinny::cases,
];

/// Suites of tests/instructions.
const INSTRUCTIONS: [Suite; 2] = [instructions::cases, warpgroups::cases];

/// All cases of all suites.
pub(crate) fn all() -> Vec<Case> {
    KERNELS.iter().chain(&INSTRUCTIONS).flat_map(|suite| suite()).collect()
}

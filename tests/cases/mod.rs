//! The cases that run on every device, by suite.

mod attention;
mod embedding;
mod fixture;
mod gemm;
mod norm;
mod rope;
mod sample;
mod schedule;

use crate::support::Case;

/// A list of cases; their names begin with the suite's.
pub(crate) type Suite = fn() -> Vec<Case>;

/// One suite for each file of `kernels/*.cu`.
const KERNELS: [Suite; 7] =
    [attention::cases, embedding::cases, gemm::cases, norm::cases, rope::cases, sample::cases, schedule::cases];

/// All cases of all suites.
pub(crate) fn all() -> Vec<Case> {
    KERNELS.iter().flat_map(|suite| suite()).collect()
}

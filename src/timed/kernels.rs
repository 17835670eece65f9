//! A step's launches by kernel and sizes.

use std::any::Any;
use std::sync::Arc;

use gridpoint_model::{Arithmetic, LaunchNeed};
use gridpoint_runtime::{Launch, Launches, RuntimeError};

use super::{Bench, CACHE_FILLS, Times};

/// How what a launch reads is kept out of the second cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By walking through the layers, whose operands fill the cache several times.
    Rotation,
    /// By plain traffic before each launch, outside the interval.
    Flush,
}

/// The launches of one kernel with the same sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedKernel {
    /// The kernel's name.
    pub kernel: &'static str,
    /// What the launches are for.
    pub operation: &'static str,
    /// Launches of the step.
    pub launches: usize,
    /// Blocks of each.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// The arithmetic of each.
    pub arithmetic: Arithmetic,
    /// Bytes that each reads at least.
    pub read: u64,
    /// Bytes that each writes at least.
    pub written: u64,
    /// How it was kept cold.
    pub method: Method,
    /// Microseconds of each.
    pub times: Times,
    /// Microseconds of plain traffic of the same bytes, timed in the same way.
    pub same_bytes: Times,
}

/// Launches that are timed together.
pub(super) struct Group {
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    need: LaunchNeed,
    count: usize,
    /// Different ones: other layers, other operands.
    distinct: Vec<Launch>,
}

/// The launches in the order in which their kernels and sizes first occur.
pub(super) fn group(launches: &Launches, needs: &[LaunchNeed]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (launch, need) in launches.as_slice().iter().zip(needs) {
        let (kernel, blocks, threads) = (launch.name(), launch.blocks(), launch.threads());
        let same = |group: &&mut Group| {
            (group.kernel, group.blocks, group.threads, &group.need) == (kernel, blocks, threads, need)
        };
        match groups.iter_mut().find(same) {
            Some(group) => {
                group.count += 1;
                if !group.distinct.contains(launch) {
                    group.distinct.push(launch.clone());
                }
            }
            None => {
                let distinct = vec![launch.clone()];
                groups.push(Group { kernel, blocks, threads, need: *need, count: 1, distinct });
            }
        }
    }
    groups
}

impl Bench {
    pub(super) fn time_group<M: Any + Send + Sync>(
        &mut self,
        group: Group,
        retained: &Arc<M>,
    ) -> Result<TimedKernel, RuntimeError> {
        let Group { kernel, blocks, threads, need, count, distinct } = group;
        let rotates = distinct.len() as u64 * need.work.layer_bytes >= CACHE_FILLS * self.cache_bytes();
        let times = self.times(&distinct, rotates, Arc::clone(retained))?;
        let (read, written) = (need.read.least, need.written.least);
        let (mut like, short) = self.bandwidth.like(read, written);
        if !rotates {
            like.truncate(1);
        }
        let same = self.times(&like, rotates, self.bandwidth.memory())?;
        let same_bytes = Times { cold: same.cold.scaled(short), chained: same.chained.scaled(short), ..same };
        Ok(TimedKernel {
            kernel,
            operation: need.operation,
            launches: count,
            blocks,
            threads,
            arithmetic: need.work.arithmetic,
            read,
            written,
            method: if rotates { Method::Rotation } else { Method::Flush },
            times,
            same_bytes,
        })
    }
}

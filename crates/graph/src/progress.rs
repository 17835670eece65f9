//! What a capture says of itself.

use std::fmt;
use std::time::Duration;

use gridpoint_plan::GridPoint;

use crate::{Bytes, Seconds};

/// The pool that all graphs alias: the arena of activations, and what the driver takes for the graphs themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUse {
    /// Bytes set aside: the arena's, and the device memory that has gone since capture began.
    pub reserved: u64,
    /// Bytes that the points captured so far touch.
    pub allocated: u64,
}

/// One point was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureProgress {
    /// Which point of the plan, from 1.
    pub number: usize,
    /// Points of the plan.
    pub total: usize,
    /// The point.
    pub point: GridPoint,
    /// Whether its launches are those of an earlier point, whose graph it shares.
    pub shared: bool,
    /// The pool now.
    pub pool: PoolUse,
    /// The pool before.
    pub before: PoolUse,
}

impl fmt::Display for CaptureProgress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = |now: u64, before: u64| Bytes(i128::from(now) - i128::from(before));
        let Self { number, total, point, pool, before, .. } = self;
        write!(
            formatter,
            "[graph {number}/{total}] {point} | pool reserved={} (Δiter={}) pool allocated={} (Δiter={})",
            Bytes::from(pool.reserved),
            change(pool.reserved, before.reserved),
            Bytes::from(pool.allocated),
            change(pool.allocated, before.allocated),
        )
    }
}

/// Where the time of a capture went. With several threads the parts are sums over them and exceed the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureTimes {
    /// Collecting every point's launches and finding equal ones.
    pub record: Duration,
    /// Turning launches into graphs by stream capture.
    pub capture: Duration,
    /// Making graphs executable.
    pub instantiate: Duration,
    /// Moving executable graphs to the device, the wait for the last included.
    pub upload: Duration,
    /// Wall time of all.
    pub total: Duration,
}

/// What a capture came to. Under lazy or background capture it grows as graphs are made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CaptureSummary {
    /// Points that have a graph.
    pub graphs: usize,
    /// Executable graphs: points with equal launches share one.
    pub distinct: usize,
    /// Kernel nodes of all executable graphs.
    pub nodes: usize,
    /// Where the time went.
    pub times: CaptureTimes,
    /// The pool at the end.
    pub pool: PoolUse,
}

impl fmt::Display for CaptureSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { graphs, distinct, times, pool, .. } = self;
        write!(
            formatter,
            "> built {graphs} cuda graph(s), {distinct} distinct, in {} sec. Pool: reserved {}, allocated {}.",
            Seconds(times.total),
            Bytes::from(pool.reserved),
            Bytes::from(pool.allocated)
        )
    }
}

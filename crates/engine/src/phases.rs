//! What a profiler sees of an engine: the names of ranges beside those of the graph set and its ring.

use gridpoint_runtime::ranges::RangeName;

/// The weights are uploaded, and memory is divided.
pub(crate) static LOAD: RangeName = RangeName::new(c"load");
/// The scheduler decides what the next step computes.
pub(crate) static PLAN: RangeName = RangeName::new(c"plan the step");
/// What a step has answered becomes tokens of its requests.
pub(crate) static COMMIT: RangeName = RangeName::new(c"commit");

//! What a profiler sees of capture and of steps: the names of ranges.

use gridpoint_plan::{GridPoint, StepShape};
use gridpoint_runtime::ranges::{Range, RangeName};

use crate::EagerReason;

/// The whole of a capture.
pub(crate) static CAPTURE: RangeName = RangeName::new(c"capture");
/// A step is written into its slot.
pub(crate) static PACK: RangeName = RangeName::new(c"pack");
/// The copy of a step and its launches are enqueued.
pub(crate) static SUBMIT: RangeName = RangeName::new(c"submit");
/// The host waits for the results of a step.
pub(crate) static WAIT: RangeName = RangeName::new(c"wait");

/// The capture of a point, such as `capture [512]: 4 P + 380 D`.
pub(crate) fn capture_of(point: GridPoint) -> Range {
    Range::formatted(format_args!("capture {point}"))
}

/// Opens the range of a step: `replay [512]: 4 P + 380 D (real 471: 3 P + 380 D)` where it replays a point, and where it runs eagerly
/// `eager (real 471: 3 P + 380 D): ` with the reason behind. Without a profiler nothing is formatted.
pub fn step_range(real: StepShape, point: Result<GridPoint, EagerReason>) -> Range {
    let StepShape { tokens, prefills, decodes } = real;
    match point {
        Ok(point) => Range::formatted(format_args!("replay {point} (real {tokens}: {prefills} P + {decodes} D)")),
        Err(reason) => Range::formatted(format_args!("eager (real {tokens}: {prefills} P + {decodes} D): {reason}")),
    }
}

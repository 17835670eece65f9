//! The planner alone, in a runtime of one's own: which graphs to capture, and which of them a step takes. No GPU is involved.

use std::error::Error;
use std::io::{Write, stdout};

use gridpoint_plan::{Limits, Match, Matcher, Matching, Policy, StepShape, TokenCeiling, plan};

fn main() -> Result<(), Box<dyn Error>> {
    let mut output = stdout();
    let limits = Limits { max_requests: 64, max_tokens: 512, ..Limits::default() };
    // Also steps of more tokens than requests are captured.
    let policy = Policy { token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() };
    let plan = plan(&limits, &policy)?;
    writeln!(output, "{} graphs of {} sizes", plan.len(), plan.distinct())?;
    for point in plan.points().iter().take(3) {
        writeln!(output, "  {point}")?;
    }
    // One matcher for the life of the program: a look-up takes nanoseconds and allocates nothing.
    let matcher = Matcher::new(plan.points());
    for step in [
        StepShape { tokens: 9, prefills: 0, decodes: 9 },
        StepShape { tokens: 300, prefills: 3, decodes: 40 },
        StepShape { tokens: 700, prefills: 1, decodes: 0 },
    ] {
        match matcher.find(step, Matching::NonStrict) {
            Match::Replay { point, slack, .. } => writeln!(output, "step {step} replays {point}, padding {slack}")?,
            Match::Eager { reason } => writeln!(output, "step {step} runs eagerly: {reason}")?,
        }
    }
    Ok(())
}

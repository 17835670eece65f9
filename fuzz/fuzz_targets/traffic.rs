//! Traces, cost tables and step histograms from a stranger.
#![no_main]

use gridpoint_plan::traffic::{CostCurve, StepHistogram, Trace};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Trace::parse(bytes, "trace.csv");
    let _ = CostCurve::parse(bytes, "cost.csv");
    if let Ok(steps) = serde_json::from_slice::<StepHistogram>(bytes) {
        let text = serde_json::to_string(&steps).expect("a histogram is writable");
        assert_eq!(serde_json::from_str::<StepHistogram>(&text).expect("it reads back"), steps);
    }
});

//! Words of the command line: what parses prints as something that parses to the same.
#![no_main]

use gridpoint_plan::{GraphCount, Sizing, StepShape};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|word: &str| {
    if let Ok(sizing) = word.parse::<Sizing>() {
        assert_eq!(sizing.to_string().parse(), Ok(sizing));
    }
    if let Ok(count) = word.parse::<GraphCount>() {
        assert_eq!(count.to_string().parse(), Ok(count));
    }
    if let Ok(step) = word.parse::<StepShape>() {
        assert_eq!(step.to_string().parse(), Ok(step));
    }
});

//! A plan file from a stranger: it reads or is refused, and what reads can be matched against.
#![no_main]

use gridpoint_plan::{Match, Matcher, Matching, Plan};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(plan) = serde_json::from_slice::<Plan>(bytes) else { return };
    let matcher = Matcher::new(plan.points());
    for point in plan.points() {
        let counts = [point.tokens, point.prefills, point.decodes].map(u64::from);
        let found = matcher.find_counts(counts[0], counts[1], counts[2], Matching::Strict);
        assert!(matches!(found, Match::Replay { .. }), "{point} does not replay itself");
    }
});

//! Files that somebody else wrote: whatever the bytes, an answer or a sentence.

use gridpoint_plan::traffic::{CostCurve, StepHistogram, Trace};
use proptest::prelude::*;

/// Bytes, and text that is nearly a table.
fn hostile(columns: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        4 => "[0-9]{1,4}",
        1 => "-?[0-9]{1,40}(\\.[0-9]{0,3})?(e-?[0-9]{1,4})?",
        1 => prop::sample::select(vec!["", "nan", "inf", "-0", "+1", "4294967295", "4294967296", "\"1\"", "1;2", "\u{0}"])
            .prop_map(str::to_owned),
    ];
    let line = prop::collection::vec(field, 1..5).prop_map(|fields| fields.join(","));
    let table = (prop::collection::vec(line, 0..8), prop::sample::select(vec!["\n", "\r\n", "\n\n", "\r"]))
        .prop_map(move |(lines, end)| [columns.to_owned(), lines.join(end)].join(end).into_bytes());
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), table]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_trace_or_a_sentence(bytes in hostile("arrival_s,input_tokens,output_tokens")) {
        match Trace::parse(&bytes, "file") {
            Ok(trace) => {
                prop_assert!(trace.requests().is_sorted_by(|a, b| a.arrival_seconds <= b.arrival_seconds));
                prop_assert!(trace.requests().iter().all(|request| request.input_tokens > 0));
                prop_assert!(!trace.requests().is_empty());
            }
            Err(error) => prop_assert!(!error.to_string().contains('\n') && error.to_string().starts_with("`file`, line ")),
        }
    }

    #[test]
    fn any_bytes_are_a_curve_or_a_sentence(bytes in hostile("tokens,seconds"), tokens in any::<u64>()) {
        match CostCurve::parse(&bytes, "file") {
            Ok(curve) => prop_assert!(0 < curve.picoseconds(1) && curve.picoseconds(1) <= curve.picoseconds(tokens.max(1))),
            Err(error) => prop_assert!(!error.to_string().contains('\n') && error.to_string().starts_with("`file`, line ")),
        }
    }

    #[test]
    fn any_rows_are_a_histogram_or_a_sentence(
        rows in prop::collection::vec(prop::array::uniform4(prop_oneof![4 => 0..9_u64, 1 => any::<u64>()]), 0..6),
    ) {
        let json = serde_json::json!({ "steps": rows }).to_string();
        if let Ok(histogram) = serde_json::from_str::<StepHistogram>(&json) {
            let counts = rows.iter().map(|row| u128::from(row[3])).sum::<u128>();
            prop_assert_eq!(u128::from(histogram.steps()), counts);
            let written = serde_json::to_string(&histogram).expect("json");
            prop_assert_eq!(serde_json::from_str::<StepHistogram>(&written).expect("a histogram"), histogram);
        }
    }
}

//! Policies side by side, as a table and as JSON.

use std::fmt::Write;

use serde::Serialize;

use super::judged::{Judged, Row};
use super::table::limits_line;
use super::traffic::{Size, Traffic};
use crate::args::plan::{Comparison, bytes};
use crate::commands::Failure;

/// The widest that the names of policies may be.
const NAME: usize = 18;

/// The numbers of each policy, in their order.
pub(super) fn rows(judged: &Judged<'_>, policies: &Comparison) -> Result<Vec<Row>, Failure> {
    policies.0.iter().map(|choice| judged.row(choice)).collect()
}

/// At most 80 columns.
pub(super) fn table(judged: &Judged<'_>, rows: &[Row]) -> String {
    let mut text = String::new();
    let traffic = judged.traffic;
    text.push_str(&limits_line(judged.limits));
    let halves = match traffic.size.requests {
        Some(requests) => format!(
            "{requests} requests, {} steps\n         fits saw the first half of the steps, the numbers are of the second",
            traffic.size.steps
        ),
        None => format!("{} recorded steps, which fits saw too", traffic.size.steps),
    };
    // A String takes whatever is written to it.
    let _ = writeln!(text, "traffic  {halves}\n");
    let _ = writeln!(
        text,
        "{:<NAME$} {:>6} {:>8} {:>9} {:>6} {:>7} {:>6} {:>5} {:>6}",
        "policy", "graphs", "distinct", "bytes", "miss %", "token %", "time %", "P x", "slot x"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:<NAME$} {:>6} {:>8} {:>9} {:>6.1} {:>7.1} {:>6.2} {:>5.2} {:>6.2}",
            shortened(&row.policy),
            row.graphs,
            row.distinct,
            bytes(row.bytes),
            row.miss_rate * 100.0,
            row.token_padding * 100.0,
            row.time_overhead * 100.0,
            row.prefill_slack + 1.0,
            row.slot_padding + 1.0,
        );
    }
    text.push_str(
        "\nmiss: steps without a graph; token, time: what replays add to the steps' own;\n\
         P, slot: slots captured for each that is used, of prefills and of all requests\n",
    );
    text
}

/// A name that the column has room for.
pub(crate) fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    name.chars().take(NAME - 3).chain("...".chars()).collect()
}

#[derive(Serialize)]
struct Json<'a> {
    trace: Size,
    rows: &'a [Row],
}

/// One object.
pub(super) fn json(traffic: &Traffic, rows: &[Row]) -> Result<String, Failure> {
    Ok(serde_json::to_string(&Json { trace: traffic.size, rows }).map_err(Failure::failed)? + "\n")
}

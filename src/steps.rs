//! How the steps of a run ran: totals by point and by reason, for people and for programs.

use gridpoint_graph::{PointTotals, StepTotals};
use gridpoint_plan::GridPoint;
use serde_json::{Value, json};

/// The totals as one object.
pub(crate) fn json(totals: &StepTotals) -> Value {
    let point = |(point, of_point): (&GridPoint, &PointTotals)| {
        let GridPoint { tokens, prefills, decodes } = *point;
        json!({
            "point": [tokens, prefills, decodes],
            "replayed": of_point.replayed,
            "eager": of_point.eager,
            "tokens": of_point.tokens,
            "padded_tokens": of_point.padded_tokens,
            "padded_requests": of_point.padded_requests,
            "device_microseconds": of_point.device.as_micros() as u64,
        })
    };
    json!({
        "total": totals.total,
        "replayed": totals.replayed,
        "eager": totals.eager,
        "hit_rate": totals.hit_rate(),
        "tokens": totals.tokens,
        "padded_tokens": totals.padded_tokens,
        "token_padding": totals.token_padding(),
        "host_microseconds": totals.host.as_micros() as u64,
        "device_microseconds": totals.device.as_micros() as u64,
        "eager_reasons": totals.reasons,
        "points": totals.points.iter().rev().map(point).collect::<Vec<_>>(),
    })
}

/// Logs the totals: a line for each point, and a warning for steps that ran eagerly though graphs are captured.
pub(crate) fn log(totals: &StepTotals) {
    for (point, of_point) in totals.points.iter().rev() {
        let PointTotals { replayed, eager, tokens, padded_tokens, .. } = of_point;
        let padding = 100.0 * *padded_tokens as f64 / (*tokens).max(1) as f64;
        tracing::info!("{point}: {replayed} replays, {eager} eager, {padding:.1} % token padding");
    }
    let reasons: Vec<String> = totals.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if totals.eager > totals.reasons.get("switched_off").copied().unwrap_or(0) {
        tracing::warn!("{} of {} steps ran eagerly: {}", totals.eager, totals.total, reasons.join(", "));
    }
}

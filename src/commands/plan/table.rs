//! A plan as a table that a terminal of 80 columns has room for.

use std::fmt::Write;

use gridpoint_plan::{Budgeted, DecodeAxis, Limits, Plan, Policy, PrefillAxis};

use super::Printed;
use super::traffic::Traffic;
use crate::args::plan::{Reduced, bytes};

/// The longest list of token counts that is printed as a list.
const COLUMNS: usize = 71;

/// What was asked for, what came of it, and every point.
pub(super) fn text(printed: &Printed<'_>) -> String {
    let mut text = String::new();
    let Reduced { plan, points, merged, budgeted } = &printed.made.reduced;
    text.push_str(&policy_lines(&printed.made.name, &printed.made.policy, &printed.limits));
    text.push_str(&limits_line(&printed.limits));
    // A String takes whatever is written to it.
    if let Some(merged) = merged {
        let _ = writeln!(text, "merged   {merged} of {points} graphs, whose steps others replay with the same kernels");
    }
    if let Some(budgeted) = budgeted {
        text.push_str(&budget_lines(budgeted));
    }
    let Some(token_counts) = plan.token_counts() else {
        text.push_str("graphs   0: every step runs eagerly\n");
        return text;
    };
    let counts = plan.counts();
    let _ = writeln!(
        text,
        "graphs   {} ({} distinct): {} decode-only, {} mixed, {} prefill-only",
        plan.len(),
        plan.distinct(),
        counts.decode_only,
        counts.mixed,
        counts.prefill_only
    );
    let _ = writeln!(text, "tokens   {}", summary(token_counts));
    if let Some((traffic, found)) = &printed.traffic {
        text.push_str(&traffic_lines(traffic, found));
    }
    text.push_str(&points_table(plan, printed.traffic.as_ref().map(|(_, found)| (found.steps, found.hits.as_slice()))));
    if let Some(budgeted) = budgeted {
        text.push_str(&dropped_table(budgeted));
    }
    text
}

fn policy_lines(name: &str, policy: &Policy, limits: &Limits) -> String {
    let Policy { sizing, prefill_axis, decode_axis, graph_count, token_ceiling, .. } = policy;
    let mut text = format!("policy   {name} sizing");
    if sizing.law(gridpoint_plan::Phase::Decode).is_some() {
        let _ = write!(text, ", {graph_count} counts a ladder, token ceiling {}", token_ceiling.resolve(limits));
    }
    text.push('\n');
    let mut more = Vec::new();
    if *prefill_axis != PrefillAxis::Auto {
        more.push(format!("prefill axis {prefill_axis}"));
    }
    if *decode_axis != DecodeAxis::Rest {
        more.push(format!("decode axis {decode_axis}"));
    }
    if policy.batch_invariant {
        more.push("batch invariant".to_owned());
    }
    if !more.is_empty() {
        let _ = writeln!(text, "         {}", more.join(", "));
    }
    text
}

/// The limits, those of parallelism and speculation only where they shape anything.
pub(super) fn limits_line(limits: &Limits) -> String {
    let Limits { max_requests, max_tokens, max_sequence_length, tensor_parallel, speculative_tokens } = limits;
    let mut text = format!(
        "limits   {max_requests} requests, {max_tokens} tokens a step, {max_sequence_length} tokens a sequence\n"
    );
    if *tensor_parallel != 1 || *speculative_tokens != 0 {
        let _ = writeln!(text, "         tensor parallel {tensor_parallel}, speculative tokens {speculative_tokens}");
    }
    text
}

fn budget_lines(budgeted: &Budgeted) -> String {
    let mut text = String::new();
    let Budgeted { plan, dropped, cost } = budgeted;
    let _ = writeln!(
        text,
        "budget   {} graphs, {}, {:.2} s of capture",
        plan.len(),
        bytes(cost.bytes),
        cost.capture_time.as_secs_f64()
    );
    let _ = match dropped.len() {
        0 => writeln!(text, "dropped  nothing"),
        count => writeln!(
            text,
            "dropped  {count}: no step replays more than {:.2} times the tokens that it did",
            budgeted.worst_token_factor()
        ),
    };
    text
}

fn traffic_lines(traffic: &Traffic, found: &gridpoint_plan::traffic::Evaluation) -> String {
    let requests = traffic.size.requests.map_or(String::new(), |requests| format!("{requests} requests, "));
    let used = found.hits.iter().filter(|&&hits| hits > 0).count();
    format!(
        "traffic  {requests}{} steps, which replay {used} of the graphs\n         \
         {:.1} % of them run eagerly; replays add {:.1} % tokens and {:.2} % time\n         \
         {:.2} P and {:.2} slots are captured for each used\n",
        traffic.size.steps,
        found.miss_rate * 100.0,
        found.token_padding * 100.0,
        found.time_overhead * 100.0,
        found.prefill_slack + 1.0,
        found.slot_padding + 1.0
    )
}

/// The points in capture order; with traffic, the share of steps that each replays.
fn points_table(plan: &Plan, hits: Option<(u64, &[u64])>) -> String {
    let mut text = format!("\n{:>7} {:>10} {:>10} {:>10}  kind", "graph", "T", "P", "D");
    text.push_str(if hits.is_some() { "         steps %\n" } else { "\n" });
    for (index, point) in plan.points().iter().enumerate() {
        let (tokens, prefills, decodes) = (point.tokens, point.prefills, point.decodes);
        let mut line = format!("{:>7} {tokens:>10} {prefills:>10} {decodes:>10}  {:<12}", index + 1, point.kind());
        if let Some((steps, hits)) = hits
            && hits[index] > 0
        {
            let _ = write!(line, " {:>7.2}", hits[index] as f64 / steps as f64 * 100.0);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn dropped_table(budgeted: &Budgeted) -> String {
    if budgeted.dropped.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{:<26} {:<26} {:>7} {:>8} {:>8}\n", "dropped", "replaced by", "tokens", "P", "slots");
    for dropped in &budgeted.dropped {
        let _ = writeln!(
            text,
            "{:<26} {:<26} {:>6.2}x {:>7.2}x {:>7.2}x",
            dropped.point.to_string(),
            dropped.replaced_by.to_string(),
            dropped.token_factor(),
            f64::from(dropped.replaced_by.prefills.max(1)) / f64::from(dropped.point.prefills.max(1)),
            dropped.slot_factor()
        );
    }
    text
}

/// The token counts, in one line.
fn summary(token_counts: &[u32]) -> String {
    let all: Vec<String> = token_counts.iter().map(u32::to_string).collect();
    let all = all.join(" ");
    match token_counts {
        [largest, .., smallest] if all.len() > COLUMNS => {
            format!("{} counts from {largest} down to {smallest}", token_counts.len())
        }
        _ => all,
    }
}

//! Megatron-LM takes a law, not a list: the nearest one, and how far it is from the plan.

use std::collections::BTreeSet;

use gridpoint_plan::{
    DecodeAxis, GraphCount, GridPoint, LadderLaw, Limits, Phase, Plan, Policy, PrefillAxis, Sizing, TokenCeiling,
    plan as make,
};

use super::Words;

/// Decode counts nearer to each other than by this ratio are nearer to even steps than to halves.
const FINE: f64 = 1.5;

pub(super) fn words(plan: &Plan, limits: &Limits, policy: &Policy) -> Words {
    let title = "Megatron-LM: arguments of its inference programs";
    if plan.is_empty() {
        return Words { title, lines: vec!["--cuda-graph-impl none".to_owned()], cannot: Vec::new() };
    }
    let mut cannot = Vec::new();
    let nearest = nearest(plan, limits, policy);
    if !matches!(policy.sizing, Sizing::Exponential | Sizing::Linear | Sizing::Hybrid) {
        cannot.push(format!("sizes other than by its own laws: `{}` is the nearest", nearest.sizing));
    }
    if policy.prefill_axis != PrefillAxis::Auto {
        cannot.push(format!("the prefill axis `{}`: P follows from the law", short_axis(&policy.prefill_axis)));
    }
    if policy.decode_axis != DecodeAxis::Rest {
        cannot.push(format!("the decode axis `{}`: D is what is left beside P", policy.decode_axis));
    }
    cannot.extend(difference(plan, limits, &nearest));
    Words { title, lines: lines(limits, &nearest), cannot }
}

fn lines(limits: &Limits, policy: &Policy) -> Vec<String> {
    let mut lines = vec![
        "--inference-dynamic-batching".to_owned(),
        "--cuda-graph-impl local".to_owned(),
        format!("--inference-dynamic-batching-max-requests {}", limits.max_requests),
        format!("--inference-dynamic-batching-max-tokens {}", limits.max_tokens),
        format!("--inference-max-seq-length {}", limits.max_sequence_length),
    ];
    if limits.tensor_parallel > 1 {
        lines.push(format!("--tensor-model-parallel-size {}", limits.tensor_parallel));
    }
    if limits.speculative_tokens > 0 {
        lines.push(format!("--num-speculative-tokens {}", limits.speculative_tokens));
    }
    let count = match policy.graph_count {
        GraphCount::Count(count) => count,
        GraphCount::Auto | GraphCount::None => -1,
    };
    lines.push(format!("--inference-dynamic-batching-num-cuda-graphs {count}"));
    lines.push(format!("--inference-dynamic-batching-cuda-graph-sizing-distribution {}", policy.sizing));
    match policy.mixed_prefill_count {
        Some(mixed) if mixed > 0 && !policy.decode_only => {
            lines.push(format!("--inference-dynamic-batching-cuda-graph-mixed-prefill-count {mixed}"));
        }
        _ => lines.push("--decode-only-cuda-graphs".to_owned()),
    }
    let ceiling = policy.token_ceiling.resolve(limits);
    if ceiling == limits.max_tokens {
        lines.push("--inference-cuda-graph-all-prefills".to_owned());
    } else {
        lines.push(format!("--inference-cuda-graph-max-tokens {ceiling}"));
    }
    if policy.batch_invariant {
        lines.push("--batch-invariant-mode".to_owned());
    }
    lines
}

/// The policy with a law that Megatron-LM has.
fn nearest(plan: &Plan, limits: &Limits, policy: &Policy) -> Policy {
    let with_prefills = plan.points().iter().any(|point| point.prefills > 0);
    let (sizing, token_ceiling) = match &policy.sizing {
        own @ (Sizing::Exponential | Sizing::Linear | Sizing::Hybrid) => (own.clone(), policy.token_ceiling),
        Sizing::Geometric { .. } => (law(|phase| ratio(&policy.sizing, phase)), policy.token_ceiling),
        Sizing::List { .. } => {
            let largest = plan.token_counts().and_then(|counts| counts.first().copied()).unwrap_or(limits.max_tokens);
            let largest = u64::from(largest).max(limits.decode_tokens());
            let ceiling = i64::try_from(largest).unwrap_or(i64::MAX);
            (law(|phase| mean_ratio(plan, phase)), TokenCeiling::Tokens(ceiling))
        }
    };
    Policy {
        sizing,
        token_ceiling,
        prefill_axis: PrefillAxis::Auto,
        decode_axis: DecodeAxis::Rest,
        decode_only: policy.decode_only || !with_prefills,
        ..policy.clone()
    }
}

fn law(ratio: impl Fn(Phase) -> f64) -> Sizing {
    match (ratio(Phase::Decode) < FINE, ratio(Phase::Prefill) < FINE) {
        (false, _) => Sizing::Exponential,
        (true, false) => Sizing::Hybrid,
        (true, true) => Sizing::Linear,
    }
}

fn ratio(sizing: &Sizing, phase: Phase) -> f64 {
    match sizing.law(phase) {
        Some(LadderLaw::Geometric(ratio)) => ratio.get(),
        _ => 2.0,
    }
}

/// The ratio of a geometric ladder that reaches as far with as many counts.
fn mean_ratio(plan: &Plan, phase: Phase) -> f64 {
    let of_phase = |point: &&GridPoint| (point.prefills == 0) == (phase == Phase::Decode);
    let counts: BTreeSet<u32> = plan.points().iter().filter(of_phase).map(|point| point.tokens).collect();
    match (counts.first(), counts.last(), counts.len()) {
        (Some(&least), Some(&most), count @ 2..) => (f64::from(most) / f64::from(least)).powf(1.0 / (count - 1) as f64),
        _ => 2.0,
    }
}

/// How the points of these flags differ from the plan's.
fn difference(plan: &Plan, limits: &Limits, nearest: &Policy) -> Option<String> {
    let theirs = match make(limits, nearest) {
        Ok(theirs) => theirs,
        Err(error) => return Some(format!("these limits under its own laws: {error}")),
    };
    let points = |plan: &Plan| plan.points().iter().copied().collect::<BTreeSet<GridPoint>>();
    let (ours, theirs) = (points(plan), points(&theirs));
    (ours != theirs).then(|| {
        format!(
            "{} of the {} points: it captures {}, {} of them not in this plan",
            ours.difference(&theirs).count(),
            ours.len(),
            theirs.len(),
            theirs.difference(&ours).count()
        )
    })
}

fn short_axis(axis: &PrefillAxis) -> String {
    match axis {
        PrefillAxis::List(list) if list.len() > 8 => format!("list of {}", list.len()),
        axis => axis.to_string(),
    }
}

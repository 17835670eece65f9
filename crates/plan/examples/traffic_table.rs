//! What policies make of a trace at four loads: fits on the first half of the steps, all
//! numbers on the second. `cargo run --release -p gridpoint-plan --example traffic_table -- FILE [MAX_TOKENS]`

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use gridpoint_plan::traffic::{ArrivalRate, CostCurve, SimulationOptions, Trace, evaluate, fit, simulate};
use gridpoint_plan::{Limits, Matcher, Matching, Policy, TokenCeiling, plan};

const SIZINGS: [&str; 5] = ["exponential", "linear", "hybrid", "geometric:1.41", "geometric:1.19"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("the first argument is a trace")?;
    let max_tokens = arguments.next().map_or(Ok(8192), |tokens| tokens.parse())?;
    let limits = Limits { max_requests: 256, max_tokens, max_sequence_length: 131_072, ..Limits::default() };
    let trace = Trace::parse(&std::fs::read(&file)?, &file)?;
    let cost = CostCurve::default();
    let tiled = cost.clone().with_tile(128)?;
    let all_prefills = Policy { token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() };
    let mut out = std::io::stdout().lock();
    for load in [0.15, 0.5, 0.85, 1.3] {
        let started = Instant::now();
        let options = SimulationOptions {
            max_requests: limits.max_requests,
            max_tokens,
            kv_tokens: 880_000,
            max_sequence_length: limits.max_sequence_length,
            arrivals: ArrivalRate::Load(load),
        };
        let simulation = simulate(&trace, &options, &cost)?;
        let (first, second) = simulation.halves()?;
        writeln!(
            out,
            "load {load}: {} requests, {} steps, {:.2} requests/s when saturated, rate factor {:.3}, {:.1?}",
            simulation.requests(),
            simulation.steps(),
            simulation.saturated_rate(),
            simulation.rate_factor(),
            started.elapsed()
        )?;
        let mut policies = Vec::new();
        for word in SIZINGS {
            policies.push((word.to_owned(), Policy { sizing: word.parse()?, ..all_prefills.clone() }));
        }
        for word in &SIZINGS[..2] {
            let token_ceiling = TokenCeiling::Tokens(512);
            policies.push((
                format!("{word}, cap 512"),
                Policy { sizing: word.parse()?, token_ceiling, ..Policy::default() },
            ));
        }
        for sizes in [24, 32, 36, 48, 64] {
            let fitted = fit(&first, sizes, &limits, &all_prefills, &cost)?;
            policies.push((format!("fit:{sizes}"), fitted.policy(&all_prefills)));
        }
        writeln!(out, "  policy                graphs   used  tok%  time%  miss%  time128%  P slack  slots")?;
        for (word, policy) in policies {
            let plan = plan(&limits, &policy)?;
            let matcher = Matcher::new(plan.points());
            let found = evaluate(&plan, &matcher, Matching::NonStrict, &second, &cost);
            let in_tiles = evaluate(&plan, &matcher, Matching::NonStrict, &second, &tiled);
            writeln!(
                out,
                "  {word:<20} {:>7} {:>6} {:>5.1} {:>6.2} {:>6.1} {:>9.2} {:>8.3} {:>6.3}",
                plan.len(),
                found.hits.iter().filter(|&&hits| hits > 0).count(),
                100.0 * found.token_padding,
                100.0 * found.time_overhead,
                100.0 * found.miss_rate,
                100.0 * in_tiles.time_overhead,
                found.prefill_slack,
                found.slot_padding
            )?;
        }
    }
    Ok(())
}

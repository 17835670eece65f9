//! Plans, ladders and matches equal those of Megatron-LM's planner, vector by vector (`golden/README.md`).

use gridpoint_plan::{
    GraphCount, GridPoint, Limits, Match, Matcher, Matching, Phase, Plan, PlanError, Policy, Sizing, StepShape,
    TokenCeiling, ladder, match_expert_parallel, plan,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    plans: Vec<PlanCase>,
    token_counts: Vec<(LadderInput, LadderOutput)>,
    #[serde(rename = "match")]
    matches: Vec<Vec<u32>>,
    ep: Vec<GroupCase>,
}

#[derive(Deserialize)]
struct PlanCase {
    c: PlanInput,
    err: Option<String>,
    rows: Option<Vec<u32>>,
    tc: Option<Vec<u32>>,
}

/// tp, n, cg_max, mixed, max_req, max_tok, max_seq, nondec, spec, dist, bi
#[derive(Deserialize, Debug, Clone)]
struct PlanInput(u32, Option<i64>, Option<i64>, Option<i64>, u32, u32, u32, u8, u32, Option<String>, u8);

/// tp, n, max_tokens, dist, bi
#[derive(Deserialize, Debug)]
struct LadderInput(u32, Option<i64>, i64, Option<String>, u8);

#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum LadderOutput {
    Sizes(Vec<u32>),
    Error(#[allow(dead_code, reason = "any name of an error means an error")] String),
}

type Triple = (u32, u32, u32);

/// plan index, strict, sync, steps, points
#[derive(Deserialize, Debug)]
struct GroupCase(usize, u8, u8, Vec<Triple>, Vec<Option<Triple>>);

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/plan_public.json")).expect("the vectors read")
}

fn sizing(word: &Option<String>) -> Sizing {
    word.as_ref().map_or(Sizing::Exponential, |word| word.parse().expect("a sizing"))
}

fn graph_count(count: Option<i64>) -> GraphCount {
    count.map_or(GraphCount::None, GraphCount::Count)
}

fn plan_of(case: &PlanCase) -> Result<Plan, PlanError> {
    let PlanInput(tensor_parallel, n, cg_max, mixed, max_requests, max_tokens, max_sequence_length, nondec, spec, ..) =
        case.c;
    let limits = Limits { max_requests, max_tokens, max_sequence_length, tensor_parallel, speculative_tokens: spec };
    let policy = Policy {
        sizing: sizing(&case.c.9),
        graph_count: graph_count(n),
        token_ceiling: cg_max.map_or(TokenCeiling::AllPrefills, TokenCeiling::Tokens),
        mixed_prefill_count: mixed,
        decode_only: nondec == 0,
        batch_invariant: case.c.10 == 1,
        ..Policy::default()
    };
    plan(&limits, &policy)
}

fn matching(strict: u32) -> Matching {
    if strict == 1 { Matching::Strict } else { Matching::NonStrict }
}

fn point((tokens, prefills, decodes): Triple) -> GridPoint {
    GridPoint { tokens, prefills, decodes }
}

fn step((tokens, prefills, decodes): Triple) -> StepShape {
    StepShape { tokens, prefills, decodes }
}

#[test]
fn every_plan_is_the_references() {
    let golden = golden();
    assert_eq!(golden.plans.len(), 421);
    for (index, case) in golden.plans.iter().enumerate() {
        let found = plan_of(case);
        let Some(rows) = &case.rows else {
            let error = case.err.as_deref().expect("rows or an error");
            assert!(found.is_err(), "plan {index} {:?}: the reference answers {error}", case.c);
            continue;
        };
        let found = found.unwrap_or_else(|error| panic!("plan {index} {:?}: {error}", case.c));
        let expected: Vec<GridPoint> = rows.chunks_exact(3).map(|row| point((row[0], row[1], row[2]))).collect();
        let wrong = (0..expected.len().max(found.len())).find(|&at| expected.get(at) != found.points().get(at));
        if let Some(at) = wrong {
            panic!("plan {index} {:?}: point {at} is {:?}, not {:?}", case.c, found.points().get(at), expected.get(at));
        }
        assert_eq!(found.token_counts(), case.tc.as_deref(), "token counts of plan {index} {:?}", case.c);
    }
}

#[test]
fn every_ladder_is_the_references() {
    let golden = golden();
    assert_eq!(golden.token_counts.len(), 600);
    for (input, output) in &golden.token_counts {
        let LadderInput(tensor_parallel, n, max_tokens, dist, bi) = input;
        // A negative count of tokens cannot even be asked for.
        let Ok(max_tokens) = u32::try_from(*max_tokens) else {
            assert!(matches!(output, LadderOutput::Error(_)), "{input:?}");
            continue;
        };
        let law = sizing(dist).law(Phase::Prefill).expect("a law");
        let found = ladder(law, graph_count(*n), max_tokens, *tensor_parallel, *bi == 1);
        match output {
            LadderOutput::Sizes(sizes) => assert_eq!(found.as_ref(), Ok(sizes), "{input:?}"),
            LadderOutput::Error(_) => assert!(found.is_err(), "{input:?} gives {found:?}"),
        }
    }
}

#[test]
fn every_match_is_the_references() {
    let golden = golden();
    assert_eq!(golden.matches.len(), 4000);
    let plans: Vec<_> = golden.plans.iter().map(|case| plan_of(case).ok()).collect();
    let matchers: Vec<_> = plans.iter().flatten().map(|plan| Matcher::new(plan.points())).collect();
    let mut matchers = matchers.into_iter();
    let matchers: Vec<_> = plans.iter().map(|plan| plan.as_ref().and_then(|_| matchers.next())).collect();
    for case in &golden.matches {
        let [plan_index, strict, t, p, d, expected @ ..] = case.as_slice() else { panic!("a short case: {case:?}") };
        let expected = match expected {
            [] => None,
            &[tokens, prefills, decodes] => Some(point((tokens, prefills, decodes))),
            _ => panic!("a long case: {case:?}"),
        };
        let index = *plan_index as usize;
        let matcher = matchers[index].as_ref().expect("only plans are matched");
        let found = matcher.find(step((*t, *p, *d)), matching(*strict));
        assert_eq!(found.point(), expected, "{case:?}: {found:?}");
        if let Match::Replay { index: at, point, slack } = found {
            assert_eq!(plans[index].as_ref().map(|plan| plan.points()[at]), Some(point));
            assert_eq!(
                (slack.tokens + t, slack.prefills + p, slack.decodes + i64::from(*d)),
                (point.tokens, point.prefills, i64::from(point.decodes))
            );
        }
    }
}

#[test]
fn every_expert_parallel_group_is_the_references() {
    let golden = golden();
    assert_eq!(golden.ep.len(), 200);
    for case in &golden.ep {
        let GroupCase(index, strict, sync, steps, expected) = case;
        let plan = plan_of(&golden.plans[*index]).expect("only plans are matched");
        let steps: Vec<StepShape> = steps.iter().copied().map(step).collect();
        let matcher = Matcher::new(plan.points());
        let found = match_expert_parallel(&matcher, &steps, matching(u32::from(*strict)), *sync == 1);
        let found: Vec<_> = found.iter().map(Match::point).collect();
        let expected: Vec<_> = expected.iter().map(|triple| triple.map(point)).collect();
        assert_eq!(found, expected, "{case:?}");
    }
}

#[test]
fn plans_read_back_from_json() {
    for case in golden().plans {
        let Ok(plan) = plan_of(&case) else { continue };
        let json = serde_json::to_string(&plan).expect("json");
        assert_eq!(serde_json::from_str::<Plan>(&json).expect("a plan"), plan, "{:?}", case.c);
    }
}

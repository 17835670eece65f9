//! Plan files: what they name, what reads back, what is refused.

use gridpoint_plan::{
    DecodeAxis, GraphCount, InvalidPlan, Limits, PLAN_FILE_VERSION, Plan, PlanFile, Policy, PrefillAxis, Preset, Ratio,
    Sizing, TokenCeiling, plan,
};
use serde_json::{Value, json};

const LIMITS: Limits =
    Limits { max_requests: 8, max_tokens: 64, max_sequence_length: 128, tensor_parallel: 1, speculative_tokens: 0 };

fn file(policy: &Policy) -> PlanFile {
    PlanFile::new(plan(&LIMITS, policy).expect("a plan"), policy.clone(), LIMITS)
}

fn value(file: &PlanFile) -> Value {
    serde_json::to_value(file).expect("json")
}

fn read(value: &Value) -> Result<PlanFile, String> {
    serde_json::from_str(&value.to_string()).map_err(|error| error.to_string())
}

#[test]
fn a_file_names_policy_limits_and_version() {
    let policy = Policy {
        sizing: "geometric:1.41/2".parse().expect("a sizing"),
        decode_axis: DecodeAxis::Geometric(Ratio::TWO),
        ..Policy::default()
    };
    let json = serde_json::to_string(&file(&policy)).expect("json");
    let start = r#"{"version":1,"policy":{"sizing":"geometric:1.41/2","prefill_axis":"auto","decode_axis":"geometric:2","graph_count":"auto","token_ceiling":"decodes","mixed_prefill_count":16,"decode_only":false,"batch_invariant":false},"limits":{"max_requests":8,"max_tokens":64,"max_sequence_length":128,"tensor_parallel":1,"speculative_tokens":0},"points":[{"tokens":8,"#;
    assert!(json.starts_with(start), "{json}");
    assert!(json.ends_with(r#""token_counts":[8,6,5,4,3,2,1]}"#), "{json}");
    assert_eq!(PLAN_FILE_VERSION, 1);
    // What reads plans alone reads the file too.
    let alone: Plan = serde_json::from_str(&json).expect("a plan");
    assert_eq!(&alone, file(&policy).plan());
}

#[test]
fn every_policy_reads_back() {
    let fine = Ratio::new(1.0 + f64::EPSILON).expect("a ratio");
    let policies = [
        Policy::default(),
        Policy { sizing: Sizing::Hybrid, graph_count: GraphCount::Count(-7), ..Policy::default() },
        Policy { sizing: Sizing::Geometric { decode: fine, prefill: Ratio::TWO }, ..Policy::default() },
        Policy { prefill_axis: PrefillAxis::List(vec![1, 8]), mixed_prefill_count: None, ..Policy::default() },
        Policy { token_ceiling: TokenCeiling::Tokens(i64::MIN), decode_only: true, ..Policy::default() },
        Policy { graph_count: GraphCount::None, batch_invariant: true, ..Policy::default() },
    ];
    let presets = Preset::ALL.map(|preset| preset.policy(&LIMITS).expect("a policy"));
    for policy in policies.into_iter().chain(presets) {
        let file = file(&policy);
        let back = read(&value(&file)).unwrap_or_else(|error| panic!("{policy:?}: {error}"));
        assert_eq!(back, file);
        assert_eq!((back.policy(), back.limits()), (Some(&policy), Some(&LIMITS)));
        assert_eq!(back.check(&LIMITS), Ok(file.plan()));
    }
}

#[test]
fn other_limits_are_refused_with_the_first_that_differs() {
    let file = file(&Policy::default());
    let refusal = |limits: Limits| file.check(&limits).expect_err("other limits").to_string();
    let cases = [
        (Limits { max_requests: 9, ..LIMITS }, "the plan is for max_requests `8`, not for `9`: make the plan again"),
        (Limits { max_tokens: 63, ..LIMITS }, "the plan is for max_tokens `64`, not for `63`: make the plan again"),
        (
            Limits { max_sequence_length: 256, ..LIMITS },
            "the plan is for max_sequence_length `128`, not for `256`: make the plan again",
        ),
        (
            Limits { tensor_parallel: 2, ..LIMITS },
            "the plan is for tensor_parallel `1`, not for `2`: make the plan again",
        ),
        (
            Limits { speculative_tokens: 1, ..LIMITS },
            "the plan is for speculative_tokens `0`, not for `1`: make the plan again",
        ),
    ];
    for (limits, sentence) in cases {
        assert_eq!(refusal(limits), sentence);
    }
}

#[test]
fn other_versions_are_refused_before_anything_else_is_read() {
    for (version, word) in [
        (json!(0), "0"),
        (json!(2), "2"),
        (json!(-1), "-1"),
        (json!(1.5), "1.5"),
        (json!("0.2.0"), "0.2.0"),
        (json!(u64::MAX), "18446744073709551615"),
    ] {
        let text = format!(r#"{{"version":{version},"policy":{{"sizing":"fibonacci"}},"points":"elsewhere"}}"#);
        let error = serde_json::from_str::<PlanFile>(&text).expect_err("another version").to_string();
        let sentence = format!("the plan is of version `{word}`; this program reads version 1: make the plan again");
        assert!(error.starts_with(&sentence), "{error}");
    }
}

#[test]
fn plans_alone_read_and_pass_no_check() {
    let plan = plan(&LIMITS, &Policy::default()).expect("a plan");
    let file: PlanFile = serde_json::from_str(&serde_json::to_string(&plan).expect("json")).expect("a file");
    assert_eq!((file.plan(), file.policy(), file.limits()), (&plan, None, None));
    assert_eq!(
        file.check(&LIMITS).expect_err("no limits").to_string(),
        "the plan names no version and no limits, so it may not fit these; make it again with them"
    );
    assert_eq!(serde_json::to_string(&file).expect("json"), serde_json::to_string(&plan).expect("json"));
    assert_eq!(file.into_plan(), plan);
    let minimal = r#"{"points":[{"tokens":2,"prefills":0,"decodes":2}]}"#;
    assert_eq!(serde_json::from_str::<PlanFile>(minimal).expect("a file").plan().len(), 1);
}

#[test]
fn hostile_files_are_sentences() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = value(&file(&Policy::default()));
        change(&mut value);
        read(&value)
    };
    let error = |change: &dyn Fn(&mut Value)| with(change).expect_err("no plan file");
    let missing = error(&|value| {
        value.as_object_mut().expect("an object").remove("limits");
    });
    assert!(missing.starts_with("the plan is of version 1 and names no limits"), "{missing}");
    let missing = error(&|value| value["policy"] = Value::Null);
    assert!(missing.starts_with("the plan is of version 1 and names no policy"), "{missing}");
    let ratio = error(&|value| value["policy"]["sizing"] = json!("geometric:1"));
    assert!(ratio.starts_with("the ratio is `1`; it must be a finite number above 1"), "{ratio}");
    let axis = error(&|value| value["policy"]["prefill_axis"] = json!("some"));
    assert!(axis.starts_with("`some` is not a prefill axis"), "{axis}");
    let unknown = error(&|value| value["policy"]["mood"] = json!("bright"));
    assert!(unknown.contains("mood"), "{unknown}");
    assert!(with(&|value| value["limits"]["max_requests"] = json!(-1)).is_err());
    assert!(with(&|value| value["points"] = json!(3)).is_err());
    let impossible = error(&|value| value["points"][0] = json!({"tokens": 1, "prefills": 2, "decodes": 0}));
    let sentence = InvalidPlan::ImpossiblePoint { index: 0, tokens: 1, prefills: 2, decodes: 0 }.to_string();
    assert!(impossible.starts_with(&sentence), "{impossible}");

    // Points of another plan under these limits.
    let crowded = with(&|value| {
        value["points"][0] = json!({"tokens": 64, "prefills": 9, "decodes": 9});
        value["token_counts"] = Value::Null;
    });
    let refusal = crowded.expect("a file").check(&LIMITS).expect_err("18 requests").to_string();
    assert_eq!(refusal, "points[0] has 18 requests; the plan's max_requests is 8");
}

//! Steps whose products take the kernels of a table equal those of the built-in choices, bit for bit.

use std::sync::Arc;

use gridpoint_graph::RequestKind;
use gridpoint_model::{ChoiceOrigin, MeasuredDevice, Measurement, ProductChoice, ProductKernel, ProductTable};
use gridpoint_plan::{GridPoint, Limits, Plan, Policy, plan};
use gridpoint_runtime::Launch as RecordedLaunch;

use super::rig::{Folder, Launch, Rig, Row};
use crate::support::{Case, TestDevice};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("products/no_table_changes_a_bit", no_table_changes_a_bit),
        Case::new("products/portable_kernels_change_no_bit", portable_kernels_change_no_bit),
        Case::new("products/a_table_of_another_device_is_refused", a_table_of_another_device_is_refused),
    ]
}

const MOST_TOKENS: u32 = 96;
const PAGES: u32 = 8;

fn wide_plan() -> Plan {
    let limits = Limits { max_requests: 4, max_tokens: MOST_TOKENS, max_sequence_length: 64, ..Limits::default() };
    let policy = Policy {
        token_ceiling: gridpoint_plan::TokenCeiling::new(true, None),
        graph_count: "1".parse().expect("a count"),
        ..Policy::default()
    };
    plan(&limits, &policy).expect("a plan")
}

fn rig(device: &TestDevice, folder: &Folder) -> Rig {
    Rig::new(device, folder, &wide_plan(), PAGES, 64)
}

/// Two decodes without a past and two prompts.
fn rows(tokens: u32) -> Vec<Row> {
    let row = |page: u32, count: u32| Row {
        kind: if page < 2 { RequestKind::Decode } else { RequestKind::Prefill },
        tokens: (0..count).map(|index| (index * 7 + page * 31) % 500).collect(),
        first_position: 0,
        pages: vec![page],
    };
    let long = (tokens - 2) / 2;
    vec![row(0, 1), row(1, 1), row(2, long), row(3, tokens - 2 - long)]
}

fn no_table_changes_a_bit(device: &TestDevice) {
    let folder = Folder::read("tests/models/llama-gqa");
    let mut rig = rig(device, &folder);
    for tokens in [20, MOST_TOKENS] {
        let point = GridPoint { tokens, prefills: 2, decodes: 2 };
        rig.model.choose_products(None).expect("the built-in choices");
        let built_in = rig.model.product_choices(point);
        assert!(built_in.0.iter().all(|choice| choice.origin == ChoiceOrigin::BuiltIn), "{built_in}");
        let rows = rows(tokens);
        let expected = rig.run(Launch::Recorded(point), point, &rows);
        expected.assert_finite("built in");
        for kernel in ProductKernel::all() {
            let mut table = ProductTable::new(rig.model.device().clone());
            // What products may not take, they do not: those keep the built-in choice.
            let permitted = |choice: &&ProductChoice| rig.model.product_candidates(choice.class).contains(&kernel);
            for choice in built_in.0.iter().filter(permitted) {
                let measurement = Measurement { kernel, rows: tokens, microseconds: vec![(kernel, 1.0)] };
                table.insert(choice.class, measurement).expect("it is permitted");
            }
            if table.entries().len() == 0 {
                continue;
            }
            rig.model.choose_products(Some(Arc::new(table.clone()))).expect("a table of this device");
            let chosen = rig.model.product_choices(point);
            for choice in chosen.0 {
                let measured = table.get(&choice.class).is_some();
                assert_eq!(choice.origin == ChoiceOrigin::Measured, measured, "{choice}");
                assert!(!measured || choice.kernel == kernel, "{choice}");
            }
            rig.model.poison_workspace().expect("the device works");
            let found = rig.run(Launch::Recorded(point), point, &rows);
            found.assert_equals(&expected, &format!("{tokens} tokens, {chosen} against {built_in}"));
            let names = rig.recorded(point).as_slice().iter().map(RecordedLaunch::name).collect::<Vec<_>>();
            let start = match kernel {
                ProductKernel::Skinny => "skinny_rotary".to_owned(),
                ProductKernel::Tiles(tile) => format!("gemm_{tile}_rotary"),
                ProductKernel::Hopper(tile) => format!("gemm_hopper_128x{}_rotary", tile.columns),
            };
            let taken = table.get(&built_in.0[0].class).is_some();
            assert_eq!(names.iter().any(|name| name.starts_with(&start)), taken, "{start}: {names:?}");
        }
    }
}

/// Attention and products by warpgroups against those that run on every device, over whole steps: prompts, then decodes behind them.
fn portable_kernels_change_no_bit(device: &TestDevice) {
    let folder = Folder::read("tests/models/llama-gqa");
    let plan = wide_plan();
    let mut best = Rig::new(device, &folder, &plan, PAGES, 128);
    let mut portable = Rig::portable(device, &folder, &plan, (PAGES, 128));
    let names = |rig: &Rig, point| rig.recorded(point).as_slice().iter().map(RecordedLaunch::name).collect::<Vec<_>>();
    let prompts = GridPoint { tokens: MOST_TOKENS, prefills: 2, decodes: 2 };
    let hopper = |names: Vec<&str>| names.into_iter().filter(|name| name.contains("hopper")).count();
    assert_eq!(hopper(names(&portable, prompts)), 0);
    let has_warpgroups = device.device().has_warpgroups();
    assert_eq!(hopper(names(&best, prompts)) > 0, has_warpgroups);
    let prompt = rows(MOST_TOKENS);
    let next = prompt.iter().map(|row| Row {
        kind: RequestKind::Decode,
        tokens: vec![7],
        first_position: row.first_position + row.tokens.len() as u32,
        pages: row.pages.clone(),
    });
    let decodes = GridPoint { tokens: 4, prefills: 0, decodes: 4 };
    for (point, rows) in [(prompts, prompt.clone()), (decodes, next.collect())] {
        let [found, expected] = [&mut best, &mut portable].map(|rig| rig.run(Launch::Recorded(point), point, &rows));
        expected.assert_finite("portable");
        found.assert_equals(&expected, &format!("{point}, the best kernels against portable ones"));
    }
}

fn a_table_of_another_device_is_refused(device: &TestDevice) {
    let folder = Folder::read("tests/models/llama-gqa");
    let mut rig = rig(device, &folder);
    let other = MeasuredDevice { name: "another card".to_owned(), ..rig.model.device().clone() };
    let error = rig.model.choose_products(Some(Arc::new(ProductTable::new(other)))).expect_err("another device");
    assert!(error.to_string().contains("its name is `another card`"), "{error}");
}

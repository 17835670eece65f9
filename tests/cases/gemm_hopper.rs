//! Cases of `kernels/gemm_hopper.cu`: every tile, epilogue, element type and cluster against float64 and bit for bit against
//! `kernels/gemm.cu`. Padding is never written, or is NaN. Devices without warpgroups skip them.

use gridpoint_model::{HopperTile, TensorOutput, TileCluster};
use gridpoint_runtime::TensorElement;
use gridpoint_runtime::parameters::{
    GRIDPOINT_GEMM_HOPPER_SHARED_BYTES, GRIDPOINT_ROWS_LOGITS, GemmParameters, StepHeader,
};
use half::bf16;

use super::gemm::reference_bits;
use super::instructions::capability;
use super::products::{Element, Epilogue, Form, Problem, SETUP, Setup, parameters, run, same_bits};
use super::rotary;
use crate::support::{Case, TestDevice};

/// All cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, run: fn(&TestDevice)| Case::new(name, run);
    vec![
        case("gemm_hopper/logits_match_float64", |device| matches_float64(device, Epilogue::Logits)),
        case("gemm_hopper/residual_matches_float64", |device| matches_float64(device, Epilogue::Residual)),
        case("gemm_hopper/swiglu_matches_float64", |device| matches_float64(device, Epilogue::SwiGlu)),
        case("gemm_hopper/rotary_rotates_and_appends", rotary_rotates_and_appends),
        case("gemm_hopper/rotary_keeps_bits", rotary_keeps_bits),
        case("gemm_hopper/segments_keep_bits", segments_keep_bits),
        case("gemm_hopper/grid_and_cluster_keep_bits", grid_and_cluster_keep_bits),
        case("gemm_hopper/batch_keeps_bits", batch_keeps_bits),
        case("gemm_hopper/logit_rows_bound_the_work", logit_rows_bound_the_work),
        case("gemm_hopper/residual_may_be_the_output", residual_may_be_the_output),
        case("gemm_hopper/rows_that_nobody_wrote_are_not_read", rows_that_nobody_wrote_are_not_read),
        case("gemm_hopper/without_rows_writes_nothing", without_rows_writes_nothing),
        case("gemm_hopper/nan_stays_in_its_row_and_column", nan_stays_in_its_row_and_column),
    ]
}

/// (rows, N, K): rows on both sides of a warpgroup's 64 and of a tile's 128, N and K that end inside a tile or a stage, more stages
/// than a ring has, more row tiles than one cluster.
const SHAPES: [(usize, usize, usize); 6] =
    [(1, 16, 8), (65, 336, 72), (128, 64, 1160), (130, 272, 200), (193, 144, 64), (300, 80, 104)];

const SINGLE: TileCluster = TileCluster::Single;

fn tile(columns: u32, cluster: TileCluster) -> HopperTile {
    HopperTile { columns, cluster }
}

/// The tiles with a cluster each, so that all tiles and all clusters occur.
const TILES: [(u32, TileCluster); 4] =
    [(64, TileCluster::Columns), (128, TileCluster::Rows), (192, SINGLE), (256, TileCluster::Rows)];

fn tensor_element(element: Element) -> TensorElement {
    match element {
        Element::Bf16 => TensorElement::Bf16,
        Element::F16 => TensorElement::F16,
    }
}

/// Launches the kernel of this tile on at least one cluster, at most `blocks` blocks.
fn launch(
    device: &TestDevice,
    tile: HopperTile,
    element: Element,
    (word, output): (&str, TensorOutput),
    gemm: GemmParameters,
    capacity: usize,
    blocks: u32,
) -> Result<(), String> {
    let suffix = if element == Element::F16 { "_f16" } else { "" };
    let name: &'static str = format!("gemm_hopper_128x{}_{word}{suffix}", tile.columns).leak();
    let failed = |error: gridpoint_runtime::RuntimeError| format!("{name} in {:?}: {error}", tile.cluster);
    let parameters = tile.parameters(gemm, tensor_element(element), output, capacity as u32).map_err(failed)?;
    let kernel = device.device().kernel(name, GRIDPOINT_GEMM_HOPPER_SHARED_BYTES).map_err(failed)?;
    let cluster = tile.cluster.blocks();
    let launch = kernel.launch((blocks / cluster).max(1) * cluster, &parameters).with_clusters(cluster);
    device.stream().launch(&launch).map_err(failed)?;
    device.stream().synchronize().map_err(failed)
}

fn tensor_output(epilogue: Epilogue) -> TensorOutput {
    match epilogue {
        Epilogue::Logits => TensorOutput::Registers,
        Epilogue::Residual => TensorOutput::Residual,
        Epilogue::SwiGlu => TensorOutput::Halved,
    }
}

fn product(device: &TestDevice, tile: HopperTile, form: Form, problem: &Problem, setup: Setup) -> Vec<u32> {
    let output = (form.epilogue.word(), tensor_output(form.epilogue));
    run(device, form, problem, setup, &|device: &TestDevice, gemm: GemmParameters, capacity, blocks| {
        launch(device, tile, problem.element, output, gemm, capacity, blocks)
    })
}

fn matches_float64(device: &TestDevice, epilogue: Epilogue) {
    if !capability(device).1 {
        return;
    }
    for (index, shape) in SHAPES.into_iter().enumerate() {
        let problem = Problem::new(Element::ALL[index % 2], shape);
        let form = Form { epilogue, bias: index % 3 != 1, scaled: index % 3 != 0 };
        let expected = reference_bits(device, form, &problem, SETUP);
        for (place, (columns, cluster)) in TILES.into_iter().enumerate() {
            // Every tile sees some of the shapes, and all clusters.
            if (place + index) % 2 != 0 && index != 3 {
                continue;
            }
            let cluster = if index % 2 == 0 { cluster } else { TileCluster::ALL[(place + index) % 3] };
            let what = format!("128x{columns} in {cluster:?}");
            let setup = Setup { blocks: 2 * place as u32 + 1, padding: 3, ..SETUP };
            let output = product(device, tile(columns, cluster), form, &problem, setup);
            problem.check(&what, form, &output);
            same_bits(&what, epilogue.width(problem.n), &output, &expected);
        }
    }
}

/// A launch of the rotary kernels.
fn rotary_launch(
    element: Element,
    tile: HopperTile,
) -> impl Fn(&TestDevice, GemmParameters, usize, u32) -> Result<(), String> {
    move |device, gemm, capacity, blocks| {
        // Without a row there is no map, and nothing to do.
        launch(device, tile, element, ("rotary", TensorOutput::Registers), gemm, capacity, blocks)
    }
}

fn rotary_rotates_and_appends(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    for (index, heads) in [
        rotary::Heads { query: 1, kv: 1, dim: 64 },
        rotary::Heads { query: 3, kv: 1, dim: 96 },
        rotary::Heads { query: 4, kv: 1, dim: 128 },
    ]
    .into_iter()
    .enumerate()
    {
        let element = Element::ALL[index % 2];
        let run = rotary::Run::random(element, heads, &rotary::REQUESTS, 40);
        let (columns, cluster) = TILES[index + 1];
        run.check(&run.launch(device, 2, 3, &rotary_launch(element, tile(columns, cluster))));
    }
}

fn rotary_keeps_bits(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    let run = rotary::Run::random(Element::Bf16, rotary::Heads { query: 4, kv: 2, dim: 64 }, &rotary::REQUESTS, 72);
    let expected = run.launch(device, 0, 3, &rotary::reference_launch(Element::Bf16));
    for (slack, blocks, (columns, cluster)) in [(0, 1, TILES[0]), (50, 4, TILES[1])] {
        let found = run.launch(device, slack, blocks, &rotary_launch(Element::Bf16, tile(columns, cluster)));
        assert!(found == expected, "{slack} padded tokens, {blocks} blocks, 128x{columns}: other bits");
    }
}

fn segments_keep_bits(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    for element in Element::ALL {
        let problem = Problem::new(element, (70, 72, 584));
        for (segment, columns, epilogue) in
            [(64, 128, Epilogue::Logits), (192, 64, Epilogue::Residual), (512, 128, Epilogue::Residual)]
        {
            let form = Form { epilogue, bias: true, scaled: true };
            let setup = Setup { segment, ..SETUP };
            let expected = reference_bits(device, form, &problem, setup);
            let output = product(device, tile(columns, SINGLE), form, &problem, setup);
            same_bits(&format!("128x{columns} in segments of {segment}"), problem.n, &output, &expected);
        }
    }
}

fn grid_and_cluster_keep_bits(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    let problem = Problem::new(Element::Bf16, (260, 136, 72));
    let form = Form::of(Epilogue::Residual);
    let expected = reference_bits(device, form, &problem, SETUP);
    for (columns, cluster, blocks) in [
        (64, SINGLE, 1),
        (64, TileCluster::Rows, 16),
        (64, TileCluster::Columns, 4),
        (128, TileCluster::Columns, 2),
        (128, TileCluster::Rows, 2),
    ] {
        let output = product(device, tile(columns, cluster), form, &problem, Setup { blocks, ..SETUP });
        same_bits(&format!("128x{columns} in {cluster:?} on {blocks} blocks"), problem.n, &output, &expected);
    }
}

fn batch_keeps_bits(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    let problem = Problem::new(Element::Bf16, (150, 144, 136));
    for (epilogue, columns) in [(Epilogue::Residual, 128), (Epilogue::SwiGlu, 64)] {
        let form = Form { epilogue, bias: true, scaled: true };
        let width = epilogue.width(problem.n);
        let all = product(device, tile(columns, TileCluster::Rows), form, &problem, SETUP);
        for (first, count, padding) in [(0, 1, 0), (15, 66, 200), (127, 2, 1), (149, 1, 62)] {
            let setup = Setup { padding, ..SETUP };
            let output = product(device, tile(columns, SINGLE), form, &problem.slice(first, count), setup);
            let what = format!("128x{columns} on rows from {first}");
            same_bits(&what, width, &output, &all[first * width..(first + count) * width]);
        }
    }
}

fn logit_rows_bound_the_work(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    let problem = Problem::new(Element::Bf16, (5, 1003, 64));
    let form = Form::of(Epilogue::Logits);
    let setup = Setup { rows: GRIDPOINT_ROWS_LOGITS, padding: 130, ..SETUP };
    for (columns, cluster) in [TILES[0], TILES[3]] {
        problem.check("128 rows", form, &product(device, tile(columns, cluster), form, &problem, setup));
    }
}

fn residual_may_be_the_output(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    let problem = Problem::new(Element::Bf16, (200, 192, 80));
    let form = Form { bias: true, ..Form::of(Epilogue::Residual) };
    for (columns, cluster) in [TILES[0], TILES[1]] {
        let setup = Setup { padding: 3, ..SETUP };
        let apart = product(device, tile(columns, cluster), form, &problem, setup);
        let in_place = product(device, tile(columns, cluster), form, &problem, Setup { in_place: true, ..setup });
        same_bits("in place", problem.n, &in_place, &apart);
    }
}

/// The rows behind the live ones of a product's output, which another product then takes, hold nothing.
fn rows_that_nobody_wrote_are_not_read(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    let problem = Problem::new(Element::Bf16, (67, 64, 64));
    let capacity = problem.rows + 70;
    let (activations, weights) = (device.upload(&problem.activations), device.upload(&problem.weights));
    let between = device.poisoned::<u16>(capacity * problem.n);
    let output = device.poisoned::<u16>(capacity * problem.n);
    let step = device.upload(&[StepHeader { tokens: problem.rows as u32, ..StepHeader::default() }]);
    let first = GemmParameters {
        activations: activations.as_ptr(),
        weights: weights.as_ptr(),
        // As wide and tall as the output.
        residual: activations.as_ptr(),
        output: between.as_mut_ptr().cast(),
        ..parameters(step.as_ptr(), &problem, 0)
    };
    let second = GemmParameters {
        activations: between.as_ptr(),
        residual: between.as_ptr(),
        output: output.as_mut_ptr().cast(),
        ..first
    };
    let tile = tile(64, TileCluster::Rows);
    let go = |gemm, epilogue: Epilogue, capacity| {
        let output = (epilogue.word(), tensor_output(epilogue));
        launch(device, tile, problem.element, output, gemm, capacity, 2).expect("the launch ends well");
    };
    // The first product's activations have no row but the live ones.
    go(first, Epilogue::Residual, problem.rows);
    go(second, Epilogue::Residual, capacity);
    let output = device.download(&output);
    let (live, padding) = output.split_at(problem.rows * problem.n);
    assert!(live.iter().all(|&bits| bf16::from_bits(bits).is_finite()), "padding reached a live row");
    assert!(padding.iter().all(|&bits| bits == 0xffff), "a padded row was written");
}

fn without_rows_writes_nothing(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    let problem = Problem::new(Element::Bf16, (4, 48, 16)).slice(0, 0);
    for epilogue in Epilogue::ALL {
        for (columns, cluster) in [TILES[0], TILES[3]] {
            let setup = Setup { padding: 20, ..SETUP };
            let output = product(device, tile(columns, cluster), Form::of(epilogue), &problem, setup);
            assert!(output.is_empty(), "{epilogue:?}: no row is live");
        }
    }
}

/// A NaN activation or weight is seen in exactly one row or column, also where tails are filled with zeros.
fn nan_stays_in_its_row_and_column(device: &TestDevice) {
    if !capability(device).1 {
        return;
    }
    let clean = Problem::new(Element::Bf16, (69, 72, 88));
    let (row, column) = (68, 70);
    let mut problem = clean.clone();
    problem.activations[row * problem.k + 87] = 0x7fc0;
    problem.weights[column * problem.k] = 0x7fc0;
    let form = Form::of(Epilogue::Residual);
    for (columns, cluster) in [TILES[0], TILES[1]] {
        let want = product(device, tile(columns, cluster), form, &clean, SETUP);
        let got = product(device, tile(columns, cluster), form, &problem, SETUP);
        for (index, (&got, &want)) in got.iter().zip(&want).enumerate() {
            let at = (index / problem.n, index % problem.n);
            if at.0 == row || at.1 == column {
                assert!(form.value(Element::Bf16, got).is_nan(), "128x{columns}: {at:?} lost a NaN");
            } else {
                assert!(got == want, "128x{columns}: {at:?} has bits {got:#x}, expected {want:#x}");
            }
        }
    }
}

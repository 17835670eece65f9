//! kernels/embedding.cu: rows are copied bit for bit, padding is untouched, ids outside the vocabulary give zeros.

use gridpoint_runtime::parameters::{EmbeddingParameters, GRIDPOINT_EMBEDDING_THREADS};

use super::fixture::{Random, step_block};
use crate::support::{Case, TestDevice};

const POISON: u16 = 0xffff;

/// The cases of this kernel.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, run| Case { name, run };
    vec![
        case("embedding/rows_are_copied", rows_are_copied as fn(&TestDevice)),
        case("embedding/ids_outside_the_vocabulary_give_zeros", ids_outside_the_vocabulary_give_zeros),
    ]
}

/// Runs the kernel over `ids` and returns output [ids + slack, hidden].
fn gather(device: &TestDevice, ids: &[i32], table: &[u16], hidden: usize, slack: usize, blocks: u32) -> Vec<u16> {
    let step = device.upload(&step_block(ids, &[], slack, 0));
    let table_on_device = device.upload(table);
    let output = device.poisoned::<u16>((ids.len() + slack) * hidden);
    let parameters = EmbeddingParameters {
        step: step.as_ptr().cast(),
        table: table_on_device.as_ptr(),
        output: output.as_mut_ptr(),
        hidden: hidden as u32,
        vocabulary: (table.len() / hidden) as u32,
    };
    device.launch("embedding_gather", blocks, GRIDPOINT_EMBEDDING_THREADS, 0, &parameters).expect("embedding_gather");
    device.download(&output)
}

fn assert_rows(output: &[u16], ids: &[i32], table: &[u16], hidden: usize, what: &str) {
    for (row, values) in output.chunks_exact(hidden).enumerate() {
        for (column, &value) in values.iter().enumerate() {
            let expected = match ids.get(row) {
                None => POISON,
                Some(&id) => {
                    usize::try_from(id).ok().and_then(|id| table.get(id * hidden + column)).copied().unwrap_or(0)
                }
            };
            assert_eq!(value, expected, "{what}: row {row}, column {column}");
        }
    }
}

fn rows_are_copied(device: &TestDevice) {
    let mut random = Random(1);
    for (tokens, hidden, vocabulary) in
        [(1, 8, 1), (1, 8192, 3), (5, 192, 1003), (67, 2048, 50), (300, 24, 7), (33, 1032, 7), (0, 64, 2)]
    {
        // All bit patterns, those of NaN too.
        let table: Vec<u16> = (0..vocabulary * hidden).map(|_| random.bits() as u16).collect();
        let ids: Vec<i32> = (0..tokens).map(|_| random.below(vocabulary) as i32).collect();
        for (slack, blocks) in [(0, 1), (3, 3), (61, 40)] {
            let output = gather(device, &ids, &table, hidden, slack, blocks);
            assert_eq!(output.len(), (tokens + slack) * hidden);
            assert_rows(
                &output,
                &ids,
                &table,
                hidden,
                &format!("[{tokens}, {hidden}] of {vocabulary}, {blocks} blocks"),
            );
        }
    }
}

fn ids_outside_the_vocabulary_give_zeros(device: &TestDevice) {
    let (hidden, vocabulary) = (40, 6);
    let table: Vec<u16> = (0..vocabulary * hidden).map(|i| i as u16 + 1).collect();
    let ids = [0, -1, 5, 6, i32::MAX, 3, i32::MIN, 7, 2];
    let output = gather(device, &ids, &table, hidden, 2, 2);
    assert_rows(&output, &ids, &table, hidden, "ids outside the vocabulary");
}

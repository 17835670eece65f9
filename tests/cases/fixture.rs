//! What the cases of the row-wise kernels share: random numbers, and step blocks with nothing but token ids and logit rows.

use gridpoint_runtime::parameters::{LogitRow, StepHeader};

pub(crate) use crate::support::random::Random;

/// A step of `token_ids.len()` tokens and `logit_rows.len()` logit rows.
///
/// The capacities exceed the real counts by `slack`, and what lies behind a count is 0xFF.
pub(crate) fn step_block(token_ids: &[i32], logit_rows: &[LogitRow], slack: usize, results_address: u64) -> Vec<u8> {
    let header_bytes = size_of::<StepHeader>().next_multiple_of(16);
    let token_bytes = ((token_ids.len() + slack) * size_of::<i32>()).next_multiple_of(16);
    let row_bytes = (logit_rows.len() + slack) * size_of::<LogitRow>();
    let mut block = vec![0xff_u8; header_bytes + token_bytes + row_bytes];
    let header = StepHeader {
        tokens: token_ids.len() as u32,
        logit_rows: logit_rows.len() as u32,
        token_capacity: (token_ids.len() + slack) as u32,
        logit_row_capacity: (logit_rows.len() + slack) as u32,
        token_ids_offset: header_bytes as u32,
        logit_rows_offset: (header_bytes + token_bytes) as u32,
        results_address,
        used_bytes: block.len() as u32,
        ..StepHeader::default()
    };
    block[..size_of::<StepHeader>()].copy_from_slice(bytemuck::bytes_of(&header));
    let ids: &[u8] = bytemuck::cast_slice(token_ids);
    block[header_bytes..][..ids.len()].copy_from_slice(ids);
    let rows: &[u8] = bytemuck::cast_slice(logit_rows);
    block[header_bytes + token_bytes..][..rows.len()].copy_from_slice(rows);
    block
}

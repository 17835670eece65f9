//! What the cases of the row-wise kernels share: random numbers, and step blocks with nothing but token ids and logit rows.

use gridpoint_runtime::parameters::{LogitRow, StepHeader};
use half::{bf16, f16};

pub(crate) use crate::support::random::Random;

/// A 16-bit element type of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// bfloat16: 8 bits of significand.
    Bf16,
    /// float16: 11 bits of significand, and its least number is 2^-24.
    F16,
}

impl Element {
    /// The nearest element.
    pub(crate) fn bits(self, value: f64) -> u16 {
        match self {
            Self::Bf16 => bf16::from_f64(value).to_bits(),
            Self::F16 => f16::from_f64(value).to_bits(),
        }
    }

    pub(crate) fn value(self, bits: u16) -> f64 {
        match self {
            // The upper half of a float32; half's own conversion takes most of a debug build's time in attention's cases.
            Self::Bf16 => f64::from(f32::from_bits(u32::from(bits) << 16)),
            Self::F16 => {
                let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
                let magnitude = match exponent {
                    0 => fraction * 2.0_f64.powi(-24),
                    31 if fraction == 0.0 => f64::INFINITY,
                    31 => f64::NAN,
                    _ => (1024.0 + fraction) * 2.0_f64.powi(exponent - 25),
                };
                if bits >> 15 == 1 { -magnitude } else { magnitude }
            }
        }
    }

    /// Half a unit in the last place, relative to the value.
    pub(crate) fn rounding(self) -> f64 {
        match self {
            Self::Bf16 => 1.0 / 256.0,
            Self::F16 => 1.0 / 2048.0,
        }
    }

    /// Half the least number above 0.
    pub(crate) fn half_least(self) -> f64 {
        match self {
            Self::Bf16 => 2.0_f64.powi(-134),
            Self::F16 => 2.0_f64.powi(-25),
        }
    }
}

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

//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864): inverse frequencies and the table of cosines and sines.
//!
//! Frequencies follow the definitions of Hugging Face transformers (`modeling_rope_utils`): `default`, `linear`
//! (position interpolation, Chen et al. 2023, arXiv:2306.15595) and `llama3` (Llama 3.1's scaling by wavelength).
//! Everything is computed in f64 and rounded to f32 once at the end of each stage.

use std::f64::consts::TAU;
use std::ops::Range;

/// The base of the frequencies and how they are scaled for contexts longer than the one trained first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// The base: dimension pair `i` of `n` turns by `theta^(-i/n)` radians a position before scaling.
    pub theta: f64,
    /// The scaling.
    pub scaling: RopeScaling,
}

/// How inverse frequencies are scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Long wavelengths divided by `factor`, short ones kept, those between interpolated.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// A wavelength above `original_positions / low_frequency_factor` is long.
        low_frequency_factor: f64,
        /// A wavelength below `original_positions / high_frequency_factor` is short.
        high_frequency_factor: f64,
        /// The context length that the model was trained on before scaling.
        original_positions: f64,
    },
}

/// The `head_dim / 2` inverse frequencies in radians a position, of dimension pairs `(i, i + head_dim / 2)`.
#[must_use]
pub fn inverse_frequencies(rope: &RopeConfig, head_dim: usize) -> Vec<f32> {
    let pairs = head_dim / 2;
    (0..pairs)
        .map(|pair| {
            let unscaled = rope.theta.powf(-(pair as f64) / pairs as f64);
            scale(&rope.scaling, unscaled) as f32
        })
        .collect()
}

fn scale(scaling: &RopeScaling, frequency: f64) -> f64 {
    match *scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_positions } => {
            let turns = original_positions * frequency / TAU;
            if turns < low_frequency_factor {
                frequency / factor
            } else if turns > high_frequency_factor {
                frequency
            } else {
                let kept = (turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }
}

/// Cosine and sine of every position's angle: `[positions][head_dim / 2][2]`, cosine first, row-major.
///
/// The angle is the product, in f64, of the position and the inverse frequency rounded to f32, so that a kernel that
/// holds the f32 frequencies and this table agree on the angle.
#[must_use]
pub fn rotary_table(rope: &RopeConfig, head_dim: usize, positions: usize) -> Vec<f32> {
    rotary_rows(rope, head_dim, 0..positions)
}

/// The rows of [`rotary_table`] for these positions: a long table is made in pieces.
pub(crate) fn rotary_rows(rope: &RopeConfig, head_dim: usize, positions: Range<usize>) -> Vec<f32> {
    let frequencies = inverse_frequencies(rope, head_dim);
    let mut table = Vec::with_capacity(positions.len().saturating_mul(frequencies.len()).saturating_mul(2));
    for position in positions {
        for &frequency in &frequencies {
            let (sine, cosine) = (position as f64 * f64::from(frequency)).sin_cos();
            table.extend([cosine as f32, sine as f32]);
        }
    }
    table
}

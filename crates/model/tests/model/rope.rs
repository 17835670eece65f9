//! Frequencies and the table against values computed by another route.

use std::f64::consts::PI;

use gridpoint_model::{ModelConfig, RopeConfig, RopeScaling, inverse_frequencies, rotary_table};

use crate::folder::fixture;

/// Asserts that `found` is `expected` rounded to f32, give or take one unit in the last place.
fn check(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (pair, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= 1.2e-7 * expected, "pair {pair}: {found} instead of {expected}");
    }
}

/// `theta^(-2i / head_dim)` as an exponential of a logarithm.
fn unscaled(theta: f64, head_dim: usize) -> Vec<f64> {
    (0..head_dim).step_by(2).map(|index| (-(index as f64) / head_dim as f64 * theta.ln()).exp()).collect()
}

#[test]
fn unscaled_frequencies() {
    let rope = RopeConfig { theta: 10_000.0, scaling: RopeScaling::Default };
    let found = inverse_frequencies(&rope, 64);
    check(&found, &unscaled(10_000.0, 64));
    // Computed once in double precision outside of this program.
    assert_eq!(
        [found[0], found[1], found[5], found[31]],
        [1.0, 0.749_894_209_332_455_9, 0.237_137_370_566_165_52, 0.000_133_352_143_216_332_4].map(|x: f64| x as f32)
    );
    check(&inverse_frequencies(&RopeConfig { theta: 1e6, ..rope }, 128), &unscaled(1e6, 128));
}

#[test]
fn linear_frequencies() {
    let rope = RopeConfig { theta: 10_000.0, scaling: RopeScaling::Linear { factor: 3.0 } };
    let expected: Vec<f64> = unscaled(10_000.0, 128).iter().map(|frequency| frequency / 3.0).collect();
    check(&inverse_frequencies(&rope, 128), &expected);
}

/// The definition by wavelengths, as transformers has it (`_compute_llama3_parameters`).
fn llama3_by_wavelength(theta: f64, head_dim: usize, [factor, low, high, original]: [f64; 4]) -> Vec<f64> {
    let scaled = |frequency: f64| {
        let wavelength = 2.0 * PI / frequency;
        let (longest_kept, shortest_scaled) = (original / high, original / low);
        if wavelength < longest_kept {
            frequency
        } else if wavelength > shortest_scaled {
            frequency / factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    };
    unscaled(theta, head_dim).into_iter().map(scaled).collect()
}

#[test]
fn llama3_frequencies() {
    let config = ModelConfig::load(&fixture("llama3-rope-scaling")).unwrap();
    let found = inverse_frequencies(&config.rope, 64);
    check(&found, &llama3_by_wavelength(500_000.0, 64, [8.0, 1.0, 4.0, 64.0]));
    // Wavelengths of pairs 0 to 2 are below 16 (kept), of 3 to 6 between, of 7 on above 64 (divided by 8); computed once
    // in double precision outside of this program. (Pair 7: 0.05667 / 8.)
    for (pair, expected) in [
        (0, 1.0),
        (1, 0.663_601_237_696_088_5),
        (2, 0.440_366_602_671_780_46),
        (3, 0.205_000_948_113_450_32),
        (4, 0.079_403_009_179_208_2),
        (5, 0.027_751_387_869_683_307),
        (6, 0.010_674_637_535_720_701),
        (7, 0.007_083_702_680_661_381),
        (31, 3.767_322_690_173_964e-7),
    ] {
        check(&found[pair..=pair], &[expected]);
    }
    // Llama 3.1 8B's own numbers.
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_positions: 8192.0,
    };
    let found = inverse_frequencies(&RopeConfig { theta: 500_000.0, scaling }, 128);
    check(&found, &llama3_by_wavelength(500_000.0, 128, [8.0, 1.0, 4.0, 8192.0]));
}

#[test]
fn table_is_laid_out_by_position_pair_and_function() {
    let rope = RopeConfig { theta: 10_000.0, scaling: RopeScaling::Linear { factor: 2.0 } };
    let frequencies = inverse_frequencies(&rope, 64);
    let table = rotary_table(&rope, 64, 2048);
    assert_eq!(table.len(), 2048 * 32 * 2);
    for position in [0, 1, 2, 63, 64, 1000, 2047] {
        for pair in [0, 1, 15, 31] {
            let angle = position as f64 * f64::from(frequencies[pair]);
            let [cosine, sine] = [0, 1].map(|function| f64::from(table[(position * 32 + pair) * 2 + function]));
            let error = (cosine - angle.cos()).abs().max((sine - angle.sin()).abs());
            assert!(error <= 6e-8, "position {position}, pair {pair}: ({cosine}, {sine})");
        }
    }
    assert_eq!(&table[..4], &[1.0, 0.0, 1.0, 0.0]);
    assert!(rotary_table(&rope, 64, 0).is_empty());
}

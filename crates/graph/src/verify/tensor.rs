//! What a step left, as bits with names.

/// How the bits of an element are read, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// A number without a sign.
    Unsigned,
    /// A number of 32 bits with a sign.
    Signed,
    /// float32.
    Float32,
    /// bfloat16.
    BFloat16,
    /// float16.
    Float16,
}

impl Element {
    /// The number that the bits are.
    #[must_use]
    pub fn value(self, bits: u64) -> f64 {
        match self {
            Self::Unsigned => bits as f64,
            Self::Signed => f64::from(bits as u32 as i32),
            Self::Float32 => f64::from(f32::from_bits(bits as u32)),
            Self::BFloat16 => f64::from(f32::from_bits((bits as u32 & 0xFFFF) << 16)),
            Self::Float16 => half_value(bits as u16),
        }
    }
}

/// The value of a float16 (IEEE 754 binary16).
fn half_value(bits: u16) -> f64 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1F), f64::from(bits & 0x3FF));
    sign * match exponent {
        0 => fraction * 2_f64.powi(-24),
        0x1F if fraction == 0.0 => f64::INFINITY,
        0x1F => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    }
}

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bits {
    /// All of them.
    All(Vec<u32>),
    /// Those that the step changed, by ascending place: place and bits.
    Changed(Vec<(u64, u32)>),
}

/// A tensor that a step may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, as in `key_cache`.
    pub name: &'static str,
    /// Names of its dimensions.
    pub axes: &'static [&'static str],
    /// The dimensions, slowest first.
    pub shape: Vec<u64>,
    /// How its bits are read.
    pub element: Element,
    /// Its elements.
    pub bits: Bits,
}

impl Tensor {
    /// The index of the element at a place.
    #[must_use]
    pub fn index(&self, place: u64) -> Vec<u64> {
        let mut rest = place;
        let mut index: Vec<u64> = self
            .shape
            .iter()
            .rev()
            .map(|&length| {
                let part = rest % length.max(1);
                rest /= length.max(1);
                part
            })
            .collect();
        index.reverse();
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_read_as_their_element_says() {
        assert_eq!(Element::BFloat16.value(0x3FC0), 1.5);
        assert_eq!(Element::Float16.value(0x3E00), 1.5);
        assert_eq!(Element::Float16.value(0x8001), -(2_f64.powi(-24)));
        assert!(Element::Float16.value(0xFFFF).is_nan());
        assert_eq!(Element::Float16.value(0x7C00), f64::INFINITY);
        assert_eq!(Element::Float32.value(0x3FC0_0000), 1.5);
        assert_eq!(Element::Signed.value(0xFFFF_FFFF), -1.0);
    }

    #[test]
    fn a_place_has_an_index() {
        let bits = Bits::All(Vec::new());
        let tensor =
            Tensor { name: "x", axes: &["a", "b", "c"], shape: vec![2, 3, 4], element: Element::Unsigned, bits };
        assert_eq!(tensor.index(0), [0, 0, 0]);
        assert_eq!(tensor.index(23), [1, 2, 3]);
        assert_eq!(tensor.index(13), [1, 0, 1]);
    }
}

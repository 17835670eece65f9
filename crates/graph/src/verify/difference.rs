//! The first place where two steps differ.

use gridpoint_runtime::Launches;

use super::tensor::{Bits, Element, Tensor};

/// The first element that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) tensor: &'static str,
    pub(super) axes: &'static [&'static str],
    pub(super) index: Vec<u64>,
    pub(super) element: Element,
    /// Bits; `None` where nothing was written.
    pub(super) found: Option<u64>,
    pub(super) expected: Option<u64>,
    /// The kernel, of launches.
    pub(super) kernel: Option<&'static str>,
}

/// The first element in which the tensors of two steps differ.
pub(super) fn of_tensors(found: &[Tensor], expected: &[Tensor]) -> Option<Difference> {
    let pairs = found.iter().zip(expected);
    pairs.filter_map(|(found, expected)| of_tensor(found, expected)).next()
}

fn of_tensor(found: &Tensor, expected: &Tensor) -> Option<Difference> {
    let (place, found_bits, expected_bits) = match (&found.bits, &expected.bits) {
        (Bits::All(found), Bits::All(expected)) => {
            let length = found.len().max(expected.len());
            let at = |bits: &Vec<u32>, place: usize| bits.get(place).copied();
            let place = (0..length).find(|&place| at(found, place) != at(expected, place))?;
            (place as u64, at(found, place), at(expected, place))
        }
        (Bits::Changed(found), Bits::Changed(expected)) => first_change(found, expected)?,
        // A subject that names a tensor once so and once so has broken its contract.
        (Bits::All(_), Bits::Changed(_)) | (Bits::Changed(_), Bits::All(_)) => (0, None, None),
    };
    Some(Difference {
        tensor: found.name,
        axes: found.axes,
        index: found.index(place),
        element: found.element,
        found: found_bits.map(u64::from),
        expected: expected_bits.map(u64::from),
        kernel: None,
    })
}

type Change = (u64, Option<u32>, Option<u32>);

fn first_change(found: &[(u64, u32)], expected: &[(u64, u32)]) -> Option<Change> {
    let same = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    match (found.get(same), expected.get(same)) {
        (None, None) => None,
        (Some(&(place, bits)), None) => Some((place, Some(bits), None)),
        (None, Some(&(place, bits))) => Some((place, None, Some(bits))),
        (Some(&(a, found)), Some(&(b, expected))) => Some(match a.cmp(&b) {
            std::cmp::Ordering::Less => (a, Some(found), None),
            std::cmp::Ordering::Equal => (a, Some(found), Some(expected)),
            std::cmp::Ordering::Greater => (b, None, Some(expected)),
        }),
    }
}

/// The first launch, and where its parameters differ the first word of 8 bytes, in which two lists differ.
pub(super) fn of_launches(found: &Launches, expected: &Launches) -> Option<Difference> {
    let (found, expected) = (found.as_slice(), expected.as_slice());
    let number = (0..found.len().max(expected.len())).find(|&number| found.get(number) != expected.get(number))?;
    let (found, expected) = (found.get(number), expected.get(number));
    let kernel = found.or(expected).map(gridpoint_runtime::Launch::name);
    let words = |launch: Option<&gridpoint_runtime::Launch>, word: usize| {
        launch.and_then(|launch| launch.parameters().get(word).copied())
    };
    let length = found.map_or(0, |launch| launch.parameters().len());
    let word = (0..length).find(|&word| expected.is_some() && words(found, word) != words(expected, word));
    let blocks = |launch: Option<&gridpoint_runtime::Launch>| launch.map(|launch| u64::from(launch.blocks()));
    let (axes, index, found, expected): (&'static [&'static str], _, _, _) = match word {
        Some(word) => {
            (&["launch", "word"], vec![number as u64, word as u64], words(found, word), words(expected, word))
        }
        // Another kernel, or another grid.
        None => (&["launch"], vec![number as u64], blocks(found), blocks(expected)),
    };
    Some(Difference { tensor: "launches", axes, index, element: Element::Unsigned, found, expected, kernel })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(bits: Bits) -> Tensor {
        Tensor { name: "x", axes: &["row", "element"], shape: vec![2, 3], element: Element::Unsigned, bits }
    }

    fn first(found: Bits, expected: Bits) -> Option<(Vec<u64>, Option<u64>, Option<u64>)> {
        of_tensors(&[tensor(found)], &[tensor(expected)]).map(|one| (one.index, one.found, one.expected))
    }

    #[test]
    fn the_first_difference_is_named() {
        let all = |bits: &[u32]| Bits::All(bits.to_vec());
        assert_eq!(first(all(&[1, 2, 3, 4]), all(&[1, 2, 3, 4])), None);
        assert_eq!(first(all(&[1, 2, 3, 5]), all(&[1, 2, 3, 4])), Some((vec![1, 0], Some(5), Some(4))));
        assert_eq!(first(all(&[1]), all(&[1, 2])), Some((vec![0, 1], None, Some(2))));
    }

    #[test]
    fn a_write_too_many_and_a_write_too_few_are_differences() {
        let changed = |list: &[(u64, u32)]| Bits::Changed(list.to_vec());
        assert_eq!(first(changed(&[(1, 7), (4, 8)]), changed(&[(1, 7), (4, 8)])), None);
        assert_eq!(first(changed(&[(1, 7), (4, 8)]), changed(&[(1, 7)])), Some((vec![1, 1], Some(8), None)));
        assert_eq!(first(changed(&[(1, 7)]), changed(&[(1, 7), (5, 9)])), Some((vec![1, 2], None, Some(9))));
        assert_eq!(first(changed(&[(2, 7)]), changed(&[(1, 7)])), Some((vec![0, 1], None, Some(7))));
        assert_eq!(first(changed(&[(1, 6)]), changed(&[(1, 7)])), Some((vec![0, 1], Some(6), Some(7))));
        assert_eq!(first(changed(&[(0, 6)]), changed(&[(1, 7)])), Some((vec![0, 0], Some(6), None)));
    }
}

//! From what bytes of a checkpoint a device tensor is made: stacked, with rows that alternate, with columns that are scaled.

use rayon::prelude::*;

use crate::weight_plan::{ELEMENT, ElementType};

/// Bytes that a thread writes at a time: its own stay in the cache closest to it, and handing them out costs nothing beside them.
const SHARE: usize = 64 << 10;

/// Bytes of an element.
const UNIT: usize = ELEMENT as usize;

/// A run of bytes of a given tensor, on the host or on the device.
pub(crate) trait Part: Copy {
    /// Its bytes.
    fn length(self) -> usize;
    /// Its first `at` bytes, at most all, and the rest.
    fn cut(self, at: usize) -> (Self, Self);

    /// The run in pieces of `length` bytes, the last one maybe shorter.
    fn pieces(self, length: usize) -> Vec<Self> {
        let (mut pieces, mut rest) = (Vec::new(), self);
        while rest.length() > 0 {
            let (piece, later) = rest.cut(length.clamp(1, rest.length()));
            pieces.push(piece);
            rest = later;
        }
        pieces
    }
}

impl Part for &[u8] {
    fn length(self) -> usize {
        self.len()
    }

    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at(at)
    }
}

/// What one device tensor is made of.
#[derive(Debug)]
pub(crate) struct Source<B> {
    pieces: Vec<Piece<B>>,
    scale: Option<Scale<B>>,
}

/// Parts of equal length of which `chunk` bytes each are taken in turn, from the first byte on, until all are used.
#[derive(Debug)]
struct Piece<B> {
    /// Where the piece begins in the device tensor.
    first: usize,
    parts: Vec<B>,
    chunk: usize,
}

/// A vector that multiplies every row, in float32, rounded once: the weights of a normalisation in front of the product.
#[derive(Debug, Clone, Copy)]
struct Scale<B> {
    columns: B,
    element: ElementType,
}

impl<B: Part> Source<B> {
    /// Pieces one behind another: parts of equal length, and how many bytes of each are taken in turn.
    pub(crate) fn new(pieces: impl IntoIterator<Item = (Vec<B>, usize)>) -> Self {
        let mut first = 0;
        let pieces = pieces.into_iter().map(|(parts, chunk)| {
            let piece = Piece { first, parts, chunk: chunk.max(1) };
            first += piece.length();
            piece
        });
        Self { pieces: pieces.collect(), scale: None }
    }

    /// A tensor of the checkpoint as it is.
    pub(crate) fn of(bytes: B) -> Self {
        Self::new([(vec![bytes], bytes.length())])
    }

    /// The same tensor with every row multiplied by the vector `columns`.
    pub(crate) fn scaled(self, columns: B, element: ElementType) -> Self {
        Self { scale: Some(Scale { columns, element }), ..self }
    }

    /// The vector that multiplies every row, if there is one.
    pub(crate) fn scale(&self) -> Option<(B, ElementType)> {
        self.scale.map(|scale| (scale.columns, scale.element))
    }

    /// The source in runs of at most `most` bytes, each made of what it alone needs, in order. A run begins at a row where rows are scaled,
    /// and is longer than `most` only where one turn of all parts, or one row, is.
    pub(crate) fn windows(&self, most: usize) -> Vec<Window<B>> {
        let row = self.scale.map_or(UNIT, |scale| scale.columns.length()).max(1);
        let mut windows = Vec::new();
        for Piece { first, parts, chunk } in &self.pieces {
            let unit = if parts.len() == 1 { row } else { *chunk };
            let step = (most / (unit * parts.len().max(1))).max(1) * unit;
            let pieces: Vec<Vec<B>> = parts.iter().map(|part| part.pieces(step)).collect();
            let mut first = *first;
            for index in 0..pieces.first().map_or(0, Vec::len) {
                let parts: Vec<B> = pieces.iter().filter_map(|part| part.get(index).copied()).collect();
                let bytes: usize = parts.iter().map(|part| part.length()).sum();
                windows.push(Window { first, parts, chunk: *chunk });
                first += bytes;
            }
        }
        windows
    }
}

/// A run of a source: parts of which `chunk` bytes each are taken in turn.
#[derive(Debug, Clone)]
pub(crate) struct Window<B> {
    /// Where it begins in the device tensor.
    pub(crate) first: usize,
    pub(crate) parts: Vec<B>,
    pub(crate) chunk: usize,
}

impl Source<&[u8]> {
    /// Fills `out` with the bytes from `offset` on; false where there are not that many.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        let Some(scale) = &self.scale else { return self.copy(offset, out) };
        // Elements that the ends of the range cut through are made whole aside.
        let (first, rest) = out.split_at_mut((offset.next_multiple_of(UNIT) - offset).min(out.len()));
        let (middle, last) = rest.split_at_mut(rest.len() / UNIT * UNIT);
        let whole = offset + first.len();
        let cut = |offset: usize, out: &mut [u8]| {
            let mut element = [0_u8; UNIT];
            let start = offset / UNIT * UNIT;
            let filled = out.is_empty() || self.copy(start, &mut element);
            scale.apply(start, &mut element);
            out.copy_from_slice(&element[offset - start..][..out.len()]);
            filled
        };
        if !cut(offset, first) || !cut(whole + middle.len(), last) || !self.copy(whole, middle) {
            return false;
        }
        scale.apply(whole, middle);
        true
    }

    /// As [`Source::read`], with the threads of rayon's pool sharing the work; the bytes do not depend on how many there are.
    pub(crate) fn read_by_all(&self, offset: usize, out: &mut [u8]) -> bool {
        out.par_chunks_mut(SHARE).enumerate().all(|(share, out)| self.read(offset + share * SHARE, out))
    }

    fn copy(&self, offset: usize, out: &mut [u8]) -> bool {
        let mut index = self.pieces.partition_point(|piece| piece.first <= offset).saturating_sub(1);
        let (mut offset, mut rest) = (offset, out);
        while !rest.is_empty() {
            let Some(piece) = self.pieces.get(index) else { return false };
            let (now, later) = rest.split_at_mut((piece.first + piece.length()).saturating_sub(offset).min(rest.len()));
            piece.copy(offset - piece.first, now);
            offset += now.len();
            rest = later;
            index += 1;
        }
        true
    }
}

impl<B: Part> Piece<B> {
    fn length(&self) -> usize {
        self.parts.iter().map(|part| part.length()).sum()
    }
}

impl Piece<&[u8]> {
    /// Fills `out`, which lies inside the piece, with the bytes from `offset` on.
    fn copy(&self, offset: usize, out: &mut [u8]) {
        let (mut offset, mut rest) = (offset, out);
        while !rest.is_empty() {
            let (turn, within) = (offset / self.chunk, offset % self.chunk);
            let part = self.parts[turn % self.parts.len()];
            let start = turn / self.parts.len() * self.chunk + within;
            let (now, later) = rest.split_at_mut((self.chunk - within).min(part.len() - start).min(rest.len()));
            now.copy_from_slice(&part[start..start + now.len()]);
            offset += now.len();
            rest = later;
        }
    }
}

impl Scale<&[u8]> {
    /// Multiplies the elements that begin at byte `offset` of the tensor.
    fn apply(&self, offset: usize, elements: &mut [u8]) {
        let width = self.columns.len();
        if width == 0 {
            return;
        }
        let mut column = offset % width;
        let mut rest = elements;
        while !rest.is_empty() {
            let (row, later) = rest.split_at_mut((width - column).min(rest.len()));
            let scales = self.columns[column..column + row.len()].chunks_exact(UNIT);
            for (element, scale) in row.chunks_exact_mut(UNIT).zip(scales) {
                let bits = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
                let product = self.element.widen(bits(element)) * self.element.widen(bits(scale));
                element.copy_from_slice(&self.element.narrow(product).to_le_bytes());
            }
            column = 0;
            rest = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        values.into_iter().flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect()
    }

    #[test]
    fn any_range_of_a_scaled_interleaved_source_is_that_of_the_whole() {
        let (first, second) = (bytes((0..12).map(|i| i as f32)), bytes((0..12).map(|i| 100.0 + i as f32)));
        let (third, columns) = (bytes((0..6).map(|i| -(i as f32))), bytes([2.0, 0.5, -1.0]));
        let source = || {
            Source::new([(vec![&first[..], &second[..]], 6), (vec![&third[..]], 12)])
                .scaled(&columns, ElementType::BFloat16)
        };
        let mut whole = vec![0; 60];
        assert!(source().read(0, &mut whole));
        let values: Vec<f32> = whole.chunks(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect();
        assert_eq!(values[..9], [0.0, 0.5, -2.0, 200.0, 50.5, -102.0, 6.0, 2.0, -5.0]);
        assert_eq!(values[24..], [0.0, -0.5, 2.0, -6.0, -2.0, 5.0]);
        for start in 0..60 {
            for end in start..=60 {
                let mut part = vec![0; end - start];
                assert!(source().read(start, &mut part), "{start}..{end}");
                assert_eq!(part, whole[start..end], "{start}..{end}");
            }
        }
        assert!(!source().read(0, &mut [0; 61]));
        assert!(!source().read(60, &mut [0; 1]));
    }

    /// A single run takes any number of rows, several parts whole turns; together they are the tensor, whatever the limit.
    #[test]
    fn windows_are_the_source_in_order() {
        let (first, second) = (bytes((0..12).map(|i| i as f32)), bytes((0..12).map(|i| 100.0 + i as f32)));
        let (third, columns) = (bytes((0..6).map(|i| -(i as f32))), bytes([2.0, 0.5, -1.0]));
        let source = Source::new([(vec![&first[..], &second[..]], 6), (vec![&third[..]], 12)])
            .scaled(&columns, ElementType::BFloat16);
        let mut whole = vec![0; 60];
        assert!(source.read(0, &mut whole));
        for most in [0, 6, 12, 24, 30, 1 << 20] {
            let mut together = Vec::new();
            for Window { first, parts, chunk } in source.windows(most) {
                assert_eq!(first, together.len(), "most {most}");
                let mut out = vec![0; parts.iter().map(|part| part.len()).sum()];
                assert!(out.len() <= most.max(12), "most {most}: {}", out.len());
                assert!(Source::new([(parts, chunk)]).scaled(&columns, ElementType::BFloat16).read_by_all(0, &mut out));
                together.extend(out);
            }
            assert_eq!(together, whole, "most {most}");
        }
    }

    #[test]
    fn products_are_rounded_once_in_either_type() {
        for bits in (0..=u16::MAX).step_by(7) {
            let (a, b) = (bf16::from_bits(bits).to_f32() * 1.37, f16::from_bits(bits).to_f32() * 1.37);
            let (narrow_a, narrow_b) = (ElementType::BFloat16.narrow(a), ElementType::Float16.narrow(b));
            assert_eq!(bf16::from_bits(narrow_a).to_f32().to_bits(), bf16::from_f32(a).to_f32().to_bits(), "{a}");
            assert_eq!(narrow_b, f16::from_f32(b).to_bits(), "{b}");
        }
    }
}

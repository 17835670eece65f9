//! Which bytes of an allocation somebody has written.

use std::sync::atomic::{AtomicU64, Ordering};

const WORD_BITS: usize = u64::BITS as usize;

/// A bit for each byte. Launches that are watched run on one thread, and the driver changes bits only while no kernel runs.
#[derive(Debug)]
pub(crate) struct Initialised {
    words: Box<[AtomicU64]>,
}

impl Initialised {
    /// `bytes` bytes that nobody has written.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { words: (0..bytes.div_ceil(WORD_BITS)).map(|_| AtomicU64::new(0)).collect() }
    }

    fn change(&self, first: usize, bytes: usize, change: impl Fn(u64, u64) -> u64) {
        for (word, mask) in masks(first, bytes) {
            let word = &self.words[word];
            word.store(change(word.load(Ordering::Relaxed), mask), Ordering::Relaxed);
        }
    }

    /// Bytes from `first` on are written.
    #[inline]
    pub(crate) fn set(&self, first: usize, bytes: usize) {
        self.change(first, bytes, |word, mask| word | mask);
    }

    /// Bytes from `first` on hold nothing any more.
    pub(crate) fn clear(&self, first: usize, bytes: usize) {
        self.change(first, bytes, |word, mask| word & !mask);
    }

    /// The first byte from `first` on that nobody has written.
    #[inline]
    pub(crate) fn first_unset(&self, first: usize, bytes: usize) -> Option<usize> {
        masks(first, bytes).find_map(|(word, mask)| {
            let unset = !self.words[word].load(Ordering::Relaxed) & mask;
            (unset != 0).then(|| word * WORD_BITS + unset.trailing_zeros() as usize)
        })
    }

    /// Takes over what is known of `bytes` bytes of `from`.
    pub(crate) fn copy(&self, first: usize, from: &Self, from_first: usize, bytes: usize) {
        let known: Vec<bool> = (0..bytes).map(|byte| from.first_unset(from_first + byte, 1).is_none()).collect();
        for (byte, known) in known.into_iter().enumerate() {
            if known { self.set(first + byte, 1) } else { self.clear(first + byte, 1) }
        }
    }
}

/// The words and bits of a range.
#[inline]
fn masks(first: usize, bytes: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = first + bytes;
    (first / WORD_BITS..end.div_ceil(WORD_BITS)).filter(move |_| bytes != 0).map(move |word| {
        let low = first.saturating_sub(word * WORD_BITS);
        let high = (end - word * WORD_BITS).min(WORD_BITS);
        (word, (u64::MAX << low) & (u64::MAX >> (WORD_BITS - high)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_exact() {
        let bytes = Initialised::new(200);
        assert_eq!(bytes.first_unset(0, 200), Some(0));
        bytes.set(3, 130);
        assert_eq!(bytes.first_unset(3, 130), None);
        assert_eq!((bytes.first_unset(2, 2), bytes.first_unset(3, 131)), (Some(2), Some(133)));
        assert_eq!(bytes.first_unset(0, 0), None);
        bytes.clear(64, 1);
        assert_eq!(bytes.first_unset(3, 130), Some(64));
        let copy = Initialised::new(200);
        copy.copy(10, &bytes, 60, 10);
        assert_eq!(
            (copy.first_unset(10, 4), copy.first_unset(10, 10), copy.first_unset(15, 5)),
            (None, Some(14), None)
        );
    }
}

//! Sets of byte addresses.

use std::collections::HashMap;

const PAGE_BYTES: usize = 4096;
const WORD_BITS: usize = u64::BITS as usize;
const RECENT: usize = 64;

/// One bit a byte.
type Page = [u64; PAGE_BYTES / WORD_BITS];

/// A set of byte addresses.
#[derive(Clone, Debug)]
pub(super) struct Footprint {
    pages: Vec<(usize, Box<Page>)>,
    index: HashMap<usize, usize>,
    /// Numbers of pages and their places, so that most accesses ask no hash.
    recent: [(usize, usize); RECENT],
}

impl Default for Footprint {
    fn default() -> Self {
        Self { pages: Vec::new(), index: HashMap::new(), recent: [(usize::MAX, 0); RECENT] }
    }
}

impl Footprint {
    /// Adds `bytes` bytes from `address` on.
    pub(super) fn add(&mut self, address: usize, bytes: usize) {
        let (mut at, end) = (address, address + bytes);
        while at < end {
            let next = (at - at % WORD_BITS + WORD_BITS).min(end);
            let mask = !0 >> (WORD_BITS - (next - at)) << (at % WORD_BITS);
            self.page(at / PAGE_BYTES)[at % PAGE_BYTES / WORD_BITS] |= mask;
            at = next;
        }
    }

    /// Adds what `other` holds.
    pub(super) fn unite(&mut self, other: &Self) {
        for (number, page) in &other.pages {
            self.page(*number).iter_mut().zip(page.iter()).for_each(|(word, other)| *word |= other);
        }
    }

    /// How many bytes it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.pages.iter().flat_map(|(_, page)| page.iter()).map(|word| u64::from(word.count_ones())).sum()
    }

    fn page(&mut self, number: usize) -> &mut Page {
        let recent = &mut self.recent[number % RECENT];
        if recent.0 != number {
            let place = *self.index.entry(number).or_insert_with(|| {
                self.pages.push((number, Box::new([0; PAGE_BYTES / WORD_BITS])));
                self.pages.len() - 1
            });
            *recent = (number, place);
        }
        &mut self.pages[recent.1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_counts_once() {
        let mut footprint = Footprint::default();
        footprint.add(4090, 16);
        footprint.add(4100, 1);
        footprint.add(1 << 40, 130);
        footprint.add((1 << 40) + 129, 1);
        footprint.add(7, 0);
        assert_eq!(footprint.bytes(), 16 + 130);
        let mut other = Footprint::default();
        other.add(4095, 20);
        other.unite(&footprint);
        assert_eq!(other.bytes(), 5 + 20 + 130);
    }
}

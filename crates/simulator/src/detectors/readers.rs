//! The readers of a word since its last write: all in the running block, and of other blocks the latest few. Atomic instructions are among
//! them, since they do not exclude each other either.

use super::clock::{Epoch, View};

/// Readers kept one by one.
const LISTED: usize = 12;
/// Readers of other blocks that are not given up for those of this one.
const LISTED_ELSEWHERE: usize = 4;

/// All readers of one block: a clock for each thread, zero for none.
#[derive(Clone)]
struct Dense {
    block: u32,
    reads: Vec<u32>,
    atomics: Vec<u32>,
}

/// The readers.
#[derive(Clone, Default)]
pub(super) struct Readers {
    listed: [u64; LISTED],
    length: usize,
    dense: Option<Box<Dense>>,
}

impl Readers {
    pub(super) fn two(first: Epoch, second: Epoch) -> Self {
        let mut readers = Self::default();
        readers.push(first);
        readers.push(second);
        readers
    }

    /// Those that are atomic instructions.
    pub(super) fn atomics(&self) -> impl Iterator<Item = Epoch> + '_ {
        self.listed().filter(|epoch| epoch.has(Epoch::SPECIAL)).chain(self.dense(true))
    }

    fn listed(&self) -> impl Iterator<Item = Epoch> + '_ {
        self.listed[..self.length].iter().map(|&bits| Epoch::from_bits(bits))
    }

    fn push(&mut self, epoch: Epoch) {
        self.listed[self.length] = epoch.bits();
        self.length += 1;
    }

    fn remove(&mut self, index: usize) {
        self.listed.copy_within(index + 1..self.length, index);
        self.length -= 1;
    }

    /// The dense readers, of kind `atomic`.
    fn dense(&self, atomic: bool) -> impl Iterator<Item = Epoch> + '_ {
        self.dense.iter().flat_map(move |dense| {
            let (clocks, flags) = if atomic { (&dense.atomics, Epoch::SPECIAL) } else { (&dense.reads, 0) };
            let of = Epoch::from_bits(0).in_block(dense.block);
            (0..)
                .zip(clocks)
                .filter(|(_, clock)| **clock != 0)
                .map(move |(thread, &clock)| of.of(thread, clock).with(flags))
        })
    }

    /// A reader that nothing orders before a write now.
    pub(super) fn conflict_with_write(&self, view: View<'_>) -> Option<Epoch> {
        let all = self.listed().chain(self.dense(false)).chain(self.dense(true));
        all.into_iter().find(|&epoch| !view.knows(epoch))
    }

    /// Takes in a reader; the answer is one that it must not meet.
    pub(super) fn add(&mut self, me: Epoch, view: View<'_>) -> Option<Epoch> {
        let threads = view.threads;
        if let Some(found) = self.listed().find(|&epoch| conflicts(epoch, me) && !view.knows(epoch)) {
            return Some(found);
        }
        let atomic = me.has(Epoch::SPECIAL);
        if let Some(found) = self.dense(!atomic).find(|&epoch| !view.knows(epoch)) {
            return Some(found);
        }
        if let Some(dense) = &mut self.dense
            && dense.block == me.block()
        {
            dense.set(me, threads);
            return None;
        }
        if self.dense.is_some() {
            let kept: Vec<Epoch> = self.dense(false).chain(self.dense(true)).collect();
            self.dense = None;
            for &epoch in kept.first().into_iter().chain(kept.last()) {
                if self.length == LISTED {
                    self.remove(0);
                }
                self.push(epoch);
            }
        }
        let mut index = 0;
        while index < self.length {
            let epoch = Epoch::from_bits(self.listed[index]);
            if epoch.has(Epoch::SPECIAL) == atomic && view.knows(epoch) {
                self.remove(index);
            } else {
                index += 1;
            }
        }
        if self.length == LISTED {
            self.make_room(me, threads);
            if let Some(dense) = &mut self.dense {
                dense.set(me, threads);
                return None;
            }
        }
        self.push(me);
        None
    }

    fn make_room(&mut self, me: Epoch, threads: usize) {
        let elsewhere = self.listed().filter(|epoch| epoch.block() != me.block()).count();
        if elsewhere > LISTED_ELSEWHERE {
            let oldest = self.listed().position(|epoch| epoch.block() != me.block()).unwrap_or(0);
            self.remove(oldest);
            return;
        }
        let mut dense = Box::new(Dense { block: me.block(), reads: Vec::new(), atomics: Vec::new() });
        for index in (0..self.length).rev() {
            let epoch = Epoch::from_bits(self.listed[index]);
            if epoch.block() == me.block() {
                dense.set(epoch, threads);
                self.remove(index);
            }
        }
        self.dense = Some(dense);
    }
}

impl Dense {
    fn set(&mut self, epoch: Epoch, threads: usize) {
        let clocks = if epoch.has(Epoch::SPECIAL) { &mut self.atomics } else { &mut self.reads };
        clocks.resize(threads, 0);
        let clock = &mut clocks[epoch.thread() as usize];
        *clock = epoch.clock().max(*clock);
    }
}

/// Whether two accesses that do not write plainly exclude each other: atomics and reads do, and atomics of which one does not reach the
/// other's block.
pub(super) fn conflicts(a: Epoch, b: Epoch) -> bool {
    if a.has(Epoch::SPECIAL) != b.has(Epoch::SPECIAL) {
        return true;
    }
    (a.has(Epoch::BLOCK_SCOPE) || b.has(Epoch::BLOCK_SCOPE)) && a.block() != b.block()
}

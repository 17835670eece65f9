//! What is remembered of memory: for each word who wrote it last, and who has read it since.
//!
//! A word is one [`Word`] while all its bytes have the same history; an access to a part of it splits it into bytes until the whole is
//! written again.

use super::clock::{Epoch, LAST_BLOCK, View};
use super::readers::{Readers, conflicts};
use crate::fault::Access;

/// Bytes of a word.
pub(super) const WORD_BYTES: usize = 4;
const ALL_BYTES: u8 = 0b1111;
/// A field holds an index into [`Pools`].
const INDIRECT: u64 = 1 << 63;

/// How a word is touched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Read,
    Write,
    Atomic,
    /// A copy under way will write it.
    Copy,
}

/// What is wrong with an access.
pub(super) enum Conflict {
    /// Nothing orders it after an earlier access, of this kind.
    Race(Epoch, Access),
    /// A copy to the word is under way.
    UnderWay(Epoch),
    /// Nothing wrote the word.
    Unwritten,
}

/// A word, or a byte of one: the last write, and what read it since or, of the kind of [`How::Atomic`], changed it.
#[derive(Clone, Copy, Default)]
pub(super) struct Word {
    write: u64,
    readers: u64,
}

impl Word {
    /// Whether nothing wrote it; false for one that is split.
    fn unwritten(self) -> bool {
        self.write == 0
    }
}

fn kind(epoch: Epoch) -> Access {
    if epoch.has(Epoch::SPECIAL) { Access::Atomic } else { Access::Read }
}

/// What does not fit a [`Word`].
#[derive(Default)]
pub(super) struct Pools {
    sets: Vec<Readers>,
    free_sets: Vec<usize>,
    splits: Vec<[Word; WORD_BYTES]>,
    free_splits: Vec<usize>,
    /// Whether a read of what nothing wrote is a conflict.
    unwritten: bool,
}

impl Pools {
    /// Pools for the words of a new chain of launches, or of a new block's shared memory.
    pub(super) fn begin(&mut self, unwritten: bool) {
        self.sets.clear();
        self.free_sets.clear();
        self.splits.clear();
        self.free_splits.clear();
        self.unwritten = unwritten;
    }

    fn new_set(&mut self, readers: Readers) -> u64 {
        let index = match self.free_sets.pop() {
            Some(index) => index,
            None => {
                self.sets.push(Readers::default());
                self.sets.len() - 1
            }
        };
        self.sets[index] = readers;
        INDIRECT | index as u64
    }

    fn free_set(&mut self, readers: u64) {
        if readers & INDIRECT != 0 {
            let index = (readers & !INDIRECT) as usize;
            self.sets[index] = Readers::default();
            self.free_sets.push(index);
        }
    }

    /// `me` touches the bytes `mask` of `word`.
    #[inline]
    pub(super) fn touch(
        &mut self,
        word: &mut Word,
        mask: u8,
        me: Epoch,
        view: View<'_>,
        how: How,
    ) -> Result<(), Conflict> {
        if mask == ALL_BYTES && word.write & INDIRECT == 0 {
            self.touch_one(word, me, view, how)
        } else {
            self.touch_bytes(word, mask, me, view, how)
        }
    }

    #[inline(never)]
    fn touch_bytes(&mut self, word: &mut Word, mask: u8, me: Epoch, view: View<'_>, how: How) -> Result<(), Conflict> {
        if word.write & INDIRECT == 0 {
            let mut bytes = [*word; WORD_BYTES];
            if word.readers & INDIRECT != 0 {
                for byte in &mut bytes[1..] {
                    let readers = self.sets[(word.readers & !INDIRECT) as usize].clone();
                    byte.readers = self.new_set(readers);
                }
            }
            let index = match self.free_splits.pop() {
                Some(index) => index,
                None => {
                    self.splits.push(bytes);
                    self.splits.len() - 1
                }
            };
            self.splits[index] = bytes;
            *word = Word { write: INDIRECT | index as u64, readers: 0 };
        }
        let index = (word.write & !INDIRECT) as usize;
        let mut bytes = self.splits[index];
        let touched = (0..WORD_BYTES)
            .filter(|byte| mask >> byte & 1 != 0)
            .try_for_each(|byte| self.touch_one(&mut bytes[byte], me, view, how));
        self.splits[index] = bytes;
        if touched.is_ok() && mask == ALL_BYTES && matches!(how, How::Write | How::Copy) {
            *word = bytes[0];
            self.free_splits.push(index);
        }
        touched
    }

    #[inline]
    fn touch_one(&mut self, word: &mut Word, me: Epoch, view: View<'_>, how: How) -> Result<(), Conflict> {
        if matches!(how, How::Read | How::Atomic) {
            if word.readers == me.bits() {
                return Ok(());
            }
            if word.unwritten() {
                if self.unwritten {
                    return Err(Conflict::Unwritten);
                }
            } else {
                after_write(*word, view)?;
            }
            return self.add_reader(word, me, view);
        }
        let me = if how == How::Copy { me.with(Epoch::SPECIAL) } else { me };
        if word.write == me.bits() && word.readers == 0 && how == How::Write {
            return Ok(());
        }
        if !word.unwritten() {
            after_write(*word, view)?;
        }
        if word.readers & INDIRECT != 0 {
            if let Some(epoch) = self.sets[(word.readers & !INDIRECT) as usize].conflict_with_write(view) {
                return Err(Conflict::Race(epoch, kind(epoch)));
            }
            self.free_set(word.readers);
        } else if word.readers != 0 {
            let epoch = Epoch::from_bits(word.readers);
            if !view.knows(epoch) {
                return Err(Conflict::Race(epoch, kind(epoch)));
            }
        }
        *word = Word { write: me.bits(), readers: 0 };
        Ok(())
    }

    #[inline]
    fn add_reader(&mut self, word: &mut Word, me: Epoch, view: View<'_>) -> Result<(), Conflict> {
        if word.readers == 0 {
            word.readers = me.bits();
            return Ok(());
        }
        if word.readers & INDIRECT == 0 {
            let epoch = Epoch::from_bits(word.readers);
            let known = view.knows(epoch);
            if !known && conflicts(epoch, me) {
                return Err(Conflict::Race(epoch, kind(epoch)));
            }
            if known && epoch.has(Epoch::SPECIAL) == me.has(Epoch::SPECIAL) {
                word.readers = me.bits();
                return Ok(());
            }
            word.readers = self.new_set(Readers::two(epoch, me));
            return Ok(());
        }
        match self.sets[(word.readers & !INDIRECT) as usize].add(me, view) {
            None => Ok(()),
            Some(epoch) => Err(Conflict::Race(epoch, kind(epoch))),
        }
    }

    /// The copy to `word` has landed: it is a write of `me` now.
    pub(super) fn land(&mut self, word: &mut Word, me: Epoch) {
        if word.write & INDIRECT == 0 {
            self.free_set(word.readers);
            *word = Word { write: me.bits(), readers: 0 };
        }
    }

    /// Whether a block from `first` on has changed `word`, plainly or atomically, as far as blocks are told apart.
    pub(super) fn changed_since(&self, word: Word, first: u32) -> bool {
        if word.write & INDIRECT != 0 {
            let bytes = self.splits[(word.write & !INDIRECT) as usize];
            return bytes.into_iter().any(|byte| self.changed_since(byte, first));
        }
        let since = |epoch: Epoch| (first..LAST_BLOCK).contains(&epoch.block());
        if word.write != 0 && since(Epoch::from_bits(word.write)) {
            return true;
        }
        if word.readers & INDIRECT == 0 {
            let reader = Epoch::from_bits(word.readers);
            return word.readers != 0 && reader.has(Epoch::SPECIAL) && since(reader);
        }
        self.sets[(word.readers & !INDIRECT) as usize].atomics().any(since)
    }

    /// Who wrote `word` last, as far as it is one.
    pub(super) fn last_write(&self, word: Word) -> Option<Epoch> {
        (word.write != 0 && word.write & INDIRECT == 0).then(|| Epoch::from_bits(word.write))
    }
}

/// Whether what comes now comes after the last write, which is done.
#[inline]
fn after_write(word: Word, view: View<'_>) -> Result<(), Conflict> {
    let epoch = Epoch::from_bits(word.write);
    if epoch.has(Epoch::SPECIAL) {
        return Err(Conflict::UnderWay(epoch));
    }
    if view.knows(epoch) { Ok(()) } else { Err(Conflict::Race(epoch, Access::Write)) }
}

/// The words that `bytes` bytes at `address` touch, and which bytes of each.
pub(super) fn words(address: usize, bytes: usize) -> impl Iterator<Item = (usize, u8)> {
    let end = address + bytes;
    (address / WORD_BYTES * WORD_BYTES..end).step_by(WORD_BYTES).map(move |word| {
        let low = address.saturating_sub(word);
        let high = (end - word).min(WORD_BYTES);
        (word, (ALL_BYTES << low) & (ALL_BYTES >> (WORD_BYTES - high)))
    })
}

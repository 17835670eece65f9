//! The observer of one launch: all detectors together.

use std::collections::HashMap;
use std::sync::Arc;

use super::clock::{Epoch, ThreadClocks};
use super::copies::CopyLists;
use super::shadow::{Conflict, How, Pools, WORD_BYTES, Word, words};
use crate::fault::{Access, Nearby, Party, Reason, Space};
use crate::initialised::Initialised;
use crate::machine::LaunchDescription;
use crate::machine::observer::{CopyPlace, Observer, Place, Strength, Touch, Verdict};
use crate::machine::{SHARED_BASE, WARP_THREADS};
use crate::memory::{Range, Snapshot};

const PAGE_WORDS: usize = 1024;
const PAGE_BYTES: usize = PAGE_WORDS * WORD_BYTES;
const RECENT: usize = 64;
const RECENT_RANGES: usize = 8;

/// Words of global memory that the launch has touched, and which of them it reads as non-coherent.
struct Page {
    words: Box<[Word]>,
    non_coherent: [u64; PAGE_WORDS / 64],
}

/// The pages of global memory, by number.
struct Pages {
    all: Vec<Page>,
    index: HashMap<usize, usize>,
    recent: [(usize, usize); RECENT],
}

impl Pages {
    fn find(&mut self, address: usize) -> usize {
        let number = address / PAGE_BYTES;
        let recent = &mut self.recent[number % RECENT];
        if recent.0 != number {
            let index = *self.index.entry(number).or_insert_with(|| {
                let words = vec![Word::default(); PAGE_WORDS].into_boxed_slice();
                self.all.push(Page { words, non_coherent: [0; PAGE_WORDS / 64] });
                self.all.len() - 1
            });
            *recent = (number, index);
        }
        recent.1
    }
}

/// The observer.
struct Watch {
    grid: [u32; 3],
    block: [u32; 3],
    threads: u32,
    shared_bytes: usize,
    uninitialised: bool,
    clocks: ThreadClocks,
    copies: CopyLists,
    shared: Vec<Word>,
    shared_pools: Pools,
    pages: Pages,
    global_pools: Pools,
    snapshot: Arc<Snapshot>,
    ranges: Vec<(Range, Arc<Initialised>)>,
}

/// The observer of a launch.
pub(super) fn make(launch: &LaunchDescription<'_>) -> Box<dyn Observer> {
    let threads = launch.block.iter().product::<u32>().next_multiple_of(WARP_THREADS);
    let mut global_pools = Pools::default();
    global_pools.begin(threads, false);
    Box::new(Watch {
        grid: launch.grid,
        block: launch.block,
        threads,
        shared_bytes: launch.shared_bytes as usize,
        uninitialised: launch.detectors.uninitialised(),
        clocks: ThreadClocks::new(),
        copies: CopyLists::default(),
        shared: Vec::new(),
        shared_pools: Pools::default(),
        pages: Pages { all: Vec::new(), index: HashMap::new(), recent: [(usize::MAX, 0); RECENT] },
        global_pools,
        snapshot: launch.memory.clone(),
        ranges: Vec::new(),
    })
}

fn index_of(linear: u32, extent: [u32; 3]) -> [u32; 3] {
    let [x, y, _] = extent;
    [linear % x, linear / x % y, linear / x / y]
}

impl Watch {
    fn party(&self, epoch: Epoch, access: Access) -> Party {
        Party { block: index_of(epoch.block(), self.grid), thread: index_of(epoch.thread(), self.block), access }
    }

    #[cold]
    fn report(&self, conflict: &Conflict, place: Place, at: usize, access: Access) -> Box<Reason> {
        let (space, address, bytes) = (place.space, place.address as u64, place.bytes as u32);
        Box::new(match *conflict {
            Conflict::Race(epoch, other) => {
                Reason::Race { space, access, address, bytes, other: self.party(epoch, other) }
            }
            Conflict::UnderWay(epoch) => {
                Reason::CopyUnderWay { access, address, bytes, other: self.party(epoch, Access::Copy) }
            }
            Conflict::Unwritten => {
                let unwritten = at.max(place.address) as u64;
                let nearby = match space {
                    Space::Global => self.snapshot.nearby(unwritten as usize),
                    Space::Shared => Nearby::Nothing,
                };
                Reason::Uninitialised { space, address, bytes, unwritten, nearby }
            }
        })
    }

    /// `me`, who is `thread`, touches a checked place.
    fn touch(&mut self, thread: u32, me: Epoch, place: Place, how: How, access: Access) -> Verdict {
        let view = self.clocks.view(thread);
        let conflict = match place.space {
            Space::Shared => {
                let first = place.address - SHARED_BASE as usize;
                words(first, place.bytes).find_map(|(offset, mask)| {
                    let word = &mut self.shared[offset / WORD_BYTES];
                    let answer = self.shared_pools.touch(word, mask, me, view, how);
                    answer.err().map(|conflict| (offset + SHARED_BASE as usize, conflict))
                })
            }
            Space::Global => {
                let mut page = self.pages.find(place.address);
                words(place.address, place.bytes).find_map(|(address, mask)| {
                    if address % PAGE_BYTES == 0 {
                        page = self.pages.find(address);
                    }
                    let word = &mut self.pages.all[page].words[address % PAGE_BYTES / WORD_BYTES];
                    self.global_pools.touch(word, mask, me, view, how).err().map(|conflict| (address, conflict))
                })
            }
        };
        conflict.map_or(Ok(()), |(at, conflict)| Err(self.report(&conflict, place, at, access)))
    }

    /// What is tracked of the allocation that holds a checked place.
    fn tracked(&mut self, place: Place) -> Option<(&Initialised, usize)> {
        let holds = |range: Range| place.address.wrapping_sub(range.start) < range.bytes;
        if let Some(index) = self.ranges.iter().position(|(range, _)| holds(*range)) {
            self.ranges.swap(0, index);
        } else {
            let (range, initialised) = self.snapshot.find_tracked(place.address, place.bytes)?;
            let initialised = initialised?.clone();
            self.ranges.truncate(RECENT_RANGES - 1);
            self.ranges.insert(0, (range, initialised));
        }
        let (range, initialised) = &self.ranges[0];
        Some((initialised, place.address - range.start))
    }

    /// A read of global memory that nothing has written is a fault.
    fn needs_written(&mut self, place: Place) -> Verdict {
        if !self.uninitialised {
            return Ok(());
        }
        let unset = self.tracked(place).and_then(|(initialised, first)| {
            initialised.first_unset(first, place.bytes).map(|unset| place.address + unset - first)
        });
        unset.map_or(Ok(()), |at| Err(self.report(&Conflict::Unwritten, place, at, Access::Read)))
    }

    fn mark_written(&mut self, place: Place) {
        if let Some((initialised, first)) = self.tracked(place) {
            initialised.set(first, place.bytes);
        }
    }

    /// Marks of non-coherent reads: set by those, forbidden to writes, which they must not follow.
    fn coherence(&mut self, place: Place, touch: Touch) -> Verdict {
        let access = if touch == Touch::Write { Access::Write } else { Access::Read };
        for (address, _) in words(place.address, place.bytes) {
            let page = self.pages.find(address);
            let page = &mut self.pages.all[page];
            let index = address % PAGE_BYTES / WORD_BYTES;
            let marks = &mut page.non_coherent[index / 64];
            let bad = match touch {
                Touch::Write => *marks >> (index % 64) & 1 != 0,
                _ => {
                    *marks |= 1 << (index % 64);
                    self.global_pools.written(page.words[index])
                }
            };
            if bad {
                let (address, bytes) = (place.address as u64, place.bytes as u32);
                return Err(Box::new(Reason::NonCoherent { access, address, bytes }));
            }
        }
        Ok(())
    }
}

impl Observer for Watch {
    fn begin_block(&mut self, block: u64) {
        self.clocks.begin_block(block, self.threads);
        self.copies.begin_block(self.threads);
        self.shared.clear();
        self.shared.resize(self.shared_bytes.div_ceil(WORD_BYTES), Word::default());
        self.shared_pools.begin(self.threads, self.uninitialised);
    }

    fn access(&mut self, thread: u32, place: Place, touch: Touch) -> Verdict {
        let me = self.clocks.now(thread);
        if place.space == Space::Shared {
            return match touch {
                Touch::Write => self.touch(thread, me, place, How::Write, Access::Write),
                Touch::Read | Touch::NonCoherent => self.touch(thread, me, place, How::Read, Access::Read),
            };
        }
        match touch {
            Touch::Write => {
                self.touch(thread, me, place, How::Write, Access::Write)?;
                self.coherence(place, touch)?;
                self.mark_written(place);
                Ok(())
            }
            Touch::Read => {
                self.needs_written(place)?;
                self.touch(thread, me, place, How::Read, Access::Read)
            }
            Touch::NonCoherent => {
                self.needs_written(place)?;
                self.touch(thread, me, place, How::Read, Access::Read)?;
                self.coherence(place, touch)
            }
        }
    }

    fn atomic(&mut self, thread: u32, place: Place, strength: Strength) -> Verdict {
        if place.space == Space::Global {
            self.needs_written(place)?;
            self.coherence(place, Touch::Write)?;
        }
        let scope = if strength.block_scope { Epoch::BLOCK_SCOPE } else { 0 };
        let me = self.clocks.now(thread).with(Epoch::SPECIAL | scope);
        // What the atomic learns from earlier ones counts for what comes after it, not for itself.
        self.touch(thread, me, place, How::Atomic, Access::Atomic)?;
        let at = (place.address, place.space == Space::Shared);
        self.clocks.atomic(thread, at, strength.block_scope, strength.ordered);
        Ok(())
    }

    fn fence(&mut self, thread: u32, block_scope: bool) {
        self.clocks.fence(thread, block_scope);
    }

    fn barrier(&mut self, threads: &mut dyn Iterator<Item = u32>) {
        self.clocks.barrier(threads);
    }

    fn copy_issued(&mut self, thread: u32, copy: CopyPlace) -> Verdict {
        let me = self.clocks.now(thread);
        if copy.source_bytes != 0 {
            let source = Place { space: Space::Global, address: copy.source, bytes: copy.source_bytes as usize };
            self.access(thread, source, Touch::Read)?;
        }
        let target = Place { space: Space::Shared, address: copy.target as usize, bytes: copy.bytes as usize };
        self.touch(thread, me, target, How::Copy, Access::Copy)?;
        self.copies.issued(thread, copy);
        Ok(())
    }

    fn copy_committed(&mut self, thread: u32) {
        self.copies.committed(thread);
    }

    fn copy_waited(&mut self, thread: u32, pending: u32) -> Verdict {
        let me = self.clocks.now(thread);
        while let Some(landed) = self.copies.landed(thread, pending) {
            for copy in landed {
                if !copy.source_is_unchanged() {
                    let (address, bytes) = (copy.place.source, copy.place.source_bytes);
                    let page = self.pages.find(address);
                    let word = self.pages.all[page].words[address % PAGE_BYTES / WORD_BYTES];
                    let other = self.global_pools.last_write(word).map(|epoch| self.party(epoch, Access::Write));
                    return Err(Box::new(Reason::SourceChanged { address: address as u64, bytes, other }));
                }
                let first = (copy.place.target - SHARED_BASE) as usize;
                for (offset, _) in words(first, copy.place.bytes as usize) {
                    self.shared_pools.land(&mut self.shared[offset / WORD_BYTES], me);
                }
            }
        }
        Ok(())
    }

    fn release(&mut self, thread: u32, token: u64) {
        self.clocks.release(thread, token);
    }

    fn acquire(&mut self, thread: u32, token: u64) {
        self.clocks.acquire(thread, token);
    }
}

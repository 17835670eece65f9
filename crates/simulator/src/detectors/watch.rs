//! The observer of a chain of launches: all detectors together.

use std::collections::HashMap;
use std::sync::Arc;

use super::clock::{Epoch, LAST_BLOCK, Target, ThreadClocks};
use super::copies::CopyLists;
use super::shadow::{Conflict, How, Pools, WORD_BYTES, Word, words};
use crate::fault::{Access, Nearby, Party, Reason, Space};
use crate::initialised::Initialised;
use crate::machine::LaunchDescription;
use crate::machine::observer::{CopyPlace, Launch, Observer, Place, Reader, RunId, Strength, Touch, Verdict, Who};
use crate::machine::{SHARED_BASE, WARP_THREADS};
use crate::memory::{Range, Snapshot};

const PAGE_WORDS: usize = 1024;
const PAGE_BYTES: usize = PAGE_WORDS * WORD_BYTES;
const RECENT: usize = 64;
const RECENT_RANGES: usize = 8;

/// Words of global memory that the chain has touched, and which launch last read each of them as non-coherent, plus one.
struct Page {
    words: Box<[Word]>,
    non_coherent: Box<[u16]>,
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
                self.all.push(Page { words, non_coherent: vec![0; PAGE_WORDS].into_boxed_slice() });
                self.all.len() - 1
            });
            *recent = (number, index);
        }
        recent.1
    }
}

/// A launch of the chain.
struct Watched {
    launch: Launch,
    /// Its first block, in the numbering of the chain.
    first: u32,
    /// Where a thread of it has waited for the launches before: from which block on everything is known then. A launch that never waits
    /// says nothing of those before it, since it may complete while they run.
    waited: Option<u32>,
    /// Blocks from this one on may run at the same time as it: those of launches that were not complete when it could begin.
    overlaps: u32,
    /// A block of it had waited when it let the next launch begin, which all its blocks have to: the launches before it were complete by then.
    patient: bool,
}

/// An asynchronous operation that reads shared memory.
#[derive(Clone, Copy)]
struct PendingRead {
    who: Who,
    reader: Reader,
    number: u64,
    place: Place,
}

/// A resident block.
#[derive(Default)]
struct Run {
    launch: usize,
    /// A thread of it has waited for the launches before.
    waited: bool,
    /// It has let dependent launches begin.
    triggered: bool,
    /// Its asynchronous operations that read shared memory and were not waited for.
    reads: Vec<PendingRead>,
    copies: CopyLists,
    shared: Vec<Word>,
    pools: Pools,
}

/// The observer.
struct Watch {
    uninitialised: bool,
    launches: Vec<Watched>,
    clocks: ThreadClocks,
    runs: Vec<Run>,
    free_runs: Vec<RunId>,
    pages: Pages,
    global_pools: Pools,
    snapshot: Arc<Snapshot>,
    ranges: Vec<(Range, Arc<Initialised>)>,
}

/// The observer of a chain whose first launch this is.
pub(super) fn make(launch: &LaunchDescription<'_>) -> Box<dyn Observer> {
    Box::new(Watch {
        uninitialised: launch.detectors.uninitialised(),
        launches: Vec::new(),
        clocks: ThreadClocks::default(),
        runs: Vec::new(),
        free_runs: Vec::new(),
        pages: Pages { all: Vec::new(), index: HashMap::new(), recent: [(usize::MAX, 0); RECENT] },
        global_pools: Pools::default(),
        snapshot: launch.memory.clone(),
        ranges: Vec::new(),
    })
}

fn index_of(linear: u32, extent: [u32; 3]) -> [u32; 3] {
    let [x, y, _] = extent;
    [linear % x, linear / x % y, linear / x / y]
}

impl Watch {
    /// The launch of a block.
    fn launch_of(&self, block: u32) -> &Watched {
        let behind = self.launches.partition_point(|launch| launch.first <= block);
        &self.launches[behind.saturating_sub(1)]
    }

    fn party(&self, epoch: Epoch, access: Access) -> Party {
        let Watched { launch, first, .. } = self.launch_of(epoch.block());
        let issuer = self.clocks.issuer(epoch);
        Party {
            block: index_of(epoch.block() - first, launch.grid),
            thread: index_of(issuer.unwrap_or(epoch.thread()), launch.block),
            access: if issuer.is_some() { Access::Copy } else { access },
        }
    }

    /// What is wrong where nothing orders an access after one of `epoch`.
    fn race(&self, who: Who, place: Place, access: Access, epoch: Epoch, other: Access) -> Reason {
        let (space, address, bytes) = (place.space, place.address as u64, place.bytes as u32);
        let other = self.party(epoch, other);
        let mine = &self.launches[self.runs[who.run.0 as usize].launch];
        let theirs = self.launch_of(epoch.block());
        if theirs.first == mine.first {
            return Reason::Race { space, access, address, bytes, other };
        }
        let kernel = theirs.launch.kernel.clone();
        Reason::Overlap { access, address, bytes, other, kernel, earlier: theirs.first < mine.first }
    }

    #[cold]
    fn report(&self, who: Who, conflict: &Conflict, place: Place, at: usize, access: Access) -> Box<Reason> {
        let (space, address, bytes) = (place.space, place.address as u64, place.bytes as u32);
        Box::new(match *conflict {
            Conflict::Race(epoch, other) => self.race(who, place, access, epoch, other),
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

    /// `who`, who is `me` now, touches a checked place.
    fn touch(&mut self, who: Who, me: Epoch, place: Place, how: How, access: Access) -> Verdict {
        if place.space == Space::Shared && how != How::Read {
            self.still_read(place, access)?;
        }
        let view = self.clocks.view(who);
        let conflict = match place.space {
            Space::Shared => {
                let first = place.address - SHARED_BASE as usize;
                let Run { shared, pools, .. } = &mut self.runs[place.home.0 as usize];
                words(first, place.bytes).find_map(|(offset, mask)| {
                    let word = &mut shared[offset / WORD_BYTES];
                    let answer = pools.touch(word, mask, me, view, how);
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
        conflict.map_or(Ok(()), |(at, conflict)| Err(self.report(who, &conflict, place, at, access)))
    }

    /// A write to what an asynchronous operation may still read is a fault.
    fn still_read(&self, place: Place, access: Access) -> Verdict {
        let overlaps = |read: &&PendingRead| {
            place.address < read.place.address + read.place.bytes && read.place.address < place.address + place.bytes
        };
        let Some(read) = self.runs[place.home.0 as usize].reads.iter().find(overlaps) else { return Ok(()) };
        let operation = match read.reader {
            Reader::Wgmma(_) => "a wgmma.mma_async",
            Reader::BulkStore(_) => "a bulk copy",
        };
        let (address, bytes, thread) = (place.address as u64, place.bytes as u32, read.who.thread);
        Err(Box::new(Reason::StillRead { access, address, bytes, operation, thread }))
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
    fn needs_written(&mut self, who: Who, place: Place) -> Verdict {
        if !self.uninitialised {
            return Ok(());
        }
        let unset = self.tracked(place).and_then(|(initialised, first)| {
            initialised.first_unset(first, place.bytes).map(|unset| place.address + unset - first)
        });
        unset.map_or(Ok(()), |at| Err(self.report(who, &Conflict::Unwritten, place, at, Access::Read)))
    }

    fn mark_written(&mut self, place: Place) {
        if let Some((initialised, first)) = self.tracked(place) {
            initialised.set(first, place.bytes);
        }
    }

    /// Marks of non-coherent reads: set by those, forbidden to the same launch's writes. What is read so may not have been written by a
    /// launch that could still run when this one began.
    fn coherence(&mut self, who: Who, place: Place, touch: Touch) -> Verdict {
        let access = if touch == Touch::Write { Access::Write } else { Access::Read };
        let launch = self.runs[who.run.0 as usize].launch;
        let mark = u16::try_from(launch + 1).unwrap_or(u16::MAX);
        let overlaps = self.launches[launch].overlaps;
        for (address, _) in words(place.address, place.bytes) {
            let page = self.pages.find(address);
            let page = &mut self.pages.all[page];
            let index = address % PAGE_BYTES / WORD_BYTES;
            let bad = match touch {
                Touch::Write => page.non_coherent[index] == mark,
                _ => {
                    page.non_coherent[index] = mark;
                    self.global_pools.changed_since(page.words[index], overlaps)
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
    fn begin_launch(&mut self, launch: &Launch) {
        let blocks: u64 =
            self.launches.last().map_or(0, |last| last.launch.grid.iter().map(|&n| u64::from(n)).product());
        let first = self.launches.last().map_or(0, |last| u64::from(last.first) + blocks).min(LAST_BLOCK.into());
        let first = first as u32;
        let overlaps = match self.launches.last() {
            Some(before) if before.patient => before.first,
            Some(before) => before.overlaps,
            None => first,
        };
        self.launches.push(Watched { launch: launch.clone(), first, waited: None, overlaps, patient: false });
    }

    fn begin_block(&mut self, launch: usize, block: u64) -> RunId {
        let run = self.free_runs.pop().unwrap_or_else(|| {
            self.runs.push(Run::default());
            RunId(self.runs.len() as u32 - 1)
        });
        let Watched { launch: description, first, .. } = &self.launches[launch];
        let threads = description.block.iter().product::<u32>().next_multiple_of(WARP_THREADS);
        let state = &mut self.runs[run.0 as usize];
        (state.launch, state.waited, state.triggered) = (launch, false, false);
        state.copies.begin_block(threads);
        state.reads.clear();
        state.shared.clear();
        state.shared.resize((description.shared_bytes as usize).div_ceil(WORD_BYTES), Word::default());
        state.pools.begin(self.uninitialised);
        let block = (u64::from(*first) + block).min(LAST_BLOCK.into()) as u32;
        self.clocks.begin_block(run, block, *first, threads);
        run
    }

    fn end_block(&mut self, run: RunId) {
        let Run { launch, waited, triggered, .. } = self.runs[run.0 as usize];
        self.launches[launch].patient |= waited && !triggered;
        self.clocks.end_block(run);
        self.free_runs.push(run);
    }

    fn dependents_launched(&mut self, who: Who) {
        let run = &mut self.runs[who.run.0 as usize];
        if !run.triggered {
            run.triggered = true;
            self.launches[run.launch].patient |= run.waited;
        }
    }

    fn dependency_waited(&mut self, who: Who) {
        let run = &mut self.runs[who.run.0 as usize];
        run.waited = true;
        let launch = run.launch;
        let Some(before) = launch.checked_sub(1) else { return };
        let since = self.launches[before].waited.unwrap_or(self.launches[before].first);
        self.launches[launch].waited = Some(since);
        self.clocks.waited(who, since);
    }

    fn access(&mut self, who: Who, place: Place, touch: Touch) -> Verdict {
        let me = self.clocks.now(who);
        if place.space == Space::Shared {
            return match touch {
                Touch::Write => self.touch(who, me, place, How::Write, Access::Write),
                Touch::Read | Touch::NonCoherent => self.touch(who, me, place, How::Read, Access::Read),
            };
        }
        match touch {
            Touch::Write => {
                self.touch(who, me, place, How::Write, Access::Write)?;
                self.coherence(who, place, touch)?;
                self.mark_written(place);
                Ok(())
            }
            Touch::Read => {
                self.needs_written(who, place)?;
                self.touch(who, me, place, How::Read, Access::Read)
            }
            Touch::NonCoherent => {
                self.needs_written(who, place)?;
                self.touch(who, me, place, How::Read, Access::Read)?;
                self.coherence(who, place, touch)
            }
        }
    }

    fn atomic(&mut self, who: Who, place: Place, strength: Strength) -> Verdict {
        if place.space == Space::Global {
            self.needs_written(who, place)?;
            self.coherence(who, place, Touch::Write)?;
        }
        let flags = if strength.block_scope { Epoch::BLOCK_SCOPE } else { 0 };
        let me = self.clocks.now(who).with(Epoch::SPECIAL | flags);
        // What the atomic learns from earlier ones counts for what comes after it, not for itself.
        self.touch(who, me, place, How::Atomic, Access::Atomic)?;
        let Place { space, home, address, .. } = place;
        let target = |scope| match space {
            Space::Global => Target::Global { address, scope },
            Space::Shared => Target::Shared { address, home, scope },
        };
        self.clocks.atomic(who, target, strength.block_scope, strength.ordered);
        Ok(())
    }

    fn fence(&mut self, who: Who, block_scope: bool) {
        self.clocks.fence(who, block_scope);
    }

    fn barrier(&mut self, run: RunId, threads: &mut dyn Iterator<Item = u32>) {
        self.clocks.barrier(run, threads);
    }

    fn copy_issued(&mut self, who: Who, copy: CopyPlace) -> Verdict {
        let me = self.clocks.now(who);
        if copy.source_bytes != 0 {
            let bytes = copy.source_bytes as usize;
            let source = Place { space: Space::Global, home: who.run, address: copy.source, bytes };
            self.access(who, source, Touch::Read)?;
        }
        let (address, bytes) = (copy.target as usize, copy.bytes as usize);
        let target = Place { space: Space::Shared, home: who.run, address, bytes };
        self.touch(who, me, target, How::Copy, Access::Copy)?;
        self.runs[who.run.0 as usize].copies.issued(who.thread, copy);
        Ok(())
    }

    fn copy_committed(&mut self, who: Who) {
        self.runs[who.run.0 as usize].copies.committed(who.thread);
    }

    fn copy_waited(&mut self, who: Who, pending: u32) -> Verdict {
        let me = self.clocks.now(who);
        while let Some(landed) = self.runs[who.run.0 as usize].copies.landed(who.thread, pending) {
            for copy in landed {
                if !copy.source_is_unchanged() {
                    let (address, bytes) = (copy.place.source, copy.place.source_bytes);
                    let page = self.pages.find(address);
                    let word = self.pages.all[page].words[address % PAGE_BYTES / WORD_BYTES];
                    let other = self.global_pools.last_write(word).map(|epoch| self.party(epoch, Access::Write));
                    return Err(Box::new(Reason::SourceChanged { address: address as u64, bytes, other }));
                }
                let first = (copy.place.target - SHARED_BASE) as usize;
                let Run { shared, pools, .. } = &mut self.runs[who.run.0 as usize];
                for (offset, _) in words(first, copy.place.bytes as usize) {
                    pools.land(&mut shared[offset / WORD_BYTES], me);
                }
            }
        }
        Ok(())
    }

    fn bulk_begins(&mut self, who: Who, place: Place) -> Verdict {
        let me = self.clocks.now(who);
        self.touch(who, me, place, How::Copy, Access::Copy)
    }

    fn bulk_ends(&mut self, who: Who, place: Place, token: u64) {
        let moment = self.clocks.landed(who, Target::Token { home: place.home, token });
        let Run { shared, pools, .. } = &mut self.runs[place.home.0 as usize];
        for (offset, _) in words(place.address - SHARED_BASE as usize, place.bytes) {
            pools.land(&mut shared[offset / WORD_BYTES], moment);
        }
    }

    fn read_begins(&mut self, who: Who, reader: Reader, number: u64, place: Place) -> Verdict {
        self.access(who, place, Touch::Read)?;
        self.runs[who.run.0 as usize].reads.push(PendingRead { who, reader, number, place });
        Ok(())
    }

    fn reads_end(&mut self, who: Who, reader: Reader, end: u64) -> Verdict {
        let ends = |read: &mut PendingRead| read.reader == reader && read.number < end;
        let ended: Vec<Place> =
            self.runs[who.run.0 as usize].reads.extract_if(.., ends).map(|read| read.place).collect();
        // Whoever writes there next must come after this wait.
        ended.into_iter().try_for_each(|place| self.access(who, place, Touch::Read))
    }

    fn release(&mut self, who: Who, home: RunId, token: u64) {
        self.clocks.release(who, Target::Token { home, token });
    }

    fn acquire(&mut self, who: Who, home: RunId, token: u64) {
        self.clocks.acquire(who, Target::Token { home, token });
    }
}

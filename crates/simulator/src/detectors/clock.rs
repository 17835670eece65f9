//! Who knows what of whom: vector clocks.
//!
//! A thread's clock rises whenever it hands on what it did. Two accesses are ordered when the second one's thread knew the first one's
//! clock, which is the causality order of the PTX memory consistency model (PTX ISA 8.9.4) as far as barriers, fences and atomics
//! make it. (Flanagan and Freund, "FastTrack: Efficient and Precise Dynamic Race Detection", PLDI 2009.)
//!
//! After a barrier all its threads know the same of the others, and share one [`Knowledge`]; a thread's own clock is kept beside it.
//!
//! What a bulk copy writes is no act of the thread that issued it: the copies of a block are one more thread of it, whose clock counts them.
//! The phase of an mbarrier that a copy completes tells of the copy and of nothing else that its thread did (PTX ISA 9.7.9.25.4.1:
//! the completion is a release of the copy's own writes).
//!
//! Blocks have one numbering over all launches of a chain. Of launches before its own a thread knows nothing until it has waited for
//! them ([`ThreadClocks::waited`]): `griddepcontrol.launch_dependents` orders nothing (PTX ISA 9.7.13.13). It learns of that wait from
//! others as of anything else.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::machine::observer::{RunId, Who};

const CLOCK_BITS: u32 = 27;
/// A block has up to 1024 threads, and its bulk copies have the number behind the last.
const THREAD_BITS: u32 = 11;
const BLOCK_BITS: u32 = 22;
const LAST_CLOCK: u32 = (1 << CLOCK_BITS) - 1;
/// Blocks from this number on count as one, of whose actions nothing is found to be unordered.
pub(super) const LAST_BLOCK: u32 = (1 << BLOCK_BITS) - 1;
const FLAG: u64 = 1 << (CLOCK_BITS + THREAD_BITS + BLOCK_BITS);

/// A moment of a thread, and how memory was touched then. Never zero, and its two highest bits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

impl Epoch {
    /// An atomic instruction or, of a write, a copy under way.
    pub(super) const SPECIAL: u64 = FLAG;
    /// An atomic instruction of the block's scope.
    pub(super) const BLOCK_SCOPE: u64 = FLAG << 1;

    fn new(block: u32, thread: u32, clock: u32) -> Self {
        Self(u64::from(block) << (CLOCK_BITS + THREAD_BITS) | u64::from(thread) << CLOCK_BITS | u64::from(clock))
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn with(self, flags: u64) -> Self {
        Self(self.0 | flags)
    }

    pub(super) fn has(self, flags: u64) -> bool {
        self.0 & flags != 0
    }

    pub(super) fn clock(self) -> u32 {
        self.0 as u32 & LAST_CLOCK
    }

    pub(super) fn thread(self) -> u32 {
        (self.0 >> CLOCK_BITS) as u32 & ((1 << THREAD_BITS) - 1)
    }

    pub(super) fn block(self) -> u32 {
        (self.0 >> (CLOCK_BITS + THREAD_BITS)) as u32 & ((1 << BLOCK_BITS) - 1)
    }

    /// The same moment in another block.
    pub(super) fn in_block(self, block: u32) -> Self {
        Self::new(block, self.thread(), self.clock())
    }

    /// Another moment of the same block.
    pub(super) fn of(self, thread: u32, clock: u32) -> Self {
        Self::new(self.block(), thread, clock)
    }
}

/// For each thread of a block, and behind them for its bulk copies, the clock up to which its actions are known.
type Clocks = Rc<[u32]>;

/// What is known of the own block and of others.
#[derive(Clone)]
pub(super) struct Knowledge {
    own: Clocks,
    others: Option<Rc<BTreeMap<u32, Clocks>>>,
    /// Blocks from this one up to the first of the own launch are known whole.
    since: u32,
}

/// What was released to a place in memory or to a barrier.
#[derive(Clone, Default)]
struct Published {
    /// By block.
    clocks: BTreeMap<u32, Clocks>,
    /// For each launch, by its first block: from which block on threads of it have waited for the launches before.
    waits: BTreeMap<u32, u32>,
}

impl Published {
    fn add(&mut self, block: u32, clocks: &Clocks) {
        self.clocks.entry(block).and_modify(|known| join(known, clocks)).or_insert_with(|| clocks.clone());
    }

    fn add_wait(&mut self, launch: u32, since: u32) {
        if since < launch {
            let known = self.waits.entry(launch).or_insert(since);
            *known = since.min(*known);
        }
    }

    fn add_all(&mut self, other: &Self) {
        other.clocks.iter().for_each(|(&block, clocks)| self.add(block, clocks));
        other.waits.iter().for_each(|(&launch, &since)| self.add_wait(launch, since));
    }
}

fn join(into: &mut Clocks, from: &Clocks) {
    if Rc::ptr_eq(into, from) {
        return;
    }
    for (into, &from) in Rc::make_mut(into).iter_mut().zip(from.iter()) {
        *into = (*into).max(from);
    }
}

impl Knowledge {
    fn learn(&mut self, block: u32, mine: u32, clocks: &Clocks) {
        if block == mine {
            join(&mut self.own, clocks);
            return;
        }
        let others = Rc::make_mut(self.others.get_or_insert_default());
        others.entry(block).and_modify(|known| join(known, clocks)).or_insert_with(|| clocks.clone());
    }

    fn learn_all(&mut self, mine: u32, other: &Self) {
        join(&mut self.own, &other.own);
        self.since = self.since.min(other.since);
        match (&self.others, &other.others) {
            (_, None) => {}
            (None, Some(others)) => self.others = Some(others.clone()),
            (Some(known), Some(others)) if Rc::ptr_eq(known, others) => {}
            (Some(_), Some(others)) => others.iter().for_each(|(&block, clocks)| self.learn(block, mine, clocks)),
        }
    }
}

/// A thread of a resident block.
struct ThreadClock {
    known: Rc<Knowledge>,
    clock: u32,
    /// What a relaxed atomic hands on: all up to the last fence, and to the last one of a wider scope than the block's.
    fenced: [Option<(Rc<Knowledge>, u32)>; 2],
    /// What relaxed atomics have read of the own block, which the next fence makes known, and of all, for which it needs a wider scope.
    unfenced: [Option<Published>; 2],
}

/// Where something is released to: an address, with the scope's block and the block whose shared memory it is; or a token of a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// Global memory.
    Global { address: usize, scope: Option<RunId> },
    /// Shared memory of a block.
    Shared { address: usize, home: RunId, scope: Option<RunId> },
    /// A block's token.
    Token { home: RunId, token: u64 },
}

impl Target {
    /// Whether it is gone when a block ends.
    fn belongs_to(self, run: RunId) -> bool {
        match self {
            Self::Global { scope, .. } => scope == Some(run),
            Self::Shared { home, scope, .. } => home == run || scope == Some(run),
            Self::Token { home, .. } => home == run,
        }
    }
}

/// A resident block: its number, the first block of its launch, its threads.
struct Run {
    block: u32,
    launch: u32,
    threads: Vec<ThreadClock>,
    /// Who issued the bulk copies that have landed, in that order.
    copies: Vec<u32>,
}

/// The clocks of the resident blocks' threads, and what was released in the chain.
#[derive(Default)]
pub(super) struct ThreadClocks {
    runs: Vec<Run>,
    published: HashMap<Target, Published>,
}

impl ThreadClocks {
    /// Block `block` of `threads` threads begins, of the launch whose first block is `launch`: its threads know nothing of one another nor
    /// of other blocks.
    pub(super) fn begin_block(&mut self, run: RunId, block: u32, launch: u32, threads: u32) {
        let known = Rc::new(Knowledge { own: vec![0; threads as usize + 1].into(), others: None, since: launch });
        let index = run.0 as usize;
        while self.runs.len() <= index {
            self.runs.push(Run { block: 0, launch: 0, threads: Vec::new(), copies: Vec::new() });
        }
        let run = &mut self.runs[index];
        (run.block, run.launch) = (block.min(LAST_BLOCK), launch);
        run.threads.clear();
        run.copies.clear();
        run.threads.resize_with(threads as usize, || ThreadClock {
            known: known.clone(),
            clock: 1,
            fenced: [None, None],
            unfenced: [None, None],
        });
    }

    /// A block has ended: what was released inside it is gone.
    pub(super) fn end_block(&mut self, run: RunId) {
        self.published.retain(|target, _| !target.belongs_to(run));
    }

    fn thread(&self, who: Who) -> &ThreadClock {
        &self.runs[who.run.0 as usize].threads[who.thread as usize]
    }

    fn thread_mut(&mut self, who: Who) -> &mut ThreadClock {
        &mut self.runs[who.run.0 as usize].threads[who.thread as usize]
    }

    /// `who` now.
    #[inline]
    pub(super) fn now(&self, who: Who) -> Epoch {
        let run = &self.runs[who.run.0 as usize];
        Epoch::new(run.block, who.thread, run.threads[who.thread as usize].clock)
    }

    /// What `who` knows.
    #[inline]
    pub(super) fn view(&self, who: Who) -> View<'_> {
        let Run { block, launch, threads, .. } = &self.runs[who.run.0 as usize];
        View {
            block: *block,
            thread: who.thread,
            threads: threads.len(),
            launch: *launch,
            known: &threads[who.thread as usize].known,
        }
    }

    fn step(&mut self, who: Who) {
        let clock = &mut self.thread_mut(who).clock;
        *clock = (*clock + 1).min(LAST_CLOCK);
    }

    /// Each of `threads` learns what all of them did.
    pub(super) fn barrier(&mut self, run: RunId, threads: &mut dyn Iterator<Item = u32>) {
        let members: Vec<u32> = threads.collect();
        let Some(&first) = members.first() else { return };
        let Run { block, threads, .. } = &mut self.runs[run.0 as usize];
        let mut known = Knowledge::clone(&threads[first as usize].known);
        let mut last = Rc::as_ptr(&threads[first as usize].known);
        for &member in &members[1..] {
            let other = &threads[member as usize].known;
            if Rc::as_ptr(other) != last {
                last = Rc::as_ptr(other);
                known.learn_all(*block, other);
            }
        }
        let clocks = Rc::make_mut(&mut known.own);
        for &member in &members {
            clocks[member as usize] = threads[member as usize].clock;
        }
        let known = Rc::new(known);
        for &member in &members {
            let thread = &mut threads[member as usize];
            thread.known = known.clone();
            thread.clock = (thread.clock + 1).min(LAST_CLOCK);
        }
    }

    /// `who` has waited for the launches before its own: their blocks from `since` on are known.
    pub(super) fn waited(&mut self, who: Who, since: u32) {
        let known = &mut self.thread_mut(who).known;
        if known.since > since {
            Rc::make_mut(known).since = since;
        }
    }

    fn publish(&mut self, target: Target, known: &Knowledge, who: Who, clock: u32) {
        let mut own = known.own.clone();
        let entry = &mut Rc::make_mut(&mut own)[who.thread as usize];
        *entry = clock.max(*entry);
        let Run { block, launch, .. } = self.runs[who.run.0 as usize];
        let published = self.published.entry(target).or_default();
        published.add(block, &own);
        known.others.iter().flat_map(|others| others.iter()).for_each(|(&block, clocks)| published.add(block, clocks));
        published.add_wait(launch, known.since);
    }

    fn learn(&mut self, who: Who, published: &Published) {
        let Run { block: mine, launch, threads, .. } = &mut self.runs[who.run.0 as usize];
        let known = Rc::make_mut(&mut threads[who.thread as usize].known);
        for (&block, clocks) in &published.clocks {
            known.learn(block, *mine, clocks);
        }
        if let Some(&since) = published.waits.get(launch) {
            known.since = known.since.min(since);
        }
    }

    /// What `who` did is known to whoever acquires `target` later.
    pub(super) fn release(&mut self, who: Who, target: Target) {
        let ThreadClock { known, clock, .. } = self.thread(who);
        let (known, clock) = (known.clone(), *clock);
        self.publish(target, &known, who, clock);
        self.step(who);
    }

    /// A bulk copy of `who` has landed, which is known to whoever acquires `target` later: the moment of its writes.
    pub(super) fn landed(&mut self, who: Who, target: Target) -> Epoch {
        let Run { block, threads, copies, .. } = &mut self.runs[who.run.0 as usize];
        copies.push(who.thread);
        let clock = (copies.len() as u32).min(LAST_CLOCK);
        let mut clocks = vec![0; threads.len() + 1];
        clocks[threads.len()] = clock;
        self.published.entry(target).or_default().add(*block, &clocks.into());
        Epoch::new(*block, threads.len() as u32, clock)
    }

    /// The thread that issued the bulk copy of which `epoch` is the moment; none for what a thread did itself.
    pub(super) fn issuer(&self, epoch: Epoch) -> Option<u32> {
        let run =
            self.runs.iter().find(|run| run.block == epoch.block() && run.threads.len() == epoch.thread() as usize)?;
        run.copies.get((epoch.clock() as usize).checked_sub(1)?).copied()
    }

    /// `who` learns what was released to `target`.
    pub(super) fn acquire(&mut self, who: Who, target: Target) {
        if let Some(published) = self.published.get(&target).cloned() {
            self.learn(who, &published);
        }
    }

    /// An atomic read-modify-write: with `ordered` it is acquire and release; a relaxed one is where fences of its thread stand on the
    /// proper side of it (PTX ISA 8.7, release and acquire patterns). `target` is its place for those whose scope is a block or a wider one:
    /// an atomic of a wider scope meets both those of other blocks and those of its own block, whatever their scope.
    pub(super) fn atomic(
        &mut self,
        who: Who,
        target: impl Fn(Option<RunId>) -> Target,
        block_scope: bool,
        ordered: bool,
    ) {
        let targets = [target(Some(who.run)), target(None)];
        let targets = &targets[..if block_scope { 1 } else { 2 }];
        if ordered {
            targets.iter().for_each(|&target| self.acquire(who, target));
            let ThreadClock { known, clock, .. } = self.thread(who);
            let (known, clock) = (known.clone(), *clock);
            targets.iter().for_each(|&target| self.publish(target, &known, who, clock));
            self.step(who);
            return;
        }
        let unfenced = &mut self.runs[who.run.0 as usize].threads[who.thread as usize].unfenced;
        for (target, unfenced) in targets.iter().zip(unfenced) {
            if let Some(published) = self.published.get(target) {
                unfenced.get_or_insert_default().add_all(published);
            }
        }
        let [any, wide] = &self.thread(who).fenced;
        if let Some((known, clock)) = if block_scope { any } else { wide }.clone() {
            targets.iter().for_each(|&target| self.publish(target, &known, who, clock));
        }
    }

    /// `fence.acq_rel`.
    pub(super) fn fence(&mut self, who: Who, block_scope: bool) {
        let covered = if block_scope { 1 } else { 2 };
        for index in 0..covered {
            if let Some(unfenced) = self.thread_mut(who).unfenced[index].take() {
                self.learn(who, &unfenced);
            }
        }
        let state = self.thread_mut(who);
        let fenced = Some((state.known.clone(), state.clock));
        if !block_scope {
            state.fenced[1].clone_from(&fenced);
        }
        state.fenced[0] = fenced;
        self.step(who);
    }
}

/// What one thread knows.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) block: u32,
    pub(super) thread: u32,
    /// Threads of its block.
    pub(super) threads: usize,
    /// The first block of its launch.
    pub(super) launch: u32,
    known: &'a Knowledge,
}

impl View<'_> {
    /// Whether `epoch` is before what the thread does now.
    #[inline]
    pub(super) fn knows(&self, epoch: Epoch) -> bool {
        let block = epoch.block();
        if block == self.block {
            let thread = epoch.thread();
            return thread == self.thread || block == LAST_BLOCK || self.known.own[thread as usize] >= epoch.clock();
        }
        if block == LAST_BLOCK || block < self.launch && block >= self.known.since {
            return true;
        }
        let clocks = self.known.others.as_ref().and_then(|others| others.get(&block));
        clocks.is_some_and(|clocks| clocks[epoch.thread() as usize] >= epoch.clock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_count_as_one_are_never_unordered() {
        let mut clocks = ThreadClocks::default();
        let who = |run, thread| Who { run: RunId(run), thread };
        clocks.begin_block(RunId(0), LAST_BLOCK + 5, LAST_BLOCK, 1024);
        clocks.begin_block(RunId(1), LAST_BLOCK + 9, LAST_BLOCK, 32);
        clocks.begin_block(RunId(2), 7, 0, 32);
        assert!(clocks.view(who(1, 3)).knows(clocks.now(who(0, 1023))));
        assert!(clocks.view(who(2, 3)).knows(clocks.now(who(0, 1023))));
        assert!(!clocks.view(who(1, 3)).knows(clocks.now(who(2, 3))));
    }

    #[test]
    fn the_copies_of_a_block_are_told_from_its_threads() {
        let mut clocks = ThreadClocks::default();
        clocks.begin_block(RunId(0), 3, 0, 1024);
        let (issuer, other) = (Who { run: RunId(0), thread: 1023 }, Who { run: RunId(0), thread: 1 });
        let target = Target::Token { home: RunId(0), token: 1 };
        let before = clocks.now(issuer);
        let moment = clocks.landed(issuer, target);
        assert_eq!((clocks.issuer(moment), clocks.issuer(before)), (Some(1023), None));
        assert!(!clocks.view(issuer).knows(moment));
        clocks.acquire(other, target);
        assert!(clocks.view(other).knows(moment) && !clocks.view(other).knows(before));
    }
}

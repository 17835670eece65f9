//! Who knows what of whom: vector clocks.
//!
//! A thread's clock rises whenever it hands on what it did. Two accesses are ordered when the second one's thread knew the first one's
//! clock, which is the causality order of the PTX memory consistency model (PTX ISA 8.9.4) as far as barriers, fences and atomics
//! make it. (Flanagan and Freund, "FastTrack: Efficient and Precise Dynamic Race Detection", PLDI 2009.)
//!
//! After a barrier all its threads know the same of the others, and share one [`Knowledge`]; a thread's own clock is kept beside it.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

const CLOCK_BITS: u32 = 28;
const THREAD_BITS: u32 = 10;
const BLOCK_BITS: u32 = 22;
const LAST_CLOCK: u32 = (1 << CLOCK_BITS) - 1;
/// Blocks from this number on count as one.
const LAST_BLOCK: u64 = (1 << BLOCK_BITS) - 1;
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

/// For each thread of a block the clock up to which its actions are known.
type Clocks = Rc<[u32]>;

/// What is known of the running block and of others.
#[derive(Clone)]
pub(super) struct Knowledge {
    own: Clocks,
    others: Option<Rc<BTreeMap<u32, Clocks>>>,
}

/// What was released to a place in memory or to a barrier, by block.
type Published = BTreeMap<u32, Clocks>;

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
        match (&self.others, &other.others) {
            (_, None) => {}
            (None, Some(others)) => self.others = Some(others.clone()),
            (Some(known), Some(others)) if Rc::ptr_eq(known, others) => {}
            (Some(_), Some(others)) => others.iter().for_each(|(&block, clocks)| self.learn(block, mine, clocks)),
        }
    }
}

/// A thread of the running block.
struct ThreadClock {
    known: Rc<Knowledge>,
    clock: u32,
    /// What a relaxed atomic hands on: all up to the last fence; with whether that fence was the block's only.
    fenced: Option<(Rc<Knowledge>, u32, bool)>,
    /// What relaxed atomics have read, which the next fence makes known.
    unfenced: Option<Published>,
}

/// Where something is released to: an address with the scope's block, or a token of the running block.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Memory { address: usize, shared: bool, block: Option<u32> },
    Token(u64),
}

/// The clocks of the running block's threads, and what was released in the launch.
pub(super) struct ThreadClocks {
    block: u32,
    threads: Vec<ThreadClock>,
    published: HashMap<Target, Published>,
}

impl ThreadClocks {
    pub(super) fn new() -> Self {
        Self { block: 0, threads: Vec::new(), published: HashMap::new() }
    }

    /// Block `block` of `threads` threads begins: its threads know nothing of one another nor of other blocks.
    pub(super) fn begin_block(&mut self, block: u64, threads: u32) {
        self.block = block.min(LAST_BLOCK) as u32;
        let known = Rc::new(Knowledge { own: vec![0; threads as usize].into(), others: None });
        self.threads.clear();
        self.threads.resize_with(threads as usize, || ThreadClock {
            known: known.clone(),
            clock: 1,
            fenced: None,
            unfenced: None,
        });
        self.published.retain(|target, _| matches!(target, Target::Memory { shared: false, block: None, .. }));
    }

    /// `thread` now.
    #[inline]
    pub(super) fn now(&self, thread: u32) -> Epoch {
        Epoch::new(self.block, thread, self.threads[thread as usize].clock)
    }

    /// What `thread` knows.
    #[inline]
    pub(super) fn view(&self, thread: u32) -> View<'_> {
        View { block: self.block, thread, known: &self.threads[thread as usize].known }
    }

    fn step(&mut self, thread: u32) {
        let clock = &mut self.threads[thread as usize].clock;
        *clock = (*clock + 1).min(LAST_CLOCK);
    }

    /// Each of `threads` learns what all of them did.
    pub(super) fn barrier(&mut self, threads: &mut dyn Iterator<Item = u32>) {
        let members: Vec<u32> = threads.collect();
        let Some(&first) = members.first() else { return };
        let mut known = Knowledge::clone(&self.threads[first as usize].known);
        let mut last = Rc::as_ptr(&self.threads[first as usize].known);
        for &member in &members[1..] {
            let other = &self.threads[member as usize].known;
            if Rc::as_ptr(other) != last {
                last = Rc::as_ptr(other);
                known.learn_all(self.block, other);
            }
        }
        let clocks = Rc::make_mut(&mut known.own);
        for &member in &members {
            clocks[member as usize] = self.threads[member as usize].clock;
        }
        let known = Rc::new(known);
        for &member in &members {
            self.threads[member as usize].known = known.clone();
            self.step(member);
        }
    }

    fn publish(&mut self, target: Target, known: &Knowledge, thread: u32, clock: u32) {
        let mut own = known.own.clone();
        let entry = &mut Rc::make_mut(&mut own)[thread as usize];
        *entry = clock.max(*entry);
        let published = self.published.entry(target).or_default();
        let mut add = |block: u32, clocks: &Clocks| {
            published.entry(block).and_modify(|known| join(known, clocks)).or_insert_with(|| clocks.clone());
        };
        add(self.block, &own);
        known.others.iter().flat_map(|others| others.iter()).for_each(|(&block, clocks)| add(block, clocks));
    }

    fn learn(&mut self, thread: u32, published: &Published) {
        let known = Rc::make_mut(&mut self.threads[thread as usize].known);
        for (&block, clocks) in published {
            known.learn(block, self.block, clocks);
        }
    }

    fn release_to(&mut self, thread: u32, target: Target) {
        let known = self.threads[thread as usize].known.clone();
        self.publish(target, &known, thread, self.threads[thread as usize].clock);
        self.step(thread);
    }

    fn acquire_from(&mut self, thread: u32, target: Target) {
        if let Some(published) = self.published.get(&target).cloned() {
            self.learn(thread, &published);
        }
    }

    /// An atomic read-modify-write: with `ordered` it is acquire and release; a relaxed one is where fences of its thread stand on the
    /// proper side of it (PTX ISA 8.7, release and acquire patterns).
    pub(super) fn atomic(&mut self, thread: u32, (address, shared): (usize, bool), block_scope: bool, ordered: bool) {
        let target = Target::Memory { address, shared, block: block_scope.then_some(self.block) };
        if ordered {
            self.acquire_from(thread, target);
            self.release_to(thread, target);
            return;
        }
        if let Some(published) = self.published.get(&target) {
            let unfenced = self.threads[thread as usize].unfenced.get_or_insert_default();
            for (&block, clocks) in published {
                unfenced.entry(block).and_modify(|known| join(known, clocks)).or_insert_with(|| clocks.clone());
            }
        }
        match self.threads[thread as usize].fenced.clone() {
            Some((known, clock, block_fence)) if block_scope || !block_fence => {
                self.publish(target, &known, thread, clock);
            }
            _ => {}
        }
    }

    /// `fence.acq_rel`.
    pub(super) fn fence(&mut self, thread: u32, block_scope: bool) {
        if let Some(unfenced) = self.threads[thread as usize].unfenced.take() {
            self.learn(thread, &unfenced);
        }
        let state = &mut self.threads[thread as usize];
        state.fenced = Some((state.known.clone(), state.clock, block_scope));
        self.step(thread);
    }

    /// What `thread` did is known to whoever acquires `token` later in this block.
    pub(super) fn release(&mut self, thread: u32, token: u64) {
        self.release_to(thread, Target::Token(token));
    }

    /// `thread` learns what was released to `token`.
    pub(super) fn acquire(&mut self, thread: u32, token: u64) {
        self.acquire_from(thread, Target::Token(token));
    }
}

/// What one thread knows.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) block: u32,
    pub(super) thread: u32,
    known: &'a Knowledge,
}

impl View<'_> {
    /// Whether `epoch` is before what the thread does now.
    #[inline]
    pub(super) fn knows(&self, epoch: Epoch) -> bool {
        if epoch.block() == self.block {
            let thread = epoch.thread();
            return thread == self.thread || self.known.own[thread as usize] >= epoch.clock();
        }
        let clocks = self.known.others.as_ref().and_then(|others| others.get(&epoch.block()));
        clocks.is_some_and(|clocks| clocks[epoch.thread() as usize] >= epoch.clock())
    }
}

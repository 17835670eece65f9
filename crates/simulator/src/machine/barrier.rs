//! Named barriers (PTX ISA 9.7.13.1, `bar.sync`, that is `barrier.cta.sync.aligned`).
//!
//! A barrier counts arrivals in whole warps: all lanes of a warp meet first, then the warp adds 32. With as many arrivals as the count
//! asks for it opens and is new again.

use super::block::Block;
use super::observer::Meeting;
use super::thread::WARP_THREADS;
use crate::fault::Reason;

/// Barriers of a block.
pub(crate) const BARRIERS: u32 = 16;

/// One of a block's barriers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NamedBarrier {
    /// How many threads open it; 0 while nobody waits.
    pub(crate) expected: u32,
    /// How many have arrived.
    pub(crate) arrived: u32,
    /// Warps that wait.
    warps: u32,
    /// Warps that have arrived without waiting.
    passed: u32,
}

impl NamedBarrier {
    /// Takes in `warp`, which expects `threads`. The answer is the warps to release, with this one, once all have arrived.
    pub(crate) fn arrive(&mut self, id: u32, warp: u32, threads: u32) -> Result<Option<u32>, Reason> {
        if self.expected != 0 && self.expected != threads {
            let rule = format!("warp {warp} came for {threads} threads, while others wait for {}", self.expected);
            return Err(Reason::Barrier { id, rule });
        }
        self.expected = threads;
        self.warps |= 1 << warp;
        Ok(self.add_warp())
    }

    /// As [`NamedBarrier::arrive`], for a warp that goes on. It may not come again before the barrier has opened.
    pub(crate) fn count_arrival(&mut self, id: u32, warp: u32, threads: u32) -> Result<Option<u32>, Reason> {
        let refuse = |rule: String| Err(Reason::Barrier { id, rule });
        if self.expected != 0 && self.expected != threads {
            return refuse(format!("warp {warp} came for {threads} threads, while others wait for {}", self.expected));
        }
        if self.passed >> warp & 1 != 0 {
            return refuse(format!("warp {warp} arrives twice before the barrier opens"));
        }
        self.expected = threads;
        self.passed |= 1 << warp;
        Ok(self.add_warp())
    }

    /// Counts a warp: the answer is the warps that wait, once all have arrived.
    fn add_warp(&mut self) -> Option<u32> {
        self.arrived += WARP_THREADS;
        if self.arrived < self.expected {
            return None;
        }
        let warps = self.warps;
        *self = Self::default();
        Some(warps)
    }
}

/// A barrier of `threads` threads opens, at which `warps` wait: they go on after one another and after those that arrived without waiting.
pub(crate) fn open(block: &Block, id: u32, warps: u32, threads: u32) {
    let Some(watcher) = block.watcher else { return };
    let waiting = (0u32..).zip(&block.warps).filter(|(index, _)| warps >> index & 1 != 0);
    let waiting = waiting.flat_map(|(index, warp)| {
        let first = index * WARP_THREADS;
        (0..WARP_THREADS).filter(|lane| warp.exists >> lane & 1 != 0).map(move |lane| first + lane)
    });
    watcher.observer().barrier(watcher.run, &mut waiting.clone());
    watcher.observer().met(watcher.run, meeting(threads, block.block_threads));
    waiting.for_each(|thread| watcher.observer().acquire(watcher.who(thread), watcher.run, super::watch::named(id)));
}

/// What kind of barrier opens for `threads` threads.
fn meeting(threads: u32, block_threads: u32) -> Meeting {
    if threads >= block_threads { Meeting::Block } else { Meeting::Named }
}

/// The count of a `bar.sync id, threads` in a block of `block_threads` threads, 0 being all of them.
pub(crate) fn count(id: u32, threads: u32, block_threads: u32) -> Result<u32, Box<Reason>> {
    let all = block_threads.next_multiple_of(WARP_THREADS);
    let refuse = |rule: String| Err(Box::new(Reason::Barrier { id, rule }));
    match threads {
        _ if id >= BARRIERS => refuse(format!("a block has barriers 0 to {}", BARRIERS - 1)),
        0 => Ok(all),
        _ if !threads.is_multiple_of(WARP_THREADS) => {
            refuse(format!("a count of {threads} threads is no multiple of {WARP_THREADS}"))
        }
        _ if threads > all => refuse(format!("a count of {threads} threads never comes together in a block of {all}")),
        _ => Ok(threads),
    }
}

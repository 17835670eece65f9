//! Which thread of a block runs next.

use super::random::Random;
use super::thread::WARP_THREADS;
use super::warp::Warp;

/// Turns that a seeded schedule gives one warp in a row, at most.
const SEEDED_TURNS: u32 = 64;

/// The order of a block's threads. Whoever gives up its turn asks for the next thread.
pub(crate) struct Turns {
    /// None for round-robin.
    random: Option<Random>,
    warp: u32,
    /// Round-robin: lanes of the warp that have not had their turn in this pass.
    lanes: u32,
    /// Seeded: turns that the warp still gets.
    left: u32,
    /// A thread of the warp yielded: another warp is next.
    yielded: bool,
}

impl Turns {
    /// The order at a block's start: drawn from `random`, or round-robin.
    pub(crate) fn new(random: Option<Random>) -> Self {
        Self { random, warp: 0, lanes: 0, left: 0, yielded: false }
    }

    /// The running thread yields.
    pub(crate) fn yields(&mut self) {
        self.yielded = true;
    }

    /// Whether a thread has yielded since the last pass.
    pub(crate) fn yielded(&self) -> bool {
        self.yielded
    }

    /// A number below `bound`, which is not zero: 0 for round-robin.
    pub(crate) fn draw(&mut self, bound: u32) -> u32 {
        self.random.as_mut().map_or(0, |random| random.below(bound))
    }

    /// Whether a seeded schedule switches at a place where it may, with one chance in `chances`.
    #[inline(always)]
    pub(crate) fn switches(&mut self, chances: u32) -> bool {
        match &mut self.random {
            None => false,
            Some(random) => random.below(chances) == 0,
        }
    }

    /// The thread that runs next: none when no thread is ready.
    #[inline(always)]
    pub(crate) fn next(&mut self, warps: &[Warp]) -> Option<u32> {
        if self.random.is_none() && self.lanes != 0 {
            // A lane stays ready until it runs.
            let lane = self.lanes.trailing_zeros();
            self.lanes &= self.lanes - 1;
            return Some(self.warp * WARP_THREADS + lane);
        }
        self.next_pass(warps)
    }

    #[inline(never)]
    fn next_pass(&mut self, warps: &[Warp]) -> Option<u32> {
        if self.random.is_none() { self.round_robin(warps) } else { self.seeded(warps) }
    }

    /// Warps in turn; the lanes of a warp in turn until none of them can go on or one of them yields.
    fn round_robin(&mut self, warps: &[Warp]) -> Option<u32> {
        let first = if self.yielded { self.warp + 1 } else { self.warp };
        self.yielded = false;
        let warp = ready_from(warps, first)?;
        self.warp = warp;
        self.lanes = warps[warp as usize].ready;
        let lane = self.lanes.trailing_zeros();
        self.lanes &= self.lanes - 1;
        Some(warp * WARP_THREADS + lane)
    }

    /// A warp at random for a random number of turns, each for its first ready lane from a random one on.
    fn seeded(&mut self, warps: &[Warp]) -> Option<u32> {
        let random = self.random.as_mut()?;
        let mut ready = warps.get(self.warp as usize).map_or(0, |warp| warp.ready);
        if self.left == 0 || ready == 0 {
            self.warp = ready_from(warps, random.below(warps.len() as u32))?;
            self.left = 1 + random.below(SEEDED_TURNS);
            ready = warps[self.warp as usize].ready;
        }
        self.left -= 1;
        let first = random.below(WARP_THREADS);
        let lane = (first + ready.rotate_right(first).trailing_zeros()) % WARP_THREADS;
        Some(self.warp * WARP_THREADS + lane)
    }
}

/// The first warp with a ready lane, from `first` on and then from the start.
fn ready_from(warps: &[Warp], first: u32) -> Option<u32> {
    let count = warps.len() as u32;
    let first = first.min(count);
    (first..count).chain(0..first).find(|&index| warps[index as usize].ready != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_robin_takes_lanes_and_warps_in_turn() {
        let mut warps = [Warp::new(), Warp::new(), Warp::new()];
        warps[0].begin(0b101);
        warps[2].begin(0b10);
        let mut turns = Turns::new(None);
        let mut order = vec![turns.next(&warps), turns.next(&warps), turns.next(&warps)];
        turns.yields();
        order.extend([turns.next(&warps), turns.next(&warps)]);
        assert_eq!(order, [Some(0), Some(2), Some(0), Some(2), Some(65)]);
        warps[0].ready = 0;
        warps[2].ready = 0;
        assert_eq!(turns.next(&warps), None);
    }

    #[test]
    fn a_seed_picks_every_ready_thread_at_some_time() {
        let mut warps = [Warp::new(), Warp::new()];
        warps[0].begin(0x8001);
        warps[1].begin(0xf0);
        let mut turns = Turns::new(Some(Random::new(3, 1)));
        let mut seen: Vec<u32> = (0..1000).map_while(|_| turns.next(&warps)).collect();
        assert_eq!(seen.len(), 1000);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 15, 36, 37, 38, 39]);
    }
}

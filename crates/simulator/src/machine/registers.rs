//! `setmaxnreg` (PTX ISA 9.7.19.5): warps of a warpgroup give registers back or ask for more.
//!
//! The machine has no registers; it holds kernels to the rules. What a block starts with is taken to be an equal share of the 65536
//! registers of a multiprocessor, as `__launch_bounds__(threads, 1)` gives it.

use super::thread::WARP_THREADS;
use crate::fault::Reason;

/// Registers of a multiprocessor.
const REGISTERS: u32 = 65536;
const WARPS: usize = 4;

/// What each warp has asked for.
#[derive(Default)]
pub(crate) struct Registers {
    /// By warp: its counts in order.
    counts: Vec<Vec<u32>>,
    start: u32,
}

impl Registers {
    /// Starts a block of `threads` threads.
    pub(crate) fn begin(&mut self, threads: u32) {
        let warps = threads.div_ceil(WARP_THREADS) as usize;
        self.counts.iter_mut().for_each(Vec::clear);
        self.counts.resize_with(warps, Vec::new);
        self.start = (REGISTERS / (warps as u32 * WARP_THREADS) / 8 * 8).min(255);
    }

    /// `warp` asks for `count` registers a thread.
    pub(crate) fn set(&mut self, warp: u32, count: u32, increases: bool) -> Result<(), Reason> {
        let refuse = |rule: String| Err(Reason::Warpgroup { rule });
        let name = if increases { "setmaxnreg.inc" } else { "setmaxnreg.dec" };
        if !(24..=256).contains(&count) || !count.is_multiple_of(8) {
            return refuse(format!("{name} {count}: must be a multiple of 8 from 24 to 256"));
        }
        let warp = warp as usize;
        let before = self.counts[warp].last().copied().unwrap_or(self.start);
        if increases && count < before || !increases && count > before {
            return refuse(format!("{name} {count} in a warp that has {before} registers a thread"));
        }
        let place = self.counts[warp].len();
        self.counts[warp].push(count);
        let first = warp / WARPS * WARPS;
        let group = &self.counts[first..(first + WARPS).min(self.counts.len())];
        if let Some(other) = group.iter().find_map(|counts| counts.get(place).filter(|&&other| other != count)) {
            return refuse(format!("{name} {count} where another warp of the warpgroup has set {other}"));
        }
        // Whoever asks for more waits until it is there: never, when all have set theirs.
        if self.counts.iter().all(|counts| !counts.is_empty()) {
            let sum: u32 =
                self.counts.iter().filter_map(|counts| counts.last()).map(|count| count * WARP_THREADS).sum();
            if sum > REGISTERS {
                return refuse(format!("{name} {count}: the block's warps ask for {sum} of {REGISTERS} registers"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_a_producer_and_two_consumers() {
        let mut registers = Registers::default();
        registers.begin(384);
        for warp in 0..12 {
            let (count, increases) = if warp < 4 { (24, false) } else { (240, true) };
            assert_eq!(registers.set(warp, count, increases), Ok(()), "warp {warp}");
        }
        registers.begin(384);
        for (warp, count, increases) in
            [(0, 20, false), (0, 28, false), (0, 264, true), (0, 176, false), (0, 160, true)]
        {
            assert!(registers.set(warp, count, increases).is_err(), "{count}");
        }
        registers.begin(384);
        assert!(registers.set(0, 40, false).is_ok() && registers.set(1, 24, false).is_err());
        registers.begin(256);
        assert!((0..8).all(|warp| registers.set(warp, 256, true).is_ok()));
        registers.begin(384);
        assert!((0..11).all(|warp| registers.set(warp, 232, true).is_ok()));
        assert!(registers.set(11, 232, true).is_err());
    }
}

//! Bank conflicts of shared memory: 32 banks of four bytes, of which each gives one word at a time (CUDA C++ Programming Guide, "Shared
//! Memory" of the compute capabilities). Lanes that ask a bank for one and the same word share it.
//!
//! An access of a warp is made in phases: all lanes at once up to four bytes a lane, half-warps at eight, quarter-warps at sixteen (as
//! the CUDA C Programming Guide 4.2, F.4.2, splits requests to global memory, and as is widely observed of shared memory; nobody promises
//! it), and by `ldmatrix` or `stmatrix` one matrix of eight rows at a time. A phase takes as many wavefronts as the bank that is asked for
//! the most different words; all but the first are conflicts.
//!
//! An access of one lane becomes one of its warp by its site, a line of the source or the code behind it: a lane's n-th use of a site since
//! the warp last met, in a barrier or a matrix instruction, belongs to the other lanes' n-th uses of it. For lanes that leave a loop at
//! different turns, or pass a line of code in different branches, that is the access which they would make together.

use super::BankCounts;
use crate::machine::observer::Site;

const BANKS: usize = 32;
const WORD_BYTES: u32 = 4;
const MATRIX_ROWS: usize = 8;
const MATRIX_ROW_BYTES: u32 = 16;
const LANES: usize = 32;

/// The words that a phase asks of each bank.
#[derive(Default)]
struct Phase {
    words: [Vec<u32>; BANKS],
}

impl Phase {
    fn ask(&mut self, address: u32, bytes: u32) {
        for word in address / WORD_BYTES..(address + bytes).div_ceil(WORD_BYTES) {
            let asked = &mut self.words[word as usize % BANKS];
            if !asked.contains(&word) {
                asked.push(word);
            }
        }
    }

    fn wavefronts(&self) -> u64 {
        self.words.iter().map(Vec::len).max().unwrap_or(0) as u64
    }
}

/// Counts an access to `addresses`, all of them in one phase.
fn count_phase(counts: &mut BankCounts, addresses: impl Iterator<Item = u32>, bytes: u32) {
    let mut phase = Phase::default();
    addresses.for_each(|address| phase.ask(address, bytes));
    let wavefronts = phase.wavefronts();
    if wavefronts != 0 {
        counts.phases += 1;
        counts.conflicts += wavefronts - 1;
    }
}

/// Counts the matrices of an `ldmatrix` or `stmatrix`, whose rows lie at `rows`.
pub(super) fn count_matrices(counts: &mut BankCounts, rows: &[u32]) {
    for matrix in rows.chunks(MATRIX_ROWS) {
        count_phase(counts, matrix.iter().copied(), MATRIX_ROW_BYTES);
    }
}

/// Where in a kernel an access stands, and of what kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) site: Site,
    pub(super) bytes: u32,
    pub(super) writes: bool,
}

/// Counts by the kind of a site: of vector accesses and of plain ones.
#[derive(Debug)]
pub(super) struct Banks<'a> {
    pub(super) vectors: &'a mut BankCounts,
    pub(super) plain: &'a mut BankCounts,
}

/// An access of a warp, as far as its lanes have come to it.
struct Group {
    kind: Kind,
    lanes: u32,
    addresses: [u32; LANES],
}

impl Group {
    fn count(&self, banks: &mut Banks<'_>) {
        let counts = match self.kind.site {
            Site::Line(_) => &mut *banks.vectors,
            Site::Code(_) => &mut *banks.plain,
        };
        let lanes_a_phase = match self.kind.bytes {
            0..=4 => LANES,
            5..=8 => LANES / 2,
            _ => LANES / 4,
        };
        for first in (0..LANES).step_by(lanes_a_phase) {
            let lanes = (first..first + lanes_a_phase).filter(|lane| self.lanes >> lane & 1 != 0);
            count_phase(counts, lanes.map(|lane| self.addresses[lane]), self.kind.bytes);
        }
    }
}

/// The accesses of a warp since it last met.
#[derive(Default)]
pub(super) struct WarpAccesses {
    groups: Vec<Group>,
}

impl WarpAccesses {
    /// `lane` comes to a site; `exists` are the warp's lanes.
    pub(super) fn add(&mut self, mut banks: Banks<'_>, kind: Kind, (lane, exists): (u32, u32), address: u32) {
        let bit = 1 << lane;
        let open = |group: &Group| group.kind == kind && group.lanes & bit == 0;
        let index = self.groups.iter().position(open).unwrap_or_else(|| {
            self.groups.push(Group { kind, lanes: 0, addresses: [0; LANES] });
            self.groups.len() - 1
        });
        let group = &mut self.groups[index];
        group.lanes |= bit;
        group.addresses[lane as usize] = address;
        // A whole group is like one that every lane has passed: nobody looks for it again.
        if group.lanes == exists {
            group.count(&mut banks);
            self.groups.remove(index);
        }
    }

    /// The warp meets, or ends: no lane comes to these accesses any more.
    pub(super) fn meet(&mut self, mut banks: Banks<'_>) {
        self.groups.drain(..).for_each(|group| group.count(&mut banks));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banks(counts: &mut [BankCounts; 2]) -> Banks<'_> {
        let [vectors, plain] = counts;
        Banks { vectors, plain }
    }

    /// Conflicts of one access of a warp whose lanes are at these addresses.
    fn conflicts(bytes: u32, address: impl Fn(u32) -> u32) -> u64 {
        let (mut warp, mut counts) = (WarpAccesses::default(), [BankCounts::default(); 2]);
        let kind = Kind { site: Site::Code(1), bytes, writes: false };
        (0..32).for_each(|lane| warp.add(banks(&mut counts), kind, (lane, !0), address(lane)));
        assert_eq!(counts[0], BankCounts::default());
        assert_eq!(counts[1].phases, u64::from(bytes / 4));
        counts[1].conflicts
    }

    #[test]
    fn strides() {
        for (words, expected) in [(0, 0), (1, 0), (2, 1), (3, 0), (4, 3), (16, 15), (32, 31), (33, 0), (64, 31)] {
            assert_eq!(conflicts(4, |lane| lane * words * 4), expected, "a stride of {words} words");
        }
        assert_eq!(conflicts(4, |lane| lane / 2 * 4), 0, "two lanes share a word");
        assert_eq!(conflicts(8, |lane| lane * 8), 0);
        assert_eq!(conflicts(8, |lane| lane * 16), 2, "one a half-warp");
        assert_eq!(conflicts(16, |lane| lane * 16), 0);
        assert_eq!(conflicts(16, |lane| lane * 128), 28, "seven a quarter-warp");
        assert_eq!(conflicts(16, |lane| lane * 128 + (lane % 8) * 16), 0, "swizzled");
    }

    #[test]
    fn lanes_that_diverge_are_counted_when_the_warp_meets() {
        let (mut warp, mut counts) = (WarpAccesses::default(), [BankCounts::default(); 2]);
        // Lane 1 passes the second site before lane 0 comes to the first, and never comes to the first.
        for (line, lane, address) in [(2, 1, 128), (1, 0, 0), (2, 0, 0), (2, 0, 4)] {
            let kind = Kind { site: Site::Line(line), bytes: 4, writes: false };
            warp.add(banks(&mut counts), kind, (lane, !0), address);
        }
        assert_eq!(counts, [BankCounts::default(); 2]);
        warp.meet(banks(&mut counts));
        assert_eq!(counts, [BankCounts { phases: 3, conflicts: 1 }, BankCounts::default()]);
    }
}

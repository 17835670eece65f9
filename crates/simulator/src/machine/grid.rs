//! A grid as clusters, and the order in which they run.

use super::random::Random;
use super::{LaunchDescription, Schedule};

/// A grid as clusters. Without clusters each block is one.
pub(super) struct Clusters {
    /// Blocks of the grid.
    grid: [u64; 3],
    /// Blocks of a cluster.
    size: [u64; 3],
    /// Clusters of the grid.
    pub(super) count: u64,
}

impl Clusters {
    pub(super) fn new(launch: &LaunchDescription<'_>) -> Self {
        let (grid, size) = (launch.grid.map(u64::from), launch.cluster.map(u64::from));
        let count = grid.iter().product::<u64>() / size.iter().product::<u64>();
        Self { grid, size, count }
    }

    /// The blocks of a cluster by rank: number and index in the grid. Ranks, as numbers, count x first.
    pub(super) fn blocks(&self, cluster: u64) -> Vec<(u64, [u32; 3])> {
        let [x, y, z] = self.size;
        let [grid_x, grid_y, _] = self.grid;
        let (across, down) = (grid_x / x, grid_y / y);
        let first = [cluster % across * x, cluster / across % down * y, cluster / (across * down) * z];
        let block = |rank: u64| {
            let index = [first[0] + rank % x, first[1] + rank / x % y, first[2] + rank / (x * y)];
            (index[0] + grid_x * (index[1] + grid_y * index[2]), index.map(|index| index as u32))
        };
        (0..x * y * z).map(block).collect()
    }
}

/// Which block runs when.
pub(super) struct Order {
    count: u64,
    /// Places are multiplied by this, which has no divisor in common with `count`, and shifted: a permutation.
    factor: u64,
    shift: u64,
}

impl Order {
    pub(super) fn new(schedule: Schedule, count: u64) -> Self {
        let Schedule::Seeded(seed) = schedule else { return Self { count, factor: 1, shift: 0 } };
        let mut random = Random::new(seed, 0);
        let shift = random.next() % count;
        let mut factor = random.next() % count;
        while greatest_common_divisor(factor, count) != 1 {
            factor = (factor + 1) % count;
        }
        Self { count, factor, shift }
    }

    pub(super) fn block(&self, place: u64) -> u64 {
        ((u128::from(place) * u128::from(self.factor) + u128::from(self.shift)) % u128::from(self.count)) as u64
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_one_place() {
        for (seed, count) in [(1, 1), (2, 2), (3, 7), (4, 30), (5, 1024)] {
            for schedule in [Schedule::RoundRobin, Schedule::Seeded(seed)] {
                let order = Order::new(schedule, count);
                let mut blocks: Vec<u64> = (0..count).map(|place| order.block(place)).collect();
                blocks.sort_unstable();
                assert!(blocks.into_iter().eq(0..count), "{schedule:?} of {count}");
            }
        }
    }
}

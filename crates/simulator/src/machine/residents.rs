//! Resident clusters of one OS thread, which take turns: those of one launch, or of a chain of launches each of which may begin before the
//! one before it is complete.
//!
//! Round-robin lets launches overlap as far as the rules allow: a cluster that has let the next launch begin rests, the latest launch
//! goes first, and the older ones only run on when nothing else can. A seed draws any order.

use super::cluster::Pause;
use super::grid::{Clusters, Order};
use super::multiprocessor::{BlockFault, Multiprocessor, NewBlock, Surroundings, Turn};
use super::observer::{Launch, Observer, RunId};
use super::random::Random;
use super::watch::Watcher;
use super::{LaunchDescription, Schedule, window_bytes};
use crate::fault::{Fault, Reason};

/// Launches of a chain that run at the same time.
const LAUNCHES_IN_FLIGHT: usize = 3;

/// A launch of the chain.
pub(super) struct Progress<'a> {
    launch: &'a LaunchDescription<'a>,
    clusters: Clusters,
    order: Order,
}

impl<'a> Progress<'a> {
    pub(super) fn new(launch: &'a LaunchDescription<'a>) -> Self {
        let clusters = Clusters::new(launch);
        let order = Order::new(launch.schedule, clusters.count);
        Self { launch, clusters, order }
    }

    /// Clusters of the launch.
    pub(super) fn count(&self) -> u64 {
        self.clusters.count
    }

    /// The cluster at a place of the order.
    pub(super) fn cluster(&self, place: u64) -> u64 {
        self.order.block(place)
    }

    /// The blocks of a cluster, by rank: number and index in the grid.
    pub(super) fn blocks(&self, cluster: u64) -> Vec<(u64, [u32; 3])> {
        self.clusters.blocks(cluster)
    }
}

/// What is counted of a launch.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    resident: usize,
    /// Clusters that have started.
    started: u64,
    /// Clusters that have let the next launch begin, or have ended.
    triggered: u64,
    ended: u64,
}

/// A resident cluster.
struct Resident {
    launch: usize,
    multiprocessor: Multiprocessor,
    blocks: Vec<[u32; 3]>,
    runs: Vec<RunId>,
    waits: bool,
    triggered: bool,
    yielding: bool,
    /// When it had its last turn.
    turn: u64,
}

/// Something that may happen next.
#[derive(Clone, Copy, Debug)]
enum Action {
    Start(usize),
    Resume(usize),
}

/// A part of a chain's clusters, on one OS thread.
pub(super) struct Residents<'a> {
    chain: &'a [Progress<'a>],
    counts: Vec<Counts>,
    /// Launches before this one are complete.
    first: usize,
    /// Launches before this one have begun.
    begun: usize,
    residents: Vec<Resident>,
    observer: Option<Box<dyn Observer>>,
    random: Option<Random>,
    turn: u64,
    /// The time that blocks may take without an end or a beginning counts on.
    continues: bool,
    /// Places of a launch's order that are this part's: every `stride`th.
    stride: u64,
    offset: u64,
}

/// Runs every cluster of a chain, or of its only launch those at every `stride`th place of its order from `offset` on.
pub(super) fn run(
    chain: &[Progress<'_>],
    observer: Option<Box<dyn Observer>>,
    (stride, offset): (u64, u64),
) -> Result<(), Box<Fault>> {
    let random = match chain[0].launch.schedule {
        Schedule::RoundRobin => None,
        Schedule::Seeded(seed) => Some(Random::new(seed, !offset)),
    };
    let mut residents = Residents {
        chain,
        counts: vec![Counts::default(); chain.len()],
        first: 0,
        begun: 0,
        residents: Vec::new(),
        observer,
        random,
        turn: 0,
        continues: false,
        stride,
        offset,
    };
    residents.begin_launch();
    let answer = loop {
        let Some(action) = residents.choose() else { break Ok(()) };
        if let Err(fault) = residents.act(action) {
            break Err(fault);
        }
    };
    if let (Ok(()), Some(observer)) = (&answer, &mut residents.observer) {
        observer.end_chain();
    }
    for mut resident in residents.residents {
        resident.multiprocessor.abandon();
        resident.multiprocessor.put_back();
    }
    answer
}

impl Residents<'_> {
    fn begin_launch(&mut self) {
        let LaunchDescription { kernel, grid, block, cluster, shared_bytes, .. } = *self.chain[self.begun].launch;
        let shared_bytes = window_bytes(kernel, shared_bytes);
        if let Some(observer) = &mut self.observer {
            observer.begin_launch(&Launch { kernel: kernel.name().to_owned(), grid, block, cluster, shared_bytes });
        }
        self.begun += 1;
    }

    /// Clusters of a launch that are this part's.
    fn share(&self, launch: usize) -> u64 {
        self.chain[launch].count().saturating_sub(self.offset).div_ceil(self.stride)
    }

    /// Whether every cluster of a launch has started.
    fn all_started(&self, launch: usize) -> bool {
        self.counts[launch].started == self.share(launch)
    }

    /// The blocks of the cluster of a launch that starts next.
    fn next_blocks(&self, launch: usize) -> Vec<(u64, [u32; 3])> {
        let progress = &self.chain[launch];
        progress.blocks(progress.cluster(self.counts[launch].started * self.stride + self.offset))
    }

    /// Most clusters of a launch that are resident at a time.
    fn bound(&self, launch: usize) -> usize {
        let LaunchDescription { residency, cluster, .. } = self.chain[launch].launch;
        (residency.blocks / cluster.iter().product::<u32>().max(1)).max(1) as usize
    }

    fn choose(&mut self) -> Option<Action> {
        while self.begun < self.chain.len()
            && self.begun - self.first < LAUNCHES_IN_FLIGHT
            && self.counts[self.begun - 1].triggered == self.share(self.begun - 1)
        {
            self.begin_launch();
        }
        let starts = (self.first..self.begun)
            .filter(|&launch| self.counts[launch].resident < self.bound(launch) && !self.all_started(launch))
            .map(Action::Start);
        let resumes = (0..self.residents.len()).filter(|&index| !self.residents[index].waits).map(Action::Resume);
        let actions: Vec<Action> = starts.chain(resumes).collect();
        match &mut self.random {
            Some(random) if !actions.is_empty() => Some(actions[random.below(actions.len() as u32) as usize]),
            _ => actions.into_iter().max_by_key(|&action| self.rank(action)),
        }
    }

    /// Round-robin takes the action of the highest rank.
    fn rank(&self, action: Action) -> (u32, usize, u32, u64) {
        match action {
            Action::Start(launch) => (1, launch, 2, 0),
            Action::Resume(index) => {
                let Resident { launch, triggered, yielding, turn, .. } = self.residents[index];
                let urgency = if triggered { 1 } else { 3 };
                (u32::from(!yielding), launch, urgency, u64::MAX - turn)
            }
        }
    }

    fn act(&mut self, action: Action) -> Result<(), Box<Fault>> {
        self.turn += 1;
        let index = match action {
            Action::Start(launch) => self.start(launch)?,
            Action::Resume(index) => index,
        };
        let resident = &mut self.residents[index];
        let launch = resident.launch;
        resident.turn = self.turn;
        resident.yielding = false;
        let continues = std::mem::replace(&mut self.continues, true);
        let turn = match resident.multiprocessor.advance(self.chain[launch].launch, continues) {
            Ok(turn) => turn,
            Err((rank, fault)) => {
                let block = resident.blocks[rank];
                return Err(self.fault(launch, block, fault));
            }
        };
        let triggered = turn == Turn::Ended || resident.multiprocessor.triggered();
        if triggered && !std::mem::replace(&mut resident.triggered, true) {
            self.counts[launch].triggered += 1;
        }
        match turn {
            Turn::Waits => resident.waits = true,
            Turn::Paused(Pause::Yielding) => resident.yielding = true,
            Turn::Paused(Pause::Triggered | Pause::Drawn) => {}
            Turn::Ended => self.end(index),
        }
        // Whoever yielded waits for the others' turns.
        if !matches!(turn, Turn::Paused(Pause::Yielding)) {
            self.residents.iter_mut().for_each(|resident| resident.yielding = false);
        }
        Ok(())
    }

    /// Makes the next cluster of a launch resident.
    fn start(&mut self, launch: usize) -> Result<usize, Box<Fault>> {
        let description = self.chain[launch].launch;
        let blocks = self.next_blocks(launch);
        self.counts[launch].started += 1;
        let mut runs = Vec::new();
        let mut new_block = |&(number, index): &(u64, [u32; 3])| {
            let watcher = self.observer.as_mut().map(|observer| {
                let run = observer.begin_block(launch, number);
                runs.push(run);
                // SAFETY: the observer lives as long as the part, which runs all blocks that it watches on this OS thread and
                // touches it only between their turns.
                unsafe { Watcher::new(&raw mut **observer, run) }
            });
            NewBlock { index, random: super::block_random(description.schedule, number), watcher }
        };
        let new: Vec<NewBlock> = blocks.iter().map(&mut new_block).collect();
        let surroundings = Surroundings {
            others: self.chain.len() > 1 || self.bound(launch) > 1 && self.share(launch) > 1,
            dependents: launch + 1 < self.chain.len(),
            incomplete: launch > 0 && self.counts[launch - 1].ended < self.share(launch - 1),
        };
        let mut multiprocessor = Multiprocessor::take();
        if let Err((rank, fault)) = multiprocessor.begin(description, &new, surroundings) {
            multiprocessor.put_back();
            return Err(self.fault(launch, new[rank].index, fault));
        }
        self.continues = false;
        self.counts[launch].resident += 1;
        self.residents.push(Resident {
            launch,
            multiprocessor,
            blocks: new.iter().map(|block| block.index).collect(),
            runs,
            waits: false,
            triggered: false,
            yielding: false,
            turn: 0,
        });
        Ok(self.residents.len() - 1)
    }

    /// Takes note that a cluster has ended, and with it perhaps its launch.
    fn end(&mut self, index: usize) {
        self.continues = false;
        let resident = self.residents.remove(index);
        let launch = resident.launch;
        if let Some(observer) = &mut self.observer {
            resident.runs.into_iter().for_each(|run| observer.end_block(run));
        }
        resident.multiprocessor.put_back();
        self.counts[launch].resident -= 1;
        self.counts[launch].ended += 1;
        while self.first < self.begun && self.counts[self.first].ended == self.share(self.first) {
            self.first += 1;
        }
        if self.counts[launch].ended == self.share(launch) {
            for resident in self.residents.iter_mut().filter(|resident| resident.launch == launch + 1) {
                resident.multiprocessor.complete_dependency();
                resident.waits = false;
            }
        }
    }

    fn fault(&self, launch: usize, block: [u32; 3], mut fault: BlockFault) -> Box<Fault> {
        if let Reason::Spinning { waiting } | Reason::Hung { waiting, .. } = &mut fault.reason {
            waiting.push_str(&self.absent(launch));
        }
        super::fault_at(self.chain[launch].launch, block, fault)
    }

    /// What is to be said of blocks of a launch that have not started.
    fn absent(&self, launch: usize) -> String {
        if self.all_started(launch) {
            return String::new();
        }
        let next = self.next_blocks(launch);
        let [x, y, z] = next[0].1;
        format!(
            "; {} of the multiprocessor's {} blocks have not started, block ({x}, {y}, {z}) is next, and at most {} are resident",
            (self.share(launch) - self.counts[launch].started) * next.len() as u64,
            self.share(launch) * next.len() as u64,
            self.bound(launch) * next.len(),
        )
    }
}

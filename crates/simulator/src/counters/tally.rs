//! The observer that counts. It stands in front of whoever else watches the launch.

use super::banks::{Banks, Kind, WarpAccesses, count_matrices};
use super::footprint::Footprint;
use super::{Counts, LaunchCounts, Recorder};
use crate::fault::Space;
use crate::machine::WARP_THREADS;
use crate::machine::observer::{
    CopyPlace, Launch, Meeting, Multiply, Observer, Place, Reader, RunId, Site, Strength, Touch, Verdict, Who,
};

/// What is counted of a launch.
pub(super) struct LaunchTally {
    pub(super) launch: Launch,
    /// Everything but the distinct bytes.
    pub(super) counts: Counts,
    pub(super) read: Footprint,
    pub(super) written: Footprint,
}

impl LaunchTally {
    fn touch(&mut self, address: usize, bytes: usize, touch: Touch) {
        let (counts, footprint) = match touch {
            Touch::Read | Touch::NonCoherent => (&mut self.counts.read, &mut self.read),
            Touch::Write => (&mut self.counts.written, &mut self.written),
        };
        counts.total += bytes as u64;
        footprint.add(address, bytes);
    }

    /// The counts, for whoever asked.
    pub(super) fn finish(&self, graph: Option<u64>) -> LaunchCounts {
        let mut counts = self.counts.clone();
        counts.read.distinct = self.read.bytes();
        counts.written.distinct = self.written.bytes();
        let Launch { kernel, grid, block, cluster, .. } = self.launch.clone();
        LaunchCounts { kernel, grid, block, cluster, graph, counts }
    }
}

/// A resident block.
#[derive(Default)]
struct Run {
    launch: usize,
    wrote: bool,
    threads: u32,
    /// By thread: where its next shared access stands.
    sites: Vec<Option<Site>>,
    warps: Vec<WarpAccesses>,
}

/// Counts a chain of launches.
pub(super) struct Tally {
    recorder: Recorder,
    inner: Option<Box<dyn Observer>>,
    launches: Vec<LaunchTally>,
    runs: Vec<Run>,
    free_runs: Vec<RunId>,
}

impl Tally {
    /// Counts for `recorder`, and tells `inner` of everything too.
    pub(super) fn new(recorder: Recorder, inner: Option<Box<dyn Observer>>) -> Self {
        Self { recorder, inner, launches: Vec::new(), runs: Vec::new(), free_runs: Vec::new() }
    }

    fn launch(&mut self, run: RunId) -> &mut LaunchTally {
        &mut self.launches[self.runs[run.0 as usize].launch]
    }

    fn counts(&mut self, run: RunId) -> &mut Counts {
        &mut self.launch(run).counts
    }

    fn touch(&mut self, who: Who, place: Place, touch: Touch) {
        match place.space {
            Space::Global => {
                self.runs[who.run.0 as usize].wrote |= touch == Touch::Write && place.bytes != 0;
                self.launch(who.run).touch(place.address, place.bytes, touch);
            }
            Space::Shared => self.bank(who, place, touch == Touch::Write),
        }
    }

    /// Counts the banks of an access to shared memory, where it was said at which site it stands.
    fn bank(&mut self, who: Who, place: Place, writes: bool) {
        let run = &mut self.runs[who.run.0 as usize];
        let Some(site) = run.sites.get_mut(who.thread as usize) else { return };
        let Some(site) = site.take().filter(|_| place.home == who.run) else { return };
        let (warp, lane) = (who.thread / WARP_THREADS, who.thread % WARP_THREADS);
        let lanes = (run.threads - warp * WARP_THREADS).min(WARP_THREADS);
        let exists = u32::MAX >> (WARP_THREADS - lanes);
        let kind = Kind { site, bytes: place.bytes as u32, writes };
        let banks = banks(&mut self.launches[run.launch].counts);
        run.warps[warp as usize].add(banks, kind, (lane, exists), place.address as u32);
    }

    fn meet(&mut self, run: RunId, warp: u32) {
        let run = &mut self.runs[run.0 as usize];
        if let Some(accesses) = run.warps.get_mut(warp as usize) {
            accesses.meet(banks(&mut self.launches[run.launch].counts));
        }
    }

    fn ask(&mut self, ask: impl FnOnce(&mut dyn Observer) -> Verdict) -> Verdict {
        match &mut self.inner {
            Some(inner) => ask(&mut **inner),
            None => Ok(()),
        }
    }

    fn tell(&mut self, tell: impl FnOnce(&mut dyn Observer)) {
        if let Some(inner) = &mut self.inner {
            tell(&mut **inner);
        }
    }
}

fn banks(counts: &mut Counts) -> Banks<'_> {
    Banks { vectors: &mut counts.vectors, plain: &mut counts.plain }
}

impl Observer for Tally {
    fn begin_launch(&mut self, launch: &Launch) {
        self.launches.push(LaunchTally {
            launch: launch.clone(),
            counts: Counts { blocks: launch.grid.iter().map(|&count| u64::from(count)).product(), ..Counts::default() },
            read: Footprint::default(),
            written: Footprint::default(),
        });
        self.tell(|inner| inner.begin_launch(launch));
    }

    fn begin_block(&mut self, launch: usize, block: u64) -> RunId {
        let run = match &mut self.inner {
            Some(inner) => inner.begin_block(launch, block),
            None => self.free_runs.pop().unwrap_or(RunId(self.runs.len() as u32)),
        };
        if self.runs.len() <= run.0 as usize {
            self.runs.resize_with(run.0 as usize + 1, Run::default);
        }
        let threads = self.launches[launch].launch.block.iter().product::<u32>();
        let state = &mut self.runs[run.0 as usize];
        (state.launch, state.wrote, state.threads) = (launch, false, threads);
        state.sites.clear();
        state.sites.resize(threads as usize, None);
        state.warps.resize_with(threads.div_ceil(WARP_THREADS) as usize, WarpAccesses::default);
        run
    }

    fn end_block(&mut self, run: RunId) {
        for warp in 0..self.runs[run.0 as usize].warps.len() as u32 {
            self.meet(run, warp);
        }
        let idle = !self.runs[run.0 as usize].wrote;
        self.counts(run).idle_blocks += u64::from(idle);
        match &mut self.inner {
            Some(inner) => inner.end_block(run),
            None => self.free_runs.push(run),
        }
    }

    fn end_chain(&mut self) {
        self.recorder.add(std::mem::take(&mut self.launches));
        self.tell(|inner| inner.end_chain());
    }

    fn dependents_launched(&mut self, who: Who) {
        self.tell(|inner| inner.dependents_launched(who));
    }

    fn dependency_waited(&mut self, who: Who) {
        self.tell(|inner| inner.dependency_waited(who));
    }

    fn access(&mut self, who: Who, place: Place, touch: Touch) -> Verdict {
        self.touch(who, place, touch);
        self.ask(|inner| inner.access(who, place, touch))
    }

    fn store_lands(&mut self, who: Who, place: Place) -> Verdict {
        self.ask(|inner| inner.store_lands(who, place))
    }

    fn atomic(&mut self, who: Who, place: Place, strength: Strength) -> Verdict {
        if place.space == Space::Global {
            self.touch(who, place, Touch::Read);
            self.touch(who, place, Touch::Write);
        }
        self.ask(|inner| inner.atomic(who, place, strength))
    }

    fn fence(&mut self, who: Who, block_scope: bool) {
        self.tell(|inner| inner.fence(who, block_scope));
    }

    fn barrier(&mut self, run: RunId, threads: &mut dyn Iterator<Item = u32>) {
        let mut warps = 0u64;
        match &mut self.inner {
            Some(inner) => inner.barrier(run, &mut threads.inspect(|thread| warps |= 1 << (thread / WARP_THREADS))),
            None => threads.for_each(|thread| warps |= 1 << (thread / WARP_THREADS)),
        }
        (0..u64::BITS).filter(|warp| warps >> warp & 1 != 0).for_each(|warp| self.meet(run, warp));
    }

    fn copy_issued(&mut self, who: Who, copy: CopyPlace) -> Verdict {
        if copy.source_bytes != 0 {
            self.launch(who.run).touch(copy.source, copy.source_bytes as usize, Touch::Read);
        }
        let (address, bytes) = (copy.target as usize, copy.bytes as usize);
        self.bank(who, Place { space: Space::Shared, home: who.run, address, bytes }, true);
        self.ask(|inner| inner.copy_issued(who, copy))
    }

    fn copy_committed(&mut self, who: Who) {
        self.tell(|inner| inner.copy_committed(who));
    }

    fn copy_waited(&mut self, who: Who, pending: u32) -> Verdict {
        self.ask(|inner| inner.copy_waited(who, pending))
    }

    fn bulk_begins(&mut self, who: Who, place: Place) -> Verdict {
        self.ask(|inner| inner.bulk_begins(who, place))
    }

    fn bulk_ends(&mut self, who: Who, place: Place, token: u64) {
        self.tell(|inner| inner.bulk_ends(who, place, token));
    }

    fn read_begins(&mut self, who: Who, reader: Reader, number: u64, place: Place) -> Verdict {
        self.ask(|inner| inner.read_begins(who, reader, number, place))
    }

    fn reads_end(&mut self, who: Who, reader: Reader, end: u64) -> Verdict {
        self.ask(|inner| inner.reads_end(who, reader, end))
    }

    fn release(&mut self, who: Who, home: RunId, token: u64) {
        self.tell(|inner| inner.release(who, home, token));
    }

    fn acquire(&mut self, who: Who, home: RunId, token: u64) {
        self.tell(|inner| inner.acquire(who, home, token));
    }

    fn site(&mut self, who: Who, site: Site) {
        if let Some(next) = self.runs[who.run.0 as usize].sites.get_mut(who.thread as usize) {
            *next = Some(site);
        }
        self.tell(|inner| inner.site(who, site));
    }

    fn matrices(&mut self, who: Who, rows: &[u32]) {
        self.meet(who.run, who.thread / WARP_THREADS);
        count_matrices(&mut self.counts(who.run).matrices, rows);
        self.tell(|inner| inner.matrices(who, rows));
    }

    fn multiplied(&mut self, who: Who, kind: Multiply, instructions: u64) {
        self.meet(who.run, who.thread / WARP_THREADS);
        let multiplies = &mut self.counts(who.run).multiplies;
        match kind {
            Multiply::Bf16 => multiplies.bf16 += instructions,
            Multiply::F16 => multiplies.f16 += instructions,
            Multiply::Warpgroup { columns } => *multiplies.warpgroup.entry(columns).or_default() += instructions,
        }
        self.tell(|inner| inner.multiplied(who, kind, instructions));
    }

    fn transcendental(&mut self, who: Who, kind: u32) {
        let counts = &mut self.counts(who.run).transcendentals;
        match kind {
            0 => counts.exponentials_base_2 += 1,
            1 => counts.exponentials += 1,
            2 => counts.logarithms += 1,
            3 => counts.reciprocal_square_roots += 1,
            _ => counts.divisions += 1,
        }
        self.tell(|inner| inner.transcendental(who, kind));
    }

    fn met(&mut self, run: RunId, meeting: Meeting) {
        let barriers = &mut self.counts(run).barriers;
        match meeting {
            Meeting::Block => barriers.block += 1,
            Meeting::Named => barriers.named += 1,
            Meeting::Warp => barriers.warp += 1,
            Meeting::Cluster => barriers.cluster += 1,
            Meeting::MbarrierWait => barriers.mbarrier_waits += 1,
        }
        self.tell(|inner| inner.met(run, meeting));
    }
}

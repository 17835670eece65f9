//! `wgmma` (PTX ISA 9.7.15): four warps multiply 64 rows beside their own work.
//!
//! The four warps issue the same operations in the same order, each with its own registers. An operation runs when the first of them
//! waits for its group: then it reads shared memory and, for all four, its accumulators. The accumulators are moved out of the
//! registers, which hold poison, when an operation first takes them, and come back at each warp's own wait.
//!
//! Element `i` of an accumulator with `N / 2` registers, in lane `4 * g + t` of warp `w`: row `16 * w + g + 8 * (i / 2 % 2)`, column
//! `8 * (i / 4) + 2 * t + i % 2` (9.7.15.5.1.1). Registers of a: as those of `mma.sync.m16n8k16` for the warp's sixteen rows.

use std::collections::VecDeque;

use super::block::Block;
use super::descriptor::Descriptor;
use super::mma::{GROUP_ROWS, GroupMultiply, GroupPanels, Row, canonical, fastest_group};
use super::observer::Reader;
use super::operands::{self, COLUMNS, Fragments, Shape, WARP_ROWS, WARPS};
use super::proxy::Proxy;
use super::thread::WARP_THREADS;
use super::warp::Deposit;
use super::watch;
use crate::fault::Reason;
use crate::memory::POISON;

const LANES: usize = WARP_THREADS as usize;

/// An operation of a warpgroup.
struct Operation {
    shape: Shape,
    a: u64,
    b: u64,
    /// Fragments of a that lie in registers, by warp.
    fragments: Option<Box<Fragments>>,
    accumulator: usize,
    /// Warps that have issued it.
    issued: u32,
}

/// Accumulators that operations under way hold.
struct Accumulator {
    columns: usize,
    /// By tile of eight columns, then by row.
    values: Vec<Row>,
    /// By warp: the lanes' registers, while they hold poison.
    registers: [Option<[usize; LANES]>; WARPS],
    /// By warp: the number of its last operation on them, plus one.
    used: [u64; WARPS],
}

/// A warp's part of its warpgroup.
#[derive(Default)]
struct Issuer {
    /// Operations issued.
    issued: u64,
    /// For each group not waited for: how many operations had been issued when it was committed.
    groups: VecDeque<u64>,
    /// `wgmma.fence` came since accumulators were last given back.
    fenced: bool,
    /// The operations that it waits for.
    waits: Option<u64>,
}

/// Four warps.
struct Warpgroup {
    operations: VecDeque<Operation>,
    /// The number of the first of them: those before have run.
    done: u64,
    warps: [Issuer; WARPS],
    accumulators: Vec<Accumulator>,
    /// Accumulators nobody uses, kept for their storage.
    spare: Vec<usize>,
}

impl Warpgroup {
    fn new() -> Self {
        Self {
            operations: VecDeque::new(),
            done: 0,
            warps: Default::default(),
            accumulators: Vec::new(),
            spare: Vec::new(),
        }
    }

    fn begin(&mut self) {
        self.operations.clear();
        self.done = 0;
        self.warps = Default::default();
        for accumulator in &mut self.accumulators {
            accumulator.registers = [None; WARPS];
        }
        self.spare = (0..self.accumulators.len()).collect();
    }

    /// Operations that all four warps have issued.
    fn complete(&self) -> u64 {
        self.warps.iter().map(|warp| warp.issued).min().unwrap_or(0)
    }
}

/// A block's warpgroups.
pub(crate) struct Warpgroups {
    groups: Vec<Warpgroup>,
    pub(crate) panels: Box<GroupPanels>,
    pub(crate) multiply: GroupMultiply,
}

/// A rule of wgmma was broken by `lane` of a warp.
fn broken(lane: u32, rule: String) -> (u32, Reason) {
    (lane, Reason::Warpgroup { rule })
}

impl Warpgroups {
    pub(crate) fn new() -> Self {
        Self { groups: Vec::new(), panels: GroupPanels::new(), multiply: fastest_group() }
    }

    /// Starts a block of `threads` threads.
    pub(crate) fn begin(&mut self, threads: u32) {
        let count = threads as usize / (WARPS * LANES);
        while self.groups.len() < count {
            self.groups.push(Warpgroup::new());
        }
        self.groups.truncate(count);
        self.groups.iter_mut().for_each(Warpgroup::begin);
    }

    fn group(&mut self, warp: u32) -> Result<(&mut Warpgroup, usize), (u32, Reason)> {
        let (group, warp) = (warp as usize / WARPS, warp as usize % WARPS);
        match self.groups.get_mut(group) {
            Some(group) => Ok((group, warp)),
            None => Err(broken(0, "wgmma in a warp that has no three others beside it".to_owned())),
        }
    }

    /// `wgmma.fence` (PTX ISA 9.7.15.7.1) by `warp`.
    pub(crate) fn fence(&mut self, warp: u32) -> Result<(), (u32, Reason)> {
        let (group, warp) = self.group(warp)?;
        group.warps[warp].fenced = true;
        Ok(())
    }

    /// `wgmma.mma_async` by `warp`, whose lanes brought registers of d, registers or descriptor of a, and descriptor of b.
    ///
    /// # Safety
    /// Each lane's registers are valid for `columns / 2` floats of d and, where a lies in registers, four words; those of d stay valid
    /// until the group is waited for.
    pub(crate) unsafe fn issue(
        &mut self,
        proxy: &Proxy,
        warp: u32,
        shape: Shape,
        lanes: &[Deposit; LANES],
    ) -> Result<(), (u32, Reason)> {
        let (group, warp) = self.group(warp)?;
        let uniform =
            |pointer: usize| (0u32..).zip(lanes).find(|(_, lane)| lane.pointers[pointer] != lanes[0].pointers[pointer]);
        let differs = if shape.a_in_registers { uniform(2) } else { uniform(2).or_else(|| uniform(1)) };
        if let Some((lane, _)) = differs {
            return Err(broken(lane, format!("lane {lane} brings another matrix descriptor than lane 0")));
        }
        let (a, b) = (if shape.a_in_registers { 0 } else { lanes[0].pointers[1] as u64 }, lanes[0].pointers[2] as u64);
        for (name, bits) in [("a", a), ("b", b)] {
            if let Some(why) = Descriptor::refusal(bits) {
                let detail = format!("matrix descriptor `{bits:#x}` of {name}: {why}");
                return Err((0, Reason::InvalidOperand { detail }));
            }
        }
        let number = group.warps[warp].issued;
        let place = (number - group.done) as usize;
        let registers: [usize; LANES] = std::array::from_fn(|lane| lanes[lane].pointers[0]);
        // The accumulators that this warp's registers already stand for.
        let held = group
            .accumulators
            .iter()
            .position(|accumulator| accumulator.registers[warp].is_some_and(|held| held[0] == registers[0]));
        if place == group.operations.len() {
            let accumulator = held.unwrap_or_else(|| {
                group.spare.pop().unwrap_or_else(|| {
                    let empty =
                        Accumulator { columns: 0, values: Vec::new(), registers: [None; WARPS], used: [0; WARPS] };
                    group.accumulators.push(empty);
                    group.accumulators.len() - 1
                })
            });
            if held.is_none() {
                let fresh = &mut group.accumulators[accumulator];
                fresh.columns = shape.columns;
                fresh.values.clear();
                fresh.values.resize(shape.columns / COLUMNS * GROUP_ROWS, [0.0; COLUMNS]);
            }
            operands::check_visible(proxy, shape, a, b).map_err(|reason| (0, reason))?;
            let fragments = shape.a_in_registers.then(|| Box::new([[[0; 4]; LANES]; WARPS]));
            group.operations.push_back(Operation { shape, a, b, fragments, accumulator, issued: 0 });
        }
        let operation = &mut group.operations[place];
        if (operation.shape, operation.a, operation.b) != (shape, a, b) {
            let rule = format!("warp {warp} of the warpgroup issues another operation than the others before it");
            return Err(broken(0, rule));
        }
        let accumulator = &mut group.accumulators[operation.accumulator];
        if accumulator.columns != shape.columns {
            return Err(broken(0, "accumulators under way are used with another shape".to_owned()));
        }
        if held.is_some_and(|held| held != operation.accumulator)
            || held.is_none() && accumulator.registers[warp].is_some()
        {
            return Err(broken(0, format!("warp {warp} uses other accumulators than the warpgroup's other warps")));
        }
        if held.is_none() {
            if !group.warps[warp].fenced {
                return Err(broken(
                    0,
                    "wgmma takes registers that were accessed since the last wgmma.fence".to_owned(),
                ));
            }
            accumulator.registers[warp] = Some(registers);
            for (lane, pointer) in registers.into_iter().enumerate() {
                // SAFETY: by this function's contract.
                unsafe { take(accumulator, warp, lane, pointer as *mut f32, shape.scale_d) };
            }
        }
        accumulator.used[warp] = number + 1;
        if let Some(fragments) = &mut operation.fragments {
            for (fragment, lane) in fragments[warp].iter_mut().zip(lanes) {
                // SAFETY: by this function's contract.
                *fragment = unsafe { (lane.pointers[1] as *const [u32; 4]).read() };
            }
        }
        operation.issued |= 1 << warp;
        group.warps[warp].issued += 1;
        Ok(())
    }

    /// The number of the operation that `warp` has issued last, and whether it was the first of its warpgroup to do so.
    pub(crate) fn newest(&self, warp: u32) -> (u64, bool) {
        let Some(group) = self.groups.get(warp as usize / WARPS) else { return (0, false) };
        let issued = group.warps[warp as usize % WARPS].issued;
        (issued - 1, group.warps.iter().filter(|other| other.issued >= issued).count() == 1)
    }

    /// `wgmma.commit_group` (PTX ISA 9.7.15.7.2) by `warp`.
    pub(crate) fn commit(&mut self, warp: u32) -> Result<(), (u32, Reason)> {
        let (group, warp) = self.group(warp)?;
        let issued = group.warps[warp].issued;
        group.warps[warp].groups.push_back(issued);
        Ok(())
    }

    /// `wgmma.wait_group` (PTX ISA 9.7.15.7.3) by `warp`: whether its groups but the newest `pending` have been issued by all four warps,
    /// so that it can go on after [`finish`]. If not, it waits.
    pub(crate) fn wait(&mut self, warp: u32, pending: u32) -> Result<bool, (u32, Reason)> {
        let (group, warp) = self.group(warp)?;
        let issuer = &mut group.warps[warp];
        let waited = issuer.groups.len().saturating_sub(pending as usize);
        let target = issuer.groups.drain(..waited).next_back().unwrap_or(0);
        issuer.waits = Some(target);
        Ok(group.complete() >= target)
    }

    /// The warps of the group of `warp` that wait and can go on, as their numbers in the block.
    pub(crate) fn waiting(&self, warp: u32) -> impl Iterator<Item = u32> + use<> {
        let index = warp as usize / WARPS;
        let ready: [bool; WARPS] = match self.groups.get(index) {
            Some(group) => {
                std::array::from_fn(|warp| group.warps[warp].waits.is_some_and(|target| group.complete() >= target))
            }
            None => [false; WARPS],
        };
        (0..WARPS).filter(move |&warp| ready[warp]).map(move |warp| (index * WARPS + warp) as u32)
    }

    /// The first of `warps` warps that waits in vain, for a report of a deadlock.
    pub(crate) fn describe(&self, waiting: &mut String) {
        use std::fmt::Write;
        for (index, group) in self.groups.iter().enumerate() {
            for (warp, issuer) in group.warps.iter().enumerate() {
                if let Some(target) = issuer.waits {
                    let _ = write!(
                        waiting,
                        "; warp {} waits for wgmma {target}, of which the warpgroup has issued {}",
                        index * WARPS + warp,
                        group.complete()
                    );
                }
            }
        }
    }

    /// A warp's first lane ends: nothing of it is under way.
    pub(crate) fn end_warp(&self, warp: u32) -> Result<(), Reason> {
        let Some(group) = self.groups.get(warp as usize / WARPS) else { return Ok(()) };
        let warp = warp as usize % WARPS;
        match group.accumulators.iter().any(|accumulator| accumulator.registers[warp].is_some()) {
            true => Err(Reason::Unfinished { what: "wgmma operations that were not waited for".to_owned() }),
            false => Ok(()),
        }
    }
}

/// Moves a lane's accumulators out of its registers, which are left with poison. Without `keep` the values do not matter.
///
/// # Safety
/// The registers are valid for the accumulators' `columns / 2` floats.
unsafe fn take(accumulator: &mut Accumulator, warp: usize, lane: usize, registers: *mut f32, keep: bool) {
    let row = warp * WARP_ROWS + lane / 4;
    let column = lane % 4 * 2;
    for tile in 0..accumulator.columns / COLUMNS {
        let rows = &mut accumulator.values[tile * GROUP_ROWS..][..GROUP_ROWS];
        // SAFETY: by this function's contract.
        unsafe {
            let pointer = registers.add(tile * 4).cast::<[f32; 4]>();
            if keep {
                let [a, b, c, d] = pointer.read_unaligned();
                rows[row][column..column + 2].copy_from_slice(&[a, b]);
                rows[row + 8][column..column + 2].copy_from_slice(&[c, d]);
            }
            pointer.cast::<u8>().write_bytes(POISON, 16);
        }
    }
}

/// Moves a lane's accumulators back.
///
/// # Safety
/// As [`take`].
unsafe fn give_back(accumulator: &Accumulator, warp: usize, lane: usize, registers: *mut f32) {
    let row = warp * WARP_ROWS + lane / 4;
    let column = lane % 4 * 2;
    for tile in 0..accumulator.columns / COLUMNS {
        let rows = &accumulator.values[tile * GROUP_ROWS..][..GROUP_ROWS];
        let values = [rows[row][column], rows[row][column + 1], rows[row + 8][column], rows[row + 8][column + 1]];
        // SAFETY: by this function's contract.
        unsafe { registers.add(tile * 4).cast::<[f32; 4]>().write_unaligned(values.map(canonical)) };
    }
}

/// Ends the wait of `warp`: what it waited for runs, and its accumulators that nothing else holds come back.
///
/// # Safety
/// `block` is running, no borrow of it lives, and [`Warpgroups::wait`] or [`Warpgroups::waiting`] said that the warp can go on. Registers
/// are valid as [`Warpgroups::issue`] asked.
pub(crate) unsafe fn finish(block: &mut Block, warp: u32) -> Result<(), Reason> {
    let (index, place) = (warp as usize / WARPS, warp as usize % WARPS);
    let Some(target) = block.asynchronous.warpgroups.groups[index].warps[place].waits.take() else { return Ok(()) };
    run(block, index, target)?;
    // SAFETY: by this function's contract.
    unsafe { end_reads(block, warp, target)? };
    let group = &mut block.asynchronous.warpgroups.groups[index];
    for (slot, accumulator) in group.accumulators.iter_mut().enumerate() {
        if accumulator.used[place] > target {
            continue;
        }
        let Some(registers) = accumulator.registers[place].take() else { continue };
        for (lane, pointer) in registers.into_iter().enumerate() {
            // SAFETY: by this function's contract.
            unsafe { give_back(accumulator, place, lane, pointer as *mut f32) };
        }
        group.warps[place].fenced = false;
        if accumulator.registers.iter().all(Option::is_none) {
            group.spare.push(slot);
        }
    }
    Ok(())
}

/// The operations before number `target` of the warpgroup of `warp` are complete, and with them what they read: each is one operation of
/// all four warps, so that the wait of any of them is enough. To an observer the warp's lanes come after what the warpgroup issued and
/// waited for.
///
/// # Safety
/// `block` lives and nobody else borrows it.
unsafe fn end_reads(block: *mut Block, warp: u32, target: u64) -> Result<(), Reason> {
    let group = warp / WARPS as u32;
    let (first, token) = (warp * WARP_THREADS, watch::warpgroup(group));
    // SAFETY: by this function's contract.
    unsafe {
        if (*block).watcher.is_none() {
            return Ok(());
        }
        watch::acquire(block, first, block, token);
        watch::reads_end(block, first, Reader::Wgmma(group), target)?;
        watch::release(block, first, block, token);
        (1..WARP_THREADS).for_each(|lane| watch::acquire(block, first + lane, block, token));
    }
    Ok(())
}

/// Runs the operations before number `target` of a warpgroup, all of which its four warps have issued.
pub(crate) fn run(block: &mut Block, index: usize, target: u64) -> Result<(), Reason> {
    while block.asynchronous.warpgroups.groups[index].done < target {
        let group = &mut block.asynchronous.warpgroups.groups[index];
        group.done += 1;
        let Some(operation) = group.operations.pop_front() else { return Ok(()) };
        execute(block, index, &operation)?;
    }
    Ok(())
}

/// Runs, under a seeded schedule, what all four warps have issued before anybody has to.
pub(crate) fn run_early(block: &mut Block, warp: u32) -> Result<(), Reason> {
    let index = warp as usize / WARPS;
    if block.turns.switches(4)
        && let Some(group) = block.asynchronous.warpgroups.groups.get(index)
    {
        let target = group.complete();
        run(block, index, target)?;
    }
    Ok(())
}

fn execute(block: &mut Block, index: usize, operation: &Operation) -> Result<(), Reason> {
    let Block { shared, asynchronous, .. } = block;
    let Warpgroups { groups, panels, multiply } = &mut asynchronous.warpgroups;
    let Operation { shape, a, b, fragments, accumulator, .. } = operation;
    match fragments {
        Some(fragments) => operands::a_in_registers(panels, *shape, fragments),
        None => operands::a_in_memory(panels, *shape, *a, shared)?,
    }
    operands::b(panels, *shape, *b, shared)?;
    let accumulator = &mut groups[index].accumulators[*accumulator];
    if !shape.scale_d {
        accumulator.values.fill([0.0; COLUMNS]);
    }
    multiply(panels, &mut accumulator.values, GROUP_ROWS);
    Ok(())
}

//! A warp: which lanes may run, and which wait for one another in which collective instruction.

use std::fmt;

use super::thread::WARP_THREADS;
use crate::fault::Reason;

/// All lanes.
pub(crate) const FULL_MASK: u32 = 0xffff_ffff;

/// A collective instruction with its qualifiers and immediate operands: lanes meet only in equal ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation(u64);

impl Operation {
    pub(crate) const WARP_SYNC: Self = Self::pack(0, 0, 0);
    pub(crate) const BALLOT: Self = Self::pack(1, 0, 0);

    const fn pack(kind: u64, first: u32, second: u32) -> Self {
        Self(kind << 60 | (first as u64) << 28 | second as u64)
    }

    pub(crate) fn shuffle(mode: u32) -> Self {
        Self::pack(2, mode, 0)
    }

    pub(crate) fn load_matrix(count: u32, transposed: bool) -> Self {
        Self::pack(3, count, transposed.into())
    }

    pub(crate) fn multiply(m_tiles: u32, n_tiles: u32) -> Self {
        Self::pack(4, m_tiles, n_tiles)
    }

    pub(crate) fn barrier(id: u32, threads: u32) -> Self {
        Self::pack(5, id, threads)
    }

    pub(crate) const CLUSTER_ARRIVE: Self = Self::named(Named::ClusterArrive, 0);
    pub(crate) const CLUSTER_WAIT: Self = Self::named(Named::ClusterWait, 0);
    pub(crate) const ELECT: Self = Self::named(Named::Elect, 0);
    pub(crate) const WGMMA_FENCE: Self = Self::named(Named::WgmmaFence, 0);
    pub(crate) const WGMMA_COMMIT: Self = Self::named(Named::WgmmaCommit, 0);

    const fn named(name: Named, detail: u32) -> Self {
        Self::pack(6, name as u32, detail)
    }

    pub(crate) fn wgmma(columns: u32, flags: u32) -> Self {
        Self::named(Named::Wgmma, columns << 8 | flags & 0xff)
    }

    pub(crate) fn wgmma_wait(pending: u32) -> Self {
        Self::named(Named::WgmmaWait, pending & 0xfff_ffff)
    }

    pub(crate) fn set_registers(count: u32, increases: u32) -> Self {
        Self::named(Named::SetRegisters, count << 1 & 0xfff_ffff | increases & 1)
    }

    pub(crate) fn reduce(operation: u32) -> Self {
        Self::named(Named::Reduce, operation)
    }

    pub(crate) fn vote(mode: u32) -> Self {
        Self::named(Named::Vote, mode)
    }

    pub(crate) fn store_matrix(count: u32, transposed: bool) -> Self {
        Self::named(Named::StoreMatrix, count << 1 | u32::from(transposed))
    }

    pub(crate) fn multiply_f16(m_tiles: u32, n_tiles: u32) -> Self {
        Self::named(Named::MultiplyF16, m_tiles << 8 | n_tiles)
    }

    pub(crate) fn barrier_arrive(id: u32, threads: u32) -> Self {
        Self::named(Named::BarrierArrive, id << 16 | threads)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = (self.0 >> 28 & 0xffff_ffff, self.0 & 0xfff_ffff);
        match self.0 >> 60 {
            0 => formatter.write_str("bar.warp.sync"),
            1 => formatter.write_str("vote.sync.ballot"),
            2 => {
                let mode = ["idx", "up", "down", "bfly"].get(first as usize).unwrap_or(&"?");
                write!(formatter, "shfl.sync.{mode}")
            }
            3 => write!(formatter, "ldmatrix.x{first}{}", if second == 1 { ".trans" } else { "" }),
            4 => write!(formatter, "mma of {first} x {second} tiles"),
            6 => Named::display(first as u32, second, formatter),
            _ => write!(formatter, "bar.sync {first}, {second}"),
        }
    }
}

/// Collective instructions that are told apart by a name and one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    ClusterArrive,
    ClusterWait,
    Elect,
    WgmmaFence,
    WgmmaCommit,
    Wgmma,
    WgmmaWait,
    SetRegisters,
    Reduce,
    Vote,
    StoreMatrix,
    MultiplyF16,
    BarrierArrive,
}

impl Named {
    /// The instruction of this number, as PTX writes it.
    fn display(name: u32, detail: u64, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 13] = [
            "barrier.cluster.arrive",
            "barrier.cluster.wait",
            "elect.sync",
            "wgmma.fence",
            "wgmma.commit_group",
            "wgmma.mma_async",
            "wgmma.wait_group",
            "setmaxnreg",
            "redux.sync",
            "vote.sync",
            "stmatrix",
            "mma",
            "bar.arrive",
        ];
        formatter.write_str(NAMES.get(name as usize).unwrap_or(&"?"))?;
        let is = |named: Named| name == named as u32;
        if is(Self::Wgmma) {
            write!(formatter, ".m64n{}k16 with flags {:#x}", detail >> 8, detail & 0xff)
        } else if is(Self::WgmmaWait) {
            write!(formatter, " {detail}")
        } else if is(Self::SetRegisters) {
            write!(formatter, ".{} {}", if detail & 1 != 0 { "inc" } else { "dec" }, detail >> 1)
        } else if is(Self::StoreMatrix) {
            write!(formatter, ".x{}{}", detail >> 1, if detail & 1 != 0 { ".trans" } else { "" })
        } else if is(Self::MultiplyF16) {
            write!(formatter, ".f16 of {} x {} tiles", detail >> 8, detail & 0xff)
        } else if is(Self::BarrierArrive) {
            write!(formatter, " {}, {}", detail >> 16, detail & 0xffff)
        } else {
            Ok(())
        }
    }
}

/// What a lane brings to a collective instruction.
#[derive(Clone, Copy, Default)]
pub(crate) struct Deposit {
    /// Addresses: of the lane's registers, and of a row of shared memory.
    pub(crate) pointers: [usize; 3],
    /// The value that a shuffle or a vote takes.
    pub(crate) value: u32,
    /// A shuffle's lane or distance.
    pub(crate) operand: u32,
}

/// Lanes that wait in one instruction.
#[derive(Clone, Copy)]
pub(crate) struct Gathering {
    pub(crate) operation: Operation,
    /// The lanes that take part.
    pub(crate) mask: u32,
    /// Those that have arrived.
    pub(crate) arrived: u32,
}

/// What an arriving lane does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It waits for the others.
    Waits,
    /// It was the last: it executes the instruction for all of them.
    Last,
}

/// A warp of the running block.
pub(crate) struct Warp {
    /// Lanes that may run.
    pub(crate) ready: u32,
    /// Lanes that exist: fewer than 32 in the last warp of some blocks.
    pub(crate) exists: u32,
    /// Lanes that have exited.
    pub(crate) exited: u32,
    /// Lanes that wait for something that other threads or asynchronous operations do.
    pub(crate) parked: u32,
    /// The barrier that the warp as a whole waits at.
    pub(crate) barrier: Option<u32>,
    count: u32,
    gatherings: [Gathering; WARP_THREADS as usize],
    /// What each lane brought to its current instruction.
    pub(crate) deposits: [Deposit; WARP_THREADS as usize],
    /// What each lane gets from a shuffle or a vote.
    pub(crate) results: [u32; WARP_THREADS as usize],
}

impl Warp {
    pub(crate) fn new() -> Self {
        let nobody = Gathering { operation: Operation::WARP_SYNC, mask: 0, arrived: 0 };
        Self {
            ready: 0,
            exists: 0,
            exited: 0,
            parked: 0,
            barrier: None,
            count: 0,
            gatherings: [nobody; WARP_THREADS as usize],
            deposits: [Deposit::default(); WARP_THREADS as usize],
            results: [0; WARP_THREADS as usize],
        }
    }

    /// Starts a block in which the lanes of `exists` exist and may run.
    pub(crate) fn begin(&mut self, exists: u32) {
        self.ready = exists;
        self.exists = exists;
        self.exited = 0;
        self.parked = 0;
        self.barrier = None;
        self.count = 0;
    }

    /// Takes `lane` into `operation` together with the lanes of `mask`. A lane that waits is no longer ready.
    ///
    /// Lanes may wait in different instructions, or with different masks, as long as one of the warp can still run; when the last one
    /// stops, none of the instructions can ever complete: that is the error.
    #[inline(always)]
    pub(crate) fn arrive(
        &mut self,
        lane: u32,
        operation: Operation,
        mask: u32,
        deposit: Deposit,
    ) -> Result<Arrival, Box<Reason>> {
        let bit = 1 << (lane % WARP_THREADS);
        self.deposits[(lane % WARP_THREADS) as usize] = deposit;
        let first = &mut self.gatherings[0];
        if self.count == 1 && first.operation == operation && first.mask == mask && mask & bit != 0 {
            first.arrived |= bit;
            if first.arrived == mask {
                self.count = 0;
                return Ok(Arrival::Last);
            }
            self.ready &= !bit;
            return Ok(Arrival::Waits);
        }
        self.arrive_otherwise(bit, operation, mask)
    }

    #[inline(never)]
    fn arrive_otherwise(&mut self, bit: u32, operation: Operation, mask: u32) -> Result<Arrival, Box<Reason>> {
        if mask & bit == 0 {
            let detail = format!("{operation}: mask `{mask:#010x}` does not name lane {}", bit.trailing_zeros());
            return Err(Box::new(Reason::InvalidOperand { detail }));
        }
        let missing = mask & (self.exited | !self.exists);
        if missing != 0 {
            return Err(Box::new(Reason::MissingLanes { operation: operation.to_string(), lanes: missing }));
        }
        let same = |gathering: &Gathering| gathering.operation == operation && gathering.mask == mask;
        let index = self.gatherings().iter().position(same).unwrap_or_else(|| {
            // At most as many are open as lanes wait.
            self.gatherings[self.count as usize] = Gathering { operation, mask, arrived: 0 };
            self.count += 1;
            self.count as usize - 1
        });
        let gathering = &mut self.gatherings[index];
        gathering.arrived |= bit;
        if gathering.arrived == mask {
            self.count -= 1;
            self.gatherings.swap(index, self.count as usize);
            return Ok(Arrival::Last);
        }
        self.ready &= !bit;
        if self.ready == 0
            && self.parked == 0
            && let Some(waiting) = self.gatherings().iter().find(|gathering| !same(gathering))
        {
            let (waiting, arrived) = (waiting.to_string(), Gathering { operation, mask, arrived: 0 }.to_string());
            return Err(Box::new(Reason::DivergentCollective { waiting, arrived }));
        }
        Ok(Arrival::Waits)
    }

    /// The instructions that lanes wait in.
    pub(crate) fn gatherings(&self) -> &[Gathering] {
        &self.gatherings[..self.count as usize]
    }

    /// Ends `lane`. An error is an instruction that waits for it, with a lane that waits there.
    pub(crate) fn exit(&mut self, lane: u32) -> Result<(), (u32, Reason)> {
        let bit = 1 << lane;
        self.ready &= !bit;
        self.exited |= bit;
        match self.gatherings().iter().find(|gathering| gathering.mask & bit != 0) {
            None => Ok(()),
            Some(waiting) => Err((
                waiting.arrived.trailing_zeros(),
                Reason::MissingLanes { operation: waiting.operation.to_string(), lanes: bit },
            )),
        }
    }
}

impl fmt::Display for Gathering {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} with mask `{:#010x}`", self.operation, self.mask)
    }
}

//! What went wrong in a kernel: typed, with the place.

use std::fmt;

use gridpoint_driver::CUresult;

pub use crate::source::SourceLine;

/// Which memory an access went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Device memory and mapped host memory.
    Global,
    /// The block's shared memory.
    Shared,
}

/// What an access did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read.
    Read,
    /// A write.
    Write,
    /// An atomic instruction.
    Atomic,
    /// The write of an asynchronous copy, from the time when it was issued.
    Copy,
}

impl fmt::Display for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Atomic => "atomic",
            Self::Copy => "asynchronous copy",
        })
    }
}

impl fmt::Display for Space {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if *self == Self::Global { "global" } else { "shared" })
    }
}

/// A thread of the launch that had to do with memory before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// The block's index in x, y, z.
    pub block: [u32; 3],
    /// The thread's index in the block in x, y, z.
    pub thread: [u32; 3],
    /// What it did.
    pub access: Access,
}

impl fmt::Display for Party {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(formatter, "the {} of block ({bx}, {by}, {bz}) thread ({tx}, {ty}, {tz})", self.access)
    }
}

/// What the device knows about an address outside every live allocation, or across the end of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearby {
    /// It lies `offset` bytes from the start of a live allocation of `bytes` bytes, past its end or before its start.
    Live {
        /// Bytes from the allocation's start.
        offset: i64,
        /// The allocation's size.
        bytes: usize,
    },
    /// It lies in an allocation of `bytes` bytes that was freed.
    Freed {
        /// Bytes from the allocation's start.
        offset: i64,
        /// The allocation's size.
        bytes: usize,
    },
    /// It lies `offset` bytes into `bytes` reserved bytes, where nothing is mapped, or what is mapped was given no access.
    Reserved {
        /// Bytes from the reservation's start.
        offset: i64,
        /// The reservation's size.
        bytes: usize,
        /// Whether something is mapped there.
        mapped: bool,
    },
    /// Nothing is near.
    Nothing,
}

impl fmt::Display for Nearby {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live { offset, bytes } => {
                write!(formatter, ", {offset} bytes from the start of an allocation of {bytes} bytes")
            }
            Self::Freed { offset, bytes } => {
                write!(formatter, ", {offset} bytes into a freed allocation of {bytes} bytes")
            }
            Self::Reserved { offset, bytes, mapped } => {
                let state = if *mapped { "mapped, no access was set" } else { "reserved, not mapped" };
                write!(formatter, ", {offset} bytes into a reservation of {bytes} bytes: {state}")
            }
            Self::Nothing => Ok(()),
        }
    }
}

// Numbers of signals; but for SIGBUS the same on every Unix.
const SIGILL: i32 = 4;
const SIGFPE: i32 = 8;
#[cfg(target_os = "linux")]
const SIGBUS: i32 = 7;
#[cfg(not(target_os = "linux"))]
const SIGBUS: i32 = 10;

/// Why a kernel was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An access outside every live allocation, or outside the block's shared memory.
    OutOfBounds {
        /// Which memory.
        space: Space,
        /// Read or write.
        access: Access,
        /// The address: a device address, or an offset in the shared window.
        address: u64,
        /// How many bytes.
        bytes: u32,
        /// What lies near, for device addresses.
        nearby: Nearby,
    },
    /// An access at an address that is not a multiple of its alignment.
    Misaligned {
        /// Which memory.
        space: Space,
        /// The address.
        address: u64,
        /// What it must be a multiple of.
        alignment: u32,
    },
    /// Two accesses of one place, not both reads, that nothing orders.
    Race {
        /// Which memory.
        space: Space,
        /// What the thread that faulted did.
        access: Access,
        /// The address, as in [`Reason::OutOfBounds`].
        address: u64,
        /// How many bytes.
        bytes: u32,
        /// The other access, which ran earlier here.
        other: Party,
    },
    /// Two accesses of global memory, not both reads, by launches of which the later one may begin before the earlier one is complete,
    /// and that no `griddepcontrol.wait` orders.
    Overlap {
        /// What the thread that faulted did.
        access: Access,
        /// The address, as in [`Reason::OutOfBounds`].
        address: u64,
        /// How many bytes.
        bytes: u32,
        /// The other access, which ran earlier here.
        other: Party,
        /// The other launch's kernel.
        kernel: String,
        /// The other launch is the earlier one.
        earlier: bool,
    },
    /// A read of memory that nothing has written.
    Uninitialised {
        /// Which memory.
        space: Space,
        /// The address of the access.
        address: u64,
        /// How many bytes it reads.
        bytes: u32,
        /// The first address that nothing wrote.
        unwritten: u64,
        /// What lies near, for device addresses.
        nearby: Nearby,
    },
    /// A write to what an asynchronous operation may still read.
    StillRead {
        /// What the thread that faulted did.
        access: Access,
        /// The shared address.
        address: u64,
        /// How many bytes.
        bytes: u32,
        /// The operation.
        operation: &'static str,
        /// The number in its block of the thread that issued it; of `wgmma`, the first of its warp.
        thread: u32,
    },
    /// An access of shared memory that an asynchronous copy is about to write: nobody has waited for its group.
    CopyUnderWay {
        /// What the thread that faulted did.
        access: Access,
        /// The address in the shared window.
        address: u64,
        /// How many bytes.
        bytes: u32,
        /// Who issued the copy.
        other: Party,
    },
    /// What an asynchronous copy reads was changed before its group was waited for.
    SourceChanged {
        /// The address that the copy reads.
        address: u64,
        /// How many bytes.
        bytes: u32,
        /// Who wrote there last.
        other: Option<Party>,
    },
    /// Memory was read through the non-coherent cache and written in the same launch, or by one that may not have ended when it began.
    NonCoherent {
        /// What the thread that faulted did: the read or the write.
        access: Access,
        /// The address.
        address: u64,
        /// How many bytes.
        bytes: u32,
    },
    /// Threads of one warp met in different collective instructions, or with different masks.
    DivergentCollective {
        /// What the warp waits in.
        waiting: String,
        /// What this thread arrived with.
        arrived: String,
    },
    /// A collective instruction named lanes that cannot take part.
    MissingLanes {
        /// The instruction.
        operation: String,
        /// The lanes that do not exist or have exited, as a mask.
        lanes: u32,
    },
    /// A barrier was used against its rules.
    Barrier {
        /// The barrier's number.
        id: u32,
        /// Which rule.
        rule: String,
    },
    /// An mbarrier was used against its rules.
    Mbarrier {
        /// Its shared address.
        address: u32,
        /// Which rule.
        rule: String,
    },
    /// An asynchronous operation would not see a write of the generic proxy: no `fence.proxy.async` came between.
    ProxyFence {
        /// The operation.
        operation: &'static str,
        /// Shared address of the write.
        address: u32,
        /// The writing thread's number in its block.
        thread: u32,
    },
    /// A thread ended with an asynchronous operation under way that it has to wait for.
    Unfinished {
        /// Which.
        what: String,
    },
    /// A rule of clusters was broken.
    Cluster {
        /// Which.
        rule: String,
    },
    /// A rule of warpgroups was broken.
    Warpgroup {
        /// Which.
        rule: String,
    },
    /// No thread of the block can run any more.
    Deadlock {
        /// Who waits for what.
        waiting: String,
    },
    /// The block's threads only gave each other turns, for a very long time.
    Spinning {
        /// Who waits for what, and which blocks are not there to be waited for.
        waiting: String,
    },
    /// The block, or its cluster, did not end within the seconds that it has.
    Hung {
        /// Seconds of processor time that it was given ([`crate::machine::Guard::block_seconds`]).
        seconds: u32,
        /// Who waits for what.
        waiting: String,
    },
    /// The kernel's code made the host's processor trap: a plain access where nothing is mapped, a jump to nowhere, an endless recursion,
    /// an illegal instruction, a division that has no answer.
    Crash {
        /// The signal: SIGSEGV, SIGBUS, SIGILL or SIGFPE.
        signal: i32,
        /// What the host says of it: the address that was accessed, or that of the instruction. Zero for an address that no x86-64
        /// program can have.
        address: u64,
        /// The thread's stack of 64 KiB had overflowed.
        overflow: bool,
    },
    /// An instruction got an operand that it does not take.
    InvalidOperand {
        /// Which operand, its value and what would be right.
        detail: String,
    },
    /// The kernel reported a broken contract itself.
    Contract {
        /// The kernel's words.
        words: String,
    },
    /// Memory around an allocation was written past every check.
    RedZone {
        /// The allocation's address.
        address: u64,
        /// Its size.
        bytes: usize,
    },
    /// The host could not give the machine what it needs.
    Host {
        /// What.
        detail: String,
    },
}

impl Reason {
    /// The code that the driver answers from then on.
    pub fn code(&self) -> CUresult {
        match self {
            Self::OutOfBounds { .. } | Self::RedZone { .. } => CUresult::ERROR_ILLEGAL_ADDRESS,
            Self::Misaligned { .. } => CUresult::ERROR_MISALIGNED_ADDRESS,
            Self::Crash { signal, .. } if *signal == SIGILL => CUresult::ERROR_ILLEGAL_INSTRUCTION,
            Self::Crash { .. } => CUresult::ERROR_ILLEGAL_ADDRESS,
            Self::Hung { .. } => CUresult::ERROR_LAUNCH_TIMEOUT,
            Self::Contract { .. } => CUresult::ERROR_ASSERT,
            _ => CUresult::ERROR_LAUNCH_FAILED,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfBounds { space, access, address, bytes, nearby } => {
                write!(formatter, "out-of-bounds {access} of {bytes} bytes at {space} address `{address:#x}`")?;
                match nearby {
                    Nearby::Live { offset, bytes } => {
                        write!(formatter, ", {offset} bytes from the start of an allocation of {bytes} bytes")
                    }
                    Nearby::Freed { offset, bytes } => {
                        write!(formatter, ", {offset} bytes into a freed allocation of {bytes} bytes")
                    }
                    Nearby::Reserved { offset, bytes, mapped } => {
                        let state = if *mapped { "mapped, no access was set" } else { "reserved, not mapped" };
                        write!(formatter, ", {offset} bytes into a reservation of {bytes} bytes: {state}")
                    }
                    Nearby::Nothing => Ok(()),
                }
            }
            Self::Misaligned { space, address, alignment } => {
                write!(formatter, "misaligned {space} address `{address:#x}`: must be a multiple of {alignment}")
            }
            Self::Race { space, access, address, bytes, other } => write!(
                formatter,
                "race: {access} of {bytes} bytes at {space} address `{address:#x}`, which nothing orders after {other}"
            ),
            Self::Overlap { access, address, bytes, other, kernel, earlier } => {
                write!(formatter, "overlap: {access} of {bytes} bytes at global address `{address:#x}` ")?;
                if *earlier {
                    write!(
                        formatter,
                        "without griddepcontrol.wait after {other} of kernel `{kernel}`, a launch before it"
                    )
                } else {
                    write!(formatter, "after {other} of kernel `{kernel}`, a later launch that did not wait for it")
                }
            }
            Self::Uninitialised { space, address, bytes, unwritten, nearby } => {
                write!(
                    formatter,
                    "read of {bytes} bytes at {space} address `{address:#x}`, where nothing wrote `{unwritten:#x}`"
                )?;
                nearby.fmt(formatter)
            }
            Self::CopyUnderWay { access, address, bytes, other } => write!(
                formatter,
                "{access} of {bytes} bytes at shared address `{address:#x}` before {other} was waited for"
            ),
            Self::StillRead { access, address, bytes, operation, thread } => write!(
                formatter,
                "{access} of {bytes} bytes at shared address `{address:#x}`, which {operation} of thread {thread} reads until it is \
                 waited for"
            ),
            Self::SourceChanged { address, bytes, other } => {
                write!(formatter, "the {bytes} bytes at `{address:#x}` changed while a copy of them was under way")?;
                other.map_or(Ok(()), |other| write!(formatter, ", by {other}"))
            }
            Self::NonCoherent { access, address, bytes } => write!(
                formatter,
                "{access} of {bytes} bytes at global address `{address:#x}`, which is read as non-coherent and written by this launch or \
                 by one that may run beside it"
            ),
            Self::DivergentCollective { waiting, arrived } => {
                write!(formatter, "divergent collective: the warp waits in {waiting}, this thread arrived in {arrived}")
            }
            Self::MissingLanes { operation, lanes } => {
                write!(formatter, "{operation} names lanes `{lanes:#010x}` that do not exist or have exited")
            }
            Self::Barrier { id, rule } => write!(formatter, "barrier {id}: {rule}"),
            Self::Mbarrier { address, rule } => write!(formatter, "mbarrier at shared address `{address:#x}` {rule}"),
            Self::ProxyFence { operation, address, thread } => write!(
                formatter,
                "{operation} of shared address `{address:#x}`, which thread {thread} wrote without a fence.proxy.async after it"
            ),
            Self::Unfinished { what } => write!(formatter, "a thread ends with {what}"),
            Self::Cluster { rule } => write!(formatter, "cluster: {rule}"),
            Self::Warpgroup { rule } => write!(formatter, "warpgroup: {rule}"),
            Self::Deadlock { waiting } => write!(formatter, "deadlock: no thread can run; {waiting}"),
            Self::Spinning { waiting } => {
                write!(formatter, "the block's threads wait in loops for something that never happens; {waiting}")
            }
            Self::Hung { seconds, waiting } => {
                write!(formatter, "the block did not end within {seconds} s of processor time; {waiting}")
            }
            Self::Crash { overflow: true, address, .. } => {
                write!(formatter, "the thread's stack overflowed, at host address `{address:#x}`")
            }
            Self::Crash { signal, address, .. } => {
                let words = match *signal {
                    SIGILL => "illegal instruction",
                    SIGFPE => "division that has no answer",
                    SIGBUS => "access of memory that the host cannot reach",
                    _ => "access of memory that is not mapped",
                };
                write!(formatter, "{words}, at host address `{address:#x}`")
            }
            Self::InvalidOperand { detail } => write!(formatter, "invalid operand: {detail}"),
            Self::Contract { words } => write!(formatter, "the kernel reported a broken contract: {words}"),
            Self::RedZone { address, bytes } => {
                write!(formatter, "memory around the allocation of {bytes} bytes at `{address:#x}` was written")
            }
            Self::Host { detail } => write!(formatter, "the host lacks what the machine needs: {detail}"),
        }
    }
}

/// A fault of a kernel: where, why, and under which schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kernel's name.
    pub kernel: String,
    /// The block's index in x, y, z.
    pub block: [u32; 3],
    /// The thread's index in the block in x, y, z.
    pub thread: [u32; 3],
    /// The seed of the schedule; none for round-robin.
    pub seed: Option<u64>,
    /// Why.
    pub reason: Reason,
    /// Where the thread stood: the innermost place in a kernel file, then the places in kernel files that it was called from. Wrappers of
    /// instructions (`ptx.cuh`, `ptx_*.cuh`) are left out. Empty where no thread's place tells (a copy that lands after its thread went
    /// on) and where the program has no line tables.
    pub source: Vec<SourceLine>,
}

impl Fault {
    /// The code that the driver answers from then on.
    pub fn code(&self) -> CUresult {
        self.reason.code()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            formatter,
            "kernel `{}` block ({bx}, {by}, {bz}) thread ({tx}, {ty}, {tz}): {}",
            self.kernel, self.reason
        )?;
        for (place, line) in self.source.iter().enumerate() {
            write!(formatter, "{} {line}", if place == 0 { "; at" } else { ", called at" })?;
        }
        match self.seed {
            Some(seed) => write!(formatter, " [GRIDPOINT_SIM_SEED={seed}]"),
            None => write!(formatter, " [round-robin]"),
        }
    }
}

impl std::error::Error for Fault {}

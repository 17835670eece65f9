//! What went wrong in a kernel: typed, with the place.

use std::fmt;

use gridpoint_driver::CUresult;

/// Which memory an access went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Device memory and mapped host memory.
    Global,
    /// The block's shared memory.
    Shared,
}

/// Whether an access read or wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read.
    Read,
    /// A write.
    Write,
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
    /// Nothing is near.
    Nothing,
}

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
    /// No thread of the block can run any more.
    Deadlock {
        /// Who waits for what.
        waiting: String,
    },
    /// The block's threads only gave each other turns, for a very long time.
    Spinning,
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
            Self::Contract { .. } => CUresult::ERROR_ASSERT,
            _ => CUresult::ERROR_LAUNCH_FAILED,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfBounds { space, access, address, bytes, nearby } => {
                let access = if *access == Access::Read { "read" } else { "write" };
                let space = if *space == Space::Global { "global" } else { "shared" };
                write!(formatter, "out-of-bounds {access} of {bytes} bytes at {space} address `{address:#x}`")?;
                match nearby {
                    Nearby::Live { offset, bytes } => {
                        write!(formatter, ", {offset} bytes from the start of an allocation of {bytes} bytes")
                    }
                    Nearby::Freed { offset, bytes } => {
                        write!(formatter, ", {offset} bytes into a freed allocation of {bytes} bytes")
                    }
                    Nearby::Nothing => Ok(()),
                }
            }
            Self::Misaligned { space, address, alignment } => {
                let space = if *space == Space::Global { "global" } else { "shared" };
                write!(formatter, "misaligned {space} address `{address:#x}`: must be a multiple of {alignment}")
            }
            Self::DivergentCollective { waiting, arrived } => {
                write!(formatter, "divergent collective: the warp waits in {waiting}, this thread arrived in {arrived}")
            }
            Self::MissingLanes { operation, lanes } => {
                write!(formatter, "{operation} names lanes `{lanes:#010x}` that do not exist or have exited")
            }
            Self::Barrier { id, rule } => write!(formatter, "barrier {id}: {rule}"),
            Self::Deadlock { waiting } => write!(formatter, "deadlock: no thread can run; {waiting}"),
            Self::Spinning => write!(formatter, "the block's threads wait in loops for something that never happens"),
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
        match self.seed {
            Some(seed) => write!(formatter, " [GRIDPOINT_SIM_SEED={seed}]"),
            None => write!(formatter, " [round-robin]"),
        }
    }
}

impl std::error::Error for Fault {}

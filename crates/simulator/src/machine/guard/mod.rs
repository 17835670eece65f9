//! Kernels that never end and kernels that crash: both end with a report.
//!
//! A kernel runs on fibers, and fibers take turns by calling instructions: a thread that loops without one cannot be stopped by the
//! machine's own means, and a thread that traps takes the process with it. Here a thread that is interrupted by a signal leaves its
//! fiber for the host's stack, as if it had given up its turn for good; its block ends with a fault and the fibers of the multiprocessor
//! are thrown away. Linux on x86-64 only: elsewhere such kernels hang and crash as any program does.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | what is asked for, and the run of a cluster under it |
//! | `slot.rs` | what an OS thread that runs blocks shares with its signal handlers and with the watcher |
//! | `handlers.rs` | the handlers of signals |
//! | `watcher.rs` | the thread that measures blocks and judges interrupted threads |
//! | `absent.rs` | the same for other hosts, where nothing is done |
//!
//! # Why a thread may leave
//!
//! What an interrupted thread holds is lost with its stack. A kernel's own code holds nothing ([`crate::module::HostKernel::new`]); the
//! machine's code may hold a borrow, or a lock of the allocator. So a thread leaves only where the interrupted instruction is known to
//! be the kernel's. A fiber's stack is the body's frame, the kernel's frames, and, while an instruction runs, the machine's on top, which
//! never call back: so if the innermost code belongs to the kernel, no code of the machine has begun anything on this stack. Other stacks of
//! the same block stand at switches, where the machine keeps no borrow.
//!
//! Whose code an address belongs to is said by the symbol and line tables, which no signal handler can read. The handler therefore says
//! where it was interrupted and waits for another thread of ours, the watcher, to read them. It waits for a bounded time, because the
//! watcher allocates and the interrupted thread may have been inside the allocator; without an answer nothing is changed.
//!
//! * A hung thread is interrupted, and asked, again and again, until it is in the kernel's code. Whatever the answer is, the block's next
//!   switch goes to the host instead: that ends threads that loop over instructions, and costs nothing while nothing is wrong, since a
//!   switch already asks whether it is an ordinary one.
//! * A crash in the machine's own code, or in code that no table knows, is left to the handler that was there before.
//!
//! The handlers touch plain thread-locals that are initialised in place, atomics, the running thread's stack bounds, and call nothing but
//! `nanosleep`, `sem_post`, `sigaction` and `raise`, which POSIX allows there.

use super::block::Block;
use super::fault;
use crate::fault::Reason;

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")))]
mod absent;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod handlers;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod slot;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod watcher;

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")))]
pub(super) use absent::{expired, run};
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
pub(super) use slot::{expired, run};

/// What is done about kernels that hang or crash (Linux on x86-64; elsewhere nothing is).
///
/// The first launch with any of it starts a thread and installs handlers for good: SIGURG, which interrupts a hung thread, with
/// `block_seconds`; SIGSEGV, SIGBUS, SIGILL and SIGFPE with `crashes`. Signals that are not the machine's go on to the handler that was
/// installed before. A program that owns these signals asks for neither; [`Guard::NONE`] installs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Seconds of processor time after which a block, or a cluster, counts as hung; zero for never. It is measured a few times in that
    /// time, and at least once a second.
    pub block_seconds: u32,
    /// Whether a crash in a kernel's code becomes a fault of the launch.
    pub crashes: bool,
}

impl Guard {
    /// Nothing is done.
    pub const NONE: Self = Self { block_seconds: 0, crashes: false };
}

impl Default for Guard {
    /// Two minutes for a block; crashes are faults.
    fn default() -> Self {
        Self { block_seconds: 120, crashes: true }
    }
}

/// How a cluster's run was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")),
    allow(dead_code, reason = "nothing ends a run there")
)]
pub(super) enum End {
    /// Its time was over.
    Hung {
        /// What it was given.
        seconds: u32,
    },
    /// The running thread trapped.
    Crash {
        /// With this signal.
        signal: i32,
        /// `si_addr`.
        address: usize,
        /// Its stack had overflowed.
        overflow: bool,
    },
}

/// A run that was ended from outside.
#[derive(Debug)]
pub(super) struct Ended {
    end: End,
    /// The return addresses of the running thread's stack, where it was interrupted; none where it had switched away.
    pub(super) stack: Vec<usize>,
}

impl Ended {
    /// What is to be said of it; `block` is the one that ran.
    pub(super) fn reason(&self, block: &Block) -> Reason {
        match self.end {
            End::Hung { seconds } => Reason::Hung { seconds, waiting: fault::waiting(block) },
            End::Crash { signal, address, overflow } => Reason::Crash { signal, address: address as u64, overflow },
        }
    }
}

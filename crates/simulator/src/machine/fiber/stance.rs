//! Where a stack of x86-64 stands, whoever stopped there, and the addresses that it would return to.

use std::arch::naked_asm;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

/// The most frames that are looked at: those of a fiber that has overflowed, at 16 bytes each.
const MOST_FRAMES: usize = super::STACK_BYTES / 16;

/// The registers that a stack is unwound from. Places in memory are what [`walk`] describes to the unwinder.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stance {
    pub(crate) rsp: usize,
    /// An address behind the instruction that has not ended: a return address, or one past the start of an interrupted instruction.
    pub(crate) rip: usize,
    pub(crate) rbp: usize,
    pub(crate) rbx: usize,
    pub(crate) r12: usize,
    pub(crate) r13: usize,
    pub(crate) r14: usize,
    pub(crate) r15: usize,
}

/// What is found on the way up.
struct Found {
    stance: Stance,
    addresses: Vec<usize>,
}

/// Where to go on when the stack that is unwound leads to memory that is not there: stack pointer and address.
#[repr(C)]
struct Retreat {
    rsp: usize,
    rip: usize,
}

thread_local! {
    static RETREAT: Cell<*const Retreat> = const { Cell::new(ptr::null()) };
}

/// The stack pointer and the address at which an OS thread goes on that trapped while it unwound a stack.
#[cfg_attr(not(all(target_os = "linux", target_env = "gnu")), allow(dead_code, reason = "no handler asks there"))]
pub(crate) fn retreat() -> Option<(usize, usize)> {
    // SAFETY: `walk` keeps it for as long as it is set.
    unsafe { RETREAT.get().as_ref() }.map(|retreat| (retreat.rsp, retreat.rip))
}

impl Stance {
    /// The return addresses from here to the stack's end, this one first; one that repeats itself, in a recursion, is there once. The stack
    /// must not run meanwhile; what is on it may be anything.
    pub(crate) fn trace(&self) -> Vec<usize> {
        let mut found = Found { stance: *self, addresses: Vec::with_capacity(MOST_FRAMES) };
        let mut retreat = Retreat { rsp: 0, rip: 0 };
        RETREAT.set(&raw const retreat);
        // SAFETY: both live through the call. The unwinder only reads memory; where that traps, the handler of signals comes back here,
        // over frames of the unwinder that hold no lock and of `visit`, which owns nothing.
        unsafe { walk(&raw const found.stance, (&raw mut found).cast(), visit, &raw mut retreat) };
        RETREAT.set(ptr::null());
        if found.addresses.is_empty() {
            found.addresses.push(self.rip);
        }
        found.addresses
    }
}

/// Unwinds from here over [`walk`] into the stance.
extern "C" fn visit(found: *mut c_void) {
    // SAFETY: `trace` gave it.
    let found = unsafe { &mut *found.cast::<Found>() };
    let (mut inside, mut frames) = (false, 0);
    let each = |frame: &backtrace::Frame| {
        let address = frame.ip().addr();
        inside |= address == found.stance.rip;
        if inside && found.addresses.last() != Some(&address) {
            found.addresses.push(address);
        }
        frames += 1;
        frames < MOST_FRAMES
    };
    // SAFETY: what the synchronised way adds is a lock for hosts whose unwinder needs one. It would stay locked after a retreat.
    unsafe { backtrace::trace_unsynchronized(each) };
}

/// Calls `visit(found)` with a frame whose caller is, for an unwinder, where `stance` stands. Fills in where to come back to without a
/// return from `visit`.
///
/// The rules say where the caller's registers are, from rbx, which holds `stance`: DW_CFA_def_cfa_expression (0x0f) makes the stack
/// pointer what lies at rbx + 0, DW_CFA_expression (0x10) the place of each register rbx + an offset; DW_OP_breg3 (0x73) is rbx and
/// DW_OP_deref 0x06 (DWARF 5, 6.4.2 and 2.5.1; System V ABI for x86-64, 3.6.2, for the registers' numbers).
///
/// # Safety
/// `visit` may be called with `found`; `stance` and `retreat` can be read and written.
#[unsafe(naked)]
unsafe extern "C" fn walk(
    stance: *const Stance,
    found: *mut c_void,
    visit: extern "C" fn(*mut c_void),
    retreat: *mut Retreat,
) {
    naked_asm!(
        ".cfi_startproc",
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "mov rbx, rdi",
        "lea rax, [rip + 2f]",
        "mov [rcx], rsp",
        "mov [rcx + 8], rax",
        "mov rdi, rsi",
        ".cfi_escape 0x0f, 3, 0x73, 0, 0x06",
        ".cfi_escape 0x10, 16, 2, 0x73, 8",
        ".cfi_escape 0x10, 6, 2, 0x73, 16",
        ".cfi_escape 0x10, 3, 2, 0x73, 24",
        ".cfi_escape 0x10, 12, 2, 0x73, 32",
        ".cfi_escape 0x10, 13, 2, 0x73, 40",
        ".cfi_escape 0x10, 14, 2, 0x73, 48",
        ".cfi_escape 0x10, 15, 2, 0x73, 56",
        "call rdx",
        "2:",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        ".cfi_endproc",
    )
}

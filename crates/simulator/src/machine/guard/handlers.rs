//! The handlers of signals, on the interrupted thread.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Mutex, PoisonError};

use super::super::block;
use super::super::fiber::STACK_BYTES;
use super::super::fiber::stance::{self, Stance};
use super::slot::{self, Slot, question};
use super::{End, Guard, watcher};

/// Interrupts a hung thread. Programs have to expect this signal at any time and it does nothing by default, so one that comes late or is
/// passed on does no harm.
pub(super) const INTERRUPT: c_int = libc::SIGURG;
const CRASHES: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

/// How long an interrupted thread waits for an answer: a hung one is asked again, a crashed one is lost without.
const HUNG_PATIENCE_MILLISECONDS: u32 = 2_000;
const CRASH_PATIENCE_MILLISECONDS: u32 = 30_000;
/// Bytes below a fiber's stack that a stack pointer may reach when the stack overflows: the guard page, and frames that skip it.
const OVERFLOW_BYTES: usize = 16 << 10;
/// Bytes of a stack for handlers.
const ALTERNATE_BYTES: usize = 64 << 10;

/// The handler that a signal had before.
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>, AtomicBool);

// SAFETY: written once, under the lock of `install`, before the flag is set; read only after.
unsafe impl Sync for Previous {}

/// By signal.
static PREVIOUS: [Previous; 65] =
    [const { Previous(UnsafeCell::new(MaybeUninit::uninit()), AtomicBool::new(false)) }; 65];

/// Installs what `guard` needs and is not there yet, and starts the watcher.
pub(super) fn install(guard: Guard) {
    static INTERRUPTS: AtomicBool = AtomicBool::new(false);
    static TRAPS: AtomicBool = AtomicBool::new(false);
    static TURN: Mutex<()> = Mutex::new(());
    let hangs = guard.block_seconds == 0 || INTERRUPTS.load(Acquire);
    let crashes = !guard.crashes || TRAPS.load(Acquire);
    if hangs && crashes {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    watcher::start();
    if guard.block_seconds != 0 && !INTERRUPTS.load(Relaxed) {
        handle(INTERRUPT, interrupted);
        INTERRUPTS.store(true, Release);
    }
    if guard.crashes && !TRAPS.load(Relaxed) {
        CRASHES.into_iter().for_each(|signal| handle(signal, crashed));
        TRAPS.store(true, Release);
    }
}

type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

fn handle(signal: c_int, handler: Handler) {
    let previous = &PREVIOUS[signal as usize];
    // SAFETY: the old action is written to memory of its own before anybody may read it, the new one is whole: its handler takes these
    // arguments, runs on a stack of its own, and no signal interrupts it.
    unsafe {
        if libc::sigaction(signal, ptr::null(), (*previous.0.get()).as_mut_ptr()) != 0 {
            return;
        }
        previous.1.store(true, Release);
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(signal, &raw const action, ptr::null_mut());
    }
}

/// A signal that is not the machine's: does what would have been done without it.
///
/// # Safety
/// Called by a handler with its arguments.
unsafe fn pass_on(signal: c_int, information: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = &PREVIOUS[signal as usize];
    // SAFETY: the flag says that the old action was read; it takes what this handler was given. What is called is allowed in a handler.
    unsafe {
        let old = if previous.1.load(Acquire) { (*previous.0.get()).assume_init() } else { mem::zeroed() };
        match old.sa_sigaction {
            libc::SIG_IGN if signal == INTERRUPT => {}
            libc::SIG_DFL if signal == INTERRUPT => {}
            libc::SIG_IGN | libc::SIG_DFL => {
                let mut default: libc::sigaction = mem::zeroed();
                default.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const default, ptr::null_mut());
                // A trap repeats itself on return; what somebody sent does not.
                if (*information).si_code <= 0 {
                    libc::raise(signal);
                }
            }
            handler if old.sa_flags & libc::SA_SIGINFO != 0 => {
                mem::transmute::<usize, Handler>(handler)(signal, information, context);
            }
            handler => mem::transmute::<usize, unsafe extern "C" fn(c_int)>(handler)(signal),
        }
    }
}

/// The first address of the running thread's stack, if `pointer` is a stack pointer there or, after an overflow, below it.
///
/// # Safety
/// Called on an OS thread that is interrupted while it runs blocks.
unsafe fn on_fiber(pointer: usize) -> Option<usize> {
    let block = block::current();
    if block.is_null() {
        return None;
    }
    // SAFETY: a current block has a running thread. Both are read through pointers, as words.
    let stack = unsafe { ptr::read_volatile(&raw const (*ptr::read_volatile(&raw const (*block).current)).stack) };
    let inside = pointer.wrapping_sub(stack) <= STACK_BYTES;
    let below = stack.wrapping_sub(pointer) <= OVERFLOW_BYTES;
    (stack != 0 && (inside || below)).then_some(stack)
}

/// SIGURG.
unsafe extern "C" fn interrupted(signal: c_int, information: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the handler's arguments are what the system says; this thread's slot and block are looked at while it is interrupted.
    unsafe {
        let own = slot::own().filter(|slot| {
            let overdue = slot.overdue.load(Acquire);
            slot.runs() && overdue == slot.generation.load(Relaxed)
        });
        let Some(slot) = own else { return pass_on(signal, information, context) };
        slot.expired.store(true, Relaxed);
        let context = context.cast::<libc::ucontext_t>();
        let stance = stance_of(context);
        let block = block::current();
        if block.is_null() || stance::retreat().is_some() {
            return;
        }
        (*block).asynchronous.shares.store(true, Relaxed);
        if on_fiber(stance.rsp).is_none() {
            return;
        }
        slot.set_stance(stance);
        if ask(slot, question::INSTRUCTION, HUNG_PATIENCE_MILLISECONDS) {
            slot.set_end(End::Hung { seconds: slot.seconds.load(Relaxed) });
            leave(slot, context);
        }
    }
}

/// SIGSEGV, SIGBUS, SIGILL, SIGFPE.
unsafe extern "C" fn crashed(signal: c_int, information: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: as in `interrupted`.
    unsafe {
        let ucontext = context.cast::<libc::ucontext_t>();
        let trapped = (*information).si_code > 0;
        if let Some((rsp, rip)) = stance::retreat().filter(|_| trapped) {
            go_to(ucontext, rsp, rip);
            return;
        }
        let own = slot::own().filter(|slot| trapped && slot.runs() && slot.crashes.load(Relaxed));
        let mut stance = stance_of(ucontext);
        let Some((slot, stack)) = own.zip(on_fiber(stance.rsp)) else {
            return pass_on(signal, information, context);
        };
        let address = (*information).si_addr().addr();
        let inside = stance.rsp.wrapping_sub(stack) <= STACK_BYTES - size_of::<usize>();
        if signal == libc::SIGSEGV && address == stance.rip.wrapping_sub(1) && inside && stance.rsp.is_multiple_of(8) {
            // A jump to nowhere: the call that led there is the place.
            stance.rip = *(stance.rsp as *const usize);
            stance.rsp += size_of::<usize>();
        }
        slot.set_stance(stance);
        if ask(slot, question::STACK, CRASH_PATIENCE_MILLISECONDS) {
            let overflow = signal == libc::SIGSEGV && stack.wrapping_sub(address) <= 2 * OVERFLOW_BYTES;
            slot.set_end(End::Crash { signal, address, overflow });
            leave(slot, ucontext);
        } else {
            pass_on(signal, information, context);
        }
    }
}

/// Where the context was interrupted. The address is one past the instruction's start, as an unwinder takes it.
///
/// # Safety
/// `context` is what a handler was given.
unsafe fn stance_of(context: *const libc::ucontext_t) -> Stance {
    // SAFETY: by this function's contract.
    let register = |index: c_int| unsafe { (*context).uc_mcontext.gregs[index as usize] as usize };
    Stance {
        rsp: register(libc::REG_RSP),
        rip: register(libc::REG_RIP).wrapping_add(1),
        rbp: register(libc::REG_RBP),
        rbx: register(libc::REG_RBX),
        r12: register(libc::REG_R12),
        r13: register(libc::REG_R13),
        r14: register(libc::REG_R14),
        r15: register(libc::REG_R15),
    }
}

/// Asks the watcher about the slot's stance and waits for the answer; false without one.
fn ask(slot: &Slot, what: u32, patience_milliseconds: u32) -> bool {
    // SAFETY: errno is this thread's; the interrupted code may be about to read it.
    let errno = unsafe { *libc::__errno_location() };
    slot.question.store(what, Release);
    watcher::post();
    let pause = libc::timespec { tv_sec: 0, tv_nsec: 250_000 };
    let mut answer = what;
    for _ in 0..patience_milliseconds * 4 {
        answer = slot.question.load(Acquire);
        if answer != what {
            break;
        }
        // SAFETY: a pause that is there; what is left of it is not asked for.
        unsafe { libc::nanosleep(&raw const pause, ptr::null_mut()) };
    }
    if answer == what {
        // The watcher only answers what is still asked.
        answer = slot.question.swap(question::NONE, Acquire);
    } else {
        slot.question.store(question::NONE, Relaxed);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    answer == question::KERNEL
}

/// Makes the interrupted thread go on where the host's stack waits for its fibers.
///
/// # Safety
/// The slot's blocks run, `context` is what a handler was given, and the interrupted fiber may be left.
unsafe fn leave(slot: &Slot, context: *mut libc::ucontext_t) {
    // SAFETY: by this function's contract the host's stack was left by a switch.
    let (rsp, rip) = unsafe { (*slot.host.load(Relaxed)).entry() };
    // SAFETY: as a switch arrives there, which takes no register but rsp for granted.
    unsafe { go_to(context, rsp, rip) };
}

/// Sets where the interrupted thread goes on, with the flags and the x87 stack that every function expects.
///
/// # Safety
/// `context` is what a handler was given, and to go on there is as if the thread had come there itself.
unsafe fn go_to(context: *mut libc::ucontext_t, rsp: usize, rip: usize) {
    const DIRECTION: i64 = 1 << 10;
    // SAFETY: by this function's contract.
    unsafe {
        let machine = &raw mut (*context).uc_mcontext;
        (*machine).gregs[libc::REG_RSP as usize] = rsp as i64;
        (*machine).gregs[libc::REG_RIP as usize] = rip as i64;
        (*machine).gregs[libc::REG_EFL as usize] &= !DIRECTION;
        if let Some(floating) = (*machine).fpregs.as_mut() {
            // FXSAVE keeps a bit for each register that is in use.
            (floating.swd, floating.ftw) = (0, 0);
        }
    }
}

/// A stack for handlers, on threads that have none: std gives one to the main thread and to those that it starts.
pub(super) struct AlternateStack(*mut c_void);

impl AlternateStack {
    /// Installs one if there is none and the host has memory.
    pub(super) fn install() -> Option<Self> {
        // SAFETY: asks for this thread's, maps memory that is only used for this, and hands that over.
        unsafe {
            let mut old: libc::stack_t = mem::zeroed();
            if libc::sigaltstack(ptr::null(), &raw mut old) != 0 || old.ss_flags & libc::SS_DISABLE == 0 {
                return None;
            }
            let memory = libc::mmap(
                ptr::null_mut(),
                ALTERNATE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if memory == libc::MAP_FAILED {
                return None;
            }
            let stack = libc::stack_t { ss_sp: memory, ss_flags: 0, ss_size: ALTERNATE_BYTES };
            libc::sigaltstack(&raw const stack, ptr::null_mut());
            Some(Self(memory))
        }
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        // SAFETY: this thread's handlers are done with it; no other is told of it.
        unsafe {
            let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            libc::sigaltstack(&raw const none, ptr::null_mut());
            libc::munmap(self.0, ALTERNATE_BYTES);
        }
    }
}

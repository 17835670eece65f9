//! What an OS thread that runs blocks shares with its signal handlers and with the watcher.

use std::cell::{Cell, UnsafeCell};
use std::ptr;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::fiber::Place;
use super::super::fiber::stance::Stance;
use super::{End, Ended, Guard, handlers, watcher};

/// How far an interrupted thread's question has come.
pub(super) mod question {
    /// Nothing is asked.
    pub(in super::super) const NONE: u32 = 0;
    /// Whether the innermost instruction is the kernel's.
    pub(in super::super) const INSTRUCTION: u32 = 1;
    /// Whether the innermost code that can be told is the kernel's.
    pub(in super::super) const STACK: u32 = 2;
    /// It is.
    pub(in super::super) const KERNEL: u32 = 3;
    /// It is not.
    pub(in super::super) const OTHER: u32 = 4;
}

/// One OS thread that runs blocks.
pub(super) struct Slot {
    /// Whom to interrupt. It lives as long as the slot is registered.
    pub(super) thread: libc::pthread_t,
    /// The clock of the thread's processor time.
    pub(super) clock: libc::clockid_t,
    /// Grows by one where a run begins and where it ends: odd while blocks run.
    pub(super) generation: AtomicU64,
    /// Grows by one where time begins to count anew.
    pub(super) measure: AtomicU64,
    /// What the run may take; zero for any time.
    pub(super) seconds: AtomicU32,
    /// Whether the run's crashes are faults.
    pub(super) crashes: AtomicBool,
    /// Where the running kernel starts.
    pub(super) entry: AtomicUsize,
    /// The host's stack, to which a fiber may be left while blocks run.
    pub(super) host: AtomicPtr<Place>,
    /// The run, as its generation, that the watcher wants to end.
    pub(super) overdue: AtomicU64,
    /// The run's time is over: its next switch goes to the host.
    pub(super) expired: AtomicBool,
    /// One of [`question`].
    pub(super) question: AtomicU32,
    stance: UnsafeCell<Stance>,
    /// How the run was ended, and whether that was where the stance says; only touched by the thread itself.
    end: Cell<Option<(End, bool)>>,
}

// SAFETY: `stance` is written by the slot's thread before it asks and read by the watcher after that; a thread that gave up asks again
// only after the watcher has taken its answer back, and a stance that is torn is only a wrong place. `end` is the thread's own. Handles of
// threads are numbers.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

static SLOTS: Mutex<Vec<Arc<Slot>>> = Mutex::new(Vec::new());

/// Takes the slot out of the list when its thread ends, and the stack for handlers with it.
struct Registration {
    slot: Arc<Slot>,
    alternate: Option<handlers::AlternateStack>,
}

impl Registration {
    fn new() -> Self {
        // SAFETY: this thread lives.
        let (thread, clock) = unsafe {
            let thread = libc::pthread_self();
            let mut clock = 0;
            libc::pthread_getcpuclockid(thread, &raw mut clock);
            (thread, clock)
        };
        let slot = Arc::new(Slot {
            thread,
            clock,
            generation: AtomicU64::new(0),
            measure: AtomicU64::new(0),
            seconds: AtomicU32::new(0),
            crashes: AtomicBool::new(false),
            entry: AtomicUsize::new(0),
            host: AtomicPtr::new(ptr::null_mut()),
            overdue: AtomicU64::new(0),
            expired: AtomicBool::new(false),
            question: AtomicU32::new(question::NONE),
            stance: UnsafeCell::new(Stance::default()),
            end: Cell::new(None),
        });
        slots().push(Arc::clone(&slot));
        SLOT.set(Arc::as_ptr(&slot));
        Self { slot, alternate: handlers::AlternateStack::install() }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        SLOT.set(ptr::null());
        slots().retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        self.alternate.take();
    }
}

thread_local! {
    /// The thread's slot, for handlers; null where it has run no block.
    static SLOT: Cell<*const Slot> = const { Cell::new(ptr::null()) };
    static REGISTRATION: Registration = Registration::new();
}

/// The slots of all threads that live. A thread does not end while this is held.
pub(super) fn slots() -> std::sync::MutexGuard<'static, Vec<Arc<Slot>>> {
    SLOTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This thread's slot, if it has run a block.
pub(super) fn own<'a>() -> Option<&'a Slot> {
    // SAFETY: the registration keeps it until it sets null.
    unsafe { SLOT.get().as_ref() }
}

/// Whether the running cluster's time is over. Asked by switches that are not ordinary ones.
pub(in super::super) fn expired() -> bool {
    let Some(slot) = own().filter(|slot| slot.expired.load(Relaxed)) else { return false };
    slot.end.set(Some((End::Hung { seconds: slot.seconds.load(Relaxed) }, false)));
    true
}

/// Runs `body`, which starts the fibers of a cluster of the kernel at `entry` and returns when they switch to `host`. Where it `continues`
/// the time of the run before on this thread counts on.
///
/// # Safety
/// `host` is where `body` leaves the host's stack, and to come back there at any time is as if the running fiber had switched there. No fiber
/// that ran meanwhile is switched to again if the answer says that the run was ended.
pub(in super::super) unsafe fn run(
    (guard, continues): (Guard, bool),
    entry: usize,
    host: *mut Place,
    body: impl FnOnce(),
) -> Option<Ended> {
    if guard == Guard::NONE {
        body();
        return None;
    }
    handlers::install(guard);
    // A thread that is about to end has no slot any more.
    let _ = REGISTRATION.try_with(|_| ());
    let Some(slot) = own() else {
        body();
        return None;
    };
    slot.begin(guard, continues, entry, host);
    body();
    slot.finish()
}

impl Slot {
    fn begin(&self, guard: Guard, continues: bool, entry: usize, host: *mut Place) {
        if !continues {
            self.measure.store(self.measure.load(Relaxed) + 1, Relaxed);
        }
        self.seconds.store(guard.block_seconds, Relaxed);
        self.crashes.store(guard.crashes, Relaxed);
        self.entry.store(entry, Relaxed);
        self.host.store(host, Relaxed);
        self.expired.store(false, Relaxed);
        // Only this thread writes it.
        self.generation.store(self.generation.load(Relaxed) + 1, Release);
        watcher::wake();
    }

    fn finish(&self) -> Option<Ended> {
        self.generation.store(self.generation.load(Relaxed) + 1, Release);
        let (end, interrupted) = self.end.take()?;
        let stack = if interrupted { self.stance().trace() } else { Vec::new() };
        Some(Ended { end, stack })
    }

    /// Whether blocks run, as the thread itself sees it.
    pub(super) fn runs(&self) -> bool {
        self.generation.load(Relaxed) % 2 == 1
    }

    /// Where the thread was interrupted.
    pub(super) fn stance(&self) -> Stance {
        // SAFETY: see `Sync`.
        unsafe { *self.stance.get() }
    }

    /// Called by the handler on the slot's thread.
    pub(super) fn set_stance(&self, stance: Stance) {
        // SAFETY: only this thread writes, and the watcher reads after the question that follows.
        unsafe { self.stance.get().write(stance) };
    }

    /// The run ends where the stance says. Called by the handler on the slot's thread.
    pub(super) fn set_end(&self, end: End) {
        self.end.set(Some((end, true)));
    }
}

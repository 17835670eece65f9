//! The thread that measures running blocks and tells interrupted threads whose code they were in.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::handlers::INTERRUPT;
use super::slot::{Slot, question, slots};
use crate::source::Kernel;

/// How often blocks are measured, at most and at least: a sixteenth of what they may take.
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);
/// How long the watcher sleeps while no blocks run.
const IDLE: Duration = Duration::from_secs(5);
/// How long a hung thread is left alone between two interruptions: not a divisor of anything that it may do in a loop.
const BETWEEN: Duration = Duration::from_micros(1_700);

/// What wakes the watcher. Handlers may post it.
struct Semaphore(UnsafeCell<MaybeUninit<libc::sem_t>>, AtomicBool);

// SAFETY: initialised once before the flag is set, used only after; a semaphore is for many threads.
unsafe impl Sync for Semaphore {}

static SEMAPHORE: Semaphore = Semaphore(UnsafeCell::new(MaybeUninit::uninit()), AtomicBool::new(false));
/// The watcher sleeps as long as it may: a run that begins has to wake it.
static SLEEPS: AtomicBool = AtomicBool::new(false);

/// Starts the watcher, once. Without a thread for it nobody is interrupted, and crashes are left to others.
pub(super) fn start() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        // SAFETY: memory of its own, not used by anybody yet.
        let ready = unsafe { libc::sem_init((*SEMAPHORE.0.get()).as_mut_ptr(), 0, 0) } == 0;
        SEMAPHORE.1.store(ready, Release);
        let thread = std::thread::Builder::new().name("gridpoint-simulator-watcher".to_owned());
        if !ready || thread.spawn(watch).is_err() {
            tracing::warn!("no thread watches the simulated device's blocks: one that hangs is not ended");
        }
    });
}

/// A run begins.
#[inline]
pub(super) fn wake() {
    if SLEEPS.load(Relaxed) {
        SLEEPS.store(false, Relaxed);
        post();
    }
}

/// Makes the watcher look. Handlers may call it.
pub(super) fn post() {
    if SEMAPHORE.1.load(Acquire) {
        // SAFETY: initialised, as the flag says.
        unsafe { libc::sem_post((*SEMAPHORE.0.get()).as_mut_ptr()) };
    }
}

/// Sleeps until somebody posts, for so long at most.
fn sleep(time: Duration) {
    // SAFETY: the clock's time is written to `until`, the semaphore is initialised.
    unsafe {
        let mut until: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut until);
        let nanoseconds = until.tv_nsec + i64::from(time.subsec_nanos());
        until.tv_sec += time.as_secs() as i64 + nanoseconds / 1_000_000_000;
        until.tv_nsec = nanoseconds % 1_000_000_000;
        libc::sem_timedwait((*SEMAPHORE.0.get()).as_mut_ptr(), &raw const until);
    }
}

/// A thread's runs, as its time was first seen to count.
struct Seen {
    slot: Arc<Slot>,
    measure: u64,
    /// The thread's processor time then.
    time: Duration,
}

fn watch() {
    let mut seen = Vec::new();
    loop {
        answer(None);
        let pause = measure(&mut seen);
        // A run that begins between the measurement and this is seen after the pause.
        SLEEPS.store(pause == IDLE, Relaxed);
        sleep(pause);
        SLEEPS.store(false, Relaxed);
    }
}

/// Looks at every running block and interrupts those whose time is over: when to look again.
fn measure(seen: &mut Vec<Seen>) -> Duration {
    let mut pause = IDLE;
    let all = slots().clone();
    seen.retain(|seen| all.iter().any(|slot| Arc::ptr_eq(slot, &seen.slot)));
    let running = all.into_iter().filter(|slot| generation(slot) % 2 == 1);
    for slot in running {
        let seconds = slot.seconds.load(Relaxed);
        if seconds == 0 {
            continue;
        }
        let limit = Duration::from_secs(seconds.into());
        pause = pause.min((limit / 16).clamp(SHORTEST, LONGEST));
        let (generation, measure, time) = (generation(&slot), slot.measure.load(Relaxed), processor_time(&slot));
        match seen.iter_mut().find(|seen| Arc::ptr_eq(&slot, &seen.slot)) {
            None => seen.push(Seen { slot, measure, time }),
            Some(seen) if seen.measure != measure => (seen.measure, seen.time) = (measure, time),
            Some(seen) if time.saturating_sub(seen.time) >= limit => interrupt(&slot, generation),
            Some(_) => {}
        }
    }
    pause
}

fn generation(slot: &Slot) -> u64 {
    slot.generation.load(Acquire)
}

/// Processor time of the slot's thread so far; zero if it is just ending.
fn processor_time(slot: &Slot) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is written there. A clock of a thread that is gone is refused.
    unsafe { libc::clock_gettime(slot.clock, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Interrupts a run until it ends, or for a while.
fn interrupt(slot: &Arc<Slot>, run: u64) {
    slot.overdue.store(run, Release);
    for _ in 0..64 {
        {
            let slots = slots();
            if generation(slot) != run || !slots.iter().any(|other| Arc::ptr_eq(other, slot)) {
                return;
            }
            // SAFETY: a registered thread lives while the list is held.
            unsafe { libc::pthread_kill(slot.thread, INTERRUPT) };
        }
        let until = Instant::now() + BETWEEN;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            sleep(left);
            answer(Some(slot));
        }
    }
}

/// Answers what interrupted threads ask.
fn answer(first: Option<&Arc<Slot>>) {
    let asking: Vec<Arc<Slot>> = match first {
        Some(slot) => vec![Arc::clone(slot)],
        None => slots().clone(),
    };
    for slot in asking {
        let what = slot.question.load(Acquire);
        if what != question::INSTRUCTION && what != question::STACK {
            continue;
        }
        let kernel = Kernel::new(slot.entry.load(Relaxed));
        let stance = slot.stance();
        let runs = match what {
            question::INSTRUCTION => kernel.runs(&[stance.rip]),
            _ => kernel.runs(&stance.trace()),
        };
        let answer = if runs { question::KERNEL } else { question::OTHER };
        let _ = slot.question.compare_exchange(what, answer, AcqRel, Relaxed);
    }
}

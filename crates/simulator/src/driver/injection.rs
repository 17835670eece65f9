//! Faults from outside: a driver call that fails although nothing is wrong with it.
//!
//! ```
//! use gridpoint_driver::CUresult;
//! use gridpoint_simulator::{CallCounts, Injection, Options, table};
//!
//! let driver = table(Options::default(), &[]);
//! // The second call from here on fails, once.
//! let second = Injection::once("cuInit", 2, CUresult::ERROR_OPERATING_SYSTEM)?.install();
//! let counts = CallCounts::start();
//! // SAFETY: `cuInit` takes a plain number.
//! let answers = [(); 3].map(|()| unsafe { (driver.cuInit)(0) });
//! assert_eq!(answers, [CUresult::SUCCESS, CUresult::ERROR_OPERATING_SYSTEM, CUresult::SUCCESS]);
//! assert_eq!((second.calls(), second.fired(), counts.of("cuInit")), (3, 1, 3));
//! # Ok::<(), gridpoint_simulator::UnknownFunction>(())
//! ```
//!
//! A call that fails by injection does nothing, with one exception: the calls that give something back (destroying, freeing, unloading,
//! unmapping, releasing, ending a capture) are carried out and then answer the code. So does CUDA, where they "may also return error
//! codes from previous, asynchronous launches"; a caller has no second try. The end of a capture leaves no graph then.
//!
//! What is injected concerns every thread of the process, from its installation until its guard is dropped. Where several injections
//! fire at one call, the one that was installed first decides.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gridpoint_driver::{CUresult, Table};

/// Calls that are carried out also where they fail by injection.
const GIVE_BACK: [&str; 15] = [
    "cuCtxDestroy_v2",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxReset_v2",
    "cuEventDestroy_v2",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuMemAddressFree",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemRelease",
    "cuMemUnmap",
    "cuModuleUnload",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
];

/// The driver table has no function of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the driver table has no function `{name}`; names carry their version, as `cuMemAlloc_v2`")]
pub struct UnknownFunction {
    /// The name.
    pub name: String,
}

/// A failure to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection(What);

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// Calls `first..=last` of a function, counted from 1, answer a code.
    Calls { function: usize, first: u64, last: u64, code: CUresult },
    /// Device memory runs out after so many bytes.
    Memory { bytes: u64 },
    /// Nothing fails; all calls are counted.
    Count,
}

impl Injection {
    /// Call `nth` of `function`, counted from 1 since the installation, answers `code`; the calls before and after it work.
    ///
    /// # Errors
    /// [`UnknownFunction`] for a name outside [`Table::NAMES`].
    pub fn once(function: &str, nth: u64, code: CUresult) -> Result<Self, UnknownFunction> {
        Ok(Self(What::Calls { function: place(function)?, first: nth, last: nth, code }))
    }

    /// As [`Self::once`], and every later call too.
    ///
    /// # Errors
    /// [`UnknownFunction`] for a name outside [`Table::NAMES`].
    pub fn onwards(function: &str, nth: u64, code: CUresult) -> Result<Self, UnknownFunction> {
        Ok(Self(What::Calls { function: place(function)?, first: nth, last: u64::MAX, code }))
    }

    /// Once `bytes` bytes of device memory were given out since the installation (to allocations, physical memory and executable
    /// graphs; what is given back does not count against it), whatever asks for more is answered `OUT_OF_MEMORY`.
    pub fn out_of_memory_after(bytes: u64) -> Self {
        Self(What::Memory { bytes })
    }

    /// Makes it hold until the guard is dropped.
    pub fn install(self) -> Injected {
        Injected(watch(self.0))
    }
}

/// An injection that holds.
#[derive(Debug)]
#[must_use = "the injection ends where this is dropped"]
pub struct Injected(u64);

impl Injected {
    /// Calls of its function since the installation, the failed ones among them; of an injection about memory, the requests.
    pub fn calls(&self) -> u64 {
        registry().get(&self.0).map_or(0, |watcher| watcher.calls)
    }

    /// How often it made a call fail.
    pub fn fired(&self) -> u64 {
        registry().get(&self.0).map_or(0, |watcher| watcher.fired)
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        unwatch(self.0);
    }
}

/// Counts every driver call, from all threads, from its start until it is dropped.
#[derive(Debug)]
pub struct CallCounts(u64);

impl CallCounts {
    /// Starts to count.
    #[must_use]
    pub fn start() -> Self {
        Self(watch(What::Count))
    }

    /// Calls of a function so far; 0 for a name outside [`Table::NAMES`].
    pub fn of(&self, function: &str) -> u64 {
        place(function).map_or(0, |place| registry().get(&self.0).map_or(0, |watcher| watcher.by_function[place]))
    }

    /// Every function that was called so far and how often, in the order of [`Table::NAMES`].
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        let registry = registry();
        let counts = registry.get(&self.0).map_or(&[][..], |watcher| &watcher.by_function);
        Table::NAMES.iter().copied().zip(counts.iter().copied()).filter(|&(_, calls)| calls > 0).collect()
    }
}

impl Drop for CallCounts {
    fn drop(&mut self) {
        unwatch(self.0);
    }
}

struct Watcher {
    what: What,
    calls: u64,
    fired: u64,
    /// Bytes given out.
    given: u64,
    /// Calls by function; empty unless all are counted.
    by_function: Vec<u64>,
}

/// What is watched, by number of installation.
static REGISTRY: Mutex<BTreeMap<u64, Watcher>> = Mutex::new(BTreeMap::new());
/// How many watchers there are, so that a call without any takes no lock.
static WATCHERS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The code that the call which this thread carries out now will answer.
    static LATE: Cell<Option<CUresult>> = const { Cell::new(None) };
}

fn registry() -> MutexGuard<'static, BTreeMap<u64, Watcher>> {
    // Every change of the registry is complete at once, so a panic elsewhere leaves it whole.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn place(function: &str) -> Result<usize, UnknownFunction> {
    let found = Table::NAMES.iter().position(|&name| name == function);
    found.ok_or_else(|| UnknownFunction { name: function.to_owned() })
}

fn watch(what: What) -> u64 {
    let mut registry = registry();
    let number = registry.last_key_value().map_or(0, |(&last, _)| last + 1);
    let by_function = if what == What::Count { vec![0; Table::NAMES.len()] } else { Vec::new() };
    registry.insert(number, Watcher { what, calls: 0, fired: 0, given: 0, by_function });
    WATCHERS.store(registry.len(), Ordering::Release);
    number
}

fn unwatch(number: u64) {
    let mut registry = registry();
    registry.remove(&number);
    WATCHERS.store(registry.len(), Ordering::Release);
}

/// Counts a call of the function at `function` in [`Table::NAMES`] and makes it, unless it has to fail.
pub(super) fn pass(function: usize, call: impl FnOnce() -> CUresult) -> CUresult {
    if WATCHERS.load(Ordering::Acquire) == 0 {
        return call();
    }
    match verdict(function) {
        None => call(),
        Some(code) if GIVE_BACK.contains(&Table::NAMES[function]) => {
            LATE.set(Some(code));
            let _ = call();
            LATE.set(None);
            code
        }
        Some(code) => code,
    }
}

/// The code that the call in progress on this thread will answer although it is carried out.
pub(super) fn late() -> Option<CUresult> {
    LATE.get()
}

fn verdict(function: usize) -> Option<CUresult> {
    let mut verdict = None;
    for watcher in registry().values_mut() {
        match watcher.what {
            What::Calls { function: own, first, last, code } if own == function => {
                watcher.calls += 1;
                if verdict.is_none() && (first..=last).contains(&watcher.calls) {
                    watcher.fired += 1;
                    verdict = Some(code);
                }
            }
            What::Count => watcher.by_function[function] += 1,
            What::Calls { .. } | What::Memory { .. } => {}
        }
    }
    verdict
}

/// Whether `bytes` bytes of device memory may be given out; counts them if so.
pub(super) fn gives_memory(bytes: u64) -> bool {
    if WATCHERS.load(Ordering::Acquire) == 0 {
        return true;
    }
    let mut registry = registry();
    let mut gives = true;
    for watcher in registry.values_mut() {
        let What::Memory { bytes: limit } = watcher.what else { continue };
        watcher.calls += 1;
        if watcher.given.saturating_add(bytes) > limit {
            watcher.fired += 1;
            gives = false;
        }
    }
    if gives {
        for watcher in registry.values_mut() {
            watcher.given = watcher.given.saturating_add(bytes);
        }
    }
    gives
}

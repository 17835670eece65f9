//! mbarrier objects (PTX ISA 9.7.13.15): eight bytes of shared memory that count arrivals and bytes of a phase.
//!
//! A phase completes when as many arrivals came as the object was initialised with and the bytes that were announced have landed; the
//! next one begins at once. A thread that waits for a phase is parked until it completes, so that a block in which nobody can go on is
//! recognised.

use std::collections::BTreeMap;

use super::block::Block;
use super::cluster::{self, Place};
use super::fault;
use super::observer::Meeting;
use super::turn::{Participant, raise, suspend};
use super::watch;
use crate::fault::{Access, Reason};

/// Bytes and alignment of the object.
const BYTES: u32 = 8;
/// The largest count (PTX ISA 9.7.13.15.2).
const MAXIMUM_COUNT: u32 = (1 << 20) - 1;
/// How an initialised object is told from anything else, in its two upper bits.
const MARK: u64 = 0b10;

/// The object's fields. In memory: pending count, count and bytes from bit 0, 20 and 40 on, the parity in bit 61, a mark in 62 and 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// Arrivals that the phase still waits for.
    pending: u32,
    /// Arrivals of a phase.
    count: u32,
    /// Bytes that the phase still waits for; negative when they landed before they were announced.
    bytes: i32,
    /// Parity of the phase that is not complete.
    parity: bool,
}

impl State {
    fn decode(bits: u64) -> Option<Self> {
        let field = |shift: u32| (bits >> shift) as u32 & MAXIMUM_COUNT;
        (bits >> 62 == MARK).then(|| Self {
            pending: field(0),
            count: field(20),
            bytes: ((bits >> 40) as u32 as i32) << 11 >> 11,
            parity: bits >> 61 & 1 != 0,
        })
    }

    fn encode(self) -> u64 {
        u64::from(self.pending)
            | u64::from(self.count) << 20
            | u64::from(self.bytes as u32 & 0x1f_ffff) << 40
            | u64::from(self.parity) << 61
            | MARK << 62
    }
}

/// A thread that waits for a phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    thread: u32,
    address: u32,
    parity: bool,
    /// The phase completed, and the thread has not run since.
    woken: bool,
}

/// An object that was initialised, by whom and when.
#[derive(Clone, Copy, Debug)]
struct Initialised {
    address: u32,
    thread: u32,
    clock: u64,
}

/// What a block knows of the mbarriers in its shared memory.
#[derive(Default)]
pub(crate) struct Mbarriers {
    waiters: Vec<Waiter>,
    initialised: Vec<Initialised>,
}

impl Mbarriers {
    /// Forgets all of it: a block begins.
    pub(crate) fn begin(&mut self) {
        self.waiters.clear();
        self.initialised.clear();
    }

    /// Appends who waits for what to a report of a deadlock.
    pub(crate) fn describe(&self, block: &Block, waiting: &mut String) {
        use std::fmt::Write;
        let mut phases = BTreeMap::<(u32, bool), Vec<u32>>::new();
        for waiter in self.waiters.iter().filter(|waiter| !waiter.woken) {
            phases.entry((waiter.address, waiter.parity)).or_default().push(waiter.thread);
        }
        for ((address, parity), threads) in phases {
            let first = threads.iter().min().copied().unwrap_or_default();
            let _ = match threads.len() - 1 {
                0 => write!(waiting, "; thread {first} waits"),
                others => write!(waiting, "; thread {first} and {others} others wait"),
            };
            let _ = write!(waiting, " at mbarrier `{address:#x}` for parity {}", u32::from(parity));
            // SAFETY: the address was checked when the threads began to wait.
            let state = unsafe { read(block, address) };
            if let Some(state) = state {
                let _ = write!(
                    waiting,
                    ", {} of {} arrivals and {} bytes missing",
                    state.pending, state.count, state.bytes
                );
            }
        }
    }
}

/// # Safety
/// No fiber writes the block's shared memory meanwhile.
unsafe fn read(block: &Block, address: u32) -> Option<State> {
    let pointer = block.shared.find_observed(address, BYTES, BYTES)?;
    // SAFETY: eight bytes of the window at a multiple of eight.
    State::decode(unsafe { pointer.cast::<u64>().read() })
}

fn broken(address: u32, rule: String) -> Reason {
    Reason::Mbarrier { address, rule }
}

/// Changes the mbarrier at `address` of `block` and completes its phase where that is due. Waiting threads may run then. `release` gets the
/// token of the phase that is changed: what is released to it is before what they do.
///
/// # Safety
/// `block` is a block of the running cluster, no borrow of which lives.
unsafe fn change(
    block: *mut Block,
    address: u32,
    release: impl FnOnce(u64),
    change: impl FnOnce(&mut State) -> Result<(), String>,
) -> Result<(), Reason> {
    // SAFETY: by this function's contract; the pointer is checked.
    unsafe {
        let Some(pointer) = (*block).shared.find_observed(address, BYTES, BYTES) else {
            return Err((*block).shared.refusal(Access::Write, address, BYTES, BYTES));
        };
        let pointer = pointer.cast::<u64>();
        let Some(mut state) = State::decode(pointer.read()) else {
            return Err(broken(address, "holds no initialised object".to_owned()));
        };
        change(&mut state).map_err(|rule| broken(address, rule))?;
        release(watch::phase(address, state.parity));
        let completed = state.pending == 0 && state.bytes == 0;
        if completed {
            wake(&mut *block, address, state.parity)?;
            state.parity = !state.parity;
            state.pending = state.count;
        }
        pointer.write(state.encode());
        (*block).progress();
        Ok(())
    }
}

/// The phase of `parity` completes: its waiters may run. A thread that was woken for the phase before and has not run yet would, on a
/// GPU, see the same parity again and wait on.
fn wake(block: &mut Block, address: u32, parity: bool) -> Result<(), Reason> {
    let Block { asynchronous, warps, .. } = block;
    for waiter in asynchronous.mbarriers.waiters.iter_mut().filter(|waiter| waiter.address == address) {
        if waiter.woken {
            let rule = format!(
                "completes a second phase before thread {}, which waits for the first, has seen it: the phases overrun",
                waiter.thread
            );
            return Err(broken(address, rule));
        }
        if waiter.parity == parity {
            waiter.woken = true;
            let warp = &mut warps[(waiter.thread / super::thread::WARP_THREADS) as usize];
            let bit = 1 << (waiter.thread % super::thread::WARP_THREADS);
            warp.parked &= !bit;
            warp.ready |= bit;
        }
    }
    Ok(())
}

/// `mbarrier.arrive` by `arrivals` and `mbarrier.expect_tx` of `bytes`, the latter first.
///
/// # Safety
/// As [`change`].
unsafe fn arrive(
    block: *mut Block,
    (of, thread): (*mut Block, u32),
    address: u32,
    arrivals: u32,
    bytes: u32,
) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        change(
            block,
            address,
            |token| watch::release(of, thread, block, token),
            |state| {
                state.bytes = announced(state.bytes, i64::from(bytes))?;
                state.pending = state.pending.checked_sub(arrivals).ok_or_else(|| {
                    format!(
                        "overruns its phase: {arrivals} arrive where {} of {} are missing",
                        state.pending, state.count
                    )
                })?;
                Ok(())
            },
        )
    }
}

/// `complete_tx` of `bytes` at the mbarrier at `address` of `block` (PTX ISA 9.7.13.15.5.2), of a copy that `landed` tells of.
///
/// # Safety
/// As [`change`].
pub(crate) unsafe fn complete(
    block: *mut Block,
    address: u32,
    bytes: u32,
    landed: impl FnOnce(u64),
) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    unsafe {
        change(block, address, landed, |state| {
            state.bytes = announced(state.bytes, -i64::from(bytes))?;
            Ok(())
        })
    }
}

/// The bytes that are missing after `more` were announced, or landed where it is negative.
fn announced(missing: i32, more: i64) -> Result<i32, String> {
    let sum = i64::from(missing) + more;
    if sum.unsigned_abs() > u64::from(MAXIMUM_COUNT) {
        return Err(format!("waits for {sum} bytes: the range is -{MAXIMUM_COUNT} to {MAXIMUM_COUNT}"));
    }
    Ok(sum as i32)
}

/// Whether an asynchronous operation may name the mbarrier: it is initialised, and a fence made that visible to it.
///
/// # Safety
/// As [`change`].
pub(crate) unsafe fn check_visible(block: *mut Block, address: u32) -> Result<(), Reason> {
    // SAFETY: by this function's contract.
    let block = unsafe { &*block };
    let Some(pointer) = block.shared.find_observed(address, BYTES, BYTES) else {
        return Err(block.shared.refusal(Access::Write, address, BYTES, BYTES));
    };
    // SAFETY: eight bytes of the window at a multiple of eight.
    if State::decode(unsafe { pointer.cast::<u64>().read() }).is_none() {
        return Err(broken(address, "holds no initialised object".to_owned()));
    }
    let Mbarriers { initialised, .. } = &block.asynchronous.mbarriers;
    match initialised.iter().find(|object| object.address == address) {
        Some(object) if !block.asynchronous.proxy.initialisation_visible(object.thread, object.clock) => {
            let rule = format!(
                "was initialised by thread {} without a fence.mbarrier_init or fence.proxy.async that asynchronous copies see",
                object.thread
            );
            Err(broken(address, rule))
        }
        _ => Ok(()),
    }
}

/// `mbarrier.init` (PTX ISA 9.7.13.15.9).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_mbarrier_init(address: u32, count: u32) {
    // SAFETY: a fiber runs; the address is checked.
    unsafe {
        let me = Participant::running();
        if !(1..=MAXIMUM_COUNT).contains(&count) {
            raise(me.block, fault::operand("mbarrier count", count, "1 to 1048575"));
        }
        let Some(pointer) = (*me.block).shared.find_observed(address, BYTES, BYTES) else {
            raise(me.block, (*me.block).shared.refusal(Access::Write, address, BYTES, BYTES));
        };
        let thread = (*me.thread).index();
        let asynchronous = &mut (*me.block).asynchronous;
        let clock = asynchronous.proxy.now();
        let objects = &mut asynchronous.mbarriers.initialised;
        let again = objects.iter().any(|object| object.address == address);
        if again && State::decode(pointer.cast::<u64>().read()).is_some() {
            raise(me.block, broken(address, "is initialised again without mbarrier.inval".to_owned()));
        }
        objects.retain(|object| object.address != address);
        objects.push(Initialised { address, thread, clock });
        let state = State { pending: count, count, bytes: 0, parity: false };
        pointer.cast::<u64>().write(state.encode());
    }
}

/// `mbarrier.inval` (PTX ISA 9.7.13.15.10).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_mbarrier_invalidate(address: u32) {
    // SAFETY: a fiber runs; the address is checked.
    unsafe {
        let me = Participant::running();
        let Some(pointer) = (*me.block).shared.find_observed(address, BYTES, BYTES) else {
            raise(me.block, (*me.block).shared.refusal(Access::Write, address, BYTES, BYTES));
        };
        let mbarriers = &mut (*me.block).asynchronous.mbarriers;
        if State::decode(pointer.cast::<u64>().read()).is_none() {
            raise(me.block, broken(address, "holds no initialised object".to_owned()));
        }
        if let Some(waiter) = mbarriers.waiters.iter().find(|waiter| waiter.address == address) {
            let rule = format!("is invalidated while thread {} waits there", waiter.thread);
            raise(me.block, broken(address, rule));
        }
        mbarriers.initialised.retain(|object| object.address != address);
        pointer.cast::<u64>().write(u64::MAX);
    }
}

/// `mbarrier.expect_tx` of `bytes`, then `mbarrier.arrive` by `arrivals`, either of which may be 0 (PTX ISA 9.7.13.15.11 and .13). The
/// address may be one of another block of the cluster.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_mbarrier_arrive(address: u32, arrivals: u32, bytes: u32) {
    // SAFETY: a fiber runs, and no borrow of the cluster lives.
    unsafe {
        let me = Participant::running();
        let Place { block, address } = match cluster::find(me.block, address, "mbarrier.arrive") {
            Ok(place) => place,
            Err(reason) => raise(me.block, reason),
        };
        let thread = (me.block, (*me.thread).index());
        if let Err(reason) = arrive(block, thread, address, arrivals, bytes) {
            raise(me.block, reason);
        }
        cluster::land_early(me.block);
        me.maybe_switch(2);
    }
}

/// `mbarrier.try_wait.parity` (PTX ISA 9.7.13.15.16): 1 once the phase of `parity` has completed. With `blocks` the thread is parked
/// until then, or, under a seeded schedule, now and then comes back with 0 as after the time limit; without, as
/// `mbarrier.test_wait.parity`, the answer is that of the moment and others get a turn.
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_mbarrier_wait(address: u32, parity: u32, blocks: u32) -> u32 {
    // SAFETY: a fiber runs; no borrow lives at a switch.
    unsafe {
        let me = Participant::running();
        if parity > 1 {
            raise(me.block, fault::operand("phase parity", parity, "0 or 1"));
        }
        let parity = parity == 1;
        let state = || {
            if (*me.block).shared.find_observed(address, BYTES, BYTES).is_none() {
                raise(me.block, (*me.block).shared.refusal(Access::Read, address, BYTES, BYTES));
            }
            match read(&*me.block, address) {
                Some(state) => state,
                None => raise(me.block, broken(address, "holds no initialised object".to_owned())),
            }
        };
        cluster::land_early(me.block);
        if state().parity == parity {
            if blocks == 0 || (*me.block).turns.switches(8) {
                me.give_turn(1);
                if state().parity == parity {
                    return 0;
                }
            } else {
                let thread = (*me.thread).index();
                (*me.block).asynchronous.mbarriers.waiters.push(Waiter { thread, address, parity, woken: false });
                (*me.warp).ready &= !(1 << me.lane);
                (*me.warp).parked |= 1 << me.lane;
                suspend(me.block);
                (*me.block).asynchronous.mbarriers.waiters.retain(|waiter| waiter.thread != thread);
            }
        }
        watch::acquire(me.block, (*me.thread).index(), me.block, watch::phase(address, parity));
        watch::met(&*me.block, Meeting::MbarrierWait);
        (*me.block).asynchronous.proxy.meet((*me.thread).warp);
        me.maybe_switch(4);
        1
    }
}

/// `fence.mbarrier_init.release.cluster` (PTX ISA 9.7.13.4).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_fence_mbarrier_init() {
    // SAFETY: a fiber runs.
    unsafe {
        let me = Participant::running();
        let thread = (*me.thread).index();
        (*me.block).asynchronous.proxy.fence_initialisation(thread);
    }
}

/// `fence.proxy.async` (PTX ISA 9.7.13.4).
///
/// # Safety
/// The contract of [`super::instructions`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gridpoint_fence_proxy_async() {
    // SAFETY: a fiber runs.
    unsafe {
        let me = Participant::running();
        let thread = (*me.thread).index();
        (*me.block).asynchronous.proxy.fence(thread);
        me.maybe_switch(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_its_eight_bytes() {
        for pending in [0, 1, MAXIMUM_COUNT] {
            for bytes in [0, 1, -1, MAXIMUM_COUNT as i32, -(MAXIMUM_COUNT as i32)] {
                for parity in [false, true] {
                    let state = State { pending, count: MAXIMUM_COUNT, bytes, parity };
                    assert_eq!(State::decode(state.encode()), Some(state));
                }
            }
        }
        for bits in [0, u64::MAX, 1 << 62] {
            assert_eq!(State::decode(bits), None);
        }
    }
}

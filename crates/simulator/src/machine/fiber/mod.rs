//! Fibers: the stacks that CUDA threads run on, and the switches between them.
//!
//! A switch goes from any stack to any other. On x86-64 it is ten instructions of our own that jump: all fibers of a warp call and
//! return alike, so the processor's prediction of returns holds across a jump. Crate corosensei's switches, the ones used elsewhere,
//! call and return, which the processor mispredicts here, and they only lead to and from the resumer. Measured on a Zen 3 at 2.4 GHz:
//! 30 ns for a lane's turn in a collective with corosensei, 8.5 ns with jumps.

use std::io;

use corosensei::stack::{DefaultStack, Stack, StackPointer};

#[cfg(all(target_arch = "x86_64", unix))]
mod jump;
#[cfg(any(test, not(all(target_arch = "x86_64", unix))))]
mod portable;
#[cfg(all(target_arch = "x86_64", unix))]
pub(crate) mod stance;

#[cfg(all(target_arch = "x86_64", unix))]
pub(crate) use jump::{Fiber, Place, switch};
#[cfg(not(all(target_arch = "x86_64", unix)))]
pub(crate) use portable::{Fiber, Place, switch};

/// Bytes of a thread's stack. The largest frame of a kernel has 1.2 KiB (g++'s `-fstack-usage`); what is never touched costs address
/// space only.
pub(crate) const STACK_BYTES: usize = 64 << 10;
/// How far the stacks of neighbouring threads are shifted against each other inside a page, so that the frames of a block's threads do
/// not all fall in the same few sets of the host's caches.
const COLOUR_BYTES: usize = 13 * 64;
const PAGE_BYTES: usize = 4096;

/// What a fiber runs. It never returns, and it owns nothing while it is switched away from: a fiber is abandoned there.
pub(crate) type Body = extern "C" fn() -> !;

/// A stack with a guard page whose first frame lies at an offset of its own.
struct ColouredStack {
    stack: DefaultStack,
    base: StackPointer,
}

impl ColouredStack {
    /// `index` picks the offset.
    fn new(index: usize) -> io::Result<Self> {
        let stack = DefaultStack::new(STACK_BYTES + PAGE_BYTES)?;
        let shift = index * COLOUR_BYTES % PAGE_BYTES;
        let base = StackPointer::new(stack.base().get() - shift).unwrap_or(stack.base());
        Ok(Self { stack, base })
    }

    /// First of the [`STACK_BYTES`] addresses below the base.
    fn first(&self) -> usize {
        self.base.get() - STACK_BYTES
    }
}

// SAFETY: the range lies inside a `DefaultStack`, which has a guard page at its limit; the base is moved by a multiple of 64 bytes,
// less than a page, so it stays aligned and `STACK_BYTES` remain.
unsafe impl Stack for ColouredStack {
    fn base(&self) -> StackPointer {
        self.base
    }

    fn limit(&self) -> StackPointer {
        self.stack.limit()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    macro_rules! fibers_take_turns {
        ($name:ident, $kind:ident) => {
            mod $name {
                use super::super::$kind::{Fiber, Place, switch};
                use super::RefCell;

                thread_local! {
                    static PLACES: RefCell<Vec<*mut Place>> = const { RefCell::new(Vec::new()) };
                    static TURNS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
                }

                /// Place 0 is the host's, the others are fibers that go to the next one.
                fn pass_on(me: usize) {
                    let (from, to) = PLACES.with_borrow(|places| (places[me], places[(me + 1) % places.len()]));
                    // SAFETY: the test keeps all places, and `me` is the running one.
                    unsafe { switch(from, to) };
                }

                extern "C" fn body() -> ! {
                    let me = TURNS.with_borrow(|turns| turns.len() % 4 + 1);
                    loop {
                        TURNS.with_borrow_mut(|turns| turns.push(me));
                        pass_on(me);
                    }
                }

                #[test]
                fn in_a_ring() {
                    let mut fibers: Vec<Fiber> = (0..4).map(|index| Fiber::new(index, body).unwrap()).collect();
                    let mut host = Place::host();
                    let stacks: std::collections::BTreeSet<usize> = fibers.iter().map(Fiber::stack).collect();
                    assert_eq!(stacks.len(), fibers.len());
                    let places = std::iter::once(&raw mut host).chain(fibers.iter_mut().map(Fiber::place));
                    PLACES.set(places.collect());
                    for _ in 0..3 {
                        pass_on(0);
                    }
                    assert_eq!(TURNS.take(), [1, 2, 3, 4].repeat(3));
                }

                #[inline(never)]
                extern "C" fn waiting_body() -> ! {
                    loop {
                        pass_on(1);
                    }
                }

                #[test]
                fn tell_where_they_stand() {
                    let mut fiber = Fiber::new(0, waiting_body).unwrap();
                    let mut host = Place::host();
                    PLACES.set(vec![&raw mut host, fiber.place()]);
                    pass_on(0);
                    for _ in 0..2 {
                        // SAFETY: the fiber has switched away.
                        let addresses = unsafe { fiber.trace() };
                        let mut names = Vec::new();
                        for address in addresses {
                            backtrace::resolve(address as *mut std::ffi::c_void, |symbol| {
                                names.extend(symbol.name().map(|name| name.to_string()));
                            });
                        }
                        assert!(names.iter().any(|name| name.contains("waiting_body")), "{names:?}");
                    }
                }
            }
        };
    }

    #[cfg(all(target_arch = "x86_64", unix))]
    fibers_take_turns!(jumping, jump);
    fibers_take_turns!(portable, portable);
}

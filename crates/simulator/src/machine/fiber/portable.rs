//! Switches by crate corosensei, for hosts without switches of our own. Its fibers only return to whoever resumed them, so a switch
//! between two fibers goes over the host's stack.

use std::cell::Cell;
use std::{io, ptr};

use corosensei::{Coroutine, Yielder};

use super::{Body, ColouredStack};

thread_local! {
    /// Where to go on, for the host's loop.
    static NEXT: Cell<*mut Place> = const { Cell::new(ptr::null_mut()) };
    /// The way back of the fiber that was just resumed for the first time.
    static STARTED: Cell<*const Yielder<(), ()>> = const { Cell::new(ptr::null()) };
    /// The fiber that is resumed is asked for its return addresses, and then for nothing else.
    static TRACES: Cell<bool> = const { Cell::new(false) };
    static TRACE: Cell<Vec<usize>> = const { Cell::new(Vec::new()) };
}

/// Where a stack that does not run stands.
pub(crate) struct Place {
    /// None for the host's stack.
    coroutine: Option<Coroutine<(), (), (), ColouredStack>>,
    suspender: *const Yielder<(), ()>,
}

impl Place {
    /// The OS thread's own stack.
    pub(crate) fn host() -> Self {
        Self { coroutine: None, suspender: ptr::null() }
    }
}

/// A stack that runs a body.
pub(crate) struct Fiber {
    place: Box<Place>,
    stack: usize,
}

impl Fiber {
    /// A fiber that starts `body` at the first switch to it. `index` picks the stack's place in a page.
    pub(crate) fn new(index: usize, body: Body) -> io::Result<Self> {
        let stack = ColouredStack::new(index)?;
        let first = stack.first();
        let coroutine = Coroutine::with_stack(stack, move |suspender: &Yielder<(), ()>, ()| {
            STARTED.set(suspender);
            body()
        });
        Ok(Self { place: Box::new(Place { coroutine: Some(coroutine), suspender: ptr::null() }), stack: first })
    }

    /// Where the fiber stands.
    pub(crate) fn place(&mut self) -> *mut Place {
        &raw mut *self.place
    }

    /// The return addresses on its stack, innermost first, with those of the host's stack behind them. Asking takes a few frames on the
    /// fiber's stack.
    ///
    /// # Safety
    /// The fiber does not run.
    pub(crate) unsafe fn trace(&mut self) -> Vec<usize> {
        // A fiber that was never left has nothing to tell.
        if let Some(coroutine) = self.place.coroutine.as_mut().filter(|_| !self.place.suspender.is_null()) {
            TRACES.set(true);
            coroutine.resume(());
            TRACES.set(false);
        }
        TRACE.take()
    }

    /// First address of its stack of [`super::STACK_BYTES`] bytes.
    pub(crate) fn stack(&self) -> usize {
        self.stack
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        if let Some(coroutine) = &mut self.place.coroutine {
            // SAFETY: the frames on the stack own nothing: see `Body`.
            unsafe { coroutine.force_reset() };
        }
    }
}

/// Leaves the running stack, whose place is kept in `from`, for the one that stands at `to`. Returns when somebody switches back.
///
/// # Safety
/// `to` holds the place of a stack of this OS thread that is not running, and both stacks live on.
pub(crate) unsafe fn switch(from: *mut Place, to: *mut Place) {
    NEXT.set(to);
    // SAFETY: by this function's contract; a place is borrowed by no one else while its stack does not run, and of the running one only
    // the suspender is touched.
    unsafe {
        if (*from).coroutine.is_some() {
            if (*from).suspender.is_null() {
                (*from).suspender = STARTED.get();
            }
            (*(*from).suspender).suspend(());
            while TRACES.get() {
                let mut addresses = Vec::new();
                backtrace::trace(|frame| {
                    addresses.push(frame.ip().addr());
                    true
                });
                TRACE.set(addresses);
                (*(*from).suspender).suspend(());
            }
            return;
        }
        while NEXT.get() != from {
            match &mut (*NEXT.get()).coroutine {
                Some(coroutine) => _ = coroutine.resume(()),
                None => return,
            }
        }
    }
}

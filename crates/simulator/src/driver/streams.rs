//! Stream calls (CUDA driver API, "Stream Management", "Stream synchronization behavior").
//!
//! The first query of a stream with work left answers `NOT_READY` and runs nothing; the second runs it and answers success. A poll
//! loop ends, and a host that goes on after `NOT_READY` sees that nothing has happened.

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use gridpoint_driver::{
    CU_EVENT_WAIT_EXTERNAL, CU_STREAM_NON_BLOCKING, CUcontext, CUevent, CUresult, CUstream, CUstreamCallback, Table,
};

use super::capture::Use;
use super::events::Mark;
use super::queue::Stream;
use super::state::{Id, State, handle, id};
use super::work::Work;
use super::{Answer, in_context, put, releasing};

/// The greatest priority of a stream, as on an H100; the least is 0.
pub(super) const GREATEST_PRIORITY: c_int = -5;

pub(super) fn fill(table: &mut Table) {
    table.cuStreamCreate = create;
    table.cuStreamCreateWithPriority = create_with_priority;
    table.cuStreamDestroy_v2 = destroy;
    table.cuStreamGetCtx = get_context;
    table.cuStreamGetFlags = get_flags;
    table.cuStreamGetPriority = get_priority;
    table.cuStreamQuery = query;
    table.cuStreamSynchronize = synchronize;
    table.cuStreamWaitEvent = wait_event;
    table.cuStreamAddCallback = add_callback;
    table.cuCtxSynchronize = context_synchronize;
}

static THREADS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// A number for the calling thread, never used again for another.
pub(super) fn thread_number() -> u64 {
    if THREAD.get() == 0 {
        THREAD.set(THREADS.fetch_add(1, Ordering::Relaxed));
    }
    THREAD.get()
}

impl State {
    fn stream(&mut self, stream: CUstream) -> Answer<&Stream> {
        let stream = self.stream_id(id(stream.0))?;
        self.streams.get(&stream).ok_or(CUresult::ERROR_INVALID_HANDLE)
    }

    /// The priority of the stream behind a handle's number; 0 where there is none.
    pub(super) fn priority(&mut self, stream: Id) -> c_int {
        self.stream_id(stream).ok().and_then(|stream| self.streams.get(&stream)).map_or(0, |stream| stream.priority)
    }

    /// Enqueues work on the stream behind a handle's number, or makes it a node where the stream captures.
    pub(super) fn submit(&mut self, stream: Id, work: Work) -> Answer {
        let capture = self.capture_of(stream)?;
        let stream = self.stream_id(stream)?;
        match capture {
            Some(capture) => self.capture_node(capture, stream, work).map(drop),
            None => self.enqueue(stream, work, Vec::new()).map(drop),
        }
    }

    /// Checks before a wait for a stream or a question after it; answers the stream.
    fn check_wait(&mut self, stream: CUstream) -> Answer<Id> {
        let stream = self.stream_id(id(stream.0))?;
        self.refuse_in_capture(stream, CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED)?;
        self.check_unsafe_call()?;
        Ok(stream)
    }

    fn wait_event(&mut self, stream: Id, event: Id, external: bool) -> Answer {
        let mark = self.event(event)?.mark.clone();
        let capture = match self.capture_use(stream)? {
            Use::Free => None,
            Use::Captured(capture) => Some(capture),
        };
        let stream = self.stream_id(stream)?;
        match (mark, capture) {
            (_, Some(capture)) if external => self.capture_node(capture, stream, Work::Wait(event)).map(drop),
            (Mark::Capture { capture: theirs, dependencies }, ours) => {
                self.join_capture(stream, ours, theirs, &dependencies)
            }
            (Mark::Never | Mark::Stream { .. }, Some(capture)) => {
                self.invalidate(capture);
                Err(CUresult::ERROR_STREAM_CAPTURE_ISOLATION)
            }
            (Mark::Never, None) => Ok(()),
            (Mark::Stream { stream: theirs, sequence }, None) => {
                self.enqueue(stream, Work::Empty, vec![(theirs, sequence)]).map(drop)
            }
        }
    }
}

unsafe extern "C" fn create(stream: *mut CUstream, flags: c_uint) -> CUresult {
    // SAFETY: the caller's promise is the one asked for.
    unsafe { create_with_priority(stream, flags, 0) }
}

/// A priority outside the range is clamped to it.
unsafe extern "C" fn create_with_priority(stream: *mut CUstream, flags: c_uint, priority: c_int) -> CUresult {
    in_context(|state| {
        if flags & !CU_STREAM_NON_BLOCKING != 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let created = state.fresh();
        put!(stream, CUstream(handle(created)))?;
        state.streams.insert(created, Stream::new(flags, priority.clamp(GREATEST_PRIORITY, 0)));
        Ok(())
    })
}

/// Runs the stream's work first. A capture that the stream began is thrown away, one that it joined is invalidated.
unsafe extern "C" fn destroy(stream: CUstream) -> CUresult {
    releasing(|state| {
        let stream = id(stream.0);
        if stream <= super::state::PER_THREAD || !state.streams.contains_key(&stream) {
            return Err(CUresult::ERROR_INVALID_HANDLE);
        }
        state.leave_capture(stream);
        let ran = state.run_stream(stream);
        state.streams.remove(&stream);
        state.thread_streams.retain(|_, own| *own != stream);
        ran
    })
}

unsafe extern "C" fn get_context(stream: CUstream, context: *mut CUcontext) -> CUresult {
    in_context(|state| {
        state.stream(stream)?;
        put!(context, CUcontext(handle(state.current_context()?)))
    })
}

unsafe extern "C" fn get_flags(stream: CUstream, flags: *mut c_uint) -> CUresult {
    in_context(|state| put!(flags, state.stream(stream)?.flags))
}

unsafe extern "C" fn get_priority(stream: CUstream, priority: *mut c_int) -> CUresult {
    in_context(|state| put!(priority, state.stream(stream)?.priority))
}

unsafe extern "C" fn query(stream: CUstream) -> CUresult {
    in_context(|state| {
        let stream = state.check_wait(stream)?;
        if !state.is_pending(stream, state.sequence) {
            return Ok(());
        }
        let queried = state.streams.get_mut(&stream).is_none_or(|stream| std::mem::replace(&mut stream.queried, true));
        if queried { state.run_stream(stream) } else { Err(CUresult::ERROR_NOT_READY) }
    })
}

unsafe extern "C" fn synchronize(stream: CUstream) -> CUresult {
    in_context(|state| {
        let stream = state.check_wait(stream)?;
        state.run_stream(stream)
    })
}

/// Not while any stream captures: the context encompasses it.
unsafe extern "C" fn context_synchronize() -> CUresult {
    in_context(|state| {
        state.check_nothing_captures()?;
        state.run_all()
    })
}

unsafe extern "C" fn wait_event(stream: CUstream, event: CUevent, flags: c_uint) -> CUresult {
    in_context(|state| {
        if flags & !CU_EVENT_WAIT_EXTERNAL != 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        state.wait_event(id(stream.0), id(event.0), flags != 0)
    })
}

unsafe extern "C" fn add_callback(
    stream: CUstream,
    callback: CUstreamCallback,
    data: *mut c_void,
    flags: c_uint,
) -> CUresult {
    in_context(|state| {
        let function = callback.filter(|_| flags == 0).ok_or(CUresult::ERROR_INVALID_VALUE)?;
        let given = id(stream.0);
        let stream = state.stream_id(given)?;
        state.refuse_in_capture(stream, CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED)?;
        let work = Work::Callback { function, stream: given, data: data.expose_provenance() };
        state.enqueue(stream, work, Vec::new()).map(drop)
    })
}

//! Events (CUDA driver API, "Event Management").
//!
//! A record is an entry of its stream; the event is complete once the entry has run, and its time is the host's clock then. Queries
//! answer as those of streams do: `NOT_READY` first, and at the second time the work is run.

use std::ffi::c_uint;
use std::time::Instant;

use gridpoint_driver::{CU_EVENT_DISABLE_TIMING, CU_EVENT_RECORD_EXTERNAL, CUevent, CUresult, CUstream, Table};

use super::edges::Edge;
use super::state::{Id, State, handle, id};
use super::work::Work;
use super::{Answer, in_context, put, releasing};

/// What an event marks.
#[derive(Clone, Debug)]
pub(super) enum Mark {
    /// Nothing: it was never recorded.
    Never,
    /// An entry of a stream.
    Stream { stream: Id, sequence: u64 },
    /// The last nodes of a stream in a capture.
    Capture { capture: Id, dependencies: Vec<Edge<Id>> },
}

/// An event.
#[derive(Debug)]
pub(super) struct Event {
    flags: c_uint,
    pub(super) mark: Mark,
    /// When the record ran.
    stamp: Option<Instant>,
    /// Whether the event was asked after since it was recorded.
    queried: bool,
}

impl Event {
    pub(super) fn remark(&mut self, mark: Mark) {
        self.mark = mark;
        self.stamp = None;
        self.queried = false;
    }

    /// Takes note that the record with this number ran, unless the event was recorded again after it.
    pub(super) fn complete(&mut self, number: u64, now: Instant) {
        if matches!(self.mark, Mark::Stream { sequence, .. } if sequence == number) {
            self.stamp = Some(now);
        }
    }
}

pub(super) fn fill(table: &mut Table) {
    table.cuEventCreate = create;
    table.cuEventDestroy_v2 = destroy;
    table.cuEventRecord = record;
    table.cuEventRecordWithFlags = record_with_flags;
    table.cuEventQuery = query;
    table.cuEventSynchronize = synchronize;
    table.cuEventElapsedTime = elapsed_time;
}

impl State {
    pub(super) fn event(&self, event: Id) -> Answer<&Event> {
        self.events.get(&event).ok_or(CUresult::ERROR_INVALID_HANDLE)
    }

    fn record(&mut self, event: Id, stream: Id, external: bool) -> Answer {
        self.event(event)?;
        let capture = self.capture_of(stream)?;
        let stream = self.stream_id(stream)?;
        let mark = match capture {
            Some(capture) if external => return self.capture_node(capture, stream, Work::Record(event)).map(drop),
            Some(capture) => {
                let tails = self.captures.get(&capture).and_then(|capture| capture.streams.get(&stream));
                let dependencies = tails.into_iter().flatten().map(|tail| tail.edge).collect();
                Mark::Capture { capture, dependencies }
            }
            None => Mark::Stream { stream, sequence: self.enqueue(stream, Work::Record(event), Vec::new())? },
        };
        if let Some(event) = self.events.get_mut(&event) {
            event.remark(mark);
        }
        Ok(())
    }

    /// Checks before a wait for an event or a question after it: the entry that it marks, if it marks one that has not run.
    fn check_event_wait(&mut self, event: Id) -> Answer<Option<(Id, u64)>> {
        let mark = self.event(event)?.mark.clone();
        if let Mark::Capture { capture, .. } = mark {
            self.invalidate(capture);
            return Err(CUresult::ERROR_CAPTURED_EVENT);
        }
        self.check_unsafe_call()?;
        Ok(match mark {
            Mark::Stream { stream, sequence } if self.is_pending(stream, sequence) => Some((stream, sequence)),
            _ => None,
        })
    }
}

unsafe extern "C" fn create(event: *mut CUevent, flags: c_uint) -> CUresult {
    in_context(|state| {
        // CU_EVENT_BLOCKING_SYNC is 1, CU_EVENT_INTERPROCESS is 4 and needs CU_EVENT_DISABLE_TIMING.
        if flags > 7 || (flags & 4 != 0 && flags & CU_EVENT_DISABLE_TIMING == 0) {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let created = state.fresh();
        put!(event, CUevent(handle(created)))?;
        state.events.insert(created, Event { flags, mark: Mark::Never, stamp: None, queried: false });
        Ok(())
    })
}

/// The record of an event that is gone still runs, and waits for it still hold.
unsafe extern "C" fn destroy(event: CUevent) -> CUresult {
    releasing(|state| state.events.remove(&id(event.0)).map(drop).ok_or(CUresult::ERROR_INVALID_HANDLE))
}

unsafe extern "C" fn record(event: CUevent, stream: CUstream) -> CUresult {
    in_context(|state| state.record(id(event.0), id(stream.0), false))
}

unsafe extern "C" fn record_with_flags(event: CUevent, stream: CUstream, flags: c_uint) -> CUresult {
    in_context(|state| {
        if flags & !CU_EVENT_RECORD_EXTERNAL != 0 {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        state.record(id(event.0), id(stream.0), flags != 0)
    })
}

unsafe extern "C" fn query(event: CUevent) -> CUresult {
    in_context(|state| {
        let event = id(event.0);
        let Some((stream, sequence)) = state.check_event_wait(event)? else { return Ok(()) };
        let queried = state.events.get_mut(&event).is_none_or(|event| std::mem::replace(&mut event.queried, true));
        if queried { state.run_until(stream, sequence) } else { Err(CUresult::ERROR_NOT_READY) }
    })
}

unsafe extern "C" fn synchronize(event: CUevent) -> CUresult {
    in_context(|state| match state.check_event_wait(id(event.0))? {
        Some((stream, sequence)) => state.run_until(stream, sequence),
        None => Ok(()),
    })
}

/// Host time between the two records' runs, so that it holds whatever the simulator did in between.
unsafe extern "C" fn elapsed_time(milliseconds: *mut f32, start: CUevent, end: CUevent) -> CUresult {
    in_context(|state| {
        let mut pending = false;
        let mut stamps = [None; 2];
        for (stamp, event) in stamps.iter_mut().zip([start, end]) {
            let event = state.event(id(event.0))?;
            match event.mark {
                _ if event.flags & CU_EVENT_DISABLE_TIMING != 0 => return Err(CUresult::ERROR_INVALID_HANDLE),
                Mark::Never => return Err(CUresult::ERROR_INVALID_HANDLE),
                Mark::Capture { .. } => return Err(CUresult::ERROR_CAPTURED_EVENT),
                Mark::Stream { stream, sequence } => pending |= state.is_pending(stream, sequence),
            }
            *stamp = event.stamp;
        }
        let [Some(start), Some(end)] = stamps else { return Err(CUresult::ERROR_NOT_READY) };
        if pending {
            return Err(CUresult::ERROR_NOT_READY);
        }
        let forwards = end.saturating_duration_since(start).as_secs_f64();
        let backwards = start.saturating_duration_since(end).as_secs_f64();
        put!(milliseconds, ((forwards - backwards) * 1e3) as f32)
    })
}

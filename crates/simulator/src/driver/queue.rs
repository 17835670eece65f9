//! Streams as queues whose order is only what the rules say.
//!
//! Nothing runs when it is enqueued. A wait runs the entries that it is for, in stream order, and before each entry what that entry
//! depends on: an event's stream up to the record, the launch of the same executable graph before, and what the legacy stream's rules
//! say (CUDA driver API, "Stream synchronization behavior"). Entries have one numbering over all streams, and an entry only ever
//! depends on smaller numbers.
//!
//! * Without a seed a wait runs only that: everything else runs as late as the rules allow.
//! * With a seed a wait draws, until what it is for has run, one stream after another among all that have something to run, also those
//!   that nobody waits for; the draws follow from the seed and the calls before. Operations are whole: a kernel, a copy, a memset, a
//!   host function, a node of a graph. So the streams' operations are interleaved in any order that their dependencies allow, and
//!   one that is missing shows under some seed.
//!
//! Kernels run at the same time where one is programmatically dependent on the other (`kernels.rs`), which then are one operation.

use std::collections::VecDeque;
use std::sync::Arc;

use gridpoint_driver::{CU_STREAM_NON_BLOCKING, CUgraphEdgeData, CUgraphNode, CUresult};

use super::Answer;
use super::state::{Id, LEGACY, PER_THREAD, State};
use super::work::{Replay, Work};

/// An entry of a queue.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    /// Streams, and the numbers up to which they must have run first.
    pub(super) after: Vec<(Id, u64)>,
    pub(super) work: Work,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) flags: u32,
    pub(super) priority: i32,
    pub(super) queue: VecDeque<Entry>,
    /// What has run of the first entry, where that is a graph whose nodes are interleaved with other streams.
    pub(super) replay: Option<Replay>,
    /// The capture that the stream takes part in.
    pub(super) capture: Option<Id>,
    /// Whether the work queued now was asked after before.
    pub(super) queried: bool,
    /// What cuStreamGetCaptureInfo answered last; the caller holds a pointer to it.
    pub(super) reported: Vec<CUgraphNode>,
    /// The edge data that go with `reported`.
    pub(super) reported_data: Vec<CUgraphEdgeData>,
}

impl Stream {
    pub(super) fn new(flags: u32, priority: i32) -> Self {
        let (queue, reported, reported_data) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { flags, priority, queue, replay: None, capture: None, queried: false, reported, reported_data }
    }

    pub(super) fn legacy() -> Self {
        Self::new(0, 0)
    }

    /// Whether the stream synchronises with the legacy stream.
    pub(super) fn blocking(&self) -> bool {
        self.flags & CU_STREAM_NON_BLOCKING == 0
    }

    fn pending(&self, sequence: u64) -> bool {
        self.queue.front().is_some_and(|entry| entry.sequence <= sequence)
    }
}

impl State {
    /// The stream behind a handle's number: the legacy stream for null, and the thread's own for its handle.
    ///
    /// `INVALID_HANDLE` for a stale number.
    pub(super) fn stream_id(&mut self, id: Id) -> Answer<Id> {
        match id {
            0 | LEGACY => Ok(LEGACY),
            PER_THREAD => {
                if let Some(&stream) = self.thread_streams.get(&super::streams::thread_number()) {
                    return Ok(stream);
                }
                let stream = self.fresh();
                self.streams.insert(stream, Stream::new(0, 0));
                self.thread_streams.insert(super::streams::thread_number(), stream);
                Ok(stream)
            }
            _ if self.streams.contains_key(&id) => Ok(id),
            _ => Err(CUresult::ERROR_INVALID_HANDLE),
        }
    }

    /// Appends work to a stream that does not capture; answers its number.
    pub(super) fn enqueue(&mut self, stream: Id, work: Work, after: Vec<(Id, u64)>) -> Answer<u64> {
        self.sequence += 1;
        let sequence = self.sequence;
        let stream = self.streams.get_mut(&stream).ok_or(CUresult::ERROR_INVALID_HANDLE)?;
        stream.queried = false;
        stream.queue.push_back(Entry { sequence, after, work });
        Ok(sequence)
    }

    /// Whether a stream has work up to number `sequence` left; a stream that is gone has none.
    pub(super) fn is_pending(&self, stream: Id, sequence: u64) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.pending(sequence))
    }

    /// Runs a stream's work up to number `sequence`, and what that depends on.
    pub(super) fn run_until(&mut self, stream: Id, sequence: u64) -> Answer {
        if self.options.seed.is_some() {
            return self.run_interleaved(stream, sequence);
        }
        // A stack of goals instead of recursion: dependencies can chain through any number of streams.
        let mut goals = vec![(stream, sequence)];
        while let Some(&(stream, sequence)) = goals.last() {
            if !self.is_pending(stream, sequence) {
                goals.pop();
                continue;
            }
            if let Some(goal) = self.unmet(stream) {
                goals.push(goal);
                continue;
            }
            let entry = self.streams.get_mut(&stream).and_then(|stream| stream.queue.pop_front());
            match entry {
                Some(Entry { work: Work::Kernel(kernel), .. }) => {
                    self.execute_stream_kernels(stream, kernel, sequence)?;
                }
                Some(entry) => self.execute(&entry.work, entry.sequence)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Runs operations of streams that are drawn at random, until a stream's work up to number `sequence` is done.
    fn run_interleaved(&mut self, stream: Id, sequence: u64) -> Answer {
        while self.is_pending(stream, sequence) {
            let busy = self.streams.iter().filter(|(_, stream)| !stream.queue.is_empty()).map(|(&stream, _)| stream);
            let ready: Vec<Id> = busy.filter(|&stream| self.unmet(stream).is_none()).collect();
            // The entry with the smallest number waits for nothing, so there is always one.
            let drawn = self.draw(ready.len());
            let Some(&drawn) = ready.get(drawn) else { return Err(CUresult::ERROR_UNKNOWN) };
            self.run_operation(drawn)?;
        }
        Ok(())
    }

    /// Runs the next operation of a stream: its first entry, or the next node where that is a graph.
    pub(super) fn run_operation(&mut self, stream: Id) -> Answer {
        let Some(own) = self.streams.get_mut(&stream) else { return Ok(()) };
        let Some(Entry { work: Work::Graph(image), sequence, .. }) = own.queue.front() else {
            return match own.queue.pop_front() {
                Some(Entry { work: Work::Kernel(kernel), .. }) => self.execute_stream_kernels(stream, kernel, u64::MAX),
                Some(entry) => self.execute(&entry.work, entry.sequence),
                None => Ok(()),
            };
        };
        let (image, sequence) = (Arc::clone(image), *sequence);
        let mut replay = own.replay.take().unwrap_or_else(|| Replay::new(&image));
        if let Some(nodes) = replay.take(&image, |count| self.draw(count)) {
            self.execute_nodes(&image, &nodes, sequence)?;
            replay.done(&image, &nodes);
        }
        if let Some(own) = self.streams.get_mut(&stream) {
            if replay.is_over() {
                own.queue.pop_front();
            } else {
                own.replay = Some(replay);
            }
        }
        Ok(())
    }

    /// What the stream's next entry still waits for.
    fn unmet(&self, stream: Id) -> Option<(Id, u64)> {
        let own = self.streams.get(&stream)?;
        let entry = own.queue.front()?;
        let explicit = entry.after.iter().copied().find(|&(other, sequence)| self.is_pending(other, sequence));
        if explicit.is_some() {
            return explicit;
        }
        let before = entry.sequence - 1;
        if stream == LEGACY {
            let blocks = |other: &Stream| other.blocking() && other.pending(before);
            let (&other, _) = self.streams.iter().find(|&(&other, state)| other != LEGACY && blocks(state))?;
            Some((other, before))
        } else {
            (own.blocking() && self.is_pending(LEGACY, before)).then_some((LEGACY, before))
        }
    }

    /// The work of a stream's next entry, if its number is at most `last` and it waits for nothing.
    pub(super) fn next_work(&self, stream: Id, last: u64) -> Option<Work> {
        let entry = self.streams.get(&stream)?.queue.front()?;
        (entry.sequence <= last && self.unmet(stream).is_none()).then(|| entry.work.clone())
    }

    /// Runs everything in a stream.
    pub(super) fn run_stream(&mut self, stream: Id) -> Answer {
        self.run_until(stream, self.sequence)?;
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.queried = false;
        }
        Ok(())
    }

    /// Runs everything in every stream.
    pub(super) fn run_all(&mut self) -> Answer {
        let streams: Vec<Id> = self.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|stream| self.run_stream(stream))
    }

    /// Runs what must be done before a synchronous call on the legacy stream touches memory: its own work and that of every stream
    /// that synchronises with it.
    pub(super) fn run_blocking(&mut self) -> Answer {
        let blocking = |(&stream, state): (&Id, &Stream)| state.blocking().then_some(stream);
        let streams: Vec<Id> = self.streams.iter().filter_map(blocking).collect();
        streams.into_iter().try_for_each(|stream| self.run_stream(stream))
    }
}

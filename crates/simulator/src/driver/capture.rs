//! The rules of stream capture (CUDA driver API, cuStreamBeginCapture and cuThreadExchangeStreamCaptureMode; CUDA programming guide,
//! "Creating a Graph Using Stream Capture").
//!
//! | planted error | code |
//! |---|---|
//! | a capture begun on the legacy stream | 900, nothing else happens |
//! | a capture begun on a stream that captures | 401, the capture stays valid |
//! | a potentially unsafe call from a thread whose mode, or a capture's, forbids it | 900 |
//! | a wait for, or a query of, a capturing stream or a context with one | 900 |
//! | a wait for, or a query of, an event recorded in a capture | 907 |
//! | use of the legacy stream while a blocking stream captures | 906 |
//! | a wait in a capture for an event recorded outside, or in a capture that ended | 905 |
//! | a wait in a capture for an event of another capture | 902, for both captures |
//! | the end of a capture on a stream that joined it / from another thread | 903 / 908, the capture stays valid |
//! | the end of a capture with work that its first stream does not wait for | 904, the capture is over |
//! | the end of a capture with a half edge left that does not wait for a whole node | 904, the capture is over |
//! | work that a half edge of its stream cannot lead to | 1 |
//! | anything on a stream of an invalidated capture, also its end | 901 |
//!
//! Except where the table says otherwise, the error invalidates the capture. Only its end makes its streams leave it.
//! Potentially unsafe are: allocating and freeing memory, loading and unloading modules, synchronous copies to or from the host, and
//! waits for or queries of streams and events, also of those that do not capture.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use gridpoint_driver::{CUgraphNodeType as Kind, CUresult, CUstreamCaptureMode as Mode};

use super::edges::{self, Edge};
use super::graphs::{Graph, Node};
use super::state::{Id, LEGACY, State};
use super::streams::thread_number;
use super::work::Work;
use super::{Answer, injection};

/// A capture that has begun and not ended.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) graph: Id,
    /// The stream that began it.
    origin: Id,
    mode: Mode,
    /// The thread that began it.
    thread: u64,
    pub(super) invalid: bool,
    /// The streams that take part, and what the next node of each depends on, in the order of the nodes.
    pub(super) streams: BTreeMap<Id, Vec<Tail>>,
}

/// The half edge that the next node of a capturing stream will be the other end of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub(super) edge: Edge<Id>,
    /// Whether it is the stream's own order, and nothing that a wait for an event or a call asked for.
    pub(super) own: bool,
}

/// Adds a half edge; of two from the same node the stricter stays.
pub(super) fn add_tail(tails: &mut Vec<Tail>, edge: Edge<Id>) {
    let added = Tail { edge, own: false };
    match tails.binary_search_by_key(&edge.from, |tail| tail.edge.from) {
        Ok(place) if tails[place].edge.is_stricter_than(&edge) => {}
        Ok(place) => tails[place] = added,
        Err(place) => tails.insert(place, added),
    }
}

/// What a stream does with work.
pub(super) enum Use {
    /// It queues it.
    Free,
    /// It makes nodes of it, for this capture.
    Captured(Id),
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::GLOBAL) };
}

/// Sets this thread's mode; answers the one before.
pub(super) fn exchange_mode(mode: Mode) -> Mode {
    MODE.replace(mode)
}

impl State {
    /// What the stream behind a handle's number does with work. `STREAM_CAPTURE_INVALIDATED` where its capture is invalid, and
    /// `STREAM_CAPTURE_IMPLICIT` for the legacy stream while a blocking stream captures.
    pub(super) fn capture_use(&mut self, stream: Id) -> Answer<Use> {
        let stream = self.stream_id(stream)?;
        if stream == LEGACY {
            self.check_legacy()?;
        }
        let Some(capture) = self.streams.get(&stream).and_then(|stream| stream.capture) else { return Ok(Use::Free) };
        if self.captures.get(&capture).is_none_or(|capture| capture.invalid) {
            return Err(CUresult::ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        Ok(Use::Captured(capture))
    }

    /// As [`Self::capture_use`]: the capture, if any.
    pub(super) fn capture_of(&mut self, stream: Id) -> Answer<Option<Id>> {
        Ok(match self.capture_use(stream)? {
            Use::Free => None,
            Use::Captured(capture) => Some(capture),
        })
    }

    pub(super) fn invalidate(&mut self, capture: Id) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
    }

    /// Whether a blocking stream captures.
    pub(super) fn blocking_captures(&self) -> Vec<Id> {
        self.streams.values().filter(|stream| stream.blocking()).filter_map(|stream| stream.capture).collect()
    }

    /// Refuses a use of the legacy stream while a blocking stream captures.
    pub(super) fn check_legacy(&mut self) -> Answer {
        let captures = self.blocking_captures();
        if captures.is_empty() {
            return Ok(());
        }
        captures.into_iter().for_each(|capture| self.invalidate(capture));
        Err(CUresult::ERROR_STREAM_CAPTURE_IMPLICIT)
    }

    /// Refuses, with `code`, what a stream cannot do while it captures.
    pub(super) fn refuse_in_capture(&mut self, stream: Id, code: CUresult) -> Answer {
        match self.capture_use(stream)? {
            Use::Free => Ok(()),
            Use::Captured(capture) => {
                self.invalidate(capture);
                Err(code)
            }
        }
    }

    /// Refuses a potentially unsafe call where this thread's mode and the captures in progress forbid it.
    pub(super) fn check_unsafe_call(&mut self) -> Answer {
        let (thread, mode) = (thread_number(), MODE.get());
        if self.captures.is_empty() || mode == Mode::RELAXED {
            return Ok(());
        }
        let forbids = |capture: &Capture| {
            if capture.thread == thread {
                capture.mode != Mode::RELAXED
            } else {
                capture.mode == Mode::GLOBAL && mode == Mode::GLOBAL
            }
        };
        self.refuse_captures(forbids)
    }

    /// Refuses what no capture of the context allows.
    pub(super) fn check_nothing_captures(&mut self) -> Answer {
        self.refuse_captures(|_| true)
    }

    fn refuse_captures(&mut self, forbids: impl Fn(&Capture) -> bool) -> Answer {
        let mut answer = Ok(());
        for capture in self.captures.values_mut().filter(|capture| forbids(capture)) {
            if !std::mem::replace(&mut capture.invalid, true) {
                answer = Err(CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED);
            } else if answer.is_ok() {
                answer = Err(CUresult::ERROR_STREAM_CAPTURE_INVALIDATED);
            }
        }
        answer
    }

    pub(super) fn begin_capture(&mut self, stream: Id, mode: Mode) -> Answer {
        if mode > Mode::RELAXED {
            return Err(CUresult::ERROR_INVALID_VALUE);
        }
        let stream = self.stream_id(stream)?;
        if stream == LEGACY {
            return Err(CUresult::ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        let (capture, graph) = (self.fresh(), self.fresh());
        let own = self.streams.get_mut(&stream).ok_or(CUresult::ERROR_INVALID_HANDLE)?;
        if own.capture.is_some() {
            return Err(CUresult::ERROR_ILLEGAL_STATE);
        }
        own.capture = Some(capture);
        self.graphs.insert(graph, Graph { capturing: true, ..Graph::default() });
        let streams = BTreeMap::from([(stream, Vec::new())]);
        let begun = Capture { graph, origin: stream, mode, thread: thread_number(), invalid: false, streams };
        self.captures.insert(capture, begun);
        Ok(())
    }

    /// Ends the capture that `stream` began; answers its graph.
    pub(super) fn end_capture(&mut self, stream: Id) -> Answer<Id> {
        let stream = self.stream_id(stream)?;
        let id = self.streams.get(&stream).and_then(|stream| stream.capture).ok_or(CUresult::ERROR_ILLEGAL_STATE)?;
        let capture = self.captures.get(&id).ok_or(CUresult::ERROR_ILLEGAL_STATE)?;
        if capture.origin != stream {
            return Err(CUresult::ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != Mode::RELAXED && capture.thread != thread_number() {
            return Err(CUresult::ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        let answer = if let Some(code) = injection::late() {
            Err(code)
        } else if capture.invalid {
            Err(CUresult::ERROR_STREAM_CAPTURE_INVALIDATED)
        } else if !self.is_joined(capture) {
            Err(CUresult::ERROR_STREAM_CAPTURE_UNJOINED)
        } else {
            Ok(capture.graph)
        };
        self.close_capture(id, answer.is_ok());
        answer
    }

    /// Makes every stream leave a capture; throws away its graph unless it is kept.
    fn close_capture(&mut self, capture: Id, keep: bool) {
        let Some(capture) = self.captures.remove(&capture) else { return };
        for stream in capture.streams.keys() {
            if let Some(stream) = self.streams.get_mut(stream) {
                stream.capture = None;
                stream.reported.clear();
                stream.reported_data.clear();
            }
        }
        if !keep {
            self.remove_graph(capture.graph);
        } else if let Some(graph) = self.graphs.get_mut(&capture.graph) {
            graph.capturing = false;
        }
    }

    /// Whether the first stream of a capture waits, directly or not, for the end of the last work of every other stream of it. An edge
    /// that does not wait for a whole node joins only what that node itself waited for, and none may be left over (CUDA programming
    /// guide, "Edge Data").
    fn is_joined(&self, capture: &Capture) -> bool {
        let Some(graph) = self.graphs.get(&capture.graph) else { return false };
        let mut open: Vec<Edge<Id>> =
            capture.streams.get(&capture.origin).into_iter().flatten().map(|tail| tail.edge).collect();
        let (mut begun, mut ended) = (BTreeSet::new(), BTreeSet::new());
        while let Some(edge) = open.pop() {
            if edge.is_full() {
                ended.insert(edge.from);
            }
            if begun.insert(edge.from)
                && let Some(node) = graph.nodes.get(&edge.from)
            {
                open.extend(&node.dependencies);
            }
        }
        capture.streams.values().flatten().all(|tail| tail.edge.is_full() && ended.contains(&tail.edge.from))
    }

    /// Takes a stream that is being destroyed out of its capture.
    pub(super) fn leave_capture(&mut self, stream: Id) {
        let Some(capture) = self.streams.get_mut(&stream).and_then(|stream| stream.capture.take()) else { return };
        if self.captures.get(&capture).is_some_and(|capture| capture.origin == stream) {
            self.close_capture(capture, false);
        } else {
            self.invalidate(capture);
        }
    }

    /// Makes work the next node of a capturing stream.
    ///
    /// A launch with programmatic stream serialisation depends programmatically on the kernel before it in its stream. It depends wholly
    /// on anything else before it, and on what the stream was made to wait for.
    pub(super) fn capture_node(&mut self, capture: Id, stream: Id, work: Work) -> Answer<Id> {
        let node = self.fresh();
        let capture = self.captures.get_mut(&capture).ok_or(CUresult::ERROR_STREAM_CAPTURE_INVALIDATED)?;
        let graph = self.graphs.get_mut(&capture.graph).ok_or(CUresult::ERROR_STREAM_CAPTURE_INVALIDATED)?;
        let serialised = matches!(&work, Work::Kernel(kernel) if kernel.programmatic);
        let tails = capture.streams.entry(stream).or_default();
        let mut dependencies = Vec::new();
        for Tail { edge, own } in tails.iter() {
            let kind = graph.nodes.get(&edge.from).map(Node::kind);
            let kernels = serialised && kind == Some(Kind::KERNEL);
            let edge = if kernels && *own { Edge::programmatic(edge.from) } else { *edge };
            let checked = kind.map(|kind| edges::check(edge.data, kind, work.kind()));
            if let Some(Err(code)) = checked {
                capture.invalid = true;
                return Err(code);
            }
            dependencies.push(edge);
        }
        *tails = vec![Tail { edge: Edge::full(node), own: true }];
        graph.insert(node, work, dependencies);
        self.nodes.insert(node, capture.graph);
        Ok(node)
    }

    /// A wait of `stream`, which takes part in the capture `ours`, for an event that was recorded in the capture `theirs` when these
    /// nodes were the last of its stream.
    pub(super) fn join_capture(
        &mut self,
        stream: Id,
        ours: Option<Id>,
        theirs: Id,
        dependencies: &[Edge<Id>],
    ) -> Answer {
        let Some(capture) = self.captures.get_mut(&theirs) else {
            let Some(ours) = ours else { return Err(CUresult::ERROR_CAPTURED_EVENT) };
            self.invalidate(ours);
            return Err(CUresult::ERROR_STREAM_CAPTURE_ISOLATION);
        };
        if capture.invalid {
            return Err(CUresult::ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        if let Some(ours) = ours.filter(|&ours| ours != theirs) {
            capture.invalid = true;
            self.invalidate(ours);
            return Err(CUresult::ERROR_STREAM_CAPTURE_MERGE);
        }
        if stream == LEGACY {
            capture.invalid = true;
            return Err(CUresult::ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        let tails = capture.streams.entry(stream).or_default();
        dependencies.iter().for_each(|&edge| add_tail(tails, edge));
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.capture = Some(theirs);
        }
        Ok(())
    }
}

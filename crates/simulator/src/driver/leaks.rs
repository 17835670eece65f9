//! What was made on the device and not given back.

use std::fmt;

use super::lock;
use super::state::{FIRST, Id, LEGACY, STEP, State};
use crate::memory::Kind;

/// What a leaked thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakKind {
    /// Device memory of cuMemAlloc and its kin.
    DeviceMemory {
        /// Its size.
        bytes: usize,
    },
    /// Pinned host memory.
    PinnedMemory {
        /// Its size.
        bytes: usize,
    },
    /// Physical memory of cuMemCreate, also where only a mapping still holds it.
    PhysicalMemory {
        /// Its size.
        bytes: usize,
    },
    /// Addresses of cuMemAddressReserve.
    Reservation {
        /// Its size.
        bytes: usize,
    },
    /// A stream, other than the default streams.
    Stream,
    /// An event.
    Event,
    /// A graph, or a capture that has not ended.
    Graph {
        /// Whether a capture makes it.
        capturing: bool,
    },
    /// An executable graph.
    Executable,
}

/// A live thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Its place in the order in which everything on the device was made.
    pub order: u64,
    /// What it is.
    pub kind: LeakKind,
    /// Its handle or address.
    pub handle: u64,
}

impl fmt::Display for Leak {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            LeakKind::DeviceMemory { bytes } => write!(formatter, "{bytes} bytes of device memory"),
            LeakKind::PinnedMemory { bytes } => write!(formatter, "{bytes} bytes of pinned memory"),
            LeakKind::PhysicalMemory { bytes } => write!(formatter, "{bytes} bytes of physical memory"),
            LeakKind::Reservation { bytes } => write!(formatter, "{bytes} reserved addresses"),
            LeakKind::Stream => formatter.write_str("a stream"),
            LeakKind::Event => formatter.write_str("an event"),
            LeakKind::Graph { capturing: false } => formatter.write_str("a graph"),
            LeakKind::Graph { capturing: true } => formatter.write_str("a capture"),
            LeakKind::Executable => formatter.write_str("an executable graph"),
        }?;
        write!(formatter, " `{:#x}`, made as number {}", self.handle, self.order)
    }
}

/// Everything that lives on the device now, in the order in which it was made: memory, streams, events, graphs, executable graphs.
/// Modules, contexts and default streams do not count. Empty without a device.
///
/// A test compares the answers before and after what it runs.
pub fn leaks() -> Vec<Leak> {
    lock().map(|state| live(&state)).unwrap_or_default()
}

fn live(state: &State) -> Vec<Leak> {
    let leak = |number: Id, kind: LeakKind, handle: Id| Leak { order: (number - FIRST) / STEP, kind, handle };
    let memory = state.memory.allocations().map(|(kind, range, number)| {
        let bytes = range.bytes;
        let kind = if kind == Kind::Host { LeakKind::PinnedMemory { bytes } } else { LeakKind::DeviceMemory { bytes } };
        leak(number, kind, range.start as u64)
    });
    let mut all: Vec<Leak> = memory.collect();
    all.extend(state.virtual_memory.physical().map(|(id, bytes)| leak(id, LeakKind::PhysicalMemory { bytes }, id)));
    all.extend(
        state
            .virtual_memory
            .reservations()
            .map(|(number, range)| leak(number, LeakKind::Reservation { bytes: range.bytes }, range.start as u64)),
    );
    let own = |stream: &&Id| **stream != LEGACY && !state.thread_streams.values().any(|own| own == *stream);
    all.extend(state.streams.keys().filter(own).map(|&id| leak(id, LeakKind::Stream, id)));
    all.extend(state.events.keys().map(|&id| leak(id, LeakKind::Event, id)));
    let graph =
        |(&id, graph): (&Id, &super::graphs::Graph)| leak(id, LeakKind::Graph { capturing: graph.capturing }, id);
    all.extend(state.graphs.iter().map(graph));
    all.extend(state.executables.keys().map(|&id| leak(id, LeakKind::Executable, id)));
    all.sort_by_key(|leak| leak.order);
    all
}

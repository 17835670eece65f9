//! Everything the simulated device knows.
//!
//! Handles are numbers, never addresses of our objects: one counter serves all kinds and a number is never used twice, so that a stale
//! handle, or one of another kind, is found out by a look into a table.

use std::collections::BTreeMap;
use std::ffi::c_void;

use gridpoint_driver::CUresult;

use super::capture::Capture;
use super::contexts::Contexts;
use super::events::Event;
use super::executables::Executable;
use super::functions::Function;
use super::graphs::Graph;
use super::modules::Module;
use super::queue::Stream;
use super::virtual_memory::VirtualMemory;
use super::{Answer, Options, injection};
use crate::counters::Recorder;
use crate::fault::{Fault, Reason};
use crate::memory::{Damaged, Memory};
use crate::module::HostModule;

/// The number behind a handle.
pub(super) type Id = u64;

/// The legacy stream, whose explicit handle is 1 and which the null handle also names.
pub(super) const LEGACY: Id = 1;
/// The handle of the calling thread's default stream.
pub(super) const PER_THREAD: Id = 2;
/// The primary context.
pub(super) const PRIMARY: Id = 0x100;
/// The first number that the counter gives out.
pub(super) const FIRST: Id = 0x1000;
/// Numbers are this far apart, as addresses of objects would be. None is an address that is ever mapped for long.
pub(super) const STEP: Id = 0x10;

/// The number behind `handle`.
pub(super) fn id(handle: *mut c_void) -> Id {
    handle.addr() as Id
}

/// The handle of `id`.
pub(super) fn handle(id: Id) -> *mut c_void {
    std::ptr::without_provenance_mut(id as usize)
}

/// The device.
pub(super) struct State {
    pub(super) options: Options,
    pub(super) known_modules: Vec<&'static HostModule>,
    pub(super) initialised: bool,
    pub(super) contexts: Contexts,
    /// The code that every call answers since a kernel failed.
    pub(super) fault: Option<CUresult>,
    pub(super) last_fault: Option<Fault>,
    /// Where counts of launches go.
    pub(super) recorder: Option<Recorder>,
    pub(super) memory: Memory,
    pub(super) virtual_memory: VirtualMemory,
    pub(super) modules: BTreeMap<Id, Module>,
    pub(super) functions: BTreeMap<Id, Function>,
    pub(super) streams: BTreeMap<Id, Stream>,
    pub(super) thread_streams: BTreeMap<u64, Id>,
    pub(super) events: BTreeMap<Id, Event>,
    pub(super) captures: BTreeMap<Id, Capture>,
    pub(super) graphs: BTreeMap<Id, Graph>,
    /// The graph of each node.
    pub(super) nodes: BTreeMap<Id, Id>,
    pub(super) executables: BTreeMap<Id, Executable>,
    /// How much work was ever enqueued: the number of the latest entry of any stream.
    pub(super) sequence: u64,
    /// How many kernels were ever started.
    pub(super) launches: u64,
    /// How often something was drawn at random.
    draws: u64,
    next: Id,
}

impl State {
    pub(super) fn new(options: Options, modules: &[&'static HostModule]) -> Self {
        Self {
            known_modules: modules.to_vec(),
            initialised: false,
            contexts: Contexts::default(),
            fault: None,
            last_fault: None,
            recorder: None,
            memory: Memory::new(options.detectors.uninitialised()),
            options,
            virtual_memory: VirtualMemory::default(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            streams: BTreeMap::from([(LEGACY, Stream::legacy())]),
            thread_streams: BTreeMap::new(),
            events: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            executables: BTreeMap::new(),
            sequence: 0,
            launches: 0,
            draws: 0,
            next: FIRST,
        }
    }

    /// A number that was never used.
    pub(super) fn fresh(&mut self) -> Id {
        let id = self.next;
        self.next += STEP;
        id
    }

    /// Throws away everything that lives in the context: memory, modules, streams, events, graphs, queued work, the sticky error.
    pub(super) fn clear(&mut self) {
        let (next, sequence, launches, draws) = (self.next, self.sequence, self.launches, self.draws);
        let fresh = Self::new(self.options.clone(), &[]);
        let old = std::mem::replace(self, fresh);
        self.known_modules = old.known_modules;
        self.initialised = old.initialised;
        self.contexts = old.contexts;
        self.recorder = old.recorder;
        (self.next, self.sequence, self.launches, self.draws) = (next, sequence, launches, draws);
    }

    /// Takes note that work failed: all queued work is dropped, and every later call answers the fault's code.
    pub(super) fn fail(&mut self, fault: Fault) -> CUresult {
        let code = fault.code();
        tracing::error!(%fault, code = code.name(), "work on the simulated device failed");
        self.fault = Some(code);
        self.last_fault = Some(fault);
        for stream in self.streams.values_mut() {
            stream.queue.clear();
            stream.replay = None;
        }
        code
    }

    /// As [`Self::fail`], for memory that `culprit` wrote outside every allocation.
    pub(super) fn fail_red_zone(&mut self, culprit: &str, Damaged(range): Damaged) -> CUresult {
        let reason = Reason::RedZone { address: range.start as u64, bytes: range.bytes };
        self.fail(Fault {
            kernel: culprit.to_owned(),
            block: [0; 3],
            thread: [0; 3],
            seed: None,
            reason,
            source: Vec::new(),
        })
    }

    /// Launches from now on are counted as part of the graph launch that is entry `sequence` of its stream, or of none.
    pub(super) fn enter_graph(&self, sequence: Option<u64>) {
        if let Some(recorder) = &self.recorder {
            recorder.enter_graph(sequence);
        }
    }

    /// The seed of the next decision that a seeded schedule takes; none for round-robin.
    pub(super) fn next_seed(&mut self) -> Option<u64> {
        self.launches += 1;
        self.options.seed.map(|seed| mix(seed ^ mix(self.launches)))
    }

    /// Starts the schedules of another seed.
    pub(super) fn reseed(&mut self, seed: Option<u64>) {
        self.options.seed = seed;
        (self.launches, self.draws) = (0, 0);
        if seed.is_none() {
            // Without a seed a graph runs as one operation: what has begun is finished.
            let begun: Vec<Id> =
                self.streams.iter().filter(|(_, own)| own.replay.is_some()).map(|(&id, _)| id).collect();
            for stream in begun {
                while self.streams.get(&stream).is_some_and(|own| own.replay.is_some()) {
                    if self.run_operation(stream).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// A number below `count`: by the seed, or 0 without one. 0 also where `count` is 0.
    pub(super) fn draw(&mut self, count: usize) -> usize {
        let Some(seed) = self.options.seed.filter(|_| count > 1) else { return 0 };
        self.draws += 1;
        (mix(mix(seed) ^ self.draws) % count as u64) as usize
    }

    /// Bytes of device memory in use: allocations, physical memory, and what executable graphs cost.
    pub(super) fn used_bytes(&self) -> u64 {
        let graphs: u64 = self.executables.values().map(Executable::device_bytes).sum();
        self.memory.device_bytes() as u64 + self.virtual_memory.physical_bytes() + graphs
    }

    /// Answers `OUT_OF_MEMORY` where `bytes` more bytes do not fit the device, or an injection says so.
    pub(super) fn reserve(&self, bytes: u64) -> Answer {
        let needed = self.used_bytes().checked_add(bytes);
        if needed.is_some_and(|needed| needed <= self.options.memory_bytes) && injection::gives_memory(bytes) {
            Ok(())
        } else {
            Err(CUresult::ERROR_OUT_OF_MEMORY)
        }
    }
}

/// One step of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
pub(super) fn mix(seed: u64) -> u64 {
    let mut word = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

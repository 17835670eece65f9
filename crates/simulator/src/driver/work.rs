//! What a stream or a graph can hold, and how it is executed.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

use gridpoint_driver::{CUresult, CUstream};

use super::executables::{Image, ImageNode};
use super::state::{Id, State, handle};
use super::{Answer, IN_HOST_FUNCTION, kernels};
use crate::fault::{Access, Fault, Nearby, Reason, Space};
use crate::memory::POISON;
use crate::module::HostKernel;

/// One kernel launch with a copy of its parameters.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) function: Id,
    pub(super) kernel: &'static HostKernel,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    /// Blocks of a cluster; ones without clusters.
    pub(super) cluster: [u32; 3],
    pub(super) shared_bytes: u32,
    /// Whether the launch asked for programmatic stream serialisation: it may start before the kernel directly before it in its stream
    /// has ended. In a graph the edges say that, whatever this is.
    pub(super) programmatic: bool,
    /// The priority that the launch asked for, or that its stream had.
    pub(super) priority: i32,
    parameters: Box<[u64]>,
    /// The addresses of the parameters in `parameters`, as the array that `cuGraphKernelNodeGetParams` answers.
    addresses: Box<[usize]>,
}

impl Kernel {
    /// A launch of `kernel` with the parameter block whose bytes are in `parameters`; not programmatic, with priority 0.
    pub(super) fn new(
        (function, kernel): (Id, &'static HostKernel),
        (grid, block, cluster): ([u32; 3], [u32; 3], [u32; 3]),
        shared_bytes: u32,
        parameters: Box<[u64]>,
    ) -> Self {
        let start = parameters.as_ptr().expose_provenance();
        let addresses = kernel.parameters().map(|parameter| start + parameter.offset as usize).collect();
        let (programmatic, priority) = (false, 0);
        Self { function, kernel, grid, block, cluster, shared_bytes, programmatic, priority, parameters, addresses }
    }

    /// The same launch with parameters at other addresses.
    pub(super) fn duplicate(&self) -> Self {
        let Self { function, kernel, grid, block, cluster, shared_bytes, programmatic, priority, .. } = *self;
        let copy = Self::new((function, kernel), (grid, block, cluster), shared_bytes, self.parameters.clone());
        Self { programmatic, priority, ..copy }
    }

    /// The array of parameter addresses; lives as long as this does.
    pub(super) fn addresses(&self) -> *mut *mut c_void {
        self.addresses.as_ptr().cast_mut().cast()
    }

    /// The bytes of the parameters.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the words hold at least `parameter_bytes` initialised bytes (`launch::copy_parameters`).
        unsafe { std::slice::from_raw_parts(self.parameters.as_ptr().cast(), self.kernel.parameter_bytes() as usize) }
    }
}

/// Where a copy reads.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// An address in device memory, pinned memory or, in a graph, any host memory.
    Address(u64),
    /// Bytes of pageable memory, copied when the call was made.
    Staged(Arc<[u8]>),
}

/// One piece of work.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Nothing: an entry that only waits.
    Empty,
    /// A kernel launch.
    Kernel(Arc<Kernel>),
    /// A copy.
    Copy { to: u64, from: Source, bytes: usize },
    /// `count` elements of `width` bytes set to `value`.
    Fill { at: u64, value: u32, width: usize, count: usize },
    /// A host function (cuLaunchHostFunc).
    Host { function: unsafe extern "C" fn(*mut c_void), data: usize },
    /// A host function of the older kind (cuStreamAddCallback), with the handle of its stream.
    Callback { function: unsafe extern "C" fn(CUstream, CUresult, *mut c_void), stream: Id, data: usize },
    /// The completion of an event.
    Record(Id),
    /// In a graph: a wait for whatever the event marks when the graph is launched.
    Wait(Id),
    /// The return of memory (cuMemFreeAsync).
    Free(u64),
    /// A replay of a graph.
    Graph(Arc<Image>),
}

/// What has run of a graph and what may run next.
#[derive(Debug)]
pub(super) struct Replay {
    /// For each node, how many of its dependencies have not run.
    missing: Vec<usize>,
    ready: Vec<usize>,
    run: Vec<bool>,
}

impl Replay {
    pub(super) fn new(image: &Image) -> Self {
        let missing: Vec<usize> = image.nodes.iter().map(|node| node.dependencies.len()).collect();
        let ready = (0..missing.len()).filter(|&node| missing[node] == 0).collect();
        let run = vec![false; missing.len()];
        Self { missing, ready, run }
    }

    /// A node that may run, drawn among as many as the function is asked with, and those that may overlap it (see [`kernels::chain`]);
    /// none once all were taken.
    pub(super) fn take(&mut self, image: &Image, draw: impl FnOnce(usize) -> usize) -> Option<Vec<usize>> {
        if self.ready.is_empty() {
            return None;
        }
        let drawn = draw(self.ready.len());
        let first = self.ready.swap_remove(drawn);
        Some(kernels::chain(image, first, |before| self.run[before]))
    }

    /// Takes note that nodes ran.
    pub(super) fn done(&mut self, image: &Image, nodes: &[usize]) {
        for &node in nodes {
            self.run[node] = true;
            for &dependent in &image.nodes[node].dependents {
                self.missing[dependent] -= 1;
                if self.missing[dependent] == 0 && !nodes.contains(&dependent) {
                    self.ready.push(dependent);
                }
            }
        }
    }

    /// Whether every node was taken.
    pub(super) fn is_over(&self) -> bool {
        self.ready.is_empty()
    }
}

impl State {
    /// Runs `work`, which became number `sequence` when it was enqueued.
    pub(super) fn execute(&mut self, work: &Work, sequence: u64) -> Answer {
        match work {
            Work::Empty | Work::Wait(_) => Ok(()),
            Work::Kernel(kernel) => self.execute_kernels(std::slice::from_ref(kernel)),
            Work::Copy { to, from, bytes } => self.execute_copy(*to, from, *bytes),
            Work::Fill { at, value, width, count } => self.execute_fill(*at, *value, *width, *count),
            Work::Host { function, data } => {
                let data = std::ptr::with_exposed_provenance_mut(*data);
                // SAFETY: the contract of cuLaunchHostFunc: the function may be called with this data.
                in_host_function(|| unsafe { function(data) });
                Ok(())
            }
            Work::Callback { function, stream, data } => {
                let data = std::ptr::with_exposed_provenance_mut(*data);
                // SAFETY: the contract of cuStreamAddCallback: the function may be called with this data.
                in_host_function(|| unsafe { function(CUstream(handle(*stream)), CUresult::SUCCESS, data) });
                Ok(())
            }
            Work::Record(event) => {
                if let Some(event) = self.events.get_mut(event) {
                    event.complete(sequence, Instant::now());
                }
                Ok(())
            }
            Work::Free(address) => match self.memory.free(*address as usize, crate::memory::Kind::Device) {
                Some(Err(damaged)) => Err(self.fail_red_zone("cuMemFreeAsync", damaged)),
                Some(Ok(())) | None => Ok(()),
            },
            Work::Graph(image) => self.execute_graph(image, sequence),
        }
    }

    /// Runs the nodes in an order that their dependencies allow: as they were made, or, with a seed, any.
    fn execute_graph(&mut self, image: &Image, sequence: u64) -> Answer {
        if self.options.seed.is_none() {
            let mut node = 0;
            let mut run = vec![false; image.nodes.len()];
            while node < image.nodes.len() {
                if !run[node] {
                    let chain = kernels::chain(image, node, |before| run[before]);
                    self.execute_nodes(image, &chain, sequence)?;
                    chain.into_iter().for_each(|node| run[node] = true);
                }
                node += 1;
            }
            return Ok(());
        }
        let mut replay = Replay::new(image);
        while let Some(chain) = replay.take(image, |count| self.draw(count)) {
            self.execute_nodes(image, &chain, sequence)?;
            replay.done(image, &chain);
        }
        Ok(())
    }

    /// Runs one node of a launched graph, unless it is switched off.
    pub(super) fn execute_node(&mut self, node: &ImageNode, sequence: u64) -> Answer {
        if !node.enabled {
            return Ok(());
        }
        self.enter_graph(Some(sequence));
        let answer = self.execute(&node.work, sequence);
        self.enter_graph(None);
        answer
    }

    fn execute_copy(&mut self, to: u64, from_source: &Source, bytes: usize) -> Answer {
        let from = match from_source {
            Source::Staged(staged) => staged.as_ptr(),
            Source::Address(address) => {
                self.reachable("copy", Access::Read, *address, bytes)?;
                std::ptr::with_exposed_provenance(*address as usize)
            }
        };
        self.reachable("copy", Access::Write, to, bytes)?;
        let to = std::ptr::with_exposed_provenance_mut::<u8>(to as usize);
        // SAFETY: both sides are live allocations of ours, staged bytes, or host memory that the caller of an enqueued copy keeps
        // alive until it is done; overlap is allowed.
        unsafe { std::ptr::copy(from, to, bytes) };
        let from = if let Source::Address(address) = from_source { Some(*address as usize) } else { None };
        self.memory.copied(to.addr(), from, bytes);
        Ok(())
    }

    fn execute_fill(&mut self, at: u64, value: u32, width: usize, count: usize) -> Answer {
        self.reachable("memset", Access::Write, at, width * count)?;
        let pattern = value.to_ne_bytes();
        let start = std::ptr::with_exposed_provenance_mut::<u8>(at as usize);
        // SAFETY: the range is inside a live allocation of ours, which no kernel uses now.
        let target = unsafe { std::slice::from_raw_parts_mut(start, width * count) };
        // On a big-endian host the significant bytes of the word come last.
        let pattern = if cfg!(target_endian = "little") { &pattern[..width] } else { &pattern[4 - width..] };
        target.chunks_exact_mut(width).for_each(|element| element.copy_from_slice(pattern));
        if pattern.iter().all(|&byte| byte == POISON) {
            self.memory.unwritten(at as usize, width * count);
        } else {
            self.memory.written(at as usize, width * count);
        }
        Ok(())
    }

    /// Fails where `address` lies in an allocation that was freed after the work was enqueued, or reaches past the end of one. What
    /// lies in no allocation is host memory.
    fn reachable(&mut self, what: &str, access: Access, address: u64, bytes: usize) -> Answer {
        if bytes == 0 || self.memory.find(address as usize, bytes).is_some() {
            return Ok(());
        }
        let nearby = self.memory.snapshot().nearby(address as usize);
        let inside = match nearby {
            Nearby::Live { offset, bytes } => usize::try_from(offset).is_ok_and(|offset| offset < bytes),
            Nearby::Freed { .. } | Nearby::Reserved { .. } => true,
            Nearby::Nothing => false,
        };
        if !inside {
            return Ok(());
        }
        let reason = Reason::OutOfBounds {
            space: Space::Global,
            access,
            address,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            nearby,
        };
        Err(self.fail(Fault {
            kernel: what.to_owned(),
            block: [0; 3],
            thread: [0; 3],
            seed: None,
            reason,
            source: Vec::new(),
        }))
    }
}

/// Runs a function of the caller's that may not call the driver.
pub(super) fn in_host_function<T>(body: impl FnOnce() -> T) -> T {
    IN_HOST_FUNCTION.set(true);
    let answer = body();
    IN_HOST_FUNCTION.set(false);
    answer
}

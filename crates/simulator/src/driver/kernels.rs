//! How kernels are run: one, or a chain of which each may start before the one before it has ended.

use std::sync::{Arc, LazyLock};

use super::Answer;
use super::executables::Image;
use super::state::{Id, State};
use super::work::{Kernel, Work};
use crate::fault::Fault;
use crate::machine::{Guard, LaunchDescription, Residency, Schedule, run_chain};

impl State {
    /// Runs a kernel and those that are programmatically dependent, each on the one before it.
    pub(super) fn execute_kernels(&mut self, kernels: &[Arc<Kernel>]) -> Answer {
        let residency =
            Residency { multiprocessors: self.options.multiprocessors, blocks: self.options.resident_blocks };
        let guard = Guard { block_seconds: self.options.block_seconds, crashes: self.options.catch_crashes };
        let seeds: Vec<Option<u64>> = kernels.iter().map(|_| self.next_seed()).collect();
        let memory = self.memory.snapshot();
        let launches: Vec<LaunchDescription<'_>> = kernels
            .iter()
            .zip(seeds)
            .map(|(kernel, seed)| LaunchDescription {
                kernel: kernel.kernel,
                grid: kernel.grid,
                block: kernel.block,
                cluster: kernel.cluster,
                shared_bytes: kernel.shared_bytes,
                parameters: kernel.bytes(),
                memory: memory.clone(),
                schedule: seed.map_or(Schedule::RoundRobin, Schedule::Seeded),
                residency,
                detectors: self.options.detectors,
                guard,
                counters: self.recorder.clone(),
            })
            .collect();
        run_blocks(&launches).map_err(|fault| self.fail(*fault))?;
        if self.options.check_red_zones
            && let Some(damaged) = self.memory.damaged()
        {
            let names: Vec<&str> = kernels.iter().map(|kernel| kernel.kernel.name()).collect();
            return Err(self.fail_red_zone(&names.join("`, `"), damaged));
        }
        Ok(())
    }

    /// Runs a kernel that was taken from a stream, with the programmatic launches behind it, up to number `last`, that wait for nothing
    /// else.
    pub(super) fn execute_stream_kernels(&mut self, stream: Id, first: Arc<Kernel>, last: u64) -> Answer {
        let mut kernels = vec![first];
        while let Some(Work::Kernel(kernel)) = self.next_work(stream, last)
            && kernel.programmatic
        {
            kernels.push(kernel);
            if let Some(own) = self.streams.get_mut(&stream) {
                own.queue.pop_front();
            }
        }
        self.execute_kernels(&kernels)
    }

    /// Runs `nodes` of a graph, which are a chain: see [`chain`].
    pub(super) fn execute_nodes(&mut self, image: &Image, nodes: &[usize], sequence: u64) -> Answer {
        let kernel = |&node: &usize| match &image.nodes[node].work {
            Work::Kernel(kernel) => Some(Arc::clone(kernel)),
            _ => None,
        };
        match nodes {
            [node] => self.execute_node(&image.nodes[*node], sequence),
            _ => {
                self.enter_graph(Some(sequence));
                let answer = self.execute_kernels(&nodes.iter().filter_map(kernel).collect::<Vec<_>>());
                self.enter_graph(None);
                answer
            }
        }
    }
}

/// `first` and the kernels of a graph that may overlap it: each programmatically dependent on the one before it, and otherwise only on
/// nodes that have run. Nodes that are switched off are no part of it.
pub(super) fn chain(image: &Image, first: usize, has_run: impl Fn(usize) -> bool) -> Vec<usize> {
    let is_kernel = |node: usize| {
        let node = &image.nodes[node];
        node.enabled && matches!(node.work, Work::Kernel(_))
    };
    let mut chain = vec![first];
    let mut last = first;
    while is_kernel(last) {
        let follows = |&&node: &&usize| {
            is_kernel(node)
                && image.nodes[node]
                    .dependencies
                    .iter()
                    .all(|edge| if edge.from == last { edge.is_programmatic() } else { has_run(edge.from) })
        };
        let Some(&next) = image.nodes[last].dependents.iter().find(follows) else { break };
        chain.push(next);
        last = next;
    }
    chain
}

/// The threads that run blocks. They never call the driver, so that a kernel ends whatever the program's own threads wait for.
static BLOCKS: LazyLock<Option<rayon::ThreadPool>> = LazyLock::new(|| {
    rayon::ThreadPoolBuilder::new().thread_name(|index| format!("gridpoint-simulator-{index}")).build().ok()
});

/// Runs launches without lending this thread, which holds the device lock, to other work: a rayon worker that waits for rayon would
/// take up a job of the program, which could call the driver.
fn run_blocks(launches: &[LaunchDescription<'_>]) -> Result<(), Box<Fault>> {
    let alone = launches.iter().all(|launch| launch.grid == [1; 3]);
    let Some(pool) = BLOCKS.as_ref().filter(|_| !alone) else { return run_chain(launches) };
    if rayon::current_thread_index().is_none() {
        return pool.install(|| run_chain(launches));
    }
    let joined = std::thread::scope(|scope| scope.spawn(|| pool.install(|| run_chain(launches))).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

//! Launches as values.

use std::hash::{Hash, Hasher};

use gridpoint_driver::CUfunction;

use crate::{Field, Kernel, Parameters, RuntimeError, Stream};

/// One kernel launch: function, geometry and a copy of the parameter struct. Two launches are equal when a device could not tell them
/// apart.
#[derive(Clone)]
pub struct Launch {
    pub(crate) function: CUfunction,
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
    /// Blocks of a cluster, in x; 1 without clusters.
    pub(crate) cluster_blocks: u32,
    /// Whether it may begin before the launch in front of it has ended.
    pub(crate) programmatic: bool,
    /// The struct's bytes, in words so that they are aligned for any field.
    pub(crate) parameters: Box<[u64]>,
    name: &'static str,
    /// What the parameters are called: nothing that a device sees.
    pub(crate) fields: &'static [Field],
}

impl Launch {
    pub(crate) fn new<P: Parameters>(
        function: CUfunction,
        name: &'static str,
        blocks: u32,
        threads: u32,
        shared_bytes: u32,
        parameters: &P,
    ) -> Self {
        // The driver copies the bytes to where the kernel's alignment asks for them; only their source is aligned to eight.
        const { assert!(align_of::<P>() <= 64, "a parameter struct is aligned to at most 64 bytes") };
        let mut words = vec![0_u64; size_of::<P>().div_ceil(size_of::<u64>())].into_boxed_slice();
        // SAFETY: `words` holds at least the struct's bytes at sufficient alignment, and the two do not overlap. `P` has no padding by
        // the contract of `Parameters`, so all bytes written are initialised.
        unsafe {
            std::ptr::copy_nonoverlapping(
                std::ptr::from_ref(parameters).cast::<u8>(),
                words.as_mut_ptr().cast::<u8>(),
                size_of::<P>(),
            )
        };
        Self {
            function,
            blocks,
            threads,
            shared_bytes,
            cluster_blocks: 1,
            programmatic: false,
            parameters: words,
            name,
            fields: P::FIELDS,
        }
    }

    /// The same launch with clusters of `blocks` blocks in x, which divide the grid.
    pub fn with_clusters(self, blocks: u32) -> Self {
        Self { cluster_blocks: blocks, ..self }
    }

    /// The same launch, programmatically dependent on the one in front of it in its stream: it may begin once every block of that
    /// one has executed `griddepcontrol.launch_dependents` or has exited. The kernel must execute `griddepcontrol.wait` in every block,
    /// before it exits and before it touches what an earlier launch of the stream writes or reads (CUDA C++ Programming Guide,
    /// "Programmatic Dependent Launch and Synchronization"). Devices below compute capability 9.0 refuse such launches.
    pub fn programmatic(self) -> Self {
        Self { programmatic: true, ..self }
    }

    /// Whether it may begin before the launch in front of it has ended.
    pub fn is_programmatic(&self) -> bool {
        self.programmatic
    }

    /// The same launch with another word of 8 bytes in its parameters, for tests that plant a fault. A word beyond them changes nothing.
    #[doc(hidden)]
    pub fn with_parameter(mut self, word: usize, value: u64) -> Self {
        if let Some(parameter) = self.parameters.get_mut(word) {
            *parameter = value;
        }
        self
    }

    /// The kernel's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The bytes of the parameter struct, in words of 8, the last one filled up with zeros.
    pub fn parameters(&self) -> &[u64] {
        &self.parameters
    }

    /// Blocks of the grid.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// Blocks of a cluster; 1 without clusters.
    pub fn cluster_blocks(&self) -> u32 {
        self.cluster_blocks
    }

    /// Bytes of dynamic shared memory of a block.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }
}

impl PartialEq for Launch {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function
            && self.blocks == other.blocks
            && self.threads == other.threads
            && self.shared_bytes == other.shared_bytes
            && self.cluster_blocks == other.cluster_blocks
            && self.programmatic == other.programmatic
            && self.parameters == other.parameters
    }
}

impl Eq for Launch {}

impl Hash for Launch {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.hash(state);
        self.blocks.hash(state);
        self.threads.hash(state);
        self.shared_bytes.hash(state);
        self.cluster_blocks.hash(state);
        self.programmatic.hash(state);
        self.parameters.hash(state);
    }
}

impl std::fmt::Debug for Launch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}<<<{}, {}, {}>>>", self.name, self.blocks, self.threads, self.shared_bytes)?;
        if self.cluster_blocks != 1 {
            write!(formatter, " in clusters of {}", self.cluster_blocks)?;
        }
        if self.programmatic { formatter.write_str(" programmatic") } else { Ok(()) }
    }
}

/// The launches of one step, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Launches(Vec<Launch>);

impl FromIterator<Launch> for Launches {
    fn from_iter<I: IntoIterator<Item = Launch>>(launches: I) -> Self {
        Self(launches.into_iter().collect())
    }
}

impl Launches {
    /// No launches yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a launch of `kernel` with `blocks` blocks.
    pub fn push<P: Parameters>(&mut self, kernel: &Kernel<P>, blocks: u32, parameters: &P) {
        self.0.push(kernel.launch(blocks, parameters));
    }

    /// As [`Self::push`], in clusters of `cluster_blocks` blocks, which divide the grid.
    pub fn push_clusters<P: Parameters>(
        &mut self,
        kernel: &Kernel<P>,
        blocks: u32,
        cluster_blocks: u32,
        parameters: &P,
    ) {
        self.0.push(kernel.launch(blocks, parameters).with_clusters(cluster_blocks));
    }

    /// The same launches as a chain: each but the first is programmatically dependent on the one in front of it, see
    /// [`Launch::programmatic`]. The first depends wholly on all that the stream held before, copies among it.
    pub fn chained(mut self) -> Self {
        self.0.iter_mut().skip(1).for_each(|launch| launch.programmatic = true);
        self
    }

    /// Appends another list.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The first `count` of them, or all.
    pub fn prefix(&self, count: usize) -> Self {
        Self(self.0.iter().take(count).cloned().collect())
    }

    /// The launches.
    pub fn as_slice(&self) -> &[Launch] {
        &self.0
    }

    /// Launches them one by one on `stream`: an eager step, or, while the stream records, the nodes of a graph.
    ///
    /// # Errors
    /// The driver's error of the first launch that fails.
    pub fn launch(&self, stream: &Stream) -> Result<(), RuntimeError> {
        self.0.iter().try_for_each(|launch| stream.launch(launch))
    }
}

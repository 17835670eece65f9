//! A model in memory whose steps are put together by hand: any rows, at any point, replayed or launched one by one.

use std::fs;
use std::sync::Arc;

use gridpoint_graph::{
    GraphSet, Launched, LogitRequest, PointRecording, RequestKind, StepError, StepLayout, StepRing, Ticket,
};
use gridpoint_model::{
    Capacity, Checkpoint, ElementType, Kernels, KvCache, LaunchOrder, Model, ModelConfig, WeightStore, Weights,
    Workspace,
};
use gridpoint_plan::{GridPoint, Plan};
use gridpoint_runtime::{
    Arena, ArenaLayout, Device, Launches, RecordedEdge, Region, RuntimeError, StepAddress, Stream,
};
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use crate::support::{TestDevice, data};

/// A tensor's name, shape and bytes.
pub(crate) type Tensor = (String, Vec<usize>, Vec<u8>);

/// A model folder of the tests.
pub(crate) struct Folder {
    pub(crate) config: ModelConfig,
    pub(crate) checkpoint: Checkpoint,
}

impl Folder {
    /// Reads `tests/models/NAME` or `assets/NAME`.
    pub(crate) fn read(path: &str) -> Self {
        let folder = data(path);
        Self {
            config: ModelConfig::load(&folder).expect("the configuration is good"),
            checkpoint: Checkpoint::open(&folder).expect("the weights are there"),
        }
    }

    /// Writes a folder as those of Hugging Face, and reads it as any other.
    pub(crate) fn made(config: &Value, element: ElementType, tensors: &[Tensor]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("config.json"), config.to_string()).expect("the folder is ours");
        let dtype = match element {
            ElementType::BFloat16 => Dtype::BF16,
            ElementType::Float16 => Dtype::F16,
        };
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (name, TensorView::new(dtype, shape.clone(), bytes).expect("the bytes are those of the shape"))
        });
        safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors"))
            .expect("the file is ours");
        let config = ModelConfig::load(folder.path()).expect("the configuration is good");
        // The file stays mapped when its folder is gone.
        Self { config, checkpoint: Checkpoint::open(folder.path()).expect("the weights are there") }
    }

    /// [`Self::read`] with every weight cast from bfloat16 to float16, which changes none but those below 2^-17 and beyond 65504.
    pub(crate) fn read_as_float16(path: &str) -> Self {
        let read =
            |name: &str| fs::read(data(path).join(name)).unwrap_or_else(|error| panic!("{path}/{name}: {error}"));
        let mut config: Value = serde_json::from_slice(&read("config.json")).expect("JSON");
        config["dtype"] = "float16".into();
        let file = read("model.safetensors");
        let cast = |bytes: &[u8]| {
            let values = bytes.as_chunks().0.iter().map(|&pair| bf16::from_le_bytes(pair).to_f32());
            values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect()
        };
        let tensors = SafeTensors::deserialize(&file).expect("the weights are there");
        let tensors: Vec<Tensor> =
            tensors.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec(), cast(view.data()))).collect();
        Self::made(&config, ElementType::Float16, &tensors)
    }

    /// The weights, checked.
    pub(crate) fn weights(&self) -> Weights<'_> {
        Weights::new(&self.config, &self.checkpoint).expect("the weights are those of the configuration")
    }
}

/// One request's part of a step.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) kind: RequestKind,
    pub(crate) tokens: Vec<u32>,
    pub(crate) first_position: u32,
    pub(crate) pages: Vec<u32>,
}

/// What a step answered, as bits: logits of every logit row, then token and log-probability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) logits: Vec<Vec<u32>>,
    pub(crate) results: Vec<(i32, u32)>,
}

impl Answer {
    /// Fails with the first coordinate whose bits differ.
    pub(crate) fn assert_equals(&self, expected: &Self, what: &str) {
        assert_eq!(self.logits.len(), expected.logits.len(), "{what}: number of logit rows");
        for (row, (found, expected)) in self.logits.iter().zip(&expected.logits).enumerate() {
            for (column, (&found, &expected)) in found.iter().zip(expected).enumerate() {
                let (found_value, expected_value) = (f32::from_bits(found), f32::from_bits(expected));
                assert_eq!(found, expected, "{what}: logit row {row}, token {column}: {found_value}, {expected_value}");
            }
        }
        assert_eq!(self.results, expected.results, "{what}: results");
    }

    /// Fails where a logit is not finite.
    pub(crate) fn assert_finite(&self, what: &str) {
        for (row, logits) in self.logits.iter().enumerate() {
            let found = logits.iter().position(|&bits| !f32::from_bits(bits).is_finite());
            assert_eq!(found, None, "{what}: logit row {row} is not finite at this token");
        }
    }
}

/// How a step is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Launch {
    /// One launch of a point's graph.
    Replay(usize),
    /// The point's kernels one by one.
    Eager(usize),
    /// The kernels of a point that is not in the plan.
    Recorded(GridPoint),
}

/// Loads a model's kernels.
type LoadKernels = fn(&Device, ElementType, usize) -> Result<Kernels, RuntimeError>;

/// A captured plan that keeps the model's arenas.
pub(crate) type RigGraphs = GraphSet<[Arc<Arena>; 3]>;

/// A model, a captured plan, and the block between them.
pub(crate) struct Rig {
    stream: Stream,
    graphs: RigGraphs,
    ring: StepRing,
    pub(crate) model: Model,
    arena: Arc<Arena>,
    block: Region<u64>,
}

impl Rig {
    /// Captures `plan` for a model with `pages` pages of cache and steps of at most the plan's largest shape.
    pub(crate) fn new(device: &TestDevice, folder: &Folder, plan: &Plan, pages: u32, sequence_length: u32) -> Self {
        Self::in_order(device, folder, plan, (pages, sequence_length), None)
    }

    /// As [`Self::new`], with launches in an order that the device has.
    pub(crate) fn in_order(
        device: &TestDevice,
        folder: &Folder,
        plan: &Plan,
        (pages, sequence_length): (u32, u32),
        order: Option<LaunchOrder>,
    ) -> Self {
        Self::with_kernels(device, folder, plan, (pages, sequence_length), (Kernels::load, order))
    }

    /// As [`Self::new`], with the kernels that run on every device.
    pub(crate) fn portable(
        device: &TestDevice,
        folder: &Folder,
        plan: &Plan,
        (pages, sequence_length): (u32, u32),
    ) -> Self {
        Self::with_kernels(device, folder, plan, (pages, sequence_length), (Kernels::portable, None))
    }

    /// As [`Self::new`], with graphs of the launches that `record` gives for a point: those of the model, or others.
    pub(crate) fn captured_of(
        device: &TestDevice,
        folder: &Folder,
        plan: &Plan,
        sizes: (u32, u32),
        record: impl Fn(&Model, StepAddress, GridPoint) -> Result<Launches, RuntimeError>,
    ) -> Self {
        Self::made(device, folder, plan, sizes, (Kernels::load, None), record)
    }

    fn with_kernels(
        device: &TestDevice,
        folder: &Folder,
        plan: &Plan,
        sizes: (u32, u32),
        kernels: (LoadKernels, Option<LaunchOrder>),
    ) -> Self {
        Self::made(device, folder, plan, sizes, kernels, |model, step, point| model.record(point, step))
    }

    fn made(
        device: &TestDevice,
        folder: &Folder,
        plan: &Plan,
        (pages, sequence_length): (u32, u32),
        (load, order): (LoadKernels, Option<LaunchOrder>),
        record: impl Fn(&Model, StepAddress, GridPoint) -> Result<Launches, RuntimeError>,
    ) -> Self {
        let (device, config) = (device.device(), &folder.config);
        let largest = |count: fn(&GridPoint) -> u64| plan.points().iter().map(count).max().unwrap_or(1) as u32;
        let capacity = Capacity {
            tokens: largest(|point| u64::from(point.tokens)),
            requests: largest(GridPoint::requests),
            logit_rows: largest(GridPoint::requests),
            sequence_length,
            pages,
        };
        let weights = folder.weights();
        let mut layout = ArenaLayout::new();
        let store =
            WeightStore::reserve(&mut layout, config, weights.plan(), sequence_length).expect("sizes are small");
        let uploaded = Model::upload(device, config, &weights, &layout, &store).expect("the weights fit");
        let kernels = load(device, weights.element(), config.head_dim).expect("the kernels are there");
        let order = order.unwrap_or_else(|| LaunchOrder::best(device)).on(device).expect("the device has the order");
        let kernels = kernels.in_order(order);
        let mut layout = ArenaLayout::new();
        let workspace = Workspace::reserve(&mut layout, config, &kernels, capacity).expect("sizes are small");
        let point = GridPoint { tokens: capacity.tokens, prefills: capacity.requests, decodes: 0 };
        let words =
            StepLayout::new(point, capacity.logit_rows, capacity.pages_per_sequence()).expect("a block").bytes() / 8;
        let block = layout.reserve("step block", u64::from(words)).expect("sizes are small");
        let cache = KvCache::reserve(&mut layout, config, pages).expect("sizes are small");
        let arena = Arc::new(Arena::new(device, "the rig", &layout).expect("the memory is there"));
        let [run, cache_memory] = [(); 2].map(|()| Arc::clone(&arena));
        let model = Model::new(config.clone(), kernels, (uploaded, store), (run, workspace), (cache_memory, cache))
            .expect("the device works");
        let stream = Stream::new(device).expect("a stream");
        let ring = StepRing::new(&arena, block, capacity.logit_rows).expect("pinned memory");
        let record =
            |recording: &mut PointRecording<'_>, point| recording.launch(record(&model, ring.address(), point)?);
        let graphs = GraphSet::capture(plan, &stream, model.memory(), record).expect("the capture");
        Self { stream, graphs, ring, model, arena, block }
    }

    /// What a proof takes.
    pub(crate) fn parts(&mut self) -> (&mut RigGraphs, &Model, &mut StepRing, &Stream) {
        (&mut self.graphs, &self.model, &mut self.ring, &self.stream)
    }

    /// The launches of a point.
    pub(crate) fn recorded(&self, point: GridPoint) -> Launches {
        self.model.record(point, self.ring.address()).expect("the launches")
    }

    /// How many kernels the capture of a point has, and its edges.
    pub(crate) fn recorded_edges(&self, point: GridPoint) -> (usize, Vec<RecordedEdge>) {
        let launches = self.recorded(point);
        let recording = self.stream.record().expect("a capture");
        launches.launch(&self.stream).expect("the launches");
        (launches.as_slice().len(), recording.edges().expect("the edges"))
    }

    /// Fills the workspace and the device's step block with NaN, and the host's slots with another step, so that whatever reads
    /// what this step did not write shows.
    pub(crate) fn spoil(&mut self, filler: &[Row], point: GridPoint) {
        for _ in 0..gridpoint_graph::RING_SLOTS {
            let _ = self.run(Launch::Recorded(point), point, filler);
        }
        self.stream.synchronize().expect("the device works");
        self.model.poison_workspace().expect("the device works");
        self.arena.fill(self.block, 0xFF).expect("the device works");
    }

    /// Runs `rows` in the layout of `point`; every row's last token is sampled greedily.
    pub(crate) fn run(&mut self, launch: Launch, point: GridPoint, rows: &[Row]) -> Answer {
        let ticket = self.submit(launch, point, rows);
        let results = self.results(&ticket);
        Answer { logits: self.logits(rows.len()), results }
    }

    /// The first half of [`Self::run`]: the step is on its way, and waits for none before it that the ring has room for.
    pub(crate) fn submit(&mut self, launch: Launch, point: GridPoint, rows: &[Row]) -> Ticket {
        let columns = rows.iter().map(|row| row.pages.len() as u32).max().unwrap_or(0);
        let logit_rows = point.requests() as u32;
        let layout = StepLayout::new(point, logit_rows, columns).expect("a block");
        let packed = self
            .ring
            .pack(layout, |block| {
                for row in rows {
                    let first = block.push_request(row.kind, &row.tokens, row.first_position, &row.pages)?;
                    let position = row.first_position + row.tokens.len() as u32;
                    let sample = LogitRequest::Sample { temperature: 0.0, top_p: 1.0, top_k: 0, position, seed: 0 };
                    block.push_logits(first + row.tokens.len() as u32 - 1, sample)?;
                }
                Ok::<(), StepError>(())
            })
            .expect("the step fits the point");
        let Self { stream, graphs, ring, model, .. } = self;
        let address = ring.address();
        ring.submit(packed, stream, |stream| match launch {
            Launch::Replay(index) => {
                assert_eq!(graphs.replay(index, stream)?, Launched::Replay, "every graph is captured");
                Ok(())
            }
            Launch::Eager(index) => graphs.launch_eagerly(index, stream),
            Launch::Recorded(point) => model.record(point, address)?.launch(stream),
        })
        .expect("the launch")
    }

    /// Waits for a step: token and bits of the log-probability of every row.
    pub(crate) fn results(&self, ticket: &Ticket) -> Vec<(i32, u32)> {
        let results = self.ring.wait(ticket).expect("the step runs");
        results.iter().map(|one| (one.token, one.log_probability.to_bits())).collect()
    }

    /// Bits of the logits of the first `rows` rows of the step that ran last.
    pub(crate) fn logits(&self, rows: usize) -> Vec<Vec<u32>> {
        let bits = |row| self.model.logits(row).expect("a row").into_iter().map(f32::to_bits).collect();
        (0..rows as u32).map(bits).collect()
    }
}

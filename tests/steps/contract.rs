//! What a trainer in the same process may do with an engine: let it sleep, wake it, and give it other weights. The tokens after are those of
//! a fresh engine, and all that is wrong is said before anything changes.

use gridpoint_engine::{
    Engine, EngineError, EngineOptions, Event, InFlight, Memory, NewRequest, NotReady, RequestId, RequestStatus,
    SamplingParameters,
};
use gridpoint_model::{DeviceWeights, ElementType, GivenTensor};
use gridpoint_plan::{Limits, Policy, plan};
use gridpoint_runtime::{Arena, ArenaLayout, Region};

use super::rig::{Folder, Tensor};
use super::shapes::Shape;
use crate::support::{Case, TestDevice};

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("contract/sleep_does_not_show", sleep_does_not_show),
        Case::new("contract/weights_change_in_place", weights_change_in_place),
        Case::new("contract/float16_weights_change_in_place", float16_weights_change_in_place),
        Case::new("contract/requests_in_flight", requests_in_flight),
        Case::new("contract/what_is_wrong_is_said_first", what_is_wrong_is_said_first),
    ]
}

/// Steps of at most this many tokens, so that prompts are cut.
const TOKENS: u32 = 8;

fn engine(device: &TestDevice, folder: &Folder) -> Engine {
    let limits = Limits { max_requests: 3, max_tokens: TOKENS, ..Limits::default() };
    let plan = plan(&limits, &Policy::default()).expect("a plan");
    let options = EngineOptions {
        max_requests: 3,
        max_tokens: TOKENS,
        max_sequence_length: Some(256),
        kv_pages: Some(9),
        ..EngineOptions::default()
    };
    Engine::new(device.device(), &folder.config, &folder.weights(), &plan, &options, |_| {}).expect("an engine")
}

fn requests() -> Vec<NewRequest> {
    let sampling = SamplingParameters { temperature: 0.9, top_k: 40, top_p: 0.95, seed: 7 };
    let prompt = |index: u32, length: u32| (0..length).map(|i| (index * 97 + i * 31 + 5) % 250).collect();
    let request = |index, length, max_new_tokens| NewRequest {
        logprobs: true,
        sampling: if index % 2 == 0 { SamplingParameters::GREEDY } else { sampling },
        ..NewRequest::greedy(prompt(index, length), max_new_tokens)
    };
    vec![request(0, 5, 6), request(1, 12, 3), request(2, 18, 2), request(3, 3, 2)]
}

/// Tokens, and log-probabilities as bits, prompt first.
type Outcome = (Vec<u32>, Vec<u32>);

fn outcomes(engine: &mut Engine, ids: &[RequestId]) -> Vec<Outcome> {
    let outcome = |&id: &RequestId| {
        let finished = engine.take(id).expect("a result");
        let logprobs = finished.logprobs.expect("they were asked for");
        assert_eq!(logprobs.prompt.len(), finished.prompt.len(), "each token of the prompt is scored once");
        assert_eq!(logprobs.tokens.len(), finished.tokens.len(), "each token comes once");
        let bits = logprobs.prompt.into_iter().flatten().chain(logprobs.tokens).map(f32::to_bits).collect();
        (finished.tokens, bits)
    };
    ids.iter().map(outcome).collect()
}

/// Runs all requests; `between` is called in front of every step with its number.
fn run(engine: &mut Engine, mut between: impl FnMut(&mut Engine, usize)) -> Vec<Outcome> {
    let ids: Vec<RequestId> =
        requests().into_iter().map(|request| engine.add(request).expect("a good request")).collect();
    for step in 0.. {
        between(engine, step);
        if engine.step().expect("the step runs").is_none() {
            break;
        }
    }
    outcomes(engine, &ids)
}

fn fresh(device: &TestDevice, folder: &Folder) -> Vec<Outcome> {
    run(&mut engine(device, folder), |_, _| ())
}

/// Whatever runs when the cache is lost (prompts cut in the middle, decodes, requests that were lost before): the same bits come.
fn sleep_does_not_show(device: &TestDevice) {
    let folder = Shape::default().folder();
    let expected = fresh(device, &folder);
    let mut engine = engine(device, &folder);
    let sleepy = run(&mut engine, |engine, step| {
        if [1, 3, 4, 7].contains(&step) {
            let report = engine.sleep(Memory::KvCache).expect("it sleeps");
            assert_eq!(report.released, engine.memory().kv_cache);
            assert!(report.requeued > 0);
            assert_eq!(engine.asleep(), Some(Memory::KvCache));
            let refused = engine.step().map(drop).expect_err("there is no cache");
            assert!(
                matches!(refused, EngineError::NotReady(NotReady::Asleep { memory: Memory::KvCache })),
                "{refused}"
            );
            assert_eq!(engine.wake(Memory::Both).expect("it wakes"), report.released);
        }
    });
    assert_eq!(sleepy, expected);

    // Weights too: they are lost until somebody brings them.
    let both = engine.memory().kv_cache + engine.memory().weights;
    assert_eq!(engine.sleep(Memory::Both).expect("it sleeps").released, both);
    assert_eq!(engine.sleep(Memory::Both).expect("it sleeps already").released, 0);
    let refused = engine.update_weights(&folder.weights(), InFlight::Refuse).expect_err("there is no memory");
    assert!(matches!(refused, EngineError::NotReady(NotReady::Asleep { memory: Memory::Weights })), "{refused}");
    assert_eq!(engine.wake(Memory::Weights).expect("it wakes"), engine.memory().weights);
    assert_eq!(engine.ready(), Err(NotReady::Asleep { memory: Memory::KvCache }));
    engine.wake(Memory::KvCache).expect("it wakes");
    assert_eq!(engine.ready(), Err(NotReady::WeightsLost));
    let id = engine.add(NewRequest::greedy(vec![1], 1)).expect("requests may come meanwhile");
    assert!(matches!(engine.step(), Err(EngineError::NotReady(NotReady::WeightsLost))));
    assert!(engine.cancel(id));
    engine.update_weights(&folder.weights(), InFlight::Refuse).expect("the weights are good");
    assert_eq!(run(&mut engine, |_, _| ()), expected);
}

/// A trainer's tensors on the device.
struct Trainer {
    arena: Arena,
    regions: Vec<Region<u8>>,
    tensors: Vec<Tensor>,
    element: ElementType,
}

impl Trainer {
    fn new(device: &TestDevice, element: ElementType, tensors: Vec<Tensor>) -> Self {
        let mut layout = ArenaLayout::new();
        let regions: Vec<Region<u8>> = tensors
            .iter()
            .map(|(_, _, bytes)| layout.reserve("a trainer's tensor", bytes.len() as u64).expect("sizes are small"))
            .collect();
        let arena = Arena::new(device.device(), "a trainer's tensors", &layout).expect("the memory is there");
        for (&region, (_, _, bytes)) in regions.iter().zip(&tensors) {
            arena.upload(region, 0, bytes).expect("the device works");
        }
        Self { arena, regions, tensors, element }
    }

    fn given(&self) -> Vec<GivenTensor<'_>> {
        let given = |(&region, (name, shape, _)): (&Region<u8>, &Tensor)| GivenTensor {
            name: name.clone(),
            shape: shape.clone(),
            element: self.element,
            bytes: self.arena.bytes_of(region).expect("the memory is there"),
        };
        self.regions.iter().zip(&self.tensors).map(given).collect()
    }
}

fn check_update(device: &TestDevice, shape: &Shape) {
    let other = Shape { seed: shape.seed + 100, ..shape.clone() };
    let (first, second) = (shape.folder(), other.folder());
    let mut engine = engine(device, &first);
    let expected = [run(&mut engine, |_, _| ()), fresh(device, &second)];
    assert_ne!(expected[0], expected[1], "the weights differ, or this shows nothing");

    let report = engine.update_weights(&second.weights(), InFlight::Refuse).expect("the weights are good");
    let bytes = second.weights().plan().bytes();
    assert_eq!((report.bytes.written(), report.bytes.to_host, report.requeued), (bytes, 0, 0));
    assert_eq!(run(&mut engine, |_, _| ()), expected[1], "from a folder");

    let trainer = Trainer::new(device, shape.element, shape.tensors());
    let weights = DeviceWeights::new(&first.config, trainer.given()).expect("the tensors are the model's");
    let report = engine.update_weights(&weights, InFlight::Refuse).expect("the weights are good");
    assert_eq!(report.bytes.written(), bytes);
    assert_eq!(run(&mut engine, |_, _| ()), expected[0], "from the device");

    // With everything that was there given back in between.
    engine.sleep(Memory::Both).expect("it sleeps");
    engine.wake(Memory::Weights).expect("it wakes");
    let trainer = Trainer::new(device, shape.element, other.tensors());
    let weights = DeviceWeights::new(&first.config, trainer.given()).expect("the tensors are the model's");
    engine.update_weights(&weights, InFlight::Refuse).expect("the weights are good");
    engine.wake(Memory::KvCache).expect("it wakes");
    assert_eq!(run(&mut engine, |_, _| ()), expected[1], "from the device, after a sleep");
}

fn weights_change_in_place(device: &TestDevice) {
    check_update(device, &Shape { tied: true, ..Shape::default() });
}

fn float16_weights_change_in_place(device: &TestDevice) {
    check_update(device, &Shape { element: ElementType::Float16, bias: true, heads: 3, layers: 1, ..Shape::default() });
}

/// Requests that run when the weights change: refused, computed again, or continued knowingly.
fn requests_in_flight(device: &TestDevice) {
    let shape = Shape::default();
    let (first, second) = (shape.folder(), Shape { seed: 100, ..shape }.folder());
    let prompt: Vec<u32> = (0..20).collect();
    let start = |engine: &mut Engine| {
        let id = engine.add(NewRequest::greedy(prompt.clone(), 10)).expect("a good request");
        let mut tokens = 0;
        while tokens < 4 {
            let events = engine.step().expect("the step runs").expect("the request runs").events;
            tokens += events.iter().filter(|event| matches!(event, Event::Token { .. })).count();
        }
        id
    };
    let finish = |engine: &mut Engine, id| {
        while engine.step().expect("the step runs").is_some() {}
        engine.take(id).expect("a result").tokens
    };
    let mut engine = engine(device, &first);
    let id = start(&mut engine);
    let refused = engine.update_weights(&second.weights(), InFlight::Refuse).expect_err("a request runs");
    assert!(matches!(refused, EngineError::RequestsRunning { running: 1 }), "{refused}");
    assert!(refused.to_string().starts_with("`1` requests are running"), "{refused}");

    let report = engine.update_weights(&second.weights(), InFlight::Recompute).expect("the weights are good");
    assert_eq!((report.requeued, engine.status(id)), (1, Some(RequestStatus::Waiting)));
    let recomputed = finish(&mut engine, id);
    let (kept, new) = recomputed.split_at(4);
    let mut engine = self::engine(device, &second);
    let id = engine.add(NewRequest::greedy([&prompt[..], kept].concat(), 6)).expect("a good request");
    assert_eq!(finish(&mut engine, id), new, "the second weights continue what the first ones began");

    engine.update_weights(&first.weights(), InFlight::Refuse).expect("nothing runs");
    let id = start(&mut engine);
    let report = engine.update_weights(&second.weights(), InFlight::KeepStale).expect("the weights are good");
    assert_eq!((report.requeued, engine.status(id)), (0, Some(RequestStatus::Running)));
    let stale = finish(&mut engine, id);
    assert_eq!((stale.len(), &stale[..4]), (10, kept));
    // Not a number of keys and values was computed by the second weights: that shows.
    assert_ne!(&stale[4..], new, "stale keys and values, or this shows nothing");
}

/// Every mismatch is a sentence, and the engine answers as before.
fn what_is_wrong_is_said_first(device: &TestDevice) {
    let shape = Shape::default();
    let folder = shape.folder();
    let mut engine = engine(device, &folder);
    let expected = run(&mut engine, |_, _| ());
    for (other, says) in [
        (
            Shape { hidden: 192, heads: 3, ..shape.clone() },
            "the new weights have the device tensor `model.embed_tokens [259, 192]`",
        ),
        (Shape { layers: 1, ..shape.clone() }, "the new weights have the device tensor `model.norm [1, 128]`"),
        (Shape { tied: true, ..shape.clone() }, "the new weights have the device tensor `no tensor`"),
        (Shape { element: ElementType::Float16, ..shape.clone() }, "the new weights have the type `float16`"),
        (Shape { heads: 1, kv_heads: 1, head_dim: 128, ..shape.clone() }, "the new weights have"),
    ] {
        let error = engine.update_weights(&other.folder().weights(), InFlight::Refuse).expect_err("another model");
        assert!(error.to_string().starts_with(says), "{error}");
        assert_eq!(engine.ready(), Ok(()));
    }
    let trainer = Trainer::new(device, shape.element, Shape { seed: 9, ..shape }.tensors());
    type Spoil = fn(&mut Vec<GivenTensor<'_>>);
    let spoilt: [(Spoil, &str); 5] = [
        (
            |tensors| drop(tensors.remove(1)),
            "`tensors on the device` has no tensor `model.layers.0.input_layernorm.weight`",
        ),
        (
            |tensors| tensors.push(tensors[2].clone()),
            "`tensors on the device`: tensor `model.layers.0.self_attn.q_proj.weight` was given twice",
        ),
        (|tensors| tensors[2].shape.reverse(), ""),
        (
            |tensors| tensors[0].shape = vec![1, 259, 128],
            "`tensors on the device`: tensor `model.embed_tokens.weight` has shape [1, 259, 128]",
        ),
        (
            |tensors| tensors[3].shape[0] += 1,
            "`tensors on the device`: tensor `model.layers.0.self_attn.k_proj.weight` of shape [65, 128] has `16384` bytes",
        ),
    ];
    for (spoil, says) in spoilt {
        let mut tensors = trainer.given();
        spoil(&mut tensors);
        match DeviceWeights::new(&folder.config, tensors) {
            Ok(_) => assert!(says.is_empty(), "expected: {says}"),
            Err(error) => assert!(!says.is_empty() && error.to_string().starts_with(says), "{error}"),
        }
    }
    let mut mixed = trainer.given();
    mixed[4].element = ElementType::Float16;
    let error = DeviceWeights::new(&folder.config, mixed).expect_err("two types").to_string();
    assert!(error.contains("`dtype of model.layers.0.self_attn.v_proj.weight` is `F16`"), "{error}");
    assert_eq!(run(&mut engine, |_, _| ()), expected, "nothing was written");
}

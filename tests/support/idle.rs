//! An engine on a device that does nothing: what a step costs then is what the host spends on it.
#![allow(dead_code, reason = "each target uses some of it")]

use std::ffi::c_void;
use std::path::Path;
use std::sync::Arc;

use gridpoint::kernels;
use gridpoint_driver::{CUdeviceptr, CUevent, CUgraphExec, CUresult, CUstream};
use gridpoint_engine::{Engine, EngineOptions, NewRequest};
use gridpoint_model::{Checkpoint, ModelConfig, Weights};
use gridpoint_plan::{Limits, Plan, Policy, TokenCeiling, plan};
use gridpoint_runtime::Device;
use gridpoint_simulator::Options;

/// Tokens in the cache of a request: nine pages.
pub(crate) const CONTEXT: usize = 520;
/// Tokens that a request has after its prompt.
pub(crate) const NEW_TOKENS: u32 = 400;

extern "C" fn launch(_: CUgraphExec, _: CUstream) -> CUresult {
    CUresult::SUCCESS
}

extern "C" fn copy(_: CUdeviceptr, _: *const c_void, _: usize, _: CUstream) -> CUresult {
    CUresult::SUCCESS
}

extern "C" fn record(_: CUevent, _: CUstream) -> CUresult {
    CUresult::SUCCESS
}

extern "C" fn wait(_: CUevent) -> CUresult {
    CUresult::SUCCESS
}

extern "C" fn elapsed(_: *mut f32, _: CUevent, _: CUevent) -> CUresult {
    CUresult::SUCCESS
}

/// The simulated device, of which the calls of a step do nothing: results are zeros, which is token 0.
pub(crate) fn open() -> Arc<Device> {
    let options = Options { memory_bytes: 64 << 30, ..Options::default() };
    let mut table = gridpoint_simulator::table(options, &kernels::host_modules());
    table.cuGraphLaunch = launch;
    table.cuMemcpyHtoDAsync_v2 = copy;
    table.cuEventRecord = record;
    table.cuEventSynchronize = wait;
    table.cuEventElapsedTime = elapsed;
    gridpoint_driver::install(table).expect("nobody used the driver before");
    Device::open(0, &kernels::simulated_images()).expect("the simulated device")
}

/// A small model, read once.
pub(crate) struct Served {
    device: Arc<Device>,
    config: ModelConfig,
    checkpoint: Checkpoint,
}

impl Served {
    /// Requests have prompts of at most `context` tokens.
    pub(crate) fn new(device: &Arc<Device>, context: usize) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/llama-gqa");
        let mut config = ModelConfig::load(&folder).expect("the configuration is good");
        config.max_position_embeddings = context + NEW_TOKENS as usize;
        let checkpoint = Checkpoint::open(&folder).expect("the weights are there");
        Self { device: Arc::clone(device), config, checkpoint }
    }

    /// An engine in which so many requests like `request` decode.
    pub(crate) fn decoding(&self, requests: u32, request: &NewRequest) -> Engine {
        self.decoding_within((requests, 16_384), requests, request)
    }

    /// The same with slots for `max_requests` requests and steps of at most `max_tokens` tokens.
    pub(crate) fn decoding_within(
        &self,
        (max_requests, max_tokens): (u32, u32),
        requests: u32,
        request: &NewRequest,
    ) -> Engine {
        let weights = Weights::new(&self.config, &self.checkpoint).expect("the weights are those of the configuration");
        let pages = self.config.max_position_embeddings.div_ceil(64) as u32;
        let options = EngineOptions {
            max_requests,
            max_tokens,
            kv_pages: Some(max_requests * pages + 1),
            ..EngineOptions::default()
        };
        let plan = plan_for(max_requests, max_tokens);
        let mut engine = Engine::new(&self.device, &self.config, &weights, &plan, &options, |_| {}).expect("an engine");
        for _ in 0..requests {
            engine.add(request.clone()).expect("a request");
        }
        while engine.step().expect("a step").expect("requests are left").report.shape.decodes < requests {}
        engine
    }
}

fn plan_for(max_requests: u32, max_tokens: u32) -> Plan {
    let limits = Limits { max_requests, max_tokens, ..Limits::default() };
    let policy = Policy { token_ceiling: TokenCeiling::AllPrefills, ..Policy::default() };
    plan(&limits, &policy).expect("a plan")
}

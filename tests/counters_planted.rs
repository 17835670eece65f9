//! A waste put into a real kernel (build/planted.rs) is over the budget of tests/counters.rs. A process has one device, so it has one of its
//! own.

use gridpoint::counted::{CountedShape, count_step};
use gridpoint::kernels;
use gridpoint_model::{Checkpoint, ModelConfig, Weights};
use gridpoint_plan::{GridPoint, StepShape};
use gridpoint_runtime::Device;
use gridpoint_simulator::Options;

#[test]
fn a_norm_that_reads_twice_asks_for_more_than_its_tiling_needs() {
    let modules = kernels::planted_modules("norm_reads_twice").expect("the plant is there");
    gridpoint_simulator::install(Options::default(), &modules).expect("the first use of the driver");
    let device = Device::open(0, &kernels::simulated_images()).expect("the simulated device");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/llama-gqa");
    let config = ModelConfig::load(&folder).expect("the configuration is good");
    let checkpoint = Checkpoint::open(&folder).expect("the weights are there");
    let weights = Weights::new(&config, &checkpoint).expect("the weights are those of the configuration");
    let point = GridPoint { tokens: 16, prefills: 0, decodes: 16 };
    let real = StepShape { tokens: 16, prefills: 0, decodes: 16 };
    let step = count_step(&device, &config, &weights, &CountedShape { point, real, context: 10 }).expect("a step");
    for kernel in step.kernels() {
        let (read, need) = (kernel.counts.read, kernel.read);
        if kernel.kernel == "rms_norm" {
            // Each row's input once more.
            let input = 16 * config.hidden_size as u64 * 2 * kernel.launches;
            assert!(read.distinct as f64 <= 1.05 * need.least as f64, "the same bytes");
            assert!(read.total >= need.tiled + input, "{} bytes asked for, {} needed", read.total, need.tiled);
            assert!(read.total as f64 > 1.01 * need.tiled as f64, "over the budget");
        } else {
            assert!(read.total as f64 <= 1.01 * need.tiled as f64, "`{}`", kernel.kernel);
        }
    }
}

//! GPUs that the kernels do not run on, beside others that they do: the program meets a driver library that reports some and can do nothing
//! else.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::Command;

use crate::program::{GQA, Ran, refuses};

/// `libcuda.so.1` with devices of these compute capabilities, named `card 0` and on, and an error of its own for each whose context is
/// asked for.
const DRIVER: &str = r#"
#include <stdio.h>
#include <string.h>
static const int capabilities[][2] = {CAPABILITIES};
int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDriverGetVersion(int* version) { *version = 99000; return 0; }
int cuDeviceGetCount(int* count) { *count = sizeof(capabilities) / sizeof(capabilities[0]); return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char* name, int length, int device) { snprintf(name, length, "card %d", device); return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)1 << 34; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? capabilities[device][0] : attribute == 76 ? capabilities[device][1] : 16;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) { return device == 1 ? 2 : 999; }
"#;

/// Runs the program beside such a driver.
fn beside(capabilities: &str, arguments: &[&str]) -> Ran {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("driver.c");
    fs::write(&source, DRIVER.replace("CAPABILITIES", capabilities)).expect("written");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let library = folder.path().join("libcuda.so.1");
    let compiled = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    let compiled = compiled.expect("the compiler that the kernels need is there");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    Ran::beside(folder.path(), arguments)
}

fn generate(device: &str) -> [&str; 9] {
    ["generate", "--device", device, "--model", GQA, "--prompt-ids", "1", "--max-new-tokens", "1"]
}

#[test]
fn a_gpu_below_8_0_is_refused_in_a_sentence() {
    let line = "`card 0` has compute capability 7.5; the kernels need 8.0 or newer";
    refuses(&beside("{7, 5}", &generate("cuda")), 1, line);
    refuses(&beside("{7, 5}, {7, 0}", &generate("cuda")), 1, line);
    let text = "assets/shakespeare-3m/eval.txt";
    refuses(&beside("{7, 5}", &["perplexity", "--device", "cuda", "--text", text]), 1, line);
}

#[test]
fn auto_leaves_gpus_alone_that_it_cannot_use() {
    let ran = beside("{7, 5}", &generate("auto"));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let reason = "the driver reports 1 device(s), none of compute capability 8.0 or newer";
    assert!(ran.stderr.contains(&format!("running on the simulated device: {reason}")), "{ran:?}");
    let answer = beside("{7, 5}", &["devices", "--format", "json"]).json();
    assert_eq!(answer["auto"], serde_json::json!({"device": "simulator", "reason": reason}));
    assert_eq!(answer["gpus"][0]["compute_capability"], "7.5");
}

#[test]
fn the_usable_gpu_is_taken_also_where_it_is_not_the_first() {
    let answer = beside("{7, 5}, {8, 6}, {9, 0}", &["devices", "--format", "json"]).json();
    assert_eq!(answer["auto"]["device"], "cuda");
    assert_eq!(
        answer["auto"]["reason"],
        "the driver reports 3 device(s), of which 1 is the first of compute capability 8.0 or newer, counted from 0"
    );
    for device in ["auto", "cuda"] {
        let ran = beside("{7, 5}, {8, 6}, {9, 0}", &generate(device));
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        // The driver has no context to give: what it says then is of card 1.
        let card = if gridpoint::kernels::HAVE_KERNELS { "CUDA_ERROR_OUT_OF_MEMORY" } else { "card 1" };
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(card), "{ran:?}");
    }
}

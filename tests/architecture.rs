//! The house stands as docs/architecture.md draws it: arrows between crates, where unsafe code lives, who reads the environment,
//! what a kernel may say.

mod house;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use house::{code, files, read, uses};

/// Which workspace crates a crate may name in its `[dependencies]`.
const ARROWS: [(&str, &[&str]); 11] = [
    ("gridpoint-plan", &[]),
    ("gridpoint-driver", &[]),
    ("gridpoint-simulator", &["gridpoint-driver"]),
    ("gridpoint-simulator-build", &[]),
    ("gridpoint-simulator-example", &["gridpoint-simulator", "gridpoint-simulator-build"]),
    ("gridpoint-runtime", &["gridpoint-driver"]),
    ("gridpoint-graph", &["gridpoint-plan", "gridpoint-runtime"]),
    ("gridpoint-model", &["gridpoint-plan", "gridpoint-runtime"]),
    // The runtime's device, arena and streams pass through the engine; addresses do not: see the test of that below.
    ("gridpoint-engine", &["gridpoint-plan", "gridpoint-graph", "gridpoint-model", "gridpoint-runtime"]),
    (
        "gridpoint",
        &[
            "gridpoint-plan",
            "gridpoint-driver",
            "gridpoint-simulator",
            // Of the build script: how a host compiler is to take kernels.
            "gridpoint-simulator-build",
            "gridpoint-runtime",
            "gridpoint-graph",
            "gridpoint-model",
            "gridpoint-engine",
        ],
    ),
    (
        "gridpoint-examples",
        &[
            "gridpoint",
            "gridpoint-plan",
            "gridpoint-driver",
            "gridpoint-simulator",
            // Of the build script.
            "gridpoint-simulator-build",
            "gridpoint-runtime",
            "gridpoint-graph",
            "gridpoint-model",
            "gridpoint-engine",
        ],
    ),
];

/// Where unsafe code may stand: folders and files.
const UNSAFE_ROOMS: [&str; 7] = [
    "examples/",
    "crates/driver/",
    "crates/simulator/",
    "crates/runtime/",
    "crates/model/src/mmap.rs",
    "src/kernels.rs",
    "tests/support/allocations.rs",
];

/// Crates whose lint tables differ from the workspace's in `unsafe_code`, and in nothing else.
const OWN_LINTS: [&str; 7] = [
    "Cargo.toml",
    "crates/driver/Cargo.toml",
    "crates/model/Cargo.toml",
    "crates/runtime/Cargo.toml",
    "crates/simulator/Cargo.toml",
    "crates/simulator/example/Cargo.toml",
    "examples/embedding/Cargo.toml",
];

/// What no kernel says, and why.
const NOT_IN_KERNELS: [(&[&str], &str); 7] = [
    (&["asm", "__asm__"], "instructions stand in ptx.cuh, which the simulated device replaces"),
    (&["__restrict__", "__restrict", "__ldg"], "nvcc may then delete a re-read after griddepcontrol.wait"),
    (&["__shared__", "__constant__", "__device__"], "a host build would share it between blocks"),
    (&["volatile"], "threads meet at barriers and wrapped atomics"),
    (&["__activemask", "__syncthreads", "__syncwarp"], "collectives are wrapped and take explicit masks"),
    (&["threadIdx", "blockIdx", "blockDim", "gridDim"], "identity is asked of the wrappers"),
    (&["printf", "new", "delete", "throw", "thread_local"], "a kernel has neither output nor a heap"),
];

#[test]
fn crates_depend_on_each_other_as_drawn() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(house::root())
        .output()
        .expect("cargo runs");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    let name = |value: &serde_json::Value| value["name"].as_str().expect("a name is a string").to_owned();
    let workspace: BTreeSet<String> = packages.iter().map(name).collect();
    let drawn: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    assert_eq!(workspace, drawn.keys().map(|name| (*name).to_owned()).collect(), "the crates of the workspace");
    for package in packages {
        let from = name(package);
        for dependency in package["dependencies"].as_array().expect("there are dependencies") {
            let to = name(dependency);
            // What a test uses is no arrow.
            if workspace.contains(&to) && dependency["kind"].as_str() != Some("dev") {
                assert!(drawn[from.as_str()].contains(&to.as_str()), "`{from}` depends on `{to}`");
            }
        }
    }
}

#[test]
fn the_engine_sees_no_device_pointer() {
    let words = ["*const", "*mut", "CUdeviceptr", "pointer", "device_address"];
    let found: Vec<String> =
        files("crates/engine/src", &["rs"]).iter().flat_map(|path| uses(path, &read(path), &words)).collect();
    assert!(found.is_empty(), "device addresses in the engine:\n{}", found.join("\n"));
}

#[test]
fn unsafe_code_stands_in_its_rooms() {
    let mut outside = Vec::new();
    for folder in ["crates", "src", "tests", "build"] {
        for path in files(folder, &["rs"]) {
            if !UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)) {
                outside.extend(uses(&path, &read(&path), &["unsafe"]));
            }
        }
    }
    assert!(outside.is_empty(), "unsafe code outside its rooms:\n{}", outside.join("\n"));
}

#[test]
fn there_is_one_lint_table() {
    let workspace = lints(&read("Cargo.toml"), "[workspace.lints.");
    assert_eq!(workspace.get("rust.unsafe_code").map(String::as_str), Some("\"forbid\""));
    for path in files("crates", &["toml"]).into_iter().chain(["Cargo.toml".to_owned()]) {
        let text = read(&path);
        let mut own = lints(&text, "[lints.");
        if own.is_empty() {
            assert!(text.contains("[lints]\nworkspace = true"), "`{path}` has no lints");
            continue;
        }
        assert!(OWN_LINTS.contains(&path.as_str()), "`{path}` has a lint table of its own");
        own.insert("rust.unsafe_code".to_owned(), "\"forbid\"".to_owned());
        assert_eq!(own, workspace, "`{path}` differs from the workspace in more than `unsafe_code`");
    }
}

/// The entries of all sections whose header begins so, as `rust.missing_docs`.
fn lints(manifest: &str, header: &str) -> BTreeMap<String, String> {
    let mut section = None;
    let mut entries = BTreeMap::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.strip_prefix(header).and_then(|rest| rest.strip_suffix(']'));
        } else if let (Some(section), Some((key, value))) = (section, line.split_once(" = ")) {
            entries.insert(format!("{section}.{key}"), value.to_owned());
        }
    }
    entries
}

#[test]
fn no_crate_reads_the_environment_or_arguments() {
    let readers = ["env::var", "env::var_os", "env::vars", "env::vars_os", "env::args", "env::args_os", "getenv"];
    let mut found = Vec::new();
    for path in files("crates", &["rs"]) {
        // The simulated device's schedules are drawn from a seed that may be set.
        if path.contains("/src/") && !path.starts_with("crates/simulator/") {
            found.extend(uses(&path, &read(&path), &readers));
        }
    }
    assert!(found.is_empty(), "only the program reads the environment:\n{}", found.join("\n"));
}

/// A forgotten `mod` is a test that never runs.
#[test]
fn every_test_file_is_compiled() {
    let all: Vec<String> = ["tests", "crates"].iter().flat_map(|folder| files(folder, &["rs"])).collect();
    let tests: Vec<&String> =
        all.iter().filter(|path| path.starts_with("tests/") || path.contains("/tests/")).collect();
    assert!(tests.iter().any(|path| *path == "tests/architecture.rs"), "{tests:?}");
    let mut lost = Vec::new();
    for path in &tests {
        let (folder, file) = path.rsplit_once('/').expect("a test lies in a folder");
        // Cargo finds a file of a package's `tests`, and a `main.rs` one folder below.
        let is_target = folder.ends_with("tests")
            || (file == "main.rs" && folder.rsplit_once('/').is_some_and(|(above, _)| above.ends_with("tests")));
        let name =
            if file == "mod.rs" { folder.rsplit('/').next().unwrap_or(folder) } else { file.trim_end_matches(".rs") };
        let home = if file == "mod.rs" { folder.rsplit_once('/').map_or("", |(above, _)| above) } else { folder };
        // Whoever declares it lies beside it, above it, or names its path.
        let declares = |other: &&&String| {
            other.starts_with(home.rsplit_once('/').map_or(home, |(above, _)| above))
                && code(&read(other)).contains(&format!("mod {name};"))
        };
        if !is_target && !tests.iter().any(|other| declares(&other)) {
            lost.push(path);
        }
    }
    assert!(lost.is_empty(), "nothing declares {lost:?}: their tests never run");
}

/// `a_{b,c}_d` as `a_b_d`, `a_c_d`.
fn expanded(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (choices, after) = rest.split_once('}').unwrap_or_else(|| panic!("`{pattern}` opens a brace and closes none"));
    let tails = expanded(after);
    choices.split(',').flat_map(|choice| tails.iter().map(move |tail| format!("{before}{choice}{tail}"))).collect()
}

#[test]
fn the_list_of_kernels_is_the_kernels() {
    let list = read("kernels/README.md");
    let mut listed = BTreeSet::new();
    for line in list.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, kernels, file, parameters, _, test, _] = cells.as_slice() else { panic!("`{line}` has other cells") };
        assert!(
            read("kernels/parameters.h").contains(&format!("}} {parameters};")),
            "there is no struct `{parameters}`"
        );
        assert!(house::root().join(test).is_file(), "there is no `{test}`");
        let module = file.trim_end_matches(".cu");
        listed.extend(expanded(kernels).into_iter().map(|kernel| (module.to_owned(), kernel)));
    }
    let built = gridpoint::kernels::modules().iter().flat_map(|module| {
        module.host.kernels().iter().map(|kernel| (module.name.to_owned(), kernel.name().to_owned()))
    });
    assert_eq!(listed, built.collect(), "kernels/README.md lists other kernels than there are");
    for header in files("kernels", &["h", "cuh"]) {
        let name = header.trim_start_matches("kernels/");
        assert!(list.contains(&format!("| {name} |")), "kernels/README.md lacks `{name}`");
    }
}

#[test]
fn kernels_keep_to_what_both_compilers_mean_alike() {
    let kernels = files("kernels", &["cu", "cuh", "h"]);
    assert!(kernels.iter().any(|path| path.ends_with(".cu")), "there is no kernel");
    let mut found = Vec::new();
    for path in kernels.iter().filter(|path| !path.starts_with("kernels/ptx")) {
        found.extend(breaches(path, &read(path)));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Where a kernel file says what none may, with the reason, and where it includes what is not the project's.
fn breaches(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (words, reason) in NOT_IN_KERNELS {
        found.extend(uses(path, text, words).into_iter().map(|place| format!("{place}: {reason}")));
    }
    for (index, line) in text.lines().enumerate() {
        if let Some(header) = line.trim_start().strip_prefix("#include ")
            && !header.starts_with('"')
            && !matches!(header, "<stdint.h>" | "<stddef.h>")
        {
            found.push(format!(
                "{path}:{}: `{header}`: a kernel includes the project's headers, <stdint.h> and <stddef.h>",
                index + 1
            ));
        }
    }
    found
}

#[test]
fn breaches_are_found() {
    let cases = [
        ("asm volatile(\"bar.sync 0;\");", 2),
        ("const float* __restrict__ p", 1),
        ("float y = __ldg(p);", 1),
        ("__shared__ float tile[32];", 1),
        ("int* p = new int;", 1),
        ("#include <cuda_fp16.h>", 1),
        ("// no asm, no volatile\n/* __ldg */ \"printf\"", 0),
        ("newest = 1; plasma(asm_count);", 0),
        ("#include \"tile.cuh\"\n#include <stdint.h>", 0),
    ];
    for (text, count) in cases {
        assert_eq!(breaches("planted.cu", text).len(), count, "{text}");
    }
}

#[test]
fn words_are_found_in_code_alone() {
    let text = "let a = \"unsafe \\\" unsafe\"; // unsafe\n/* unsafe */ fn b<'a>() { 'x'; '\\''; unsafe {} }\nr#\"unsafe\"#; unsafe_code;";
    assert_eq!(uses("planted.rs", text, &["unsafe"]), ["planted.rs:2: `unsafe`"]);
    assert_eq!(
        uses("planted.rs", "std::env::var_os(\"A\")", &["env::var", "env::var_os"]),
        ["planted.rs:1: `env::var_os`"]
    );
}

//! `scripts/check-kernels.sh` finds what it is there for: kernels planted in a folder, with a compiler and a disassembler that answer what
//! the real ones answered once, and, where nvcc is there, with nvcc.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const HEAD: &str = "# kernel\tarchitecture\tregisters\tstatic_shared\tdynamic_shared\tconstant\n";

/// What ptxas says of a kernel, with its stack, spills and registers.
fn ptxas(kernel: &str, architecture: &str, stack: u32, spilled: u32, registers: u32) -> String {
    format!(
        "ptxas info    : 0 bytes gmem\n\
         ptxas info    : Compiling entry function '{kernel}' for '{architecture}'\n\
         ptxas info    : Function properties for {kernel}\n    \
             {stack} bytes stack frame, {spilled} bytes spill stores, 0 bytes spill loads\n\
         ptxas info    : Used {registers} registers, used 1 barriers, 64 bytes smem, 416 bytes cmem[0], 8 bytes cmem[2]\n"
    )
}

/// What nvdisasm says of a kernel of these instructions.
fn disassembly(kernel: &str, instructions: &[&str]) -> String {
    let head = format!("\t.section\t.text.{kernel},\"ax\",@progbits\n{kernel}:\n.text.{kernel}:\n");
    instructions.iter().fold(head, |text, line| text + &format!("        /*0000*/                   {line} ;\n"))
}

/// A folder with a kernel, its tables, and tools that answer from files.
struct Planted(TempDir);

/// What the script answered.
#[derive(Debug)]
struct Answer {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Planted {
    fn new(log: &str, sass: &str, budget: &str, instructions: &str) -> Self {
        let planted = Self(tempfile::tempdir().expect("a folder"));
        fs::create_dir(planted.path().join("kernels")).expect("a folder");
        planted.write("kernels/planted.cu", "// The tools do not read it.\n");
        planted.write("kernels/parameters.h", "#define GRIDPOINT_PLANTED_SHARED_BYTES 4096u\n");
        planted.write("kernels/budget.tsv", &format!("{HEAD}{budget}"));
        planted.write("kernels/instructions.tsv", instructions);
        planted.write("log", log);
        planted.write("sass", sass);
        let tool = |name: &str, answer: &str| {
            let text = format!(
                "#!/bin/sh\necho \"$@\" >>'{0}/{name}.calls'\n[ \"$1\" != --version ] || {{ echo 'tools, V13.0.88'; exit; }}\n{answer}\n",
                planted.path().display()
            );
            planted.write(name, &text);
            let permissions = fs::Permissions::from_mode(0o755);
            fs::set_permissions(planted.path().join(name), permissions).expect("a file of ours");
        };
        let answer = "[ \"$1\" != -ptx ] || exit 0\n\
                      architecture=$(echo \"$*\" | sed 's/.*code=sm_\\([0-9a-z]*\\).*/\\1/')\n\
                      while [ $# -gt 1 ]; do shift; done; : >\"$1\"\n\
                      sed \"s/sm_90a/sm_$architecture/\" ";
        tool("nvcc", &format!("{answer}'{}/log'", planted.path().display()));
        tool("nvdisasm", &format!("cat '{}/sass'", planted.path().display()));
        planted
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a file of ours");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs the script with the planted tools.
    fn check(&self, arguments: &[&str]) -> Answer {
        self.check_with(&self.path().join("nvcc"), arguments)
    }

    fn check_with(&self, nvcc: &Path, arguments: &[&str]) -> Answer {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check-kernels.sh");
        let output = Command::new(script)
            .arg("--root")
            .arg(self.path())
            .args(arguments)
            .env("NVCC", nvcc)
            .env("NVDISASM", self.path().join("nvdisasm"))
            .output()
            .expect("the script runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Answer { status: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Answer {
    /// Fails unless the script failed with exactly these sentences.
    fn refuses(&self, sentences: &[&str]) {
        let expected: String = sentences.iter().map(|sentence| format!("check-kernels.sh: {sentence}\n")).collect();
        assert_eq!((self.status, self.stderr.as_str()), (Some(1), expected.as_str()), "{self:?}");
    }

    fn passes(&self) {
        assert_eq!((self.status, self.stderr.as_str()), (Some(0), ""), "{self:?}");
    }
}

const BUDGET: &str = "planted\tsm_90a\t40\t64\t4096\t424\n";
const RULE: &str = "planted\tsm_9*\tHGMMA\twgmma\n";

fn good_log() -> String {
    ptxas("planted", "sm_90a", 0, 0, 40)
}

fn good_sass() -> String {
    disassembly("planted", &["LDC R1, c[0x0][0x28]", "@!P0 HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24", "EXIT"])
}

#[test]
fn a_kernel_within_its_budget_passes() {
    let planted = Planted::new(&good_log(), &good_sass(), BUDGET, RULE);
    let answer = planted.check(&["90a"]);
    answer.passes();
    assert_eq!(answer.stdout, "1 kernels in machine code, 0 breaches, instructions read\n");
}

#[test]
fn the_options_are_those_of_the_build() {
    let planted = Planted::new(&good_log(), &good_sass(), BUDGET, RULE);
    planted.check(&["90a"]).passes();
    let calls = planted.read("nvcc.calls");
    let build = include_str!("../build/nvcc.rs");
    let list =
        build.split_once("const FLAGS").and_then(|(_, rest)| Some(rest.split_once("[\"")?.1.split_once("\"]")?.0));
    let flags: Vec<&str> = list.expect("the build has a list of options").split("\", \"").collect();
    assert!(flags.contains(&"-fmad=false"), "{flags:?}");
    // The form of the output and nvcc's own threads are not the code's.
    for flag in flags.into_iter().filter(|flag| !["-fatbin", "--threads=1"].contains(flag)) {
        assert!(calls.contains(&format!(" {flag} ")), "nvcc was called without `{flag}`: {calls}");
    }
}

#[test]
fn what_has_not_changed_is_not_compiled_again() {
    let planted = Planted::new(&good_log(), &good_sass(), BUDGET, RULE);
    let compilations = || planted.read("nvcc.calls").lines().filter(|line| line.starts_with("-cubin")).count();
    planted.check(&["90a"]).passes();
    planted.check(&["90a"]).passes();
    assert_eq!(compilations(), 1);
    planted.write("kernels/planted.cu", "// Another one.\n");
    planted.check(&["90a"]).passes();
    assert_eq!(compilations(), 2);
    planted.write("kernels/planted.cuh", "// A header.\n");
    planted.check(&["90a"]).passes();
    assert_eq!(compilations(), 3);
}

/// What cargo's build left is taken for what it is: other registers there are found, and it is left alone once a source differs.
#[test]
fn what_the_build_compiled_is_not_compiled_again() {
    let planted = Planted::new(&good_log(), &good_sass(), BUDGET, RULE);
    let folder = "target/compiled-kernels/planted.device";
    fs::create_dir_all(planted.path().join(folder)).expect("a folder");
    let build = include_str!("../build/nvcc.rs");
    let list =
        build.split_once("const FLAGS").and_then(|(_, rest)| Some(rest.split_once("[\"")?.1.split_once("\"]")?.0));
    let flags = list.expect("the build has a list of options").split("\", \"");
    let flags: Vec<&str> = flags.filter(|flag| !["-fatbin", "--threads=1"].contains(flag)).collect();
    let sources = planted.read("kernels/parameters.h") + &planted.read("kernels/planted.cu");
    planted.write(&format!("{folder}/made-from"), &format!("13.0.88\n{}\n{sources}", flags.join(" ")));
    planted.write(&format!("{folder}/sm_90a.cubin"), "");
    let report = ptxas("planted", "sm_80", 8, 8, 39) + &ptxas("planted", "sm_90a", 0, 0, 41);
    planted.write(&format!("{folder}/report"), &report);
    planted.check(&["90a"]).refuses(&["kernel `planted` on sm_90a has 41 registers, allowed are 40"]);
    assert!(!planted.read("nvcc.calls").contains("-cubin"), "{}", planted.read("nvcc.calls"));
    planted.write("kernels/planted.cu", "// Another one.\n");
    planted.check(&["90a"]).passes();
    assert!(planted.read("nvcc.calls").contains("-cubin"), "{}", planted.read("nvcc.calls"));
}

#[test]
fn registers_spills_and_stack_beyond_the_budget_are_named() {
    let planted = Planted::new(&ptxas("planted", "sm_90a", 24, 16, 41), &good_sass(), BUDGET, RULE);
    planted.check(&["90a"]).refuses(&[
        "kernel `planted` on sm_90a has 24 bytes of stack, allowed are 0",
        "kernel `planted` on sm_90a spills 16 bytes, allowed are 0",
        "kernel `planted` on sm_90a has 41 registers, allowed are 40",
    ]);
}

/// A function that was not inlined has a frame of its own.
#[test]
fn what_a_called_function_spills_is_its_kernels() {
    let inner = "ptxas info    : Function properties for called\n    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n";
    let log = good_log().replace("ptxas info    : Used", &format!("{inner}ptxas info    : Used"));
    Planted::new(&log, &good_sass(), BUDGET, RULE).check(&["90a"]).refuses(&[
        "kernel `planted` on sm_90a has 8 bytes of stack, allowed are 0",
        "kernel `planted` on sm_90a spills 8 bytes, allowed are 0",
    ]);
}

#[test]
fn memory_beyond_the_budget_is_named() {
    let budget = "planted\tsm_90a\t40\t32\t2048\t400\n";
    Planted::new(&good_log(), &good_sass(), budget, RULE).check(&["90a"]).refuses(&[
        "kernel `planted` on sm_90a has 64 bytes of static shared memory, allowed are 32",
        "kernel `planted` on sm_90a has 424 bytes of constant memory, allowed are 400",
        "kernel `planted` on sm_90a is launched with 4096 bytes of dynamic shared memory by parameters.h, allowed are 2048",
    ]);
}

#[test]
fn a_table_of_other_kernels_is_named() {
    let budget = "gone\tsm_90a\t40\t64\t-\t424\nplanted\tsm_80\t40\t64\t4096\t424\n";
    // The line of sm_80 is not looked at: that architecture was not asked for.
    Planted::new(&good_log(), &good_sass(), budget, RULE).check(&["90a"]).refuses(&[
        "kernel `planted` on sm_90a has 40 registers and no line in kernels/budget.tsv; --update writes it",
        "kernel `gone` on sm_90a stands in kernels/budget.tsv and is not there; --update drops it",
    ]);
}

#[test]
fn instructions_that_are_missing_or_must_not_be_there_are_named() {
    let sass =
        disassembly("planted", &["HMMA.16816.F32.BF16 R4, R4, R8, R12", "STL.64 [R1], R2", "@P0 LDL R2, [R1]", "EXIT"]);
    let planted = Planted::new(&good_log(), &sass, BUDGET, RULE);
    planted.check(&["90a"]).refuses(&[
        "kernel `planted` on sm_90a has 2 instructions LDL or STL, allowed are 0",
        "kernel `planted` on sm_90a has 0 instructions HGMMA, line 1 of kernels/instructions.tsv asks for 1 or more",
    ]);
    let answer = planted.check(&["--without-disassembly", "90a"]);
    answer.passes();
    assert_eq!(answer.stdout, "1 kernels in machine code, 0 breaches, instructions not read\n");
}

#[test]
fn a_rule_for_no_kernel_is_named() {
    let rules = format!("{RULE}# a remark\nplanned_*\t*\tHMMA\tmisspelt\n");
    Planted::new(&good_log(), &good_sass(), BUDGET, &rules)
        .check(&["90a"])
        .refuses(&["line 3 of kernels/instructions.tsv (planned_* * HMMA) fits no kernel"]);
}

/// The tests' product is checked like a kernel, under a name that rules and lines for the program's kernels do not meet.
#[test]
fn kernels_of_tests_are_named_with_their_folder() {
    let rules = format!("*\tsm_90a\tHGMMA\n{RULE}tests/planted\t*\tUTMASTG\n");
    let planted = Planted::new(&good_log(), &good_sass(), BUDGET, &rules);
    fs::create_dir_all(planted.path().join("tests/instructions")).expect("a folder");
    planted.write("tests/instructions/group_gemm.cu", "// The tools do not read it.\n");
    planted.check(&["90a"]).refuses(&[
        "kernel `tests/planted` on sm_90a has 40 registers and no line in kernels/budget.tsv; --update writes it",
        "kernel `tests/planted` on sm_90a has 0 instructions UTMASTG, line 3 of kernels/instructions.tsv asks for 1 or more",
    ]);
}

#[test]
fn the_table_is_rewritten_and_holds() {
    let planted = Planted::new(&good_log(), &good_sass(), "gone\tsm_80\t1\t2\t3\t4\n", RULE);
    assert_eq!(planted.check(&[]).status, Some(1));
    let answer = planted.check(&["--update", "--without-disassembly"]);
    assert_eq!((answer.status, answer.stderr.as_str()), (Some(0), ""), "{answer:?}");
    let table = planted.read("kernels/budget.tsv");
    assert!(table.contains("# nvcc 13.0.88;") && table.contains(BUDGET) && !table.contains("gone"), "{table}");
    planted.check(&["--without-disassembly"]).passes();
}

#[test]
fn a_budget_of_another_compiler_is_said_beside_the_breach() {
    let budget = "# nvcc 12.9.1; bytes\nplanted\tsm_90a\t39\t64\t4096\t424\n";
    Planted::new(&good_log(), &good_sass(), budget, RULE).check(&["90a"]).refuses(&[
        "kernel `planted` on sm_90a has 40 registers, allowed are 39",
        "kernels/budget.tsv was made with nvcc 12.9.1, this is nvcc 13.0.88",
    ]);
}

#[test]
fn tools_that_are_missing_are_named() {
    let planted = Planted::new(&good_log(), &good_sass(), BUDGET, RULE);
    let answer = planted.check_with(Path::new("no-such-nvcc"), &["90a"]);
    assert_eq!(
        (answer.status, answer.stderr.as_str()),
        (Some(2), "check-kernels.sh: `no-such-nvcc` was not found; scripts/get-nvcc.sh fetches it\n")
    );
    fs::remove_file(planted.path().join("nvdisasm")).expect("a file of ours");
    let answer = planted.check(&["90a"]);
    assert_eq!(answer.status, Some(2), "{answer:?}");
    assert!(answer.stderr.contains("--without-disassembly does without"), "{answer:?}");
}

/// The largest number of registers of any kernel of a name with stars, on an architecture.
fn most_registers(budget: &str, pattern: &str, architecture: &str) -> Option<u32> {
    let (head, tail) = pattern.split_once('*').unwrap_or((pattern, ""));
    let fits = |kernel: &str| {
        if pattern.contains('*') { kernel.starts_with(head) && kernel.ends_with(tail) } else { kernel == pattern }
    };
    let rows = budget.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect::<Vec<_>>());
    rows.filter(|row| fits(row[0]) && row[1] == architecture).filter_map(|row| row[2].parse().ok()).max()
}

#[test]
fn the_page_on_kernels_says_what_the_budget_says() {
    let budget = include_str!("../kernels/budget.tsv");
    let page = include_str!("../docs/kernels.md");
    let section = page.split_once("## Registers and spills").and_then(|(_, rest)| rest.split_once("\n## "));
    let (section, _) = section.expect("the page has the section");
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    let [head, rows @ ..] = rows.as_slice() else { panic!("the section has a table") };
    assert!(rows.len() > 4, "{rows:?}");
    for row in rows {
        for (architecture, cell) in head.iter().zip(row).skip(1) {
            let most = most_registers(budget, row[0], architecture).map(|registers| registers.to_string());
            assert_eq!(most.as_deref(), Some(*cell), "docs/kernels.md, `{}` on {architecture}", row[0]);
        }
    }
}

/// The real compiler, on a kernel whose array cannot stay in registers, since its indices are read from memory.
#[test]
fn stack_that_nvcc_uses_is_found() {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cuda/nvidia/cu13/bin/nvcc");
    let Some(nvcc) = std::env::var_os("NVCC").map(Into::into).or_else(|| fetched.is_file().then_some(fetched)) else {
        assert!(
            std::env::var_os("GRIDPOINT_REQUIRE_NVCC").is_none(),
            "`GRIDPOINT_REQUIRE_NVCC` is set and there is no nvcc"
        );
        return;
    };
    let planted = Planted::new("", "", "", "");
    let kernel = "extern \"C\" __global__ void planted(float* values, const int* places) {\n  float array[64];\n  \
                  for (int i = 0; i < 64; ++i) array[places[i]] = values[i];\n  values[0] = array[places[64]];\n}\n";
    planted.write("kernels/planted.cu", kernel);
    let answer = planted.check_with(nvcc.as_path(), &["--without-disassembly", "90a"]);
    assert_eq!(answer.status, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("kernel `planted` on sm_90a has 256 bytes of stack, allowed are 0"), "{answer:?}");
}

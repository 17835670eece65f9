//! `CUDA_COMPUTE_CAP`, as the build script reads it.

#[path = "../build/architectures.rs"]
mod architectures;

use architectures::{Architecture, DEFAULT, parse};

fn images(list: &str) -> Vec<String> {
    let architectures = parse(list).unwrap_or_else(|error| panic!("{error}"));
    architectures.iter().flat_map(Architecture::images).collect()
}

#[test]
fn lists_are_read() {
    assert_eq!(images(DEFAULT), ["sm_80", "sm_90a", "compute_90"]);
    assert_eq!(images("90a"), ["sm_90a"]);
    assert_eq!(images("80,90a"), ["sm_80", "sm_90a"]);
    assert_eq!(images("8.0, 9.0a"), ["sm_80", "sm_90a"]);
    assert_eq!(images("120+ptx"), ["sm_120", "compute_120"]);
    assert_eq!(images("12.0+PTX"), ["sm_120", "compute_120"]);
    assert_eq!(images("100f"), ["sm_100f"]);
}

#[test]
fn options_for_nvcc_are_written() {
    let options: Vec<String> = parse("90a,120+ptx").unwrap_or_default().iter().map(Architecture::gencode).collect();
    assert_eq!(options, ["arch=compute_90a,code=[sm_90a]", "arch=compute_120,code=[sm_120,compute_120]"]);
}

#[test]
fn what_cannot_be_read_is_named() {
    for (list, part) in [
        ("", "`` is no compute capability"),
        ("hopper", "`hopper` is no compute capability"),
        ("80,,90", "`` is no compute capability"),
        ("sm_90", "`sm_90` is no compute capability"),
        ("9.00", "`9.00` is no compute capability"),
        ("9", "`9` is no compute capability"),
        ("-90", "`-90` is no compute capability"),
        ("8.6.1", "`8.6.1` is no compute capability"),
        ("99999999999", "`99999999999` is no compute capability"),
        ("75", "`75` is older than 8.0"),
        ("80,8.0", "`80` stands twice"),
    ] {
        let error = parse(list).expect_err(list);
        assert!(error.contains(part) && error.contains(&format!("`CUDA_COMPUTE_CAP` is `{list}`")), "{list}: {error}");
    }
}

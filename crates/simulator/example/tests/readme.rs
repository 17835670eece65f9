//! The README of the simulator quotes the files of this package.

use std::path::Path;

#[test]
fn the_readme_quotes_the_files() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read =
        |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let readme = read(&package.join("../README.md"));
    // Of each block of code, the file that was last named in bold before it.
    let (mut file, mut quoting, mut quoted) = (None, false, 0);
    for line in readme.lines() {
        if let Some((name, _)) = line.strip_prefix("**`").and_then(|rest| rest.split_once("`**")) {
            file = Some((name, read(&package.join(name))));
        } else if line.starts_with("```") {
            quoting = !quoting;
        } else if quoting && !["", "..."].contains(&line.trim()) {
            let (name, text) = file.as_ref().expect("a file is named before its lines");
            assert!(text.lines().any(|of_file| of_file.trim() == line.trim()), "`{name}` has no line `{line}`");
            quoted += 1;
        }
    }
    assert!(quoted > 20, "{quoted} lines are quoted");
}

//! A profiler that writes down the NVTX ranges that it hears of (tests/nvtx/injection.c).
#![allow(dead_code, reason = "each test target uses some of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the library that listens into `folder`.
pub(crate) fn library(folder: &Path) -> PathBuf {
    let library = folder.join("libinjection.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&library);
    let compiled = command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nvtx/injection.c")).output();
    let compiled = compiled.expect("the compiler that the kernels need is there");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    library
}

/// A range: its name, and the ranges inside.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) inside: Vec<Seen>,
}

/// What it has heard so far.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The outermost ranges of each thread, in order; the thread first whose range was the first.
    pub(crate) threads: Vec<Vec<Seen>>,
    /// The names that were registered.
    pub(crate) registered: Vec<String>,
    pub(crate) streams: Vec<String>,
}

impl Heard {
    /// Reads what was written. It panics where a call is out of order: the one domain is made first, a range ends on its thread and inside
    /// the one around it, and every range has ended.
    pub(crate) fn read(library: &Path) -> Self {
        let text = fs::read_to_string(library.with_extension("so.heard")).expect("the library wrote what it heard");
        let mut heard = Self::default();
        let mut threads: Vec<(&str, Vec<Seen>)> = Vec::new();
        let mut domains = 0;
        for line in text.lines() {
            let (call, rest) = line.split_once(' ').expect("a call and what it was called with");
            match call {
                "domain" => {
                    assert_eq!(
                        (rest, heard.threads.len()),
                        ("gridpoint", 0),
                        "the domain is made before the first range"
                    );
                    domains += 1;
                }
                "string" => heard.registered.push(rest.strip_prefix("gridpoint ").expect("the domain").to_owned()),
                "stream" => heard.streams.push(rest.to_owned()),
                "push" | "pop" => {
                    let (thread, rest) = rest.split_once(' ').expect("a thread");
                    let known = threads.iter().position(|(known, _)| *known == thread);
                    let place = known.unwrap_or_else(|| {
                        threads.push((thread, Vec::new()));
                        heard.threads.push(Vec::new());
                        threads.len() - 1
                    });
                    let open = &mut threads[place].1;
                    match rest.strip_prefix("gridpoint ") {
                        Some(name) if call == "push" => open.push(Seen { name: name.to_owned(), inside: Vec::new() }),
                        None if (call, rest) == ("pop", "gridpoint") => {
                            let closed = open.pop().expect("a range is open");
                            open.last_mut().map_or(&mut heard.threads[place], |outer| &mut outer.inside).push(closed);
                        }
                        _ => panic!("`{line}`"),
                    }
                }
                _ => panic!("`{line}`"),
            }
        }
        assert_eq!(domains, 1);
        assert!(threads.iter().all(|(_, open)| open.is_empty()), "ranges are still open: {threads:?}");
        heard
    }

    /// Every range, outer ones before those inside.
    pub(crate) fn all(&self) -> Vec<&Seen> {
        fn walk<'a>(ranges: &'a [Seen], into: &mut Vec<&'a Seen>) {
            for range in ranges {
                into.push(range);
                walk(&range.inside, into);
            }
        }
        let mut all = Vec::new();
        self.threads.iter().for_each(|ranges| walk(ranges, &mut all));
        all
    }
}

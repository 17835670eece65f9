//! Reading the repository's own sources: files by folder, text without comments and literals, words.
#![allow(dead_code, reason = "each test that reads sources uses some of it")]

use std::fs;
use std::path::{Path, PathBuf};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files under a folder of the repository with one of these extensions, relative to the repository, sorted.
pub(crate) fn files(folder: &str, extensions: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path: PathBuf = entry.expect("an entry of a folder can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e)) {
                let relative = path.strip_prefix(root()).expect("the file lies in the repository");
                found.push(relative.to_str().expect("paths are UTF-8").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The text of a file of the repository.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Rust or C++ with comments and the insides of string and character literals blanked; lines keep their numbers.
pub(crate) fn code(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| characters.get(at + i) == Some(&c));
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    // Blanks [at, end), keeping line ends.
    let blank = |code: &mut String, from: usize, end: usize| {
        code.extend(characters[from..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
    };
    while at < characters.len() {
        let end = if starts(at, "//") {
            (at..characters.len()).find(|&i| characters[i] == '\n').unwrap_or(characters.len())
        } else if starts(at, "/*") {
            (at + 2..characters.len()).find(|&i| starts(i, "*/")).map_or(characters.len(), |i| i + 2)
        } else if starts(at, "r#\"") {
            (at + 3..characters.len()).find(|&i| starts(i, "\"#")).map_or(characters.len(), |i| i + 2)
        } else if characters[at] == '"' {
            literal_end(&characters, at, '"')
        } else if characters[at] == '\''
            && (characters.get(at + 1) == Some(&'\\') || characters.get(at + 2) == Some(&'\''))
        {
            literal_end(&characters, at, '\'')
        } else {
            code.push(characters[at]);
            at += 1;
            continue;
        };
        blank(&mut code, at, end);
        at = end;
    }
    code
}

fn literal_end(characters: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < characters.len() && characters[at] != quote {
        at += if characters[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(characters.len())
}

/// `file:line` of every place where one of the words stands in the code. A word is bounded by what cannot be part of a name.
pub(crate) fn uses(path: &str, text: &str, words: &[&str]) -> Vec<String> {
    let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let stands_in = |line: &str, word: &str| {
        line.match_indices(word).any(|(at, _)| {
            !part_of_name(line[..at].chars().next_back()) && !part_of_name(line[at + word.len()..].chars().next())
        })
    };
    let mut found = Vec::new();
    for (index, line) in code(text).lines().enumerate() {
        for word in words.iter().filter(|word| stands_in(line, word)) {
            found.push(format!("{path}:{}: `{word}`", index + 1));
        }
    }
    found
}

//! Files that commands read, within bounds: plans, traces and what else is of a size that nobody knows beforehand.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use gridpoint_plan::PlanFile;

/// A plan of as many points as there can be takes about half of it.
const MAX_PLAN_BYTES: u64 = 128 << 20;

/// Why a plan file is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadPlanError {
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    #[error("the plan `{path}` is not taken: {words}")]
    Refused { path: String, words: String },
    #[error("the plan `{path}` is not what `plan --output` or `plan --format json` writes: {source}")]
    Invalid { path: String, source: serde_json::Error },
}

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("cannot read the {what} `{path}`: {source}")]
    Unreadable { what: &'static str, path: String, source: io::Error },
    #[error("the {what} `{path}` is larger than {most} bytes, the most that is read")]
    TooLarge { what: &'static str, path: String, most: u64 },
}

/// The bytes of a file. `what` says in errors what it should hold.
pub(crate) fn read_bounded(path: &Path, what: &'static str, most: u64) -> Result<Vec<u8>, ReadError> {
    let name = || path.display().to_string();
    let mut bytes = Vec::new();
    // Bounded, since the path may name a device that never ends.
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|source| ReadError::Unreadable { what, path: name(), source })?;
    if bytes.len() as u64 > most {
        return Err(ReadError::TooLarge { what, path: name(), most });
    }
    Ok(bytes)
}

/// The plan in a file, with what it was made for if the file says so.
pub(crate) fn read_plan(path: &Path) -> Result<PlanFile, ReadPlanError> {
    let bytes = read_bounded(path, "plan", MAX_PLAN_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|source| {
        let path = path.display().to_string();
        match refusal(&source) {
            Some(words) => ReadPlanError::Refused { path, words },
            None => ReadPlanError::Invalid { path, source },
        }
    })
}

/// The planner's own sentence, without the place in the file where its reader stood.
pub(crate) fn refusal(error: &serde_json::Error) -> Option<String> {
    let words = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let is_type_error = ["invalid ", "missing ", "unknown ", "duplicate "].iter().any(|start| words.starts_with(start));
    (error.is_data() && !is_type_error).then(|| words.strip_suffix(&place).unwrap_or(&words).to_owned())
}

//! Typed reading of a JSON object: each getter answers a wrong type or range with file, field, value and what is right.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{ModelError, Result, excerpt};

fn within(range: &RangeInclusive<f64>) -> String {
    format!("a number from {:?} to {:?}", range.start(), range.end())
}

/// A JSON object of a file, at `prefix` (empty at the top). A field that is `null` counts as absent, as in the
/// configurations that transformers writes.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    path: &'a Path,
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

/// The parsed text of a JSON file whose outermost value is an object.
pub(crate) fn parse_object(text: &[u8], path: &Path) -> Result<Map<String, Value>> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(ModelError::Json { path: path.to_owned(), reason: format!("it is `{}`", show(&other)) }),
        Err(error) => Err(ModelError::Json { path: path.to_owned(), reason: excerpt(&error.to_string()) }),
    }
}

/// A value as a message shows it: strings without quotes, everything else as JSON, shortened.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::String(text) => excerpt(&format!("\"{text}\"")),
        Value::Array(list) if list.len() > 16 => format!("a list of {} values", list.len()),
        Value::Object(map) if map.len() > 16 => format!("an object of {} fields", map.len()),
        other => excerpt(&other.to_string()),
    }
}

impl<'a> Object<'a> {
    pub(crate) fn new(path: &'a Path, prefix: &'a str, map: &'a Map<String, Value>) -> Self {
        Object { path, prefix, map }
    }

    /// The field's full name: `rope_scaling.factor`.
    pub(crate) fn name(&self, field: &str) -> String {
        if self.prefix.is_empty() { field.to_owned() } else { format!("{}.{field}", self.prefix) }
    }

    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// The object's fields with their values.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub(crate) fn object(&self, field: &'a str) -> Result<Option<Object<'a>>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Object { path: self.path, prefix: field, map })),
            Some(other) => Err(self.wrong(field, other, "an object")),
        }
    }

    pub(crate) fn string(&self, field: &str) -> Result<Option<&'a str>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(field, other, "a string")),
        }
    }

    pub(crate) fn boolean(&self, field: &str) -> Result<Option<bool>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(field, other, "`true` or `false`")),
        }
    }

    /// An integer within `range`.
    pub(crate) fn integer(&self, field: &str, range: RangeInclusive<u64>) -> Result<Option<u64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(integer) if range.contains(&integer) => Ok(Some(integer)),
            _ => Err(self.wrong(field, value, &format!("an integer from {} to {}", range.start(), range.end()))),
        }
    }

    /// An integer within `range` that has no default.
    pub(crate) fn required(&self, field: &str, range: RangeInclusive<u64>) -> Result<u64> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        self.integer(field, range)?.ok_or_else(|| self.missing(field, &expected))
    }

    /// A number within `range`.
    pub(crate) fn number(&self, field: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            // A range never contains NaN or, its ends being finite, an infinity.
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(field, value, &within(&range))),
        }
    }

    /// A number within `range` that has no default.
    pub(crate) fn required_number(&self, field: &str, range: RangeInclusive<f64>) -> Result<f64> {
        self.number(field, range.clone())?.ok_or_else(|| self.missing(field, &within(&range)))
    }

    /// One token id or a list of them, each below `vocab_size`; an absent field is `None`.
    pub(crate) fn token_ids(&self, field: &str, vocab_size: usize) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let one =
            |value: &Value| value.as_u64().filter(|&id| id < vocab_size as u64).and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(list) => list.iter().map(one).collect(),
            single => one(single).map(|id| vec![id]),
        };
        let expected = || format!("a token id below `vocab_size` ({vocab_size}) or a list of such ids");
        ids.map(Some).ok_or_else(|| self.wrong(field, value, &expected()))
    }

    pub(crate) fn wrong(&self, field: &str, value: &Value, expected: &str) -> ModelError {
        self.refuse(field, show(value), expected)
    }

    pub(crate) fn refuse(&self, field: &str, value: impl ToString, expected: &str) -> ModelError {
        ModelError::Field {
            path: self.path.to_owned(),
            field: self.name(field),
            value: value.to_string(),
            expected: expected.to_owned(),
        }
    }

    pub(crate) fn missing(&self, field: &str, expected: &str) -> ModelError {
        ModelError::MissingField { path: self.path.to_owned(), field: self.name(field), expected: expected.to_owned() }
    }

    pub(crate) fn unsupported(&self, field: &str, value: impl ToString, supported: &str) -> ModelError {
        ModelError::Unsupported {
            path: self.path.to_owned(),
            field: self.name(field),
            value: excerpt(&value.to_string()),
            supported: supported.to_owned(),
        }
    }
}

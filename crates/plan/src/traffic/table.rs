//! Comma-separated tables whose first line names the columns, read with errors that name the file, the line and the field.

use std::fmt;

use thiserror::Error;

/// What is wrong with a table, where: one sentence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{file}`, line {line}: {problem}")]
pub struct TableError {
    /// The name that the table was given.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: TableProblem,
}

/// What is wrong with one line of a table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TableProblem {
    /// Not even a line that names the columns.
    #[error("the file is empty; its first line must be `{columns}`")]
    Empty {
        /// The columns that are needed.
        columns: String,
    },
    /// Bytes that are no text.
    #[error("the line is not UTF-8 text")]
    NotText,
    /// The first line does not name a column that is needed.
    #[error("the column `{column}` is missing; the first line must be `{columns}`")]
    MissingColumn {
        /// The first column that is missing.
        column: &'static str,
        /// The columns that are needed.
        columns: String,
    },
    /// The first line names a column twice.
    #[error("the column `{column}` is named twice; it must be named once")]
    RepeatedColumn {
        /// The column.
        column: &'static str,
    },
    /// A line with more or fewer fields than the first.
    #[error("the line has `{found}` fields; it must have {expected}, as the first line has")]
    FieldCount {
        /// How many there are.
        found: usize,
        /// How many the first line has.
        expected: usize,
    },
    /// A field that is not what its column holds.
    #[error("`{field}` is `{value}`; it must be {expected}")]
    Value {
        /// The column.
        field: &'static str,
        /// What stands there, shortened and with control characters escaped.
        value: String,
        /// What the column holds.
        expected: &'static str,
    },
    /// A number out of order.
    #[error("`{field}` is `{value}` after `{previous}`; it must {order}")]
    Order {
        /// The column.
        field: &'static str,
        /// The number.
        value: String,
        /// The number in the line before.
        previous: String,
        /// The order that the column keeps.
        order: &'static str,
    },
    /// Too few lines after the first.
    #[error("the file ends after `{found}` rows; it must have at least {needed} after the line that names the columns")]
    TooFewRows {
        /// How many there are.
        found: usize,
        /// The least number.
        needed: usize,
    },
}

/// The rows of a table, each as its line number and the fields of the columns asked for, in the order asked for.
///
/// Columns may stand in any order and others besides. Fields are trimmed, empty lines skipped; a byte order mark and
/// Windows line ends are no matter.
pub(crate) struct Table<'a, const COLUMNS: usize> {
    file: &'a str,
    lines: Lines<'a>,
    /// Where each column asked for stands.
    positions: [usize; COLUMNS],
    fields: usize,
    /// The last line read, or the first.
    line: usize,
    rows: usize,
}

impl<'a, const COLUMNS: usize> Table<'a, COLUMNS> {
    pub(crate) fn new(bytes: &'a [u8], file: &'a str, columns: [&'static str; COLUMNS]) -> Result<Self, TableError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut lines = Lines { rest: Some(bytes), number: 0 };
        let fail = |line, problem| TableError { file: file.to_owned(), line, problem };
        let Some((line, header)) = lines.next() else {
            return Err(fail(1, TableProblem::Empty { columns: columns.join(",") }));
        };
        let header = header.ok_or_else(|| fail(line, TableProblem::NotText))?;
        let mut positions = [0; COLUMNS];
        for (position, column) in positions.iter_mut().zip(columns) {
            let mut found = header.split(',').enumerate().filter(|(_, name)| name.trim() == column);
            *position = match (found.next(), found.next()) {
                (Some((at, _)), None) => at,
                (Some(_), Some(_)) => return Err(fail(line, TableProblem::RepeatedColumn { column })),
                (None, _) => {
                    let columns = columns.join(",");
                    return Err(fail(line, TableProblem::MissingColumn { column, columns }));
                }
            };
        }
        Ok(Self { file, lines, positions, fields: header.split(',').count(), line, rows: 0 })
    }

    /// The fields of the next row. None at the end.
    pub(crate) fn next_row(&mut self) -> Result<Option<[&'a str; COLUMNS]>, TableError> {
        let Some((line, text)) = self.lines.next() else { return Ok(None) };
        self.line = line;
        let text = text.ok_or_else(|| self.error(TableProblem::NotText))?;
        let mut row = [""; COLUMNS];
        let mut found = 0;
        for (at, field) in text.split(',').enumerate() {
            found += 1;
            for (slot, &position) in row.iter_mut().zip(&self.positions) {
                if position == at {
                    *slot = field.trim();
                }
            }
        }
        if found != self.fields {
            return Err(self.error(TableProblem::FieldCount { found, expected: self.fields }));
        }
        self.rows += 1;
        Ok(Some(row))
    }

    /// An error at the line of the last row.
    pub(crate) fn error(&self, problem: TableProblem) -> TableError {
        TableError { file: self.file.to_owned(), line: self.line, problem }
    }

    /// That a field is not what its column holds.
    pub(crate) fn value_error(&self, field: &'static str, value: &str, expected: &'static str) -> TableError {
        self.error(TableProblem::Value { field, value: shown(value), expected })
    }

    /// That a number breaks the order of its column.
    pub(crate) fn order_error(
        &self,
        field: &'static str,
        value: impl fmt::Display,
        previous: impl fmt::Display,
        order: &'static str,
    ) -> TableError {
        self.error(TableProblem::Order { field, value: value.to_string(), previous: previous.to_string(), order })
    }

    /// Refuses a table that has ended with fewer rows.
    pub(crate) fn require_rows(&self, needed: usize) -> Result<(), TableError> {
        if self.rows < needed {
            return Err(self.error(TableProblem::TooFewRows { found: self.rows, needed }));
        }
        Ok(())
    }
}

/// A field as an error prints it: short, and on one line.
fn shown(value: &str) -> String {
    const LONGEST: usize = 40;
    let mut shown: String = value.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if value.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}

/// Lines that are not empty, with their numbers; None for a line that is not UTF-8.
struct Lines<'a> {
    rest: Option<&'a [u8]>,
    number: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.rest?;
            let end = rest.iter().position(|&byte| byte == b'\n');
            let line = &rest[..end.unwrap_or(rest.len())];
            self.rest = end.map(|end| &rest[end + 1..]);
            self.number += 1;
            let line = line.trim_ascii();
            if !line.is_empty() {
                return Some((self.number, std::str::from_utf8(line).ok()));
            }
        }
    }
}

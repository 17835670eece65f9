//! Request traces: when each request arrived, how long its prompt was and how much it generated.

use super::table::{Table, TableError};

const ARRIVAL: &str = "arrival_s";
const INPUT: &str = "input_tokens";
const OUTPUT: &str = "output_tokens";

/// The latest arrival that a trace may have: thirty years.
const LATEST_ARRIVAL_SECONDS: f64 = 1e9;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// When it arrived, in seconds from some moment; finite, at least 0 and at most 1e9.
    pub arrival_seconds: f64,
    /// Tokens of its prompt, at least 1.
    pub input_tokens: u32,
    /// Tokens that it generated.
    pub output_tokens: u32,
}

impl Request {
    /// Prompt and output together: what it occupies of the KV cache, and its sequence length.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        u64::from(self.input_tokens) + u64::from(self.output_tokens)
    }
}

/// At least one request, in the order of arrival.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    requests: Vec<Request>,
}

impl Trace {
    /// Reads CSV with the columns `arrival_s`, `input_tokens` and `output_tokens`, which the first line names, in any order
    /// and others besides.
    ///
    /// # Errors
    /// What is wrong first, with `file` as the file's name, the line and the field: a column that is missing, a number that
    /// is none or out of range, an arrival before the one above it, no requests.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, TableError> {
        let mut table = Table::new(bytes, file, [ARRIVAL, INPUT, OUTPUT])?;
        let mut requests: Vec<Request> = Vec::new();
        while let Some([arrival, input, output]) = table.next_row()? {
            let arrival_seconds = match arrival.parse::<f64>() {
                Ok(seconds) if (0.0..=LATEST_ARRIVAL_SECONDS).contains(&seconds) => seconds,
                _ => return Err(table.value_error(ARRIVAL, arrival, "a number of seconds from 0 to 1000000000")),
            };
            let input_tokens = match input.parse() {
                Ok(tokens @ 1..) => tokens,
                _ => return Err(table.value_error(INPUT, input, "a whole number from 1 to 4294967295")),
            };
            let Ok(output_tokens) = output.parse() else {
                return Err(table.value_error(OUTPUT, output, "a whole number from 0 to 4294967295"));
            };
            if let Some(previous) = requests.last().map(|request| request.arrival_seconds)
                && arrival_seconds < previous
            {
                return Err(table.order_error(ARRIVAL, arrival_seconds, previous, "not decrease from line to line"));
            }
            requests.push(Request { arrival_seconds, input_tokens, output_tokens });
        }
        table.require_rows(1)?;
        Ok(Self { requests })
    }

    /// The requests in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Trace::parse(text.as_bytes(), "t.csv").expect_err(text).to_string()
    }

    #[test]
    fn a_trace_is_read() {
        let text =
            "\u{feff}note, output_tokens ,input_tokens,arrival_s\r\nx,44,374,0.000000\r\n\r\ny,0,4294967295, 4.5 \r\n";
        let trace = Trace::parse(text.as_bytes(), "t.csv").expect("a trace");
        let request =
            |arrival_seconds, input_tokens, output_tokens| Request { arrival_seconds, input_tokens, output_tokens };
        assert_eq!(trace.requests(), [request(0.0, 374, 44), request(4.5, u32::MAX, 0)]);
        assert_eq!(trace.requests()[1].tokens(), u64::from(u32::MAX));
    }

    #[test]
    fn errors_name_the_line_and_the_field() {
        const HEADER: &str = "arrival_s,input_tokens,output_tokens";
        for empty in ["", "\n\n \r\n", "\u{feff}"] {
            assert_eq!(error(empty), format!("`t.csv`, line 1: the file is empty; its first line must be `{HEADER}`"));
        }
        assert_eq!(
            error("arrival_s,input_tokens\n1,2\n"),
            format!("`t.csv`, line 1: the column `output_tokens` is missing; the first line must be `{HEADER}`")
        );
        assert_eq!(
            error("arrival_s,input_tokens,arrival_s,output_tokens\n"),
            "`t.csv`, line 1: the column `arrival_s` is named twice; it must be named once"
        );
        let after_header = |rows: &str| error(&format!("{HEADER}\n0,1,1\n{rows}"));
        assert_eq!(
            after_header("1,-4,3\n"),
            "`t.csv`, line 3: `input_tokens` is `-4`; it must be a whole number from 1 to 4294967295"
        );
        for (row, field) in [
            ("1,0,3", "input_tokens"),
            ("1,4294967296,3", "input_tokens"),
            ("1,3,1.5", "output_tokens"),
            ("1,3,", "output_tokens"),
            ("-1,3,3", "arrival_s"),
            ("NaN,3,3", "arrival_s"),
            ("inf,3,3", "arrival_s"),
            ("1e10,3,3", "arrival_s"),
        ] {
            assert!(after_header(row).starts_with(&format!("`t.csv`, line 3: `{field}` is `")), "{row}");
        }
        assert_eq!(
            after_header("\n7,1,1\n6.5,1,1"),
            "`t.csv`, line 5: `arrival_s` is `6.5` after `7`; it must not decrease from line to line"
        );
        assert_eq!(
            after_header("1,2"),
            "`t.csv`, line 3: the line has `2` fields; it must have 3, as the first line has"
        );
        assert_eq!(
            error(HEADER),
            "`t.csv`, line 1: the file ends after `0` rows; it must have at least 1 after the line that names the columns"
        );
        let long = after_header(&format!("1,{}\u{1},1", "9".repeat(39) + "\u{7}x"));
        assert!(long.contains(r"9\u{7}...`; it must be"), "{long}");
        let error = Trace::parse(b"arrival_s,input_tokens,output_tokens\n\xff\xfe", "t.csv").expect_err("no text");
        assert_eq!(error.to_string(), "`t.csv`, line 2: the line is not UTF-8 text");
    }
}

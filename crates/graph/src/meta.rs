//! A step's metadata, written section by section into the block of its point.
//!
//! Padding is not written: kernels bound every loop by the real counts in the header, so what lies behind a count may hold
//! anything, and a test fills it with NaN.

use bytemuck::{cast, cast_slice, cast_slice_mut};
use gridpoint_runtime::parameters::{GRIDPOINT_PAGE_TOKENS, LogitRow, StepHeader};

use crate::{StepError, StepLayout};

/// What a request does in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Computes the token sampled last.
    Decode,
    /// Computes tokens of its prompt.
    Prefill,
}

/// What is asked of one row of the language-model head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LogitRequest {
    /// The logarithm of this token's probability.
    Score(u32),
    /// A token, drawn under these parameters; the draw depends on `(seed, position, token id)` and the logits alone.
    Sample {
        /// 0 is greedy.
        temperature: f32,
        /// 1 is off.
        top_p: f32,
        /// 0 is off.
        top_k: u32,
        /// Index in its sequence of the token that is drawn.
        position: u32,
        /// Key of the draws.
        seed: u64,
    },
}

/// Writes one step. Rows are added in order: decodes, then prefills.
#[derive(Debug)]
pub struct StepWriter<'slot> {
    layout: StepLayout,
    header: StepHeader,
    words: &'slot mut [u64],
}

impl<'slot> StepWriter<'slot> {
    /// A step in the layout's block, which lies at the start of `words` on the host.
    pub(crate) fn new(layout: StepLayout, results_address: u64, words: &'slot mut [u64]) -> Result<Self, StepError> {
        let capacity = size_of_val(words) as u64;
        if u64::from(layout.bytes()) > capacity {
            return Err(StepError::BlockOverflow { needed: layout.bytes(), capacity });
        }
        let header = StepHeader { results_address, ..layout.header() };
        Ok(Self { layout, header, words })
    }

    /// Fills the host's slot with `pattern`, over and over, so that padding holds it; before the first row. An empty pattern leaves
    /// what the slot's last step wrote.
    pub fn fill(&mut self, pattern: &[u64]) {
        for (word, &filling) in self.words.iter_mut().zip(pattern.iter().cycle()) {
            *word = filling;
        }
    }

    /// The block as written so far; the header is written last and is not there yet.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words[..self.layout.bytes() as usize / size_of::<u64>()]
    }

    /// Adds a request that computes `tokens`, the first of them at `first_position` of its sequence, whose cache lies in `pages`.
    /// Returns the row of its first token.
    ///
    /// # Errors
    /// What does not fit; the step is to be thrown away then.
    #[inline]
    pub fn push_request(
        &mut self,
        kind: RequestKind,
        tokens: &[u32],
        first_position: u32,
        pages: &[u32],
    ) -> Result<u32, StepError> {
        let StepLayout { token_ids, positions, slots, query_starts, kv_lengths, page_table, .. } = self.layout;
        let point = self.layout.point();
        let first_row = self.header.tokens;
        let room = point.tokens - first_row;
        let count = u32::try_from(tokens.len()).ok().filter(|&count| count <= room);
        let count = count.ok_or(StepError::Full { point, what: "tokens", capacity: point.tokens })?;
        let request = self.header.prefills + self.header.decodes;
        if u64::from(request) >= point.requests() {
            return Err(StepError::Full { point, what: "requests", capacity: request });
        }
        match kind {
            RequestKind::Decode if self.header.prefills > 0 => return Err(StepError::Order),
            RequestKind::Decode => self.header.decodes += 1,
            RequestKind::Prefill => self.header.prefills += 1,
        }
        let kv_length = first_position + count;
        let needed = kv_length.div_ceil(GRIDPOINT_PAGE_TOKENS);
        let columns = self.layout.page_columns();
        if needed as usize > pages.len() || needed > columns {
            return Err(StepError::Pages { request, pages: pages.len().min(columns as usize), kv_length, needed });
        }

        let words = self.section_words();
        let slot = |position: u32| {
            let page = pages[(position / GRIDPOINT_PAGE_TOKENS) as usize];
            page * GRIDPOINT_PAGE_TOKENS + position % GRIDPOINT_PAGE_TOKENS
        };
        let (token_ids, positions, slots) =
            (word(token_ids, first_row), word(positions, first_row), word(slots, first_row));
        match *tokens {
            // The row of a decode, without the set-up of three loops.
            [token] => {
                words[token_ids] = token;
                words[positions] = first_position;
                words[slots] = slot(first_position);
            }
            _ => {
                words[token_ids..][..tokens.len()].copy_from_slice(tokens);
                for (target, position) in words[positions..][..tokens.len()].iter_mut().zip(first_position..) {
                    *target = position;
                }
                for (target, position) in words[slots..][..tokens.len()].iter_mut().zip(first_position..) {
                    *target = slot(position);
                }
            }
        }
        let query_start = word(query_starts, request);
        words[query_start..][..2].copy_from_slice(&[first_row, first_row + count]);
        words[word(kv_lengths, request)] = kv_length;
        words[word(page_table, request * columns)..][..needed as usize].copy_from_slice(&pages[..needed as usize]);
        self.header.tokens += count;
        Ok(first_row)
    }

    /// Adds a row of the language-model head that reads token row `token_row`. Returns its index among the results.
    ///
    /// # Errors
    /// A row that the step has not, or more rows than the layout or the point's tokens: kernels are chosen for no more.
    #[inline]
    pub fn push_logits(&mut self, token_row: u32, request: LogitRequest) -> Result<u32, StepError> {
        let index = self.header.logit_rows;
        let capacity = self.layout.logit_rows().min(self.layout.point().tokens);
        if index >= capacity {
            return Err(StepError::Full { point: self.layout.point(), what: "logit rows", capacity });
        }
        if token_row >= self.header.tokens {
            return Err(StepError::TokenRow { row: token_row, tokens: self.header.tokens });
        }
        let token_row = token_row as i32;
        let row = match request {
            LogitRequest::Score(target) => {
                LogitRow { token_row, target: target as i32, top_p: 1.0, ..LogitRow::default() }
            }
            LogitRequest::Sample { temperature, top_p, top_k, position, seed } => {
                LogitRow { token_row, target: -1, temperature, top_p, top_k, position, seed }
            }
        };
        let first = word(self.layout.logits, index * LOGIT_ROW_WORDS as u32);
        self.section_words()[first..][..LOGIT_ROW_WORDS].copy_from_slice(&cast::<_, [u32; LOGIT_ROW_WORDS]>(row));
        self.header.logit_rows += 1;
        Ok(index)
    }

    /// Writes the header. Returns the bytes that the device needs, and how many logit rows there are.
    pub(crate) fn finish(mut self) -> (u32, u32) {
        let used = self.layout.used_bytes(self.header.prefills + self.header.decodes);
        let header = StepHeader { used_bytes: used, ..self.header };
        let query_starts = word(self.layout.query_starts, 0);
        let words = self.section_words();
        if header.prefills + header.decodes == 0 {
            words[query_starts] = 0;
        }
        let header_words: &[u32] = cast_slice(std::slice::from_ref(&header));
        words[..header_words.len()].copy_from_slice(header_words);
        (used, header.logit_rows)
    }

    /// The block as elements of its sections; bits are written, whatever the kernels' sign. What rows write is in range by the layout,
    /// whose capacities bound them.
    #[inline]
    fn section_words(&mut self) -> &mut [u32] {
        cast_slice_mut(self.words)
    }
}

/// Words of 4 bytes of a row of the language-model head.
const LOGIT_ROW_WORDS: usize = size_of::<LogitRow>() / size_of::<u32>();

/// Where word `index` of the section at byte `offset`, a multiple of 16, lies among the words of the block.
fn word(offset: u32, index: u32) -> usize {
    offset as usize / size_of::<u32>() + index as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::{cast_slice, from_bytes};
    use gridpoint_plan::GridPoint;

    const POINT: GridPoint = GridPoint { tokens: 8, prefills: 2, decodes: 2 };

    fn sample() -> LogitRequest {
        LogitRequest::Sample { temperature: 0.5, top_p: 0.9, top_k: 7, position: 66, seed: 11 }
    }

    #[test]
    fn a_step_lies_where_the_header_says() {
        let layout = StepLayout::new(POINT, 4, 3).unwrap();
        let mut words = vec![u64::MAX; layout.bytes() as usize / 8];
        let mut writer = StepWriter::new(layout, 77, &mut words).unwrap();
        assert_eq!(writer.push_request(RequestKind::Decode, &[9], 65, &[4, 2]), Ok(0));
        assert_eq!(writer.push_request(RequestKind::Prefill, &[5, 6, 7], 63, &[1, 0]), Ok(1));
        assert_eq!(writer.push_logits(0, sample()), Ok(0));
        assert_eq!(writer.push_logits(2, LogitRequest::Score(7)), Ok(1));
        let (used, logit_rows) = writer.finish();
        assert_eq!((used, logit_rows), (layout.used_bytes(2), 2));

        let bytes: &[u8] = cast_slice(&words);
        let header: &StepHeader = from_bytes(&bytes[..80]);
        assert_eq!((header.tokens, header.prefills, header.decodes, header.logit_rows), (4, 1, 1, 2));
        assert_eq!((header.token_capacity, header.prefill_capacity, header.decode_capacity), (8, 2, 2));
        assert_eq!((header.results_address, header.used_bytes), (77, used));
        let list = |offset: u32, count: usize| -> &[i32] { cast_slice(&bytes[offset as usize..][..count * 4]) };
        assert_eq!(list(header.token_ids_offset, 5), [9, 5, 6, 7, -1], "the fifth is padding and untouched");
        assert_eq!(list(header.positions_offset, 4), [65, 63, 64, 65]);
        assert_eq!(list(header.slots_offset, 4), [2 * 64 + 1, 64 + 63, 0, 1]);
        assert_eq!(list(header.query_starts_offset, 3), [0, 1, 4]);
        assert_eq!(list(header.kv_lengths_offset, 2), [66, 66]);
        assert_eq!(list(header.page_table_offset, 6), [4, 2, -1, 1, 0, -1]);
        let rows: &[LogitRow] = cast_slice(&bytes[header.logit_rows_offset as usize..][..64]);
        assert_eq!((rows[0].token_row, rows[0].target, rows[0].top_k, rows[0].seed), (0, -1, 7, 11));
        assert_eq!((rows[1].token_row, rows[1].target), (2, 7));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let layout = StepLayout::new(POINT, 1, 1).unwrap();
        let mut words = vec![0; layout.bytes() as usize / 8];
        let mut small = vec![0; 2];
        assert!(matches!(StepWriter::new(layout, 0, &mut small), Err(StepError::BlockOverflow { capacity: 16, .. })));
        let mut writer = StepWriter::new(layout, 0, &mut words).unwrap();
        assert!(matches!(
            writer.push_request(RequestKind::Prefill, &[0; 9], 0, &[0]),
            Err(StepError::Full { what: "tokens", capacity: 8, .. })
        ));
        assert!(matches!(
            writer.push_request(RequestKind::Decode, &[1], 64, &[0, 1]),
            Err(StepError::Pages { kv_length: 65, needed: 2, .. })
        ));
        let mut writer = StepWriter::new(layout, 0, &mut words).unwrap();
        writer.push_request(RequestKind::Prefill, &[1], 0, &[0]).unwrap();
        assert_eq!(writer.push_request(RequestKind::Decode, &[1], 0, &[0]), Err(StepError::Order));
        assert_eq!(writer.push_logits(1, sample()), Err(StepError::TokenRow { row: 1, tokens: 1 }));
        writer.push_logits(0, sample()).unwrap();
        assert!(matches!(writer.push_logits(0, sample()), Err(StepError::Full { what: "logit rows", .. })));
        for _ in 1..4 {
            writer.push_request(RequestKind::Prefill, &[1], 0, &[0]).unwrap();
        }
        assert!(matches!(
            writer.push_request(RequestKind::Prefill, &[1], 0, &[0]),
            Err(StepError::Full { what: "requests", capacity: 4, .. })
        ));
    }
}

//! Where the sections of a step block lie: offsets as a function of the point's capacities.

use gridpoint_plan::GridPoint;
use gridpoint_runtime::parameters::{LogitRow, StepHeader};

use crate::StepError;

/// Every section starts at a multiple of this many bytes, so that 16-byte accesses are aligned.
const SECTION_ALIGNMENT: u128 = 16;

/// The layout of a step block for exactly one point: T tokens, P + D requests, and the logit rows and page-table columns that
/// the step needs. Kernels find every section through the offsets in the header, so two layouts can share an executable graph.
///
/// Sections, in this order: [`StepHeader`]; token ids, positions and slots `i32[T]`; query starts `i32[P + D + 1]`; kv lengths
/// `i32[P + D]`; [`LogitRow`]`[L]`; the page table `i32[P + D][stride]`, last, because a step uses only a prefix of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLayout {
    point: GridPoint,
    logit_rows: u32,
    page_columns: u32,
    pub(crate) token_ids: u32,
    pub(crate) positions: u32,
    pub(crate) slots: u32,
    pub(crate) query_starts: u32,
    pub(crate) kv_lengths: u32,
    pub(crate) logits: u32,
    pub(crate) page_table: u32,
    bytes: u32,
}

impl StepLayout {
    /// The layout for a point, `logit_rows` rows of the language-model head and `page_columns` pages a request.
    ///
    /// # Errors
    /// [`StepError::BlockTooLarge`] when offsets would not fit 32 bits.
    pub fn new(point: GridPoint, logit_rows: u32, page_columns: u32) -> Result<Self, StepError> {
        // In 128 bits nothing here overflows.
        let requests = u128::from(point.requests());
        let tokens = u128::from(point.tokens);
        let mut end = size_of::<StepHeader>() as u128;
        let mut too_large = false;
        let mut section = |count: u128, element: usize| {
            let start = end.next_multiple_of(SECTION_ALIGNMENT);
            end = (start + count * element as u128).next_multiple_of(SECTION_ALIGNMENT);
            too_large |= end > u128::from(u32::MAX);
            start as u32
        };
        let word = size_of::<i32>();
        let layout = Self {
            point,
            logit_rows,
            page_columns,
            token_ids: section(tokens, word),
            positions: section(tokens, word),
            slots: section(tokens, word),
            query_starts: section(requests + 1, word),
            kv_lengths: section(requests, word),
            logits: section(u128::from(logit_rows), size_of::<LogitRow>()),
            page_table: section(requests * u128::from(page_columns), word),
            bytes: 0,
        };
        if too_large {
            Err(StepError::BlockTooLarge { point, page_columns })
        } else {
            Ok(Self { bytes: end as u32, ..layout })
        }
    }

    /// The point whose capacities these are.
    #[must_use]
    pub fn point(&self) -> GridPoint {
        self.point
    }

    /// L: rows of the language-model head.
    #[must_use]
    pub fn logit_rows(&self) -> u32 {
        self.logit_rows
    }

    /// Pages that a row of the page table holds.
    #[must_use]
    pub fn page_columns(&self) -> u32 {
        self.page_columns
    }

    /// Bytes of the whole block.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Bytes that a step of `requests` requests uses: everything up to the last page-table row in use.
    pub(crate) fn used_bytes(&self, requests: u32) -> u32 {
        let table = u128::from(requests) * u128::from(self.page_columns) * size_of::<i32>() as u128;
        let end = (u128::from(self.page_table) + table).next_multiple_of(SECTION_ALIGNMENT);
        end.min(u128::from(self.bytes)) as u32
    }

    /// The header of a block in this layout: capacities and offsets; counts are zero.
    pub(crate) fn header(&self) -> StepHeader {
        StepHeader {
            token_capacity: self.point.tokens,
            prefill_capacity: self.point.prefills,
            decode_capacity: self.point.decodes,
            logit_row_capacity: self.logit_rows,
            token_ids_offset: self.token_ids,
            positions_offset: self.positions,
            slots_offset: self.slots,
            query_starts_offset: self.query_starts,
            kv_lengths_offset: self.kv_lengths,
            logit_rows_offset: self.logits,
            page_table_offset: self.page_table,
            page_table_stride: self.page_columns,
            ..StepHeader::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Sections are aligned, in order, apart, and inside the block.
        #[test]
        fn sections_do_not_overlap(tokens in 1_u32..20_000, prefills in 0_u32..500, decodes in 0_u32..500,
                                   logit_rows in 0_u32..20_000, page_columns in 0_u32..3_000) {
            let point = GridPoint { tokens, prefills, decodes };
            let layout = StepLayout::new(point, logit_rows, page_columns).unwrap();
            let requests = prefills + decodes;
            let sections = [
                (0, size_of::<StepHeader>() as u32),
                (layout.token_ids, 4 * tokens),
                (layout.positions, 4 * tokens),
                (layout.slots, 4 * tokens),
                (layout.query_starts, 4 * (requests + 1)),
                (layout.kv_lengths, 4 * requests),
                (layout.logits, 32 * logit_rows),
                (layout.page_table, 4 * requests * page_columns),
            ];
            for pair in sections.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
            }
            for (start, _) in sections {
                prop_assert_eq!(start % 16, 0);
            }
            let (start, length) = sections[7];
            prop_assert!(start + length <= layout.bytes());
            prop_assert!(layout.bytes().is_multiple_of(16));
            prop_assert!(layout.used_bytes(requests) <= layout.bytes());
            prop_assert!(layout.used_bytes(requests) >= start + length);
        }
    }

    #[test]
    fn a_block_beyond_32_bits_is_refused() {
        let point = GridPoint { tokens: 65_536, prefills: 32_768, decodes: 32_768 };
        let error = StepLayout::new(point, 1, 1 << 20).unwrap_err();
        assert!(error.to_string().contains("[65536]: 32768 P + 32768 D"), "{error}");
    }

    #[test]
    fn the_rows_are_those_of_the_header_file() {
        assert_eq!((size_of::<StepHeader>(), size_of::<LogitRow>()), (80, 32));
    }
}

//! Attention by tensor copies (kernels/attention_hopper.cu): what one key-value head of a request needs there.

use gridpoint_runtime::parameters::{GRIDPOINT_ATTENTION_HOPPER_THREADS, GRIDPOINT_ATTENTION_HOPPER_TILE_ROWS};

use super::{BF16, Items, Need, PAGE, ROWS, SPLIT_ROWS, Sizes, WARP, WORD};

/// Query rows of a tile, and of each of its two warpgroups.
const TILE_ROWS: u64 = GRIDPOINT_ATTENTION_HOPPER_TILE_ROWS as u64;
const GROUP_ROWS: u64 = 64;
/// Words of an item and of its request, which one lane reads: eight, and two offsets, two starts and a length.
const ITEM_WORDS: u64 = 8 + 5;
/// Words that find a request's row of the page table.
const TABLE_WORDS: u64 = 2;
/// Warps that merge parts, at most, and bytes of a part's states that each of them reads: two rows of each lane.
const MERGING_WARPS: u64 = 8;
const MERGED_STATES: u64 = WARP * 2 * 8;

/// Words that the grid's blocks read beside items: each thread whether the list was refused, the lanes of a warp its two counts.
pub(super) fn grid_words(threads: u64) -> u64 {
    threads + threads / u64::from(GRIDPOINT_ATTENTION_HOPPER_THREADS) * WARP * 2
}

/// Words that a copy of the page takes that a limit cuts, where it does: each lane finds it once for keys and once for values.
fn cut_words(limit: u64) -> u64 {
    if limit.is_multiple_of(PAGE) { 0 } else { 2 * WARP * (TABLE_WORDS + 1) }
}

impl Sizes<'_> {
    /// Bytes of a row of queries, and of a token's key and value.
    fn hopper_row(&self) -> (u64, u64) {
        (self.head_dim * BF16, 2 * self.head_dim * BF16)
    }

    /// Bytes read and written of a request that is tiles of query rows.
    pub(super) fn hopper_tiles(&self, items: &Items) -> [Need; 2] {
        let (head, token) = self.hopper_row();
        let mut tiled = items.rows * head;
        for tile in 0..items.tiles {
            let limit = self.limit(items, (tile + 1) * TILE_ROWS);
            let words = ITEM_WORDS + WARP * TABLE_WORDS + limit / PAGE + cut_words(limit);
            tiled += limit * token + words * WORD;
        }
        let read = Need { least: items.rows * head + items.keys * token, tiled };
        [read, Need::exactly(items.rows * head)]
    }

    /// As [`Sizes::hopper_tiles`], of a request that is chunks of keys.
    pub(super) fn hopper_chunks(&self, items: &Items) -> [Need; 2] {
        let (head, token) = self.hopper_row();
        let (chunks, parts) = (items.chunks, items.parts());
        let states = SPLIT_ROWS * 2 * 4;
        let output = SPLIT_ROWS * self.head_dim * 4;
        let counter = if parts > 0 { WORD } else { 0 };
        // Each merging warp takes as many column tiles of eight.
        let columns = self.head_dim / 8;
        let merging = columns / columns.div_ceil(MERGING_WARPS);
        let words = chunks * ITEM_WORDS + items.keys / PAGE * (TABLE_WORDS + 1) + cut_words(items.keys);
        let read = Need {
            least: items.rows * head + items.keys * token + parts * (output + states) + counter,
            // Queries for each chunk; partials once and their states by each warp; the counter goes up once a part.
            tiled: chunks * items.rows * head
                + items.keys * token
                + parts * (output + merging * MERGED_STATES + WORD)
                + words * WORD,
        };
        let written = items.rows * head + parts * (output + states) + counter;
        [read, Need { least: written, tiled: written + parts * WORD }]
    }

    /// Multiplications that the kernel makes, of whole pages: for chunks by warps of sixteen rows, for tiles by warpgroups.
    pub(super) fn hopper_multiplies(&self, items: &Items) -> u64 {
        // Scores and weighted values of sixteen rows against a page.
        let strip = self.head_dim;
        if items.chunks > 0 {
            return items.pages() * strip;
        }
        (0..items.tiles)
            .map(|tile| {
                let groups = (items.rows - tile * TILE_ROWS).min(TILE_ROWS).div_ceil(GROUP_ROWS);
                groups * self.limit(items, (tile + 1) * TILE_ROWS).div_ceil(PAGE) * (GROUP_ROWS / ROWS) * strip
            })
            .sum()
    }
}

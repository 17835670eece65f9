// What every attention kernel computes alike, bit for bit: the geometry of an item of the work list, the online softmax of a page of 64
// keys, the state of a chunk and how chunks meet, partials, and the end of a row.
//
// A kernel differs in how operands reach its multiplications. It keeps the numbers of a row by four promises:
// - scores are sums over ascending k16 steps from zero, and a page's weights x values are added in ascending k16 steps of keys to the
//   accumulator that `rescale` left;
// - pages of a chunk come in ascending order; a chunk starts at a multiple of GRIDPOINT_CHUNK_TOKENS from `clear` and ends with
//   `finish_chunk`;
// - chunks meet in ascending order in `merge` alone;
// - rows leave through `row_inverse` and `normalised`.
// A 16-key group that is masked for all 16 rows of a warp may be left out of both products: it adds zeros (see `normalised` for their signs).
//
// Accumulators are those of mma.sync m16n8k16 and wgmma m64nNk16, which agree: of 16 rows of a warp a thread holds rows lane / 4 (half 0) and
// lane / 4 + 8 (half 1), of column tile n (8 columns) elements n * 4 + half * 2 + {0, 1} in columns n * 8 + lane % 4 * 2 + {0, 1}.
#pragma once
#include "element.cuh"
#include "tile.cuh"

namespace gridpoint {

constexpr uint32_t kPage = GRIDPOINT_PAGE_TOKENS;
constexpr uint32_t kChunkPages = GRIDPOINT_CHUNK_TOKENS / kPage;
// Query rows of a warp, and of a partial.
constexpr uint32_t kWarpRows = 16;
// Keys of one k16 step of weights x values.
constexpr uint32_t kGroup = 16;
// Elements of 16 bytes.
constexpr uint32_t kVector = 8;
constexpr float kLog2E = 1.44269504088896340736f;
// Two NaNs, of either element type.
constexpr uint32_t kPackedNaN = 0x7fff7fffu;

static_assert(GRIDPOINT_ATTENTION_SPLIT_ROWS == kWarpRows, "a split item's rows are those of one warp's tiles");
static_assert(GRIDPOINT_CHUNK_TOKENS % kPage == 0, "chunks are whole pages");

// ---- geometry -----------------------------------------------------------------------------------------------------------------

// The tile of one item and one key-value head.
struct Tile {
  uint32_t request;
  uint32_t kv_head;
  uint32_t first_token;  // row of the request's first token in the step
  uint32_t first_row;    // of the tile, in the request
  uint32_t live_rows;
  uint32_t group;
  // Tokens that a row of the request's first new token sees, less one: row r sees cached_before + r / group + 1.
  int32_t cached_before;
  uint32_t limit;  // tokens that the last live row sees
  uint32_t first_page;
  uint32_t end_page;
};

// Tokens that row `row` of the tile sees; none behind its last live row.
GRIDPOINT_DEVICE uint32_t row_limit(const Tile& tile, uint32_t row) {
  if (row >= tile.live_rows) return 0;
  const int32_t limit = tile.cached_before + static_cast<int32_t>((tile.first_row + row) / tile.group) + 1;
  return limit > 0 ? static_cast<uint32_t>(limit) : 0;
}

// The tile of `TileRows` query rows, as the schedule was told.
template <uint32_t TileRows>
GRIDPOINT_DEVICE Tile tile_of(const AttentionParameters& parameters, const AttentionWork& work, uint32_t kv_head) {
  const StepHeader* step = parameters.step;
  const int32_t* query_starts = section<int32_t>(step, step->query_starts_offset) + work.request;
  Tile tile;
  tile.request = work.request;
  tile.kv_head = kv_head;
  tile.first_token = static_cast<uint32_t>(query_starts[0]);
  tile.first_row = work.first_row;
  tile.group = parameters.query_heads / parameters.kv_heads;
  const uint32_t queries = static_cast<uint32_t>(query_starts[1] - query_starts[0]);
  tile.live_rows = minimum(queries * tile.group - work.first_row, TileRows);
  tile.cached_before = section<int32_t>(step, step->kv_lengths_offset)[work.request] - static_cast<int32_t>(queries);
  tile.limit = row_limit(tile, tile.live_rows - 1);
  tile.first_page = work.first_chunk * kChunkPages;
  tile.end_page = minimum((work.first_chunk + work.chunk_count) * kChunkPages, ceiling_divide(tile.limit, kPage));
  return tile;
}

// Element offset of a tile row's head in a matrix of `pitch` elements a token, query heads first.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE uint64_t row_offset(const Tile& tile, uint32_t row, uint64_t pitch) {
  const uint32_t token = (tile.first_row + row) / tile.group;
  const uint32_t head = tile.kv_head * tile.group + (tile.first_row + row) % tile.group;
  return (tile.first_token + token) * pitch + uint64_t{head} * HeadDim;
}

// The request's pages.
GRIDPOINT_DEVICE const int32_t* page_table(const AttentionParameters& parameters, const Tile& tile) {
  const StepHeader* step = parameters.step;
  return section<int32_t>(step, step->page_table_offset) + uint64_t{tile.request} * step->page_table_stride;
}

// What a warp knows of its 16 rows: limits of this thread's two rows, and the least and greatest of the warp's.
struct WarpRows {
  uint32_t limit[2];
  uint32_t least;
  uint32_t greatest;
};

// Of the warp whose rows start at row `first` of the tile.
GRIDPOINT_DEVICE WarpRows warp_rows(const Tile& tile, uint32_t first) {
  WarpRows rows;
  rows.limit[0] = row_limit(tile, first + lane_index() / 4);
  rows.limit[1] = row_limit(tile, first + lane_index() / 4 + 8);
  const uint32_t live = first < tile.live_rows ? minimum(tile.live_rows - first, kWarpRows) : 0;
  rows.least = live == kWarpRows ? row_limit(tile, first) : 0;
  rows.greatest = live > 0 ? row_limit(tile, first + live - 1) : 0;
  return rows;
}

// How many 16-key groups of the page at `first_token` one of the warp's rows sees.
GRIDPOINT_DEVICE uint32_t live_groups(const WarpRows& rows, uint32_t first_token) {
  return rows.greatest > first_token ? ceiling_divide(minimum(rows.greatest - first_token, kPage), kGroup) : 0;
}

// ---- states of rows -----------------------------------------------------------------------------------------------------------

// Of a thread's two rows: the greatest score in units of log2, and the sum of weights relative to it. Inside a chunk the sum is that of this
// lane's columns.
struct RowStatistics {
  float maximum[2];
  float sum[2];
};

// Accumulators of a thread for `Columns` tiles of 8 columns.
template <uint32_t Columns>
struct RowState {
  float output[Columns * 4];
  RowStatistics rows;
};

// A flat array of accumulators as the instructions of mma take it: one row of tiles.
template <int Words>
GRIDPOINT_DEVICE float (&accumulator_tiles(float (&words)[Words]))[1][Words / 4][4] {
  return reinterpret_cast<float(&)[1][Words / 4][4]>(words);
}

// The two column tiles of 16-key group `group` among the scores of a page.
GRIDPOINT_DEVICE float (&group_tiles(float (&scores)[kPage / 2], uint32_t group))[1][2][4] {
  return reinterpret_cast<float(&)[1][2][4]>(scores[group * (kGroup / 2)]);
}

// What exponents are taken relative to: the maximum, or 0 for a row that has seen nothing yet, whose weights are then 2^-infinity = 0.
GRIDPOINT_DEVICE float finite_reference(float greatest) { return greatest == minus_infinity() ? 0.0f : greatest; }

template <uint32_t Columns>
GRIDPOINT_DEVICE void clear(RowState<Columns>& state) {
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < Columns * 4; ++i) state.output[i] = 0.0f;
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    state.rows.maximum[half] = minus_infinity();
    state.rows.sum[half] = 0.0f;
  }
}

// Adds the next chunk to `total`: the one place where chunks meet, for tiles and for split items. The first live chunk gets the factors 0 for
// what was there and 1 for itself, one that is masked for the row 1 and 0: copies, bit for bit.
template <uint32_t Columns>
GRIDPOINT_DEVICE void merge(RowState<Columns>& total, const RowState<Columns>& chunk) {
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    const float greatest = maximum(total.rows.maximum[half], chunk.rows.maximum[half]);
    const float reference = finite_reference(greatest);
    const float total_factor = exp2_approximate(total.rows.maximum[half] - reference);
    const float chunk_factor = exp2_approximate(chunk.rows.maximum[half] - reference);
    total.rows.maximum[half] = greatest;
    total.rows.sum[half] = fused_multiply_add(chunk.rows.sum[half], chunk_factor, total.rows.sum[half] * total_factor);
    GRIDPOINT_UNROLL
    for (uint32_t n = 0; n < Columns; ++n) {
      GRIDPOINT_UNROLL
      for (uint32_t i = n * 4 + half * 2; i < n * 4 + half * 2 + 2; ++i) {
        total.output[i] = fused_multiply_add(chunk.output[i], chunk_factor, total.output[i] * total_factor);
      }
    }
  }
}

// Ends a chunk: the sums of a row's four lanes are added, once.
GRIDPOINT_DEVICE void finish_chunk(RowStatistics& rows) {
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    rows.sum[half] += shuffle_xor(rows.sum[half], 1);
    rows.sum[half] += shuffle_xor(rows.sum[half], 2);
  }
}

// ---- a page -------------------------------------------------------------------------------------------------------------------

// Replaces the scores of tokens behind each row's limit; `first_token` is the page's. What was there may be anything but trapping.
GRIDPOINT_DEVICE void mask_scores(float (&scores)[kPage / 2], const WarpRows& rows, uint32_t first_token) {
  if (first_token + kPage <= rows.least) return;
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    // From this lane's first token of the page on.
    const int32_t visible = static_cast<int32_t>(rows.limit[half] - first_token - lane_index() % 4 * 2);
    GRIDPOINT_UNROLL
    for (uint32_t n = 0; n < kPage / 8; ++n) {
      GRIDPOINT_UNROLL
      for (uint32_t i = 0; i < 2; ++i) {
        if (static_cast<int32_t>(n * 8 + i) >= visible) scores[n * 4 + half * 2 + i] = minus_infinity();
      }
    }
  }
}

// Masked scores of a page become weights 2^(score - maximum), and the chunk's statistics count them. `scale` includes log2(e). `factor` is what
// the chunk's accumulators take before the page's weights x values are added.
GRIDPOINT_DEVICE void page_softmax(RowStatistics& chunk, float (&scores)[kPage / 2], float (&factor)[2], float scale) {
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    float greatest = scores[half * 2];
    GRIDPOINT_UNROLL
    for (uint32_t n = 0; n < kPage / 8; ++n) greatest = maximum(greatest, maximum(scores[n * 4 + half * 2], scores[n * 4 + half * 2 + 1]));
    greatest = maximum(greatest, shuffle_xor(greatest, 1));
    greatest = maximum(greatest, shuffle_xor(greatest, 2));
    greatest = maximum(chunk.maximum[half], greatest * scale);
    const float reference = finite_reference(greatest);
    factor[half] = exp2_approximate(chunk.maximum[half] - reference);
    chunk.maximum[half] = greatest;
    float sum = chunk.sum[half] * factor[half];
    GRIDPOINT_UNROLL
    for (uint32_t n = 0; n < kPage / 8; ++n) {
      GRIDPOINT_UNROLL
      for (uint32_t i = n * 4 + half * 2; i < n * 4 + half * 2 + 2; ++i) {
        scores[i] = exp2_approximate(fused_multiply_add(scores[i], scale, -reference));
        sum += scores[i];
      }
    }
    chunk.sum[half] = sum;
  }
}

// Accumulators relative to the page's new maximum.
template <int Words>
GRIDPOINT_DEVICE void rescale(float (&output)[Words], const float (&factor)[2]) {
  GRIDPOINT_UNROLL
  for (int i = 0; i < Words; ++i) output[i] *= factor[i / 2 % 2];
}

// The weights of keys 16 * group .. 16 * group + 15 of the page, rounded to elements, as the 16 x 16 operand of mma and of wgmma.
template <typename Element>
GRIDPOINT_DEVICE void pack_weights(uint32_t (&a)[4], const float (&weights)[kPage / 2], uint32_t group) {
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < 4; ++i) a[i] = Element::pack(weights[group * 8 + i * 2], weights[group * 8 + i * 2 + 1]);
}

// ---- the end of a row ---------------------------------------------------------------------------------------------------------

// A row without keys would be 0 / 0; the list has none.
GRIDPOINT_DEVICE float row_inverse(float sum) { return sum == 0.0f ? 0.0f : divide(1.0f, sum); }

// The only trace that a masked page could leave, the sign of a zero, is removed by adding +0.
GRIDPOINT_DEVICE float normalised(float value, float inverse) { return fused_multiply_add(value, inverse, 0.0f); }

// Writes `Columns` column tiles from `first_column` on of the 16 rows from `first_row` on: normalised and rounded into `rows`, a tile of
// elements in shared memory (swizzled<HeadDim * 2>), then as 16-byte vectors to the live rows of the output. One warp's work: nobody else may
// be reading or writing these columns of `rows`.
template <typename Element, uint32_t HeadDim, uint32_t Columns>
GRIDPOINT_DEVICE void store_output(const AttentionParameters& parameters, const Tile& tile, uint32_t* rows, const RowState<Columns>& total,
                                   uint32_t first_row, uint32_t first_column) {
  const uint32_t lane = lane_index();
  // ldmatrix of the queries orders nothing: another lane may have read them at the addresses that this one writes.
  warp_barrier();
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    const float inverse = row_inverse(total.rows.sum[half]);
    GRIDPOINT_UNROLL
    for (uint32_t n = 0; n < Columns; ++n) {
      const uint32_t offset = swizzled<HeadDim * 2>(first_row + half * 8 + lane / 4, first_column + n);
      rows[offset / 4 + lane % 4] =
          Element::pack(normalised(total.output[n * 4 + half * 2], inverse), normalised(total.output[n * 4 + half * 2 + 1], inverse));
    }
  }
  warp_barrier();
  const uint64_t pitch = uint64_t{parameters.query_heads} * HeadDim;
  for (uint32_t i = lane; i < kWarpRows * Columns; i += kWarpThreads) {
    // Eight lanes read in one turn: of one row where it has as many vectors, else of eight rows, which the swizzle keeps apart.
    const uint32_t row = first_row + (Columns < 8 ? i % kWarpRows : i / Columns);
    const uint32_t column = first_column + (Columns < 8 ? i / kWarpRows : i % Columns);
    if (row >= tile.live_rows) continue;
    const Vector16 vector = load_shared16(shared_address(rows) + swizzled<HeadDim * 2>(row, column));
    store16(parameters.output + row_offset<HeadDim>(tile, row, pitch) + column * kVector, vector);
  }
}

// A refused list (schedule.cu): every live row becomes NaN.
template <uint32_t HeadDim, uint32_t Threads>
GRIDPOINT_DEVICE void poison_output(const AttentionParameters& parameters) {
  const uint64_t vectors = uint64_t{parameters.step->tokens} * parameters.query_heads * (HeadDim / kVector);
  for (uint64_t i = block_index() * Threads + thread_index(); i < vectors; i += uint64_t{grid_blocks()} * Threads) {
    store16(parameters.output + i * kVector, Vector16{{kPackedNaN, kPackedNaN, kPackedNaN, kPackedNaN}});
  }
}

// ---- parts of a split item ----------------------------------------------------------------------------------------------------
//
// A partial is a chunk's accumulators for 16 rows in fragment order, float [d / 8][lane][4], so that every access is 16 bytes a lane and
// coalesced, and for each row (maximum, sum).

// Where the partial of one part and head lies, in rows of 16.
GRIDPOINT_DEVICE uint64_t partial_index(const AttentionParameters& parameters, const AttentionWork& work, uint32_t part, uint32_t kv_head) {
  return uint64_t{work.first_partial + part} * parameters.kv_heads + kv_head;
}

// Stores column tiles from `first_column` on of a finished chunk; the rows' statistics with the first.
template <uint32_t HeadDim, uint32_t Columns>
GRIDPOINT_DEVICE void store_partial(const AttentionParameters& parameters, uint64_t index, const RowState<Columns>& chunk, uint32_t first_column) {
  float* output = parameters.partial_output + index * (kWarpRows * HeadDim);
  float* state = parameters.partial_state + index * (kWarpRows * 2);
  const uint32_t lane = lane_index();
  GRIDPOINT_UNROLL
  for (uint32_t n = 0; n < Columns; ++n) {
    Vector16 vector;
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < 4; ++i) vector.word[i] = float_bits(chunk.output[n * 4 + i]);
    store16(output + ((first_column + n) * kWarpThreads + lane) * 4, vector);
  }
  if (first_column == 0 && lane % 4 == 0) {
    GRIDPOINT_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
      state[(lane / 4 + half * 8) * 2] = chunk.rows.maximum[half];
      state[(lane / 4 + half * 8) * 2 + 1] = chunk.rows.sum[half];
    }
  }
}

// Counts this block's part as there. True in the last block to arrive, for all its threads: it merges, and has left the counter at zero for the
// next layer. Every thread calls it, behind a barrier of the block that follows the part's stores; `arrived` is a word of shared memory.
GRIDPOINT_DEVICE bool arrive_last(const AttentionParameters& parameters, const AttentionWork& work, uint32_t kv_head, uint32_t* arrived) {
  uint32_t* counter = parameters.counters + uint64_t{work.counter} * parameters.kv_heads + kv_head;
  if (thread_index() == 0) {
    fence_device();
    *arrived = atomic_add_device(counter, 1);
  }
  block_barrier();
  if (*arrived + 1 != work.part_count) return false;
  fence_device();
  if (thread_index() == 0) *counter = 0;
  return true;
}

// Words of shared memory that `merge_partials` takes for `Parts` parts in flight, and for their rows' states in each of `Warps` warps.
template <uint32_t HeadDim, uint32_t Parts>
constexpr uint32_t kMergePartWords = Parts * kWarpRows * HeadDim;
template <uint32_t Warps, uint32_t Parts>
constexpr uint32_t kMergeStateWords = Warps * Parts * kWarpRows * 2;

// Merges all parts of a split item in ascending order; warp `warp` of `Warps` takes its share of the columns. Partials pass through shared
// memory, `Parts` in flight: a lane copies the accumulators that it merges, a warp its own copy of the rows' states. The output leaves through
// `rows` as in `store_output`. All three places are multiples of 16 bytes and lie apart.
template <typename Element, uint32_t HeadDim, uint32_t Warps, uint32_t Parts>
GRIDPOINT_DEVICE void merge_partials(const AttentionParameters& parameters, const Tile& tile, const AttentionWork& work, uint32_t warp,
                                     uint32_t* parts_words, uint32_t* state_words, uint32_t* rows) {
  constexpr uint32_t kColumns = HeadDim / 8 / Warps;
  constexpr uint32_t kPartWords = kWarpRows * HeadDim;
  constexpr uint32_t kStateWords = kWarpRows * 2;
  static_assert(kColumns * 8 * Warps == HeadDim, "warps share the columns of a head evenly");
  const uint32_t lane = lane_index();
  const uint32_t first_column = warp * kColumns;
  const uint32_t part_target = shared_address(parts_words);
  uint32_t* warp_states = state_words + warp * (Parts * kStateWords);
  const uint32_t state_target = shared_address(warp_states);
  RowState<kColumns> total;
  clear(total);
  for (uint32_t first = 0; first < work.part_count; first += Parts) {
    const uint32_t parts = minimum(work.part_count - first, Parts);
    for (uint32_t i = 0; i < parts; ++i) {
      const uint64_t index = partial_index(parameters, work, first + i, tile.kv_head);
      GRIDPOINT_UNROLL
      for (uint32_t n = 0; n < kColumns; ++n) {
        const uint32_t offset = ((first_column + n) * kWarpThreads + lane) * 4;
        copy_async16(part_target + (i * kPartWords + offset) * 4, parameters.partial_output + index * kPartWords + offset, 16);
      }
      if (lane < kStateWords / 4) {
        copy_async16(state_target + (i * kStateWords + lane * 4) * 4, parameters.partial_state + index * kStateWords + lane * 4, 16);
      }
    }
    copy_async_commit();
    copy_async_wait<0>();
    warp_barrier();
    for (uint32_t i = 0; i < parts; ++i) {
      RowState<kColumns> part;
      GRIDPOINT_UNROLL
      for (uint32_t n = 0; n < kColumns; ++n) {
        const Vector16 vector = load_shared16(part_target + (i * kPartWords + ((first_column + n) * kWarpThreads + lane) * 4) * 4);
        GRIDPOINT_UNROLL
        for (uint32_t element = 0; element < 4; ++element) part.output[n * 4 + element] = float_from_bits(vector.word[element]);
      }
      GRIDPOINT_UNROLL
      for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t row = lane / 4 + half * 8;
        part.rows.maximum[half] = float_from_bits(warp_states[i * kStateWords + row * 2]);
        part.rows.sum[half] = float_from_bits(warp_states[i * kStateWords + row * 2 + 1]);
      }
      merge(total, part);
    }
    warp_barrier();
  }
  store_output<Element, HeadDim>(parameters, tile, rows, total, 0, first_column);
}

}  // namespace gridpoint

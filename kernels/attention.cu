// Paged causal attention over the work list of schedule.cu: decode and ragged prefill in one launch.
//
// Shapes: queries bf16 [T, Hq * d]; caches bf16 [pages, Hkv, 64, d]; output bf16
// [T, Hq * d]. Query rows of a request are numbered token * group + head of the group, any group from 1 to 16 (packing a group into the
// rows of one tile: XQA, FlashInfer). The row of token i of a request with q new tokens and l cached ones sees keys [0, l - q + i].
// Work: a persistent grid walks items x key-value heads; a block of 4 warps takes a tile of 64 query rows, 16 a warp, and streams 64-token
// pages through a double buffer in shared memory (cp.async), one barrier a page. S = Q K^T and O += P V are mma.sync m16n8k16 in
// float32 with an online softmax in base 2 (FlashAttention-2, arXiv 2307.08691); P goes from accumulators to operands in registers.
// A decode-like item is the same tile with at most 16 live rows: warp 0 computes, the others help to load. sm_80 instructions only.
//
// Bits of a row do not depend on its tile, its batch, the grid, or how its prompt was chunked:
// - Chunks of 512 keys stand at absolute positions. Each is accumulated from zero over its pages in ascending order, and the lanes of a
//   row's sum are added once, at the end of the chunk.
// - Chunks are merged in ascending order by `merge`, by the tile itself or, for split items, by the last block to arrive, from float32
//   partials. A chunk that is masked for the row changes nothing.
// - A page that is masked for a row changes nothing: its maximum stays, its factor is 2^0, its weights are 0 and its values finite.
//   The only trace a masked page could leave, the sign of a zero, is removed at the end by adding +0.
// What lies behind a tile's causal limit in a page is never read: those rows of K and V arrive in shared memory as zeros, and scores behind a
// row's own limit are replaced, not added to, before the maximum.
//
// Shared memory: queries 64 * d * 2 bytes, two buffers of keys and values 64 * d * 2 bytes each, 16 bytes: 40976 bytes for d = 64
// (4 blocks on 164 KiB, 5 on 228 KiB), 81936 for d = 128 (2 blocks on either).
// Partials: a warp's accumulators in fragment order, [d / 8][lane][4], so that every access is 16 bytes a lane and coalesced.
//
// Every thread waits for the kernel before it first of all, also where the list has nothing for its block or is refused: the list and the
// caches are written in this step.
#include "tile.cuh"

namespace gridpoint {
namespace {

constexpr uint32_t kAttentionThreads = GRIDPOINT_ATTENTION_THREADS;
constexpr uint32_t kAttentionWarps = kAttentionThreads / kWarpThreads;
constexpr uint32_t kTileRows = GRIDPOINT_ATTENTION_TILE_ROWS;
constexpr uint32_t kWarpRows = 16;
constexpr uint32_t kPage = GRIDPOINT_PAGE_TOKENS;
constexpr uint32_t kChunkPages = GRIDPOINT_CHUNK_TOKENS / kPage;
// bf16 elements of 16 bytes.
constexpr uint32_t kVector = 8;
constexpr float kLog2E = 1.44269504088896340736f;
// Two bf16 NaNs.
constexpr uint32_t kPackedNaN = 0x7fff7fffu;
// Parts whose partials are in flight together while they are merged.
constexpr uint32_t kPartsInFlight = 8;

static_assert(kTileRows == kAttentionWarps * kWarpRows, "each warp owns one row of mma tiles");
static_assert(GRIDPOINT_ATTENTION_SPLIT_ROWS == kWarpRows, "a split item's rows are those of warp 0");
static_assert(GRIDPOINT_CHUNK_TOKENS % kPage == 0, "chunks are whole pages");

template <uint32_t HeadDim>
struct alignas(16) AttentionShared {
  uint32_t query[kTileRows * HeadDim / 2];
  // Two pages of keys, two pages of values.
  uint32_t pages[4 * kPage * HeadDim / 2];
  uint32_t arrived[4];
};

static_assert(sizeof(AttentionShared<64>) == GRIDPOINT_ATTENTION_D64_SHARED_BYTES, "the host launches with the bytes that the kernel uses");
static_assert(sizeof(AttentionShared<128>) == GRIDPOINT_ATTENTION_D128_SHARED_BYTES, "the host launches with the bytes that the kernel uses");

// Accumulators of a thread: rows lane / 4 (half 0) and lane / 4 + 8 (half 1) of its warp, `Columns` tiles of 8 columns.
template <uint32_t Columns>
struct RowState {
  float output[1][Columns][4];
  // Greatest score of each row, in units of log2.
  float maximum[2];
  float sum[2];
};

// What exponents are taken relative to: the maximum, or 0 for a row that has seen nothing yet, whose weights are then 2^-infinity = 0.
GRIDPOINT_DEVICE float finite_reference(float greatest) { return greatest == minus_infinity() ? 0.0f : greatest; }

template <uint32_t Columns>
GRIDPOINT_DEVICE void clear(RowState<Columns>& state) {
  GRIDPOINT_UNROLL
  for (uint32_t n = 0; n < Columns; ++n) {
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < 4; ++i) state.output[0][n][i] = 0.0f;
  }
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    state.maximum[half] = minus_infinity();
    state.sum[half] = 0.0f;
  }
}

// Adds the next chunk to `total`: the one place where chunks meet, for tiles and for split items. The first live chunk gets the factors 0 for
// what was there and 1 for itself, one that is masked for the row 1 and 0: copies, bit for bit.
template <uint32_t Columns>
GRIDPOINT_DEVICE void merge(RowState<Columns>& total, const RowState<Columns>& chunk) {
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    const float greatest = maximum(total.maximum[half], chunk.maximum[half]);
    const float reference = finite_reference(greatest);
    const float total_factor = exp2_approximate(total.maximum[half] - reference);
    const float chunk_factor = exp2_approximate(chunk.maximum[half] - reference);
    total.maximum[half] = greatest;
    total.sum[half] = fused_multiply_add(chunk.sum[half], chunk_factor, total.sum[half] * total_factor);
    GRIDPOINT_UNROLL
    for (uint32_t n = 0; n < Columns; ++n) {
      GRIDPOINT_UNROLL
      for (uint32_t i = half * 2; i < half * 2 + 2; ++i) {
        total.output[0][n][i] = fused_multiply_add(chunk.output[0][n][i], chunk_factor, total.output[0][n][i] * total_factor);
      }
    }
  }
}

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
  tile.live_rows = minimum(queries * tile.group - work.first_row, kTileRows);
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

// Starts the copy of the live query rows; the rest of the last warp's rows become zeros.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void load_queries(const AttentionParameters& parameters, const Tile& tile, uint32_t target) {
  constexpr uint32_t kRowVectors = HeadDim / kVector;
  const uint64_t pitch = uint64_t{parameters.query_heads} * HeadDim;
  const uint32_t vectors = ceiling_divide(tile.live_rows, kWarpRows) * kWarpRows * kRowVectors;
  for (uint32_t i = thread_index(); i < vectors; i += kAttentionThreads) {
    const uint32_t row = i / kRowVectors;
    const uint32_t vector = i % kRowVectors;
    const bool live = row < tile.live_rows;
    const uint16_t* source = parameters.queries + (live ? row_offset<HeadDim>(tile, row, pitch) + vector * kVector : 0);
    copy_async16(target + swizzled<HeadDim * 2>(row, vector), source, live ? 16 : 0);
  }
}

// Starts the copy of one page of keys and values of the tile's head; tokens behind the tile's limit become zeros.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void load_page(const AttentionParameters& parameters, const Tile& tile, uint32_t page, int32_t page_id, uint32_t key, uint32_t value) {
  constexpr uint32_t kRowVectors = HeadDim / kVector;
  static_assert(kPage * kRowVectors % kAttentionThreads == 0, "every thread copies as many vectors of a page");
  const uint64_t base = (static_cast<uint64_t>(page_id) * parameters.kv_heads + tile.kv_head) * (kPage * HeadDim);
  const uint32_t tokens = tile.limit - page * kPage;
  GRIDPOINT_UNROLL
  for (uint32_t step = 0; step < kPage * kRowVectors / kAttentionThreads; ++step) {
    const uint32_t i = step * kAttentionThreads + thread_index();
    const uint32_t token = i / kRowVectors;
    const uint32_t bytes = token < tokens ? 16 : 0;
    const uint64_t offset = base + i * kVector;
    const uint32_t place = swizzled<HeadDim * 2>(token, i % kRowVectors);
    copy_async16(key + place, parameters.key_cache + offset, bytes);
    copy_async16(value + place, parameters.value_cache + offset, bytes);
  }
}

// What a warp knows of its rows: limits of this thread's two rows, and the least and greatest of the warp's.
struct WarpRows {
  uint32_t limit[2];
  uint32_t least;
  uint32_t greatest;
};

GRIDPOINT_DEVICE WarpRows warp_rows(const Tile& tile) {
  const uint32_t first = warp_index() * kWarpRows;
  WarpRows rows;
  rows.limit[0] = row_limit(tile, first + lane_index() / 4);
  rows.limit[1] = row_limit(tile, first + lane_index() / 4 + 8);
  const uint32_t live = first < tile.live_rows ? minimum(tile.live_rows - first, kWarpRows) : 0;
  rows.least = live == kWarpRows ? row_limit(tile, first) : 0;
  rows.greatest = live > 0 ? row_limit(tile, first + live - 1) : 0;
  return rows;
}

// Raw scores of the warp's 16 rows against the 64 tokens of a page.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void page_scores(float (&scores)[1][kPage / 8][4], uint32_t query, uint32_t key) {
  const uint32_t lane = lane_index();
  // Places of this lane's rows for the first k16 step; two chunks further is an xor of 32, as the swizzle is one, and leaves the row.
  const uint32_t query_place = swizzled<HeadDim * 2>(warp_index() * kWarpRows + lane % 16, lane / 16);
  const uint32_t key_place = swizzled<HeadDim * 2>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  GRIDPOINT_UNROLL
  for (uint32_t n = 0; n < kPage / 8; ++n) {
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < 4; ++i) scores[0][n][i] = 0.0f;
  }
  GRIDPOINT_UNROLL
  for (uint32_t k = 0; k < HeadDim / 16; ++k) {
    uint32_t a[1][4];
    load_matrix_x4(a[0], query + (query_place ^ (k << 5)));
    uint32_t b[kPage / 8][2];
    GRIDPOINT_UNROLL
    for (uint32_t pair = 0; pair < kPage / 16; ++pair) {
      uint32_t fragment[4];
      load_matrix_x4(fragment, key + pair * (16 * HeadDim * 2) + (key_place ^ (k << 5)));
      b[pair * 2][0] = fragment[0];
      b[pair * 2][1] = fragment[1];
      b[pair * 2 + 1][0] = fragment[2];
      b[pair * 2 + 1][1] = fragment[3];
    }
    mma_bf16(scores, a, b);
  }
}

// Scores become weights 2^(score - maximum); the chunk's state is rescaled to the new maximum. `scale` includes log2(e).
template <uint32_t Columns>
GRIDPOINT_DEVICE void page_softmax(RowState<Columns>& chunk, float (&scores)[1][kPage / 8][4], const WarpRows& rows, uint32_t first_token, float scale) {
  if (first_token + kPage > rows.least) {
    GRIDPOINT_UNROLL
    for (uint32_t n = 0; n < kPage / 8; ++n) {
      GRIDPOINT_UNROLL
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t token = first_token + n * 8 + lane_index() % 4 * 2 + i % 2;
        if (token >= rows.limit[i / 2]) scores[0][n][i] = minus_infinity();
      }
    }
  }
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    float greatest = scores[0][0][half * 2];
    GRIDPOINT_UNROLL
    for (uint32_t n = 0; n < kPage / 8; ++n) greatest = maximum(greatest, maximum(scores[0][n][half * 2], scores[0][n][half * 2 + 1]));
    greatest = maximum(greatest, shuffle_xor(greatest, 1));
    greatest = maximum(greatest, shuffle_xor(greatest, 2));
    greatest = maximum(chunk.maximum[half], greatest * scale);
    const float reference = finite_reference(greatest);
    const float factor = exp2_approximate(chunk.maximum[half] - reference);
    chunk.maximum[half] = greatest;
    float sum = chunk.sum[half] * factor;
    GRIDPOINT_UNROLL
    for (uint32_t n = 0; n < kPage / 8; ++n) {
      GRIDPOINT_UNROLL
      for (uint32_t i = half * 2; i < half * 2 + 2; ++i) {
        scores[0][n][i] = exp2_approximate(fused_multiply_add(scores[0][n][i], scale, -reference));
        sum += scores[0][n][i];
      }
    }
    chunk.sum[half] = sum;
    GRIDPOINT_UNROLL
    for (uint32_t n = 0; n < Columns; ++n) {
      chunk.output[0][n][half * 2] *= factor;
      chunk.output[0][n][half * 2 + 1] *= factor;
    }
  }
}

// Adds weights x values of a page.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void page_values(RowState<HeadDim / 8>& chunk, const float (&weights)[1][kPage / 8][4], uint32_t value) {
  const uint32_t lane = lane_index();
  const uint32_t value_place = swizzled<HeadDim * 2>(lane % 16, lane / 16);
  GRIDPOINT_UNROLL
  for (uint32_t k = 0; k < kPage / 16; ++k) {
    uint32_t a[1][4];
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < 4; ++i) a[0][i] = pack_bf16(weights[0][k * 2 + i / 2][i % 2 * 2], weights[0][k * 2 + i / 2][i % 2 * 2 + 1]);
    uint32_t b[HeadDim / 8][2];
    GRIDPOINT_UNROLL
    for (uint32_t pair = 0; pair < HeadDim / 16; ++pair) {
      uint32_t fragment[4];
      load_matrix_x4_transposed(fragment, value + k * (16 * HeadDim * 2) + (value_place ^ (pair << 5)));
      b[pair * 2][0] = fragment[0];
      b[pair * 2][1] = fragment[1];
      b[pair * 2 + 1][0] = fragment[2];
      b[pair * 2 + 1][1] = fragment[3];
    }
    mma_bf16(chunk.output, a, b);
  }
}

// Writes `Columns` column tiles from `first_column` on of 16 rows: normalised and rounded into this warp's part of the query buffer, then
// as 16-byte vectors to the live rows of the output.
template <uint32_t HeadDim, uint32_t Columns>
GRIDPOINT_DEVICE void store_output(const AttentionParameters& parameters, const Tile& tile, AttentionShared<HeadDim>& memory, const RowState<Columns>& total,
                                   uint32_t first_row, uint32_t first_column) {
  const uint32_t lane = lane_index();
  // ldmatrix of the queries orders nothing: another lane may have read them at the addresses that this one writes.
  warp_barrier();
  GRIDPOINT_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    // A row without keys would be 0 / 0; the list has none.
    const float inverse = total.sum[half] == 0.0f ? 0.0f : divide(1.0f, total.sum[half]);
    GRIDPOINT_UNROLL
    for (uint32_t n = 0; n < Columns; ++n) {
      const uint32_t offset = swizzled<HeadDim * 2>(first_row + half * 8 + lane / 4, first_column + n);
      memory.query[offset / 4 + lane % 4] = pack_bf16(fused_multiply_add(total.output[0][n][half * 2], inverse, 0.0f),
                                                      fused_multiply_add(total.output[0][n][half * 2 + 1], inverse, 0.0f));
    }
  }
  warp_barrier();
  const uint64_t pitch = uint64_t{parameters.query_heads} * HeadDim;
  for (uint32_t i = lane; i < kWarpRows * Columns; i += kWarpThreads) {
    const uint32_t row = first_row + i / Columns;
    const uint32_t column = first_column + i % Columns;
    if (row >= tile.live_rows) continue;
    const Vector16 vector = *reinterpret_cast<const Vector16*>(&memory.query[swizzled<HeadDim * 2>(row, column) / 4]);
    store16(parameters.output + row_offset<HeadDim>(tile, row, pitch) + column * kVector, vector);
  }
}

// Where the partial of one part and head lies, in rows of 16.
GRIDPOINT_DEVICE uint64_t partial_index(const AttentionParameters& parameters, const AttentionWork& work, uint32_t part, uint32_t kv_head) {
  return uint64_t{work.first_partial + part} * parameters.kv_heads + kv_head;
}

template <uint32_t HeadDim>
GRIDPOINT_DEVICE void store_partial(const AttentionParameters& parameters, uint64_t index, const RowState<HeadDim / 8>& chunk) {
  float* output = parameters.partial_output + index * (kWarpRows * HeadDim);
  float* state = parameters.partial_state + index * (kWarpRows * 2);
  const uint32_t lane = lane_index();
  GRIDPOINT_UNROLL
  for (uint32_t n = 0; n < HeadDim / 8; ++n) {
    Vector16 vector;
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < 4; ++i) vector.word[i] = float_bits(chunk.output[0][n][i]);
    store16(output + (n * kWarpThreads + lane) * 4, vector);
  }
  if (lane % 4 == 0) {
    GRIDPOINT_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
      state[(lane / 4 + half * 8) * 2] = chunk.maximum[half];
      state[(lane / 4 + half * 8) * 2 + 1] = chunk.sum[half];
    }
  }
}

// Merges all parts of a split item in ascending order; each warp takes a quarter of the columns. Partials pass through the page buffers, eight
// parts (4096 tokens) in flight: a lane copies the accumulators that it merges, a warp its own copy of the rows' states.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void merge_partials(const AttentionParameters& parameters, const Tile& tile, const AttentionWork& work, AttentionShared<HeadDim>& memory) {
  constexpr uint32_t kColumns = HeadDim / 8 / kAttentionWarps;
  constexpr uint32_t kPartWords = kWarpRows * HeadDim;
  constexpr uint32_t kStateWords = kWarpRows * 2;
  static_assert(kColumns * 8 * kAttentionWarps == HeadDim, "warps share the columns of a head evenly");
  static_assert(sizeof(memory.pages) == kPartsInFlight * kPartWords * 4, "the page buffers hold the parts in flight");
  // Behind the 16 rows of the query buffer through which the output leaves.
  constexpr uint32_t kStates = kWarpRows * HeadDim / 2;
  static_assert(kStates + kAttentionWarps * kPartsInFlight * kStateWords <= kTileRows * HeadDim / 2, "the query buffer holds output and states");
  const uint32_t lane = lane_index();
  const uint32_t first_column = warp_index() * kColumns;
  uint32_t* warp_states = memory.query + kStates + warp_index() * (kPartsInFlight * kStateWords);
  RowState<kColumns> total;
  clear(total);
  for (uint32_t first = 0; first < work.part_count; first += kPartsInFlight) {
    const uint32_t parts = minimum(work.part_count - first, kPartsInFlight);
    for (uint32_t i = 0; i < parts; ++i) {
      const uint64_t index = partial_index(parameters, work, first + i, tile.kv_head);
      GRIDPOINT_UNROLL
      for (uint32_t n = 0; n < kColumns; ++n) {
        const uint32_t offset = ((first_column + n) * kWarpThreads + lane) * 4;
        copy_async16(shared_address(memory.pages) + (i * kPartWords + offset) * 4, parameters.partial_output + index * kPartWords + offset, 16);
      }
      if (lane < kStateWords / 4) {
        copy_async16(shared_address(warp_states + i * kStateWords + lane * 4), parameters.partial_state + index * kStateWords + lane * 4, 16);
      }
    }
    copy_async_commit();
    copy_async_wait<0>();
    warp_barrier();
    for (uint32_t i = 0; i < parts; ++i) {
      RowState<kColumns> part;
      GRIDPOINT_UNROLL
      for (uint32_t n = 0; n < kColumns; ++n) {
        const uint32_t word = i * kPartWords + ((first_column + n) * kWarpThreads + lane) * 4;
        const Vector16 vector = *reinterpret_cast<const Vector16*>(&memory.pages[word]);
        GRIDPOINT_UNROLL
        for (uint32_t element = 0; element < 4; ++element) part.output[0][n][element] = float_from_bits(vector.word[element]);
      }
      GRIDPOINT_UNROLL
      for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t row = lane / 4 + half * 8;
        part.maximum[half] = float_from_bits(warp_states[i * kStateWords + row * 2]);
        part.sum[half] = float_from_bits(warp_states[i * kStateWords + row * 2 + 1]);
      }
      merge(total, part);
    }
    warp_barrier();
  }
  store_output<HeadDim>(parameters, tile, memory, total, 0, first_column);
}

template <uint32_t HeadDim>
GRIDPOINT_DEVICE void attend(const AttentionParameters& parameters, AttentionShared<HeadDim>& memory, const AttentionWork& work, uint32_t kv_head) {
  const Tile tile = tile_of(parameters, work, kv_head);
  const WarpRows rows = warp_rows(tile);
  const int32_t* pages = section<int32_t>(parameters.step, parameters.step->page_table_offset) + uint64_t{tile.request} * parameters.step->page_table_stride;
  const uint32_t query = shared_address(memory.query);
  constexpr uint32_t kBufferBytes = kPage * HeadDim * 2;
  const uint32_t key = shared_address(memory.pages);
  const uint32_t value = key + 2 * kBufferBytes;
  const float scale = parameters.scale * kLog2E;
  const bool computes = warp_index() * kWarpRows < tile.live_rows;

  // The item before may still be read.
  block_barrier();
  load_queries<HeadDim>(parameters, tile, query);
  if (tile.first_page < tile.end_page) load_page<HeadDim>(parameters, tile, tile.first_page, pages[tile.first_page], key, value);
  copy_async_commit();
  // The page table is read one page ahead of the copies.
  int32_t next_page = tile.first_page + 1 < tile.end_page ? pages[tile.first_page + 1] : 0;

  RowState<HeadDim / 8> total;
  RowState<HeadDim / 8> chunk;
  clear(total);
  clear(chunk);
  uint32_t buffer = 0;
  for (uint32_t page = tile.first_page; page < tile.end_page; ++page) {
    copy_async_wait<0>();
    block_barrier();
    if (page + 1 < tile.end_page) {
      load_page<HeadDim>(parameters, tile, page + 1, next_page, key + (buffer ^ kBufferBytes), value + (buffer ^ kBufferBytes));
      if (page + 2 < tile.end_page) next_page = pages[page + 2];
    }
    copy_async_commit();
    if (page * kPage < rows.greatest) {
      float scores[1][kPage / 8][4];
      page_scores<HeadDim>(scores, query, key + buffer);
      page_softmax(chunk, scores, rows, page * kPage, scale);
      page_values<HeadDim>(chunk, scores, value + buffer);
    }
    buffer ^= kBufferBytes;
    if (computes && ((page + 1) % kChunkPages == 0 || page + 1 == tile.end_page)) {
      GRIDPOINT_UNROLL
      for (uint32_t half = 0; half < 2; ++half) {
        chunk.sum[half] += shuffle_xor(chunk.sum[half], 1);
        chunk.sum[half] += shuffle_xor(chunk.sum[half], 2);
      }
      if (work.part_count > 1) {
        store_partial<HeadDim>(parameters, partial_index(parameters, work, work.part, kv_head), chunk);
      } else {
        merge(total, chunk);
        clear(chunk);
      }
    }
  }
  // The tile is read again rather than kept: its registers over the loop above would spill with three blocks of d = 64.
  if (work.part_count == 1) {
    if (computes) store_output<HeadDim>(parameters, tile_of(parameters, work, kv_head), memory, total, warp_index() * kWarpRows, 0);
    return;
  }
  // The last block to arrive merges; it leaves the counter at zero for the next layer.
  uint32_t* counter = parameters.counters + uint64_t{work.counter} * parameters.kv_heads + kv_head;
  block_barrier();
  if (thread_index() == 0) {
    fence_device();
    memory.arrived[0] = atomic_add_device(counter, 1);
  }
  block_barrier();
  if (memory.arrived[0] + 1 != work.part_count) return;
  fence_device();
  if (thread_index() == 0) *counter = 0;
  merge_partials<HeadDim>(parameters, tile_of(parameters, work, kv_head), work, memory);
}

// A refused list (schedule.cu): every live row becomes NaN.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void poison_output(const AttentionParameters& parameters) {
  const uint64_t vectors = uint64_t{parameters.step->tokens} * parameters.query_heads * (HeadDim / kVector);
  for (uint64_t i = uint64_t{block_index()} * kAttentionThreads + thread_index(); i < vectors; i += uint64_t{grid_blocks()} * kAttentionThreads) {
    store16(parameters.output + i * kVector, Vector16{{kPackedNaN, kPackedNaN, kPackedNaN, kPackedNaN}});
  }
}

template <uint32_t HeadDim>
GRIDPOINT_DEVICE void attention(const AttentionParameters& parameters) {
  static_assert(HeadDim % 64 == 0, "rows of shared tiles are made of 128-byte spans");
  // At once: the persistent grid leaves no room for a product's blocks, so those begin where blocks of this one have ended, or never had
  // work, and load weights while the longest items end. They wait by themselves.
  grid_launch_dependents();
  grid_dependency_wait();
  if (parameters.list->reserved[0] != 0) {
    poison_output<HeadDim>(parameters);
    return;
  }
  AttentionShared<HeadDim>& memory = shared<AttentionShared<HeadDim>>();
  const AttentionWork* items = reinterpret_cast<const AttentionWork*>(parameters.list + 1);
  const uint32_t works = parameters.list->count * parameters.kv_heads;
  for (uint32_t index = block_index(); index < works; index += grid_blocks()) {
    const AttentionWork& work = items[index / parameters.kv_heads];
    attend<HeadDim>(parameters, memory, work, index % parameters.kv_heads);
  }
  copy_async_wait<0>();
}

}  // namespace
}  // namespace gridpoint

#define ATTENTION_KERNELS(X)                                                                       \
  X(attention_d64, AttentionParameters, gridpoint::kAttentionThreads, 3, gridpoint::attention<64>) \
  X(attention_d128, AttentionParameters, gridpoint::kAttentionThreads, 2, gridpoint::attention<128>)

GRIDPOINT_MODULE(attention, ATTENTION_KERNELS)

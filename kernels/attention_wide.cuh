// The kernel of attention.cu for heads of 256 elements, whose accumulators do not fit one warp: two warps share 16 query rows.
//
// Shapes, work, items and the numbers of a row are those of attention.cu and attention.cuh. A block of 8 warps takes a tile of 64 query rows; warps
// 2 i and 2 i + 1 have rows 16 i to 16 i + 15. Each computes the scores of every other group of 16 keys, and for all keys of a page the
// output of its half of the columns; in between the pair exchanges raw scores through shared memory (4 KB, a named barrier of 64 threads), so that
// both hold the same statistics. Exponentials are computed twice; products are not. A warp loads about as many fragments for as many
// multiplications as with d = 128.
// A page comes as four stages of 32 tokens: keys, keys, values, values, through a ring of three (cp.async, two stages ahead, one barrier a
// stage). A decode-like item is the same tile with at most 16 live rows: warps 0 and 1 compute. sm_80 instructions only.
//
// Shared memory: queries 32 KB, ring 48 KB, scores 16 KB, 16 bytes: 98320 bytes, so that GPUs with 99 KB a block (sm_86, sm_89, sm_120) hold
// one block; registers allow one on the others.
#pragma once
#include "attention.cuh"

namespace gridpoint {
namespace wide {

constexpr uint32_t kHeadDim = 256;
constexpr uint32_t kThreads = GRIDPOINT_ATTENTION_D256_THREADS;
constexpr uint32_t kWarps = kThreads / kWarpThreads;
constexpr uint32_t kTileRows = GRIDPOINT_ATTENTION_TILE_ROWS;
constexpr uint32_t kRowBytes = kHeadDim * 2;
constexpr uint32_t kRowVectors = kHeadDim / kVector;
// Column tiles of a warp.
constexpr uint32_t kColumns = kHeadDim / 8 / 2;
// Tokens and bytes of a stage, and stages of the ring.
constexpr uint32_t kStageTokens = 32;
constexpr uint32_t kStageBytes = kStageTokens * kRowBytes;
constexpr uint32_t kStages = 3;
// Parts of a split item whose partials are in flight together while they are merged: ring and scores hold them, the states lie behind the 16
// rows of the query buffer through which the output leaves.
constexpr uint32_t kPartsInFlight = 4;
// Stages of a page: as many of keys as of values.
constexpr uint32_t kKeyStages = kPage / kStageTokens;

static_assert(kTileRows == kWarps / 2 * kWarpRows, "each pair of warps owns one row of mma tiles");
static_assert(kStageTokens == 2 * kGroup, "each warp of a pair has one group of keys in a stage");

struct alignas(16) WideShared {
  uint32_t query[kTileRows * kHeadDim / 2];
  uint32_t ring[kStages * kStageBytes / 4];
  // Raw scores of each pair's rows in fragment order, [pair][column tile of the page][lane][4].
  uint32_t scores[kWarps / 2 * kWarpRows * kPage];
  uint32_t arrived[4];
};

static_assert(sizeof(WideShared::ring) + sizeof(WideShared::scores) >= kMergePartWords<kHeadDim, kPartsInFlight> * 4, "ring and scores hold the parts in flight");
static_assert(kWarpRows * kHeadDim / 2 + kMergeStateWords<kWarps, kPartsInFlight> <= kTileRows * kHeadDim / 2, "the query buffer holds output and states");
static_assert(sizeof(WideShared) == GRIDPOINT_ATTENTION_D256_SHARED_BYTES, "the host launches with the bytes that the kernel uses");

// The buffers of the ring in turn: where the stage that is computed lies, and where the one two stages ahead goes.
struct Ring {
  uint32_t base;
  uint32_t current;

  GRIDPOINT_DEVICE_MEMBER uint32_t address() const { return base + current; }
  GRIDPOINT_DEVICE_MEMBER uint32_t ahead() const { return base + (current == 0 ? (kStages - 1) * kStageBytes : current - kStageBytes); }
  GRIDPOINT_DEVICE_MEMBER void advance() { current = current == (kStages - 1) * kStageBytes ? 0 : current + kStageBytes; }
};

// Starts the copy of the live query rows; the rest of the last pair's rows become zeros.
GRIDPOINT_DEVICE void load_queries(const AttentionParameters& parameters, const Tile& tile, uint32_t target) {
  const uint32_t vectors = ceiling_divide(tile.live_rows, kWarpRows) * kWarpRows * kRowVectors;
  for (uint32_t i = thread_index(); i < vectors; i += kThreads) {
    const uint32_t row = i / kRowVectors;
    const uint32_t vector = i % kRowVectors;
    const bool live = row < tile.live_rows;
    const uint16_t* source = parameters.queries + (live ? row_offset<kHeadDim>(tile, row, parameters.query_pitch) + vector * kVector : 0);
    copy_async16(target + swizzled<kRowBytes>(row, vector), source, live ? 16 : 0);
  }
}

// Starts the copy of tokens 32 * part .. 32 * part + 31 of a page of `cache`; tokens behind the tile's limit become zeros.
GRIDPOINT_DEVICE void load_stage(const AttentionParameters& parameters, const Tile& tile, const uint16_t* cache, uint32_t page, int32_t page_id, uint32_t part,
                                 uint32_t target) {
  static_assert(kStageTokens * kRowVectors % kThreads == 0, "every thread copies as many vectors of a stage");
  const uint16_t* source = cache + ((static_cast<uint64_t>(page_id) * parameters.kv_heads + tile.kv_head) * kPage + part * kStageTokens) * kHeadDim;
  const uint32_t first_token = page * kPage + part * kStageTokens;
  GRIDPOINT_UNROLL
  for (uint32_t step = 0; step < kStageTokens * kRowVectors / kThreads; ++step) {
    const uint32_t i = step * kThreads + thread_index();
    const uint32_t token = i / kRowVectors;
    copy_async16(target + swizzled<kRowBytes>(token, i % kRowVectors), source + i * kVector, first_token + token < tile.limit ? 16 : 0);
  }
}

// Raw scores of the pair's 16 rows against this warp's 16 keys of a stage, into the pair's exchange: column tiles 4 * part + 2 * side and the next.
template <typename Element>
GRIDPOINT_DEVICE void stage_scores(uint32_t query, uint32_t key, uint32_t exchange, uint32_t part, bool live) {
  const uint32_t lane = lane_index();
  const uint32_t side = warp_index() % 2;
  float scores[8];
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < 8; ++i) scores[i] = 0.0f;
  if (live) {
    const uint32_t query_place = swizzled<kRowBytes>(warp_index() / 2 * kWarpRows + lane % 16, lane / 16);
    const uint32_t key_place = swizzled<kRowBytes>(side * kGroup + lane / 16 * 8 + lane % 8, lane / 8 % 2);
    // Half at a time: the places of all sixteen steps, held over the walk of pages, would spill on sm_80 and sm_120.
    GRIDPOINT_UNROLL_8
    for (uint32_t k = 0; k < kHeadDim / 16; ++k) {
      uint32_t a[1][4];
      load_matrix_x4(a[0], query + swizzled_further<kRowBytes>(query_place, k * 2));
      uint32_t fragment[4];
      load_matrix_x4(fragment, key + swizzled_further<kRowBytes>(key_place, k * 2));
      const uint32_t b[2][2] = {{fragment[0], fragment[1]}, {fragment[2], fragment[3]}};
      Element::mma(accumulator_tiles(scores), a, b);
    }
  }
  GRIDPOINT_UNROLL
  for (uint32_t n = 0; n < 2; ++n) {
    Vector16 vector;
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < 4; ++i) vector.word[i] = float_bits(scores[n * 4 + i]);
    store_shared16(exchange + (((part * 2 + side) * 2 + n) * kWarpThreads + lane) * 16, vector);
  }
}

// Adds weights x values of a stage, this warp's half of the columns.
template <typename Element>
GRIDPOINT_DEVICE void stage_values(RowState<kColumns>& chunk, const float (&weights)[kPage / 2], uint32_t value, uint32_t part, uint32_t groups) {
  const uint32_t lane = lane_index();
  const uint32_t value_place = swizzled<kRowBytes>(lane % 16, lane / 16) + warp_index() % 2 * kRowBytes / 2;
  GRIDPOINT_UNROLL
  for (uint32_t k = 0; k < kStageTokens / 16; ++k) {
    if (part * (kStageTokens / 16) + k >= groups) break;
    uint32_t a[1][4];
    pack_weights<Element>(a[0], weights, part * (kStageTokens / 16) + k);
    // Two column tiles at a time: all fragments at once would spill.
    GRIDPOINT_UNROLL
    for (uint32_t pair = 0; pair < kColumns / 2; ++pair) {
      uint32_t fragment[4];
      load_matrix_x4_transposed(fragment, value + k * (16 * kRowBytes) + swizzled_further<kRowBytes>(value_place, pair * 2));
      const uint32_t b[2][2] = {{fragment[0], fragment[1]}, {fragment[2], fragment[3]}};
      Element::mma(reinterpret_cast<float(&)[1][2][4]>(chunk.output[pair * 8]), a, b);
    }
  }
}

template <typename Element>
GRIDPOINT_DEVICE void attend(const AttentionParameters& parameters, WideShared& memory, const AttentionWork& work, uint32_t kv_head) {
  const uint32_t pair = warp_index() / 2;
  const uint32_t side = warp_index() % 2;
  const Tile tile = tile_of<kTileRows>(parameters, work, kv_head);
  const WarpRows rows = warp_rows(tile, pair * kWarpRows);
  const int32_t* pages = page_table(parameters, tile);
  const uint32_t query = shared_address(memory.query);
  const uint32_t exchange = shared_address(memory.scores) + pair * (kWarpRows * kPage * 4);
  Ring ring = {shared_address(memory.ring), 0};
  const float scale = parameters.scale * kLog2E;
  const bool computes = pair * kWarpRows < tile.live_rows;

  // The item before may still be read.
  block_barrier();
  load_queries(parameters, tile, query);
  int32_t page_id = 0;
  if (tile.first_page < tile.end_page) {
    page_id = pages[tile.first_page];
    load_stage(parameters, tile, parameters.key_cache, tile.first_page, page_id, 0, ring.base);
    copy_async_commit();
    load_stage(parameters, tile, parameters.key_cache, tile.first_page, page_id, 1, ring.base + kStageBytes);
  }
  copy_async_commit();

  RowState<kColumns> total;
  RowState<kColumns> chunk;
  clear(total);
  clear(chunk);
  for (uint32_t page = tile.first_page; page < tile.end_page; ++page) {
    const bool more = page + 1 < tile.end_page;
    const int32_t next_id = more ? pages[page + 1] : 0;
    const uint32_t groups = live_groups(rows, page * kPage);
    const bool live = groups > 0;
    float scores[kPage / 2];
    GRIDPOINT_UNROLL
    for (uint32_t part = 0; part < kKeyStages; ++part) {
      copy_async_wait<1>();
      block_barrier();
      load_stage(parameters, tile, parameters.value_cache, page, page_id, part, ring.ahead());
      copy_async_commit();
      if (live) stage_scores<Element>(query, ring.address(), exchange, part, part * 2 + side < groups);
      ring.advance();
    }
    if (live) {
      named_barrier_sync(1 + pair, 2 * kWarpThreads);
      GRIDPOINT_UNROLL
      for (uint32_t n = 0; n < kPage / 8; ++n) {
        const Vector16 vector = load_shared16(exchange + (n * kWarpThreads + lane_index()) * 16);
        GRIDPOINT_UNROLL
        for (uint32_t i = 0; i < 4; ++i) scores[n * 4 + i] = float_from_bits(vector.word[i]);
      }
      mask_scores(scores, rows, page * kPage);
      float factor[2];
      page_softmax(chunk.rows, scores, factor, scale);
      rescale(chunk.output, factor);
    }
    GRIDPOINT_UNROLL
    for (uint32_t part = 0; part < kKeyStages; ++part) {
      copy_async_wait<1>();
      block_barrier();
      if (more) load_stage(parameters, tile, parameters.key_cache, page + 1, next_id, part, ring.ahead());
      copy_async_commit();
      if (live) stage_values<Element>(chunk, scores, ring.address(), part, groups);
      ring.advance();
    }
    page_id = next_id;
    if (computes && ((page + 1) % kChunkPages == 0 || page + 1 == tile.end_page)) {
      finish_chunk(chunk.rows);
      if (work.part_count > 1) {
        store_partial<kHeadDim>(parameters, partial_index(parameters, work, work.part, kv_head), chunk, side * kColumns);
      } else {
        merge(total, chunk);
        clear(chunk);
      }
    }
  }
  if (work.part_count == 1) {
    // A pair has read its queries in front of the last page's barriers.
    if (computes) {
      store_output<Element, kHeadDim>(parameters, tile_of<kTileRows>(parameters, work, kv_head), memory.query, total, pair * kWarpRows, side * kColumns);
    }
    return;
  }
  block_barrier();
  if (!arrive_last(parameters, work, kv_head, memory.arrived)) return;
  merge_partials<Element, kHeadDim, kWarps, kPartsInFlight>(parameters, tile_of<kTileRows>(parameters, work, kv_head), work, warp_index(),
                                                                memory.ring, memory.query + kWarpRows * kHeadDim / 2, memory.query);
}

template <typename Element>
GRIDPOINT_DEVICE void attention(const AttentionParameters& parameters) {
  // At once: the persistent grid leaves no room for a product's blocks, so those begin where blocks of this one have ended, or never had
  // work, and load weights while the longest items end. They wait by themselves.
  grid_launch_dependents();
  grid_dependency_wait();
  if (parameters.list->reserved[0] != 0) {
    poison_output<kHeadDim, kThreads>(parameters);
    return;
  }
  WideShared& memory = shared<WideShared>();
  // The count is read for each item: held, it would spill on GPUs newer than sm_90.
  for (uint32_t index = block_index(); index < parameters.list->count * parameters.kv_heads; index += grid_blocks()) {
    const AttentionWork& work = reinterpret_cast<const AttentionWork*>(parameters.list + 1)[index / parameters.kv_heads];
    attend<Element>(parameters, memory, work, index % parameters.kv_heads);
  }
  copy_async_wait<0>();
}

}  // namespace wide
}  // namespace gridpoint

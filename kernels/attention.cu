// Paged causal attention over the work list of schedule.cu: decode and ragged prefill in one launch.
//
// Shapes: queries are the first Hq * d columns of [T, query_pitch]; caches [pages, Hkv, 64, d]; output [T, Hq * d]. Elements are bf16, of
// kernels `_f16` float16; d is 64, 96, 128 or, in attention_wide.cuh, 256. Query rows of a request are numbered token * group + head of the
// group, any group from 1 to 16 (packing a group into the rows of one tile: XQA, FlashInfer). The row of token i of a request with q new
// tokens and l cached ones sees keys [0, l - q + i].
// Work: a persistent grid walks items x key-value heads; a block of 4 warps takes a tile of 64 query rows, 16 a warp, and streams 64-token
// pages through a double buffer in shared memory (cp.async), one barrier a page. S = Q K^T and O += P V are mma.sync m16n8k16 in
// float32 with an online softmax in base 2 (FlashAttention-2, arXiv 2307.08691); P goes from accumulators to operands in registers. Of a page
// that a warp's rows see in part, groups of 16 keys that all 16 rows are blind to are left out of both products.
// A decode-like item is the same tile with at most 16 live rows: warp 0 computes, the others help to load. sm_80 instructions only.
//
// Bits of a row do not depend on its tile, its batch, the grid, or how its prompt was chunked:
// - Chunks of 512 keys stand at absolute positions. Each is accumulated from zero over its pages in ascending order, and the lanes of a
//   row's sum are added once, at the end of the chunk.
// - Chunks are merged in ascending order by `merge`, by the tile itself or, for split items, by the last block to arrive, from float32
//   partials. A chunk that is masked for the row changes nothing.
// - A page that is masked for a row changes nothing: its maximum stays, its factor is 2^0, its weights are 0 and its values finite. Nor does a
//   masked group of keys, whether it is computed or left out. The only trace either could leave, the sign of a zero, is removed at the end
//   by adding +0.
// What lies behind a tile's causal limit in a page is never read: those rows of K and V arrive in shared memory as zeros, and scores behind a
// row's own limit are replaced, not added to, before the maximum.
//
// Shared memory: queries 64 * d * 2 bytes, two buffers of keys and values 64 * d * 2 bytes each, 16 bytes: 40976 bytes for d = 64,
// 61456 for d = 96, 81936 for d = 128. Registers allow three blocks of d = 64 on a multiprocessor and two of the others; so does shared
// memory of 164 KiB or more, while 100 KiB hold two, one and one.
// Rows of d = 96 are 192 bytes, unpadded, with a swizzle of their own (tile.cuh): no access of ldmatrix or cp.async meets a bank twice.
//
// Every thread waits for the kernel before it first of all, also where the list has nothing for its block or is refused: the list and the
// caches are written in this step.
#include "attention.cuh"
#include "attention_wide.cuh"

namespace gridpoint {
namespace {

constexpr uint32_t kAttentionThreads = GRIDPOINT_ATTENTION_THREADS;
constexpr uint32_t kAttentionWarps = kAttentionThreads / kWarpThreads;
constexpr uint32_t kTileRows = GRIDPOINT_ATTENTION_TILE_ROWS;
// Parts of a split item (4096 tokens) whose partials are in flight together while they are merged.
constexpr uint32_t kPartsInFlight = 8;

static_assert(kTileRows == kAttentionWarps * kWarpRows, "each warp owns one row of mma tiles");

template <uint32_t HeadDim>
struct alignas(16) AttentionShared {
  uint32_t query[kTileRows * HeadDim / 2];
  // Two pages of keys, two pages of values.
  uint32_t pages[4 * kPage * HeadDim / 2];
  uint32_t arrived[4];
};

static_assert(sizeof(AttentionShared<64>) == GRIDPOINT_ATTENTION_D64_SHARED_BYTES, "the host launches with the bytes that the kernel uses");
static_assert(sizeof(AttentionShared<96>) == GRIDPOINT_ATTENTION_D96_SHARED_BYTES, "the host launches with the bytes that the kernel uses");
static_assert(sizeof(AttentionShared<128>) == GRIDPOINT_ATTENTION_D128_SHARED_BYTES, "the host launches with the bytes that the kernel uses");

// Starts the copy of the live query rows; the rest of the last warp's rows become zeros.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE void load_queries(const AttentionParameters& parameters, const Tile& tile, uint32_t target) {
  constexpr uint32_t kRowVectors = HeadDim / kVector;
  const uint32_t vectors = ceiling_divide(tile.live_rows, kWarpRows) * kWarpRows * kRowVectors;
  for (uint32_t i = thread_index(); i < vectors; i += kAttentionThreads) {
    const uint32_t row = i / kRowVectors;
    const uint32_t vector = i % kRowVectors;
    const bool live = row < tile.live_rows;
    const uint16_t* source = parameters.queries + (live ? row_offset<HeadDim>(tile, row, parameters.query_pitch) + vector * kVector : 0);
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

// Raw scores of the warp's 16 rows against the first `groups` 16-key groups of a page; the rest are zeros. `Whole` pages have all groups, and no
// branch between their instructions.
template <typename Element, uint32_t HeadDim, bool Whole>
GRIDPOINT_DEVICE void page_scores(float (&scores)[kPage / 2], uint32_t query, uint32_t key, uint32_t groups) {
  const uint32_t lane = lane_index();
  // Places of this lane's rows for the first k16 step.
  const uint32_t query_place = swizzled<HeadDim * 2>(warp_index() * kWarpRows + lane % 16, lane / 16);
  const uint32_t key_place = swizzled<HeadDim * 2>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < kPage / 2; ++i) scores[i] = 0.0f;
  GRIDPOINT_UNROLL
  for (uint32_t k = 0; k < HeadDim / 16; ++k) {
    uint32_t a[1][4];
    load_matrix_x4(a[0], query + swizzled_further<HeadDim * 2>(query_place, k * 2));
    uint32_t b[kPage / 8][2];
    GRIDPOINT_UNROLL
    for (uint32_t group = 0; group < kPage / kGroup; ++group) {
      if (!Whole && group >= groups) break;
      uint32_t fragment[4];
      load_matrix_x4(fragment, key + group * (kGroup * HeadDim * 2) + swizzled_further<HeadDim * 2>(key_place, k * 2));
      b[group * 2][0] = fragment[0];
      b[group * 2][1] = fragment[1];
      b[group * 2 + 1][0] = fragment[2];
      b[group * 2 + 1][1] = fragment[3];
      if (!Whole) Element::mma(group_tiles(scores, group), a, reinterpret_cast<const uint32_t(&)[2][2]>(b[group * 2]));
    }
    if (Whole) Element::mma(accumulator_tiles(scores), a, b);
  }
}

// Adds weights x values of the first `groups` 16-key groups of a page.
template <typename Element, uint32_t HeadDim, bool Whole>
GRIDPOINT_DEVICE void page_values(RowState<HeadDim / 8>& chunk, const float (&weights)[kPage / 2], uint32_t value, uint32_t groups) {
  const uint32_t lane = lane_index();
  const uint32_t value_place = swizzled<HeadDim * 2>(lane % 16, lane / 16);
  GRIDPOINT_UNROLL
  for (uint32_t k = 0; k < kPage / kGroup; ++k) {
    if (!Whole && k >= groups) break;
    uint32_t a[1][4];
    pack_weights<Element>(a[0], weights, k);
    uint32_t b[HeadDim / 8][2];
    GRIDPOINT_UNROLL
    for (uint32_t pair = 0; pair < HeadDim / 16; ++pair) {
      uint32_t fragment[4];
      load_matrix_x4_transposed(fragment, value + k * (kGroup * HeadDim * 2) + swizzled_further<HeadDim * 2>(value_place, pair * 2));
      b[pair * 2][0] = fragment[0];
      b[pair * 2][1] = fragment[1];
      b[pair * 2 + 1][0] = fragment[2];
      b[pair * 2 + 1][1] = fragment[3];
    }
    Element::mma(accumulator_tiles(chunk.output), a, b);
  }
}

// Adds a page of which the warp's rows see `groups` 16-key groups, from token `first_token` on, to the chunk.
template <typename Element, uint32_t HeadDim, bool Whole>
GRIDPOINT_DEVICE void add_page(RowState<HeadDim / 8>& chunk, const WarpRows& rows, uint32_t query, uint32_t key, uint32_t value, uint32_t first_token,
                               uint32_t groups, float scale) {
  float scores[kPage / 2];
  page_scores<Element, HeadDim, Whole>(scores, query, key, groups);
  mask_scores(scores, rows, first_token);
  float factor[2];
  page_softmax(chunk.rows, scores, factor, scale);
  rescale(chunk.output, factor);
  page_values<Element, HeadDim, Whole>(chunk, scores, value, groups);
}

template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void attend(const AttentionParameters& parameters, AttentionShared<HeadDim>& memory, const AttentionWork& work, uint32_t kv_head) {
  const Tile tile = tile_of<kTileRows>(parameters, work, kv_head);
  const WarpRows rows = warp_rows(tile, warp_index() * kWarpRows);
  const int32_t* pages = page_table(parameters, tile);
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
    const uint32_t groups = live_groups(rows, page * kPage);
    if (groups > 0) {
      const bool whole = groups == kPage / kGroup;
      float scores[kPage / 2];
      if (whole) {
        page_scores<Element, HeadDim, true>(scores, query, key + buffer, groups);
      } else {
        page_scores<Element, HeadDim, false>(scores, query, key + buffer, groups);
      }
      mask_scores(scores, rows, page * kPage);
      float factor[2];
      page_softmax(chunk.rows, scores, factor, scale);
      rescale(chunk.output, factor);
      if (whole) {
        page_values<Element, HeadDim, true>(chunk, scores, value + buffer, groups);
      } else {
        page_values<Element, HeadDim, false>(chunk, scores, value + buffer, groups);
      }
    }
    buffer ^= kBufferBytes;
    if (computes && ((page + 1) % kChunkPages == 0 || page + 1 == tile.end_page)) {
      finish_chunk(chunk.rows);
      if (work.part_count > 1) {
        store_partial<HeadDim>(parameters, partial_index(parameters, work, work.part, kv_head), chunk, 0);
      } else {
        merge(total, chunk);
        clear(chunk);
      }
    }
  }
  // The tile is read again rather than kept: its registers over the loop above would spill with three blocks of d = 64.
  if (work.part_count == 1) {
    if (computes) store_output<Element, HeadDim>(parameters, tile_of<kTileRows>(parameters, work, kv_head), memory.query, total, warp_index() * kWarpRows, 0);
    return;
  }
  block_barrier();
  if (!arrive_last(parameters, work, kv_head, memory.arrived)) return;
  // The output leaves through the first 16 rows of the query buffer, the states lie behind them.
  constexpr uint32_t kStates = kWarpRows * HeadDim / 2;
  static_assert(sizeof(memory.pages) >= kMergePartWords<HeadDim, kPartsInFlight> * 4, "the page buffers hold the parts in flight");
  static_assert(kStates + kMergeStateWords<kAttentionWarps, kPartsInFlight> <= kTileRows * HeadDim / 2, "the query buffer holds output and states");
  merge_partials<Element, HeadDim, kAttentionWarps, kPartsInFlight>(parameters, tile_of<kTileRows>(parameters, work, kv_head), work, warp_index(),
                                                                    memory.pages, memory.query + kStates, memory.query);
}

template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void attention(const AttentionParameters& parameters) {
  // At once: the persistent grid leaves no room for a product's blocks, so those begin where blocks of this one have ended, or never had
  // work, and load weights while the longest items end. They wait by themselves.
  grid_launch_dependents();
  grid_dependency_wait();
  if (parameters.list->reserved[0] != 0) {
    poison_output<HeadDim, kAttentionThreads>(parameters);
    return;
  }
  AttentionShared<HeadDim>& memory = shared<AttentionShared<HeadDim>>();
  const AttentionWork* items = reinterpret_cast<const AttentionWork*>(parameters.list + 1);
  const uint32_t works = parameters.list->count * parameters.kv_heads;
  for (uint32_t index = block_index(); index < works; index += grid_blocks()) {
    const AttentionWork& work = items[index / parameters.kv_heads];
    attend<Element, HeadDim>(parameters, memory, work, index % parameters.kv_heads);
  }
  copy_async_wait<0>();
}

}  // namespace
}  // namespace gridpoint

#define ATTENTION_INSTANCE(X, name, blocks, Element, dim) \
  X(name, AttentionParameters, gridpoint::kAttentionThreads, blocks, gridpoint::attention<gridpoint::Element, dim>)
#define ATTENTION_INSTANCES(X, suffix, Element)              \
  ATTENTION_INSTANCE(X, attention_d64##suffix, 3, Element, 64) \
  ATTENTION_INSTANCE(X, attention_d96##suffix, 2, Element, 96) \
  ATTENTION_INSTANCE(X, attention_d128##suffix, 2, Element, 128) \
  X(attention_d256##suffix, AttentionParameters, gridpoint::wide::kThreads, 1, gridpoint::wide::attention<gridpoint::Element>)
#define ATTENTION_KERNELS(X) ATTENTION_INSTANCES(X, , Bf16) ATTENTION_INSTANCES(X, _f16, F16)

GRIDPOINT_MODULE(attention, ATTENTION_KERNELS)

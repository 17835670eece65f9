// Paged causal attention for Hopper (sm_90a): what attention.cu computes, bit for bit, from the same work list with tiles of 128 query rows.
// Elsewhere the kernels are empty, and `Kernels::load` takes those of attention.cu.
//
// Shapes: those of attention.cu, heads of 64, 96 and 128 elements, bfloat16 and float16. Heads of 256 elements have no form here and keep
// attention_wide.cuh: accumulators of 64 rows would be 128 registers a thread beside scores and weights, and two buffers of queries, totals and
// a ring of four stages 384 KB. Keys and values are read through tensor maps ([d / 64][pages * Hkv * 64][64], one page and head a copy), whose
// rows are counted in 31 bits.
// Blocks are persistent, one a multiprocessor, of 384 threads. One warpgroup loads (attention_hopper_load.cuh): a warp hands out batches of
// work, a warp streams pages into a ring of stages, two gather queries. Two warpgroups compute:
// - a tile, 64 rows each, S = Q K^T and O += P V by wgmma m64, P in registers, the next page's S under way while this page's softmax runs,
//   and the two in turns on the tensor cores (FlashAttention-3, arXiv 2407.08608). What earlier chunks came to lies in shared memory, not in
//   registers: it is met once every eight pages.
// - up to eight decode-like items at a time, one a warp, by mma.sync. Partials, arrivals and merging are those of attention.cu, the merge by
//   all eight warps of the block whose warp arrived last.
// Odd blocks begin with decode-like items and even ones with tiles: memory and tensor cores are busy at once in a mixed step.
// A page that a limit cuts comes by cp.async, zeros behind the limit: nothing there is read, and 0 x NaN cannot happen.
//
// Shared memory: two buffers of queries (one is filled for the next batch), totals in float32, and 18, 10 or 6 stages of one page of keys or
// values for d = 64, 96, 128: 231968 bytes, of which 96 KiB (d = 128) to 144 KiB are loads under way. Registers: setmaxnreg 56 for loading
// threads, 224 for computing ones.
#include "attention_hopper_load.cuh"

namespace gridpoint {
namespace hopper {

#ifdef GRIDPOINT_WARPGROUPS

// Named barriers: the tile order of warpgroup g is kOrder + g.
constexpr uint32_t kOrder = 1;
constexpr uint32_t kConsumersMeet = 3;
// Parts of a split item whose partials are loaded together; more cost registers that tiles need.
constexpr uint32_t kPartsInFlight = 2;

// The lane's number, of which the compiler knows nothing: what is made of it is computed for each item, instead of being kept in registers
// over all items.
GRIDPOINT_DEVICE uint32_t lane_of_item() { return shuffle_index(lane_index(), lane_index()); }

// The addresses are computed anew behind setmaxnreg, instead of being kept over it.
template <uint32_t HeadDim>
GRIDPOINT_DEVICE Memory<HeadDim> memory_of_role(const Memory<HeadDim>& memory) {
  const uint32_t control = shuffle_index(memory.control, 0);
  return {control, control + memory.queries - memory.control};
}

GRIDPOINT_DEVICE uint32_t consumer_warp() { return warp_index() - kGroupThreads / kWarpThreads; }

// A warp has read a stage that all consumers read, or that it alone reads and stands for all of them.
GRIDPOINT_DEVICE void release_shared(uint32_t empty) {
  if (lane_index() == 0) mbarrier_arrive(empty);
}

GRIDPOINT_DEVICE void release_own(uint32_t empty) {
  warp_barrier();
  if (lane_index() < kConsumerWarps) mbarrier_arrive(empty);
}

// The weights of a page as operands.
template <typename Element>
GRIDPOINT_DEVICE void pack_page(uint32_t (&packed)[kPage / kGroup][4], const float (&weights)[kPage / 2]) {
  GRIDPOINT_UNROLL
  for (uint32_t k = 0; k < kPage / kGroup; ++k) pack_weights<Element>(packed[k], weights, k);
}

// Accumulators relative to the page's new maximum; untouched where it is the old one for all rows of the warp.
template <int Words>
GRIDPOINT_DEVICE void rescale_where_changed(float (&output)[Words], const float (&factors)[2]) {
  if (!all_lanes(factors[0] == 1.0f && factors[1] == 1.0f)) rescale(output, factors);
}

// ---- tiles --------------------------------------------------------------------------------------------------------------------

// Starts scores = queries x keys of a page.
template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void start_scores(float (&scores)[kPage / 2], uint32_t query, uint32_t key) {
  using Size = Sizes<HeadDim>;
  wgmma_fence();
  GRIDPOINT_UNROLL
  for (uint32_t k = 0; k < HeadDim / 16; ++k) {
    const uint32_t offset = k * 32 / Size::kSpan * (kPage * Size::kSpan) + k * 32 % Size::kSpan;
    wgmma<kPage, Element::kWgmma>(scores, matrix_descriptor(query + offset, 16, 8 * Size::kSpan, Size::kSwizzle),
                                  matrix_descriptor(key + offset, 16, 8 * Size::kSpan, Size::kSwizzle), k != 0);
  }
  wgmma_commit();
}

// Starts output += weights x values of a page.
template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void start_values(RowState<Sizes<HeadDim>::kColumns>& chunk, const uint32_t (&weights)[kPage / kGroup][4], uint32_t value) {
  using Size = Sizes<HeadDim>;
  wgmma_fence();
  GRIDPOINT_UNROLL
  for (uint32_t k = 0; k < kPage / 16; ++k) {
    wgmma_registers<Size::kColumns * 8, Element::kWgmma | kWgmmaTransposedB>(
        chunk.output, weights[k], matrix_descriptor(value + k * 16 * Size::kSpan, kPage * Size::kSpan, 8 * Size::kSpan, Size::kSwizzle), true);
  }
  wgmma_commit();
}

// Writes `Columns` column tiles from `first_column` on of 16 rows: normalised and rounded into a matrix of `Rows` rows in shared memory, from
// row `first_row` on, then as 16-byte vectors to the live rows of the output, of which `first_live` is the first.
template <typename Element, uint32_t HeadDim, uint32_t Rows, uint32_t Columns>
GRIDPOINT_DEVICE void write_output(const AttentionParameters& parameters, const Tile& tile, const RowState<Columns>& total, uint32_t target,
                                   uint32_t first_row, uint32_t first_live, uint32_t first_column) {
  const uint32_t lane = lane_of_item();
  const float inverse[2] = {row_inverse(total.rows.sum[0]), row_inverse(total.rows.sum[1])};
  // ldmatrix of the queries orders nothing: another lane may have read them at the addresses that this one writes.
  warp_barrier();
  GRIDPOINT_UNROLL
  for (uint32_t n = 0; n < Columns; ++n) {
    uint32_t packed[2];
    GRIDPOINT_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
      packed[half] = Element::pack(normalised(total.output[n * 4 + half * 2], inverse[half]), normalised(total.output[n * 4 + half * 2 + 1], inverse[half]));
    }
    store_matrix_x2(target + place<HeadDim, Rows>(first_row + lane % 16, first_column + n), packed);
  }
  warp_barrier();
  const uint64_t pitch = uint64_t{parameters.query_heads} * HeadDim;
  for (uint32_t i = lane; i < kWarpRows * Columns; i += kWarpThreads) {
    // Eight lanes read in one turn: of whole rows of column blocks, or of a few columns eight rows, which the swizzle keeps apart.
    const Chunk at = Columns == HeadDim / 8 ? chunk_at<HeadDim, kWarpRows>(i) : Chunk{i % kWarpRows, first_column + i / kWarpRows};
    if (first_live + at.row >= tile.live_rows) continue;
    const Vector16 vector = load_shared16(target + place<HeadDim, Rows>(first_row + at.row, at.chunk));
    store16(parameters.output + row_offset<HeadDim>(tile, first_live + at.row, pitch) + at.chunk * kVector, vector);
  }
}

// Adds a finished chunk to the sum of those before, which lies in shared memory, or nowhere before the first one. The sum goes back there, or
// after the last chunk into the chunk's place.
template <uint32_t Columns>
GRIDPOINT_DEVICE void merge_chunk(RowStatistics& total, RowState<Columns>& chunk, uint32_t totals, bool first, bool last) {
  RowState<1> sum;
  GRIDPOINT_UNROLL
  for (uint32_t n = 0; n < Columns; ++n) {
    const uint32_t place = totals + n * (kConsumerThreads * 16);
    Vector16 before = {{0, 0, 0, 0}};
    if (!first) before = load_shared16(place);
    RowState<1> part;
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
      sum.output[i] = float_from_bits(before.word[i]);
      part.output[i] = chunk.output[n * 4 + i];
    }
    sum.rows = total;
    part.rows = chunk.rows;
    merge(sum, part);
    Vector16 after;
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
      chunk.output[n * 4 + i] = sum.output[i];
      after.word[i] = float_bits(sum.output[i]);
    }
    if (!last) store_shared16(place, after);
  }
  total = sum.rows;
}

// Where a consumer is: batches, stages and fills for its own queues behind it.
struct Progress {
  uint32_t turn;
  uint32_t position;
  uint32_t tile_fills;
  uint32_t pages;
};

// A tile's 64 rows of one of two warpgroups.
template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void attend_tile(const AttentionParameters& parameters, const Memory<HeadDim>& memory, uint32_t buffer, Progress& progress) {
  using Size = Sizes<HeadDim>;
  const Tile& tile = shared<Control<HeadDim>>().items[buffer][0].tile;
  const uint32_t pages = tile.end_page;
  const uint32_t group = consumer_warp() / 4;
  const uint32_t first_group_row = group * kGroupRows;
  const bool both = tile.live_rows > kGroupRows;
  const uint32_t position = progress.position;
  const uint32_t fills = progress.tile_fills;
  progress.position += pages * 2;
  progress.tile_fills += pages * 2;
  if (first_group_row >= tile.live_rows || pages == 0) {
    // An arrival before the stage was full would count for an earlier turn.
    for (uint32_t i = 0; i < pages * 2; ++i) {
      mbarrier_wait(memory.tile_full(fills + i), memory.tile_parity(fills + i));
      warp_barrier();
      release_shared(memory.empty(position + i));
    }
    return;
  }
  const uint32_t query = memory.query(buffer) + first_group_row * (HeadDim * 2);
  const uint32_t first_row = consumer_warp() % 4 * kWarpRows;
  const WarpRows rows = warp_rows(tile, first_group_row + first_row);
  const float scale = parameters.scale * kLog2E;

  // Products of the two warpgroups take turns on the tensor cores, so that one's exponentials run beside the other's products.
  const auto enter = [&] {
    if (both) named_barrier_sync(kOrder + group, kConsumerThreads);
  };
  const auto leave = [&](bool last) {
    if (both && !(last && group == 1)) named_barrier_arrive(kOrder + (group ^ 1), kConsumerThreads);
  };
  const auto wait = [&](uint32_t i) { mbarrier_wait(memory.tile_full(fills + i), memory.tile_parity(fills + i)); };
  RowStatistics total = {{minus_infinity(), minus_infinity()}, {0.0f, 0.0f}};
  RowState<Size::kColumns> chunk;
  float scores[kPage / 2];
  uint32_t weights[kPage / kGroup][4];
  float factors[2];
  clear(chunk);

  if (both && group == 1) named_barrier_arrive(kOrder, kConsumerThreads);
  wait(0);
  enter();
  start_scores<Element, HeadDim>(scores, query, memory.stage(position));
  leave(false);
  wgmma_wait<0>();
  wgmma_hold(scores);
  release_shared(memory.empty(position));
  mask_scores(scores, rows, 0);
  page_softmax(chunk.rows, scores, factors, scale);
  pack_page<Element>(weights, scores);
  for (uint32_t page = 1; page < pages; ++page) {
    const uint32_t key = page * 2;
    const uint32_t value = key - 1;
    wait(value);
    wait(key);
    enter();
    start_scores<Element, HeadDim>(scores, query, memory.stage(position + key));
    start_values<Element, HeadDim>(chunk, weights, memory.stage(position + value));
    leave(false);
    wgmma_wait<1>();
    wgmma_hold(scores);
    release_shared(memory.empty(position + key));
    if (page % kChunkPages == 0) {
      wgmma_wait<0>();
      wgmma_hold(chunk.output);
      finish_chunk(chunk.rows);
      merge_chunk(total, chunk, memory.totals(), page == kChunkPages, false);
      clear(chunk);
    }
    mask_scores(scores, rows, page * kPage);
    page_softmax(chunk.rows, scores, factors, scale);
    wgmma_wait<0>();
    wgmma_hold(chunk.output);
    release_shared(memory.empty(position + value));
    rescale_where_changed(chunk.output, factors);
    pack_page<Element>(weights, scores);
  }
  const uint32_t value = pages * 2 - 1;
  wait(value);
  enter();
  start_values<Element, HeadDim>(chunk, weights, memory.stage(position + value));
  leave(true);
  wgmma_wait<0>();
  wgmma_hold(chunk.output);
  release_shared(memory.empty(position + value));
  finish_chunk(chunk.rows);
  merge_chunk(total, chunk, memory.totals(), pages <= kChunkPages, true);
  chunk.rows = total;
  write_output<Element, HeadDim, kGroupRows>(parameters, tile, chunk, query, first_row, first_group_row + first_row, 0);
}

// ---- decode-like items --------------------------------------------------------------------------------------------------------

// Scores of 16 query rows against a page.
template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void page_scores(float (&scores)[kPage / 2], uint32_t query, uint32_t key, uint32_t lane) {
  constexpr uint32_t kSpan = Sizes<HeadDim>::kSpan;
  // Places of this lane's rows for the first k16 step of a column block; a step further is an xor of 32, as the swizzle is one.
  const uint32_t query_place = place<HeadDim, kWarpRows>(lane % 16, lane / 16);
  const uint32_t key_place = place<HeadDim, kPage>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  GRIDPOINT_UNROLL
  for (uint32_t i = 0; i < kPage / 2; ++i) scores[i] = 0.0f;
  GRIDPOINT_UNROLL
  for (uint32_t k = 0; k < HeadDim / 16; ++k) {
    const uint32_t block = k * 32 / kSpan;
    const uint32_t step = k * 32 % kSpan;
    uint32_t a[1][4];
    load_matrix_x4(a[0], query + block * (kWarpRows * kSpan) + (query_place ^ step));
    uint32_t b[kPage / 8][2];
    GRIDPOINT_UNROLL
    for (uint32_t pair = 0; pair < kPage / 16; ++pair) {
      uint32_t fragment[4];
      load_matrix_x4(fragment, key + block * (kPage * kSpan) + pair * (16 * kSpan) + (key_place ^ step));
      b[pair * 2][0] = fragment[0];
      b[pair * 2][1] = fragment[1];
      b[pair * 2 + 1][0] = fragment[2];
      b[pair * 2 + 1][1] = fragment[3];
    }
    Element::mma(accumulator_tiles(scores), a, b);
  }
}

// Adds weights x values of a page.
template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void page_values(RowState<HeadDim / 8>& chunk, const uint32_t (&weights)[kPage / kGroup][4], uint32_t value, uint32_t lane) {
  constexpr uint32_t kSpan = Sizes<HeadDim>::kSpan;
  const uint32_t value_place = place<HeadDim, kPage>(lane % 16, lane / 16);
  GRIDPOINT_UNROLL
  for (uint32_t k = 0; k < kPage / 16; ++k) {
    const uint32_t a[1][4] = {{weights[k][0], weights[k][1], weights[k][2], weights[k][3]}};
    // In pieces, for the sake of registers.
    constexpr uint32_t kPiece = HeadDim % 64 == 0 ? 4 : 3;
    GRIDPOINT_UNROLL
    for (uint32_t first = 0; first < HeadDim / 16; first += kPiece) {
      uint32_t b[kPiece * 2][2];
      GRIDPOINT_UNROLL
      for (uint32_t i = 0; i < kPiece; ++i) {
        const uint32_t pair = first + i;
        uint32_t fragment[4];
        load_matrix_x4_transposed(fragment, value + pair * 32 / kSpan * (kPage * kSpan) + k * (16 * kSpan) + (value_place ^ (pair * 32 % kSpan)));
        b[i * 2][0] = fragment[0];
        b[i * 2][1] = fragment[1];
        b[i * 2 + 1][0] = fragment[2];
        b[i * 2 + 1][1] = fragment[3];
      }
      Element::mma(reinterpret_cast<float(&)[1][kPiece * 2][4]>(chunk.output[first * 8]), a, b);
    }
  }
}

// Merges all parts of a split item in ascending order, this warp its share of the columns.
template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void merge_parts(const AttentionParameters& parameters, const Item& item, uint32_t query) {
  const AttentionWork& work = item.work;
  constexpr uint32_t kColumns = (HeadDim / 8 + kConsumerWarps - 1) / kConsumerWarps;
  constexpr uint32_t kParts = kPartsInFlight;
  static_assert(HeadDim / 8 % kColumns == 0, "warps that merge have equal shares");
  const uint32_t lane = lane_of_item();
  const uint32_t first_column = consumer_warp() * kColumns;
  if (first_column >= HeadDim / 8) return;
  RowState<kColumns> total;
  clear(total);
  for (uint32_t first = 0; first < work.part_count; first += kParts) {
    Vector16 outputs[kParts][kColumns];
    Vector8 states[kParts][2];
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kParts; ++i) {
      if (first + i >= work.part_count) continue;
      const uint64_t index = partial_index(parameters, work, first + i, item.tile.kv_head);
      GRIDPOINT_UNROLL
      for (uint32_t n = 0; n < kColumns; ++n) {
        outputs[i][n] = load16(parameters.partial_output + index * (kWarpRows * HeadDim) + ((first_column + n) * kWarpThreads + lane) * 4);
      }
      GRIDPOINT_UNROLL
      for (uint32_t half = 0; half < 2; ++half) {
        states[i][half] = load8(parameters.partial_state + index * (kWarpRows * 2) + (lane / 4 + half * 8) * 2);
      }
    }
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kParts; ++i) {
      if (first + i >= work.part_count) continue;
      RowState<kColumns> part;
      GRIDPOINT_UNROLL
      for (uint32_t element = 0; element < kColumns * 4; ++element) part.output[element] = float_from_bits(outputs[i][element / 4].word[element % 4]);
      GRIDPOINT_UNROLL
      for (uint32_t half = 0; half < 2; ++half) {
        part.rows.maximum[half] = float_from_bits(states[i][half].word[0]);
        part.rows.sum[half] = float_from_bits(states[i][half].word[1]);
      }
      merge(total, part);
    }
  }
  write_output<Element, HeadDim, kWarpRows>(parameters, item.tile, total, query, 0, 0, first_column);
}

// The warp's partial is written: whether it was the item's last. The counter goes back to zero for the next layer.
GRIDPOINT_DEVICE bool arrive_part(const AttentionParameters& parameters, const Item& item) {
  warp_barrier();
  if (lane_index() != 0) return false;
  uint32_t* counter = parameters.counters + uint64_t{item.work.counter} * parameters.kv_heads + item.tile.kv_head;
  fence_device();
  if (atomic_add_device(counter, 1) + 1 != item.work.part_count) return false;
  fence_device();
  *counter = 0;
  return true;
}

// A batch of decode-like items, one for each warp, whose pages pass through the ring in turn.
template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void attend_items(const AttentionParameters& parameters, const Memory<HeadDim>& memory, uint32_t buffer, uint32_t count,
                                   Progress& progress) {
  Control<HeadDim>& control = shared<Control<HeadDim>>();
  const uint32_t own = consumer_warp();
  const uint32_t lane = lane_of_item();
  const bool works = own < count;
  const uint32_t pages = item_pages(control, buffer, count);
  const bool split = ballot(lane_index() < count && control.items[buffer][lane_index() % kConsumerWarps].work.part_count > 1) != 0;
  const Item& item = control.items[buffer][works ? own : 0];
  const uint32_t query = memory.query(buffer) + (works ? own : 0) * Sizes<HeadDim>::kItemQueryBytes;
  const WarpRows rows = warp_rows(item.tile, 0);
  const float scale = parameters.scale * kLog2E;
  RowState<HeadDim / 8> chunk;
  clear(chunk);
  for (uint32_t step = 0; step < kChunkPages; ++step) {
    const uint32_t mask = ballot(pages > step);
    if ((mask >> own & 1u) != 0) {
      const uint32_t key = progress.position + rank_in(mask, own) * 2;
      const uint32_t value = key + 1;
      float scores[kPage / 2];
      uint32_t weights[kPage / kGroup][4];
      float factors[2];
      mbarrier_wait(memory.page_full(own, progress.pages), memory.page_parity(progress.pages));
      ++progress.pages;
      page_scores<Element, HeadDim>(scores, query, memory.stage(key), lane);
      release_own(memory.empty(key));
      mask_scores(scores, rows, (item.tile.first_page + step) * kPage);
      page_softmax(chunk.rows, scores, factors, scale);
      rescale_where_changed(chunk.output, factors);
      pack_page<Element>(weights, scores);
      page_values<Element, HeadDim>(chunk, weights, memory.stage(value), lane);
      release_own(memory.empty(value));
    }
    progress.position += population_count(mask) * 2;
  }
  finish_chunk(chunk.rows);
  bool last = false;
  if (works) {
    if (item.work.part_count == 1) {
      write_output<Element, HeadDim, kWarpRows>(parameters, item.tile, chunk, query, 0, 0, 0);
    } else {
      store_partial<HeadDim>(parameters, partial_index(parameters, item.work, item.work.part, item.tile.kv_head), chunk, 0);
      last = arrive_part(parameters, item);
    }
  }
  if (!split) return;
  if (lane_index() == 0) control.last[buffer][own] = last ? 1 : 0;
  named_barrier_sync(kConsumersMeet, kConsumerThreads);
  for (uint32_t i = 0; i < count; ++i) {
    if (control.last[buffer][i] == 0) continue;
    fence_device();
    merge_parts<Element, HeadDim>(parameters, control.items[buffer][i], memory.query(buffer) + i * Sizes<HeadDim>::kItemQueryBytes);
  }
}

template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void consume(const AttentionParameters& parameters, const Memory<HeadDim>& memory) {
  Progress progress = {0, 0, 0, 0};
  for (;; ++progress.turn) {
    const uint32_t buffer = progress.turn % kBatches;
    mbarrier_wait(memory.batch_full(buffer), batch_parity(progress.turn));
    const uint32_t count = shared<Control<HeadDim>>().count[buffer];
    if (count == kNothing) return;
    mbarrier_wait(memory.query_full(buffer), batch_parity(progress.turn));
    if (count == kOneTile) {
      attend_tile<Element, HeadDim>(parameters, memory, buffer, progress);
    } else {
      attend_items<Element, HeadDim>(parameters, memory, buffer, count, progress);
    }
    warp_barrier();
    if (lane_index() == 0) mbarrier_arrive(memory.batch_empty(buffer));
  }
}

#endif

template <typename Element, uint32_t HeadDim>
GRIDPOINT_DEVICE void attention(const AttentionTensorParameters& parameters) {
#ifdef GRIDPOINT_WARPGROUPS
  const Memory<HeadDim> memory = memory_of_block<HeadDim>();
  if (thread_index() == 0) {
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < 2; ++i) tensor_map_prefetch(&parameters.maps[i]);
    for (uint32_t stage = 0; stage < Sizes<HeadDim>::kStages; ++stage) {
      mbarrier_init(memory.empty(stage), kConsumerWarps);
      mbarrier_init(memory.tile_full(stage), 1);
    }
    for (uint32_t warp = 0; warp < kConsumerWarps; ++warp) {
      for (uint32_t n = 0; n < Sizes<HeadDim>::kPairs; ++n) mbarrier_init(memory.page_full(warp, n), 1);
    }
    for (uint32_t buffer = 0; buffer < kBatches; ++buffer) {
      mbarrier_init(memory.batch_full(buffer), 1);
      // Consumers, the streaming warp and the two that gather.
      mbarrier_init(memory.batch_empty(buffer), kConsumerWarps + 3);
      mbarrier_init(memory.query_full(buffer), 2);
    }
    fence_mbarrier_init();
  }
  block_barrier();
  grid_dependency_wait();
  // Behind the wait, unlike attention.cu: the next launch finds no room beside this one's blocks, and takes that of the first ones to end.
  grid_launch_dependents();
  if (parameters.attention.list->reserved[0] != 0) {
    poison_output<HeadDim, kThreads>(parameters.attention);
    return;
  }
  if (thread_index() < kGroupThreads) {
    registers_decrease<56>();
    const Memory<HeadDim> own = memory_of_role(memory);
    if (warp_index() == 0) {
      stream<HeadDim>(parameters, own);
    } else if (warp_index() == 3) {
      make_batches<HeadDim>(parameters.attention, own);
    } else {
      gather<HeadDim>(parameters.attention, own, warp_index() - 1);
    }
  } else {
    registers_increase<224>();
    consume<Element, HeadDim>(parameters.attention, memory_of_role(memory));
  }
#else
  (void)parameters;
#endif
}

static_assert(shared_bytes<64>() <= GRIDPOINT_ATTENTION_HOPPER_SHARED_BYTES && shared_bytes<96>() <= GRIDPOINT_ATTENTION_HOPPER_SHARED_BYTES &&
                  shared_bytes<128>() == GRIDPOINT_ATTENTION_HOPPER_SHARED_BYTES,
              "the host launches with the bytes that the kernel uses");

}  // namespace hopper
}  // namespace gridpoint

#define ATTENTION_HOPPER_INSTANCE(X, name, Element, dim) \
  X(name, AttentionTensorParameters, gridpoint::hopper::kThreads, 1, gridpoint::hopper::attention<gridpoint::Element, dim>)
#define ATTENTION_HOPPER_INSTANCES(X, suffix, Element)                     \
  ATTENTION_HOPPER_INSTANCE(X, attention_hopper_d64##suffix, Element, 64)  \
  ATTENTION_HOPPER_INSTANCE(X, attention_hopper_d96##suffix, Element, 96)  \
  ATTENTION_HOPPER_INSTANCE(X, attention_hopper_d128##suffix, Element, 128)
#define ATTENTION_HOPPER_KERNELS(X) \
  ATTENTION_HOPPER_INSTANCES(X, , Bf16) ATTENTION_HOPPER_INSTANCES(X, _f16, F16)

GRIDPOINT_MODULE(attention_hopper, ATTENTION_HOPPER_KERNELS)

// Each instruction of ptx*.cuh by itself, for tests/cases/instructions.rs and warpgroups.rs: operands come in, everything that comes out goes out.
//
// Not part of the program. Shared memory starts at a multiple of 1024 inside the block's.
#include "parameters.h"

namespace gridpoint {

constexpr uint32_t kAlignment = 1024;

// The bytes of dynamic shared memory; those from the first multiple of kAlignment on are used.
struct alignas(16) SharedBytes {
  unsigned char bytes[16];
};

GRIDPOINT_DEVICE uint32_t shared_start() { return (shared_address(&shared<SharedBytes>()) + kAlignment - 1) / kAlignment * kAlignment; }

GRIDPOINT_DEVICE void store_shared_word(uint32_t target, uint32_t value) {
#ifdef GRIDPOINT_HOPPER
  store_cluster(target, value);
#else
  (void)target, (void)value;
#endif
}

GRIDPOINT_DEVICE uint32_t load_shared_word(uint32_t source) {
#ifdef GRIDPOINT_HOPPER
  return load_cluster(source);
#else
  (void)source;
  return 0;
#endif
}

// Words of the input to shared memory, by the whole block, 16 bytes at a time.
GRIDPOINT_DEVICE void fill_shared(uint32_t target, const uint32_t* source, uint32_t words) {
  for (uint32_t i = thread_index(); i < words / 4; i += block_threads()) store_shared16(target + i * 16, load16(source + i * 4));
}

GRIDPOINT_DEVICE void drain_shared(uint32_t* target, uint32_t source, uint32_t words) {
  for (uint32_t i = thread_index(); i < words / 4; i += block_threads()) store16(target + i * 4, load_shared16(source + i * 16));
}

GRIDPOINT_DEVICE void put(const InstructionParameters& parameters, uint32_t slot, uint32_t value) {
  parameters.output[slot * block_threads() + thread_index()] = value;
}

// ---- warps --------------------------------------------------------------------------------------------------------------------

GRIDPOINT_DEVICE void collectives(const InstructionParameters& parameters) {
  const uint32_t value = parameters.input[thread_index()];
  put(parameters, 0, reduce_add(value));
  put(parameters, 1, reduce_minimum(value));
  put(parameters, 2, reduce_maximum(value));
  put(parameters, 3, static_cast<uint32_t>(reduce_minimum(static_cast<int32_t>(value))));
  put(parameters, 4, static_cast<uint32_t>(reduce_maximum(static_cast<int32_t>(value))));
  put(parameters, 5, reduce_and(value));
  put(parameters, 6, reduce_or(value));
  put(parameters, 7, reduce_xor(value));
  put(parameters, 8, any_lane((value & 0xff) == 7));
  put(parameters, 9, all_lanes((value & 0x100) == 0));
  put(parameters, 10, shuffle_down(value, parameters.numbers[0]));
  put(parameters, 11, shuffle_up(value, parameters.numbers[0]));
  put(parameters, 12, shuffle_xor(value, parameters.numbers[0]));
  put(parameters, 13, shuffle_index(value, (lane_index() * 7) % 32));
  put(parameters, 14, ballot((value & 1) != 0));
  const Vector16 weight = load_weight(parameters.input + thread_index() / 4 * 4, policy_evict_first());
  put(parameters, 15, weight.word[thread_index() % 4]);
#ifdef GRIDPOINT_HOPPER
  const uint32_t elected = elect_one() ? 1 : 0;
  put(parameters, 16, reduce_add(elected));
#endif
}

// Pairs of warps hand a word on through barriers 1 and up: the first arrives, the second waits.
GRIDPOINT_DEVICE void barriers(const InstructionParameters& parameters) {
  const uint32_t pair = warp_index() / 2, start = shared_start();
  for (uint32_t round = 0; round < 4; ++round) {
    if (warp_index() % 2 == 0) {
      store_shared_word(start + thread_index() * 4, parameters.input[thread_index()] + round);
      named_barrier_arrive(1 + pair, 64);
      named_barrier_sync(8 + pair, 64);
    } else {
      named_barrier_sync(1 + pair, 64);
      put(parameters, round, load_shared_word(start + (thread_index() - 32) * 4));
      named_barrier_sync(8 + pair, 64);
    }
  }
}

GRIDPOINT_DEVICE void matrices(const InstructionParameters& parameters) {
  const uint32_t start = shared_start(), lane = lane_index();
  fill_shared(start, parameters.input, 256);
  warp_barrier();
  // Rows lie in an order of the input's choice.
  const uint32_t row = start + parameters.input[256 + lane] % 64 * 16;
  uint32_t one, two[2], four[4];
  load_matrix_x1(one, row);
  put(parameters, 0, one);
  load_matrix_x1_transposed(one, row);
  put(parameters, 1, one);
  load_matrix_x2(two, row);
  for (uint32_t i = 0; i < 2; ++i) put(parameters, 2 + i, two[i]);
  load_matrix_x2_transposed(two, row);
  for (uint32_t i = 0; i < 2; ++i) put(parameters, 4 + i, two[i]);
  load_matrix_x4(four, row);
  for (uint32_t i = 0; i < 4; ++i) put(parameters, 6 + i, four[i]);
  load_matrix_x4_transposed(four, row);
  for (uint32_t i = 0; i < 4; ++i) put(parameters, 10 + i, four[i]);
}

// stmatrix in all forms, each into 512 bytes of its own, which the input fills before.
GRIDPOINT_DEVICE void stored_matrices(const InstructionParameters& parameters) {
#ifdef GRIDPOINT_HOPPER
  const uint32_t start = shared_start(), lane = lane_index();
  fill_shared(start, parameters.input, 6 * 128);
  warp_barrier();
  uint32_t four[4];
  for (uint32_t i = 0; i < 4; ++i) four[i] = parameters.input[6 * 128 + i * 32 + lane];
  const uint32_t two[2] = {four[0], four[1]};
  const uint32_t row = start + parameters.input[10 * 128 + lane] % 32 * 16;
  store_matrix_x1(row, four[0]);
  store_matrix_x1_transposed(row + 512, four[0]);
  store_matrix_x2(row + 1024, two);
  store_matrix_x2_transposed(row + 1536, two);
  store_matrix_x4(row + 2048, four);
  store_matrix_x4_transposed(row + 2560, four);
  warp_barrier();
  drain_shared(parameters.output, start, 6 * 128);
#else
  (void)parameters;
#endif
}

// mma of one tile of each type on the fragments of the input: a, b, c of bfloat16, then of float16.
GRIDPOINT_DEVICE void small_products(const InstructionParameters& parameters) {
  for (uint32_t type = 0; type < 2; ++type) {
    const uint32_t* input = parameters.input + type * 10 * 32 + lane_index();
    uint32_t a[1][4], b[1][2];
    float d[1][1][4];
    for (uint32_t i = 0; i < 4; ++i) a[0][i] = input[i * 32];
    for (uint32_t i = 0; i < 2; ++i) b[0][i] = input[(4 + i) * 32];
    for (uint32_t i = 0; i < 4; ++i) d[0][0][i] = float_from_bits(input[(6 + i) * 32]);
    if (type == 0) {
      mma_bf16(d, a, b);
    } else {
      mma_f16(d, a, b);
    }
    for (uint32_t i = 0; i < 4; ++i) put(parameters, type * 4 + i, float_bits(d[0][0][i]));
  }
}

// ---- bulk copies --------------------------------------------------------------------------------------------------------------

// numbers: bytes. Loads them, doubles each word, stores them.
GRIDPOINT_DEVICE void bulk_copies(const InstructionParameters& parameters) {
#ifdef GRIDPOINT_HOPPER
  const uint32_t start = shared_start(), bytes = parameters.numbers[0], mbarrier = start + 16384;
  if (thread_index() == 0) {
    mbarrier_init(mbarrier, 1);
    fence_mbarrier_init();
  }
  block_barrier();
  for (uint32_t round = 0; round < 3; ++round) {
    if (thread_index() == 0) {
      mbarrier_arrive_expect(mbarrier, bytes);
      bulk_load(start, parameters.input, bytes - 16, mbarrier);
      bulk_load(start + bytes - 16, parameters.input + bytes / 4 - 4, 16, mbarrier, policy_evict_first());
    }
    while (!mbarrier_test_wait(mbarrier, round % 2)) {
    }
    for (uint32_t i = thread_index(); i < bytes / 4; i += block_threads()) {
      store_cluster(start + i * 4, load_cluster(start + i * 4) * 2 + round);
    }
    fence_proxy_async();
    block_barrier();
    if (thread_index() == 0) {
      bulk_store(parameters.output + round * bytes / 4, start, bytes);
      bulk_commit();
      bulk_wait_read<0>();
    }
    block_barrier();
  }
  if (thread_index() == 0) bulk_wait<0>();
  block_barrier();
  if (thread_index() == 0) mbarrier_invalidate(mbarrier);
#else
  (void)parameters;
#endif
}

// numbers: bytes of the box, coordinates to load from, coordinates to store to. The box as it lies in shared memory goes to the output.
template <int Rank>
GRIDPOINT_DEVICE void tensor_copies(const InstructionParameters& parameters) {
#ifdef GRIDPOINT_HOPPER
  const uint32_t start = shared_start(), bytes = parameters.numbers[0], mbarrier = start + 40960;
  int32_t from[Rank], to[Rank];
  for (int i = 0; i < Rank; ++i) {
    from[i] = static_cast<int32_t>(parameters.numbers[1 + i]);
    to[i] = static_cast<int32_t>(parameters.numbers[6 + i]);
  }
  if (thread_index() == 0) {
    tensor_map_prefetch(&parameters.maps[0]);
    tensor_prefetch(&parameters.maps[0], from);
    mbarrier_init(mbarrier, 1);
    fence_mbarrier_init();
  }
  block_barrier();
  if (thread_index() == 0) {
    mbarrier_expect(mbarrier, bytes);
    mbarrier_arrive(mbarrier);
    tensor_load(start, &parameters.maps[0], from, mbarrier);
  }
  mbarrier_wait(mbarrier, 0);
  drain_shared(parameters.output, start, bytes / 4);
  block_barrier();
  if (thread_index() == 0) {
    tensor_store(&parameters.maps[1], to, start);
    bulk_commit();
    bulk_wait<0>();
  }
#else
  (void)parameters;
#endif
}

// ---- clusters -----------------------------------------------------------------------------------------------------------------

// Each block writes to its neighbour's shared memory, which reads it; then each copies in bulk to its neighbour; then each loads a part of
// a box for all. numbers: bytes of the box.
GRIDPOINT_DEVICE void clusters(const InstructionParameters& parameters) {
#ifdef GRIDPOINT_WARPGROUPS
  const uint32_t start = shared_start(), rank = cluster_rank(), blocks = cluster_blocks(), next = (rank + 1) % blocks;
  const uint32_t words = start, copied = start + 1024, boxes = start + 2048, remote = start + 32768, mbarrier = remote + 8;
  uint32_t* output = parameters.output + block_index() * 2048;
  if (thread_index() == 0) {
    mbarrier_init(remote, block_threads());
    mbarrier_init(mbarrier, 1);
    fence_mbarrier_init();
  }
  cluster_barrier();
  store_cluster(map_shared(words, next) + thread_index() * 4, parameters.input[rank * block_threads() + thread_index()]);
  mbarrier_arrive_cluster(map_shared(remote, next));
  mbarrier_wait_cluster(remote, 0);
  output[thread_index()] = load_cluster(words + thread_index() * 4);
  output[256 + thread_index()] = load_cluster(map_shared(words, next) + thread_index() * 4);
  cluster_barrier();
  store_shared_word(words + thread_index() * 4, rank * 1000 + thread_index());
  fence_proxy_async();
  block_barrier();
  const uint32_t bytes = parameters.numbers[0];
  if (thread_index() == 0) {
    mbarrier_arrive_expect(mbarrier, 512);
    bulk_copy_cluster(map_shared(copied, next), words, 512, map_shared(mbarrier, next));
  }
  mbarrier_wait_cluster(mbarrier, 0);
  for (uint32_t i = thread_index(); i < 128; i += block_threads()) output[512 + i] = load_cluster(copied + i * 4);
  cluster_barrier();
  if (thread_index() == 0) {
    mbarrier_arrive_expect(mbarrier, bytes * blocks);
    const int32_t coordinates[2] = {0, static_cast<int32_t>(rank * 8)};
    tensor_load_multicast(boxes + rank * bytes, &parameters.maps[0], coordinates, mbarrier, static_cast<uint16_t>((1u << blocks) - 1));
  }
  mbarrier_wait_cluster(mbarrier, 1);
  for (uint32_t i = thread_index(); i < bytes * blocks / 4; i += block_threads()) output[1024 + i] = load_cluster(boxes + i * 4);
  cluster_barrier();
#else
  (void)parameters;
#endif
}

// ---- warpgroups ---------------------------------------------------------------------------------------------------------------

// One wgmma twice: on the operands that the image in the input holds, and, with the negated product, on top of it. numbers: descriptors
// of a and b, relative to the image; scale-d.
template <int N, uint32_t Flags, bool Registers>
GRIDPOINT_DEVICE void product(const InstructionParameters& parameters) {
#ifdef GRIDPOINT_WARPGROUPS
  constexpr uint32_t kImageWords = 12288;
  const uint32_t start = shared_start();
  const uint64_t base = start / 16;
  const uint64_t a = (parameters.numbers[0] | static_cast<uint64_t>(parameters.numbers[1]) << 32) + base;
  const uint64_t b = (parameters.numbers[2] | static_cast<uint64_t>(parameters.numbers[3]) << 32) + base;
  fill_shared(start, parameters.input, kImageWords);
  fence_proxy_async();
  block_barrier();
  const uint32_t* fragment = parameters.input + kImageWords + thread_index() * 4;
  const uint32_t* sums = parameters.input + kImageWords + 512 + thread_index() * (N / 2);
  uint32_t in_registers[4];
  float d[N / 2];
  for (int i = 0; i < 4; ++i) in_registers[i] = fragment[i];
  for (int i = 0; i < N / 2; ++i) d[i] = float_from_bits(sums[i]);
  wgmma_fence();
  if constexpr (Registers) {
    wgmma_registers<N, Flags>(d, in_registers, b, parameters.numbers[4] != 0);
  } else {
    wgmma<N, Flags>(d, a, b, parameters.numbers[4] != 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_hold(d);
  for (int i = 0; i < N / 2; ++i) parameters.output[thread_index() * (N / 2) + i] = float_bits(d[i]);
#else
  (void)parameters;
#endif
}

}  // namespace gridpoint

#define PRODUCT(X, name, n, flags, registers) X(product_##name##_##n, InstructionParameters, 128, 1, gridpoint::product<n, flags, registers>)
#define SHAPES(X)                                                                                                                \
  PRODUCT(X, bf16, 8, gridpoint::kBf16, false)                                                                                   \
  PRODUCT(X, bf16, 16, gridpoint::kBf16, false)                                                                                  \
  PRODUCT(X, bf16, 24, gridpoint::kBf16, false)                                                                                  \
  PRODUCT(X, bf16, 32, gridpoint::kBf16, false)                                                                                  \
  PRODUCT(X, bf16, 40, gridpoint::kBf16, false)                                                                                  \
  PRODUCT(X, bf16, 48, gridpoint::kBf16, false)                                                                                  \
  PRODUCT(X, bf16, 56, gridpoint::kBf16, false)                                                                                  \
  PRODUCT(X, bf16, 64, gridpoint::kBf16, false)                                                                                  \
  PRODUCT(X, bf16, 72, gridpoint::kBf16, false)                                                                                  \
  PRODUCT(X, bf16, 80, gridpoint::kBf16, false)                                                                                  \
  PRODUCT(X, bf16, 88, gridpoint::kBf16, false)                                                                                  \
  PRODUCT(X, bf16, 96, gridpoint::kBf16, false)                                                                                  \
  PRODUCT(X, bf16, 104, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 112, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 120, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 128, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 136, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 144, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 152, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 160, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 168, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 176, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 184, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 192, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 200, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 208, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 216, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 224, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 232, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 240, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 248, gridpoint::kBf16, false)                                                                                 \
  PRODUCT(X, bf16, 256, gridpoint::kBf16, false)
#define FORMS(X, n)                                                                                                              \
  PRODUCT(X, f16, n, gridpoint::kF16, false)                                                                                     \
  PRODUCT(X, m_major, n, gridpoint::kBf16 | gridpoint::kWgmmaTransposedA, false)                                                 \
  PRODUCT(X, n_major, n, gridpoint::kBf16 | gridpoint::kWgmmaTransposedB, false)                                                 \
  PRODUCT(X, both_major, n, gridpoint::kF16 | gridpoint::kWgmmaTransposedA | gridpoint::kWgmmaTransposedB, false)                \
  PRODUCT(X, minus_a, n, gridpoint::kBf16 | gridpoint::kWgmmaNegatedA, false)                                                    \
  PRODUCT(X, minus_b, n, gridpoint::kF16 | gridpoint::kWgmmaNegatedB, false)                                                     \
  PRODUCT(X, registers, n, gridpoint::kBf16, true)                                                                               \
  PRODUCT(X, registers_f16, n, gridpoint::kF16 | gridpoint::kWgmmaTransposedB | gridpoint::kWgmmaNegatedA, true)
#define INSTRUCTION_KERNELS(X)                                                                                                   \
  X(instruction_collectives, InstructionParameters, 64, 1, gridpoint::collectives)                                               \
  X(instruction_barriers, InstructionParameters, 128, 1, gridpoint::barriers)                                                    \
  X(instruction_matrices, InstructionParameters, 32, 1, gridpoint::matrices)                                                     \
  X(instruction_stored_matrices, InstructionParameters, 32, 1, gridpoint::stored_matrices)                                       \
  X(instruction_small_products, InstructionParameters, 32, 1, gridpoint::small_products)                                         \
  X(instruction_bulk_copies, InstructionParameters, 128, 1, gridpoint::bulk_copies)                                              \
  X(instruction_tensor_copies_1, InstructionParameters, 64, 1, gridpoint::tensor_copies<1>)                                      \
  X(instruction_tensor_copies_2, InstructionParameters, 64, 1, gridpoint::tensor_copies<2>)                                      \
  X(instruction_tensor_copies_3, InstructionParameters, 64, 1, gridpoint::tensor_copies<3>)                                      \
  X(instruction_tensor_copies_4, InstructionParameters, 64, 1, gridpoint::tensor_copies<4>)                                      \
  X(instruction_tensor_copies_5, InstructionParameters, 64, 1, gridpoint::tensor_copies<5>)                                      \
  X(instruction_clusters, InstructionParameters, 128, 1, gridpoint::clusters)                                                    \
  SHAPES(X)                                                                                                                      \
  FORMS(X, 8)                                                                                                                    \
  FORMS(X, 64)                                                                                                                   \
  FORMS(X, 136)                                                                                                                  \
  FORMS(X, 256)

GRIDPOINT_MODULE(instructions, INSTRUCTION_KERNELS)

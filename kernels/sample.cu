// Sampling and scoring: logits -> LogitResult of every logit row.
//
// Shapes: logits float [L, V], V of any divisibility up to 2^23; one LogitRow of the step a row; results [L] in mapped host memory.
//
// A row with a target is scored: log_probability = logit[target] - logsumexp(logits). Any other row draws a token, and gives its
// log-probability under the same raw logits:
//   temperature 0   the largest logit; among equals the smallest token id.
//   temperature > 0 logits / temperature, then the top_k largest (0: off), then the smallest set of most probable tokens whose
//                   probability, renormalised over the top k, reaches top_p (1: off), then one draw. Among equal logits the
//                   smallest ids are kept, so that exactly top_k tokens survive and no fewer than top_p asks for.
//
// The draw is the Gumbel-max trick: the token with the largest logit / temperature + noise, where the noise is a standard Gumbel
// variate made of one word of Philox4x32-10: key = seed, counter = (position, id / 4, 0, 0), word id % 4. It depends on (seed,
// position, token id) and on the logits alone: not on the row, the batch, the grid, or how the survivors were found.
//
// Thresholds are found by radix selection over order-preserving 32-bit keys of the logits (Li et al., "RadiK: Scalable and
// Optimized GPU-Parallel Radix Top-K Selection", ICS 2024): three passes with 2048 bins in shared memory, counts for top-k,
// probability mass for top-p, and only where a filter is on. Mass is 64-bit fixed point in units of 2^-40 of the most probable
// token, truncated: integer sums do not depend on the order of the atomics, so a draw repeats bit for bit. A token holds at most
// 2^40, so that fewer than 2^24 tokens cannot overflow 64 bits; truncation loses less than V * 2^-40 of the most probable
// token's probability. Where more tokens tie at a threshold than may stay, one more selection finds the last token id that does.
//
// NaN counts as -infinity. A token at -infinity is never drawn, unless all are: then the answer is token 0 (or the target) with a
// NaN log-probability. At +infinity the tokens that hold it share the probability. A target outside the vocabulary, which the host
// refuses, gets NaN. A temperature that is not above 0 is greedy.
//
// One block does a row after the other; thread i takes the quadruples i, i + threads, ..., so that the order of the sum
// depends on V alone. Barriers: 3 for a greedy or scored row, 2 more for a draw, 7 for each filter, 3 to 7 where ties are cut.
//
// Launch: GRIDPOINT_SAMPLE_THREADS threads, GRIDPOINT_SAMPLE_SHARED_BYTES of shared memory, any grid; full at one block a row. Every
// thread waits for the kernel before it first of all, also in blocks without a row. The last kernel of a step: what follows it depends on
// its end, so that it lets nothing go early.
#include "philox.cuh"
#include "tile.cuh"

namespace gridpoint {
namespace {

constexpr uint32_t kThreads = GRIDPOINT_SAMPLE_THREADS;
constexpr uint32_t kWarps = kThreads / kWarpThreads;
static_assert(kThreads % kWarpThreads == 0, "a block is whole warps");

// Logits of one quadruple, and quadruples that a thread loads before it uses the first.
constexpr uint32_t kQuad = 4;
constexpr uint32_t kQuadsInFlight = 4;

// Digits of a radix selection, from the top: 11, 11 and 10 bits of a 32-bit key.
constexpr uint32_t kDigits = 3;
constexpr uint32_t kDigitBits = 11;
constexpr uint32_t kBins = 1u << kDigitBits;
constexpr uint32_t kLaneBins = kBins / kWarpThreads;
// One bin of padding for each lane's share, so that a warp that walks its shares in step meets no bank twice.
constexpr uint32_t kPaddedBins = kBins + kWarpThreads;

// Fixed-point mass of a token as probable as the most probable one.
constexpr float kUnitMass = 1099511627776.0f;

// Gumbel noise lies within (-2.82, 22.88), see gumbel(): a token this far below the largest logit never wins.
constexpr float kHopeless = -26.0f;

struct SampleShared {
  // Two alternating sets of bins: while one is filled, the other is cleared.
  union {
    uint32_t counts[2][kPaddedBins];
    uint64_t masses[2][kPaddedBins];
  } bins;
  uint64_t thread_ranks[kThreads];
  float thread_sums[kThreads];
  // Scratch of the first warp, and what it found.
  uint64_t lane_values[kWarpThreads];
  float lane_sums[kWarpThreads];
  uint64_t rank;
  uint64_t needed;
  uint64_t inside;
  uint32_t digit;
};
static_assert(sizeof(SampleShared) == GRIDPOINT_SAMPLE_SHARED_BYTES, "the launch reserves exactly this struct");

// ---- order --------------------------------------------------------------------------------------------------------------------

// An integer that orders like the float; both zeros are one.
GRIDPOINT_DEVICE uint32_t ordered_key(float value) {
  const uint32_t bits = float_bits(value + 0.0f);
  return bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

GRIDPOINT_DEVICE float value_of_key(uint32_t key) { return float_from_bits(key ^ ((key >> 31) != 0 ? 0x80000000u : 0xffffffffu)); }

// Orders by value, then by falling token id; the largest rank is the winner.
GRIDPOINT_DEVICE uint64_t rank_of(float value, uint32_t id) { return static_cast<uint64_t>(ordered_key(value)) << 32 | ~id; }
GRIDPOINT_DEVICE float rank_value(uint64_t rank) { return value_of_key(static_cast<uint32_t>(rank >> 32)); }
GRIDPOINT_DEVICE uint32_t rank_id(uint64_t rank) { return ~static_cast<uint32_t>(rank); }
GRIDPOINT_DEVICE uint64_t maximum_rank(uint64_t a, uint64_t b) { return a > b ? a : b; }

// ---- the block's threads over one row -----------------------------------------------------------------------------------------

GRIDPOINT_DEVICE float cleaned(float logit) { return logit == logit ? logit : minus_infinity(); }

// Calls visit(first id, logits, count) for this thread's quadruples in ascending order; count is below four only at the row's end.
template <typename Visit>
GRIDPOINT_DEVICE void visit_quads(const float* logits, uint32_t vocabulary, Visit visit) {
  const bool aligned = (reinterpret_cast<uintptr_t>(logits) & 15u) == 0;
  const uint32_t quads = ceiling_divide(vocabulary, kQuad);
  for (uint32_t start = thread_index(); start < quads; start += kThreads * kQuadsInFlight) {
    Vector16 loaded[kQuadsInFlight];
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kQuadsInFlight; ++i) {
      const uint32_t id = (start + i * kThreads) * kQuad;
      if (aligned && id + kQuad <= vocabulary) {
        loaded[i] = load16(logits + id);
      } else {
        GRIDPOINT_UNROLL
        for (uint32_t j = 0; j < kQuad; ++j) loaded[i].word[j] = id + j < vocabulary ? float_bits(logits[id + j]) : 0u;
      }
    }
    GRIDPOINT_UNROLL
    for (uint32_t i = 0; i < kQuadsInFlight; ++i) {
      const uint32_t id = (start + i * kThreads) * kQuad;
      if (id < vocabulary) {
        float values[kQuad];
        GRIDPOINT_UNROLL
        for (uint32_t j = 0; j < kQuad; ++j) values[j] = cleaned(float_from_bits(loaded[i].word[j]));
        visit(id, values, minimum(vocabulary - id, kQuad));
      }
    }
  }
}

// The largest rank of all threads, for all threads.
GRIDPOINT_DEVICE uint64_t block_maximum(SampleShared& memory, uint64_t rank) {
  memory.thread_ranks[thread_index()] = rank;
  block_barrier();
  if (warp_index() == 0) {
    for (uint32_t warp = 0; warp < kWarps; ++warp) rank = maximum_rank(rank, memory.thread_ranks[warp * kWarpThreads + lane_index()]);
    memory.lane_values[lane_index()] = rank;
    warp_barrier();
    // Eight at a time here and below: all 32 values in registers at once would spill on sm_120.
    GRIDPOINT_UNROLL_8
    for (uint32_t lane = 0; lane < kWarpThreads; ++lane) rank = maximum_rank(rank, memory.lane_values[lane]);
    if (lane_index() == 0) memory.rank = rank;
  }
  block_barrier();
  return memory.rank;
}

// The sum over all threads, for thread 0 alone: over the warps for each lane, then over the lanes. A block_maximum stands between two
// calls, so that nobody writes while the first warp still reads.
GRIDPOINT_DEVICE float first_thread_sum(SampleShared& memory, float value) {
  memory.thread_sums[thread_index()] = value;
  block_barrier();
  float total = 0.0f;
  if (warp_index() == 0) {
    float sum = 0.0f;
    for (uint32_t warp = 0; warp < kWarps; ++warp) sum += memory.thread_sums[warp * kWarpThreads + lane_index()];
    memory.lane_sums[lane_index()] = sum;
    warp_barrier();
    GRIDPOINT_UNROLL_8
    for (uint32_t lane = 0; lane < kWarpThreads; ++lane) total += memory.lane_sums[lane];
  }
  return total;
}

// ---- radix selection ----------------------------------------------------------------------------------------------------------

GRIDPOINT_DEVICE uint32_t padded_bin(uint32_t bin) { return bin + bin / kLaneBins; }
GRIDPOINT_DEVICE void add_weight(uint32_t* bin, uint32_t weight) { atomic_add_shared(bin, weight); }
GRIDPOINT_DEVICE void add_weight(uint64_t* bin, uint64_t weight) { atomic_add_shared64(bin, weight); }

// The bins of one digit, for keys whose higher digits are those of `prefix`.
template <typename Weight>
struct Digit {
  Weight* bins;
  uint32_t prefix;
  uint32_t prefix_mask;
  uint32_t shift;
};

template <typename Weight>
GRIDPOINT_DEVICE bool covers(const Digit<Weight>& digit, uint32_t key) {
  return ((key ^ digit.prefix) & digit.prefix_mask) == 0;
}

template <typename Weight>
GRIDPOINT_DEVICE void add(const Digit<Weight>& digit, uint32_t key, Weight weight) {
  add_weight(digit.bins + padded_bin((key >> digit.shift) & (kBins - 1)), weight);
}

// Where the weights, added up from the largest key down, reach the target.
template <typename Weight>
struct Selection {
  uint32_t key;
  // Weight of that key's elements, and how much of it the target still needs: 1 <= needed <= inside.
  Weight inside;
  Weight needed;
};

// Selects among 32-bit keys, none above `largest_key`. `contribute(digit)` adds the weights of all elements of this thread that the
// digit covers; `target_of(total weight)` lies in [1, total weight].
template <typename Weight, typename Contribute, typename TargetOf>
GRIDPOINT_DEVICE Selection<Weight> radix_select(SampleShared& memory, Weight (&bins)[2][kPaddedBins], uint32_t largest_key,
                                                Contribute contribute, TargetOf target_of) {
  for (uint32_t bin = thread_index(); bin < kPaddedBins; bin += kThreads) bins[0][bin] = 0;
  block_barrier();
  Selection<Weight> selection = {0, 0, 0};
  Digit<Weight> digit = {bins[0], 0, 0, 0};
  uint32_t turn = 0;
  for (uint32_t pass = 0; pass < kDigits; ++pass) {
    const uint32_t bits = pass + 1 < kDigits ? kDigitBits : 32 - (kDigits - 1) * kDigitBits;
    digit.shift = pass + 1 < kDigits ? 32 - (pass + 1) * kDigitBits : 0;
    if (pass + 1 < kDigits && largest_key >> digit.shift == 0) continue;
    // The last digit is shorter: its bins stay below 2^bits once the prefix's bits are taken off.
    digit.bins = bins[turn % 2];
    contribute(digit);
    Weight* next = bins[(turn + 1) % 2];
    for (uint32_t bin = thread_index(); bin < kPaddedBins; bin += kThreads) next[bin] = 0;
    block_barrier();
    if (warp_index() == 0) {
      const uint32_t top = kBins - 1 - lane_index() * kLaneBins;
      Weight mine = 0;
      for (uint32_t i = 0; i < kLaneBins; ++i) mine += digit.bins[padded_bin(top - i)];
      memory.lane_values[lane_index()] = mine;
      warp_barrier();
      Weight before = 0;
      Weight total = 0;
      GRIDPOINT_UNROLL_8
      for (uint32_t lane = 0; lane < kWarpThreads; ++lane) {
        const Weight weight = static_cast<Weight>(memory.lane_values[lane]);
        if (lane < lane_index()) before += weight;
        total += weight;
      }
      Weight needed = turn == 0 ? target_of(total) : selection.needed;
      if (before < needed && needed - before <= mine) {
        needed -= before;
        for (uint32_t i = 0; i < kLaneBins; ++i) {
          const Weight inside = digit.bins[padded_bin(top - i)];
          if (needed <= inside) {
            memory.digit = top - i;
            memory.needed = needed;
            memory.inside = inside;
            break;
          }
          needed -= inside;
        }
      }
    }
    block_barrier();
    const uint32_t found = memory.digit & ((1u << bits) - 1);
    digit.prefix |= found << digit.shift;
    digit.prefix_mask |= ((1u << bits) - 1) << digit.shift;
    selection.needed = static_cast<Weight>(memory.needed);
    selection.inside = static_cast<Weight>(memory.inside);
    ++turn;
  }
  selection.key = digit.prefix;
  return selection;
}

// ---- drawing ------------------------------------------------------------------------------------------------------------------

// logit - highest, zero for the highest itself also when it is infinite.
GRIDPOINT_DEVICE float below_highest(float logit, float highest) { return logit == highest ? 0.0f : logit - highest; }

// (logit - highest) / temperature: at most 0, never NaN. Measuring from the highest keeps tiny temperatures finite.
GRIDPOINT_DEVICE float tempered(float logit, float highest, float temperature) {
  return cleaned(divide(below_highest(logit, highest), temperature));
}

GRIDPOINT_DEVICE uint64_t fixed_mass(float tempered_logit) { return static_cast<uint64_t>(exponential(tempered_logit) * kUnitMass); }

// ceil(total * top_p), at least 1, for top_p below 1.
GRIDPOINT_DEVICE uint64_t nucleus_mass(uint64_t total, float top_p) {
  const uint64_t fraction = top_p > 0.0f ? static_cast<uint64_t>(top_p * 4294967296.0f) : 0;
  const uint64_t low = total & 0xffffffffu;
  const uint64_t mass = (total >> 32) * fraction + ((low * fraction + 0xffffffffu) >> 32);
  return mass > 0 ? mass : 1;
}

// A standard Gumbel variate, -log(-log(1 - v)) for v = (bits + 1/2) / 2^32. Written with 1 - v, where v is exact near zero, so that
// the upper tail, which decides, is fine-grained. v stays in [2^-33, 1 - 2^-24], the result in (-2.82, 22.88).
GRIDPOINT_DEVICE float gumbel(uint32_t bits) {
  const float uniform = static_cast<float>(bits) * 0x1p-32f + 0x1p-33f;
  const float bounded = uniform < 1.0f - 0x1p-24f ? uniform : 1.0f - 0x1p-24f;
  return -natural_logarithm(-natural_logarithm_1p(-bounded));
}

// The tokens that may be drawn: keys above `key`, and ids up to `last_id` at it.
struct Survivors {
  uint32_t key;
  uint32_t last_id;
};

GRIDPOINT_DEVICE Survivors find_survivors(SampleShared& memory, const float* logits, uint32_t vocabulary, const LogitRow& row,
                                          float highest) {
  Survivors survivors = {0, 0xffffffffu};
  // How many elements tie at the threshold, and how many of them stay. No logit has key 0.
  uint64_t tied = 0;
  uint64_t kept = 0;
  if (row.top_k > 0 && row.top_k < vocabulary) {
    const uint32_t top_k = row.top_k;
    const Selection<uint32_t> selection = radix_select(
        memory, memory.bins.counts, 0xffffffffu,
        [=](const Digit<uint32_t>& digit) {
          visit_quads(logits, vocabulary, [=](uint32_t, const float(&values)[kQuad], uint32_t count) {
            GRIDPOINT_UNROLL
            for (uint32_t j = 0; j < kQuad; ++j) {
              const uint32_t key = ordered_key(values[j]);
              if (j < count && covers(digit, key)) add(digit, key, 1u);
            }
          });
        },
        [=](uint32_t) { return top_k; });
    survivors.key = selection.key;
    tied = selection.inside;
    kept = selection.needed;
  }
  if (row.top_p < 1.0f) {
    const float temperature = row.temperature;
    const float top_p = row.top_p;
    const uint32_t top_k_key = survivors.key;
    const uint64_t top_k_kept = kept;
    const Selection<uint64_t> selection = radix_select(
        memory, memory.bins.masses, 0xffffffffu,
        [=](const Digit<uint64_t>& digit) {
          // The top-k threshold's ties count as many as were kept, whichever they are.
          if (thread_index() == 0 && top_k_kept > 0 && covers(digit, top_k_key)) {
            add(digit, top_k_key, top_k_kept * fixed_mass(tempered(value_of_key(top_k_key), highest, temperature)));
          }
          visit_quads(logits, vocabulary, [=](uint32_t, const float(&values)[kQuad], uint32_t count) {
            GRIDPOINT_UNROLL
            for (uint32_t j = 0; j < kQuad; ++j) {
              const uint32_t key = ordered_key(values[j]);
              if (j < count && key > top_k_key && covers(digit, key)) {
                const uint64_t mass = fixed_mass(tempered(values[j], highest, temperature));
                if (mass > 0) add(digit, key, mass);
              }
            }
          });
        },
        [=](uint64_t total) { return nucleus_mass(total, top_p); });
    // Elements of one key have one mass, and it is not zero: the target lies inside it.
    const uint64_t each = fixed_mass(tempered(value_of_key(selection.key), highest, temperature));
    if (selection.key != survivors.key) tied = selection.inside / each;
    kept = (selection.needed + each - 1) / each;
    survivors.key = selection.key;
  }
  if (kept < tied) {
    const uint32_t key = survivors.key;
    const uint32_t target = static_cast<uint32_t>(kept);
    const Selection<uint32_t> selection = radix_select(
        memory, memory.bins.counts, vocabulary - 1,
        [=](const Digit<uint32_t>& digit) {
          visit_quads(logits, vocabulary, [=](uint32_t id, const float(&values)[kQuad], uint32_t count) {
            GRIDPOINT_UNROLL
            for (uint32_t j = 0; j < kQuad; ++j) {
              const uint32_t from_end = vocabulary - 1 - (id + j);
              if (j < count && ordered_key(values[j]) == key && covers(digit, from_end)) add(digit, from_end, 1u);
            }
          });
        },
        [=](uint32_t) { return target; });
    survivors.last_id = vocabulary - 1 - selection.key;
  }
  return survivors;
}

GRIDPOINT_DEVICE uint32_t draw(SampleShared& memory, const float* logits, uint32_t vocabulary, const LogitRow& row, float highest,
                               uint32_t argmax) {
  const Survivors survivors = find_survivors(memory, logits, vocabulary, row, highest);
  const float temperature = row.temperature;
  const uint32_t position = row.position;
  const uint64_t seed = row.seed;
  uint64_t best = rank_of(minus_infinity(), argmax);
  const auto visit = [&best, survivors, highest, temperature, position, seed](uint32_t id, const float(&values)[kQuad],
                                                                              uint32_t count) {
    float candidates[kQuad];
    bool any = false;
    GRIDPOINT_UNROLL
    for (uint32_t j = 0; j < kQuad; ++j) {
      const uint32_t key = ordered_key(values[j]);
      const bool survives = j < count && (key > survivors.key || (key == survivors.key && id + j <= survivors.last_id));
      candidates[j] = survives ? tempered(values[j], highest, temperature) : minus_infinity();
      any = any || candidates[j] >= kHopeless;
    }
    if (any) {
      const PhiloxBlock noise = philox4x32_10(PhiloxBlock{{position, id / kQuad, 0, 0}}, seed);
      GRIDPOINT_UNROLL
      for (uint32_t j = 0; j < kQuad; ++j) {
        if (candidates[j] >= kHopeless) best = maximum_rank(best, rank_of(candidates[j] + gumbel(noise.word[j]), id + j));
      }
    }
  };
  visit_quads(logits, vocabulary, visit);
  return rank_id(block_maximum(memory, best));
}

// ---- the kernel ---------------------------------------------------------------------------------------------------------------

// The row's result, for thread 0 alone.
GRIDPOINT_DEVICE LogitResult sample_row(SampleShared& memory, const float* logits, uint32_t vocabulary, const LogitRow& row) {
  uint64_t best = 0;
  visit_quads(logits, vocabulary, [&best](uint32_t id, const float(&values)[kQuad], uint32_t count) {
    GRIDPOINT_UNROLL
    for (uint32_t j = 0; j < kQuad; ++j) {
      if (j < count) best = maximum_rank(best, rank_of(values[j], id + j));
    }
  });
  best = block_maximum(memory, best);
  const float highest = rank_value(best);
  const bool scored = row.target >= 0;
  if (highest == minus_infinity()) return LogitResult{scored ? row.target : 0, float_from_bits(0x7fc00000u)};

  float sums[kQuad] = {0.0f, 0.0f, 0.0f, 0.0f};
  visit_quads(logits, vocabulary, [&sums, highest](uint32_t, const float(&values)[kQuad], uint32_t count) {
    GRIDPOINT_UNROLL
    for (uint32_t j = 0; j < kQuad; ++j) {
      if (j < count) sums[j] += exponential(below_highest(values[j], highest));
    }
  });
  const float sum = first_thread_sum(memory, (sums[0] + sums[1]) + (sums[2] + sums[3]));

  uint32_t token = rank_id(best);
  if (scored) {
    token = static_cast<uint32_t>(row.target);
  } else if (row.temperature > 0.0f && row.top_k != 1) {
    token = draw(memory, logits, vocabulary, row, highest, token);
  }
  if (token >= vocabulary) return LogitResult{row.target, float_from_bits(0x7fc00000u)};
  return LogitResult{static_cast<int32_t>(token), below_highest(cleaned(logits[token]), highest) - natural_logarithm(sum)};
}

GRIDPOINT_DEVICE void sample_rows(const SampleParameters& parameters) {
  grid_dependency_wait();
  SampleShared& memory = shared<SampleShared>();
  const StepHeader* step = parameters.step;
  const LogitRow* rows = section<LogitRow>(step, step->logit_rows_offset);
  LogitResult* results = reinterpret_cast<LogitResult*>(static_cast<uintptr_t>(step->results_address));
  const uint32_t row_count = step->logit_rows;
  for (uint32_t r = block_index(); r < row_count; r += grid_blocks()) {
    const float* logits = parameters.logits + static_cast<uint64_t>(r) * parameters.vocabulary;
    const LogitResult result = sample_row(memory, logits, parameters.vocabulary, rows[r]);
    if (thread_index() == 0) results[r] = result;
  }
  if (thread_index() == 0) fence_system();
}

}  // namespace
}  // namespace gridpoint

#define SAMPLE_KERNELS(X) X(sample_logits, SampleParameters, GRIDPOINT_SAMPLE_THREADS, 2, gridpoint::sample_rows)
GRIDPOINT_MODULE(sample, SAMPLE_KERNELS)

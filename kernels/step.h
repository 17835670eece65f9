// The step block: all that varies from one step to the next, laid out for exactly one point's capacities (T, P, D).
//
// One host-to-device copy of its used prefix and one graph launch make a step. Kernels receive the block's address, frozen at
// capture, and find every section through the byte offsets in the header, so that points whose launches are equal can share one
// executable graph. Real rows are compact: decode tokens, then prefill tokens, then padding; requests likewise. Kernels bound
// their work by the real counts; nothing behind a count is ever read, so padding may hold anything.
#pragma once
#include <stdint.h>

// Tokens in one page of the key-value cache.
#define GRIDPOINT_PAGE_TOKENS 64u

// The first bytes of a step block. Offsets are in bytes from the block's start, each a multiple of 16.
typedef struct StepHeader {
  // Real counts: tokens t, prefill requests p, decode requests d, and rows that the language-model head computes.
  uint32_t tokens;
  uint32_t prefills;
  uint32_t decodes;
  uint32_t logit_rows;
  // Capacities of the point: T, P, D, and logit rows.
  uint32_t token_capacity;
  uint32_t prefill_capacity;
  uint32_t decode_capacity;
  uint32_t logit_row_capacity;
  // int32_t[T]: token ids.
  uint32_t token_ids_offset;
  // int32_t[T]: position of each token in its sequence.
  uint32_t positions_offset;
  // int32_t[T]: page * 64 + place in the page where the token's key and value go, or -1 to store nothing.
  uint32_t slots_offset;
  // int32_t[P + D + 1]: row of each request's first token; entry p + d is t.
  uint32_t query_starts_offset;
  // int32_t[P + D]: tokens of the sequence in the cache once this step has appended its own.
  uint32_t kv_lengths_offset;
  // LogitRow[logit_row_capacity].
  uint32_t logit_rows_offset;
  // int32_t[P + D][page_table_stride]: pages of each request.
  uint32_t page_table_offset;
  uint32_t page_table_stride;
  // Device address of LogitResult[logit_row_capacity]: mapped host memory that the sampler writes.
  uint64_t results_address;
  // Bytes of the block that this step uses, at most the layout's size: what the host copies.
  uint32_t used_bytes;
  uint32_t reserved;
} StepHeader;

// One row of the language-model head: which token row it reads, and how it is sampled or scored.
typedef struct LogitRow {
  // Row of the hidden states, in [0, t).
  int32_t token_row;
  // -1: sample a token; otherwise the token id whose log-probability is asked for.
  int32_t target;
  // 0 is greedy.
  float temperature;
  // 1 is off.
  float top_p;
  // 0 is off.
  uint32_t top_k;
  // Index in its sequence of the token that is drawn. A draw depends only on (seed, position, token id).
  uint32_t position;
  uint64_t seed;
} LogitRow;

// What the sampler answers for one logit row.
typedef struct LogitResult {
  // The sampled token, or the target.
  int32_t token;
  // Natural logarithm of its probability under softmax of the raw logits (before temperature).
  float log_probability;
} LogitResult;

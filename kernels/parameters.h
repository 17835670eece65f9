// Parameter structs of all kernels: one struct per operation, passed by value as the kernel's only argument.
//
// The same header is read by nvcc, by the host compiler and by bindgen (crates/runtime/src/parameters.rs is the checked-in result).
// Shapes: T token rows, L logit rows, R = P + D requests, H hidden width, N output columns, K reduction length,
// Hq query heads, Hkv key-value heads, d head dimension, V vocabulary. Matrices are row-major; bf16 is its 16 raw bits.
#pragma once
#include "step.h"

// Rows that an operation covers.
#define GRIDPOINT_ROWS_TOKENS 0u
#define GRIDPOINT_ROWS_LOGITS 1u

// Tokens of one key-value chunk: attention accumulates each chunk from zero and merges chunks in order, at fixed positions.
#define GRIDPOINT_CHUNK_TOKENS 512u

// Query rows of one attention tile, and the most rows for which a request's chunks are split over blocks (decode-like requests).
#define GRIDPOINT_ATTENTION_TILE_ROWS 64u
#define GRIDPOINT_ATTENTION_SPLIT_ROWS 16u

// Threads of a block and bytes of shared memory that these kernels are launched with.
#define GRIDPOINT_EMBEDDING_THREADS 256u
#define GRIDPOINT_NORM_THREADS 256u
#define GRIDPOINT_NORM_SHARED_BYTES 2112u
#define GRIDPOINT_SAMPLE_THREADS 256u
#define GRIDPOINT_SAMPLE_SHARED_BYTES 36768u
#define GRIDPOINT_ROPE_THREADS 256u
#define GRIDPOINT_SCHEDULE_THREADS 256u
#define GRIDPOINT_SCHEDULE_SHARED_BYTES 41004u
#define GRIDPOINT_ATTENTION_THREADS 128u
#define GRIDPOINT_ATTENTION_D64_SHARED_BYTES 40976u
#define GRIDPOINT_ATTENTION_D96_SHARED_BYTES 61456u
#define GRIDPOINT_ATTENTION_D128_SHARED_BYTES 81936u
#define GRIDPOINT_ATTENTION_D256_THREADS 256u
#define GRIDPOINT_ATTENTION_D256_SHARED_BYTES 98320u

// embedding.cu: output[t, :] = table[token_ids[t], :].
typedef struct EmbeddingParameters {
  const StepHeader* step;
  const uint16_t* table;  // bf16 [V, H]
  uint16_t* output;       // bf16 [T, H]
  uint32_t hidden;        // multiple of 8
  uint32_t vocabulary;
} EmbeddingParameters;

// norm.cu: output[r, :] = rms_norm(input[row(r), :] (+ addend[row(r), :])) * weight; the sum goes to `sum` where there is an addend.
typedef struct NormParameters {
  const StepHeader* step;
  const uint16_t* input;   // bf16 [T, width]
  const uint16_t* addend;  // bf16 [T, width] or null
  const uint16_t* weight;  // bf16 [width]
  uint16_t* sum;           // bf16 [T, width], written only with an addend
  uint16_t* output;        // bf16 [rows, width]
  float epsilon;
  uint32_t width;  // multiple of 8
  uint32_t rows;   // GRIDPOINT_ROWS_TOKENS: row(r) = r; GRIDPOINT_ROWS_LOGITS: row(r) = logit_rows[r].token_row
  uint32_t reserved;
} NormParameters;

// gemm.cu: output = epilogue(activations x weights^T), accumulated in float32 over ascending k.
typedef struct GemmParameters {
  const StepHeader* step;
  const uint16_t* activations;  // bf16 [rows, K]
  const uint16_t* weights;      // bf16 [N, K]
  const uint16_t* bias;         // bf16 [N], or null
  const uint16_t* residual;     // bf16 [rows, N], or null; may equal output
  void* output;                 // bf16 or float [rows, N]; SwiGLU: bf16 [rows, N / 2]
  uint32_t n;
  uint32_t k;     // multiple of 8
  uint32_t rows;  // GRIDPOINT_ROWS_TOKENS or GRIDPOINT_ROWS_LOGITS: which real count bounds the rows
  uint32_t reserved;
} GemmParameters;

// gemm_{16x64,64x64,128x128}_*: rows x columns of an output tile. Threads of a block, and its dynamic shared memory in bytes.
#define GRIDPOINT_GEMM_THREADS 128u
#define GRIDPOINT_GEMM_16X64_SHARED_BYTES 81920u
#define GRIDPOINT_GEMM_64X64_SHARED_BYTES 65536u
#define GRIDPOINT_GEMM_128X128_SHARED_BYTES 98304u

// rope.cu: rotates query and key heads in place by the token's position, then stores key and value at the token's slot.
typedef struct RopeAppendParameters {
  const StepHeader* step;
  uint16_t* qkv;            // bf16 [T, (Hq + 2 Hkv) * d]: queries, keys, values
  uint16_t* key_cache;      // bf16 [pages, Hkv, 64, d] of this layer
  uint16_t* value_cache;    // bf16 [pages, Hkv, 64, d] of this layer
  const float* rotary;      // float [positions, d / 2, 2]: (cos, sin)
  uint32_t query_heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t reserved;
} RopeAppendParameters;

// One unit of attention work for every key-value head: a tile of query rows against a range of key-value chunks.
// Query rows of a request are numbered token * group + head of the group, group = Hq / Hkv.
typedef struct AttentionWork {
  uint32_t request;
  uint32_t first_row;    // first query row of the tile, a multiple of the tile's rows
  uint32_t first_chunk;  // chunks [first_chunk, first_chunk + chunk_count)
  uint32_t chunk_count;
  // Where a part of a row of splits goes: index of the request's first partial, and how many parts there are (1: written directly).
  uint32_t first_partial;
  uint32_t part;
  uint32_t part_count;
  uint32_t counter;  // index of the arrival counter of this tile (per key-value head)
} AttentionWork;

// Head of the list; the items follow, longest first.
typedef struct AttentionWorkList {
  uint32_t count;
  uint32_t reserved[3];
} AttentionWorkList;

// schedule.cu: lengths -> attention work list, all arrival counters zeroed; once per step, shared by all layers.
typedef struct ScheduleParameters {
  const StepHeader* step;
  AttentionWorkList* list;  // header and `capacity` items
  uint32_t* counters;       // [counter_capacity][Hkv]
  uint32_t capacity;
  uint32_t counter_capacity;
  uint32_t partial_capacity;  // rows of 16 query rows that the partial buffers hold, per key-value head
  uint32_t kv_heads;
  uint32_t group;
  uint32_t tile_rows;  // query rows of one tile
} ScheduleParameters;

// attention.cu: paged causal attention over the work list, decode and ragged prefill in one launch.
typedef struct AttentionParameters {
  const StepHeader* step;
  const AttentionWorkList* list;
  const uint16_t* queries;      // bf16 [T, query_pitch], of which the first Hq * d are the queries, rotated
  const uint16_t* key_cache;    // bf16 [pages, Hkv, 64, d] of this layer
  const uint16_t* value_cache;  // bf16 [pages, Hkv, 64, d] of this layer
  uint16_t* output;             // bf16 [T, Hq * d]
  float* partial_output;        // float [partial_capacity, Hkv, 16, d]
  float* partial_state;         // float [partial_capacity, Hkv, 16, 2]: row maximum (base-2 exponent units), row sum
  uint32_t* counters;           // [counter_capacity][Hkv]
  float scale;                  // 1 / sqrt(d)
  uint32_t query_heads;
  uint32_t kv_heads;
  uint32_t query_pitch;         // elements of a token's row in `queries`, a multiple of 8: (Hq + 2 Hkv) * d of the fused projection
} AttentionParameters;

// sample.cu: logits -> LogitResult of every logit row.
typedef struct SampleParameters {
  const StepHeader* step;
  const float* logits;  // float [L, V]
  uint32_t vocabulary;
  uint32_t reserved;
} SampleParameters;

// Parameter structs of all kernels: one struct per operation, passed by value as the kernel's only argument.
//
// The same header is read by nvcc, by the host compiler and by bindgen (crates/runtime/src/parameters.rs is the checked-in result).
// Shapes: T token rows, L logit rows, R = P + D requests, H hidden width, N output columns, K reduction length,
// Hq query heads, Hkv key-value heads, d head dimension, V vocabulary. Matrices are row-major; bf16 is its 16 raw bits.
#pragma once
#include "step.h"
#include "tensor_map.h"

// Rows that an operation covers.
#define GRIDPOINT_ROWS_TOKENS 0u
#define GRIDPOINT_ROWS_LOGITS 1u

// Tokens of one key-value chunk: attention accumulates each chunk from zero and merges chunks in order, at fixed positions.
#define GRIDPOINT_CHUNK_TOKENS 512u

// Query rows of one attention tile, likewise of attention_hopper.cu, and the most rows for which a request's chunks are split over blocks
// (decode-like requests).
#define GRIDPOINT_ATTENTION_TILE_ROWS 64u
#define GRIDPOINT_ATTENTION_HOPPER_TILE_ROWS 128u
#define GRIDPOINT_ATTENTION_SPLIT_ROWS 16u

// Threads of a block and bytes of shared memory that these kernels are launched with.
#define GRIDPOINT_EMBEDDING_THREADS 256u
#define GRIDPOINT_NORM_THREADS 256u
#define GRIDPOINT_NORM_SHARED_BYTES 2112u
#define GRIDPOINT_SAMPLE_THREADS 256u
#define GRIDPOINT_SAMPLE_SHARED_BYTES 36768u
#define GRIDPOINT_SCHEDULE_THREADS 256u
#define GRIDPOINT_SCHEDULE_SHARED_BYTES 41296u
#define GRIDPOINT_ATTENTION_THREADS 128u
#define GRIDPOINT_ATTENTION_D64_SHARED_BYTES 40976u
#define GRIDPOINT_ATTENTION_D96_SHARED_BYTES 61456u
#define GRIDPOINT_ATTENTION_D128_SHARED_BYTES 81936u
#define GRIDPOINT_FILL_THREADS 256u
#define GRIDPOINT_BANDWIDTH_THREADS 256u
#define GRIDPOINT_ATTENTION_D256_THREADS 256u
#define GRIDPOINT_ATTENTION_D256_SHARED_BYTES 98320u
#define GRIDPOINT_ATTENTION_HOPPER_THREADS 384u
#define GRIDPOINT_ATTENTION_HOPPER_SHARED_BYTES 231968u

// embedding.cu: output[t, :] = table[token_ids[t], :].
typedef struct EmbeddingParameters {
  const StepHeader* step;
  const uint16_t* table;  // bf16 [V, H]
  uint16_t* output;       // bf16 [T, H]
  uint32_t hidden;        // multiple of 8
  uint32_t vocabulary;
} EmbeddingParameters;

// norm.cu: output[r, :] = rms_norm(input[row(r), :]) * weight.
typedef struct NormParameters {
  const StepHeader* step;
  const uint16_t* input;   // [T, width]
  const uint16_t* weight;  // [width]
  uint16_t* output;        // [rows, width]
  float epsilon;
  uint32_t width;  // multiple of 8
  uint32_t rows;   // GRIDPOINT_ROWS_TOKENS: row(r) = r; GRIDPOINT_ROWS_LOGITS: row(r) = logit_rows[r].token_row
  uint32_t reserved;
} NormParameters;

// Where the scale of a product's rows comes from: there is none, it lies in `row_scales`, or the kernel computes it from the activations
// that it reads anyway (skinny.cu alone).
#define GRIDPOINT_SCALE_NONE 0u
#define GRIDPOINT_SCALE_GIVEN 1u
#define GRIDPOINT_SCALE_COMPUTED 2u

// Columns of a group of squares: the sum of squares of a row is accumulated from zero in each group, in ascending steps of 16 columns, and
// the groups are added in order, so that every kernel that computes it gets the same bits.
#define GRIDPOINT_SQUARES_COLUMNS 512u

// gemm.cu, skinny.cu, gemm_hopper.cu: output = epilogue(activations x weights^T) (epilogue.cuh). K is cut into segments of `segment`
// values, whatever the rows: each is accumulated in float32 from zero over ascending steps of 16, and segments are added in order.
// Elements are bf16 or, in kernels whose name ends in _f16, float16.
typedef struct GemmParameters {
  const StepHeader* step;
  const uint16_t* activations;  // [rows, K]
  const uint16_t* weights;      // [N, K]
  const uint16_t* bias;         // [N], or null
  const uint16_t* residual;     // [rows, N] for the residual epilogue; may equal output
  void* output;                 // [rows, N]; SwiGLU [rows, N / 2]; logits float [rows, N]; rotary [rows, Hq * d]
  const float* row_scales;      // float [rows], with GRIDPOINT_SCALE_GIVEN
  uint16_t* key_cache;          // rotary: [pages, Hkv, 64, d] of this layer
  uint16_t* value_cache;        // rotary: the same
  const float* rotary;          // rotary: float [positions, d / 2, 2]: (cos, sin)
  float* partials;              // skinny.cu, where blocks share a tile: float [segments of all tiles], see there
  uint32_t* counters;           // skinny.cu: arrivals of each tile, zero before and after a launch
  uint32_t n;
  uint32_t k;        // multiple of 8
  uint32_t segment;  // multiple of 64, of 512 with a scale that is computed; at least K for one segment
  uint32_t rows;     // GRIDPOINT_ROWS_TOKENS or GRIDPOINT_ROWS_LOGITS: which real count bounds the rows
  uint32_t scaled;   // GRIDPOINT_SCALE_*
  float epsilon;         // of the normalisation, with GRIDPOINT_SCALE_COMPUTED
  float inverse_width;   // 1 / K, likewise
  uint32_t query_heads;  // rotary
  uint32_t kv_heads;
  uint32_t head_dim;
} GemmParameters;

// skinny_*: threads of a block, the live rows that it takes, rows of weights in a unit of its work, and floats that each segment of a unit
// leaves in `partials` where there is more than one: segments x units x these, and a counter for each unit.
#define GRIDPOINT_SKINNY_THREADS 128u
#define GRIDPOINT_SKINNY_ROWS 64u
#define GRIDPOINT_SKINNY_UNIT 8u
#define GRIDPOINT_SKINNY_PARTIAL_FLOATS 576u
// Its shared memory: any number of bytes from 256 + 3 x 72 x 128 on is right. Two blocks of the first fit an SM with 228 KB, the second is for
// GPUs whose blocks have 99 KB.
#define GRIDPOINT_SKINNY_SHARED_BYTES 114944u
#define GRIDPOINT_SKINNY_SMALL_SHARED_BYTES 98560u
// Threads and dynamic shared memory of every kernel of gemm_hopper.cu: all that a block of compute capability 9.0 may have.
#define GRIDPOINT_GEMM_HOPPER_THREADS 384u
#define GRIDPOINT_GEMM_HOPPER_SHARED_BYTES 232448u

// Places in TensorGemmParameters::maps.
#define GRIDPOINT_MAP_ACTIVATIONS 0u
#define GRIDPOINT_MAP_WEIGHTS 1u
#define GRIDPOINT_MAP_OUTPUT 2u
#define GRIDPOINT_MAP_RESIDUAL 3u

// Which way the two blocks of a cluster lie beside one another, and so which operand they share: row tiles of the same columns share
// weights, column tiles of the same rows share activations.
#define GRIDPOINT_CLUSTER_ROWS 0u
#define GRIDPOINT_CLUSTER_COLUMNS 1u

// gemm_hopper.cu: the product of `gemm` by tensor copies. Maps of matrices with rows of tokens are ragged (see there).
typedef struct TensorGemmParameters {
  TensorMap maps[4];
  GemmParameters gemm;
  uint32_t row_capacity;  // rows of the ragged maps
  uint32_t cluster;       // GRIDPOINT_CLUSTER_*; of no meaning in clusters of one block
  uint32_t reserved[12];
} TensorGemmParameters;

// Threads of row_scale.cu's block, groups of columns that its shared memory has room for, 65536 in all, and its bytes.
#define GRIDPOINT_ROW_SCALE_THREADS 256u
#define GRIDPOINT_ROW_SCALE_GROUPS 128u
#define GRIDPOINT_ROW_SCALE_SHARED_BYTES 8192u

// row_scale.cu: row_scales[r] = 1 / rms(input[r, :]), for products into whose weights the normalisation is folded.
typedef struct RowScaleParameters {
  const StepHeader* step;
  const uint16_t* input;  // [T, width]
  float* row_scales;      // float [T]
  float epsilon;
  float inverse_width;  // 1 / width
  uint32_t width;       // multiple of 8, at most 65536
  uint32_t segment;     // that of the product
} RowScaleParameters;

// gemm_{64x64,128x128}_*: rows x columns of an output tile. Threads of a block, and its dynamic shared memory in bytes.
#define GRIDPOINT_GEMM_THREADS 128u
#define GRIDPOINT_GEMM_64X64_SHARED_BYTES 65536u
#define GRIDPOINT_GEMM_128X128_SHARED_BYTES 98304u

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

// Head of the list; the items follow, tiles before decode-like ones, longest first.
typedef struct AttentionWorkList {
  uint32_t count;
  uint32_t reserved[3];  // a refused list: 1, items and partials needed; else 0, the number of tiles, 0
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

// attention_hopper.cu: as attention.cu, on tiles of 128 query rows, keys and values through tensor maps.
typedef struct AttentionTensorParameters {
  // Keys and values of the layer: [d / 64][pages * Hkv * 64][64] with strides 128 bytes and d * 2 bytes, boxes [d / 64][64][64], 128-byte
  // swizzle; for d = 96 with 32 in the place of 64 elements, 64 bytes in that of 128.
  TensorMap maps[2];
  AttentionParameters attention;
  uint32_t reserved[10];
} AttentionTensorParameters;

// sample.cu: logits -> LogitResult of every logit row.
typedef struct SampleParameters {
  const StepHeader* step;
  const float* logits;  // float [L, V]
  uint32_t vocabulary;
  uint32_t reserved;
} SampleParameters;

// fill.cu: target[i] = a random number in offset +- half_width, the same for the same (seed, tensor, i).
typedef struct FillParameters {
  uint16_t* target;  // bf16 or float16 [count], at a multiple of 16 bytes
  uint64_t count;
  uint64_t seed;
  float half_width;
  float offset;
  uint32_t tensor;
  uint32_t reserved;
} FillParameters;

// bandwidth.cu: the first vectors are copied, and what one side has more is only read or only written. A vector has 16 bytes.
typedef struct BandwidthParameters {
  const uint32_t* source;  // 16-byte vectors [read_vectors]
  uint32_t* target;        // 16-byte vectors [write_vectors]
  uint32_t* sums;          // one word for each warp of the grid, written only where more is read than written
  uint64_t read_vectors;
  uint64_t write_vectors;
} BandwidthParameters;

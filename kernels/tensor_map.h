// Tensor maps as parameter structs hold them.
#pragma once
#include <stdint.h>

// What cuTensorMapEncodeTiled makes: 128 opaque bytes at a multiple of 64, in the parameter struct or in global memory.
typedef struct __attribute__((aligned(64))) TensorMap {
  uint64_t opaque[16];
} TensorMap;

// What the kernels of the instruction tests take; crates/runtime/src/instructions.rs is the same in Rust.
#pragma once
#include <stdint.h>

#include "../../kernels/ptx.cuh"

typedef struct InstructionParameters {
  gridpoint::TensorMap maps[3];
  const uint32_t* input;
  uint32_t* output;
  uint32_t numbers[12];
} InstructionParameters;

static_assert(sizeof(InstructionParameters) == 448, "the binding in Rust has 448 bytes");

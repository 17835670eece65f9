// Philox4x32-10, a counter-based generator: 128 random bits as a function of a 128-bit counter and a 64-bit key, without state.
// J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
#pragma once
#include "ptx.cuh"

namespace gridpoint {

struct PhiloxBlock {
  uint32_t word[4];
};

GRIDPOINT_DEVICE constexpr PhiloxBlock philox4x32_10(PhiloxBlock counter, uint64_t key) {
  // The multipliers, and the key's increments: golden ratio and sqrt(3) - 1.
  constexpr uint64_t kMultiplier0 = 0xd2511f53u;
  constexpr uint64_t kMultiplier1 = 0xcd9e8d57u;
  constexpr uint32_t kWeyl0 = 0x9e3779b9u;
  constexpr uint32_t kWeyl1 = 0xbb67ae85u;
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  GRIDPOINT_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter.word[0];
    const uint64_t product1 = kMultiplier1 * counter.word[2];
    counter = PhiloxBlock{{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
                           static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

// The known answers that the authors publish with their library (Random123, kat_vectors, philox4x32 with 10 rounds), held at
// compile time by every compiler that takes this file. Key words are low, high.
namespace philox_known_answers {
GRIDPOINT_DEVICE constexpr bool matches(PhiloxBlock counter, uint64_t key, PhiloxBlock expected) {
  const PhiloxBlock block = philox4x32_10(counter, key);
  return block.word[0] == expected.word[0] && block.word[1] == expected.word[1] && block.word[2] == expected.word[2] &&
         block.word[3] == expected.word[3];
}
static_assert(matches({{0, 0, 0, 0}}, 0, {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}}), "philox of zeros");
static_assert(matches({{0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}}, 0xffffffffffffffffull,
                      {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}}),
              "philox of ones");
static_assert(matches({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0x299f31d0a4093822ull,
                      {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}}),
              "philox of the digits of pi");
}  // namespace philox_known_answers

}  // namespace gridpoint

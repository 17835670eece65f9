// Sums of squares of 16 rows by the tensor cores: the diagonal of X X^T. Shared by row_scale.cu and skinny.cu, which get the same bits.
//
// A fragment of 16 rows of X as the first operand of mma m16n8k16 is, register for register, that of its upper and of its lower eight rows as
// the second one: two mma a k16 step and no load. Rows lane / 4 and lane / 4 + 8 are with the eight lanes whose lane % 4 is lane / 8.
#pragma once
#include "element.cuh"

namespace gridpoint {

struct Squares {
  float sums[1][2][4];
};

GRIDPOINT_DEVICE void clear(Squares& squares) {
  GRIDPOINT_UNROLL
  for (int n = 0; n < 2; ++n) {
    GRIDPOINT_UNROLL
    for (int i = 0; i < 4; ++i) squares.sums[0][n][i] = 0.0f;
  }
}

// Adds the squares of 16 columns; `fragment` is what ldmatrix loads as mma's first operand.
template <class Element>
GRIDPOINT_DEVICE void add_squares(Squares& squares, const uint32_t (&fragment)[4]) {
  const uint32_t a[1][4] = {{fragment[0], fragment[1], fragment[2], fragment[3]}};
  const uint32_t b[2][2] = {{fragment[0], fragment[2]}, {fragment[1], fragment[3]}};
  Element::template mma<1, 2>(squares.sums, a, b);
}

// Whether this lane holds the sums of rows lane / 4 and lane / 4 + 8.
GRIDPOINT_DEVICE bool holds_squares() { return lane_index() % 4 == lane_index() / 8; }

// The sum of row lane / 4 + 8 * half, in lanes that hold it.
GRIDPOINT_DEVICE float squares_of(const Squares& squares, uint32_t half) {
  const bool odd = lane_index() / 4 % 2 != 0;
  return half == 0 ? (odd ? squares.sums[0][0][1] : squares.sums[0][0][0]) : (odd ? squares.sums[0][1][3] : squares.sums[0][1][2]);
}

}  // namespace gridpoint

// Products of a few rows with a matrix, on one instruction set.
#pragma once
#include <algorithm>

#include "simd/simd.h"
#include "step.h"

namespace fastssl {
namespace FASTSSL_ISA {
namespace {

constexpr int kW = kWidth<float>;
using V = Vec<float>;
// Sums of a tile stay in registers: rows x vectors, twice, for the even and the odd inputs. The order of the additions
// of an output does not depend on the tile, so that a row has the same bits in any group of rows.
constexpr int most_vectors(int rows) {
  return (kManyRegisters ? 12 : 6) / rows < 1 ? 1 : (kManyRegisters ? 12 : 6) / rows;
}

// to[r][0..N) = bias + sum_i from[r][i] * weights[i][0..N), vectors of kW.
template <int R, int N>
FASTSSL_INLINE void tile(const float* weights, const float* bias, int64_t inputs, int64_t stride,
                         const float* const* from, float* const* to) {
  V even[R * N], odd[R * N] = {};
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) even[r * N + n] = load<float>(bias + n * kW);
  }
  const auto add = [&](V* sums, int64_t i) __attribute__((always_inline)) {
    V w[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) w[n] = load<float>(weights + i * stride + n * kW);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const V x = splat(from[r][i]);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) sums[r * N + n] += x * w[n];
    }
  };
  int64_t i = 0;
  for (; i + 2 <= inputs; i += 2) {
    add(even, i);
    add(odd, i + 1);
  }
  if (i < inputs) add(even, i);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) store<float>(to[r] + n * kW, even[r * N + n] + odd[r * N + n]);
  }
}

template <int R>
void product(const WaveMatrix& m, const float* from, int64_t from_stride, float* to) {
  constexpr int kMost = most_vectors(R);
  const float* in[R];
  float* out[R];
  for (int r = 0; r < R; ++r) in[r] = from + r * from_stride;
  const int64_t vectors = m.stride / kW;
  for (int64_t v = 0; v < vectors; v += kMost) {
    for (int r = 0; r < R; ++r) out[r] = to + r * m.stride + v * kW;
    with_count<kMost>(int(std::min<int64_t>(kMost, vectors - v)), [&](auto n) {
      tile<R, decltype(n)::value>(m.weights + v * kW, m.bias + v * kW, m.inputs, m.stride, in, out);
    });
  }
}

FASTSSL_INLINE V magnitude(V x) { return x < 0.f ? -x : x; }

}  // namespace
}  // namespace FASTSSL_ISA
}  // namespace fastssl

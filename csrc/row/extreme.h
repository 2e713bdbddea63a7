// The hardest positive and the hardest negative of each row.
#pragma once
#include "pairs.h"

namespace fastssl {
namespace FASTSSL_ISA {

// The extremes of a row: out: largest sign s of the positives, smallest of the negatives, their columns (-1: none).
// params: sign.
template <class T>
void extreme_forward(const RowTask<T>& t) {
  const T sign = T(t.params[0]);
  T best[2][kBlock];
  int64_t column[2][kBlock];
  for (int l = 0; l < kBlock; ++l) {
    best[0][l] = T(-__builtin_inf());
    best[1][l] = T(__builtin_inf());
    column[0][l] = column[1][l] = -1;
  }
  for_each_pair<T>(t, [&](int v, Vec<T> s, int64_t, int64_t j, IVec<T> positive, IVec<T> negative) {
    const Vec<T> d = sign * s;
    const Vec<T> far = load<T>(best[0] + v * kWidth<T>), near = load<T>(best[1] + v * kWidth<T>);
    const IVec<T> farther = positive & ~(d <= far) & (far == far);  // NaN enters and stays
    const IVec<T> nearer = negative & ~(d >= near) & (near == near);
    if (!any<T>(farther | nearer)) return;
    for (int w = 0; w < kWidth<T>; ++w) {
      const int l = v * kWidth<T> + w;
      if (farther[w]) best[0][l] = d[w], column[0][l] = j;
      if (nearer[w]) best[1][l] = d[w], column[1][l] = j;
    }
  });
  for_each_lane(t, [&](int l, int64_t i) {
    for (int k = 0; k < 2; ++k) {
      t.out[4 * i + k] = double(best[k][l]);
      t.out[4 * i + 2 + k] = double(column[k][l]);
    }
  });
}

template <class T>
void extreme_backward(const RowTask<T>& t) {
  __builtin_memset(t.g, 0, sizeof(T) * size_t(t.m - t.first) * kBlock);
  for_each_lane(t, [&](int l, int64_t i) {
    for (int k = 0; k < 2; ++k) {
      const int64_t j = int64_t(t.out[4 * i + 2 + k]);
      if (j >= 0) t.g[(j - t.first) * kBlock + l] += T(t.grad[4 * i + k] * t.params[0]);
    }
  });
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

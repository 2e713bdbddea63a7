// Semi-hard triplets.
#pragma once
#include "ranked_positives.h"

namespace fastssl {
namespace FASTSSL_ISA {

// Semi-hard triplets: for every positive pair the nearest negative that is farther than the positive, else the
// farthest negative. out: sum of max(0, z), how many z > 0. params: sign, margin.
template <class T, class F>
void for_each_semihard(const RowTask<T>& t, F&& f) {
  const T sign = T(t.params[0]);
  const RankedPositives<T> positives(t, [&](Vec<T> s) { return sign * s; });
  // [k]: the nearest of the negatives that k positives (in order) are nearer than. (NaN is farther than none.)
  std::vector<T> near(size_t(positives.total()), T(__builtin_inf()));
  std::vector<int32_t> column(size_t(positives.total()), -1);
  struct Farthest {
    T d = T(-__builtin_inf());
    int32_t column = -1;
  } farthest[kBlock];
  for_each_ranked<true>(
      t, positives,
      [&](int l, int64_t j0, const T* d, const int32_t* rank, const uint32_t* negative) __attribute__((always_inline)) {
        T* of = near.data() + positives.offset(l);
        int32_t* at = column.data() + positives.offset(l);
        Farthest far = farthest[l];
        for (int64_t w = 0; w < RankedPositives<T>::kTogether / kBlock;
             ++w, d += kBlock, rank += kBlock, j0 += kBlock) {
          uint32_t nearer = 0, farther = 0;
          for (int v = 0; v < kV<T>; ++v) {
            const Vec<T> x = load<T>(d + v * kWidth<T>);
            nearer |= bits_of<T>(x < gather(of, load_ids<T>(rank + v * kWidth<T>))) << (v * kWidth<T>);
            farther |= bits_of<T>(~(x <= far.d)) << (v * kWidth<T>);
          }
          for_each_bit(nearer & negative[w], [&](int c) {
            const int32_t k = rank[c];
            if (d[c] < of[k]) of[k] = d[c], at[k] = int32_t(j0 + c);
          });
          for_each_bit(farther & negative[w], [&](int c) {
            if (far.d == far.d && !(d[c] <= far.d)) far = {d[c], int32_t(j0 + c)};  // NaN enters and stays
          });
        }
        farthest[l] = far;
      });
  for (int l = 0; l < kBlock; ++l) {
    Farthest best = farthest[l];
    if (best.column < 0) continue;  // no negatives
    for (int64_t p = positives.count(l); p-- > 0;) {
      const size_t next = size_t(positives.offset(l) + p + 1);
      const bool farther = column[next] >= 0 && best.d == best.d;  // a negative that is NaN shows
      best.d = farther ? near[next] : best.d;
      best.column = farther ? column[next] : best.column;
      f(l, positives.values(l)[p], positives.columns(l)[p], best.d, best.column);
    }
  }
}

template <class T>
void semihard_forward(const RowTask<T>& t) {
  double sum[kBlock] = {}, active[kBlock] = {};
  for_each_semihard(t, [&](int l, T positive, int64_t, T negative, int64_t) {
    const double z = double(positive) - double(negative) + t.params[1];
    if (z <= 0) return;
    sum[l] += z;
    active[l] += 1;
  });
  for_each_lane(t, [&](int l, int64_t i) {
    t.out[2 * i] = sum[l];
    t.out[2 * i + 1] = active[l];
  });
}

template <class T>
void semihard_backward(const RowTask<T>& t) {
  __builtin_memset(t.g, 0, sizeof(T) * size_t(t.m - t.first) * kBlock);
  for_each_semihard(t, [&](int l, T positive, int64_t p, T negative, int64_t q) {
    if (double(positive) - double(negative) + t.params[1] <= 0) return;
    const double g = t.grad[2 * (t.i + l)] * t.params[0];
    t.g[(p - t.first) * kBlock + l] += T(g);
    t.g[(q - t.first) * kBlock + l] -= T(g);
  });
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

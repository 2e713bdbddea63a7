// How a row loss walks over its lane block: 32 rows side by side, one column after the other, each pair with its
// relation; sums of 32 columns in T, then in double.
#pragma once
#include "strip.h"

namespace fastssl {
namespace FASTSSL_ISA {

template <class T>
constexpr int kV = kBlockVectors<T>;

// The pairs of a lane block, 32 columns at a time.
template <class T>
struct Pairs {
  using E = decltype(IVec<T>{}[0] + 0);
  const RowTask<T>& t;
  IVec<T> ids[kV<T>] = {}, lane[kV<T>], self[kV<T>], bit[kV<T>];
  int64_t first_self = INT64_MAX, last_self = -1;
  explicit FASTSSL_INLINE Pairs(const RowTask<T>& task) : t(task) {
    for (int v = 0; v < kV<T>; ++v) {
      if (t.x_ids) ids[v] = load_ids<T>(t.x_ids + t.i + v * kWidth<T>);
      for (int w = 0; w < kWidth<T>; ++w) {
        const int64_t i = t.i + v * kWidth<T> + w;
        const int64_t column = t.self_offset < 0 || i >= t.n ? -1 : (t.self_offset + i) % t.m;
        lane[v][w] = E(i);
        self[v][w] = E(column);
        if (column >= 0 && column < first_self) first_self = column;
        if (column > last_self) last_self = column;
        bit[v][w] = E(uint32_t(1) << (v * kWidth<T> + w));
      }
    }
  }
  // f(j0) for every 32 columns.
  template <class F>
  FASTSSL_INLINE void for_each_block(F&& f) const {
    for (int64_t j0 = t.upper && t.i > t.first ? t.i : t.first; j0 < t.m; j0 += kBlock) f(j0);
  }
  // f(v, s, at, j, positive, negative): vector v of the lanes at column j; at: where s stands in the strip.
  template <class F>
  FASTSSL_INLINE void in_block(int64_t j0, F&& f) const {
    const bool diagonal = t.upper ? j0 == t.i : j0 + kBlock > first_self && j0 <= last_self;
    const int64_t j1 = j0 + kBlock < t.m ? j0 + kBlock : t.m;
    for (int64_t j = j0; j < j1; ++j) {
      const int64_t at = (j - t.first) * kBlock;
#pragma GCC unroll 8
      for (int v = 0; v < kV<T>; ++v) {
        IVec<T> positive, negative;
        if (t.positive_bits) {
          positive = ((IVec<T>{} + E(int32_t(t.positive_bits[j]))) & bit[v]) != E(0);
          negative = ((IVec<T>{} + E(int32_t(t.negative_bits[j]))) & bit[v]) != E(0);
        } else {
          positive = ids[v] == E(t.y_ids[j]);
          negative = ~positive;
        }
        if (diagonal) {
          const IVec<T> keep = t.upper ? lane[v] < E(j) : self[v] != E(j);
          positive &= keep;
          negative &= keep;
        }
        f(v, load<T>(t.s + at + v * kWidth<T>), at + v * kWidth<T>, j, positive, negative);
      }
    }
  }
};

template <class T, class F, class End>
FASTSSL_INLINE void for_each_pair(const RowTask<T>& t, F&& f, End&& end) {
  const Pairs<T> pairs(t);
  pairs.for_each_block([&](int64_t j0) __attribute__((always_inline)) {
    pairs.in_block(j0, f);
    end();
  });
}
template <class T, class F>
FASTSSL_INLINE void for_each_pair(const RowTask<T>& t, F&& f) {
  for_each_pair<T>(t, f, [] {});
}

// The same for one lane at a time, where rows sort or scatter: f(l, s, j, positive).
template <class T, class F>
FASTSSL_INLINE void for_each_single_pair(const RowTask<T>& t, F&& f) {
  for_each_pair<T>(t, [&](int v, Vec<T> s, int64_t, int64_t j, IVec<T> positive, IVec<T> negative) {
    for (int w = 0; w < kWidth<T>; ++w)
      if ((positive[w] | negative[w]) && t.i + v * kWidth<T> + w < t.n) f(v * kWidth<T> + w, s[w], j, positive[w] != 0);
  });
}

template <class T>
struct LaneSum {
  Vec<T> part[kV<T>] = {};
  double total[kBlock] = {};
  FASTSSL_INLINE void flush() {
    for (int v = 0; v < kV<T>; ++v) {
      for (int w = 0; w < kWidth<T>; ++w) total[v * kWidth<T> + w] += double(part[v][w]);
      part[v] = Vec<T>{};
    }
  }
};

// Lanes from an array of doubles per row, 0 for rows that do not exist.
template <class T, class F>
FASTSSL_INLINE void fill_lanes(const RowTask<T>& t, Vec<T>* lanes, F&& value) {
  for (int l = 0; l < kBlock; ++l) lanes[l / kWidth<T>][l % kWidth<T>] = t.i + l < t.n ? T(value(t.i + l)) : T(0);
}
template <class T, class F>
FASTSSL_INLINE void for_each_lane(const RowTask<T>& t, F&& f) {
  for (int l = 0; l < kBlock && t.i + l < t.n; ++l) f(l, t.i + l);
}

// dL/ds in place of which weight multiplies x_i - y_j (distances) or y_j and x_i (products); distances also need
// the weights' sums: dL/dx_i = (sum_j w_ij) x_i - sum_j w_ij y_j.
template <class T>
void weigh(const RowWeights<T>& t) {
  LaneSum<T> rows;
  for (int64_t j0 = 0; j0 < t.count; j0 += kBlock) {
    for (int64_t j = j0; j < j0 + kBlock && j < t.count; ++j) {
      const int64_t at = j * kBlock;
      Vec<T> column{};
      for (int v = 0; v < kV<T>; ++v) {
        const Vec<T> g = load<T>(t.from + j * t.from_step + v * kWidth<T>);
        const Vec<T> d = load<T>(t.s + j * t.s_step + v * kWidth<T>);
        Vec<T> w = g * T(2);
        if (t.metric == Metric::euclidean) w = d == T(0) ? Vec<T>{} : g / d;  // the subgradient 0 at distance 0
        store<T>(t.g + at + v * kWidth<T>, -w);
        rows.part[v] += w;
        column += w;
      }
      t.column_sum[j] = hsum<T>(column);
    }
    rows.flush();
  }
  for (int l = 0; l < kBlock; ++l) t.row_sum[l] += rows.total[l];
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

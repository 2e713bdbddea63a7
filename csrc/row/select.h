// Selection of the nearest columns of each row.
#pragma once
#include "pairs.h"

namespace fastssl {
namespace FASTSSL_ISA {

// The k best of each row: a heap with the worst on top, so that most columns fail one comparison. Equal scores
// rank by column, lower first.
template <class T>
void select(const Selection<T>& t) {
  auto worse = [&](T a, int64_t i, T b, int64_t j) { return ranks_behind(t.largest, a, i, b, j); };
  Vec<T> bar[kV<T>];  // a score must beat this
  const T open = T(t.largest ? -__builtin_inf() : __builtin_inf());
  auto raise = [&](int l) {
    const T worst = t.count[l] < t.k ? open : t.value[l * t.k];
    bar[l / kWidth<T>][l % kWidth<T>] = t.i + l >= t.n ? -open : (worst == worst ? worst : open);  // any beats NaN
  };
  for (int l = 0; l < kBlock; ++l) raise(l);
  for (int64_t j = t.begin; j < t.end; ++j) {
    const T* s = t.s + (j - t.begin) * kBlock;
    for (int v = 0; v < kV<T>; ++v) {
      const Vec<T> d = load<T>(s + v * kWidth<T>);
      const IVec<T> better = t.largest ? d > bar[v] : d < bar[v];
      const IVec<T> open_lanes = bar[v] == open;
      if (__builtin_expect(!any<T>(better | open_lanes), 1)) continue;
      for (int w = 0; w < kWidth<T>; ++w) {
        const int l = v * kWidth<T> + w;
        if (!(better[w] | open_lanes[w]) || t.i + l >= t.n || (t.exclude_self && t.i + l == j)) continue;
        T* value = t.value + l * t.k;
        int64_t* index = t.index + l * t.k;
        int64_t at;
        if (t.count[l] < t.k) {  // sift up
          at = t.count[l]++;
          for (; at > 0; at = (at - 1) / 2) {
            const int64_t parent = (at - 1) / 2;
            if (!worse(d[w], j, value[parent], index[parent])) break;
            value[at] = value[parent];
            index[at] = index[parent];
          }
        } else {  // replace the worst, sift down
          if (!worse(value[0], index[0], d[w], j)) continue;
          at = 0;
          for (int64_t child; (child = 2 * at + 1) < t.k; at = child) {
            if (child + 1 < t.k && worse(value[child + 1], index[child + 1], value[child], index[child])) ++child;
            if (!worse(value[child], index[child], d[w], j)) break;
            value[at] = value[child];
            index[at] = index[child];
          }
        }
        value[at] = d[w];
        index[at] = j;
        raise(l);
      }
    }
  }
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

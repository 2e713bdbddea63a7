// Ranked lists: weighted margins of positives and negatives.
#pragma once
#include "pairs.h"

namespace fastssl {
namespace FASTSSL_ISA {

// Ranked lists: out[0] = sum w u / (sum w + c) over positives with u = s - (alpha - margin) > 0, w = exp(Tp u);
// out[1] the same over negatives with u = alpha - s > 0, w = exp(Tn u). params: alpha, margin, Tp, Tn, c.
template <class T>
struct RankedList {
  T alpha, border, temperature[2];
  explicit RankedList(const double* p) : alpha(T(p[0])), border(T(p[0] - p[1])), temperature{T(p[2]), T(p[3])} {}
  FASTSSL_INLINE void apply(int k, Vec<T> s, IVec<T> part, Vec<T>& u, Vec<T>& w) const {
    u = k == 0 ? s - border : alpha - s;
    const IVec<T> in = part & ~(u <= T(0)) & ~(s <= T(0));
    w = in ? T(1) / exp_minus(temperature[k] * u) : Vec<T>{};
    u = in ? u : Vec<T>{};
  }
};

template <class T>
FASTSSL_INLINE void ranked_list_sums(const RowTask<T>& t, LaneSum<T> (&top)[2], LaneSum<T> (&bottom)[2]) {
  const RankedList<T> f(t.params);
  for_each_pair<T>(
      t,
      [&](int v, Vec<T> s, int64_t, int64_t, IVec<T> positive, IVec<T> negative) {
        for (int k = 0; k < 2; ++k) {
          Vec<T> u, w;
          f.apply(k, s, k == 0 ? positive : negative, u, w);
          top[k].part[v] += w * u;
          bottom[k].part[v] += w;
        }
      },
      [&] {
        for (int k = 0; k < 2; ++k) top[k].flush(), bottom[k].flush();
      });
}

template <class T>
void ranked_list_forward(const RowTask<T>& t) {
  LaneSum<T> top[2], bottom[2];
  ranked_list_sums(t, top, bottom);
  for_each_lane(t, [&](int l, int64_t i) {
    for (int k = 0; k < 2; ++k) t.out[2 * i + k] = top[k].total[l] / (bottom[k].total[l] + t.params[4]);
  });
}

template <class T>
void ranked_list_backward(const RowTask<T>& t) {
  const RankedList<T> f(t.params);
  LaneSum<T> top[2], bottom[2];
  ranked_list_sums(t, top, bottom);
  Vec<T> scale[2][kV<T>], ratio[2][kV<T>];  // upstream / B and A / B
  for (int k = 0; k < 2; ++k)
    for (int l = 0; l < kBlock; ++l) {
      const double all = bottom[k].total[l] + t.params[4];
      scale[k][l / kWidth<T>][l % kWidth<T>] = t.i + l < t.n ? T(t.grad[2 * (t.i + l) + k] / all) : T(0);
      ratio[k][l / kWidth<T>][l % kWidth<T>] = T(top[k].total[l] / all);
    }
  for_each_pair<T>(t, [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T> positive, IVec<T> negative) {
    Vec<T> g{};
    for (int k = 0; k < 2; ++k) {
      Vec<T> u, w;
      f.apply(k, s, k == 0 ? positive : negative, u, w);
      const Vec<T> slope = scale[k][v] * w * (T(1) + f.temperature[k] * (u - ratio[k][v]));
      g += k == 0 ? slope : -slope;
    }
    store<T>(t.g + at, g);
  });
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

// Log-sum-exps over the positives, the negatives or all pairs of a row.
#pragma once
#include "pairs.h"

namespace fastssl {
namespace FASTSSL_ISA {

enum Part : int { kNone = 0, kPositives = 1, kNegatives = 2, kBoth = 3 };

// out[k] = log sum over part k of exp(value_k(s)), -inf where the part is empty.
// params: scale[2], shift[2], part[2], circle. value = scale s + shift; with circle, the self-paced logits of circle
// loss: -scale max(1 + m - s, 0) (s - 1 + m) for positives, scale max(s + m, 0) (s - m) for negatives, whose factors
// max(...) count as constants.
template <class T, bool kCircle>
struct Slot {
  T scale, shift;
  int part;
  bool positives;
  Slot(const double* params, int k)
      : scale(T(params[k])), shift(T(params[2 + k])), part(int(params[4 + k])), positives(part == kPositives) {}
  FASTSSL_INLINE IVec<T> takes(IVec<T> positive, IVec<T> negative) const {
    return part == kPositives ? positive : (part == kNegatives ? negative : positive | negative);
  }
  FASTSSL_INLINE Vec<T> slope(Vec<T> s) const {
    if constexpr (!kCircle) return splat<T>(scale);
    const Vec<T> pace = positives ? T(1) + shift - s : s + shift;
    const Vec<T> kept = pace > T(0) ? pace : Vec<T>{};
    return positives ? -scale * kept : scale * kept;
  }
  FASTSSL_INLINE Vec<T> value(Vec<T> s) const {
    if constexpr (!kCircle) return as_rounded(s * scale + shift);
    return as_rounded(slope(s) * (positives ? s - T(1) + shift : s - shift));
  }
};

// The parameters of a log-sum-exp over the negatives.
struct NegativesOnly {
  double slot[kRowParams];
  NegativesOnly(double scale, double shift) : slot{scale, 0, shift, 0, kNegatives, kNone} {}
};

template <class T, bool kCircle>
void lse_forward_of(const RowTask<T>& t) {
  for (int k = 0; k < 2; ++k) {
    const Slot<T, kCircle> slot(t.params, k);
    if (slot.part == kNone) {
      for_each_lane(t, [&](int, int64_t i) { t.out[2 * i + k] = 0; });
      continue;
    }
    // A running maximum per lane, 32 columns at a time: the block is read twice, but from L1.
    Vec<T> top[kV<T>];
    for (auto& v : top) v = splat<T>(T(kMaskedScore));
    LaneSum<T> sum;
    const Pairs<T> pairs(t);
    pairs.for_each_block([&](int64_t j0) __attribute__((always_inline)) {
      Vec<T> before[kV<T>];
      for (int v = 0; v < kV<T>; ++v) before[v] = top[v];
      pairs.in_block(j0, [&](int v, Vec<T> s, int64_t, int64_t, IVec<T> positive, IVec<T> negative) {
        const Vec<T> value = slot.value(s);
        top[v] = slot.takes(positive, negative) & (value > top[v]) ? value : top[v];
      });
      for (int v = 0; v < kV<T>; ++v) {
        const IVec<T> grown = top[v] > before[v];
        if (!any<T>(grown)) continue;
        for (int w = 0; w < kWidth<T>; ++w)
          if (grown[w]) sum.total[v * kWidth<T> + w] *= __builtin_exp(double(before[v][w]) - double(top[v][w]));
      }
      pairs.in_block(j0, [&](int v, Vec<T> s, int64_t, int64_t, IVec<T> positive, IVec<T> negative) {
        const Vec<T> e = exp_minus(top[v] - slot.value(s));
        sum.part[v] += slot.takes(positive, negative) ? e : Vec<T>{};
      });
      sum.flush();
    });
    for_each_lane(t, [&](int l, int64_t i) {
      const double total = sum.total[l], most = double(top[l / kWidth<T>][l % kWidth<T>]);
      t.out[2 * i + k] = total == 0 ? -__builtin_inf() : most + __builtin_log(total);
    });
  }
}

// What T cannot hold of a log-sum goes into the weight.
template <class T>
FASTSSL_INLINE void lse_weight(double upstream, double lse, T& weight, T& rounded) {
  const bool empty = upstream == 0 || lse == -__builtin_inf();
  rounded = empty ? T(1e30) : T(lse);
  weight = empty ? T(0) : T(upstream * __builtin_exp(double(rounded) - lse));
}

template <class T, bool kCircle>
void lse_backward_of(const RowTask<T>& t) {
  const Slot<T, kCircle> slot[2] = {{t.params, 0}, {t.params, 1}};
  Vec<T> weight[2][kV<T>] = {}, lse[2][kV<T>];
  for (int k = 0; k < 2; ++k)
    for (int l = 0; l < kBlock; ++l) {
      const int64_t i = t.i + l;
      const bool there = i < t.n && slot[k].part != kNone;
      T w, r;
      lse_weight<T>(there ? t.grad[2 * i + k] : 0.0, there ? t.out[2 * i + k] : 0.0, w, r);
      weight[k][l / kWidth<T>][l % kWidth<T>] = w;
      lse[k][l / kWidth<T>][l % kWidth<T>] = r;
    }
  LaneSum<T> along[2];
  for_each_pair<T>(
      t,
      [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T> positive, IVec<T> negative) {
        Vec<T> g{};
        for (int k = 0; k < 2; ++k) {
          if (slot[k].part == kNone) continue;
          Vec<T> p = weight[k][v] * exp_minus(lse[k][v] - slot[k].value(s));
          p = slot[k].takes(positive, negative) ? p : Vec<T>{};
          along[k].part[v] += p * s;
          g += p * slot[k].slope(s);
        }
        store<T>(t.g + at, g);
      },
      [&] {
        for (auto& a : along) a.flush();
      });
  for_each_lane(t, [&](int l, int64_t i) {
    for (int k = 0; k < 2; ++k) t.grad_scale[2 * i + k] = along[k].total[l];
  });
}

template <class T>
void lse_forward(const RowTask<T>& t) {
  t.params[6] != 0 ? lse_forward_of<T, true>(t) : lse_forward_of<T, false>(t);
}
template <class T>
void lse_backward(const RowTask<T>& t) {
  t.params[6] != 0 ? lse_backward_of<T, true>(t) : lse_backward_of<T, false>(t);
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

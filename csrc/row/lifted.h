// Lifted structure, in two sweeps: log-sums of the negatives of rows and columns, then the positive pairs.
#pragma once
#include "lse.h"

namespace fastssl {
namespace FASTSSL_ISA {

// Lifted structure. sweep 0: out[0] = L_i = lse over negatives of -sign s + margin; sweep 1, when every L is known:
// J_ij = sign s_ij + shift + log(exp L_i + exp L_j); out[1] = sum over positives of max(0, J)^2 or J, out[2]: how
// many J > 0. params: sign, margin, shift, squared. Rows against themselves, or row_value has the L of every column:
// then the upstream gradient of out[1] has to be the same for all rows, here and wherever the columns' own rows are.
template <class T>
FASTSSL_INLINE double lifted_column(const RowTask<T>& t, int64_t j) {
  return t.row_value ? t.row_value[j] : t.out[3 * j];
}

// J of positive pairs, 32 rows at once. log(exp L_i + exp L_j) is the larger of the two, in double precision as both
// are, and log1p(exp(-|L_i - L_j|)).
template <class T>
struct LiftedPairs {
  const RowTask<T>& t;
  double own[kBlock];
  bool has_negatives[kV<T>] = {};
  explicit LiftedPairs(const RowTask<T>& task) : t(task) {
    for (int l = 0; l < kBlock; ++l) {
      own[l] = t.i + l < t.n ? t.out[3 * (t.i + l)] : -__builtin_inf();
      has_negatives[l / kWidth<T>] |= own[l] != -__builtin_inf();
    }
  }
  FASTSSL_INLINE bool counts(int v, int64_t j, IVec<T> positive) const {
    return any<T>(positive) && (has_negatives[v] || lifted_column(t, j) != -__builtin_inf());
  }
  // Which lanes are positive pairs with a negative on either side; share: dJ / dL_i.
  FASTSSL_INLINE IVec<T> apply(int v, Vec<T> s, int64_t j, IVec<T> positive, Vec<T>& J, Vec<T>& share) const {
    const double other = lifted_column(t, j), infinity = __builtin_inf();
    const T base = T(t.params[2]);
    T top[kWidth<T>], apart[kWidth<T>];
    for (int w = 0; w < kWidth<T>; ++w) {
      const double a = own[v * kWidth<T> + w];
      top[w] = T(a > other ? a : other);
      apart[w] = T(other - a);  // NaN where both have no negatives
    }
    const Vec<T> larger = load<T>(top), difference = load<T>(apart);
    const Vec<T> distance = difference < T(0) ? -difference : difference;
    const Vec<T> e = exp_minus(distance);
    J = T(t.params[0]) * s + base + larger + log1pv(e);
    share = (difference > T(0) ? e : splat<T>(T(1))) / (T(1) + e);
    return positive & (larger != splat<T>(T(-infinity)));
  }
};

template <class T>
void lifted_forward(const RowTask<T>& t) {
  if (t.sweep == 0) {
    const NegativesOnly params(-t.params[0], t.params[1]);
    RowTask<T> negatives = t;
    double lse[2 * kBlock];
    negatives.params = params.slot;
    negatives.out = lse - 2 * t.i;
    lse_forward_of<T, false>(negatives);
    for_each_lane(t, [&](int l, int64_t i) { t.out[3 * i] = lse[2 * l]; });
    return;
  }
  const LiftedPairs<T> pairs(t);
  const bool squared = t.params[3] != 0;
  LaneSum<T> sum, active;
  for_each_pair<T>(
      t,
      [&](int v, Vec<T> s, int64_t, int64_t j, IVec<T> positive, IVec<T>) {
        if (!pairs.counts(v, j, positive)) return;
        Vec<T> J, share;
        const IVec<T> in = pairs.apply(v, s, j, positive, J, share);
        active.part[v] += in & (J > T(0)) ? splat<T>(T(1)) : Vec<T>{};
        sum.part[v] += squared ? (in & ~(J <= T(0)) ? J * J : Vec<T>{}) : (in ? J : Vec<T>{});
      },
      [&] {
        sum.flush();
        active.flush();
      });
  for_each_lane(t, [&](int l, int64_t i) {
    t.out[3 * i + 1] = t.out[3 * i] != t.out[3 * i] ? t.out[3 * i] : sum.total[l];
    t.out[3 * i + 2] = active.total[l];
  });
}

template <class T>
void lifted_backward(const RowTask<T>& t) {
  const bool squared = t.params[3] != 0;
  const LiftedPairs<T> pairs(t);
  Vec<T> upstream[kV<T>];
  fill_lanes(t, upstream, [&](int64_t i) { return t.grad[3 * i + 1]; });
  LaneSum<T> pull;
  for_each_pair<T>(
      t,
      [&](int v, Vec<T> s, int64_t at, int64_t j, IVec<T> positive, IVec<T>) {
        Vec<T> g{};
        if (pairs.counts(v, j, positive)) {
          Vec<T> J, share;
          const IVec<T> in = pairs.apply(v, s, j, positive, J, share);
          Vec<T> derivative = squared ? (J <= T(0) ? Vec<T>{} : T(2) * J) : splat<T>(T(1));
          derivative = in ? derivative : Vec<T>{};
          g = upstream[v] * derivative * T(t.params[0]);
          // L_i takes part in J_ij and in J_ji.
          const Vec<T> other = t.row_value ? upstream[v] : splat<T>(T(t.grad[3 * j + 1]));
          pull.part[v] += (upstream[v] + other) * derivative * (in ? share : Vec<T>{});
        }
        store<T>(t.g + at, g);
      },
      [&] { pull.flush(); });
  Vec<T> weight[kV<T>], lse[kV<T>];
  for (int l = 0; l < kBlock; ++l) {
    T w, r;
    lse_weight<T>(pull.total[l], t.i + l < t.n ? t.out[3 * (t.i + l)] : 0.0, w, r);
    weight[l / kWidth<T>][l % kWidth<T>] = w;
    lse[l / kWidth<T>][l % kWidth<T>] = r;
  }
  const T sign = T(t.params[0]);
  const Slot<T, false> slot(NegativesOnly(-t.params[0], t.params[1]).slot, 0);
  for_each_pair<T>(t, [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T>, IVec<T> negative) {
    const Vec<T> p = weight[v] * exp_minus(lse[v] - slot.value(s));
    store<T>(t.g + at, negative ? p * -sign : load<T>(t.g + at));
  });
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

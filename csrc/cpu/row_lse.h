// Log-sum-exps over parts of a row, and the losses that put one softplus on each positive pair.
#pragma once
#include "row_pairs.h"

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
    if constexpr (!kCircle) return s * scale + shift;
    return slope(s) * (positives ? s - T(1) + shift : s - shift);
  }
};

template <class T, bool kCircle>
void lse_forward(const RowTask<T>& t) {
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
void lse_backward(const RowTask<T>& t) {
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

// out: sum over positives of softplus(lse over negatives of scale s - scale phi(s_ip)), that lse.
// params: scale, margin. phi(s) = cos(arccos s - margin) (tuplet margin); margin 0: s (NT-Xent with many positives).
template <class T>
struct Softplus {
  T scale, cosine, sine;
  bool angular;
  explicit Softplus(const double* params)
      : scale(T(params[0])),
        cosine(T(__builtin_cos(params[1]))),
        sine(T(__builtin_sin(params[1]))),
        angular(params[1] != 0) {}
  FASTSSL_INLINE Vec<T> opposite(Vec<T> s) const {  // sine of arccos s
    const Vec<T> square = T(1) - s * s;
    return root<T>(square > T(0) ? square : Vec<T>{});
  }
  FASTSSL_INLINE Vec<T> phi(Vec<T> s) const { return angular ? s * cosine + opposite(s) * sine : s; }
  FASTSSL_INLINE Vec<T> slope(Vec<T> s) const {
    if (!angular) return splat<T>(T(1));
    const Vec<T> o = opposite(s), floor = splat<T>(T(1e-6));
    return cosine - s / (o > floor ? o : floor) * sine;
  }
  // softplus and its derivative
  FASTSSL_INLINE void apply(Vec<T> z, Vec<T>& value, Vec<T>& derivative) const {
    IVec<T> none{};
    Sigmoid<T>::apply(z, value, derivative, none, false);
  }
};

template <class T>
void softplus_forward(const RowTask<T>& t) {
  const Softplus<T> f(t.params);
  const double slot[kRowParams] = {t.params[0], 0, 0, 0, kNegatives, kNone};
  RowTask<T> negatives = t;
  double lse_out[2 * kBlock];
  negatives.params = slot;
  negatives.out = lse_out - 2 * t.i;
  lse_forward<T, false>(negatives);
  Vec<T> lse[kV<T>];
  fill_lanes(t, lse, [&](int64_t i) { return __builtin_fmax(lse_out[2 * (i - t.i)], -1e30); });
  LaneSum<T> sum;
  for_each_pair<T>(
      t,
      [&](int v, Vec<T> s, int64_t, int64_t, IVec<T> positive, IVec<T>) {
        if (!any<T>(positive)) return;
        Vec<T> value, derivative;
        f.apply(lse[v] - f.scale * f.phi(s), value, derivative);
        sum.part[v] += positive ? value : Vec<T>{};
      },
      [&] { sum.flush(); });
  for_each_lane(t, [&](int l, int64_t i) {
    t.out[2 * i] = lse_out[2 * l] != lse_out[2 * l] ? lse_out[2 * l] : sum.total[l];
    t.out[2 * i + 1] = lse_out[2 * l];
  });
}

template <class T>
void softplus_backward(const RowTask<T>& t) {
  const Softplus<T> f(t.params);
  Vec<T> lse[kV<T>], upstream[kV<T>];
  fill_lanes(t, lse, [&](int64_t i) { return __builtin_fmax(t.out[2 * i + 1], -1e30); });
  fill_lanes(t, upstream, [&](int64_t i) { return t.grad[2 * i]; });
  LaneSum<T> pull, along;  // dL/dlse, and sum of G s
  for_each_pair<T>(
      t,
      [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T> positive, IVec<T>) {
        Vec<T> g{};
        if (any<T>(positive)) {
          Vec<T> value, derivative;
          f.apply(lse[v] - f.scale * f.phi(s), value, derivative);
          derivative = positive ? derivative * upstream[v] : Vec<T>{};
          pull.part[v] += derivative;
          along.part[v] -= derivative * f.phi(s);
          g = -f.scale * derivative * f.slope(s);
        }
        store<T>(t.g + at, g);
      },
      [&] {
        pull.flush();
        along.flush();
      });
  Vec<T> weight[kV<T>], exact[kV<T>];
  for (int l = 0; l < kBlock; ++l) {
    T w, r;
    const bool there = t.i + l < t.n;
    lse_weight<T>(there ? pull.total[l] + t.grad[2 * (t.i + l) + 1] : 0.0, there ? t.out[2 * (t.i + l) + 1] : 0.0, w,
                  r);
    weight[l / kWidth<T>][l % kWidth<T>] = w;
    exact[l / kWidth<T>][l % kWidth<T>] = r;
  }
  for_each_pair<T>(
      t,
      [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T>, IVec<T> negative) {
        Vec<T> p = weight[v] * exp_minus(exact[v] - f.scale * s);
        p = negative ? p : Vec<T>{};
        along.part[v] += p * s;
        store<T>(t.g + at, load<T>(t.g + at) + p * f.scale);
      },
      [&] { along.flush(); });
  for_each_lane(t, [&](int l, int64_t i) { t.grad_scale[2 * i] = along.total[l]; });
}

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
    const double slot[kRowParams] = {-t.params[0], 0, t.params[1], 0, kNegatives, kNone};
    RowTask<T> negatives = t;
    double lse[2 * kBlock];
    negatives.params = slot;
    negatives.out = lse - 2 * t.i;
    lse_forward<T, false>(negatives);
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
  const T sign = T(t.params[0]), margin = T(t.params[1]);
  for_each_pair<T>(t, [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T>, IVec<T> negative) {
    const Vec<T> p = weight[v] * exp_minus(lse[v] + sign * s - margin);
    store<T>(t.g + at, negative ? p * -sign : load<T>(t.g + at));
  });
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

// One softplus for each positive pair, against the log-sum-exp of the negatives.
#pragma once
#include "lse.h"

namespace fastssl {
namespace FASTSSL_ISA {

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
  const NegativesOnly params(t.params[0], 0);
  RowTask<T> negatives = t;
  double lse_out[2 * kBlock];
  negatives.params = params.slot;
  negatives.out = lse_out - 2 * t.i;
  lse_forward_of<T, false>(negatives);
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
  const Slot<T, false> slot(NegativesOnly(t.params[0], 0).slot, 0);
  for_each_pair<T>(
      t,
      [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T>, IVec<T> negative) {
        Vec<T> p = weight[v] * exp_minus(exact[v] - slot.value(s));
        p = negative ? p : Vec<T>{};
        along.part[v] += p * s;
        store<T>(t.g + at, load<T>(t.g + at) + p * f.scale);
      },
      [&] { along.flush(); });
  for_each_lane(t, [&](int l, int64_t i) { t.grad_scale[2 * i] = along.total[l]; });
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

// Hinges: pairs against thresholds.
#pragma once
#include "pairs.h"

namespace fastssl {
namespace FASTSSL_ISA {

// u = sign (s - a - v_i) for positives and sign (b + v_i - s) for negatives, with v_i = row_value or 0.
// out: sum of max(0, u)^power over positives, how many u > 0, the same two for negatives.
// params: sign, a, b, power (1 or 2).
template <class T>
void hinge_forward(const RowTask<T>& t) {
  const T sign = T(t.params[0]), a = T(t.params[1]), b = T(t.params[2]);
  const bool squared = t.params[3] == 2;
  Vec<T> threshold[kV<T>] = {};
  if (t.row_value) fill_lanes(t, threshold, [&](int64_t i) { return t.row_value[i]; });
  LaneSum<T> sum[2], count[2];
  for_each_pair<T>(
      t,
      [&](int v, Vec<T> s, int64_t, int64_t, IVec<T> positive, IVec<T> negative) {
        const Vec<T> u[2] = {sign * (s - a - threshold[v]), sign * (b + threshold[v] - s)};
        const IVec<T> part[2] = {positive, negative};
        for (int k = 0; k < 2; ++k) {
          const IVec<T> in = part[k] & ~(u[k] <= T(0));  // NaN counts
          sum[k].part[v] += in ? (squared ? u[k] * u[k] : u[k]) : Vec<T>{};
          count[k].part[v] += in ? splat<T>(T(1)) : Vec<T>{};
        }
      },
      [&] {
        for (int k = 0; k < 2; ++k) sum[k].flush(), count[k].flush();
      });
  for_each_lane(t, [&](int l, int64_t i) {
    for (int k = 0; k < 2; ++k) {
      t.out[4 * i + 2 * k] = sum[k].total[l];
      t.out[4 * i + 2 * k + 1] = count[k].total[l];
    }
  });
}

template <class T>
void hinge_backward(const RowTask<T>& t) {
  const T sign = T(t.params[0]), a = T(t.params[1]), b = T(t.params[2]);
  const bool squared = t.params[3] == 2;
  Vec<T> threshold[kV<T>] = {}, upstream[2][kV<T>];
  if (t.row_value) fill_lanes(t, threshold, [&](int64_t i) { return t.row_value[i]; });
  for (int k = 0; k < 2; ++k) fill_lanes(t, upstream[k], [&](int64_t i) { return t.grad[4 * i + 2 * k]; });
  LaneSum<T> total[2];  // without the upstream gradient: with power 1 a count, which is exact
  for_each_pair<T>(
      t,
      [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T> positive, IVec<T> negative) {
        const Vec<T> u[2] = {sign * (s - a - threshold[v]), sign * (b + threshold[v] - s)};
        const IVec<T> part[2] = {positive, negative};
        Vec<T> g[2];
        for (int k = 0; k < 2; ++k) {
          const Vec<T> slope = squared ? T(2) * u[k] : splat<T>(T(1));
          g[k] = part[k] & ~(u[k] <= T(0)) ? slope : Vec<T>{};
          total[k].part[v] += g[k];
          g[k] *= upstream[k][v];
        }
        store<T>(t.g + at, sign * (g[0] - g[1]));
      },
      [&] {
        for (auto& sum : total) sum.flush();
      });
  if (!t.grad_row) return;
  for_each_lane(t, [&](int l, int64_t i) {
    t.grad_row[i] += t.params[0] * (t.grad[4 * i + 2] * total[1].total[l] - t.grad[4 * i] * total[0].total[l]);
  });
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

// Losses of margins: pairs against thresholds, and the extremes of a row.
#pragma once
#include "row_lse.h"

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

// Losses of margins: pairs against thresholds, and triplets of one anchor without lists of triplets.
#pragma once
#include <algorithm>
#include <vector>

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

// Positives of the 32 rows of a lane block, each row's sorted: what a negative violates is found by bisection,
// O(N log P) a row instead of N P.
template <class T>
struct SortedPositives {
  struct Entry {
    T threshold;
    int64_t column;
  };
  std::vector<Entry> row[kBlock];  // ascending; empty where a row has no negatives, for then it has no triplets
  template <class F>
  SortedPositives(const RowTask<T>& t, F&& threshold) {
    IVec<T> has_negatives[kV<T>] = {};
    for_each_pair<T>(t,
                     [&](int v, Vec<T>, int64_t, int64_t, IVec<T>, IVec<T> negative) { has_negatives[v] |= negative; });
    for_each_single_positive(t, [&](int l, T s, int64_t j) {
      if (!has_negatives[l / kWidth<T>][l % kWidth<T>]) return;
      const T value = threshold(s);
      row[l].push_back(
          {value == value ? value : T(__builtin_inf()), j});  // NaN cannot be sorted; infinite it shows too
    });
    for (auto& r : row)
      std::sort(r.begin(), r.end(), [](const Entry& a, const Entry& b) {
        return a.threshold < b.threshold || (a.threshold == b.threshold && a.column < b.column);
      });
  }
  // The first entry of row l whose threshold is above d.
  int64_t first_above(int l, T d) const {
    const Entry* p = row[l].data();
    int64_t low = 0, count = int64_t(row[l].size());
    while (count > 0) {
      const int64_t half = count / 2;
      const bool right = !(p[low + half].threshold > d);
      low = right ? low + half + 1 : low;
      count = right ? count - half - 1 : half;
    }
    return low;
  }
};

// All triplets: out: sum over positives p and negatives n of max(0, z) or softplus(z), z = sign (s_ip - s_in) +
// margin; how many z > 0. params: sign, margin, smooth.
//
// A softplus needs every triplet, and with few positives comparing each with every negative, 32 rows at once, is
// also the fastest way to a hinge.
constexpr size_t kFewPositives = 24;

template <class T>
struct TripletTable {
  size_t most = 0;
  bool smooth, dense;
  std::vector<T> threshold;  // [positive][32], -1e30 where a row has fewer
  TripletTable(const RowTask<T>& t, const SortedPositives<T>& positives) : smooth(t.params[2] != 0) {
    for (const auto& r : positives.row) most = std::max(most, r.size());
    dense = smooth || most <= kFewPositives;
    if (!dense) return;
    threshold.assign(most * kBlock, T(-1e30));
    for (int l = 0; l < kBlock; ++l)
      for (size_t p = 0; p < positives.row[l].size(); ++p)
        threshold[p * kBlock + size_t(l)] = positives.row[l][p].threshold;
  }
  // max(0, z) or softplus(z) and its derivative, where `negative`.
  FASTSSL_INLINE void apply(int v, size_t p, Vec<T> d, IVec<T> negative, Vec<T>& z, Vec<T>& value,
                            Vec<T>& slope) const {
    z = load<T>(threshold.data() + p * kBlock + size_t(v * kWidth<T>)) - d;
    if (smooth) {
      Sigmoid<T>::apply(z, value, slope, negative, true);
    } else {
      const IVec<T> in = negative & ~(z <= T(0));
      value = in ? z : Vec<T>{};
      slope = in ? splat<T>(T(1)) : Vec<T>{};
    }
  }
};

template <class T>
void triplet_forward(const RowTask<T>& t) {
  const T sign = T(t.params[0]), margin = T(t.params[1]);
  const SortedPositives<T> positives(t, [&](T s) { return sign * s + margin; });
  const TripletTable<T> table(t, positives);
  LaneSum<T> sum, active;
  if (table.dense) {
    for_each_pair<T>(
        t,
        [&](int v, Vec<T> s, int64_t, int64_t, IVec<T>, IVec<T> negative) {
          Vec<T> total{}, count{};
          for (size_t p = 0; p < table.most; ++p) {
            Vec<T> z, value, slope;
            table.apply(v, p, sign * s, negative, z, value, slope);
            total += value;
            count += negative & (z > T(0)) ? splat<T>(T(1)) : Vec<T>{};
          }
          sum.part[v] += total;
          active.part[v] += count;
        },
        [&] {
          sum.flush();
          active.flush();
        });
  } else {
    // With k thresholds above the negative's distance d, it adds their sum - k d.
    std::vector<double> above[kBlock];
    for (int l = 0; l < kBlock; ++l) {
      above[l].assign(positives.row[l].size() + 1, 0.0);
      for (size_t p = positives.row[l].size(); p-- > 0;)
        above[l][p] = above[l][p + 1] + double(positives.row[l][p].threshold);
    }
    for_each_single_pair(t, [&](int l, T s, int64_t, bool positive) {
      if (positive) return;
      const T d = sign * s;
      const int64_t first = positives.first_above(l, d);
      const double k = double(int64_t(positives.row[l].size()) - first);
      sum.total[l] += above[l][size_t(first)] - k * double(d);
      active.total[l] += k;
    });
  }
  for_each_lane(t, [&](int l, int64_t i) {
    t.out[2 * i] = sum.total[l];
    t.out[2 * i + 1] = active.total[l];
  });
}

template <class T>
void triplet_backward(const RowTask<T>& t) {
  const T sign = T(t.params[0]), margin = T(t.params[1]);
  const SortedPositives<T> positives(t, [&](T s) { return sign * s + margin; });
  const TripletTable<T> table(t, positives);
  Vec<T> upstream[kV<T>];
  fill_lanes(t, upstream, [&](int64_t i) { return t.grad[2 * i] * t.params[0]; });
  std::vector<double> pull[kBlock];  // how strongly each positive is pulled
  for (int l = 0; l < kBlock; ++l) pull[l].assign(positives.row[l].size() + 1, 0.0);
  if (table.dense) {
    std::vector<T> part(table.most * kBlock, T(0));
    for_each_pair<T>(
        t,
        [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T>, IVec<T> negative) {
          Vec<T> total{};
          for (size_t p = 0; p < table.most; ++p) {
            Vec<T> z, value, slope;
            table.apply(v, p, sign * s, negative, z, value, slope);
            total += slope;
            T* sum = part.data() + p * kBlock + size_t(v * kWidth<T>);
            store<T>(sum, load<T>(sum) + slope);
          }
          store<T>(t.g + at, -total * upstream[v]);
        },
        [&] {
          for (int l = 0; l < kBlock; ++l)
            for (size_t p = 0; p < positives.row[l].size(); ++p) {
              pull[l][p] += double(part[p * kBlock + size_t(l)]);
              part[p * kBlock + size_t(l)] = 0;
            }
        });
  } else {
    __builtin_memset(t.g, 0, sizeof(T) * size_t(t.m - t.first) * kBlock);
    for_each_single_pair(t, [&](int l, T s, int64_t j, bool positive) {
      if (positive) return;
      const int64_t first = positives.first_above(l, sign * s);
      pull[l][size_t(first)] += 1;
      t.g[(j - t.first) * kBlock + l] =
          T(double(first - int64_t(positives.row[l].size()))) * upstream[l / kWidth<T>][l % kWidth<T>];
    });
    for (auto& r : pull)  // a positive is violated by the negatives whose first threshold above is at or before it
      for (size_t p = 1; p < r.size(); ++p) r[p] += r[p - 1];
  }
  for (int l = 0; l < kBlock; ++l)
    for (size_t p = 0; p < positives.row[l].size(); ++p)
      t.g[(positives.row[l][p].column - t.first) * kBlock + l] = T(pull[l][p]) * upstream[l / kWidth<T>][l % kWidth<T>];
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

// Semi-hard triplets: for every positive pair the nearest negative that is farther than the positive, else the
// farthest negative. out: sum of max(0, z), how many z > 0. params: sign, margin.
template <class T, class F>
void for_each_semihard(const RowTask<T>& t, F&& f) {
  const T sign = T(t.params[0]);
  const SortedPositives<T> positives(t, [&](T s) { return sign * s; });
  struct Nearest {
    T d = T(__builtin_inf());
    int64_t column = -1;
    void offer(T other, int64_t j) {
      if (column < 0 || other < d) d = other, column = j;
    }
  };
  std::vector<Nearest> nearest[kBlock];  // [k]: negatives that k positives (in order) are nearer than
  Nearest farthest[kBlock];
  for (int l = 0; l < kBlock; ++l) nearest[l].resize(positives.row[l].size() + 1);
  for_each_single_pair(t, [&](int l, T s, int64_t j, bool positive) {
    if (positive || positives.row[l].empty()) return;
    const T d = sign * s;
    int64_t below = positives.first_above(l, d);  // thresholds <= d; equal ones are not nearer
    while (below > 0 && !(positives.row[l][size_t(below - 1)].threshold < d)) --below;
    nearest[l][size_t(below)].offer(d, j);
    farthest[l].offer(-d, j);
  });
  for (int l = 0; l < kBlock; ++l) {
    Nearest best;
    for (size_t p = positives.row[l].size(); p-- > 0;) {
      const Nearest& next = nearest[l][p + 1];
      if (next.column >= 0) best.offer(next.d, next.column);
      const auto& positive = positives.row[l][p];
      if (best.column >= 0) {
        f(l, positive.threshold, positive.column, best.d, best.column);
      } else if (farthest[l].column >= 0) {
        f(l, positive.threshold, positive.column, -farthest[l].d, farthest[l].column);
      }
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

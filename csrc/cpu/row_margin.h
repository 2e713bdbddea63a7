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
  LaneSum<T> total;
  for_each_pair<T>(
      t,
      [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T> positive, IVec<T> negative) {
        const Vec<T> u[2] = {sign * (s - a - threshold[v]), sign * (b + threshold[v] - s)};
        const IVec<T> part[2] = {positive, negative};
        Vec<T> g[2];
        for (int k = 0; k < 2; ++k) {
          const Vec<T> slope = squared ? T(2) * u[k] * upstream[k][v] : upstream[k][v];
          g[k] = part[k] & ~(u[k] <= T(0)) ? slope : Vec<T>{};
        }
        const Vec<T> both = sign * (g[0] - g[1]);
        total.part[v] += both;
        store<T>(t.g + at, both);
      },
      [&] { total.flush(); });
  if (t.grad_row) for_each_lane(t, [&](int l, int64_t i) { t.grad_row[i] -= total.total[l]; });
}

// Positives of the 32 rows of a lane block, each row's sorted: what a negative violates is found by bisection,
// O(N log P) a row instead of N P.
template <class T>
struct SortedPositives {
  struct Entry {
    T threshold;
    int64_t column;
  };
  std::vector<Entry> row[kBlock];  // ascending
  template <class F>
  SortedPositives(const RowTask<T>& t, F&& threshold) {
    for_each_single_positive(t, [&](int l, T s, int64_t j) {
      const T value = threshold(s);
      row[l].push_back({value == value ? value : T(__builtin_inf()), j});  // NaN cannot be sorted; infinite it shows too
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
template <class T, class Each>
void for_each_smooth_triplet(const RowTask<T>& t, const SortedPositives<T>& positives, Each&& each) {
  size_t most = 0;
  for (const auto& r : positives.row) most = std::max(most, r.size());
  std::vector<T> threshold(most * kBlock, T(-1e30));
  for (int l = 0; l < kBlock; ++l)
    for (size_t p = 0; p < positives.row[l].size(); ++p) threshold[p * kBlock + size_t(l)] = positives.row[l][p].threshold;
  const T sign = T(t.params[0]);
  for_each_pair<T>(t, [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T>, IVec<T> negative) {
    if (!any<T>(negative)) return;
    for (size_t p = 0; p < most; ++p)
      each(v, p, at, negative, load<T>(threshold.data() + p * kBlock + v * kWidth<T>) - sign * s);
  });
}

template <class T>
void triplet_forward(const RowTask<T>& t) {
  const T sign = T(t.params[0]), margin = T(t.params[1]);
  const SortedPositives<T> positives(t, [&](T s) { return sign * s + margin; });
  double sum[kBlock] = {}, active[kBlock] = {};
  if (t.params[2] != 0) {
    Vec<T> part[kV<T>] = {}, count[kV<T>] = {};
    int64_t last = -1;
    auto flush = [&] {
      for (int l = 0; l < kBlock; ++l) {
        sum[l] += double(part[l / kWidth<T>][l % kWidth<T>]);
        active[l] += double(count[l / kWidth<T>][l % kWidth<T>]);
      }
      for (int v = 0; v < kV<T>; ++v) part[v] = count[v] = Vec<T>{};
    };
    for_each_smooth_triplet(t, positives, [&](int v, size_t, int64_t at, IVec<T> negative, Vec<T> z) {
      if (at / (kBlock * kBlock) != last) flush();
      last = at / (kBlock * kBlock);
      Vec<T> value, derivative;
      Sigmoid<T>::apply(z, value, derivative, negative, true);
      part[v] += value;
      count[v] += negative & (z > T(0)) ? splat<T>(T(1)) : Vec<T>{};
    });
    flush();
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
      sum[l] += above[l][size_t(first)] - k * double(d);
      active[l] += k;
    });
  }
  for_each_lane(t, [&](int l, int64_t i) {
    t.out[2 * i] = sum[l];
    t.out[2 * i + 1] = active[l];
  });
}

template <class T>
void triplet_backward(const RowTask<T>& t) {
  const T sign = T(t.params[0]), margin = T(t.params[1]);
  const SortedPositives<T> positives(t, [&](T s) { return sign * s + margin; });
  __builtin_memset(t.g, 0, sizeof(T) * size_t(t.m - t.first) * kBlock);
  double upstream[kBlock];
  for (int l = 0; l < kBlock; ++l) upstream[l] = t.i + l < t.n ? t.grad[2 * (t.i + l)] * t.params[0] : 0;
  auto put = [&](int l, int64_t j, double g) { t.g[(j - t.first) * kBlock + l] = T(g * upstream[l]); };
  std::vector<double> pull[kBlock];
  for (int l = 0; l < kBlock; ++l) pull[l].assign(positives.row[l].size() + 1, 0.0);
  if (t.params[2] != 0) {
    for_each_smooth_triplet(t, positives, [&](int v, size_t p, int64_t at, IVec<T> negative, Vec<T> z) {
      Vec<T> value, derivative;
      Sigmoid<T>::apply(z, value, derivative, negative, true);
      for (int w = 0; w < kWidth<T>; ++w) {
        const int l = v * kWidth<T> + w;
        if (!negative[w] || p >= positives.row[l].size()) continue;
        pull[l][p] += double(derivative[w]);
        t.g[at + w] -= T(double(derivative[w]) * upstream[l]);
      }
    });
  } else {
    for_each_single_pair(t, [&](int l, T s, int64_t j, bool positive) {
      if (positive) return;
      const int64_t first = positives.first_above(l, sign * s);
      pull[l][size_t(first)] += 1;
      put(l, j, double(first - int64_t(positives.row[l].size())));
    });
    for (auto& r : pull)  // a positive is violated by the negatives whose first threshold above is at or before it
      for (size_t p = 1; p < r.size(); ++p) r[p] += r[p - 1];
  }
  for (int l = 0; l < kBlock; ++l)
    for (size_t p = 0; p < positives.row[l].size(); ++p) put(l, positives.row[l][p].column, pull[l][p]);
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

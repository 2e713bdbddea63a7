// Losses of ranks (FastAP, ranked lists) and the selection of nearest rows.
#pragma once
#include <vector>

#include "row_margin.h"

namespace fastssl {
namespace FASTSSL_ISA {

// FastAP: soft histograms of a row's distances; out = sum over bins of h+ H+ / H. params: bins, largest distance.
struct Histogram {
  double positive[kMaxBins + 2] = {}, negative[kMaxBins + 2] = {};
};

template <class T>
void fill_histograms(const RowTask<T>& t, Histogram* rows) {
  const int bins = int(t.params[0]);
  const double width = t.params[1] / bins;
  for_each_single_pair(t, [&](int l, T s, int64_t, bool positive) {
    const double at = double(s) / width;
    double* h = positive ? rows[l].positive : rows[l].negative;
    if (!(at >= 0)) {
      h[0] += at;  // NaN
      return;
    }
    const int k = at >= bins ? bins : int(at);
    const double f = at - k;
    h[k] += f < 1 ? 1 - f : 0;
    if (k < bins) h[k + 1] += f;
  });
}

template <class T>
void fast_ap_forward(const RowTask<T>& t) {
  const int edges = int(t.params[0]) + 1;
  std::vector<Histogram> rows(kBlock);
  fill_histograms(t, rows.data());
  for_each_lane(t, [&](int l, int64_t i) {
    double positives = 0, all = 0, sum = 0;
    for (int b = 0; b < edges; ++b) {
      const double h = rows[size_t(l)].positive[b];
      positives += h;
      all += h + rows[size_t(l)].negative[b];
      const double product = h * positives;
      if (product != product) {
        sum = product;
      } else if (product > 0 && all > 0) {
        sum += product / all;
      }
    }
    t.out[i] = sum;
  });
}

template <class T>
void fast_ap_backward(const RowTask<T>& t) {
  const int bins = int(t.params[0]), edges = bins + 1;
  const double width = t.params[1] / bins;
  std::vector<Histogram> rows(kBlock), slope(kBlock);  // slope: d out / d bin
  fill_histograms(t, rows.data());
  for (int l = 0; l < kBlock; ++l) {
    double H[kMaxBins + 2], A[kMaxBins + 2], positives = 0, all = 0;
    for (int b = 0; b < edges; ++b) {
      H[b] = positives += rows[size_t(l)].positive[b];
      A[b] = all += rows[size_t(l)].positive[b] + rows[size_t(l)].negative[b];
    }
    double later = 0, later_all = 0;
    for (int b = edges; b-- > 0;) {
      const double h = rows[size_t(l)].positive[b];
      const bool counts = h * H[b] > 0 && A[b] > 0;
      if (counts) {
        later += h / A[b];
        later_all += h * H[b] / (A[b] * A[b]);
      }
      slope[size_t(l)].positive[b] = (counts ? H[b] / A[b] : 0) + later - later_all;
      slope[size_t(l)].negative[b] = -later_all;
    }
  }
  __builtin_memset(t.g, 0, sizeof(T) * size_t(t.m - t.first) * kBlock);
  for_each_single_pair(t, [&](int l, T s, int64_t j, bool positive) {
    const double at = double(s) / width;
    const int k = at >= bins ? bins : int(at);
    const double f = at - k;
    if (!(f > 0) || f >= 1) return;  // on an edge the tent has no slope
    const double* d = positive ? slope[size_t(l)].positive : slope[size_t(l)].negative;
    const double next = k < bins ? d[k + 1] : 0;
    t.g[(j - t.first) * kBlock + l] = T(t.grad[t.i + l] * (next - d[k]) / width);
  });
}

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

// The k best of each row: a heap with the worst on top, so that most columns fail one comparison. Equal scores
// rank by column, lower first.
template <class T>
void select(const Selection<T>& t) {
  auto worse = [&](T a, int64_t i, T b, int64_t j) { return ranks_behind(t.largest, a, i, b, j); };
  Vec<T> bar[kV<T>];  // a score must beat this
  const T open = T(t.largest ? -__builtin_inf() : __builtin_inf());
  auto raise = [&](int l) {
    bar[l / kWidth<T>][l % kWidth<T>] = t.i + l >= t.n ? -open : (t.count[l] < t.k ? open : t.value[l * t.k]);
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

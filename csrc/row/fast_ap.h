// FastAP: average precision by soft histograms of distances.
#pragma once
#include <vector>

#include "pairs.h"

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
      if (!(product <= 0) && !(all <= 0)) sum += product / all;  // NaN shows
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

}  // namespace FASTSSL_ISA
}  // namespace fastssl

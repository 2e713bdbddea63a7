// All triplets of an anchor, as hinges or as softplus.
#pragma once
#include "ranked_positives.h"

namespace fastssl {
namespace FASTSSL_ISA {

// All triplets: out: sum over positives p and negatives n of max(0, z) or softplus(z), z = sign (s_ip - s_in) +
// margin; how many z > 0. params: sign, margin, smooth.
//
// With few positives comparing each with every negative, 32 rows at once, is the fastest way to a hinge; a softplus
// needs every triplet, unless cells serve.
constexpr int64_t kFewPositives = 12;

template <class T>
struct TripletTable {
  bool smooth, used;
  int64_t most;
  std::vector<T> threshold;  // [positive][32], -1e30 where a row has fewer
  TripletTable(const RowTask<T>& t, const RankedPositives<T>& positives, bool cells)
      : smooth(t.params[2] != 0), used(smooth ? !cells : positives.most() <= kFewPositives), most(positives.most()) {
    if (!used) return;
    threshold.assign(size_t(most * kBlock), T(-1e30));
    for (int l = 0; l < kBlock; ++l)
      for (int64_t p = 0; p < positives.count(l); ++p) threshold[size_t(p * kBlock + l)] = positives.values(l)[p];
  }
  // z, max(0, z) or softplus(z) and its derivative, where `negative`.
  FASTSSL_INLINE void apply(int v, int64_t p, Vec<T> d, IVec<T> negative, Vec<T>& z, Vec<T>& value,
                            Vec<T>& slope) const {
    z = load<T>(threshold.data() + p * kBlock + v * kWidth<T>) - d;
    if (smooth) {
      Sigmoid<T>::apply(z, value, slope, negative, true);
    } else {
      const IVec<T> in = negative & ~(z <= T(0));
      value = in ? z : Vec<T>{};
      slope = in ? splat<T>(T(1)) : Vec<T>{};
    }
  }
};

// Sums over many positives of softplus(t_p - d) and of its derivative, from the moments of the positives around the
// centres of cells: with |t_p - c| <= 1/4 the Taylor series of a sigmoid, whose poles lie pi away, has an error of
// (1 / 4 pi)^8 = 2e-9 of its value after eight terms. The coefficients a_k of sigmoid(c - d + x) follow from
// y' = y - y^2: (k + 1) a_(k+1) = a_k - sum_i a_i a_(k-i), and those of softplus are softplus(c - d), a_k / (k + 1).
template <class T>
class SigmoidCells {
 public:
  static constexpr int kTerms = 8;
  static constexpr double kCell = 0.5;
  // Cells are worth it where a row has many more positives than cells; fp64 needs more terms than pay.
  SigmoidCells(const RowTask<T>& t, const RankedPositives<T>& positives) {
    if (sizeof(T) == 8 || t.params[2] == 0) return;
    double widest = 0;
    for (int l = 0; l < kBlock; ++l)
      if (const int64_t count = positives.count(l))
        widest = std::max(widest, double(positives.values(l)[count - 1]) - double(positives.values(l)[0]));
    if (!(widest / kCell < double(positives.most()))) return;
    const int64_t wanted = int64_t(widest / kCell) + 1;
    if (4 * wanted >= positives.most()) return;
    cells_ = wanted;
    centre_.assign(size_t(cells_ * kBlock), T(0));
    std::vector<double> sums(size_t(cells_ * (kTerms + 1) * kBlock), 0.0);
    for (int l = 0; l < kBlock; ++l) {
      const T* value = positives.values(l);
      for (int64_t cell = 0; cell < cells_; ++cell)
        centre_[size_t(cell * kBlock + l)] =
            positives.count(l) ? T(double(value[0]) + kCell * (double(cell) + 0.5)) : T(0);
      for (int64_t p = 0; p < positives.count(l); ++p) {
        const int64_t cell = cell_of(double(value[p]) - double(value[0]));
        const double x = double(value[p]) - double(centre_[size_t(cell * kBlock + l)]);
        double power = 1;
        for (int k = 0; k <= kTerms; ++k, power *= x) sums[size_t((cell * (kTerms + 1) + k) * kBlock + l)] += power;
      }
    }
    moment_.assign(sums.begin(), sums.end());
  }
  int64_t cells() const { return cells_; }
  int64_t cell_of(double from_first) const { return std::min(int64_t(from_first / kCell), cells_ - 1); }
  double from_centre(int l, int64_t cell, T value) const {
    return double(value) - double(centre_[size_t(cell * kBlock + l)]);
  }
  // The coefficients at c - d, and softplus there.
  FASTSSL_INLINE void series(int v, int64_t cell, Vec<T> d, Vec<T> (&a)[kTerms], Vec<T>& softplus) const {
    Vec<T> sigmoid;
    Sigmoid<T>::apply(load<T>(centre_.data() + cell * kBlock + v * kWidth<T>) - d, softplus, sigmoid, IVec<T>{}, false);
    a[0] = sigmoid;
#pragma GCC unroll 8
    for (int k = 0; k + 1 < kTerms; ++k) {
      Vec<T> product{};
#pragma GCC unroll 8
      for (int i = 0; 2 * i < k; ++i) product += a[i] * a[k - i];
      product *= T(2);
      if (k % 2 == 0) product += a[k / 2] * a[k / 2];
      a[k + 1] = (a[k] - product) * T(1.0 / (k + 1));
    }
  }
  FASTSSL_INLINE Vec<T> moment(int v, int64_t cell, int k) const {
    return load<T>(moment_.data() + (cell * (kTerms + 1) + k) * kBlock + v * kWidth<T>);
  }

 private:
  int64_t cells_ = 0;
  std::vector<T> centre_, moment_;  // [cell][32], [cell][power][32]
};

// With k thresholds above a negative's distance d, it adds their sum - k d.
template <class T>
void sum_violations(const RowTask<T>& t, const RankedPositives<T>& positives, double* sum, double* active) {
  std::vector<double> above(size_t(positives.total()), 0.0);
  for (int l = 0; l < kBlock; ++l) {
    double* from = above.data() + positives.offset(l);
    for (int64_t p = positives.count(l); p-- > 0;) from[p] = from[p + 1] + double(positives.values(l)[p]);
  }
  for_each_ranked<false>(t, positives,
                         [&](int l, int64_t, const T* d, const int32_t* rank, const uint32_t*)
                             __attribute__((always_inline)) {
                               const double* from = above.data() + positives.offset(l);
                               const auto count = double(positives.count(l));
                               Vec<double> total{}, violated{};
                               for (int c = 0; c < RankedPositives<T>::kTogether; c += kWidth<double>) {
                                 const Vec<double> k = count - load_as<Vec<double>>(rank + c);
                                 total += gather(from, load_ids<double>(rank + c)) - k * load_as<Vec<double>>(d + c);
                                 violated += k;
                               }
                               sum[l] += hsum<double>(total);
                               active[l] += hsum<double>(violated);
                             });
}

template <class T>
void triplet_forward(const RowTask<T>& t) {
  const T sign = T(t.params[0]), margin = T(t.params[1]);
  const RankedPositives<T> positives(t, [&](Vec<T> s) { return sign * s + margin; });
  const SigmoidCells<T> cells(t, positives);
  const TripletTable<T> table(t, positives, cells.cells() > 0);
  LaneSum<T> sum, active;
  if (!table.used && !table.smooth) {
    sum_violations(t, positives, sum.total, active.total);
  } else if (table.used) {
    for_each_pair<T>(
        t,
        [&](int v, Vec<T> s, int64_t, int64_t, IVec<T>, IVec<T> negative) {
          Vec<T> total{}, count{};
          for (int64_t p = 0; p < table.most; ++p) {
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
    for_each_pair<T>(
        t,
        [&](int v, Vec<T> s, int64_t, int64_t, IVec<T>, IVec<T> negative) {
          Vec<T> total{};
          for (int64_t cell = 0; cell < cells.cells(); ++cell) {
            Vec<T> a[SigmoidCells<T>::kTerms], softplus;
            cells.series(v, cell, sign * s, a, softplus);
            Vec<T> high{};
#pragma GCC unroll 8
            for (int k = 0; k < SigmoidCells<T>::kTerms; ++k)
              high += a[k] * cells.moment(v, cell, k + 1) * T(1.0 / (k + 1));
            total += softplus * cells.moment(v, cell, 0) + high;
          }
          sum.part[v] += negative ? total : Vec<T>{};
        },
        [&] { sum.flush(); });
    double hinges[kBlock] = {};
    sum_violations(t, positives, hinges, active.total);
  }
  for_each_lane(t, [&](int l, int64_t i) {
    t.out[2 * i] = sum.total[l];
    t.out[2 * i + 1] = active.total[l];
  });
}

template <class T>
void triplet_backward(const RowTask<T>& t) {
  const T sign = T(t.params[0]), margin = T(t.params[1]);
  const RankedPositives<T> positives(t, [&](Vec<T> s) { return sign * s + margin; });
  const SigmoidCells<T> cells(t, positives);
  const TripletTable<T> table(t, positives, cells.cells() > 0);
  Vec<T> upstream[kV<T>];
  fill_lanes(t, upstream, [&](int64_t i) { return t.grad[2 * i] * t.params[0]; });
  std::vector<double> pull(size_t(positives.total()), 0.0);  // how strongly each positive is pulled
  if (table.used) {
    std::vector<T> part(size_t(table.most * kBlock), T(0));
    for_each_pair<T>(
        t,
        [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T>, IVec<T> negative) {
          Vec<T> total{};
          for (int64_t p = 0; p < table.most; ++p) {
            Vec<T> z, value, slope;
            table.apply(v, p, sign * s, negative, z, value, slope);
            total += slope;
            T* sum = part.data() + p * kBlock + v * kWidth<T>;
            store<T>(sum, load<T>(sum) + slope);
          }
          store<T>(t.g + at, -total * upstream[v]);
        },
        [&] {
          for (int l = 0; l < kBlock; ++l)
            for (int64_t p = 0; p < positives.count(l); ++p) {
              pull[size_t(positives.offset(l) + p)] += double(part[size_t(p * kBlock + l)]);
              part[size_t(p * kBlock + l)] = 0;
            }
        });
  } else if (table.smooth) {
    // The same series seen from the other side: sum_n sigmoid(t_p - d_n) from the sums of coefficients at a centre.
    constexpr int kTerms = SigmoidCells<T>::kTerms;
    const size_t size = size_t(cells.cells() * kTerms * kBlock);
    std::vector<T> part(size, T(0));
    std::vector<double> coefficient(size, 0.0);
    for_each_pair<T>(
        t,
        [&](int v, Vec<T> s, int64_t at, int64_t, IVec<T>, IVec<T> negative) {
          Vec<T> total{};
          for (int64_t cell = 0; cell < cells.cells(); ++cell) {
            Vec<T> a[kTerms], softplus;
            cells.series(v, cell, sign * s, a, softplus);
            T* sums = part.data() + cell * kTerms * kBlock + v * kWidth<T>;
#pragma GCC unroll 8
            for (int k = 0; k < kTerms; ++k) {
              total += a[k] * cells.moment(v, cell, k);
              store<T>(sums + k * kBlock, load<T>(sums + k * kBlock) + (negative ? a[k] : Vec<T>{}));
            }
          }
          store<T>(t.g + at, negative ? -total * upstream[v] : Vec<T>{});
        },
        [&] {
          for (size_t k = 0; k < size; ++k) {
            coefficient[k] += double(part[k]);
            part[k] = 0;
          }
        });
    for (int l = 0; l < kBlock; ++l)
      for (int64_t p = 0; p < positives.count(l); ++p) {
        const T value = positives.values(l)[p];
        const int64_t cell = cells.cell_of(double(value) - double(positives.values(l)[0]));
        const double x = cells.from_centre(l, cell, value);
        double sum = 0;
        for (int k = kTerms; k-- > 0;) sum = sum * x + coefficient[size_t((cell * kTerms + k) * kBlock + l)];
        pull[size_t(positives.offset(l) + p)] = sum;
      }
  } else {
    __builtin_memset(t.g, 0, sizeof(T) * size_t(t.m - t.first) * kBlock);
    // How many negatives have which rank; four counters each, as neighbours often have the same.
    std::vector<int32_t> counters(size_t(positives.total() * 4), 0);
    for_each_ranked<false>(t, positives,
                           [&](int l, int64_t j0, const T*, const int32_t* rank, const uint32_t*)
                               __attribute__((always_inline)) {
                                 int32_t* counts = counters.data() + positives.offset(l) * 4;
                                 const auto count = int32_t(positives.count(l));
                                 const T scale = upstream[l / kWidth<T>][l % kWidth<T>];
                                 T* g = t.g + (j0 - t.first) * kBlock + l;
                                 const int64_t columns = std::min(RankedPositives<T>::kTogether, t.m - j0);
                                 for (int64_t c = 0; c < columns; ++c) ++counts[rank[c] * 4 + c % 4];
                                 int64_t c = 0;
                                 for (; c + kWidth<T> <= columns; c += kWidth<T>)
                                   scatter(g + c * kBlock, iota<T>() * kBlock,
                                           __builtin_convertvector(load_ids<T>(rank + c) - count, Vec<T>) * scale);
                                 for (; c < columns; ++c) g[c * kBlock] = T(rank[c] - count) * scale;
                               });
    // A positive is violated by the negatives whose first threshold above is at or before it.
    for (int l = 0; l < kBlock; ++l) {
      int64_t sum = 0;
      for (int64_t p = 0; p < positives.count(l); ++p) {
        const int32_t* of = counters.data() + (positives.offset(l) + p) * 4;
        sum += int64_t(of[0]) + of[1] + of[2] + of[3];
        pull[size_t(positives.offset(l) + p)] = double(sum);
      }
    }
  }
  for (int l = 0; l < kBlock; ++l)
    for (int64_t p = 0; p < positives.count(l); ++p)
      t.g[(positives.columns(l)[p] - t.first) * kBlock + l] =
          T(pull[size_t(positives.offset(l) + p)]) * upstream[l / kWidth<T>][l % kWidth<T>];
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

// Triplets of one anchor without lists of triplets: what a negative violates is found among the anchor's sorted
// positives.
#pragma once
#include <algorithm>
#include <vector>

#include "row_lse.h"

namespace fastssl {
namespace FASTSSL_ISA {

// The relations of each row of a lane block to 32 columns: bit c is column j0 + c.
template <class T>
struct RowBits {
  const RowTask<T>& t;
  uint32_t positive[kBlock], negative[kBlock];
  int64_t self[kBlock];  // -1: none
  explicit RowBits(const RowTask<T>& task) : t(task) {
    for (int l = 0; l < kBlock; ++l)
      self[l] = t.self_offset < 0 || t.upper || t.i + l >= t.n ? -1 : (t.self_offset + t.i + l) % t.m;
  }
  void read(int64_t j0) {
    using E = decltype(IVec<T>{}[0] + 0);
    const int64_t columns = std::min(kBlock, t.m - j0);
    const uint32_t present = columns == kBlock ? ~uint32_t(0) : (uint32_t(1) << columns) - 1;
    int32_t planes[2][kBlock] = {};
    const size_t bytes = size_t(columns) * sizeof(int32_t);
    if (t.positive_bits) {
      __builtin_memcpy(planes[0], t.positive_bits + j0, bytes);
      __builtin_memcpy(planes[1], t.negative_bits + j0, bytes);
    } else {
      __builtin_memcpy(planes[0], t.y_ids + j0, bytes);
    }
    for (int l = 0; l < kBlock; ++l) {
      const int64_t i = t.i + l;
      uint32_t keep = i < t.n ? present : 0;
      if (t.upper) keep &= i < j0 ? ~uint32_t(0) : (i - j0 >= 31 ? 0 : ~uint32_t(0) << (i - j0 + 1));
      if (self[l] >= j0 && self[l] < j0 + kBlock) keep &= ~(uint32_t(1) << (self[l] - j0));
      uint32_t found[2] = {};
      for (int k = 0; k < (t.positive_bits ? 2 : 1); ++k)
        for (int v = 0; v < kV<T>; ++v) {
          const IVec<T> plane = load_ids<T>(planes[k] + v * kWidth<T>);
          const IVec<T> in = t.positive_bits ? ((plane >> E(l)) & E(1)) != E(0) : plane == E(t.x_ids[i]);
          found[k] |= bits_of<T>(in) << (v * kWidth<T>);
        }
      if (!t.positive_bits) found[1] = ~found[0];
      positive[l] = found[0] & keep;
      negative[l] = found[1] & keep;
    }
  }
};
template <class F>
FASTSSL_INLINE void for_each_bit(uint32_t bits, F&& f) {
  for (; bits; bits &= bits - 1) f(__builtin_ctz(bits));
}
// f(j0) for every 32 columns of a row loss.
template <class T, class F>
FASTSSL_INLINE void for_each_columns(const RowTask<T>& t, F&& f) {
  for (int64_t j0 = t.upper && t.i > t.first ? t.i : t.first; j0 < t.m; j0 += kBlock) f(j0);
}

// The positives of each row of a lane block in ascending order, with a table of buckets: equal intervals between the
// smallest and the largest value. A value's rank is its bucket's first entry and a few branchless steps from there,
// some ten instructions however many positives there are; a few of them are compared one by one. A row without
// negatives has no triplets, and no entries.
template <class T>
class RankedPositives {
 public:
  static constexpr int64_t kTogether = 4 * kBlock;
  template <class F>
  RankedPositives(const RowTask<T>& t, F&& threshold) {
    bool has_negatives[kBlock] = {};
    int64_t found[kBlock] = {};
    RowBits<T> bits(t);
    for_each_columns(t, [&](int64_t j0) {
      bits.read(j0);
      for (int l = 0; l < kBlock; ++l) {
        has_negatives[l] |= bits.negative[l] != 0;
        found[l] += __builtin_popcount(bits.positive[l]);
      }
    });
    int64_t total = 0, start = 0;
    for (int l = 0; l < kBlock; ++l) {
      Row& r = row_[l];
      if (!has_negatives[l]) found[l] = 0;
      r.first = total;
      r.start = start;
      most_ = std::max(most_, found[l]);
      total += found[l] + padding(found[l]);
      start += found[l] > kFew ? kBuckets * found[l] : 0;
    }
    values_.assign(size_t(total), T(__builtin_inf()));
    columns_.assign(size_t(total), -1);
    starts_.assign(size_t(start), 0);
    std::vector<Entry> entries(static_cast<size_t>(total));
    for_each_columns(t, [&](int64_t j0) {
      bits.read(j0);
      const T* s = t.s + (j0 - t.first) * kBlock;
      // Too scattered for the processor to foresee, and the search wants all of it soon.
      if (j0 + 2 * kBlock <= t.m)
        for (int64_t k = 0; k < kBlock * kBlock * int64_t(sizeof(T)); k += 64)
          __builtin_prefetch(reinterpret_cast<const char*>(s + kBlock * kBlock) + k);
      for (int l = 0; l < kBlock; ++l) {
        if (found[l] == 0) continue;
        Row& r = row_[l];
        for_each_bit(bits.positive[l], [&](int c) {
          const T value = threshold(s[c * kBlock + l]);
          // NaN cannot be sorted; infinite it shows too.
          entries[size_t(r.first + r.count++)] = {value == value ? value : T(__builtin_inf()), E(j0 + c)};
        });
      }
    });
    std::vector<Entry> sorted(static_cast<size_t>(most_));
    std::vector<int32_t> bucket(static_cast<size_t>(most_));
    for (auto& r : row_) sort(r, entries.data() + r.first, sorted.data(), bucket.data());
  }
  int64_t most() const { return most_; }  // positives that a row has
  int64_t count(int l) const { return row_[l].count; }
  const T* values(int l) const { return values_.data() + row_[l].first; }
  const int64_t* columns(int l) const { return columns_.data() + row_[l].first; }
  // Where row l's entries begin in arrays of `total` entries, one more per row than it has positives.
  int64_t offset(int l) const { return row_[l].first; }
  int64_t total() const { return int64_t(values_.size()); }

  // rank[c]: how many positives of row l are at most (kStrict: less than) d[c], for kTogether values; all of them where
  // bit c of `keep` is not set. Many searches at once hide each other's latency.
  template <bool kStrict>
  FASTSSL_INLINE void rank(int l, const T* d, const uint32_t* keep, int32_t* rank) const {
    typedef int32_t Narrow __attribute__((vector_size(kWidth<T> * sizeof(int32_t))));
    constexpr int kMany = int(kTogether) / kWidth<T>, kAtOnce = kMany < 8 ? kMany : 8;
    const Row& r = row_[l];
    const T* value = values_.data() + r.first;
    const int32_t* start = starts_.data() + r.start;
    const auto count = E(r.count);
    for (int from = 0; from < kMany; from += kAtOnce) {
      IVec<T> found[kAtOnce] = {};
      Vec<T> x[kAtOnce];
#pragma GCC unroll 8
      for (int v = 0; v < kAtOnce; ++v) x[v] = load<T>(d + (from + v) * kWidth<T>);
      if (r.count <= kFew) {
        for (int64_t p = 0; p < r.count; ++p) {
#pragma GCC unroll 8
          for (int v = 0; v < kAtOnce; ++v) found[v] -= kStrict ? value[p] < x[v] : value[p] <= x[v];
        }
      } else {
#pragma GCC unroll 8
        for (int v = 0; v < kAtOnce; ++v) {
          Vec<T> at = (x[v] - r.low) * r.scale;
          at = at > T(0) ? at : Vec<T>{};  // NaN too
          at = at < r.last ? at : splat<T>(r.last);
          found[v] = gather_ids<T>(start, __builtin_convertvector(at, IVec<T>));
        }
        for (int32_t step = r.step; step > 0; step /= 2) {
#pragma GCC unroll 8
          for (int v = 0; v < kAtOnce; ++v) {
            const Vec<T> next = gather(value, found[v] + E(step - 1));
            found[v] += (kStrict ? next < x[v] : next <= x[v]) ? IVec<T>{} + E(step) : IVec<T>{};
          }
        }
      }
#pragma GCC unroll 8
      for (int v = 0; v < kAtOnce; ++v) {
        const int at = (from + v) * kWidth<T>;
        const IVec<T> bits = IVec<T>{} + E(int32_t(keep[at / kBlock] >> (at % kBlock)));
        // An infinite distance passes the padding.
        const IVec<T> in = (((bits >> iota<T>()) & E(1)) != E(0)) & (found[v] < count);
        const Narrow narrow = __builtin_convertvector(in ? found[v] : IVec<T>{} + count, Narrow);
        __builtin_memcpy(rank + at, &narrow, sizeof narrow);
      }
    }
  }

 private:
  using E = decltype(IVec<T>{}[0] + 0);
  struct Entry {
    T value;
    E column;
    bool operator<(const Entry& b) const { return value < b.value || (value == b.value && column < b.column); }
  };
  struct Row {
    int64_t first = 0, start = 0;
    int64_t count = 0;
    T low = 0, scale = 0, last = 0;
    int32_t step = 0;
  };
  static constexpr int64_t kFew = 16;     // compared one by one
  static constexpr int64_t kBuckets = 2;  // for each positive
  static constexpr int32_t kShort = 12;   // a bucket that insertions sort
  Row row_[kBlock];
  std::vector<T> values_;  // of all rows; +inf after each row's own, as many as a search may pass
  std::vector<int64_t> columns_;
  std::vector<int32_t> starts_;
  int64_t most_ = 0;

  // Steps of a search in a bucket of `count` begin with the largest power of two up to it.
  static int32_t first_step(int64_t count) {
    int32_t step = 0;
    while ((step ? 2 * step - 1 : 0) < count) step = step ? 2 * step : 1;
    return step;
  }
  static int64_t padding(int64_t count) { return count > kFew ? 2 * first_step(count) : 1; }

  // Entries into buckets, and the row's table; returns how many the fullest has.
  int32_t distribute(Row& r, const Entry* entries, Entry* sorted, int32_t* bucket) {
    const int64_t count = r.count;
    int32_t* start = starts_.data() + r.start;
    int32_t buckets = 1, longest = 0;
    T low = entries[0].value, high = low;
    for (int64_t p = 0; p < count; ++p) {
      low = entries[p].value < low ? entries[p].value : low;
      high = entries[p].value > high ? entries[p].value : high;
    }
    const T width = high - low, infinity = T(__builtin_inf()), scale = T(kBuckets * count) / width;
    if (width > T(0) && width < infinity && scale < infinity) {
      r.scale = scale;
      buckets = int32_t(kBuckets * count);
    }
    r.low = low < infinity ? low : T(0);
    r.last = T(buckets - 1);
    for (int64_t p = 0; p < count; ++p) {
      T at = (entries[p].value - r.low) * r.scale;
      at = at > T(0) ? at : T(0);
      bucket[p] = int32_t(at < r.last ? at : r.last);
      ++start[bucket[p]];
    }
    for (int32_t b = 0, end = 0; b < buckets; ++b) {
      longest = std::max(longest, start[b]);
      start[b] = end += start[b];
    }
    // Places are handed out from the end of each bucket, which leaves start[b] where the bucket begins.
    for (int64_t p = count; p-- > 0;) sorted[--start[bucket[p]]] = entries[p];
    r.step = first_step(longest);
    return longest;
  }
  void sort(Row& r, const Entry* entries, Entry* sorted, int32_t* bucket) {
    int32_t longest = 0;
    if (r.count > kFew) {
      longest = distribute(r, entries, sorted, bucket);
    } else {
      std::copy(entries, entries + r.count, sorted);
    }
    if (longest > kShort) {
      std::sort(sorted, sorted + r.count);
    } else {
      for (int64_t p = 1; p < r.count; ++p) {
        const Entry e = sorted[p];
        int64_t q = p;
        for (; q > 0 && e < sorted[q - 1]; --q) sorted[q] = sorted[q - 1];
        sorted[q] = e;
      }
    }
    for (int64_t p = 0; p < r.count; ++p) {
      values_[size_t(r.first + p)] = sorted[p].value;
      columns_[size_t(r.first + p)] = int64_t(sorted[p].column);
    }
  }
};

// f(l, j0, d, rank, negative) for 128 columns of a row that has positives: their distances; their ranks among the row's
// positives, which for all but the negatives is the last; a bit for each negative, 32 in a word. Columns that do not
// exist are no negatives.
template <bool kStrict, class T, class F>
void for_each_ranked(const RowTask<T>& t, const RankedPositives<T>& positives, F&& f) {
  constexpr int64_t kTogether = RankedPositives<T>::kTogether, kWords = kTogether / kBlock;
  const T sign = T(t.params[0]);
  RowBits<T> bits(t);
  uint32_t negative[kBlock][kWords];
  T tail[kBlock * kBlock] = {}, d[kTogether];
  int32_t rank[kTogether];
  const int64_t begin = t.upper && t.i > t.first ? t.i : t.first;
  for (int64_t j0 = begin; j0 < t.m; j0 += kTogether) {
    __builtin_memset(negative, 0, sizeof negative);
    for (int64_t w = 0; w < kWords && j0 + w * kBlock < t.m; ++w) {
      bits.read(j0 + w * kBlock);
      for (int l = 0; l < kBlock; ++l) negative[l][w] = bits.negative[l];
    }
    const int64_t ragged = t.m - t.m % kBlock;
    if (ragged < t.m && ragged < j0 + kTogether)
      __builtin_memcpy(tail, t.s + (ragged - t.first) * kBlock, size_t(t.m % kBlock * kBlock) * sizeof(T));
    for (int l = 0; l < kBlock; ++l) {
      if (positives.count(l) == 0) continue;
      for (int64_t w = 0; w < kWords; ++w) {
        const int64_t j = j0 + w * kBlock;
        const T* s = j < ragged ? t.s + (j - t.first) * kBlock : tail;
        for (int v = 0; v < kV<T>; ++v)
          store<T>(d + w * kBlock + v * kWidth<T>, sign * gather(s + v * kWidth<T> * kBlock + l, iota<T>() * kBlock));
      }
      positives.template rank<kStrict>(l, d, negative[l], rank);
      f(l, j0, d, rank, negative[l]);
    }
  }
}

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
  const RankedPositives<T> positives(t, [&](T s) { return sign * s + margin; });
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
  const RankedPositives<T> positives(t, [&](T s) { return sign * s + margin; });
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

// Semi-hard triplets: for every positive pair the nearest negative that is farther than the positive, else the
// farthest negative. out: sum of max(0, z), how many z > 0. params: sign, margin.
template <class T, class F>
void for_each_semihard(const RowTask<T>& t, F&& f) {
  const T sign = T(t.params[0]);
  const RankedPositives<T> positives(t, [&](T s) { return sign * s; });
  struct Nearest {
    T d = T(__builtin_inf());
    int64_t column = -1;
    FASTSSL_INLINE void offer(T other, int64_t j) {
      if (d == d && !(other >= d)) d = other, column = j;  // NaN enters and stays
    }
  };
  // [k]: the nearest of the negatives that k positives (in order) are nearer than.
  std::vector<T> near(size_t(positives.total()), T(__builtin_inf()));
  std::vector<int64_t> column(size_t(positives.total()), -1);
  Nearest farthest[kBlock];
  for_each_ranked<true>(
      t, positives,
      [&](int l, int64_t j0, const T* d, const int32_t* rank, const uint32_t* negative) __attribute__((always_inline)) {
        T* of = near.data() + positives.offset(l);
        int64_t* at = column.data() + positives.offset(l);
        for (int64_t w = 0; w < RankedPositives<T>::kTogether / kBlock;
             ++w, d += kBlock, rank += kBlock, j0 += kBlock) {
          uint32_t nearer = 0, farther = 0;
          for (int v = 0; v < kV<T>; ++v) {
            const Vec<T> x = load<T>(d + v * kWidth<T>);
            nearer |= bits_of<T>(~(x >= gather(of, load_ids<T>(rank + v * kWidth<T>)))) << (v * kWidth<T>);
            farther |= bits_of<T>(~(x <= -farthest[l].d)) << (v * kWidth<T>);
          }
          for_each_bit(nearer & negative[w], [&](int c) {
            Nearest best{of[rank[c]], at[rank[c]]};
            best.offer(d[c], j0 + c);
            of[rank[c]] = best.d;
            at[rank[c]] = best.column;
          });
          for_each_bit(farther & negative[w], [&](int c) { farthest[l].offer(-d[c], j0 + c); });
        }
      });
  for (int l = 0; l < kBlock; ++l) {
    Nearest best;
    for (int64_t p = positives.count(l); p-- > 0;) {
      const size_t next = size_t(positives.offset(l) + p + 1);
      if (column[next] >= 0) best.offer(near[next], column[next]);
      const T value = positives.values(l)[p];
      const int64_t own = positives.columns(l)[p];
      if (best.column >= 0) {
        f(l, value, own, best.d, best.column);
      } else if (farthest[l].column >= 0) {
        f(l, value, own, -farthest[l].d, farthest[l].column);
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

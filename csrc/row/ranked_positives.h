// Triplets of one anchor without lists of triplets: what a negative violates is found among the anchor's sorted
// positives.
#pragma once
#include <algorithm>
#include <vector>

#include "pairs.h"

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

}  // namespace FASTSSL_ISA
}  // namespace fastssl

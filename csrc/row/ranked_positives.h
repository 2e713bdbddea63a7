// Triplets of one anchor without lists of triplets: what a negative violates is found among the anchor's sorted
// positives.
#pragma once
#include <algorithm>
#include <vector>

#include "pairs.h"

namespace fastssl {
namespace FASTSSL_ISA {

// The relations of each row of a lane block to all columns: bit c of word w is column begin + 32 w + c. Columns that do
// not exist are neither positive nor negative.
template <class T>
class RelationBits {
 public:
  static constexpr int64_t kTogether = 4;  // words: there is a multiple of it
  const int64_t begin, words;
  explicit RelationBits(const RowTask<T>& t)
      : begin(t.upper && t.i > t.first ? t.i : t.first),
        words(ceil_div(t.m - begin, kTogether * kBlock) * kTogether),
        positive_(size_t(kBlock * words)),
        negative_(size_t(kBlock * words)) {
    for (int l = 0; l < kBlock && t.i + l < t.n; ++l) read(t, l, t.i + l);
  }
  const uint32_t* positive(int l) const { return positive_.data() + l * words; }
  const uint32_t* negative(int l) const { return negative_.data() + l * words; }

 private:
  std::vector<uint32_t> positive_, negative_;

  void read(const RowTask<T>& t, int l, int64_t i) {
    using E = decltype(IVec<T>{}[0] + 0);
    uint32_t* positive = positive_.data() + l * words;
    uint32_t* negative = negative_.data() + l * words;
    const IVec<T> bit = IVec<T>{} + E(int32_t(uint32_t(1) << l)), id = IVec<T>{} + E(t.x_ids ? t.x_ids[i] : 0);
    const auto word = [&](const int32_t* columns, bool plane) __attribute__((always_inline)) {
      uint32_t found = 0;
      for (int v = 0; v < kV<T>; ++v) {
        const IVec<T> column = load_ids<T>(columns + v * kWidth<T>);
        found |= bits_of<T>(plane ? (column & bit) != E(0) : column == id) << (v * kWidth<T>);
      }
      return found;
    };
    const auto plane = [&](const uint32_t* bits, const int32_t* ids, uint32_t* to) {
      const int32_t* from = (bits ? reinterpret_cast<const int32_t*>(bits) : ids) + begin;
      int64_t w = 0, left = t.m - begin;
      for (; left >= kBlock; ++w, left -= kBlock, from += kBlock) to[w] = bits ? word(from, true) : word(from, false);
      if (left == 0) return;
      int32_t tail[kBlock] = {};
      __builtin_memcpy(tail, from, size_t(left) * sizeof(int32_t));
      to[w] = word(tail, bits != nullptr) & ((uint32_t(1) << left) - 1);
    };
    plane(t.positive_bits, t.y_ids, positive);
    if (t.positive_bits) {
      plane(t.negative_bits, nullptr, negative);
    } else {
      const int64_t whole = (t.m - begin) / kBlock, left = (t.m - begin) % kBlock;
      for (int64_t w = 0; w < whole; ++w) negative[w] = ~positive[w];
      if (left > 0) negative[whole] = ~positive[whole] & ((uint32_t(1) << left) - 1);
    }
    const auto keep = [&](int64_t w, uint32_t bits) {
      positive[w] &= bits;
      negative[w] &= bits;
    };
    if (t.upper) keep(0, l == kBlock - 1 ? 0 : ~uint32_t(0) << (l + 1));
    if (t.self_offset >= 0 && !t.upper)
      if (const int64_t self = (t.self_offset + i) % t.m - begin; self >= 0)
        keep(self / kBlock, ~(uint32_t(1) << (self % kBlock)));
  }
};
template <class F>
FASTSSL_INLINE void for_each_bit(uint32_t bits, F&& f) {
  for (; bits; bits &= bits - 1) f(__builtin_ctz(bits));
}
// The positives of each row of a lane block in ascending order, with a table of buckets: equal intervals between the
// smallest and the largest value. A value's rank is its bucket's first entry and a few branchless steps from there,
// some ten instructions however many positives there are; a few of them are compared one by one. A row without
// negatives has no triplets, and no entries.
template <class T>
class RankedPositives {
 public:
  static constexpr int64_t kTogether = RelationBits<T>::kTogether * kBlock;
  const RelationBits<T> relation;
  template <class F>
  RankedPositives(const RowTask<T>& t, F&& threshold) : relation(t) {
    int64_t total = 0, start = 0;
    for (int l = 0; l < kBlock; ++l) {
      Row& r = row_[l];
      uint32_t negatives = 0;
      for (int64_t w = 0; w < relation.words; ++w) {
        negatives |= relation.negative(l)[w];
        r.count += __builtin_popcount(relation.positive(l)[w]);
      }
      if (negatives == 0) r.count = 0;
      r.first = total;
      r.start = start;
      most_ = std::max(most_, r.count);
      total += r.count + padding(r.count);
      start += r.count > kFew ? kBuckets * r.count : 0;
    }
    values_.assign(size_t(total), T(__builtin_inf()));
    columns_.assign(size_t(total), -1);
    starts_.assign(size_t(start), 0);
    Unsorted positives(most_);
    for (int l = 0; l < kBlock; ++l) {
      if (row_[l].count == 0) continue;
      collect(t, l, positives, threshold);
      sort(row_[l], positives);
    }
  }
  int64_t most() const { return most_; }  // positives that a row has
  int64_t count(int l) const { return row_[l].count; }
  const T* values(int l) const { return values_.data() + row_[l].first; }
  const int32_t* columns(int l) const { return columns_.data() + row_[l].first; }
  // Where row l's entries begin in arrays of `total` entries, one more per row than it has positives.
  int64_t offset(int l) const { return row_[l].first; }
  int64_t total() const { return int64_t(values_.size()); }

  // rank[c]: how many positives of row l are at most (kStrict: less than) d[c], for kTogether values; all of them where
  // bit c of `keep` is not set. Many searches at once hide each other's latency.
  template <bool kStrict>
  FASTSSL_INLINE void rank(int l, const T* d, const uint32_t* keep, int32_t* rank) const {
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
          found[v] = gather_ids<T>(start, r.bucket(x[v]));
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
        store_ids<T>(rank + at, in ? found[v] : IVec<T>{} + count);
      }
    }
  }

 private:
  using E = decltype(IVec<T>{}[0] + 0);
  struct Row {
    int64_t first = 0, start = 0;
    int64_t count = 0;
    T low = 0, scale = 0, last = 0;
    int32_t step = 0;
    FASTSSL_INLINE IVec<T> bucket(Vec<T> x) const {
      Vec<T> at = (x - low) * scale;
      at = at > T(0) ? at : Vec<T>{};  // NaN too
      at = at < last ? at : splat<T>(last);
      return __builtin_convertvector(at, IVec<T>);
    }
  };
  // The positives of one row by columns, and what sorts them; a vector more than there are.
  struct Unsorted {
    std::vector<T> value, by_bucket;
    std::vector<int32_t> column, start, ordinal, place;  // where an entry's bucket begins, its place there and in all
    explicit Unsorted(int64_t most)
        : value(size_t(most + kBlock)),
          by_bucket(size_t(most + kBlock + kShort), T(__builtin_inf())),
          column(size_t(most + 2 * kBlock)),
          start(size_t(most + kBlock)),
          ordinal(size_t(most + kBlock)),
          place(size_t(most + kBlock)) {}
  };
  static constexpr int64_t kFew = 16;     // compared one by one
  static constexpr int64_t kBuckets = 2;  // for each positive
  static constexpr int32_t kShort = 16;   // a bucket whose entries are compared with each other
  Row row_[kBlock];
  std::vector<T> values_;  // of all rows; +inf after each row's own, as many as a search may pass
  std::vector<int32_t> columns_;
  std::vector<int32_t> starts_;
  int64_t most_ = 0;

  // Steps of a search in a bucket of `count` begin with the largest power of two up to it.
  static int32_t first_step(int64_t count) {
    int32_t step = 0;
    while ((step ? 2 * step - 1 : 0) < count) step = step ? 2 * step : 1;
    return step;
  }
  static int64_t padding(int64_t count) { return count > kFew ? 2 * first_step(count) : 1; }

  template <class F>
  void collect(const RowTask<T>& t, int l, Unsorted& to, F&& threshold) const {
    int32_t* column = to.column.data();
    int64_t count = 0;
    for (int64_t w = 0; w < relation.words; ++w)
      count += expand_bits(relation.positive(l)[w], int32_t(relation.begin + w * kBlock), column + count);
    for (int v = 0; v < kWidth<T>; ++v) column[count + v] = column[0];  // the last vector may hold the first again
    const T* s = t.s - t.first * kBlock + l;
    for (int64_t p = 0; p < count; p += kWidth<T>) {
      const Vec<T> value = threshold(gather(s, load_ids<T>(column + p) * E(kBlock)));
      // NaN cannot be sorted; infinite it shows too.
      store<T>(to.value.data() + p, value == value ? value : splat<T>(T(__builtin_inf())));
    }
  }
  // Entries into buckets, and the row's table; returns how many the fullest has.
  int32_t distribute(Row& r, Unsorted& e) {
    const int64_t count = r.count;
    int32_t* start = starts_.data() + r.start;
    Vec<T> lows = load<T>(e.value.data()), highs = lows;
    for (int64_t p = kWidth<T>; p < count; p += kWidth<T>) {
      const Vec<T> x = load<T>(e.value.data() + p);
      lows = x < lows ? x : lows;
      highs = x > highs ? x : highs;
    }
    const T infinity = T(__builtin_inf()), low = -hmax<T>(-lows), width = hmax<T>(highs) - low;
    const T scale = T(kBuckets * count) / width;
    int32_t buckets = 1;
    if (width > T(0) && width < infinity && scale < infinity) {
      r.scale = scale;
      buckets = int32_t(kBuckets * count);
    }
    r.low = low < infinity ? low : T(0);
    r.last = T(buckets - 1);
    for (int64_t p = 0; p < count; p += kWidth<T>)
      store_ids<T>(e.start.data() + p, r.bucket(load<T>(e.value.data() + p)));
    for (int64_t p = 0; p < count; ++p) e.ordinal[size_t(p)] = start[e.start[size_t(p)]]++;
    for (int32_t b = 0, before = 0; b < buckets; ++b) {
      const int32_t here = start[b];
      start[b] = before;
      before += here;
    }
    int32_t longest = 0;
    for (int64_t p = 0; p < count; ++p) {
      longest = std::max(longest, e.ordinal[size_t(p)]);
      e.start[size_t(p)] = start[e.start[size_t(p)]];
      e.by_bucket[size_t(e.start[size_t(p)] + e.ordinal[size_t(p)])] = e.value[size_t(p)];
    }
    return longest + 1;
  }
  // An entry's place is that of its bucket and how many come before it there; equal values stay in order.
  void sort(Row& r, Unsorted& e) {
    int32_t longest;
    if (r.count > kFew) {
      longest = distribute(r, e);
      r.step = first_step(longest);
    } else {
      longest = int32_t(r.count);
      for (int32_t p = 0; p < longest; ++p) {
        e.by_bucket[size_t(p)] = e.value[size_t(p)];
        e.start[size_t(p)] = 0;
        e.ordinal[size_t(p)] = p;
      }
    }
    std::fill_n(e.start.begin() + r.count, kWidth<T>, 0);  // what the last vector reads beyond the entries
    if (longest > kShort) {
      std::vector<int32_t> order(static_cast<size_t>(r.count));
      for (int32_t p = 0; p < r.count; ++p) order[size_t(p)] = p;
      std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        const T x = e.value[size_t(a)], y = e.value[size_t(b)];
        return x < y || (x == y && a < b);
      });
      for (int32_t p = 0; p < r.count; ++p) e.place[size_t(order[size_t(p)])] = p;
    } else {
      const T infinity = T(__builtin_inf());
      std::fill_n(e.by_bucket.begin() + r.count, kShort, infinity);
      for (int64_t p = 0; p < r.count; p += kWidth<T>) {
        const Vec<T> x = load<T>(e.value.data() + p);
        const IVec<T> start = load_ids<T>(e.start.data() + p), ordinal = load_ids<T>(e.ordinal.data() + p);
        IVec<T> place = start;
        for (int32_t k = 0; k < longest; ++k) {
          const Vec<T> other = gather(e.by_bucket.data(), start + E(k));
          place -= (other < x) | ((other == x) & (E(k) < ordinal));
        }
        store_ids<T>(e.place.data() + p, place);
      }
    }
    for (int64_t p = 0; p < r.count; ++p) {
      const size_t to = size_t(r.first + e.place[size_t(p)]);
      values_[to] = e.value[size_t(p)];
      columns_[to] = e.column[size_t(p)];
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
  const RelationBits<T>& relation = positives.relation;
  alignas(64) T distances[kBlock * kTogether];  // [row][column]
  T tail[kBlock * kBlock] = {};
  int32_t rank[kTogether];
  uint32_t used = 0;
  for (int l = 0; l < kBlock; ++l) used |= uint32_t(positives.count(l) > 0) << l;
  if (used == 0) return;
  const int64_t ragged = t.m - t.m % kBlock;
  if (ragged < t.m)
    __builtin_memcpy(tail, t.s + (ragged - t.first) * kBlock, size_t(t.m % kBlock * kBlock) * sizeof(T));
  for (int64_t j0 = relation.begin; j0 < t.m; j0 += kTogether) {
    for (int64_t w = 0; w < kWords; ++w) {
      const int64_t j = j0 + w * kBlock;
      const T* s = j < ragged ? t.s + (j - t.first) * kBlock : tail;
      for (int c = 0; c < kBlock; c += kWidth<T>)
        for (int l = 0; l < kBlock; l += kWidth<T>)
          transpose(s + c * kBlock + l, kBlock, distances + l * kTogether + w * kBlock + c, kTogether);
    }
    for_each_bit(used, [&](int l) __attribute__((always_inline)) {
      T* d = distances + l * kTogether;
      for (int64_t c = 0; c < kTogether; c += kWidth<T>) store<T>(d + c, sign * load<T>(d + c));
      const uint32_t* negative = relation.negative(l) + (j0 - relation.begin) / kBlock;
      positives.template rank<kStrict>(l, d, negative, rank);
      f(l, j0, d, rank, negative);
    });
  }
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

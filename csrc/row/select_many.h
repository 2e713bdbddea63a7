// The nearest columns of each row where many are wanted: those that may be among them are gathered, and the worst half
// thrown out whenever there are 2 k of them, which costs less than a heap of k. Only row/loss.cpp includes this: what
// it takes from the standard library is compiled once, for no instruction set in particular.
#pragma once
#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "task.h"

namespace fastssl {
namespace {

constexpr int64_t kManyNearest = 96;  // from here on it is faster than the heap
constexpr int64_t kTogether = 4;      // rows that are looked at together

// Score and column as one integer, which orders as `ranks_behind` does: smaller is ahead.
template <class T>
struct Rank {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  __extension__ typedef std::conditional_t<sizeof(T) == 4, uint64_t, unsigned __int128> Key;
  static constexpr Key kLast = Key(-1);
  static Key of(T score, int64_t column) {
    constexpr Bits kSign = Bits(1) << (8 * sizeof(T) - 1);
    Bits bits;
    const T signed_zero_is_zero = score + T(0);
    std::memcpy(&bits, &signed_zero_is_zero, sizeof bits);
    bits = score != score ? Bits(-1) : (bits & kSign ? ~bits : bits | kSign);
    return Key(bits) << 32 | Key(uint32_t(column));
  }
  static int64_t column(Key key) { return int64_t(uint32_t(key)); }
};

template <class T>
void select_many(const Selection<T>& t) {
  using Key = typename Rank<T>::Key;
  const int64_t rows = std::min(kBlock, t.n - t.i), room = std::min(2 * t.k, t.end - t.begin) + 1;
  const T sign = t.largest ? T(-1) : T(1), open = std::numeric_limits<T>::infinity();
  std::vector<Key> keys(size_t(rows * room));
  int64_t count[kBlock] = {};
  Key last[kBlock];  // what ranks behind this is out
  T bar[kBlock];
  bool all = true;  // look at every score
  for (int64_t l = 0; l < kBlock; ++l) last[l] = l < rows ? Rank<T>::kLast : Key(0), bar[l] = l < rows ? open : -open;
  const auto compact = [&](int64_t l) {
    Key* first = keys.data() + l * room;
    std::nth_element(first, first + t.k - 1, first + count[l]);
    count[l] = t.k;
    last[l] = first[t.k - 1];
    const T worst = sign * t.s[(Rank<T>::column(last[l]) - t.begin) * kBlock + l];
    bar[l] = worst < open ? worst : open;  // of NaN too
    all = std::any_of(bar, bar + rows, [&](T b) { return b == open; });
  };
  for (int64_t j = t.begin; j < t.end; ++j) {
    const T* s = t.s + (j - t.begin) * kBlock;
    int any = all;
    for (int64_t l = 0; l < kBlock; ++l) any |= sign * s[l] < bar[l];
    for (int64_t some = 0; any && some < rows; some += kTogether) {
      int better = all;
      for (int64_t l = some; l < some + kTogether; ++l) better |= sign * s[l] < bar[l];
      for (int64_t l = some; better && l < std::min(some + kTogether, rows); ++l) {  // without a branch for each
        const Key key = Rank<T>::of(sign * s[l], j);
        keys[size_t(l * room + count[l])] = key;
        count[l] += (key < last[l]) & !(t.exclude_self && t.i + l == j);
        if (count[l] == 2 * t.k) compact(l);
      }
    }
  }
  for (int64_t l = 0; l < rows; ++l) {
    Key* first = keys.data() + l * room;
    if (count[l] > t.k) std::nth_element(first, first + t.k - 1, first + count[l]);
    std::sort(first, first + t.k);
    for (int64_t r = 0; r < t.k; ++r) {
      const int64_t column = t.index[l * t.k + r] = Rank<T>::column(first[r]);
      t.value[l * t.k + r] = t.s[(column - t.begin) * kBlock + l];
    }
  }
}

}  // namespace
}  // namespace fastssl

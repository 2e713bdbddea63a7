// Distances that are the result of a call, from the scores of a row engine. Squared lengths that overflow say nothing
// of a distance: those of infinite and huge rows are computed from their differences. Only row/loss.cpp includes this.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "engine.h"

namespace fastssl {
namespace {

template <class T>
class Distances {
 public:
  explicit Distances(const RowEngine<T>& engine) : e(engine) {
    find_huge(e.x_square, e.n, x_huge);
    if (!e.p.same) find_huge(e.y_square, e.m, y_huge);
  }

  void score(const Strip<T>& t, int64_t j0, int64_t j1) const {
    e.rows.score[int(e.p.metric)](t, j0, j1);
    const int64_t i0 = t.i0 * kBlock, i1 = std::min(t.i1 * kBlock, e.n), last = std::min(j1 * kBlock, e.m);
    const auto correct = [&](int64_t i, int64_t j) {
      t.s[(i / kBlock - t.i0) * t.stride + (j - t.first) * kBlock + i % kBlock] = T(distance(t, i, j));
    };
    each(x_huge, i0, i1, [&](int64_t i) {
      for (int64_t j = j0 * kBlock; j < last; ++j) correct(i, j);
    });
    each(e.p.same ? x_huge : y_huge, j0 * kBlock, last, [&](int64_t j) {
      for (int64_t i = i0; i < i1; ++i) correct(i, j);
    });
  }
  void score(const Strip<T>& t) const {
    e.for_each_chunk(t, [&](int64_t, int64_t j0, int64_t j1) { score(t, j0, j1); });
  }

 private:
  using Rows = std::vector<int64_t>;
  const RowEngine<T>& e;
  Rows x_huge, y_huge;  // rows whose squared lengths, or four times these, overflow; in order

  static void find_huge(const Buffer<T>& square, int64_t count, Rows& huge) {
    for (int64_t i = 0; square.data() && i < count; ++i)
      if (square[i] > std::numeric_limits<T>::max() / 4) huge.push_back(i);
  }
  template <class F>
  static void each(const Rows& huge, int64_t from, int64_t to, F&& f) {
    for (auto at = std::lower_bound(huge.begin(), huge.end(), from); at != huge.end() && *at < to; ++at) f(*at);
  }
  // Of row i of x and row j of y, from their differences in units of the largest.
  double distance(const Strip<T>& t, int64_t i, int64_t j) const {
    const T* x = static_cast<const T*>(t.x.rows) + (i / kBlock * e.depth_blocks * kBlock + i % kBlock) * kBlock;
    const T* y = static_cast<const T*>(t.y.rows) + (j / kBlock * e.depth_blocks * kBlock + j % kBlock) * kBlock;
    const auto difference = [&](int64_t d) {
      const int64_t at = d / kBlock * kArea + d % kBlock;
      return double(x[at]) - double(y[at]);
    };
    double largest = 0, sum = 0;
    for (int64_t d = 0; d < e.depth; ++d) largest = std::max(largest, std::abs(difference(d)));
    const double unit = largest > 0 && std::isfinite(largest) ? largest : 1.0;
    for (int64_t d = 0; d < e.depth; ++d) sum += difference(d) / unit * (difference(d) / unit);
    return e.p.metric == Metric::euclidean ? std::sqrt(sum) * unit : sum * unit * unit;
  }
};

}  // namespace
}  // namespace fastssl

// Scores of a strip (up to 256 rows of x against many of y) under any metric, and the products of its gradient.
#pragma once
#include <optional>
#include <vector>

#include "pair/backward.h"
#include "task.h"
namespace fastssl {
namespace FASTSSL_ISA {

// Metrics that are no product: the micro-kernel's loop with another step.
template <class T>
struct SumOfDifferences : Plain<T> {
  static FASTSSL_INLINE Vec<T> mac(Vec<T> acc, T a, Vec<T> b) { return acc + magnitude<T>(b - a); }
};
template <class T>
struct LargestDifference : Plain<T> {
  static FASTSSL_INLINE Vec<T> mac(Vec<T> acc, T a, Vec<T> b) {
    // As integers, of which NaN has the largest: it stays.
    const Vec<T> d = magnitude<T>(b - a);
    return IVec<T>(d) > IVec<T>(acc) ? d : acc;
  }
};

template <class T>
FASTSSL_INLINE Vec<T> root(Vec<T> x) {  // one instruction: compiled with -fno-math-errno
  Vec<T> y;
  for (int i = 0; i < kWidth<T>; ++i) {
    if constexpr (sizeof(T) == 4) {
      y[i] = __builtin_sqrtf(x[i]);
    } else {
      y[i] = __builtin_sqrt(x[i]);
    }
  }
  return y;
}

// Row r of a blocked operand: its features lie in runs of 32, a depth block apart.
template <class T>
FASTSSL_INLINE const T* blocked_row(const Operand& x, int64_t row) {
  const int64_t depth_blocks = (x.depth + kBlock - 1) / kBlock;
  return static_cast<const T*>(x.rows) + (row / kBlock * depth_blocks * kBlock + row % kBlock) * kBlock;
}

// |x|^2 + |y|^2 - 2 x.y loses the digits of small distances: pairs this close are computed from their difference.
constexpr double kNear = 1.0 / 64;
// More of them in a block than this: the block is multiplied again, relative to one of its rows.
constexpr int kManyNear = 128;

// Squared distances of pairs [row of y][lane] of a block from their differences, some side by side.
template <class T>
FASTSSL_INLINE void squared_differences(const Strip<T>& t, int64_t ib, int64_t jb, const int32_t* pairs, int count,
                                        T* out) {
  constexpr int kBV = kBlockVectors<T>, kPairs = kBV < 8 ? 8 / kBV : 1;
  const T* x = blocked_row<T>(t.x, ib * kBlock);
  const T* y = blocked_row<T>(t.y, jb * kBlock);
  const auto some = [&](auto number, int first) __attribute__((always_inline)) {
    constexpr int N = decltype(number)::value;
    const T *a[N], *b[N];
    Vec<T> sum[N][kBV];
#pragma GCC unroll 4
    for (int p = 0; p < N; ++p) {
      a[p] = x + pairs[first + p] % kBlock * kBlock;
      b[p] = y + pairs[first + p] / kBlock * kBlock;
#pragma GCC unroll 8
      for (int v = 0; v < kBV; ++v) sum[p][v] = Vec<T>{};
    }
    for (int64_t k = 0; k < t.x.depth; k += kBlock) {
#pragma GCC unroll 4
      for (int p = 0; p < N; ++p)
#pragma GCC unroll 8
        for (int v = 0; v < kBV; ++v) {
          const int64_t at = k * kBlock + v * kWidth<T>;
          const Vec<T> d = load<T>(a[p] + at) - load<T>(b[p] + at);  // padding is zero on both sides
          sum[p][v] += d * d;
        }
    }
#pragma GCC unroll 4
    for (int p = 0; p < N; ++p) {
#pragma GCC unroll 3
      for (int half = kBV / 2; half > 0; half /= 2)
#pragma GCC unroll 4
        for (int v = 0; v < half; ++v) sum[p][v] += sum[p][v + half];
      out[first + p] = hsum<T>(sum[p][0]);
    }
  };
  int first = 0;
  for (; first + kPairs <= count; first += kPairs) some(Rows<kPairs>{}, first);
  for (; first < count; ++first) some(Rows<1>{}, first);
}

// From products to distances, given the squared lengths. Returns how many pairs of the block are near; gives up above
// kManyNear unless it has to do the `whole` block.
template <class T, Metric kMetric>
FASTSSL_INLINE int finish_distances(const Strip<T>& t, int64_t ib, int64_t jb, T* s, const T* x_square,
                                    const T* y_square, bool whole) {
  int32_t near[kBlock * kBlock + kBlock];
  int found = 0;
  for (int r = 0; r < kBlock; ++r)
    for (int v = 0; v < kBlockVectors<T>; ++v) {
      T* at = s + r * kBlock + v * kWidth<T>;
      const Vec<T> sum = load<T>(x_square + v * kWidth<T>) + y_square[r];
      const Vec<T> d = sum - T(2) * load<T>(at);
      store<T>(at, kMetric == Metric::euclidean ? root<T>(d) : d);
      // (Infinite rows are at an unknown distance, NaN, also of each other: in losses they show. Where the distances
      // are the result, distances.h has them.)
      if (const uint32_t bits = bits_of<T>(d < sum * T(kNear)); __builtin_expect(bits != 0, 0)) {
        found += expand_bits(bits, r * int32_t(kBlock) + v * kWidth<T>, near + found);
        if (found > kManyNear && !whole) return found;
      }
    }
  if (__builtin_expect(found > 0, 0)) {
    T exact[kBlock * kBlock];
    squared_differences(t, ib, jb, near, found, exact);
    if (kMetric == Metric::euclidean)
      for (int p = 0; p < found; p += kWidth<T>) store<T>(exact + p, root<T>(load<T>(exact + p)));
    for (int p = 0; p < found; ++p) {
      const int64_t i = ib * kBlock + near[p] % kBlock, j = jb * kBlock + near[p] / kBlock;
      s[near[p]] = i < t.x.n && j < t.y.n && !(t.same && i == j) ? exact[p] : T(0);
    }
  }
  return found;
}

// Two blocks of rows relative to a row of the block of x, the first that is finite: the distances are the same, and
// those of rows that all lie close together (a model that has collapsed) keep their digits in a product.
template <class T>
struct CentredBlocks {
  const int64_t depth, depth_blocks;
  std::vector<T> centre, lanes, rows;
  T x_square[kBlock], y_square[kBlock];
  const T* x = nullptr;  // the block whose lanes these are

  explicit CentredBlocks(int64_t features)
      : depth(features),
        depth_blocks((features + kBlock - 1) / kBlock),
        centre(size_t(depth_blocks * kBlock), T(0)),
        lanes(size_t(depth * kBlock)),
        rows(size_t(depth_blocks * kBlock * kBlock)) {}

  void take_x(const T* x_lanes, const T* squares) {
    if (x == x_lanes) return;
    x = x_lanes;
    int64_t row = 0;
    while (row < kBlock && !(squares[row] - squares[row] == T(0))) ++row;
    row %= kBlock;
    Vec<T> sum[kBlockVectors<T>] = {};
    for (int64_t k = 0; k < depth; ++k) {
      const T c = centre[size_t(k)] = x_lanes[k * kBlock + row];
      for (int v = 0; v < kBlockVectors<T>; ++v) {
        const Vec<T> difference = load<T>(x_lanes + k * kBlock + v * kWidth<T>) - c;
        store<T>(lanes.data() + k * kBlock + v * kWidth<T>, difference);
        sum[v] += difference * difference;
      }
    }
    for (int v = 0; v < kBlockVectors<T>; ++v) store<T>(x_square + v * kWidth<T>, sum[v]);
  }
  void take_y(const T* y_rows) {
    for (int64_t r = 0; r < kBlock; ++r) {
      Vec<T> square[2] = {};
      for (int64_t db = 0; db < depth_blocks; ++db)
        for (int64_t k = 0; k < kBlock; k += kWidth<T>) {
          const int64_t at = (db * kBlock + r) * kBlock + k;
          const Vec<T> y = load<T>(y_rows + at) - load<T>(centre.data() + db * kBlock + k);
          store<T>(rows.data() + at, y);
          square[k / kWidth<T> % 2] += y * y;
        }
      y_square[r] = hsum<T>(square[0] + square[1]);
    }
  }
};

template <class T, Metric kMetric>
void score(const Strip<T>& t, int64_t j0, int64_t j1) {
  using K = std::conditional_t<kMetric == Metric::manhattan, SumOfDifferences<T>,
                               std::conditional_t<kMetric == Metric::chebyshev, LargestDifference<T>, Plain<T>>>;
  constexpr bool kSquares = kMetric == Metric::sqeuclidean || kMetric == Metric::euclidean;
  const int64_t depth = t.x.depth, depth_blocks = (depth + kBlock - 1) / kBlock;
  const auto products = [&](const T* a, const T* b, T* s) {
    for (int l = 0; l < kBlock; l += kLanes<T>) {
      for_row_groups([&](auto group, int r) __attribute__((always_inline)) {
        constexpr int R = decltype(group)::value;
        Micro<K, R> acc = {};
        multiply<K, 1, int(kBlock), R>(acc, a + r * kBlock, kBlock * kBlock, b + l, kBlock * kBlock, depth / kBlock,
                                       int(depth % kBlock));
        store_micro<K, R>(s + r * kBlock + l, acc);
      });
    }
  };
  std::optional<CentredBlocks<T>> centred;
  bool close = false;  // the last block was: this one is likely to be, too
  for (int64_t ib = t.i0; ib < t.i1; ++ib) {
    const T* b = static_cast<const T*>(t.x.lanes) + ib * depth * kBlock;
    const T* x_square = t.x_square + ib * kBlock;
    for (int64_t jb = j0; jb < j1; ++jb) {
      const T* a = static_cast<const T*>(t.y.rows) + jb * depth_blocks * kBlock * kBlock;
      T* s = t.s + (ib - t.i0) * t.stride + (jb * kBlock - t.first) * kBlock;
      if (!close) products(a, b, s);
      if constexpr (kSquares) {
        const T* y_square = t.y_square + jb * kBlock;
        if (!close && finish_distances<T, kMetric>(t, ib, jb, s, x_square, y_square, false) <= kManyNear) continue;
        if (!centred) centred.emplace(depth);
        centred->take_x(b, x_square);
        centred->take_y(a);
        products(centred->rows.data(), centred->lanes.data(), s);
        finish_distances<T, kMetric>(t, ib, jb, s, centred->x_square, centred->y_square, true);
        int near = 0;
        for (int64_t r = 0; r < kBlock && near <= kManyNear; ++r)
          for (int v = 0; v < kBlockVectors<T>; ++v) {
            const Vec<T> d = load<T>(s + r * kBlock + v * kWidth<T>);
            const Vec<T> limit = (load<T>(x_square + v * kWidth<T>) + y_square[r]) * T(kNear);
            near += __builtin_popcount(bits_of<T>((kMetric == Metric::euclidean ? d * d : d) < limit));
          }
        close = near > kManyNear;
      }
    }
  }
}

// dL/dx and dL/dy where scores are products, or distances whose weights were prepared by `weigh`. Losses with margins
// leave most weights 0: empty blocks are skipped.
template <class T>
void accumulate_products(const Strip<T>& t, int64_t j0, int64_t j1) {
  using K = Plain<T>;
  const int64_t depth_blocks = (t.x.depth + kBlock - 1) / kBlock, area = kBlock * kBlock, size = depth_blocks * area;
  const T *g = t.g - t.first * kBlock, *x = static_cast<const T*>(t.x.rows), *y = static_cast<const T*>(t.y.rows);
  TileBlocks blocks;
  for (int64_t i = 0; i < t.i1 - t.i0; ++i)
    for (int64_t j = 0; j < j1 - j0; ++j) {
      const T* row = g + i * t.stride + (j0 + j) * area;
      for (int64_t r = 0; r < kBlock; ++r, row += kBlock) {
        Vec<T> weights[kBlockVectors<T>];
        for (int v = 0; v < kBlockVectors<T>; ++v) weights[v] = load<T>(row + v * kWidth<T>);
        blocks.bits[i][j].row[r] = counted<T>(weights, [](int) { return T(0); });
      }
      blocks.close(i, j, true);
    }
  if (t.grad_x) {
    for (int64_t ib = t.i0; ib < t.i1; ++ib) {
      const int64_t i = ib - t.i0;
      for_each_run(blocks.dense[i], 1, j1 - j0, [&](int64_t first, int64_t count) {
        const int64_t jb = j0 + first;
        for (int64_t db = 0; db < depth_blocks; ++db)
          accumulate_block<K, int(kBlock), 1>(t.grad_x + (i * depth_blocks + db) * area, g + i * t.stride + jb * area,
                                              area, y + (jb * depth_blocks + db) * area, size, count);
      });
      for (int64_t jb = j0; jb < j1; ++jb)
        if (blocks.few[i][jb - j0])
          accumulate_few<T>(t.grad_x + i * size, y + jb * size, blocks.bits[i][jb - j0].transposed(),
                            g + i * t.stride + jb * area, 1, kBlock, depth_blocks);
    }
  }
  if (t.grad_y) {
    for (int64_t jb = j0; jb < j1; ++jb) {
      const int64_t j = jb - j0;
      for_each_run(&blocks.dense[0][j], kMaxTileBlocks, t.i1 - t.i0, [&](int64_t first, int64_t count) {
        for (int64_t db = 0; db < depth_blocks; ++db)
          accumulate_block<K, 1, K::kRun>(t.grad_y + (jb * depth_blocks + db) * area, g + first * t.stride + jb * area,
                                          t.stride, x + ((t.i0 + first) * depth_blocks + db) * area, size, count);
      });
      for (int64_t i = 0; i < t.i1 - t.i0; ++i)
        if (blocks.few[i][j])
          accumulate_few<T>(t.grad_y + jb * size, x + (t.i0 + i) * size, blocks.bits[i][j],
                            g + i * t.stride + jb * area, kBlock, 1, depth_blocks);
    }
  }
}

// The same where the gradient of a pair is g times a sign: of every difference, or of those equal to the largest.
template <class T, bool kLargest>
void accumulate_signs(const Strip<T>& t, int64_t j0, int64_t j1) {
  const int64_t depth_blocks = (t.x.depth + kBlock - 1) / kBlock;
  for (int64_t ib = t.i0; ib < t.i1; ++ib) {
    for (int64_t db = 0; db < depth_blocks; ++db) {
      const int64_t features = t.x.depth - db * kBlock < kBlock ? t.x.depth - db * kBlock : kBlock;
      const T* x = static_cast<const T*>(t.x.rows) + (ib * depth_blocks + db) * kBlock * kBlock;
      T* gx = t.grad_x ? t.grad_x + ((ib - t.i0) * depth_blocks + db) * kBlock * kBlock : nullptr;
      for (int64_t jb = j0; jb < j1; ++jb) {
        const T* y = static_cast<const T*>(t.y.rows) + (jb * depth_blocks + db) * kBlock * kBlock;
        T* gy = t.grad_y ? t.grad_y + (jb * depth_blocks + db) * kBlock * kBlock : nullptr;
        const int64_t at = (ib - t.i0) * t.stride + (jb * kBlock - t.first) * kBlock;
        for (int64_t j = 0; j < kBlock && jb * kBlock + j < t.y.n; ++j)
          for (int64_t i = 0; i < kBlock && ib * kBlock + i < t.x.n; ++i) {
            const T g = t.g[at + j * kBlock + i], d = kLargest ? t.s[at + j * kBlock + i] : T(0);
            if (g == T(0)) continue;
            for (int64_t k = 0; k < features; k += kWidth<T>) {
              const Vec<T> difference = load<T>(x + i * kBlock + k) - load<T>(y + j * kBlock + k);
              Vec<T> value = difference > T(0) ? splat<T>(g) : (difference < T(0) ? splat<T>(-g) : Vec<T>{});
              if (kLargest) value = magnitude<T>(difference) == d ? value : Vec<T>{};
              if (gx) store<T>(gx + i * kBlock + k, load<T>(gx + i * kBlock + k) + value);
              if (gy) store<T>(gy + j * kBlock + k, load<T>(gy + j * kBlock + k) - value);
            }
          }
      }
    }
  }
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

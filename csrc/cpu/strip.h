// Scores of a strip (up to 256 rows of x against many of y) under any metric, and the products of its gradient.
#pragma once
#include "backward.h"
#include "rows.h"
#ifdef FASTSSL_X86
#include <immintrin.h>
#endif

namespace fastssl {
namespace FASTSSL_ISA {

template <class T>
FASTSSL_INLINE Vec<T> absolute(Vec<T> x) {
  return x < T(0) ? -x : x;
}

// Metrics that are no product: the micro-kernel's loop with another step.
template <class T>
struct SumOfDifferences : Plain<T> {
  static FASTSSL_INLINE Vec<T> mac(Vec<T> acc, T a, Vec<T> b) { return acc + absolute<T>(b - a); }
};
template <class T>
struct LargestDifference : Plain<T> {
  static FASTSSL_INLINE Vec<T> mac(Vec<T> acc, T a, Vec<T> b) {
    const Vec<T> d = absolute<T>(b - a);
    return d <= acc ? acc : d;  // NaN stays
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

template <class T>
FASTSSL_INLINE bool any(IVec<T> mask) {
#if defined(FASTSSL_X86) && defined(__AVX512F__)
  if constexpr (kVectorBytes == 64) return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(FASTSSL_X86) && defined(__AVX2__)
  if constexpr (kVectorBytes == 32) return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#elif defined(FASTSSL_X86)
  if constexpr (kVectorBytes == 16) return _mm_movemask_epi8((__m128i)mask) != 0;
#endif
  decltype(mask[0] + 0) bits = 0;
  for (int i = 0; i < kWidth<T>; ++i) bits |= mask[i];
  return bits != 0;
}

// Row r of a blocked operand: its features lie in runs of 32, a depth block apart.
template <class T>
FASTSSL_INLINE const T* blocked_row(const Operand& x, int64_t row) {
  const int64_t depth_blocks = (x.depth + kBlock - 1) / kBlock;
  return static_cast<const T*>(x.rows) + (row / kBlock * depth_blocks * kBlock + row % kBlock) * kBlock;
}
template <class T>
T squared_difference(const Strip<T>& t, int64_t i, int64_t j) {
  const T* a = blocked_row<T>(t.x, i);
  const T* b = blocked_row<T>(t.y, j);
  T sum[kBlock] = {};
  for (int64_t k = 0; k < t.x.depth; k += kBlock, a += kBlock * kBlock, b += kBlock * kBlock)
    for (int64_t q = 0; q < kBlock; ++q) sum[q] += (a[q] - b[q]) * (a[q] - b[q]);  // padding is zero on both sides
  T total = 0;
  for (T v : sum) total += v;
  return total;
}

// |x|^2 + |y|^2 - 2 x.y loses the digits of small distances: pairs this close are computed from their difference.
constexpr double kNear = 1.0 / 64;

template <class T, Metric kMetric>
FASTSSL_INLINE void finish_block(const Strip<T>& t, int64_t ib, int64_t jb, T* s) {
  if constexpr (kMetric == Metric::sqeuclidean || kMetric == Metric::euclidean) {
    for (int64_t r = 0; r < kBlock; ++r, s += kBlock) {
      const int64_t j = jb * kBlock + r;
      for (int v = 0; v < kBlockVectors<T>; ++v) {
        const Vec<T> sum = load<T>(t.x_square + ib * kBlock + v * kWidth<T>) + t.y_square[j];
        Vec<T> d = sum - T(2) * load<T>(s + v * kWidth<T>);
        const IVec<T> near = d < sum * T(kNear);
        if (__builtin_expect(any<T>(near), 0)) {
          for (int w = 0; w < kWidth<T>; ++w) {
            const int64_t i = ib * kBlock + v * kWidth<T> + w;
            if (near[w]) d[w] = i < t.x.n && j < t.y.n && !(t.same && i == j) ? squared_difference(t, i, j) : T(0);
          }
        }
        store<T>(s + v * kWidth<T>, kMetric == Metric::euclidean ? root<T>(d) : d);
      }
    }
  }
}

template <class T, Metric kMetric>
void score(const Strip<T>& t, int64_t j0, int64_t j1) {
  using K = std::conditional_t<kMetric == Metric::manhattan, SumOfDifferences<T>,
                               std::conditional_t<kMetric == Metric::chebyshev, LargestDifference<T>, Plain<T>>>;
  const int64_t depth = t.x.depth, depth_blocks = (depth + kBlock - 1) / kBlock;
  for (int64_t ib = t.i0; ib < t.i1; ++ib) {
    const T* b = static_cast<const T*>(t.x.lanes) + ib * depth * kBlock;
    for (int64_t jb = j0; jb < j1; ++jb) {
      const T* a = static_cast<const T*>(t.y.rows) + jb * depth_blocks * kBlock * kBlock;
      T* s = t.s + (ib - t.i0) * t.stride + (jb * kBlock - t.first) * kBlock;
      for (int l = 0; l < kBlock; l += kLanes<T>) {
        for_row_groups([&](auto rows, int r) __attribute__((always_inline)) {
          constexpr int R = decltype(rows)::value;
          Micro<K, R> acc = {};
          multiply<K, 1, int(kBlock), R>(acc, a + r * kBlock, kBlock * kBlock, b + l, kBlock * kBlock, depth / kBlock,
                                         int(depth % kBlock));
          for (int q = 0; q < R; ++q)
            for (int v = 0; v < kVectors; ++v) store<T>(s + (r + q) * kBlock + l + v * kWidth<T>, acc[q][v]);
        });
      }
      finish_block<T, kMetric>(t, ib, jb, s);
    }
  }
}

// dL/dx and dL/dy where scores are products, or distances whose weights were prepared by `weigh`. Losses with margins
// leave most weights 0: empty blocks are skipped.
template <class T>
void accumulate_products(const Strip<T>& t, int64_t j0, int64_t j1) {
  using K = Plain<T>;
  const int64_t depth_blocks = (t.x.depth + kBlock - 1) / kBlock, area = kBlock * kBlock;
  const T* g = t.g - t.first * kBlock;
  bool dense[kMaxTileBlocks][kMaxTileBlocks] = {};
  for (int64_t ib = t.i0; ib < t.i1; ++ib)
    for (int64_t jb = j0; jb < j1; ++jb) {
      const T* block = g + (ib - t.i0) * t.stride + jb * area;
      const int count = count_weights(block);
      dense[ib - t.i0][jb - j0] = count > kFewWeights;
      if (count == 0 || count > kFewWeights) continue;
      const int64_t size = depth_blocks * area;
      accumulate_few<T>(block, static_cast<const T*>(t.x.rows) + ib * size, static_cast<const T*>(t.y.rows) + jb * size,
                        t.grad_x ? t.grad_x + (ib - t.i0) * size : nullptr, t.grad_y ? t.grad_y + jb * size : nullptr,
                        depth_blocks);
    }
  if (t.grad_x) {
    for (int64_t ib = t.i0; ib < t.i1; ++ib)
      for_each_run(dense[ib - t.i0], 1, j1 - j0, [&](int64_t first, int64_t count) {
        const int64_t jb = j0 + first;
        for (int64_t db = 0; db < depth_blocks; ++db)
          accumulate_block<K, int(kBlock), 1>(
              t.grad_x + ((ib - t.i0) * depth_blocks + db) * area, g + (ib - t.i0) * t.stride + jb * area, area,
              static_cast<const T*>(t.y.rows) + (jb * depth_blocks + db) * area, depth_blocks * area, count);
      });
  }
  if (t.grad_y) {
    for (int64_t jb = j0; jb < j1; ++jb)
      for_each_run(&dense[0][jb - j0], kMaxTileBlocks, t.i1 - t.i0, [&](int64_t first, int64_t count) {
        for (int64_t db = 0; db < depth_blocks; ++db)
          accumulate_block<K, 1, K::kRun>(t.grad_y + (jb * depth_blocks + db) * area, g + first * t.stride + jb * area,
                                          t.stride,
                                          static_cast<const T*>(t.x.rows) + ((t.i0 + first) * depth_blocks + db) * area,
                                          depth_blocks * area, count);
      });
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
              if (kLargest) value = absolute<T>(difference) == d ? value : Vec<T>{};
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

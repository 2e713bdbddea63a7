// The pair gradient: a kept or recomputed tile becomes G, and G is used at once for both operands.
#pragma once
#include "forward.h"

namespace fastssl {
namespace FASTSSL_ISA {

#ifdef __AVX512BF16__
FASTSSL_INLINE void store_natural_pairs(uint32_t* p, const Vec<float>* g) {  // [row][16 words of lane pairs]
  const __m512bh packed = _mm512_cvtne2ps_pbh((__m512)g[1], (__m512)g[0]);
  __builtin_memcpy(p, &packed, sizeof packed);
}
FASTSSL_INLINE void store_row_pairs(uint32_t* p, const Vec<float>* even, const Vec<float>* odd) {
  for (int v = 0; v < 2; ++v) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)even[v]));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)odd[v]));
    _mm512_storeu_si512(p + v * 16, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
}
#endif

// G of one row of one lane block.
template <class T, bool kScores>
FASTSSL_INLINE Vec<T> weigh(const Tile<T>& t, const Weights<T>& w, int64_t i, int64_t j, Vec<T> e) {
  if constexpr (kScores) {
    Vec<T> g = load<T>(w.lane_weight + i) * exp2v(e - load<T>(w.lane_lse + i));
    if (w.row_weight) g += w.row_weight[j] * exp2v(e - w.row_lse[j]);
    return g;
  } else {
    Vec<T> weight = load<T>(w.lane_weight + i);
    if (w.row_weight) weight += w.row_weight[j];
    return e * weight;
  }
}

template <class K, bool kScores>
void weigh_tile(const Tile<typename K::Acc>& t, const Weights<typename K::Acc>& w) {
  using T = typename K::Acc;
  constexpr int kW = kWidth<T>, kV = kBlockVectors<T>;
  const int64_t rows = (t.j1 - t.j0) * kBlock;
  if (w.row_total) clear_row_accumulators<T>(t, 0);
  for (int64_t ib = t.i0; ib < t.i1; ++ib) {
    const int64_t i = ib * kBlock;
    for (int64_t j = t.j0 * kBlock; j < row_end(t, ib) * kBlock; ++j) {
      const T* e = tile_row(t, ib, j);
      const int64_t row = (ib - t.i0) * rows + (j - t.j0 * kBlock);
      Vec<T> g[kV];
      for (int v = 0; v < kV; ++v) g[v] = weigh<T, kScores>(t, w, i + v * kW, j, load<T>(e + v * kW));
      if (w.row_total) {
        T* acc = row_accumulator(t, j);
        Vec<T> sum = g[0];
        for (int v = 1; v < kV; ++v) sum += g[v];
        store<T>(acc, load<T>(acc) + sum);
      }
      if constexpr (K::kPerWord == 1) {
        for (int v = 0; v < kV; ++v) store<T>(w.g + row * kBlock + v * kW, g[v]);
      }
#ifdef __AVX512BF16__
      if constexpr (K::kPerWord == 2) {
        // The operands are raw rows: each product carries the factor of the row it is multiplied with.
        Vec<float> next[2], lanes[2], odd[2];
        if (w.grad_y) {
          for (int v = 0; v < 2; ++v) lanes[v] = g[v] * load<float>(t.x.lane_factor + i + v * kW);
          store_natural_pairs(reinterpret_cast<uint32_t*>(w.g) + row * 16, lanes);
        }
        if (w.grad_x && j % 2 == 0) {
          for (int v = 0; v < 2; ++v) {
            next[v] = g[v] * t.y.lane_factor[j];
            odd[v] = weigh<T, kScores>(t, w, i + v * kW, j + 1, load<T>(e + kBlock + v * kW)) * t.y.lane_factor[j + 1];
          }
          store_row_pairs(static_cast<uint32_t*>(w.g_pairs) + row / 2 * kBlock, next, odd);
        }
      }
#endif
    }
  }
  for (int64_t j = t.j0 * kBlock; w.row_total && j < t.j1 * kBlock && j < t.y.n; ++j)
    w.row_total[j] += hsum<T>(load<T>(row_accumulator(t, j)));
}

template <class K, int kStrideK, int kStrideR>
FASTSSL_INLINE void accumulate_block(typename K::Acc* grad, const typename K::Word* a, int64_t a_step,
                                     const typename K::Word* b, int64_t b_step, int64_t runs) {
  using T = typename K::Acc;
  for (int l = 0; l < kBlock; l += kLanes<T>) {
    for_row_groups([&](auto rows, int r) __attribute__((always_inline)) {
      constexpr int R = decltype(rows)::value;
      // The sums are wanted when the products are done; they come from beyond L2 and nothing else asks for them early.
      for (int q = 0; q < R; ++q)
        for (int v = 0; v < kVectors; v += (64 / kVectorBytes > 1 ? 64 / kVectorBytes : 1))
          __builtin_prefetch(grad + (r + q) * kBlock + l + v * kWidth<T>, 1, 3);
      Micro<K, R> acc = {};
      multiply<K, kStrideK, kStrideR, R>(acc, a + r * kStrideR, a_step, b + l, b_step, runs, 0);
      for (int q = 0; q < R; ++q)
        for (int v = 0; v < kVectors; ++v) {
          T* p = grad + (r + q) * kBlock + l + v * kWidth<T>;
          store<T>(p, load<T>(p) + acc[q][v]);
        }
    });
  }
}

template <class K, bool kScores>
void backward(const Tile<typename K::Acc>& t, const Weights<typename K::Acc>& w) {
  using W = typename K::Word;
  weigh_tile<K, kScores>(t, w);
  constexpr int64_t kRunWords = K::kRun * kBlock;  // one 32 x 32 block in words
  const int64_t depth_blocks = (t.x.depth + kBlock - 1) / kBlock, rows = t.j1 - t.j0;
  if (w.grad_x) {
    const W* g = static_cast<const W*>(K::kPerWord == 2 ? w.g_pairs : static_cast<const void*>(w.g));
    for (int64_t ib = t.i0; ib < t.i1; ++ib)
      for (int64_t db = 0; db < depth_blocks; ++db)
        accumulate_block<K, int(kBlock), 1>(w.grad_x + (ib * depth_blocks + db) * kBlock * kBlock,
                                            g + (ib - t.i0) * rows * kRunWords, kRunWords,
                                            static_cast<const W*>(t.y.rows) + (t.j0 * depth_blocks + db) * kRunWords,
                                            depth_blocks * kRunWords, row_end(t, ib) - t.j0);
  }
  if (w.grad_y) {
    const W* g = reinterpret_cast<const W*>(w.g);
    for (int64_t jb = t.j0; jb < t.j1; ++jb) {
      const int64_t first = t.triangular ? jb + 1 : t.i0;  // the diagonal block went to grad_x whole
      if (first >= t.i1) continue;
      for (int64_t db = 0; db < depth_blocks; ++db)
        accumulate_block<K, 1, K::kRun>(w.grad_y + (jb * depth_blocks + db) * kBlock * kBlock,
                                        g + ((first - t.i0) * rows + (jb - t.j0)) * kRunWords, rows * kRunWords,
                                        static_cast<const W*>(t.x.rows) + (first * depth_blocks + db) * kRunWords,
                                        depth_blocks * kRunWords, t.i1 - first);
    }
  }
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

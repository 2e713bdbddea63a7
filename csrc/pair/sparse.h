// Blocks of few weights: which of them count, and their products, pair by pair.
#pragma once
#include <cstdint>
#include <limits>
#include <type_traits>

#include "simd/simd.h"
#include "tile.h"

namespace fastssl {
namespace FASTSSL_ISA {

// A block with at most this many of its 1,024 weights is cheaper pair by pair. Measured at 128 and 512 features with
// AVX2 and AVX-512: 64, 160 and 256 took 0.73, 0.69 and 0.68 of the time of dense blocks where 3 % of the weights
// count, 1.00, 0.90 and 0.82 where 10 % do.
constexpr int kFewWeights = 256;

template <class T>
FASTSSL_INLINE Vec<T> magnitude(Vec<T> x) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  return (Vec<T>)((IVec<T>)x & (IVec<T>{} + std::numeric_limits<Bits>::max()));  // of NaN too
}

// Which weights of a row of a block [row of y][32] count: those whose magnitude is above what floor(v) gives for a
// vector of lanes, that of the side that they are added to. NaN counts.
template <class T, class Floor>
FASTSSL_INLINE uint32_t counted(const Vec<T>* g, Floor&& floor) {
  uint32_t lanes = 0;
  for (int v = 0; v < kBlockVectors<T>; ++v) lanes |= bits_of<T>(~(magnitude<T>(g[v]) <= floor(v))) << (v * kWidth<T>);
  return lanes;
}
struct BlockBits {
  uint32_t row[kBlock];  // a bit per lane

  int total() const {
    int sum = 0;
    for (uint32_t bits : row) sum += __builtin_popcount(bits);
    return sum;
  }
  // A word per lane, a bit per row.
  BlockBits transposed() const {
    IVec<float> rows[kBlockVectors<float>];
    __builtin_memcpy(rows, row, sizeof rows);
    BlockBits t;
    for (int lane = 0; lane < int(kBlock); ++lane) {
      t.row[lane] = 0;
      for (int v = 0; v < kBlockVectors<float>; ++v)
        t.row[lane] |= bits_of<float>(rows[v] << (int(kBlock) - 1 - lane) < 0) << (v * kWidth<float>);
    }
    return t;
  }
};

// The products of one block of few weights, pair by pair: to_r += sum of w_rj from_j over the bits j of row r, where to
// and from are rows of blocked operands and w_rj is at weight[r * row_step + j * step]. Sums of several depth blocks at
// once stay in registers, and both operands' shares of them in the first cache.
template <class T>
void accumulate_few(T* to, const T* from, const BlockBits& chosen, const T* weight, int64_t row_step, int64_t step,
                    int64_t depth_blocks) {
  constexpr int64_t kArea = kBlock * kBlock;
  constexpr int kBlocks = kVectorBytes == 16 ? 1 : (kManyRegisters ? 4 : 2), kBV = kBlockVectors<T>;
  const auto add = [&](auto blocks, int64_t db) __attribute__((always_inline)) {
    constexpr int B = decltype(blocks)::value;
    for (int64_t r = 0; r < kBlock; ++r) {
      uint32_t bits = chosen.row[r];
      if (!bits) continue;
      T* out = to + db * kArea + r * kBlock;
      const T* w = weight + r * row_step;
      Vec<T> sum[B][kBV];
      for (int b = 0; b < B; ++b)
        for (int v = 0; v < kBV; ++v) sum[b][v] = load<T>(out + b * kArea + v * kWidth<T>);
      for (; bits; bits &= bits - 1) {
        const int j = __builtin_ctz(bits);
        const T* row = from + db * kArea + j * kBlock;
        const T factor = w[j * step];
        for (int b = 0; b < B; ++b)
          for (int v = 0; v < kBV; ++v) sum[b][v] += load<T>(row + b * kArea + v * kWidth<T>) * factor;
      }
      for (int b = 0; b < B; ++b)
        for (int v = 0; v < kBV; ++v) store<T>(out + b * kArea + v * kWidth<T>, sum[b][v]);
    }
  };
  int64_t db = 0;
  for (; db + kBlocks <= depth_blocks; db += kBlocks) add(Rows<kBlocks>{}, db);
  for (; db < depth_blocks; ++db) add(Rows<1>{}, db);
}

// What the blocks of a tile do for one side: nothing, some pairs, or the dense product.
struct TileBlocks {
  bool dense[kMaxTileBlocks][kMaxTileBlocks], few[kMaxTileBlocks][kMaxTileBlocks];
  BlockBits bits[kMaxTileBlocks][kMaxTileBlocks];

  void close(int64_t i, int64_t j, bool pairwise) {
    const int count = bits[i][j].total();
    few[i][j] = pairwise && count > 0 && count <= kFewWeights;
    dense[i][j] = count > 0 && !few[i][j];
  }
  void skip(int64_t i, int64_t j) { few[i][j] = dense[i][j] = false; }
};

}  // namespace FASTSSL_ISA
}  // namespace fastssl

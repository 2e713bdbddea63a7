// Packing: rows of any dtype and strides become blocks of 32, converted and L2-normalised on the way.
#pragma once
#include "read.h"
#include "tiles.h"

namespace fastssl {
namespace FASTSSL_ISA {

template <class T>
void pack(const Source* sources, int64_t n_sources, int64_t block, int64_t depth, double normalize, double factor,
          const Packed& out) {
  const int64_t depth_blocks = (depth + kBlock - 1) / kBlock;
  T* lanes = out.lanes ? static_cast<T*>(out.lanes) + block * depth * kBlock : nullptr;
  T* rows = out.rows ? static_cast<T*>(out.rows) + block * depth_blocks * kBlock * kBlock : nullptr;
  double inverse[kBlock] = {};
  for (int64_t r = 0; r < kBlock; ++r) {
    const Located at = locate(sources, n_sources, block * kBlock + r);
    if (!at.source) continue;
    double length = 1;
    with_reader(at.source->dtype, [&](auto read) { length = row_norm<decltype(read)>(*at.source, at.row, depth); });
    inverse[r] = normalize > 0 ? 1.0 / (length < normalize ? normalize : length) : 1.0;
    if (out.norm) out.norm[block * kBlock + r] = length;
    if (out.inverse_norm) out.inverse_norm[block * kBlock + r] = inverse[r];
  }
  alignas(64) T scaled[kBlock][kBlock], unused[kBlock];
  for (int64_t db = 0; db < depth_blocks; ++db) {
    const int64_t k0 = db * kBlock, k1 = k0 + kBlock < depth ? k0 + kBlock : depth;
    for (int64_t r = 0; r < kBlock; ++r) {
      T* row = rows ? rows + (db * kBlock + r) * kBlock : unused;
      const Located at = locate(sources, n_sources, block * kBlock + r);
      if (!at.source) {
        for (int64_t k = 0; k < kBlock; ++k) scaled[r][k] = row[k] = 0;
        continue;
      }
      with_reader(at.source->dtype, [&](auto read) __attribute__((always_inline)) {
        using Read = decltype(read);
        const auto* p = row_pointer<Read>(at);
        const int64_t stride = at.source->col_stride;
        for (int64_t k = 0; k < kBlock; k += 8) {
          const int64_t left = depth - k0 - k;
          const F64x8 v = stride == 1 && left >= 8 ? read_f64x8<Read>(p + k0 + k)
                                                   : read_f64x8<Read>(p + (k0 + k) * stride, stride, left);
          (v * inverse[r]).to(row + k);
          if (lanes) (v * (inverse[r] * factor)).to(scaled[r] + k);
        }
      });
    }
    for (int64_t k = k0; lanes && k < k1; ++k)
      for (int64_t r = 0; r < kBlock; r += kWidth<T>)
        store<T>(lanes + k * kBlock + r, gather(&scaled[r][k - k0], iota<T>() * kBlock));
  }
}

#ifdef FASTSSL_BF16_PAIRS
// A power of two that brings a row of this length near 1. Almost all rows are near enough: 1.
inline float power_to_unit(double length) {
  constexpr int kNear = 24;
  if (!(length > 0) || length == __builtin_inf()) return 1;
  const int exponent = __builtin_ilogb(length);
  return -kNear <= exponent && exponent <= kNear ? 1.0f : float(__builtin_ldexp(1.0, -exponent));
}

// bf16 rows stay as they are: products of raw values are exact, the factors join after the sum. Rows that are divided
// by their length may have any that bf16 can express, and their products must not leave fp32: an exact power of two.
template <class K>
void pack_bf16(const Source* sources, int64_t n_sources, int64_t block, int64_t depth, double normalize, double factor,
               const Packed& out) {
  constexpr int64_t kWords = kBlock / 2;  // of a row of 32 columns
  const int64_t runs = (depth + kBlock - 1) / kBlock;
  const int64_t lane_words = K::kTiles ? runs * kWords : (depth + 1) / 2;
  const auto part = [&](void* all, int64_t row) {
    return all ? static_cast<uint32_t*>(all) + block * row * kBlock : nullptr;
  };
  uint32_t *lanes = part(out.lanes, lane_words), *natural = part(out.natural, runs * kWords),
           *rows = part(out.rows, runs * kWords);
  float power[kBlock];
  for (int64_t r = 0; r < kBlock; ++r) {
    const Located at = locate(sources, n_sources, block * kBlock + r);
    if (out.lane_factor) out.lane_factor[block * kBlock + r] = 0;
    if (!at.source) continue;
    const double length = row_norm<ReadBf16>(*at.source, at.row, depth);
    const double inverse = normalize > 0 ? 1.0 / (length < normalize ? normalize : length) : 1.0;
    if (out.norm) out.norm[block * kBlock + r] = length;
    if (out.inverse_norm) out.inverse_norm[block * kBlock + r] = inverse;
    power[r] = normalize > 0 ? power_to_unit(length) : 1.0f;
    if (out.lane_factor) out.lane_factor[block * kBlock + r] = float(inverse * factor / power[r]);
  }
  alignas(64) uint16_t square[kBlock][kBlock];
  const auto* in = reinterpret_cast<const uint32_t*>(square);
  for (int64_t run = 0; run < runs; ++run) {
    const int64_t left = depth - run * kBlock < kBlock ? depth - run * kBlock : kBlock, to = run * kSquare;
    for (int64_t r = 0; r < kBlock; ++r) {
      const Located at = locate(sources, n_sources, block * kBlock + r);
      if (!at.source || left < kBlock) __builtin_memset(square[r], 0, sizeof square[r]);
      if (!at.source) continue;
      const int64_t stride = at.source->col_stride;
      const uint16_t* p = row_pointer<ReadBf16>(at) + run * kBlock * stride;
      if (stride == 1) {
        __builtin_memcpy(square[r], p, size_t(left) * sizeof *p);
      } else {
        for (int64_t k = 0; k < left; ++k) square[r][k] = p[k * stride];
      }
      for (int64_t k = 0; power[r] != 1 && k < left; ++k)
        square[r][k] = float_to_bf16(bf16_to_float(square[r][k]) * power[r]);
    }
    if (natural) __builtin_memcpy(natural + to, square, sizeof square);
    if constexpr (K::kTiles) {
      for (int64_t r = 0; lanes && r < kBlock; r += kWords)
        transpose_words<K>(in + r * kWords, kWords, lanes + to + r, kBlock);
    } else {
      for (int64_t w = 0; lanes && w < kWords && run * kWords + w < lane_words; ++w)
        for (int64_t r = 0; r < kBlock; ++r) lanes[to + w * kBlock + r] = in[r * kWords + w];
    }
    for (int64_t r = 0; rows && r < kWords; ++r)
      for (int64_t k = 0; k < kBlock; ++k)
        rows[to + r * kBlock + k] = square[2 * r][k] | uint32_t(square[2 * r + 1][k]) << 16;
  }
}
#endif

}  // namespace FASTSSL_ISA
}  // namespace fastssl

// Packing: rows of any dtype and strides become blocks of 32, converted and L2-normalised on the way.
#pragma once
#include "read.h"

namespace fastssl {
namespace FASTSSL_ISA {

template <class T>
void pack(const Source* sources, int64_t n_sources, int64_t block, int64_t depth, double normalize, double factor,
          void* lanes_out, void* rows_out, double* inverse_norm, double* norm, float*) {
  const int64_t depth_blocks = (depth + kBlock - 1) / kBlock;
  T* lanes = lanes_out ? static_cast<T*>(lanes_out) + block * depth * kBlock : nullptr;
  T* rows = rows_out ? static_cast<T*>(rows_out) + block * depth_blocks * kBlock * kBlock : nullptr;
  double inverse[kBlock] = {};
  for (int64_t r = 0; r < kBlock; ++r) {
    const Located at = locate(sources, n_sources, block * kBlock + r);
    if (!at.source) continue;
    double length = 1;
    with_reader(at.source->dtype, [&](auto read) { length = row_norm<decltype(read)>(*at.source, at.row, depth); });
    inverse[r] = normalize > 0 ? 1.0 / (length < normalize ? normalize : length) : 1.0;
    if (norm) norm[block * kBlock + r] = length;
    if (inverse_norm) inverse_norm[block * kBlock + r] = inverse[r];
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
// bf16 rows stay as they are: products of raw values are exact, the factors join after the sum.
inline void pack_bf16(const Source* sources, int64_t n_sources, int64_t block, int64_t depth, double normalize,
                      double factor, void* lanes_out, void* rows_out, double* inverse_norm, double* norm,
                      float* lane_factor) {
  const int64_t depth_blocks = (depth + kBlock - 1) / kBlock, words = (depth + 1) / 2;
  uint16_t* lanes = lanes_out ? static_cast<uint16_t*>(lanes_out) + block * words * kBlock * 2 : nullptr;
  uint16_t* rows = rows_out ? static_cast<uint16_t*>(rows_out) + block * depth_blocks * kBlock * kBlock : nullptr;
  if (rows) __builtin_memset(rows, 0, sizeof(uint16_t) * depth_blocks * kBlock * kBlock);
  if (lanes) __builtin_memset(lanes, 0, sizeof(uint16_t) * words * kBlock * 2);
  for (int64_t r = 0; r < kBlock; ++r) {
    const Located at = locate(sources, n_sources, block * kBlock + r);
    if (lane_factor) lane_factor[block * kBlock + r] = 0;
    if (!at.source) continue;
    const double length = row_norm<ReadBf16>(*at.source, at.row, depth);
    const double inverse = normalize > 0 ? 1.0 / (length < normalize ? normalize : length) : 1.0;
    if (norm) norm[block * kBlock + r] = length;
    if (inverse_norm) inverse_norm[block * kBlock + r] = inverse;
    if (lane_factor) lane_factor[block * kBlock + r] = float(inverse * factor);
    const uint16_t* p = static_cast<const uint16_t*>(at.source->data) + at.row * at.source->row_stride;
    for (int64_t k = 0; k < depth; ++k) {
      const uint16_t v = p[k * at.source->col_stride];
      if (lanes) lanes[(k / 2 * kBlock + r) * 2 + k % 2] = v;
      if (rows) rows[k / kBlock * kBlock * kBlock + (r / 2 * kBlock + k % kBlock) * 2 + r % 2] = v;
    }
  }
}
#endif

}  // namespace FASTSSL_ISA
}  // namespace fastssl

// The O(N D) end of a gradient: dense sums, sparse partners, scale, normalisation and the dtype of the result.
#pragma once
#include "simd/dot.h"
#include "tile.h"

namespace fastssl {
namespace FASTSSL_ISA {

// f(write), where write(k, eight values) stores a row of 16-bit, 32-bit or 64-bit numbers up to its end.
template <class F>
FASTSSL_INLINE void with_writer(void* out, DType dtype, int64_t row, int64_t depth, F&& f) {
  const auto writer = [=](auto* p, auto convert) __attribute__((always_inline)) {
    p += row * depth;
    return [=](int64_t k, const F64x8& v) __attribute__((always_inline)) {
      if constexpr (sizeof(*p) > 2)
        if (k + 8 <= depth) return v.to(p + k);
      double values[8];
      v.to(values);
      for (int64_t u = k; u < depth && u < k + 8; ++u) p[u] = convert(values[u - k]);
    };
  };
  switch (dtype) {
    case DType::f32: return f(writer(static_cast<float*>(out), [](double v) { return float(v); }));
    case DType::f64: return f(writer(static_cast<double*>(out), [](double v) { return v; }));
    case DType::f16: return f(writer(static_cast<uint16_t*>(out), [](double v) { return float_to_f16(float(v)); }));
    case DType::bf16: return f(writer(static_cast<uint16_t*>(out), [](double v) { return float_to_bf16(float(v)); }));
  }
}

template <class T>
void gradient_epilogue(const GradientEpilogue<T>& f, int64_t row, double* scratch) {
  double* g = scratch;
  double* x = scratch + epilogue_scratch(f.depth) / 2;
  const int64_t depth_blocks = (f.depth + kBlock - 1) / kBlock, block = row / kBlock, lane = row % kBlock;
  const double weight = f.dense_weight ? f.dense_weight[row] : 1.0;
  for (int64_t db = 0; db < depth_blocks; ++db) {
    const T* dense = f.dense ? f.dense + ((block * depth_blocks + db) * kBlock + lane) * kBlock : nullptr;
    for (int64_t k = 0; k < kBlock; k += 8) (dense ? F64x8::of(dense + k) * weight : F64x8()).to(g + db * kBlock + k);
  }
  const int64_t begin = f.partner_offset ? f.partner_offset[row] : row;
  const int64_t end = f.partner_offset ? f.partner_offset[row + 1] : (f.partner ? row + 1 : row);
  for (int64_t p = begin; p < end; ++p) {
    if (f.partner[p] < 0 || f.partner_weight[p] == 0) continue;
    const double inverse = f.partner_inverse_norm ? f.partner_inverse_norm[f.partner[p]] : 1.0;
    add_row(f.partner_sources, f.n_partner_sources, f.partner[p], f.partner_weight[p] * inverse, f.depth, g);
  }
  const Located at = locate(f.sources, f.n_sources, row);
  const double inverse = f.normalize > 0 ? f.inverse_norm[row] : 1.0;
  double along = 0;
  if (f.normalize > 0 || f.projection) {
    F64x8 sum;
    for_each_f64x8(at, f.depth, [&](int64_t k, F64x8 v) __attribute__((always_inline)) {
      v = v * inverse;
      v.to(x + k);
      sum = sum + v * F64x8::of(g + k);
    });
    along = sum.total();
    if (f.projection) f.projection[row] = along;
  }
  void* out = f.out[at.source - f.sources];
  if (!out) return;
  const bool narrow = at.source->dtype == DType::f16 || at.source->dtype == DType::bf16;
  with_writer(out, f.wide && narrow ? DType::f32 : at.source->dtype, at.row, f.depth,
              [&](auto write) __attribute__((always_inline)) {
                // d(x / |x|): the part along x does not count; where |x| is below `normalize` the norm is a constant.
                const bool straight = !(f.normalize > 0) || inverse >= 1.0 / f.normalize;
                const double factor = f.normalize > 0 ? f.scale * inverse : f.scale;
                for (int64_t k = 0; k < f.depth; k += 8) {
                  F64x8 v = F64x8::of(g + k);
                  if (!straight) v = v - F64x8::of(x + k) * along;
                  write(k, v * factor);
                }
              });
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

// The O(N D) parts: dot products of single pairs, sums of rows, and the end of the gradient.
#pragma once
#include "read.h"

namespace fastssl {
namespace FASTSSL_ISA {

// f(k, eight values) for k = 0, 8, ... of a row; those past its end are 0.
template <class F>
FASTSSL_INLINE void for_each_eight(const Located& at, int64_t depth, F&& f) {
  with_reader(at.source->dtype, [&](auto read) __attribute__((always_inline)) {
    using Read = decltype(read);
    const auto* p = row_pointer<Read>(at);
    const int64_t stride = at.source->col_stride;
    int64_t k = 0;
    if (stride == 1)
      for (; k + 8 <= depth; k += 8) f(k, eight<Read>(p + k));
    for (; k < depth; k += 8) f(k, eight<Read>(p + k * stride, stride, depth - k));
  });
}

inline double dot(const Source* a_sources, int64_t n_a, int64_t a, double a_inverse, const Source* b_sources,
                  int64_t n_b, int64_t b, double b_inverse, int64_t depth) {
  const Located at = locate(a_sources, n_a, a), other = locate(b_sources, n_b, b);
  Eight sum;
  with_reader(other.source->dtype, [&](auto read) __attribute__((always_inline)) {
    using Read = decltype(read);
    const auto* q = row_pointer<Read>(other);
    const int64_t stride = other.source->col_stride;
    for_each_eight(at, depth, [&](int64_t k, Eight v) __attribute__((always_inline)) {
      sum = sum +
            v * (stride == 1 && k + 8 <= depth ? eight<Read>(q + k) : eight<Read>(q + k * stride, stride, depth - k));
    });
  });
  return sum.total() * a_inverse * b_inverse;
}

inline void add_row(const Source* sources, int64_t n_sources, int64_t row, double weight, int64_t depth, double* sum) {
  for_each_eight(locate(sources, n_sources, row), depth, [&](int64_t k, Eight v) __attribute__((always_inline)) {
    if (k + 8 <= depth) {
      (Eight::of(sum + k) + v * weight).to(sum + k);
    } else {
      double values[8];
      v.to(values);
      for (int64_t u = k; u < depth; ++u) sum[u] += weight * values[u - k];
    }
  });
}

inline double dot_row(const Source* sources, int64_t n_sources, int64_t row, double inverse, int64_t depth,
                      const double* vector) {
  Eight sum;
  for_each_eight(locate(sources, n_sources, row), depth, [&](int64_t k, Eight v) __attribute__((always_inline)) {
    sum = sum + v * (k + 8 <= depth ? Eight::of(vector + k) : eight<ReadF64>(vector + k, 1, depth - k));
  });
  return sum.total() * inverse;
}

// f(write), where write(k, eight values) stores a row of 16-bit, 32-bit or 64-bit numbers up to its end.
template <class F>
FASTSSL_INLINE void with_writer(void* out, DType dtype, int64_t row, int64_t depth, F&& f) {
  const auto writer = [=](auto* p, auto convert) __attribute__((always_inline)) {
    p += row * depth;
    return [=](int64_t k, const Eight& v) __attribute__((always_inline)) {
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
void finish(const Finish<T>& f, int64_t row, double* scratch) {
  double* g = scratch;
  double* x = scratch + finish_scratch(f.depth) / 2;
  const int64_t depth_blocks = (f.depth + kBlock - 1) / kBlock, block = row / kBlock, lane = row % kBlock;
  const double weight = f.dense_weight ? f.dense_weight[row] : 1.0;
  for (int64_t db = 0; db < depth_blocks; ++db) {
    const T* dense = f.dense ? f.dense + ((block * depth_blocks + db) * kBlock + lane) * kBlock : nullptr;
    for (int64_t k = 0; k < kBlock; k += 8) (dense ? Eight::of(dense + k) * weight : Eight()).to(g + db * kBlock + k);
  }
  const int64_t begin = f.partner_offset ? f.partner_offset[row] : row;
  const int64_t end = f.partner_offset ? f.partner_offset[row + 1] : (f.partner ? row + 1 : row);
  for (int64_t p = begin; p < end; ++p) {
    if (f.partner[p] < 0 || f.partner_weight[p] == 0) continue;
    const double inverse = f.partner_inverse_norm ? f.partner_inverse_norm[f.partner[p]] : 1.0;
    add_row(f.partner_sources, f.n_partner_sources, f.partner[p], f.partner_weight[p] * inverse, f.depth, g);
  }
  const Located at = locate(f.sources, f.n_sources, row);
  const double inverse = f.normalize ? f.inverse_norm[row] : 1.0;
  double along = 0;
  if (f.normalize || f.projection) {
    Eight sum;
    for_each_eight(at, f.depth, [&](int64_t k, Eight v) __attribute__((always_inline)) {
      v = v * inverse;
      v.to(x + k);
      sum = sum + v * Eight::of(g + k);
    });
    along = sum.total();
    if (f.projection) f.projection[row] = along;
  }
  void* out = f.out[at.source - f.sources];
  if (!out) return;
  const bool narrow = at.source->dtype == DType::f16 || at.source->dtype == DType::bf16;
  with_writer(out, f.wide && narrow ? DType::f32 : at.source->dtype, at.row, f.depth,
              [&](auto write) __attribute__((always_inline)) {
                // d(x / |x|): the part along x does not count; where |x| < eps the norm is a constant.
                const bool straight = !f.normalize || inverse >= 1.0 / kNormEps;
                const double factor = f.normalize ? f.scale * inverse : f.scale;
                for (int64_t k = 0; k < f.depth; k += 8) {
                  Eight v = Eight::of(g + k);
                  if (!straight) v = v - Eight::of(x + k) * along;
                  write(k, v * factor);
                }
              });
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

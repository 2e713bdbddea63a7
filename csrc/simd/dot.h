// Dot products of single rows and sums of rows, in double precision.
#pragma once
#include "read.h"

namespace fastssl {
namespace FASTSSL_ISA {

// f(k, eight values) for k = 0, 8, ... of a row; those past its end are 0.
template <class F>
FASTSSL_INLINE void for_each_f64x8(const Located& at, int64_t depth, F&& f) {
  with_reader(at.source->dtype, [&](auto read) __attribute__((always_inline)) {
    using Read = decltype(read);
    const auto* p = row_pointer<Read>(at);
    const int64_t stride = at.source->col_stride;
    int64_t k = 0;
    if (stride == 1)
      for (; k + 8 <= depth; k += 8) f(k, read_f64x8<Read>(p + k));
    for (; k < depth; k += 8) f(k, read_f64x8<Read>(p + k * stride, stride, depth - k));
  });
}

inline double dot(const Source* a_sources, int64_t n_a, int64_t a, double a_inverse, const Source* b_sources,
                  int64_t n_b, int64_t b, double b_inverse, int64_t depth) {
  const Located at = locate(a_sources, n_a, a), other = locate(b_sources, n_b, b);
  F64x8 sum;
  with_reader(other.source->dtype, [&](auto read) __attribute__((always_inline)) {
    using Read = decltype(read);
    const auto* q = row_pointer<Read>(other);
    const int64_t stride = other.source->col_stride;
    for_each_f64x8(at, depth, [&](int64_t k, F64x8 v) __attribute__((always_inline)) {
      sum = sum + v * (stride == 1 && k + 8 <= depth ? read_f64x8<Read>(q + k)
                                                     : read_f64x8<Read>(q + k * stride, stride, depth - k));
    });
  });
  return sum.total() * a_inverse * b_inverse;
}

inline void add_row(const Source* sources, int64_t n_sources, int64_t row, double weight, int64_t depth, double* sum) {
  for_each_f64x8(locate(sources, n_sources, row), depth, [&](int64_t k, F64x8 v) __attribute__((always_inline)) {
    if (k + 8 <= depth) {
      (F64x8::of(sum + k) + v * weight).to(sum + k);
    } else {
      double values[8];
      v.to(values);
      for (int64_t u = k; u < depth; ++u) sum[u] += weight * values[u - k];
    }
  });
}

inline double dot_row(const Source* sources, int64_t n_sources, int64_t row, double inverse, int64_t depth,
                      const double* vector) {
  F64x8 sum;
  for_each_f64x8(locate(sources, n_sources, row), depth, [&](int64_t k, F64x8 v) __attribute__((always_inline)) {
    sum = sum + v * (k + 8 <= depth ? F64x8::of(vector + k) : read_f64x8<ReadF64>(vector + k, 1, depth - k));
  });
  return sum.total() * inverse;
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

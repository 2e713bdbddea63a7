// The O(N D) parts: dot products of single pairs, sums of rows, and the end of the gradient.
#pragma once
#include "pack.h"

namespace fastssl {
namespace FASTSSL_ISA {

template <class Read>
FASTSSL_INLINE const typename Read::Raw* row_pointer(const Located& at) {
  return static_cast<const typename Read::Raw*>(at.source->data) + at.row * at.source->row_stride;
}

// f(k, value) for every feature of a row. The unit stride is a loop of its own so that it vectorises.
template <class F>
FASTSSL_INLINE void for_each_value(const Located& at, int64_t depth, F&& f) {
  with_reader(at.source->dtype, [&](auto read) __attribute__((always_inline)) {
    using Read = decltype(read);
    const auto* p = row_pointer<Read>(at);
    if (at.source->col_stride == 1) {
      for (int64_t k = 0; k < depth; ++k) f(k, double(Read::value(p[k])));
    } else {
      for (int64_t k = 0; k < depth; ++k) f(k, double(Read::value(p[k * at.source->col_stride])));
    }
  });
}

// Sum of term(k): eight chains hide the latency of additions and fix their order.
template <class F>
FASTSSL_INLINE double sum_over(int64_t depth, F&& term) {
  double sum[8] = {};
  int64_t k = 0;
  for (; k + 8 <= depth; k += 8)
    for (int u = 0; u < 8; ++u) sum[u] += term(k + u);
  for (; k < depth; ++k) sum[0] += term(k);
  double total = 0;
  for (double s : sum) total += s;
  return total;
}

// Sum over features of a row times what other(k) gives.
template <class F>
FASTSSL_INLINE double dot_with(const Located& at, int64_t depth, F&& other) {
  double total = 0;
  with_reader(at.source->dtype, [&](auto read) __attribute__((always_inline)) {
    using Read = decltype(read);
    const auto* p = row_pointer<Read>(at);
    const int64_t stride = at.source->col_stride;
    total = stride == 1 ? sum_over(depth, [&](int64_t k) { return double(Read::value(p[k])) * other(k); })
                        : sum_over(depth, [&](int64_t k) { return double(Read::value(p[k * stride])) * other(k); });
  });
  return total;
}

inline double dot(const Source* a_sources, int64_t n_a, int64_t a, double a_inverse, const Source* b_sources,
                  int64_t n_b, int64_t b, double b_inverse, int64_t depth) {
  const Located other = locate(b_sources, n_b, b);
  double total = 0;
  with_reader(other.source->dtype, [&](auto read) __attribute__((always_inline)) {
    using Read = decltype(read);
    const auto* q = row_pointer<Read>(other);
    const int64_t stride = other.source->col_stride;
    const Located at = locate(a_sources, n_a, a);
    total = stride == 1 ? dot_with(at, depth, [&](int64_t k) { return double(Read::value(q[k])); })
                        : dot_with(at, depth, [&](int64_t k) { return double(Read::value(q[k * stride])); });
  });
  return total * a_inverse * b_inverse;
}

inline void add_row(const Source* sources, int64_t n_sources, int64_t row, double weight, int64_t depth, double* sum) {
  for_each_value(locate(sources, n_sources, row), depth,
                 [&](int64_t k, double v) __attribute__((always_inline)) { sum[k] += weight * v; });
}

inline double dot_row(const Source* sources, int64_t n_sources, int64_t row, double inverse, int64_t depth,
                      const double* vector) {
  return dot_with(locate(sources, n_sources, row), depth, [&](int64_t k) { return vector[k]; }) * inverse;
}

inline void write_row(void* out, DType dtype, int64_t row, int64_t depth, const double* g) {
  const int64_t first = row * depth;
  switch (dtype) {
    case DType::f32:
      for (int64_t k = 0; k < depth; ++k) static_cast<float*>(out)[first + k] = float(g[k]);
      break;
    case DType::f64:
      for (int64_t k = 0; k < depth; ++k) static_cast<double*>(out)[first + k] = g[k];
      break;
    case DType::f16:
      for (int64_t k = 0; k < depth; ++k) static_cast<uint16_t*>(out)[first + k] = float_to_f16(float(g[k]));
      break;
    case DType::bf16:
      for (int64_t k = 0; k < depth; ++k) static_cast<uint16_t*>(out)[first + k] = float_to_bf16(float(g[k]));
      break;
  }
}

template <class T>
void finish(const Finish<T>& f, int64_t row, double* scratch) {
  double* g = scratch;
  double* x = scratch + f.depth;
  const int64_t depth_blocks = (f.depth + kBlock - 1) / kBlock, block = row / kBlock, lane = row % kBlock;
  const double weight = f.dense_weight ? f.dense_weight[row] : 1.0;
  for (int64_t db = 0; db < depth_blocks; ++db) {
    const int64_t k1 = (db + 1) * kBlock < f.depth ? kBlock : f.depth - db * kBlock;
    if (!f.dense) {
      for (int64_t k = 0; k < k1; ++k) g[db * kBlock + k] = 0;
      continue;
    }
    const T* dense = f.dense + ((block * depth_blocks + db) * kBlock + lane) * kBlock;
    for (int64_t k = 0; k < k1; ++k) g[db * kBlock + k] = double(dense[k]) * weight;
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
    for_each_value(at, f.depth, [&](int64_t k, double v) __attribute__((always_inline)) { x[k] = v * inverse; });
    along = sum_over(f.depth, [&](int64_t k) { return x[k] * g[k]; });
    if (f.projection) f.projection[row] = along;
  }
  void* out = f.out[at.source - f.sources];
  if (!out) return;
  if (f.normalize) {
    // d(x / |x|): the part along x does not count; where |x| < eps the norm is a constant.
    const bool clamped = inverse >= 1.0 / kNormEps;
    const double factor = f.scale * inverse;
    for (int64_t k = 0; k < f.depth; ++k) g[k] = factor * (clamped ? g[k] : g[k] - along * x[k]);
  } else {
    for (int64_t k = 0; k < f.depth; ++k) g[k] *= f.scale;
  }
  const bool narrow = at.source->dtype == DType::f16 || at.source->dtype == DType::bf16;
  write_row(out, f.wide && narrow ? DType::f32 : at.source->dtype, at.row, f.depth, g);
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

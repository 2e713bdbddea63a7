// Rows of any dtype and strides, read in double precision.
#pragma once
#include "core/half.h"
#include "simd.h"

namespace fastssl {
namespace FASTSSL_ISA {

struct ReadF32 {
  using Raw = float;
  static FASTSSL_INLINE float value(Raw x) { return x; }
};
struct ReadF64 {
  using Raw = double;
  static FASTSSL_INLINE double value(Raw x) { return x; }
};
struct ReadF16 {
  using Raw = uint16_t;
  static FASTSSL_INLINE float value(Raw x) { return f16_to_float(x); }
};
struct ReadBf16 {
  using Raw = uint16_t;
  static FASTSSL_INLINE float value(Raw x) { return bf16_to_float(x); }
};

// Rows in double precision, eight features at a time, in registers of this instruction set.
struct F64x8 {
  static constexpr int kParts = 8 / kWidth<double>;
  Vec<double> part[kParts] = {};

  template <class F>
  static FASTSSL_INLINE F64x8 made_by(F&& part) {
    F64x8 v;
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) v.part[i] = part(i);
    return v;
  }
  template <class T>
  static FASTSSL_INLINE F64x8 of(const T* p) {
    return made_by([&](int i) __attribute__((always_inline)) { return load_as<Vec<double>>(p + i * kWidth<double>); });
  }
  template <class T>
  FASTSSL_INLINE void to(T* p) const {
    typedef T Values __attribute__((vector_size(kWidth<double> * sizeof(T))));
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      const Values v = __builtin_convertvector(part[i], Values);
      __builtin_memcpy(p + i * kWidth<double>, &v, sizeof v);
    }
  }
  FASTSSL_INLINE double total() const {
    Vec<double> sum = part[0];
    for (int i = 1; i < kParts; ++i) sum += part[i];
    return hsum<double>(sum);
  }
  FASTSSL_INLINE F64x8 operator*(double c) const {
    return made_by([&](int i) __attribute__((always_inline)) { return part[i] * c; });
  }
  FASTSSL_INLINE F64x8 operator*(const F64x8& v) const {
    return made_by([&](int i) __attribute__((always_inline)) { return part[i] * v.part[i]; });
  }
  FASTSSL_INLINE F64x8 operator+(const F64x8& v) const {
    return made_by([&](int i) __attribute__((always_inline)) { return part[i] + v.part[i]; });
  }
  FASTSSL_INLINE F64x8 operator-(const F64x8& v) const {
    return made_by([&](int i) __attribute__((always_inline)) { return part[i] - v.part[i]; });
  }
};
template <class Read>
FASTSSL_INLINE F64x8 read_f64x8(const typename Read::Raw* p) {
  if constexpr (sizeof(typename Read::Raw) > 2) {
    return F64x8::of(p);
  } else {
    float values[8];
    for (int u = 0; u < 8; ++u) values[u] = Read::value(p[u]);
    return F64x8::of(values);
  }
}
// The same for rows of any stride, and for what is left of a row.
template <class Read>
FASTSSL_INLINE F64x8 read_f64x8(const typename Read::Raw* p, int64_t stride, int64_t left) {
  double values[8] = {};
  for (int64_t u = 0; u < 8 && u < left; ++u) values[u] = double(Read::value(p[u * stride]));
  return F64x8::of(values);
}

template <class Read>
double row_norm(const Source& s, int64_t row, int64_t depth) {
  const auto* p = static_cast<const typename Read::Raw*>(s.data) + row * s.row_stride;
  F64x8 sum;  // the same bits whatever the stride
  int64_t k = 0;
  if (s.col_stride == 1)
    for (; k + 8 <= depth; k += 8) {
      const F64x8 v = read_f64x8<Read>(p + k);
      sum = sum + v * v;
    }
  for (; k < depth; k += 8) {
    const F64x8 v = read_f64x8<Read>(p + k * s.col_stride, s.col_stride, depth - k);
    sum = sum + v * v;
  }
  return __builtin_sqrt(sum.total());
}

struct Located {
  const Source* source;
  int64_t row;
};
inline Located locate(const Source* sources, int64_t n_sources, int64_t row) {
  for (int64_t s = 0; s < n_sources; ++s) {
    if (row < sources[s].n) return {sources + s, row};
    row -= sources[s].n;
  }
  return {nullptr, 0};
}

template <class Read>
FASTSSL_INLINE const typename Read::Raw* row_pointer(const Located& at) {
  return static_cast<const typename Read::Raw*>(at.source->data) + at.row * at.source->row_stride;
}

template <class F>
FASTSSL_INLINE void with_reader(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f(ReadF32{});
    case DType::f64: return f(ReadF64{});
    case DType::f16: return f(ReadF16{});
    case DType::bf16: return f(ReadBf16{});
  }
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

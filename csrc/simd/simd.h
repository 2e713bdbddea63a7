// Vectors of the instruction set that this translation unit is compiled for, through the compilers'
// vector extension: the same source gives SSE2, AVX2, AVX-512 or NEON code.
#pragma once
#include <cstdint>
#ifdef FASTSSL_X86
#include <immintrin.h>
#endif
#ifdef FASTSSL_NEON
#include <arm_neon.h>
#endif

#include "core/types.h"

#ifndef FASTSSL_VECTOR_BYTES
#error "compile with -DFASTSSL_VECTOR_BYTES=16|32|64"
#endif

#define FASTSSL_INLINE inline __attribute__((always_inline))

namespace fastssl {
namespace FASTSSL_ISA {

constexpr int kVectorBytes = FASTSSL_VECTOR_BYTES;
// Micro-tiles: R broadcast rows times kVectors registers. Two multiply-adds a cycle that take four each want eight
// accumulators; with no more than that every hiccup shows. 16 registers hold 6 x 2 and 5 x 2, 32 registers 11 x 2 and
// 10 x 2, which also read the vectors of b less often than 8 x 2 (95 % of the peak instead of 92).
#ifdef FASTSSL_NEON
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = kVectorBytes == 64;
#endif
constexpr int kVectors = 2;

template <int N>
struct Rows {
  static constexpr int value = N;
};
// f(Rows<R>, first row) for the groups that make up a block.
template <class F>
inline __attribute__((always_inline)) void for_row_groups(F&& f) {
  if constexpr (kManyRegisters) {
    for (int r = 0; r < 22; r += 11) f(Rows<11>{}, r);
    f(Rows<10>{}, 22);
  } else {
    for (int r = 0; r < 12; r += 6) f(Rows<6>{}, r);
    for (int r = 12; r < 32; r += 5) f(Rows<5>{}, r);
  }
}

template <class T>
struct VecTypes;
template <>
struct VecTypes<float> {
  typedef float V __attribute__((vector_size(kVectorBytes)));
  typedef int32_t I __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VecTypes<double> {
  typedef double V __attribute__((vector_size(kVectorBytes)));
  typedef int64_t I __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VecTypes<T>::V;
template <class T>
using IVec = typename VecTypes<T>::I;
template <class T>
constexpr int kWidth = kVectorBytes / int(sizeof(T));
template <class T>
constexpr int kLanes = kVectors * kWidth<T>;  // lanes of a micro-tile; divides kBlock
template <class T>
constexpr int kBlockVectors = int(kBlock) / kWidth<T>;

constexpr int kVectorsPerLine = kVectorBytes < 64 ? 64 / kVectorBytes : 1;

template <class T>
FASTSSL_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
FASTSSL_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
// A store past the caches, for what is read only after more than they hold. Other threads may read it when
// stream_end() has returned.
template <class T, class V>
FASTSSL_INLINE void stream(T* to, V v) {
#if FASTSSL_VECTOR_BYTES == 64
  if constexpr (sizeof(V) == 64)
    if (reinterpret_cast<uintptr_t>(to) % 64 == 0) return _mm512_stream_si512((__m512i*)to, (__m512i)v);
#elif FASTSSL_VECTOR_BYTES == 32
  if constexpr (sizeof(V) == 32)
    if (reinterpret_cast<uintptr_t>(to) % 32 == 0) return _mm256_stream_si256((__m256i*)to, (__m256i)v);
#endif
  __builtin_memcpy(to, &v, sizeof v);
}
FASTSSL_INLINE void stream_end() {
#if FASTSSL_VECTOR_BYTES > 16
  _mm_sfence();
#endif
}
// As many numbers as V has lanes, of another type.
template <class V, class From>
FASTSSL_INLINE V load_as(const From* p) {
  typedef From Values __attribute__((vector_size(sizeof(V) / sizeof(V{}[0]) * sizeof(From))));
  Values v;
  __builtin_memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, V);
}
template <class T>
FASTSSL_INLINE IVec<T> load_ids(const int32_t* p) {
  return load_as<IVec<T>>(p);
}
template <class T>
FASTSSL_INLINE void store_ids(int32_t* p, IVec<T> ids) {
  typedef int32_t Narrow __attribute__((vector_size(kWidth<T> * sizeof(int32_t))));
  const Narrow narrow = __builtin_convertvector(ids, Narrow);
  __builtin_memcpy(p, &narrow, sizeof narrow);
}
// base[index[i]] for every lane.
template <class T>
FASTSSL_INLINE Vec<T> gather(const T* base, IVec<T> index) {
#if FASTSSL_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_i32gather_ps((__m512i)index, base, 4);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_i64gather_pd((__m512i)index, base, 8);
#elif FASTSSL_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_i32gather_ps(base, (__m256i)index, 4);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm256_i64gather_pd(base, (__m256i)index, 8);
#endif
  Vec<T> v;
  for (int i = 0; i < kWidth<T>; ++i) v[i] = base[index[i]];
  return v;
}
template <class T>
FASTSSL_INLINE IVec<T> gather_ids(const int32_t* base, IVec<T> index) {
#if FASTSSL_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) return (IVec<T>)_mm512_i32gather_epi32((__m512i)index, base, 4);
#elif FASTSSL_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) return (IVec<T>)_mm256_i32gather_epi32(base, (__m256i)index, 4);
#endif
  IVec<T> v;
  for (int i = 0; i < kWidth<T>; ++i) v[i] = base[index[i]];
  return v;
}
// base[index[i]] = v[i] for every lane.
template <class T>
FASTSSL_INLINE void scatter(T* base, IVec<T> index, Vec<T> v) {
#if FASTSSL_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) return _mm512_i32scatter_ps(base, (__m512i)index, (__m512)v, 4);
  if constexpr (sizeof(T) == 8) return _mm512_i64scatter_pd(base, (__m512i)index, (__m512d)v, 8);
#endif
  for (int i = 0; i < kWidth<T>; ++i) base[index[i]] = v[i];
}
template <class T>
FASTSSL_INLINE Vec<T> splat(T x) {
  return Vec<T>{} + x;
}
template <class T>
FASTSSL_INLINE Vec<T> vmax(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}
template <class T>
FASTSSL_INLINE bool any(IVec<T> mask) {
#if defined(FASTSSL_X86) && defined(__AVX512F__)
  if constexpr (kVectorBytes == 64) return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(FASTSSL_X86) && defined(__AVX2__)
  if constexpr (kVectorBytes == 32) return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#elif defined(FASTSSL_X86)
  if constexpr (kVectorBytes == 16) return _mm_movemask_epi8((__m128i)mask) != 0;
#elif defined(FASTSSL_NEON)
  return vmaxvq_u32((uint32x4_t)mask) != 0;
#endif
  decltype(mask[0] + 0) bits = 0;
  for (int i = 0; i < kWidth<T>; ++i) bits |= mask[i];
  return bits != 0;
}

// One bit for every lane of a mask of all ones and zeros.
template <class T>
FASTSSL_INLINE uint32_t bits_of(IVec<T> mask) {
#if FASTSSL_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) return _mm512_movepi32_mask((__m512i)mask);
  if constexpr (sizeof(T) == 8) return _mm512_movepi64_mask((__m512i)mask);
#elif FASTSSL_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) return uint32_t(_mm256_movemask_ps((__m256)mask));
  if constexpr (sizeof(T) == 8) return uint32_t(_mm256_movemask_pd((__m256d)mask));
#elif defined(FASTSSL_NEON)
  if constexpr (sizeof(T) == 4) return vaddvq_u32((uint32x4_t)mask & uint32x4_t{1, 2, 4, 8});
  if constexpr (sizeof(T) == 8) return uint32_t(vaddvq_u64((uint64x2_t)mask & uint64x2_t{1, 2}));
#endif
  uint32_t bits = 0;
  for (int w = 0; w < kWidth<T>; ++w) bits |= uint32_t(mask[w] != 0) << w;
  return bits;
}
// first + k for every bit k of `bits` in order; up to 32 places of `to` are written, the number of bits counts.
FASTSSL_INLINE int expand_bits(uint32_t bits, int32_t first, int32_t* to) {
#if FASTSSL_VECTOR_BYTES == 64
  const __m512i low = _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                       _mm512_set1_epi32(first));
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(16));
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(__mmask16(bits), low));
  _mm512_storeu_si512(to + __builtin_popcount(bits & 0xffff), _mm512_maskz_compress_epi32(__mmask16(bits >> 16), high));
#else
  for (uint32_t left = bits; left; left &= left - 1) *to++ = first + __builtin_ctz(left);
#endif
  return __builtin_popcount(bits);
}
// 0, 1, 2, ...
template <class T>
FASTSSL_INLINE IVec<T> iota() {
  IVec<T> v;
  for (int i = 0; i < kWidth<T>; ++i) v[i] = i;
  return v;
}
// The sum of the lanes, halves upon halves.
template <class T>
FASTSSL_INLINE T hsum(Vec<T> v) {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 4
  for (int half = kWidth<T> / 2; half > 0; half /= 2) v += __builtin_shuffle(v, iota<T>() ^ half);
  return v[0];
#else
  T part[kWidth<T>];
  store<T>(part, v);
  for (int half = kWidth<T> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
#endif
}
// A square of as many rows as a vector has lanes, transposed: to[c][r] = from[r][c].
template <class T>
FASTSSL_INLINE void transpose(const T* from, int64_t from_step, T* to, int64_t to_step) {
  constexpr int kW = kWidth<T>;
#if defined(__GNUC__) && !defined(__clang__)
  Vec<T> row[kW];
#pragma GCC unroll 16
  for (int r = 0; r < kW; ++r) row[r] = load<T>(from + r * from_step);
  // Rows r and r + half exchange their off-diagonal squares of `half` lanes.
#pragma GCC unroll 4
  for (int half = kW / 2; half > 0; half /= 2) {
    const IVec<T> second = (iota<T>() & half) != 0;
    const IVec<T> low = second ? iota<T>() - half + kW : iota<T>(), high = second ? iota<T>() + kW : iota<T>() + half;
#pragma GCC unroll 16
    for (int r = 0; r < kW; ++r) {
      if (r & half) continue;
      const Vec<T> a = row[r], b = row[r + half];
      row[r] = __builtin_shuffle(a, b, low);
      row[r + half] = __builtin_shuffle(a, b, high);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kW; ++r) store<T>(to + r * to_step, row[r]);
#else
  for (int r = 0; r < kW; ++r)
    for (int c = 0; c < kW; ++c) to[c * to_step + r] = from[r * from_step + c];
#endif
}
template <class T>
FASTSSL_INLINE T hmax(Vec<T> v) {
  T s = v[0];
  for (int i = 1; i < kWidth<T>; ++i) s = v[i] > s ? v[i] : s;
  return s;
}

// 2^x for -126 <= x <= 127.
// Degree 6 minimax on [-1/2, 1/2]: 1.9e-9 relative, below the rounding of the last multiplication.
FASTSSL_INLINE Vec<float> exp2_in_range(Vec<float> x) {
  const Vec<float> shifted = x + 12583039.f;  // 1.5 * 2^23 + 127: the integer part lands in the low bits
  const Vec<float> f = x - (shifted - 12583039.f);
  Vec<float> p = f * 1.5337576774450756e-4f + 1.3399860363670158e-3f;
  p = p * f + 9.618519534491493e-3f;
  p = p * f + 5.5503289975154566e-2f;
  p = p * f + 2.4022646608713247e-1f;
  p = p * f + 6.93147205600511e-1f;
  p = p * f + 1.0000000005920204f;
  IVec<float> bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits <<= 23;
  Vec<float> power;
  __builtin_memcpy(&power, &bits, sizeof power);
  return p * power;
}
FASTSSL_INLINE Vec<double> exp2_in_range(Vec<double> x) {
  Vec<double> y;
  for (int i = 0; i < kWidth<double>; ++i) y[i] = __builtin_exp2(x[i]);
  return y;
}

// 2^x for x <= 127; below -126 the result is 2^-126 (callers' sums are far larger); NaN stays NaN.
FASTSSL_INLINE Vec<float> exp2v(Vec<float> x) { return exp2_in_range(x < -126.f ? splat(-126.f) : x); }
FASTSSL_INLINE Vec<double> exp2v(Vec<double> x) { return exp2_in_range(x); }

// x as it is rounded: the operation that made it is not fused with the next one (-ffp-contract=fast). Where two places
// must find the same value, however large.
template <class V>
FASTSSL_INLINE V as_rounded(V x) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(x));
#elif defined(__x86_64__)
  __asm__("" : "+x"(x));
#elif defined(__aarch64__)
  __asm__("" : "+w"(x));
#endif
  return x;
}

// exp(-x) for x >= 0. log2(e) in two parts: one rounding of it would bias every value the same way.
FASTSSL_INLINE Vec<float> exp_minus(Vec<float> x) {
  return exp2v(-(x * 1.44269502162933349609375f + x * 1.925963033500011e-8f));
}
FASTSSL_INLINE Vec<double> exp_minus(Vec<double> x) {
  Vec<double> y;
  for (int i = 0; i < kWidth<double>; ++i) y[i] = __builtin_exp(-x[i]);
  return y;
}

// log(1 + e) for e in [0, 1] as 2 atanh(e / (2 + e)): relative accuracy holds for tiny e.
FASTSSL_INLINE Vec<float> log1pv(Vec<float> e) {
  const Vec<float> z = e / (e + 2.f), u = z * z;
  Vec<float> p = u * 2.8167144846808e-1f + 2.79526240586003e-1f;
  p = p * u + 4.0026477648182524e-1f;
  p = p * u + 6.666623938664492e-1f;
  p = p * u + 2.0000000160252727f;
  return z * p;
}
FASTSSL_INLINE Vec<double> log1pv(Vec<double> e) {
  Vec<double> y;
  for (int i = 0; i < kWidth<double>; ++i) y[i] = __builtin_log1p(e[i]);
  return y;
}

// 32-bit words.
typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
// Words of two values rounded to bf16: lane i of both vectors; neighbours of 2 n lanes. And sum + the products of both
// halves of words.
#if defined(__AVX512BF16__)
#define FASTSSL_BF16_PAIRS
FASTSSL_INLINE Words bf16_neighbours(const Vec<float>* v) {
  return (Words)_mm512_cvtne2ps_pbh((__m512)v[1], (__m512)v[0]);
}
FASTSSL_INLINE Words bf16_pairs(Vec<float> low, Vec<float> high) {
  typedef uint16_t Halves __attribute__((vector_size(64)));
  constexpr Halves kInterleaved = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const Vec<float> both[] = {low, high};
  return (Words)_mm512_permutexvar_epi16((__m512i)kInterleaved, (__m512i)bf16_neighbours(both));
}
FASTSSL_INLINE Vec<float> bf16_dot(Vec<float> sum, Words a, Words b) {
  return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define FASTSSL_BF16_PAIRS
FASTSSL_INLINE Words bf16_neighbours(const Vec<float>* v) {
  return (Words)vcombine_u16(vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)v[0])),
                             vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)v[1])));
}
FASTSSL_INLINE Words bf16_pairs(Vec<float> low, Vec<float> high) {
  const auto word = [](Vec<float> v) { return (Words)vmovl_u16(vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)v))); };
  return word(low) | word(high) << 16;
}
FASTSSL_INLINE Vec<float> bf16_dot(Vec<float> sum, Words a, Words b) {
  return (Vec<float>)vbfdotq_f32((float32x4_t)sum, vreinterpretq_bf16_u32((uint32x4_t)a),
                                 vreinterpretq_bf16_u32((uint32x4_t)b));
}
#endif

template <int N>
struct Count {
  static constexpr int value = N;
};
// f(Count<n>) for n from 1 to Most.
template <int Most, class F>
FASTSSL_INLINE void with_count(int n, F&& f) {
  if constexpr (Most > 1) {
    if (n < Most) return with_count<Most - 1>(n, f);
  }
  f(Count<Most>{});
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

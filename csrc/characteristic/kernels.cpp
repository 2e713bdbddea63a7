// One sine and cosine per value: those of its multiples follow by rotation. Compiled once per instruction set.
#include "kernels.h"

#include <algorithm>
#include <cmath>

#include "simd/simd.h"

namespace fastssl {
namespace FASTSSL_ISA {
namespace {

constexpr double kTwoOverPi = 0.63661977236758134308, kHalfPi = 1.57079632679489661923;
constexpr double kToInteger = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
// Up to here angle - quadrant * kHalfPi, in double, has an error below that of the polynomials.
constexpr double kLargestAngle = 1e8;
constexpr int64_t kFresh = 8;  // every so many knots start anew: the rotations before have added up their roundings
constexpr int kRows = kManyRegisters ? 4 : 2;  // that share one pass over the sums

template <class T>
struct Turn {
  Vec<T> cosine, sine;
};

template <class T>
FASTSSL_INLINE Turn<T> rotated(const Turn<T>& a, const Turn<T>& b) {
  return {a.cosine * b.cosine - a.sine * b.sine, a.sine * b.cosine + a.cosine * b.sine};
}

template <class T>
Turn<T> turn_by_lane(const T* x, double step) {
  T cosine[kWidth<T>], sine[kWidth<T>];
  for (int i = 0; i < kWidth<T>; ++i) {
    const double angle = double(x[i]) * step;
    cosine[i] = T(std::cos(angle));
    sine[i] = T(std::sin(angle));
  }
  return {load<T>(cosine), load<T>(sine)};
}

// cos(step x) and sin(step x) of a vector of values.
FASTSSL_INLINE Turn<double> turn(const double* x, double step) { return turn_by_lane(x, step); }

// The angle is reduced to a quadrant in double, so that large ones lose no digits: polynomials of Cephes' sinf.
FASTSSL_INLINE Turn<float> turn(const float* x, double step) {
  typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
  typedef int32_t HalfInts __attribute__((vector_size(kVectorBytes / 2)));
  Vec<float> r;
  IVec<float> quadrant;
  bool large = false;
  for (int h = 0; h < 2; ++h) {
    const Vec<double> angle = load_as<Vec<double>>(x + h * kWidth<double>) * step;
    large |= any<double>(!((angle < 0 ? -angle : angle) <= kLargestAngle));
    const Vec<double> n = as_rounded(angle * kTwoOverPi + kToInteger) - kToInteger;
    const Half rest = __builtin_convertvector(angle - n * kHalfPi, Half);
    const HalfInts whole = __builtin_convertvector(n, HalfInts);
    __builtin_memcpy(reinterpret_cast<char*>(&r) + h * sizeof rest, &rest, sizeof rest);
    __builtin_memcpy(reinterpret_cast<char*>(&quadrant) + h * sizeof whole, &whole, sizeof whole);
  }
  if (__builtin_expect(large, 0)) return turn_by_lane(x, step);
  const Vec<float> u = r * r;
  const Vec<float> s = r + r * u * ((u * -1.9515295891e-4f + 8.3321608736e-3f) * u - 1.6666654611e-1f);
  const Vec<float> c =
      1.f - 0.5f * u + u * u * ((u * 2.443315711809948e-5f - 1.388731625493765e-3f) * u + 4.166664568298827e-2f);
  const IVec<float> swapped = (quadrant & 1) != 0;
  const IVec<float> sine_sign = (quadrant & 2) << 30, cosine_sign = ((quadrant + 1) & 2) << 30;
  return {(Vec<float>)((IVec<float>)(swapped ? s : c) ^ cosine_sign),
          (Vec<float>)((IVec<float>)(swapped ? c : s) ^ sine_sign)};
}

// Some columns of a row: past `count` zeros, which are not stored.
template <class T>
FASTSSL_INLINE const T* whole(const T* from, int64_t count, T* buffer) {
  if (count >= kWidth<T>) return from;
  std::fill_n(std::copy_n(from, count, buffer), kWidth<T> - count, T(0));
  return buffer;
}

// f(k, rows' cos(k step x) and sin(k step x)) for k = 1, 2, ...
template <class T, int R, class F>
FASTSSL_INLINE void rotate(const Sketch<T>& p, int64_t row, int64_t column, F&& f) {
  Turn<T> first[R], now[R];
  T buffers[R][kWidth<T>];
  const T* x[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    x[r] = whole(p.x + (row + r) * p.stride + column, p.columns - column, buffers[r]);
    first[r] = turn(x[r], p.step);
    now[r] = {splat(T(1)), splat(T(0))};
  }
  for (int64_t k = 1; k < p.knots; ++k) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) now[r] = k % kFresh == 0 ? turn(x[r], double(k) * p.step) : rotated(now[r], first[r]);
    f(k, now);
  }
}

template <class T, int R>
FASTSSL_INLINE void add_group(const Sketch<T>& p, int64_t row, T* scratch) {
  for (int64_t c = 0; c < p.columns; c += kWidth<T>)
    rotate<T, R>(p, row, c, [&](int64_t k, const Turn<T>(&now)[R]) {
      Vec<T> cosine = now[0].cosine, sine = now[0].sine;
#pragma GCC unroll 4
      for (int r = 1; r < R; ++r) cosine += now[r].cosine, sine += now[r].sine;
      T* of_cosine = scratch + k * kSketchColumns + c;
      T* of_sine = of_cosine + p.knots * kSketchColumns;
      store<T>(of_cosine, load<T>(of_cosine) + cosine);
      store<T>(of_sine, load<T>(of_sine) + sine);
    });
}

template <class T>
void sums(const Sketch<T>& p, T* scratch, double* sums, int64_t sums_stride) {
  for (int64_t c = 0; c < p.columns; ++c) sums[c] += double(p.rows);
  for (int64_t begin = 0; begin < p.rows; begin += kSketchRows) {
    std::fill_n(scratch, 2 * p.knots * kSketchColumns, T(0));
    const int64_t end = std::min(p.rows, begin + kSketchRows);
    int64_t row = begin;
    for (; row + kRows <= end; row += kRows) add_group<T, kRows>(p, row, scratch);
    for (; row < end; ++row) add_group<T, 1>(p, row, scratch);
    for (int64_t k = 0; k < 2 * p.knots; ++k)
      for (int64_t c = 0; c < p.columns; ++c) sums[k * sums_stride + c] += double(scratch[k * kSketchColumns + c]);
  }
}

template <class T, int R>
FASTSSL_INLINE void gradients_of_group(const Sketch<T>& p, int64_t row, const T* weights, T* out) {
  for (int64_t c = 0; c < p.columns; c += kWidth<T>) {
    Vec<T> sum[R] = {};
    rotate<T, R>(p, row, c, [&](int64_t k, const Turn<T>(&now)[R]) {
      const T* at = weights + k * kSketchColumns + c;
      const Vec<T> by_sine = load<T>(at), by_cosine = load<T>(at + p.knots * kSketchColumns);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r] += by_sine * now[r].sine + by_cosine * now[r].cosine;
    });
    const size_t size = size_t(std::min<int64_t>(kWidth<T>, p.columns - c)) * sizeof(T);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      T* to = out + (row + r) * p.stride + c;
      if (size == kVectorBytes)
        store<T>(to, sum[r]);
      else
        __builtin_memcpy(to, &sum[r], size);
    }
  }
}

template <class T>
void gradients(const Sketch<T>& p, const T* weights, T* out) {
  int64_t row = 0;
  for (; row + kRows <= p.rows; row += kRows) gradients_of_group<T, kRows>(p, row, weights, out);
  for (; row < p.rows; ++row) gradients_of_group<T, 1>(p, row, weights, out);
}

}  // namespace
}  // namespace FASTSSL_ISA

extern const CharacteristicTables FASTSSL_JOIN(characteristic_, FASTSSL_ISA);
const CharacteristicTables FASTSSL_JOIN(characteristic_, FASTSSL_ISA) = {
    {FASTSSL_ISA::sums<float>, FASTSSL_ISA::gradients<float>},
    {FASTSSL_ISA::sums<double>, FASTSSL_ISA::gradients<double>}};

}  // namespace fastssl

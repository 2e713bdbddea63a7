// Compiled once per instruction set.
#include "kernels.h"

#include <algorithm>

#include "core/half.h"
#include "simd/values.h"

namespace fastssl {
namespace FASTSSL_ISA {
namespace {

constexpr int64_t kShift = 397;

FASTSSL_INLINE uint32_t twisted(uint32_t high, uint32_t low, uint32_t other) {
  const uint32_t mixed = (high & 0x80000000u) | (low & 0x7fffffffu);
  return other ^ (mixed >> 1) ^ (-(low & 1u) & 0x9908b0dfu);
}

// In three pieces, none of which reads what it writes, but for one word.
void twist(uint32_t* state) {
  constexpr int64_t kFirst = kTwisterWords - kShift;
#pragma GCC ivdep
  for (int64_t k = 0; k < kFirst; ++k) state[k] = twisted(state[k], state[k + 1], state[k + kShift]);
  for (int64_t begin = kFirst; begin < kTwisterWords - 1; begin += kFirst) {
    const int64_t end = begin + kFirst < kTwisterWords - 1 ? begin + kFirst : kTwisterWords - 1;
#pragma GCC ivdep
    for (int64_t k = begin; k < end; ++k) state[k] = twisted(state[k], state[k + 1], state[k - kFirst]);
  }
  constexpr int64_t last = kTwisterWords - 1;
  state[last] = twisted(state[last], state[0], state[last - kFirst]);
}

typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
typedef uint64_t Pairs __attribute__((vector_size(kVectorBytes)));
constexpr int64_t kDraws = kVectorBytes / 8;  // a vector
typedef uint8_t Bytes __attribute__((vector_size(kDraws)));

FASTSSL_INLINE Words tempered(Words y) {
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

// Of a pair the first word, which is its lower half in memory, holds the upper bits, of which 21 are used.
FASTSSL_INLINE Bytes drawn(const uint32_t* words, uint64_t bound) {
  Words raw;
  __builtin_memcpy(&raw, words, sizeof raw);
  const Pairs pairs = (Pairs)tempered(raw);
  const Pairs bits = (pairs >> 32 | pairs << 32) & ((uint64_t(1) << 53) - 1);
  return __builtin_convertvector((Pairs)(bits < bound), Bytes) & 1;
}

void draw(const uint32_t* words, int64_t count, uint64_t bound, uint8_t* kept) {
  int64_t k = 0;
  for (; k + kDraws <= count; k += kDraws) {
    const Bytes some = drawn(words + 2 * k, bound);
    __builtin_memcpy(kept + k, &some, sizeof some);
  }
  const Bytes last = drawn(words + 2 * k, bound);
  for (int64_t rest = 0; k + rest < count; ++rest) kept[k + rest] = last[rest];
}

template <class T>
FASTSSL_INLINE void scale_as(const T* x, const uint8_t* kept, T scale, int64_t count, T* out) {
  for (int64_t k = 0; k < count; ++k) out[k] = x[k] * (kept[k] ? scale : T(0));
}

using Float = Vec<float>;
using Bits = IVec<float>;
constexpr int64_t kStep = kWidth<float>;

FASTSSL_INLINE void scale_bf16(const uint16_t* x, const uint8_t* kept, float scale, int64_t count, uint16_t* out) {
  int64_t k = 0;
  for (; k + kStep <= count; k += kStep) {
    const Float factor = load_as<Bits>(kept + k) != 0 ? splat(scale) : splat(0.f);
    to_memory(out + k, from_memory(x + k) * factor);
  }
  for (; k < count; ++k) out[k] = float_to_bf16(bf16_to_float(x[k]) * (kept[k] ? scale : 0.f));
}

void scale(const void* x, DType dtype, const uint8_t* kept, double scale, int64_t count, void* out) {
  switch (dtype) {
    case DType::f32: return scale_as(static_cast<const float*>(x), kept, float(scale), count, static_cast<float*>(out));
    case DType::f64: return scale_as(static_cast<const double*>(x), kept, scale, count, static_cast<double*>(out));
    case DType::f16: {
      const auto* from = static_cast<const uint16_t*>(x);
      for (int64_t k = 0; k < count; ++k)
        static_cast<uint16_t*>(out)[k] = float_to_f16(f16_to_float(from[k]) * (kept[k] ? float(scale) : 0.f));
      return;
    }
    case DType::bf16:
      return scale_bf16(static_cast<const uint16_t*>(x), kept, float(scale), count, static_cast<uint16_t*>(out));
  }
}

// out[k] = f(a[k], b[k]).
template <class T, class F>
FASTSSL_INLINE void map(const T* a, const T* b, int64_t count, T* out, F&& f) {
  int64_t k = 0;
  for (; k + kStep <= count; k += kStep) to_memory(out + k, f(from_memory(a + k), from_memory(b + k)));
  if (k == count) return;
  T rest[2][kStep] = {};
  std::copy_n(a + k, count - k, rest[0]);
  std::copy_n(b + k, count - k, rest[1]);
  to_memory(rest[0], f(from_memory(rest[0]), from_memory(rest[1])));
  std::copy_n(rest[0], count - k, out + k);
}
template <class F>
FASTSSL_INLINE void map(const void* a, const void* b, DType dtype, int64_t count, void* out, F&& f) {
  if (dtype == DType::f32) {
    map(static_cast<const float*>(a), static_cast<const float*>(b), count, static_cast<float*>(out), f);
  } else {
    map(static_cast<const uint16_t*>(a), static_cast<const uint16_t*>(b), count, static_cast<uint16_t*>(out), f);
  }
}

constexpr float kSlope = 1.5957691216057308f, kCube = 0.044715f * kSlope;  // the first: 2 sqrt(2 / pi)

struct Sigmoid {
  Float value, slope;
};

// Of 2 sqrt(2 / pi) (x + 0.044715 x^3), and its derivative by x.
FASTSSL_INLINE Sigmoid sigmoid(Float x) {
  const Float u = x * (kSlope + kCube * x * x), size = u < 0 ? -u : u;
  const Float e = size < 87.f ? exp_minus(size) : splat(0.f), share = 1.f / (1.f + e);
  return {u < 0 ? e * share : share, e * share * share * (kSlope + 3 * kCube * x * x)};
}

void gelu(const void* x, DType dtype, int64_t count, void* out) {
  map(x, x, dtype, count, out, [](Float x, Float) __attribute__((always_inline)) { return x * sigmoid(x).value; });
}

void gelu_backward(const void* grad, const void* x, DType dtype, int64_t count, void* out) {
  map(grad, x, dtype, count, out, [](Float grad, Float x) __attribute__((always_inline)) {
    const Sigmoid share = sigmoid(x);
    return grad * (share.value + x * share.slope);
  });
}

}  // namespace
}  // namespace FASTSSL_ISA

extern const ElementwiseTable FASTSSL_JOIN(elementwise_, FASTSSL_ISA);
const ElementwiseTable FASTSSL_JOIN(elementwise_, FASTSSL_ISA) = {
    FASTSSL_ISA::twist, FASTSSL_ISA::draw, FASTSSL_ISA::scale, FASTSSL_ISA::gelu, FASTSSL_ISA::gelu_backward};

}  // namespace fastssl

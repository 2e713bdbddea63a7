// Loops that the compiler turns into vectors. Compiled once per instruction set.
#include "kernels.h"

#include "core/half.h"
#include "simd/simd.h"

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

FASTSSL_INLINE void scale_bf16(const uint16_t* x, const uint8_t* kept, float scale, int64_t count, uint16_t* out) {
  using Float = Vec<float>;
  using Bits = IVec<float>;
  typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
  constexpr int64_t kStep = kWidth<float>;
  int64_t k = 0;
  for (; k + kStep <= count; k += kStep) {
    const Float factor = load_as<Bits>(kept + k) != 0 ? splat(scale) : splat(0.f);
    const Float product = (Float)(load_as<Bits>(x + k) << 16) * factor;
    const Bits bits = (Bits)product, upper = bits >> 16;
    const Bits rounded = (bits + 0x7fff + (upper & 1)) >> 16;
    const Halves halves = __builtin_convertvector(product == product ? rounded : upper | 0x40, Halves);
    __builtin_memcpy(out + k, &halves, sizeof halves);
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

}  // namespace
}  // namespace FASTSSL_ISA

extern const DropoutTable FASTSSL_JOIN(dropout_, FASTSSL_ISA);
const DropoutTable FASTSSL_JOIN(dropout_, FASTSSL_ISA) = {FASTSSL_ISA::twist, FASTSSL_ISA::draw, FASTSSL_ISA::scale};

}  // namespace fastssl

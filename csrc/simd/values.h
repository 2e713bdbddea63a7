// Vectors of float from memory in float or bf16 (its bits), and back.
#pragma once
#include "simd.h"

namespace fastssl {
namespace FASTSSL_ISA {

FASTSSL_INLINE Vec<float> from_memory(const float* p) { return load<float>(p); }
FASTSSL_INLINE Vec<float> from_memory(const uint16_t* p) { return (Vec<float>)(load_as<IVec<float>>(p) << 16); }
FASTSSL_INLINE void to_memory(float* p, Vec<float> v) { store<float>(p, v); }
FASTSSL_INLINE void to_memory(uint16_t* p, Vec<float> v) {  // rounded to the nearest even, as float_to_bf16
  typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
  const IVec<float> bits = (IVec<float>)v, upper = bits >> 16, rounded = (bits + 0x7fff + (upper & 1)) >> 16;
  const Halves halves = __builtin_convertvector(v == v ? rounded : upper | 0x40, Halves);
  __builtin_memcpy(p, &halves, sizeof halves);
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

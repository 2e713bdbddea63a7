// Conversions of 16-bit floats, by bits: no compiler extension is needed and NaN stays NaN.
#pragma once
#include <cstdint>
#include <cstring>

#include "philox.h"

namespace fastssl {
namespace {

FASTSSL_HOST_DEVICE inline float bits_to_float(uint32_t u) {
  float f;
  std::memcpy(&f, &u, sizeof f);
  return f;
}
FASTSSL_HOST_DEVICE inline uint32_t float_to_bits(float f) {
  uint32_t u;
  std::memcpy(&u, &f, sizeof u);
  return u;
}

FASTSSL_HOST_DEVICE inline float bf16_to_float(uint16_t h) { return bits_to_float(uint32_t(h) << 16); }

FASTSSL_HOST_DEVICE inline uint16_t float_to_bf16(float f) {
  const uint32_t u = float_to_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40);
  return uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16);  // round to nearest even
}

FASTSSL_HOST_DEVICE inline float f16_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
  if (exponent == 0) {  // zero and subnormal: mantissa * 2^-24 is exact
    const float magnitude = float(mantissa) * 5.9604644775390625e-8f;
    return bits_to_float(float_to_bits(magnitude) | sign);
  }
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
  return bits_to_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

FASTSSL_HOST_DEVICE inline uint16_t float_to_f16(float f) {
  const uint32_t u = float_to_bits(f), magnitude = u & 0x7fffffffu;
  const uint16_t sign = uint16_t((u >> 16) & 0x8000);
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00);
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00);  // rounds to infinity
  if (magnitude < 0x38800000u) {                                 // subnormal: let the adder round
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return uint16_t(sign | (float_to_bits(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
  return uint16_t(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace
}  // namespace fastssl

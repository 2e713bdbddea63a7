// Resampling along one axis, antialiased: a triangle (Keys' cubic with a = -1/2) as wide as a pixel of the coarser
// side.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/philox.h"

namespace fastssl {

// Outputs 0 .. count are pixels offset .. of a frame that a box [from, from + length) of the image is resized to; those
// outside the frame are black.
struct Axis {
  int64_t from, length, frame, offset, count;
  bool flip, bicubic;
  float scale;

  FASTSSL_HOST_DEVICE double ratio() const { return double(length) / double(frame); }
  FASTSSL_HOST_DEVICE double stretch() const { return ratio() > 1.0 ? ratio() : 1.0; }
  FASTSSL_HOST_DEVICE double support() const { return (bicubic ? 2 : 1) * stretch(); }
  FASTSSL_HOST_DEVICE int64_t most_taps() const {
    const int64_t n = int64_t(ceil(support())) * 2 + 1;
    return length < n ? length : n;
  }
  FASTSSL_HOST_DEVICE int64_t pixel(int64_t i) const { return offset + (flip ? count - 1 - i : i); }
  // The factor of output i's weights, whose sum is 1.
  FASTSSL_HOST_DEVICE float factor(int64_t i) const { return pixel(i) < 0 || pixel(i) >= frame ? 0.f : scale; }
  // The inputs of output i (from the start of the box): how many, and the first.
  FASTSSL_HOST_DEVICE int64_t taps(int64_t i, int64_t& begin, double& center) const {
    int64_t at = pixel(i) < frame ? pixel(i) : frame - 1;
    at = at > 0 ? at : 0;
    center = ratio() * (double(at) + 0.5);
    int64_t low = int64_t(center - support() + 0.5), high = int64_t(center + support() + 0.5);
    low = low > 0 ? low : 0;
    high = high < length ? high : length;
    const int64_t most = most_taps();
    int64_t n = high - low;
    n = n < 1 ? 1 : (n > most ? most : n);
    begin = low < length - n ? low : length - n;
    return n;
  }
  FASTSSL_HOST_DEVICE double weight(int64_t input, double center) const {
    double x = (double(input) - center + 0.5) * (1 / stretch());
    x = x < 0 ? -x : x;
    if (!bicubic) return x < 1 ? 1 - x : 0;
    constexpr double a = -0.5;
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
  }
};

}  // namespace fastssl

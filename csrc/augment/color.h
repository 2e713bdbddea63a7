// Colour arithmetic of one pixel or of one vector of pixels, channels in [0, 1]; as torchvision's v2 transforms on
// float tensors. V is float (a GPU's thread) or a vector of floats (a CPU's).
#pragma once
#include <cstdint>

#include "core/philox.h"

namespace fastssl {

constexpr float kLumaRed = 0.2989f, kLumaGreen = 0.587f, kLumaBlue = 0.114f;

template <class V>
FASTSSL_HOST_DEVICE inline V clamp01(V x) {
  const V zero = V{} + 0.f, one = V{} + 1.f;
  x = x < zero ? zero : x;
  return x > one ? one : x;
}
template <class V>
FASTSSL_HOST_DEVICE inline V larger(V a, V b) {
  return a > b ? a : b;
}
template <class V>
FASTSSL_HOST_DEVICE inline V smaller(V a, V b) {
  return a < b ? a : b;
}
template <class V>
FASTSSL_HOST_DEVICE inline V magnitude(V x) {
  return larger(x, -x);
}
// The largest integer below, for |x| < 2^22: the sum rounds to the nearest integer.
template <class V>
FASTSSL_HOST_DEVICE inline V floor_of(V x) {
  const V nearest = (x + 12582912.f) - 12582912.f, one = V{} + 1.f;
  return nearest > x ? nearest - one : nearest;
}

template <class V>
FASTSSL_HOST_DEVICE inline V gray_of(V r, V g, V b) {
  return r * kLumaRed + g * kLumaGreen + b * kLumaBlue;
}
// Of any channel.
template <class V>
FASTSSL_HOST_DEVICE inline V brightened(V x, float factor) {
  return clamp01(x * factor);
}
// Between the mean grey of the image, `mean`, and the image.
template <class V>
FASTSSL_HOST_DEVICE inline V contrasted(V x, float factor, float mean) {
  return clamp01(x * factor + mean * (1.f - factor));
}
template <class V>
FASTSSL_HOST_DEVICE inline V solarized(V x, float threshold) {
  return x >= V{} + threshold ? 1.f - x : x;
}
// The darker half becomes brighter.
template <class V>
FASTSSL_HOST_DEVICE inline V solarize_added(V x, float more) {
  return x < V{} + 0.5f ? smaller(x + more, V{} + 1.f) : x;
}
// Between the channel's smallest value, `low`, and its largest, low + span; a channel of one value stays as it is.
template <class V>
FASTSSL_HOST_DEVICE inline V stretched(V x, float low, float span) {
  return span > 0 ? clamp01((x - low) / span) : clamp01(x);
}
template <class V>
FASTSSL_HOST_DEVICE inline V posterized(V x, float levels) {
  const V zero = V{} + 0.f, most = V{} + (levels - 1.f);
  return smaller(larger(floor_of(x * levels), zero), most) * (1.f / levels);
}

// Between the pixel's grey and the pixel.
template <class V>
FASTSSL_HOST_DEVICE inline void saturation(V& r, V& g, V& b, float factor) {
  const V rest = gray_of(r, g, b) * (1.f - factor);
  r = clamp01(r * factor + rest);
  g = clamp01(g * factor + rest);
  b = clamp01(b * factor + rest);
}
// Hue in HSV moves by `turns`. With chroma c = max - min, each channel is min + c * (trapezoid of the hue), so the
// saturation and the six cases of the textbook are not needed.
template <class V>
FASTSSL_HOST_DEVICE inline void hue(V& r, V& g, V& b, float turns) {
  const V zero = V{} + 0.f, one = V{} + 1.f;
  const V top = larger(larger(r, g), b), low = smaller(smaller(r, g), b), chroma = top - low;
  const V inverse = one / (chroma > zero ? chroma : one);
  V h = top == r ? (g - b) * inverse : (top == g ? (b - r) * inverse + 2.f : (r - g) * inverse + 4.f);
  h = h + 6.f * turns;
  h = h - floor_of(h * (1.f / 6.f)) * 6.f;
  r = low + chroma * clamp01(magnitude(h - 3.f) - 1.f);
  g = low + chroma * clamp01(2.f - magnitude(h - 2.f));
  b = low + chroma * clamp01(2.f - magnitude(h - 4.f));
}
template <class V>
FASTSSL_HOST_DEVICE inline void grayscale(V& r, V& g, V& b) {
  r = g = b = gray_of(r, g, b);
}
// Doersch et al. 2015: colours lose their part along a = (-1, 2, -1), where chromatic aberration shows.
template <class V>
FASTSSL_HOST_DEVICE inline void project(V& r, V& g, V& b) {
  const V along = (2.f * g - r - b) * (1.f / 6.f);
  r = r + along;
  g = g - 2.f * along;
  b = b + along;
}

}  // namespace fastssl

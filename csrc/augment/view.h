// One view on one instruction set: resample, then pass after pass over an image that stays in the cache. A pass ends
// where an operation needs the whole image (contrast: its mean; equalize: its histogram; autocontrast: its
// extremes; blur, sharpness and warps: its neighbours). Compiled without contraction, and sums have one order: all
// instruction sets give the same bits.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "batch.h"
#include "color.h"
#include "simd/simd.h"
#include "steps.h"

namespace fastssl {
namespace FASTSSL_ISA {

using F = Vec<float>;
using I = IVec<float>;
constexpr int64_t kL = kWidth<float>;
constexpr int64_t kStep = 16;  // rows of an image are padded to it; sums have this many lanes

FASTSSL_INLINE F load_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
  return (F)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return (F)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#elif defined(FASTSSL_NEON)
  uint32_t word;
  std::memcpy(&word, p, sizeof word);
  return (F)vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(word)))));
#else
  F v;
  for (int i = 0; i < kL; ++i) v[i] = float(p[i]);
  return v;
#endif
}

#ifdef __clang__
#define FASTSSL_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FASTSSL_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IVec<float>{__VA_ARGS__})
#endif

// The lower or upper halves of a and b, element by element in turn.
template <bool kHigh>
FASTSSL_INLINE F interleave(F a, F b) {
  constexpr int64_t h = kHigh ? kL / 2 : 0;
#if FASTSSL_VECTOR_BYTES == 64
  return FASTSSL_SHUFFLE(a, b, h, h + 16, h + 1, h + 17, h + 2, h + 18, h + 3, h + 19, h + 4, h + 20, h + 5, h + 21,
                         h + 6, h + 22, h + 7, h + 23);
#elif FASTSSL_VECTOR_BYTES == 32
  return FASTSSL_SHUFFLE(a, b, h, h + 8, h + 1, h + 9, h + 2, h + 10, h + 3, h + 11);
#else
  return FASTSSL_SHUFFLE(a, b, h, h + 4, h + 1, h + 5);
#endif
}

// kL vectors of kL: element j of vector i goes to element i of vector j.
FASTSSL_INLINE void transpose(F (&v)[kL]) {
#pragma GCC unroll 4
  for (int64_t round = 1; round < kL; round *= 2) {
    F w[kL];
#pragma GCC unroll 8
    for (int64_t i = 0; i < kL / 2; ++i) {
      w[2 * i] = interleave<false>(v[i], v[i + kL / 2]);
      w[2 * i + 1] = interleave<true>(v[i], v[i + kL / 2]);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kL; ++i) v[i] = w[i];
  }
}

struct Canvas {
  float* data;
  int64_t channels, height, width, stride, plane;  // in floats; stride and height padded
  float* row(int64_t channel, int64_t y) const { return data + channel * plane + y * stride; }
};

// kL sources bytes from `at` of the rows that output rows y .. y + kL need, weighed and summed, sources on the outside.
template <int kTaps>
FASTSSL_INLINE void weigh_rows(const uint8_t* const* rows, const float* weights, int64_t taps, int64_t at, float* out) {
  F v[kL];
#pragma GCC unroll 16
  for (int64_t r = 0; r < kL; ++r) {
    const uint8_t* const* from = rows + r * taps;
    const float* w = weights + r * taps;
    F sum = load_bytes(from[0] + at) * w[0];
    if constexpr (kTaps > 0) {
#pragma GCC unroll 4
      for (int k = 1; k < kTaps; ++k) sum += load_bytes(from[k] + at) * w[k];
    } else {
      for (int64_t k = 1; k < taps; ++k) sum += load_bytes(from[k] + at) * w[k];
    }
    v[r] = sum;
  }
  transpose(v);
#pragma GCC unroll 16
  for (int64_t i = 0; i < kL; ++i) store(out + i * kL, v[i]);
}

template <int kTaps>
void resample_rows_as(const SourceImage& s, const AxisTable& table, int64_t channels, int64_t left, int64_t box,
                      int64_t y, int64_t height, float* block) {
  const int64_t taps = table.taps, planes = s.planar ? channels : 1, pixel = s.planar ? 1 : s.channels;
  const int64_t bytes = box * pixel;
  const uint8_t* local[64];
  float local_weights[64];
  std::vector<const uint8_t*> many;
  std::vector<float> many_weights;
  const uint8_t** rows = local;
  float* weights = local_weights;
  if (taps * kL > 64) {
    many.resize(size_t(taps * kL));
    many_weights.resize(size_t(taps * kL));
    rows = many.data();
    weights = many_weights.data();
  }
  for (int64_t plane = 0; plane < planes; ++plane) {
    const uint8_t* base = s.data + plane * s.channel_stride + left * pixel;
    for (int64_t r = 0; r < kL; ++r) {
      const int64_t row = std::min(y + r, height - 1);
      for (int64_t k = 0; k < taps; ++k) {
        rows[r * taps + k] = base + (table.first[size_t(row)] + k) * s.row_stride;
        weights[r * taps + k] = table.weights[size_t(row * taps + k)];
      }
    }
    float* out = block + plane * box * kL;
    int64_t at = 0;
    for (; at + kL <= bytes; at += kL) weigh_rows<kTaps>(rows, weights, taps, at, out + at * kL);
    if (at == bytes) continue;
    // The last bytes of a row may be the last of the image: nothing is read beyond them.
    float tail[kL * kL];
    uint8_t copy[kL];
    F v[kL];
    for (int64_t r = 0; r < kL; ++r) {
      F sum{};
      for (int64_t k = 0; k < taps; ++k) {
        std::memset(copy, 0, sizeof copy);
        std::memcpy(copy, rows[r * taps + k] + at, size_t(bytes - at));
        F bytes_of;
        for (int64_t i = 0; i < kL; ++i) bytes_of[i] = float(copy[i]);
        sum = k == 0 ? bytes_of * weights[r * taps] : sum + bytes_of * weights[r * taps + k];
      }
      v[r] = sum;
    }
    transpose(v);
    for (int64_t i = 0; i < kL; ++i) store(tail + i * kL, v[i]);
    std::memcpy(out + at * kL, tail, sizeof(float) * size_t((bytes - at) * kL));
  }
}

template <int kTaps>
void resample_columns_as(const float* block, const AxisTable& table, int64_t pixel, int64_t channel, int64_t channels,
                         int64_t left, const Canvas& to, int64_t y) {
  const int64_t taps = table.taps;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t x = 0; x < to.stride; x += kL) {
      F v[kL];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kL; ++i) {
        const int64_t column = std::min(x + i, to.width - 1);
        const float* from = block + ((table.first[size_t(column)] - left) * pixel + c * channel) * kL;
        const float* w = table.weights.data() + column * taps;
        F sum = load(from) * w[0];
        if constexpr (kTaps > 0) {
#pragma GCC unroll 4
          for (int k = 1; k < kTaps; ++k) sum += load(from + k * pixel * kL) * w[k];
        } else {
          for (int64_t k = 1; k < taps; ++k) sum += load(from + k * pixel * kL) * w[k];
        }
        v[i] = sum;
      }
      transpose(v);
#pragma GCC unroll 16
      for (int64_t r = 0; r < kL; ++r) store(to.row(c, y + r) + x, v[r]);
    }
  }
  for (int64_t c = channels; c < to.channels; ++c)  // grey is repeated
    for (int64_t r = 0; r < kL; ++r) std::memcpy(to.row(c, y + r), to.row(0, y + r), sizeof(float) * size_t(to.stride));
}

// Rows y .. y + kL of the view into rows `at` .. of the canvas.
inline void resample(const SourceImage& s, const AxisTable& rows, const AxisTable& columns, int64_t left, int64_t box,
                     int64_t y, int64_t height, float* block, const Canvas& to, int64_t at) {
  const int64_t channels = std::min(s.channels, to.channels);
  switch (rows.taps) {
    case 2: resample_rows_as<2>(s, rows, channels, left, box, y, height, block); break;
    case 3: resample_rows_as<3>(s, rows, channels, left, box, y, height, block); break;
    case 4: resample_rows_as<4>(s, rows, channels, left, box, y, height, block); break;
    default: resample_rows_as<0>(s, rows, channels, left, box, y, height, block); break;
  }
  const int64_t pixel = s.planar ? 1 : s.channels, channel = s.planar ? box : 1;
  switch (columns.taps) {
    case 2: resample_columns_as<2>(block, columns, pixel, channel, channels, left, to, at); break;
    case 3: resample_columns_as<3>(block, columns, pixel, channel, channels, left, to, at); break;
    case 4: resample_columns_as<4>(block, columns, pixel, channel, channels, left, to, at); break;
    default: resample_columns_as<0>(block, columns, pixel, channel, channels, left, to, at); break;
  }
}

struct Row {
  float* data;
  int64_t channels, plane;  // floats between channels
  int64_t y, width, stride;
  float* channel(int64_t c) const { return data + c * plane; }
};
template <class Change>
FASTSSL_INLINE void each_value(const Row& row, Change&& change) {
  for (int64_t c = 0; c < row.channels; ++c) {
    float* at = row.channel(c);
    for (int64_t x = 0; x < row.stride; x += kL) store(at + x, change(load(at + x), c));
  }
}
template <class Change>
FASTSSL_INLINE void each_color(const Row& row, Change&& change) {
  float *red = row.channel(0), *green = row.channel(1), *blue = row.channel(2);
  for (int64_t x = 0; x < row.stride; x += kL) {
    F r = load(red + x), g = load(green + x), b = load(blue + x);
    change(r, g, b);
    store(red + x, r);
    store(green + x, g);
    store(blue + x, b);
  }
}
// byte_of every value of a row.
template <class Visit>
FASTSSL_INLINE void each_byte(const float* at, int64_t width, Visit&& visit) {
  for (int64_t x = 0; x < width; x += kL) {
    const I bytes = __builtin_convertvector(floor_of(clamp01(load(at + x)) * 255.999f), I);
    const int64_t n = std::min(kL, width - x);
    for (int64_t i = 0; i < n; ++i) visit(x + i, bytes[i]);
  }
}
#define FASTSSL_LAMBDA __attribute__((always_inline))
inline void apply(const Step& s, const Row& row) {
  const float a = s.a;
  switch (s.kind) {
    case StepKind::brightness: each_value(row, [a](F v, int64_t) FASTSSL_LAMBDA { return brightened(v, a); }); break;
    case StepKind::contrast: {
      const float* means = s.means;
      each_value(row, [a, means](F v, int64_t c) FASTSSL_LAMBDA { return contrasted(v, a, means[c]); });
      break;
    }
    case StepKind::saturation: each_color(row, [a](F& r, F& g, F& b) FASTSSL_LAMBDA { saturation(r, g, b, a); }); break;
    case StepKind::hue: each_color(row, [a](F& r, F& g, F& b) FASTSSL_LAMBDA { hue(r, g, b, a); }); break;
    case StepKind::gray: each_color(row, [](F& r, F& g, F& b) FASTSSL_LAMBDA { grayscale(r, g, b); }); break;
    case StepKind::solarize: each_value(row, [a](F v, int64_t) FASTSSL_LAMBDA { return solarized(v, a); }); break;
    case StepKind::solarize_add:
      each_value(row, [a](F v, int64_t) FASTSSL_LAMBDA { return solarize_added(v, a); });
      break;
    case StepKind::posterize: each_value(row, [a](F v, int64_t) FASTSSL_LAMBDA { return posterized(v, a); }); break;
    case StepKind::invert: each_value(row, [](F v, int64_t) FASTSSL_LAMBDA { return 1.f - v; }); break;
    case StepKind::autocontrast: {
      const float *lows = s.means, *spans = s.spans;
      each_value(row, [lows, spans](F v, int64_t c) FASTSSL_LAMBDA { return stretched(v, lows[c], spans[c]); });
      break;
    }
    case StepKind::project: each_color(row, [](F& r, F& g, F& b) FASTSSL_LAMBDA { project(r, g, b); }); break;
    case StepKind::erase:
      if (row.y >= s.box[0] && row.y < s.box[0] + s.box[2])
        for (int64_t c = 0; c < row.channels; ++c)
          std::fill_n(row.channel(c) + s.box[1], s.box[3], s.fill[row.channels == 3 ? c : 0]);
      break;
    case StepKind::lookup:
      for (int64_t c = 0; c < row.channels; ++c)
        each_byte(row.channel(c), row.width,
                  [&](int64_t x, int32_t byte) FASTSSL_LAMBDA { row.channel(c)[x] = s.levels[256 * c + byte]; });
      break;
    default: break;
  }
}
#undef FASTSSL_LAMBDA

// The sum of of(x) over a row, in 16 lanes whatever the width of the vectors.
template <class Of>
FASTSSL_INLINE double row_sum(const Row& row, Of&& of) {
  constexpr int64_t kParts = kStep / kL;
  F sum[kParts] = {};
  for (int64_t x = 0; x < row.stride; x += kStep) {
#pragma GCC unroll 4
    for (int64_t q = 0; q < kParts; ++q) {
      const int64_t at = x + q * kL;
      F v = of(at);
      if (at + kL > row.width)
        for (int64_t i = std::max<int64_t>(row.width - at, 0); i < kL; ++i) v[i] = 0;
      sum[q] += v;
    }
  }
  double total = 0;
  for (int64_t q = 0; q < kParts; ++q)
    for (int64_t i = 0; i < kL; ++i) total += double(sum[q][i]);
  return total;
}
// What contrast needs of an image: the sum of its greys, or without colours of each channel.
inline void add_sums(const Row& row, std::vector<double>& sums) {
  if (row.channels == 3) {
    sums[0] += row_sum(row, [&](int64_t x) __attribute__((always_inline)) {
      return gray_of(load(row.channel(0) + x), load(row.channel(1) + x), load(row.channel(2) + x));
    });
    return;
  }
  for (int64_t c = 0; c < row.channels; ++c) {
    const float* at = row.channel(c);
    sums[size_t(c)] += row_sum(row, [at](int64_t x) __attribute__((always_inline)) { return load(at + x); });
  }
}

// What autocontrast needs of it: the smallest and the largest value of each channel.
inline void add_extremes(const Row& row, std::vector<float>& lows, std::vector<float>& highs) {
  for (int64_t c = 0; c < row.channels; ++c) {
    const float* at = row.channel(c);
    F low = F{} + lows[size_t(c)], high = F{} + highs[size_t(c)];
    int64_t x = 0;
    for (; x + kL <= row.width; x += kL) {
      low = smaller(load(at + x), low);
      high = larger(load(at + x), high);
    }
    float least = low[0], most = high[0];
    for (int64_t i = 1; i < kL; ++i) {
      least = std::min(least, low[i]);
      most = std::max(most, high[i]);
    }
    for (; x < row.width; ++x) {
      least = std::min(least, at[x]);
      most = std::max(most, at[x]);
    }
    lows[size_t(c)] = least;
    highs[size_t(c)] = most;
  }
}

template <int kVectorsAtOnce>
FASTSSL_INLINE void blur_line(const float* at, const float* middle, int64_t radius, float* to) {
  F sum[kVectorsAtOnce];
#pragma GCC unroll 4
  for (int q = 0; q < kVectorsAtOnce; ++q) sum[q] = load(at + q * kL) * middle[0];
  for (int64_t k = 1; k <= radius; ++k) {
#pragma GCC unroll 4
    for (int q = 0; q < kVectorsAtOnce; ++q) sum[q] += (load(at + q * kL - k) + load(at + q * kL + k)) * middle[k];
  }
#pragma GCC unroll 4
  for (int q = 0; q < kVectorsAtOnce; ++q) store(to + q * kL, sum[q]);
}

inline void blur(const Canvas& image, const Step& s, ViewScratch& scratch) {
  const int64_t width = image.width, height = image.height, stride = image.stride;
  const int64_t radius = blur_radius(s.taps, s.sigma), taps = 2 * radius + 1;
  // Four rows are made at once, from `taps` + 3 rows: zeros around the weights.
  std::vector<float> padded(size_t(taps + 6), 0.f);
  float* weights = padded.data() + 3;
  double total = 0;
  std::vector<double> exact(static_cast<size_t>(taps));
  for (int64_t k = 0; k < taps; ++k) total += exact[size_t(k)] = gaussian(k - radius, s.sigma);
  for (int64_t k = 0; k < taps; ++k) weights[k] = float(exact[size_t(k)] / total);
  scratch.plane.resize(size_t(stride * image.height));
  scratch.line.assign(size_t(stride + 2 * radius + kStep), 0.f);
  scratch.pointers.resize(size_t(height + 2 * radius + 4));
  float* plane = scratch.plane.data();
  float* line = scratch.line.data();
  const float* middle = weights + radius;
  for (int64_t y = -radius; y < height + radius + 4; ++y)
    scratch.pointers[size_t(y + radius)] = plane + reflected(std::min(y, height - 1 + radius), height) * stride;
  for (int64_t c = 0; c < image.channels; ++c) {
    for (int64_t y = 0; y < height; ++y) {
      std::memcpy(line + radius, image.row(c, y), sizeof(float) * size_t(width));
      for (int64_t k = 1; k <= radius; ++k) {
        line[radius - k] = line[radius + reflected(-k, width)];
        line[radius + width - 1 + k] = line[radius + reflected(width - 1 + k, width)];
      }
      float* to = plane + y * stride;
      int64_t x = 0;
      for (; x + 4 * kL <= stride; x += 4 * kL) blur_line<4>(line + x + radius, middle, radius, to + x);
      for (; x < stride; x += kL) blur_line<1>(line + x + radius, middle, radius, to + x);
    }
    const float* const* rows = scratch.pointers.data();
    for (int64_t y = 0; y < height; y += 4) {
      for (int64_t x = 0; x < stride; x += 2 * kL) {
        const bool two = x + kL < stride;
        const int64_t next = two ? x + kL : x;
        F sum[4][2] = {};
        for (int64_t j = 0; j < taps + 3; ++j) {
          const F a = load(rows[y + j] + x), b = load(rows[y + j] + next);
#pragma GCC unroll 4
          for (int64_t q = 0; q < 4; ++q) {
            sum[q][0] += a * weights[j - q];
            sum[q][1] += b * weights[j - q];
          }
        }
#pragma GCC unroll 4
        for (int64_t q = 0; q < 4; ++q) {
          store(image.row(c, y + q) + x, sum[q][0]);
          if (two) store(image.row(c, y + q) + next, sum[q][1]);
        }
      }
    }
  }
}

// A copy of the image; a vector before and behind it may be read.
inline Canvas copied(const Canvas& image, ViewScratch& scratch) {
  const int64_t plane = image.stride * image.height;
  scratch.plane.resize(size_t(image.channels * plane + 2 * kL));
  float* data = scratch.plane.data() + kL;
  for (int64_t c = 0; c < image.channels; ++c)
    std::memcpy(data + c * plane, image.row(c, 0), sizeof(float) * size_t(plane));
  return {data, image.channels, image.height, image.width, image.stride, plane};
}

inline void warp(const Canvas& image, const Step& s, ViewScratch& scratch) {
  const int64_t width = image.width, height = image.height, stride = image.stride;
  const Canvas from = copied(image, scratch);
  const bool nearest = s.warp.interpolation == Interpolation::nearest;
  const bool bicubic = s.warp.interpolation == Interpolation::bicubic;
  F lanes;
  for (int64_t i = 0; i < kL; ++i) lanes[i] = float(i);
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; x += kL) {
      F sx, sy;
      warped_place(s.warp, lanes + float(x), y, width, height, sx, sy);
      const F left = floor_of(sx), top = floor_of(sy), fx = sx - left, fy = sy - top;
      const I x0 = __builtin_convertvector(left, I), y0 = __builtin_convertvector(top, I);
      const int32_t w = int32_t(width), h = int32_t(height), more = nearest || s.warp.mirrored ? 0 : 1;
      const int32_t before = bicubic ? 1 : 0, behind = bicubic ? 2 : more;
      const I in = (x0 >= before) & (y0 >= before) & (x0 < w - behind) & (y0 < h - behind);
      const I out = (x0 < -more) | (y0 < -more) | (x0 >= w) | (y0 >= h);
      const I one_right = (x0 + 1 < w) & 1, one_below = (y0 + 1 < h) & 1;
      int64_t first[kL], right[kL], below[kL];
      bool inside = true, outside = true;
#pragma GCC unroll 16
      for (int64_t i = 0; i < kL; ++i) {
        inside &= in[i] != 0;
        outside &= out[i] != 0;
        first[i] = y0[i] * stride + x0[i];
        right[i] = one_right[i];
        below[i] = one_below[i] * stride;
      }
      for (int64_t c = 0; c < image.channels; ++c) {
        const float* plane = from.row(c, 0);
        float* to = image.row(c, y) + x;
        if (!inside) {
          const float fill = s.fill[image.channels == 3 ? c : 0];
          if (outside) store(to, F{} + fill);
          for (int64_t i = 0; !outside && i < std::min(kL, width - x); ++i)
            to[i] = warped_value(WarpedPixel(s.warp, sx[i], sy[i], width, height), plane, stride, width, height, fill);
          continue;
        }
        if (bicubic) {
          F lines[4];
          for (int64_t j = 0; j < 4; ++j) {
            F v[4];
            for (int64_t q = 0; q < 4; ++q) {
              const float* at = plane + (j - 1) * stride + q - 1;
#pragma GCC unroll 16
              for (int64_t i = 0; i < kL; ++i) v[q][i] = at[first[i]];
            }
            lines[j] = cubic(v[0], v[1], v[2], v[3], fx);
          }
          store(to, clamp01(cubic(lines[0], lines[1], lines[2], lines[3], fy)));
          continue;
        }
        F corner[4];
#pragma GCC unroll 16
        for (int64_t i = 0; i < kL; ++i) corner[0][i] = plane[first[i]];
        if (nearest) {
          store(to, corner[0]);
          continue;
        }
#pragma GCC unroll 16
        for (int64_t i = 0; i < kL; ++i) {
          corner[1][i] = plane[first[i] + right[i]];
          corner[2][i] = plane[first[i] + below[i]];
          corner[3][i] = plane[first[i] + below[i] + right[i]];
        }
        store(to,
              (corner[0] * (1.f - fx) + corner[1] * fx) * (1.f - fy) + (corner[2] * (1.f - fx) + corner[3] * fx) * fy);
      }
    }
}

// But for the pixels at the edges, as torchvision.
inline void sharpen(const Canvas& image, float factor, ViewScratch& scratch) {
  const int64_t width = image.width, height = image.height;
  if (width < 3 || height < 3) return;
  const Canvas from = copied(image, scratch);
  const auto three = [](const float* at)
                         __attribute__((always_inline)) { return (load(at - 1) + load(at)) + load(at + 1); };
  for (int64_t c = 0; c < image.channels; ++c)
    for (int64_t y = 1; y < height - 1; ++y) {
      const float *here = from.row(c, y), *above = here - image.stride, *below = here + image.stride;
      float* to = image.row(c, y);
      for (int64_t x = 0; x < image.stride; x += kL)
        store(to + x, sharpened(load(here + x), three(above + x), three(here + x), three(below + x), factor));
      to[0] = here[0];
      to[width - 1] = here[width - 1];
    }
}

// Halves as the low 16 bits of each lane; V is a vector of int32 or one.
FASTSSL_INLINE I bits_of(F x) { return (I)x; }
FASTSSL_INLINE I bf16_of(F x) {
  const I bits = bits_of(x);
  return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF;
}
FASTSSL_INLINE I f16_of(F x) {
  I bits = bits_of(x);
  const I sign = (bits >> 16) & 0x8000;
  bits &= 0x7FFFFFFF;
  // Subnormal halves are rounded by a float addition whose last bit is theirs.
  const I small = bits_of((F)bits + 0.5f) - 0x3F000000;
  const I normal = (bits - 0x38000000 + 0xFFF + ((bits >> 13) & 1)) >> 13;
  const I huge = bits > 0x7F800000 ? I{} + 0x7E00 : I{} + 0x7C00;
  return sign | (bits >= 0x477FF000 ? huge : (bits < 0x38800000 ? small : normal));
}
typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));

struct Writer {
  const ViewOutput& out;
  template <class T, class Convert>
  void write(const Row& row, Convert&& convert) const {
    T* data = static_cast<T*>(out.data);
    const int64_t channels = out.channels, step = out.channels_last ? channels : 1;
    for (int64_t c = 0; c < channels; ++c) {
      const float mean = out.mean[c], scale = 1.f / out.std[c];
      const float* from = row.channel(c);
      T* to = data + (out.channels_last ? row.y * out.width * channels + c : (c * out.height + row.y) * out.width);
      for (int64_t x = 0; x < out.width; x += kL) {
        const auto v = convert((load(from + x) - mean) * scale);
        if (step == 1 && x + kL <= out.width) {
          stream(to + x, v);  // views are read long after they are written
        } else {
          const int64_t n = std::min(kL, out.width - x);
          for (int64_t i = 0; i < n; ++i) to[(x + i) * step] = v[i];
        }
      }
    }
  }
  void operator()(const Row& row) const {
    if (out.dtype == DType::f32) write<float>(row, [](F v) { return v; });
    if (out.dtype == DType::bf16) write<uint16_t>(row, [](F v) { return __builtin_convertvector(bf16_of(v), Halves); });
    if (out.dtype == DType::f16) write<uint16_t>(row, [](F v) { return __builtin_convertvector(f16_of(v), Halves); });
  }
};

// The box of an image of colours as grey, by Pillow's rule; the tables then count from the box.
inline SourceImage to_grey(const SourceImage& s, AxisTable& rows, AxisTable& columns, std::vector<uint8_t>& memory) {
  const auto shift = [](AxisTable& table) {
    const auto [first, last] = std::minmax_element(table.first.begin(), table.first.end());
    const int64_t from = *first, count = *last + table.taps - from;
    for (int64_t& at : table.first) at -= from;
    return std::make_pair(from, count);
  };
  const auto [top, height] = shift(rows);
  const auto [left, width] = shift(columns);
  memory.resize(size_t(height * width));
  const int64_t pixel = s.planar ? 1 : s.channels;
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* from = s.data + (top + y) * s.row_stride + left * pixel;
    uint8_t* to = memory.data() + y * width;
    for (int64_t x = 0; x < width; ++x) {
      const uint32_t r = from[x * pixel], g = from[x * pixel + s.channel_stride],
                     b = from[x * pixel + 2 * s.channel_stride];
      to[x] = uint8_t((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16);
    }
  }
  return {memory.data(), height, width, 1, width, 1, false};
}

inline void make_view(const ViewTask& task, ViewScratch& scratch) {
  Geometry g(task.source.height, task.source.width);
  const int64_t height = task.out.height, width = task.out.width, channels = task.out.channels;
  std::vector<Step> steps = resolve(*task.program, task.params, g, channels == 3);
  clip_boxes(steps, height, width);
  fill_axis(scratch.rows, rows_axis(g, height));
  fill_axis(scratch.columns, columns_axis(g, width));
  const SourceImage source = channels == 1 && task.source.channels > 1
                                 ? to_grey(task.source, scratch.rows, scratch.columns, scratch.grey)
                                 : task.source;
  // Only the columns that the window uses.
  int64_t from = scratch.columns.first[0], end = from;
  for (int64_t first : scratch.columns.first) {
    from = std::min(from, first);
    end = std::max(end, first + scratch.columns.taps);
  }
  const bool whole = std::any_of(steps.begin(), steps.end(), [](const Step& s) { return needs_image(s.kind); });
  Canvas image;
  image.channels = channels;
  image.height = height;
  image.width = width;
  image.stride = (width + kStep - 1) / kStep * kStep;
  const int64_t rows = whole ? (height + kStep - 1) / kStep * kStep + 4 : kL;
  image.plane = image.stride * rows;
  scratch.image.resize(size_t(channels * image.plane));
  image.data = scratch.image.data();
  scratch.block.resize(size_t((end - from) * (source.planar ? channels : source.channels) + kL) * kL);

  const Writer write{task.out};
  size_t next = 0;  // the first step that is still to do
  std::vector<double> sums;
  std::vector<float> means(static_cast<size_t>(channels)), spans(means), levels;
  std::vector<float> lows, highs;
  std::vector<int64_t> counts;  // [channels][256]
  const auto forget = [&] {
    sums.assign(size_t(channels), 0);
    lows.assign(size_t(channels), std::numeric_limits<float>::infinity());
    highs.assign(size_t(channels), -std::numeric_limits<float>::infinity());
    std::fill(counts.begin(), counts.end(), 0);
  };
  const auto finish_row = [&](const Row& row) {
    size_t k = next;
    for (; k < steps.size() && !needs_image(steps[k].kind); ++k) apply(steps[k], row);
    if (k == steps.size()) {
      write(row);
    } else if (steps[k].kind == StepKind::contrast) {
      add_sums(row, sums);
    } else if (steps[k].kind == StepKind::autocontrast) {
      add_extremes(row, lows, highs);
    } else if (steps[k].kind == StepKind::equalize) {
      counts.resize(size_t(channels * 256));
      for (int64_t c = 0; c < channels; ++c)
        each_byte(row.channel(c), width,
                  [&, to = counts.data() + 256 * c](int64_t, int32_t byte)
                      __attribute__((always_inline)) { ++to[byte]; });
    }
  };
  const auto row_of = [&](int64_t at, int64_t y) {
    return Row{image.row(0, at), channels, image.plane, y, width, image.stride};
  };
  forget();
  for (int64_t y = 0; y < height; y += kL) {
    const int64_t at = whole ? y : 0;
    resample(source, scratch.rows, scratch.columns, from, end - from, y, height, scratch.block.data(), image, at);
    for (int64_t r = 0; r < std::min(kL, height - y); ++r) finish_row(row_of(at + r, y + r));
  }
  while (true) {
    while (next < steps.size() && !needs_image(steps[next].kind)) ++next;
    if (next == steps.size()) return;
    Step& s = steps[next];
    if (needs_neighbours(s.kind)) {
      if (s.kind == StepKind::blur) blur(image, s, scratch);
      if (s.kind == StepKind::sharpness) sharpen(image, s.a, scratch);
      if (s.kind == StepKind::warp) warp(image, s, scratch);
      ++next;
      forget();
      for (int64_t y = 0; y < height; ++y) finish_row(row_of(y, y));
      continue;
    }
    // From here on it changes each pixel by itself.
    Step done = s;
    if (s.kind == StepKind::contrast) {
      for (int64_t c = 0; c < channels; ++c)
        means[size_t(c)] = float(sums[channels == 3 ? 0 : size_t(c)] / double(height * width));
      done.means = means.data();
    } else if (s.kind == StepKind::autocontrast) {
      means = lows;
      for (size_t c = 0; c < lows.size(); ++c) spans[c] = highs[c] - lows[c];
      done.means = means.data();
      done.spans = spans.data();
    } else {
      levels.resize(size_t(channels * 256));
      for (int64_t c = 0; c < channels; ++c)
        equalizing(counts.data() + 256 * c, height * width, levels.data() + 256 * c);
      done.kind = StepKind::lookup;
      done.levels = levels.data();
    }
    ++next;
    forget();
    for (int64_t y = 0; y < height; ++y) {
      const Row row = row_of(y, y);
      apply(done, row);
      finish_row(row);
    }
  }
}

inline void view(const ViewTask& task, ViewScratch& scratch) {
  make_view(task, scratch);
  stream_end();
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

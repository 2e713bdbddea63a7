// The steps of a view that are left when its parameters are known, for all backends; and their arithmetic that is no
// colour's.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "color.h"
#include "program.h"

namespace fastssl {

// What is left of an operation when its parameters are known.
enum class StepKind {
  brightness,
  contrast,
  saturation,
  hue,
  gray,
  solarize,
  solarize_add,
  posterize,
  project,
  invert,
  erase,
  lookup,
  blur,
  equalize,
  autocontrast,
  sharpness,
  warp
};
// Where output pixels lie in the input, in pixels from the middle of each: (m0 x + m1 y + m2, m3 x + m4 y + m5) divided
// by m6 x + m7 y + 1.
struct Warp {
  float m[8] = {1, 0, 0, 0, 1, 0, 0, 0};
  Interpolation interpolation = Interpolation::bilinear;
  bool mirrored = false;
};
struct Step {
  StepKind kind;
  float a = 0;
  double sigma = 0;
  int64_t taps = 0;
  int64_t box[4] = {0, 0, 0, 0};
  float fill[3] = {0, 0, 0};
  Warp warp;
  const float* means = nullptr;   // contrast: of each channel; autocontrast: its smallest value
  const float* spans = nullptr;   // autocontrast: from the smallest to the largest value of each channel
  const float* levels = nullptr;  // lookup: [channels][256]
};
FASTSSL_HOST_DEVICE inline bool needs_image(StepKind k) {
  return k == StepKind::contrast || k == StepKind::blur || k == StepKind::equalize || k == StepKind::autocontrast ||
         k == StepKind::sharpness || k == StepKind::warp;
}
// Those that read other pixels than their own.
FASTSSL_HOST_DEVICE inline bool needs_neighbours(StepKind k) {
  return k == StepKind::blur || k == StepKind::sharpness || k == StepKind::warp;
}

FASTSSL_HOST_DEVICE inline float byte_of(float x) { return floorf(clamp01(x) * 255.999f); }

// A channel's table of levels from its histogram: Pillow's rule, which torchvision follows.
template <class Count>
FASTSSL_HOST_DEVICE inline void equalizing(const Count* count, int64_t pixels, float* table) {
  int last = 255;
  while (last > 0 && count[last] == 0) --last;
  const int64_t step = (pixels - count[last]) / 255;
  int64_t before = 0;
  for (int v = 0; v < 256; ++v) {
    const int64_t level = step == 0 ? v : smaller<int64_t>((before + step / 2) / step, 255);
    table[v] = float(v == 0 && step != 0 ? 0 : level) / 255.f;
    before += count[v];
  }
}

// Taps of less than 2^-30 of the middle one do not change a float: beyond 6.45 sigma there are none.
FASTSSL_HOST_DEVICE inline int64_t blur_radius(int64_t taps, double sigma) {
  const double reach = ceil(6.45 * sigma < 4096.0 ? 6.45 * sigma : 4096.0);
  return smaller<int64_t>(taps / 2, int64_t(reach));
}
FASTSSL_HOST_DEVICE inline double gaussian(int64_t k, double sigma) {
  const double d = double(k) / sigma;
  return exp(-0.5 * d * d);
}

FASTSSL_HOST_DEVICE inline int64_t reflected(int64_t i, int64_t n) {
  if (n == 1) return 0;
  while (i < 0 || i >= n) i = i < 0 ? -i : 2 * (n - 1) - i;
  return i;
}

// A coordinate in an image that is mirrored at its edges.
template <class V>
FASTSSL_HOST_DEVICE inline V mirrored(V v, int64_t n) {
  const V zero = V{} + 0.f, last = V{} + float(n - 1), far = V{} + 1e6f;
  const float low = -0.5f, span = float(n);
  V t = magnitude(smaller(larger(v, -far), far) - low);
  const V turns = floor_of(t / span), odd = turns - 2.f * floor_of(turns * 0.5f);
  t = t - turns * span;
  t = (odd > zero ? span - t : t) + low;
  return smaller(larger(t, zero), last);
}

// Where pixel (x, y) lies in the input: rounded where the nearest pixel is taken, a half to the even one.
template <class V>
FASTSSL_HOST_DEVICE inline void warped_place(const Warp& w, V x, int64_t y, int64_t width, int64_t height, V& sx,
                                             V& sy) {
  const float mx = float(width - 1) / 2, my = float(height - 1) / 2, dy = float(y) - my;
  const V dx = x - mx, rest = dx * w.m[6] + (w.m[7] * dy + 1.f);
  sx = (dx * w.m[0] + (w.m[1] * dy + w.m[2])) / rest + mx;
  sy = (dx * w.m[3] + (w.m[4] * dy + w.m[5])) / rest + my;
  if (w.mirrored) {
    sx = mirrored(sx, width);
    sy = mirrored(sy, height);
  } else {  // NaN is outside
    const V least = V{} - 2.f;
    sx = smaller(larger(sx, least), V{} + (float(width) + 1));
    sy = smaller(larger(sy, least), V{} + (float(height) + 1));
  }
  if (w.interpolation == Interpolation::nearest) {
    sx = (sx + 12582912.f) - 12582912.f;
    sy = (sy + 12582912.f) - 12582912.f;
  }
}

// Between b and c, by Pillow's cubic through four values.
template <class V>
FASTSSL_HOST_DEVICE inline V cubic(V a, V b, V c, V d, V at) {
  return b + at * ((c - a) + at * ((2.f * (a - b) + c - d) + at * (b - a + d - c)));
}

// The pixels of the input from which a pixel is interpolated; those outside of it have the value of the fill.
struct WarpedPixel {
  int32_t x0, y0, x1, y1;
  float fx, fy;
  bool cubic, outside;
  FASTSSL_HOST_DEVICE WarpedPixel(const Warp& w, float sx, float sy, int64_t width, int64_t height) {
    const float left = floor_of(sx), top = floor_of(sy);
    x0 = int32_t(left);
    y0 = int32_t(top);
    fx = sx - left;
    fy = sy - top;
    const bool nearest = w.interpolation == Interpolation::nearest;
    x1 = nearest || (w.mirrored && x0 + 1 >= width) ? x0 : x0 + 1;
    y1 = nearest || (w.mirrored && y0 + 1 >= height) ? y0 : y0 + 1;
    cubic = w.interpolation == Interpolation::bicubic;
    outside = sx < -0.5f || sy < -0.5f || sx >= float(width) - 0.5f || sy >= float(height) - 0.5f;
  }
};
// By cubics as Pillow's: the pixel at the edge stands for those beyond.
FASTSSL_HOST_DEVICE inline float cubic_value(const WarpedPixel& p, const float* from, int64_t stride, int64_t width,
                                             int64_t height, float fill) {
  if (p.outside) return fill;
  float lines[4];
  for (int j = 0; j < 4; ++j) {
    const float* line = from + smaller<int64_t>(larger<int64_t>(p.y0 + j - 1, 0), height - 1) * stride;
    float v[4];
    for (int i = 0; i < 4; ++i) v[i] = line[smaller<int64_t>(larger<int64_t>(p.x0 + i - 1, 0), width - 1)];
    lines[j] = cubic(v[0], v[1], v[2], v[3], p.fx);
  }
  return clamp01(cubic(lines[0], lines[1], lines[2], lines[3], p.fy));
}
// Its value in a channel. At the edges as torchvision: a blend with black, and that with the fill.
FASTSSL_HOST_DEVICE inline float warped_value(const WarpedPixel& p, const float* from, int64_t stride, int64_t width,
                                              int64_t height, float fill) {
  if (p.cubic) return cubic_value(p, from, stride, width, height, fill);
  if (p.x0 >= 0 && p.y0 >= 0 && p.x1 < width && p.y1 < height) {
    const float *upper = from + p.y0 * stride, *lower = from + p.y1 * stride;
    return (upper[p.x0] * (1 - p.fx) + upper[p.x1] * p.fx) * (1 - p.fy) +
           (lower[p.x0] * (1 - p.fx) + lower[p.x1] * p.fx) * p.fy;
  }
  float value = 0, share = 0;
  for (int i = 0; i < 2; ++i) {
    const int32_t y = i ? p.y1 : p.y0;
    for (int j = 0; j < 2; ++j) {
      const int32_t x = j ? p.x1 : p.x0;
      if (x < 0 || y < 0 || x >= width || y >= height) continue;
      const float weight = (i ? p.fy : 1 - p.fy) * (j ? p.fx : 1 - p.fx);
      value += from[y * stride + x] * weight;
      share += weight;
    }
  }
  return (value - fill) * share + fill;
}

// A pixel between itself and the mean of its neighbourhood, whose middle has five times the weight; `rows`: the sums of
// three values side by side.
template <class V>
FASTSSL_HOST_DEVICE inline V sharpened(V x, V above, V here, V below, float factor) {
  const V blurred = ((above + here) + below) * (1.f / 13.f) + x * (4.f / 13.f);
  return clamp01(x + (blurred - x) * (1.f - factor));
}

// torchvision's inverse of an affine map about a point (cx, cy), from the middle of the image; angles in degrees.
inline void inverse_affine(double degrees, double tx, double ty, double scale, double shear_x, double shear_y,
                           double cx, double cy, float* m) {
  constexpr double kRadians = 3.14159265358979323846 / 180;
  const double turn = degrees * kRadians, sx = shear_x * kRadians, sy = shear_y * kRadians;
  const double a = std::cos(turn - sy) / std::cos(sy), b = -(a * std::tan(sx) + std::sin(turn));
  const double c = std::sin(turn - sy) / std::cos(sy), d = std::cos(turn) - c * std::tan(sx);
  const double m0 = d / scale, m1 = -b / scale, m3 = -c / scale, m4 = a / scale;
  const double all[6] = {m0, m1, cx - m0 * (cx + tx) - m1 * (cy + ty), m3, m4, cy - m3 * (cx + tx) - m4 * (cy + ty)};
  for (int i = 0; i < 6; ++i) m[i] = float(all[i]);
  m[6] = m[7] = 0;
}

// The projection that takes `corners` of a view (x and y, clockwise from the upper left one) to those of the image, as
// torchvision's, whose coefficients are of corner pixels' indices but are applied to their centres: the inverse of
// Heckbert's map of a square to four points. False: there is none, as three corners lie on a line, or it takes the
// view's middle to infinity.
inline bool inverse_perspective(const double* corners, double height, double width, float* m) {
  const auto x = [&](int i) { return corners[2 * (i % 4)]; };
  const auto y = [&](int i) { return corners[2 * (i % 4) + 1]; };
  const auto turn = [&](int i) {  // twice the area of three corners
    return (x(i + 1) - x(i)) * (y(i + 2) - y(i)) - (x(i + 2) - x(i)) * (y(i + 1) - y(i));
  };
  for (int i = 0; i < 4; ++i)
    if (turn(i) == 0) return false;
  const double sum_x = x(0) - x(1) + x(2) - x(3), sum_y = y(0) - y(1) + y(2) - y(3), d = -turn(1);
  const double g = sum_x * (y(3) - y(2)) - (x(3) - x(2)) * sum_y, h = (x(1) - x(2)) * sum_y - sum_x * (y(1) - y(2));
  const double a[9] = {d * (x(1) - x(0)) + g * x(1),
                       d * (x(3) - x(0)) + h * x(3),
                       d * x(0),
                       d * (y(1) - y(0)) + g * y(1),
                       d * (y(3) - y(0)) + h * y(3),
                       d * y(0),
                       g,
                       h,
                       d};
  double c[9];  // the inverse, but for a factor
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      const int r = (j + 1) % 3, s = (j + 2) % 3, p = (i + 1) % 3, q = (i + 2) % 3;
      c[3 * i + j] = (a[3 * r + p] * a[3 * s + q] - a[3 * r + q] * a[3 * s + p]) *
                     (i == 0 ? width - 1 : (i == 1 ? height - 1 : 1));
    }
  const double cx = width / 2, cy = height / 2, rest = c[6] * cx + c[7] * cy + c[8];
  if (rest == 0) return false;
  const double all[8] = {c[0] - cx * c[6],
                         c[1] - cx * c[7],
                         c[0] * cx + c[1] * cy + c[2] - cx * rest,
                         c[3] - cy * c[6],
                         c[4] - cy * c[7],
                         c[3] * cx + c[4] * cy + c[5] - cy * rest,
                         c[6],
                         c[7]};
  for (int k = 0; k < 8; ++k) m[k] = float(all[k] / rest);
  return true;
}

FASTSSL_HOST_DEVICE inline bool needs_colors(StepKind k) {
  return k == StepKind::saturation || k == StepKind::hue || k == StepKind::gray || k == StepKind::project;
}

// The steps that the drawn parameters leave, and where the pixels lie; `colors`: the channels are red, green and blue.
inline std::vector<Step> resolve(const Program& program, const double* p, Geometry& geometry, bool colors = true) {
  static constexpr int kLehmer[3] = {6, 2, 1};
  std::vector<Step> steps;
  const auto add = [&](StepKind kind, float a = 0) -> Step& {
    steps.emplace_back();
    steps.back().kind = kind;
    steps.back().a = a;
    return steps.back();
  };
  // outside: the last five arguments of what moves pixels
  const auto add_warp = [&](const double* outside, double interpolation, const float* m) {
    Step& s = add(StepKind::warp);
    std::copy(m, m + 8, s.warp.m);
    s.warp.interpolation = Interpolation(int(interpolation));
    s.warp.mirrored = outside[1] != 0;
    for (int i = 0; i < 3; ++i) s.fill[i] = float(outside[2 + i]);
  };
  for (int64_t k = 0; k < program.size; ++k) {
    const Op& op = program.ops[k];
    geometry.apply(op, p);
    const double height = geometry.window_height, width = geometry.window_width;
    float m[8];
    const bool on = p[0] != 0;
    switch (op.kind) {
      case OpKind::jitter: {
        if (!on) break;
        int left[4] = {0, 1, 2, 3}, order = int(p[1]);
        for (int i = 0; i < 4; ++i) {
          const int at = i < 3 ? order / kLehmer[i] : 0, which = left[at];
          if (i < 3) order %= kLehmer[i];
          std::copy(left + at + 1, left + 4 - i, left + at);
          if (op.a[1 + 2 * which] == op.a[2 + 2 * which] && p[2 + which] == (which < 3 ? 1.0 : 0.0))
            continue;  // not asked for
          add(StepKind(int(StepKind::brightness) + which), float(p[2 + which]));
        }
        break;
      }
      case OpKind::gray:
        if (on) add(StepKind::gray);
        break;
      case OpKind::project:
        if (on) add(StepKind::project);
        break;
      case OpKind::solarize:
        if (on) add(StepKind::solarize, float(op.a[1]));
        break;
      case OpKind::posterize:
        if (on) add(StepKind::posterize, float(1 << int(op.a[1])));
        break;
      case OpKind::equalize:
        if (on) add(StepKind::equalize);
        break;
      case OpKind::blur:
        if (on) {
          Step& s = add(StepKind::blur);
          s.sigma = p[0];
          s.taps = int64_t(op.a[3]);
        }
        break;
      case OpKind::rotate:
        inverse_affine(-p[0], 0, 0, 1, 0, 0, 0, 0, m);
        if (on) add_warp(op.a + 3, op.a[3], m);
        break;
      case OpKind::affine:
        if (p[0] == 0 && p[1] == 0 && p[2] == 0 && p[3] == 1 && p[4] == 0 && p[5] == 0) break;
        inverse_affine(p[0], p[1], p[2], p[3], p[4], p[5], 0, 0, m);
        add_warp(op.a + 11, op.a[11], m);
        break;
      case OpKind::perspective: {
        const double own[8] = {0, 0, width - 1, 0, width - 1, height - 1, 0, height - 1};
        if (!std::equal(own, own + 8, p) && inverse_perspective(p, height, width, m)) add_warp(op.a + 2, op.a[2], m);
        break;
      }
      case OpKind::sharpness:
        if (on) add(StepKind::sharpness, float(op.a[1]));
        break;
      case OpKind::autocontrast:
        if (on) add(StepKind::autocontrast);
        break;
      case OpKind::invert:
        if (on) add(StepKind::invert);
        break;
      case OpKind::automatic: {
        constexpr double kDegrees = 180 / 3.14159265358979323846;
        const double v = p[1];
        const float factor = float(1 + v);
        const bool shear_x = Choice(int(p[0])) == Choice::shear_x;
        switch (Choice(int(p[0]))) {
          case Choice::shear_x:
          case Choice::shear_y:  // about the upper left corner
            inverse_affine(0, 0, 0, 1, shear_x ? std::atan(v) * kDegrees : 0, shear_x ? 0 : std::atan(v) * kDegrees,
                           -width / 2, -height / 2, m);
            add_warp(op.a + 3, p[2], m);
            break;
          case Choice::translate_x:
            inverse_affine(0, v, 0, 1, 0, 0, 0, 0, m);
            add_warp(op.a + 3, p[2], m);
            break;
          case Choice::translate_y:
            inverse_affine(0, 0, v, 1, 0, 0, 0, 0, m);
            add_warp(op.a + 3, p[2], m);
            break;
          case Choice::rotate:
            inverse_affine(-v, 0, 0, 1, 0, 0, 0, 0, m);
            add_warp(op.a + 3, p[2], m);
            break;
          case Choice::brightness: add(StepKind::brightness, factor); break;
          case Choice::saturation: add(StepKind::saturation, factor); break;
          case Choice::contrast: add(StepKind::contrast, factor); break;
          case Choice::sharpness: add(StepKind::sharpness, factor); break;
          case Choice::posterize: add(StepKind::posterize, float(1 << int(v))); break;
          case Choice::solarize: add(StepKind::solarize, float(v)); break;
          case Choice::invert: add(StepKind::invert); break;
          case Choice::solarize_add: add(StepKind::solarize_add, float(v)); break;
          case Choice::autocontrast: add(StepKind::autocontrast); break;
          case Choice::equalize: add(StepKind::equalize); break;
          default: break;
        }
        break;
      }
      case OpKind::erase:
        if (p[2] > 0 && p[3] > 0) {
          Step& s = add(StepKind::erase);
          for (int i = 0; i < 4; ++i) s.box[i] = int64_t(p[i]);
          for (int i = 0; i < 3; ++i) s.fill[i] = float(op.a[5 + i]);
        }
        break;
      default: break;
    }
    p += kOpColumns[int(op.kind)];
  }
  if (!colors)
    steps.erase(std::remove_if(steps.begin(), steps.end(), [](const Step& s) { return needs_colors(s.kind); }),
                steps.end());
  return steps;
}

// An erased box ends where the view does.
inline void clip_boxes(std::vector<Step>& steps, int64_t height, int64_t width) {
  for (Step& s : steps)
    if (s.kind == StepKind::erase) {
      s.box[0] = std::clamp<int64_t>(s.box[0], 0, height);
      s.box[1] = std::clamp<int64_t>(s.box[1], 0, width);
      s.box[2] = std::clamp<int64_t>(s.box[2], 0, height - s.box[0]);
      s.box[3] = std::clamp<int64_t>(s.box[3], 0, width - s.box[1]);
    }
}

}  // namespace fastssl

// The steps of a view that are left when its parameters are known, for all backends; and their arithmetic that is no
// colour's.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
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
  posterize,
  project,
  erase,
  lookup,
  blur,
  equalize,
  rotate
};
struct Step {
  StepKind kind;
  float a = 0;
  double sigma = 0;
  int64_t taps = 0;
  int64_t box[4] = {0, 0, 0, 0};
  float fill[3] = {0, 0, 0};
  const float* means = nullptr;   // contrast: of each channel
  const float* levels = nullptr;  // lookup: [channels][256]
};
FASTSSL_HOST_DEVICE inline bool needs_image(StepKind k) {
  return k == StepKind::contrast || k == StepKind::blur || k == StepKind::equalize || k == StepKind::rotate;
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
  for (int64_t k = 0; k < program.size; ++k) {
    const Op& op = program.ops[k];
    geometry.apply(op, p);
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
        if (on) add(StepKind::rotate).sigma = p[0];
        break;
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

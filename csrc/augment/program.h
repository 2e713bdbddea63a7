// What a view is: a program of operations, the parameters drawn for it, and where on the image its pixels lie.
#pragma once
#include <cmath>
#include <cstdint>

#include "automatic.h"
#include "core/philox.h"

namespace fastssl {

// In the order of KINDS in fastssl/augment/ops.py; each takes `arguments` of the program and `columns` of parameters.
enum class OpKind : int32_t {
  resized_crop,  // scale low, high, ratio low, high, height, width, bicubic: top, left, height, width
  crop,          // resize (shorter side; 0: none), random, height, width, bicubic: top, left
  tile,          // grid, cell, tile, index (-1: a random neighbour of the middle), jitter: index, top, left
  flip,          // p, vertical: on
  jitter,        // p, brightness low, high, contrast, saturation, hue: on, order, brightness, contrast, saturation, hue
  gray,          // p: on
  blur,          // p, sigma low, high, kernel size: sigma (0: off)
  solarize,      // p, threshold: on
  posterize,     // p, bits: on
  equalize,      // p: on
  erase,         // p, scale low, high, ratio low, high, red, green, blue: top, left, height, width (0: off)
  rotate,        // p, degrees low, high, outside: degrees
  project,       // p: on
  affine,        // p, degrees low, high, largest x, y, scale low, high, shear x low, high, y low, high, outside:
                 // degrees, x, y, scale, shear x, y
  perspective,   // p, distortion, outside: x and y of the corners, clockwise from the upper left one
  sharpness,     // p, factor: on
  autocontrast,  // p: on
  invert,        // p: on
  automatic,  // policy, magnitude (-1: a random one), magnitudes, outside, p, deviation of the magnitude (-1: uniform
              // up to it), step of a sub-policy: which, value, interpolation
  bicubic,    // p: on (how the crop before it is resized)
  count
};
// outside: interpolation, mirrored at the edges (or filled), red, green, blue
constexpr int kOpArguments = 16;
constexpr int kOpColumns[int(OpKind::count)] = {4, 2, 3, 1, 6, 1, 1, 1, 1, 1, 4, 1, 1, 6, 8, 1, 1, 1, 3, 1};
constexpr int kMaxOps = 32;

struct Op {
  OpKind kind;
  bool shared;  // the same draw for all views of a sample
  double a[kOpArguments];
};

struct Program {
  int64_t size = 0;
  Op ops[kMaxOps];

  int64_t columns() const {
    int64_t n = 0;
    for (int64_t k = 0; k < size; ++k) n += kOpColumns[int(ops[k].kind)];
    return n;
  }
};

// The random numbers of one sample's view: op k draws blocks of four under its own counters.
struct Draws {
  Philox philox;
  uint32_t epoch, view, sample[2];

  Draws(uint64_t seed, uint64_t epoch_, uint64_t sample_, uint32_t view_)
      : philox{{uint32_t(seed), uint32_t(seed >> 32)}},
        epoch(uint32_t(epoch_)),
        view(view_),
        sample{uint32_t(sample_), uint32_t(sample_ >> 32)} {}
  void block(int64_t op, bool shared, int64_t n, double out[4]) const {
    const uint32_t counter[4] = {uint32_t(n) | uint32_t(op) << 8 | (shared ? 0xFFFFu : view) << 16, epoch, sample[0],
                                 sample[1]};
    uint32_t bits[4];
    philox(counter, bits);
    for (int i = 0; i < 4; ++i) out[i] = uniform_of(bits[i]);
  }
};

inline double between(double u, double low, double high) { return low + (high - low) * u; }
inline double index_of(double u, double count) { return std::fmin(std::floor(u * count), count - 1); }

// Where the pixels of a view lie: a box of the image, resized to a frame, of which a window is kept; then mirrored.
struct Geometry {
  double top = 0, left = 0, height = 0, width = 0;  // of the box
  double frame_height = 0, frame_width = 0;
  double y = 0, x = 0, window_height = 0, window_width = 0;
  double padding = 0;  // black pixels around the frame
  bool flip_x = false, flip_y = false, bicubic = false;

  Geometry(int64_t h, int64_t w) { *this = whole(double(h), double(w)); }
  void apply(const Op& op, const double* p) {
    switch (op.kind) {
      case OpKind::resized_crop:
        top = p[0];
        left = p[1];
        height = p[2];
        width = p[3];
        frame_height = window_height = op.a[4];
        frame_width = window_width = op.a[5];
        bicubic = op.a[6] != 0;
        break;
      case OpKind::crop:
        frame(op, height, width, frame_height, frame_width);
        padding = op.a[5];
        y = p[0] - padding;
        x = p[1] - padding;
        window_height = op.a[2];
        window_width = op.a[3];
        bicubic = op.a[4] != 0;
        break;
      case OpKind::tile: {
        const double grid = op.a[0], cell = op.a[1], size = op.a[2];
        const double dy = std::floor(p[0] / grid) * cell + p[1], dx = std::fmod(p[0], grid) * cell + p[2];
        y += flip_y ? window_height - dy - size : dy;
        x += flip_x ? window_width - dx - size : dx;
        window_height = window_width = size;
        break;
      }
      case OpKind::flip:
        if (p[0] != 0) (op.a[1] != 0 ? flip_y : flip_x) ^= true;
        break;
      case OpKind::bicubic: bicubic = p[0] != 0; break;
      default: break;
    }
  }
  // The image with its shorter side at a[0], as torchvision's Resize rounds.
  static void frame(const Op& op, double h, double w, double& fh, double& fw) {
    fh = h;
    fw = w;
    if (op.a[0] == 0) return;
    const double longer = std::floor(op.a[0] * std::fmax(h, w) / std::fmin(h, w));
    fh = h <= w ? op.a[0] : longer;
    fw = h <= w ? longer : op.a[0];
  }
  bool valid(double image_height, double image_width) const {
    const double all[10] = {top,         left,        height,      width,         frame_height,
                            frame_width, y + padding, x + padding, window_height, window_width};
    for (double v : all)
      if (!(v >= 0 && v <= 1e7 && v == std::floor(v))) return false;
    return height >= 1 && width >= 1 && top + height <= image_height && left + width <= image_width &&
           window_height >= 1 && window_width >= 1 && y + window_height <= frame_height + padding &&
           x + window_width <= frame_width + padding;
  }

 private:
  Geometry() = default;
  static Geometry whole(double h, double w) {
    Geometry g;
    g.height = g.frame_height = g.window_height = h;
    g.width = g.frame_width = g.window_width = w;
    return g;
  }
};

// Draws the parameters of one view of an image of h x w pixels.
inline void sample_view(const Program& program, int64_t h, int64_t w, const Draws& draws, double* p) {
  Geometry geometry(h, w);
  for (int64_t k = 0; k < program.size; ++k) {
    const Op& op = program.ops[k];
    const double* a = op.a;
    double u[4];
    draws.block(k, op.shared, 0, u);
    const bool on = u[0] < a[0];
    switch (op.kind) {
      case OpKind::resized_crop: {
        const double H = double(h), W = double(w);
        bool found = false;
        for (int attempt = 0; attempt < 10 && !found; ++attempt) {
          if (attempt > 0) draws.block(k, op.shared, attempt, u);
          const double area = H * W * between(u[0], a[0], a[1]);
          const double ratio = std::exp(between(u[1], std::log(a[2]), std::log(a[3])));
          p[3] = std::nearbyint(std::sqrt(area * ratio));
          p[2] = std::nearbyint(std::sqrt(area / ratio));
          found = p[3] > 0 && p[3] <= W && p[2] > 0 && p[2] <= H;
        }
        if (found) {
          p[0] = index_of(u[2], H - p[2] + 1);
          p[1] = index_of(u[3], W - p[3] + 1);
          break;
        }
        const double ratio = W / H;  // the largest central crop within the ratios
        p[2] = H;
        p[3] = W;
        if (ratio < a[2]) p[2] = std::fmin(H, std::fmax(1, std::nearbyint(W / a[2])));
        if (ratio > a[3]) p[3] = std::fmin(W, std::fmax(1, std::nearbyint(H * a[3])));
        p[0] = std::floor((H - p[2]) / 2);
        p[1] = std::floor((W - p[3]) / 2);
        break;
      }
      case OpKind::crop: {
        double fh, fw;
        Geometry::frame(op, double(h), double(w), fh, fw);
        fh += 2 * a[5];
        fw += 2 * a[5];
        p[0] = a[1] != 0 ? index_of(u[0], fh - a[2] + 1) : std::nearbyint((fh - a[2]) / 2);
        p[1] = a[1] != 0 ? index_of(u[1], fw - a[3] + 1) : std::nearbyint((fw - a[3]) / 2);
        break;
      }
      case OpKind::tile: {
        p[0] = a[3];
        if (p[0] < 0) {  // a neighbour of the middle: any cell but the middle
          const double cells = a[0] * a[0], middle = std::floor(cells / 2), drawn = index_of(u[2], cells - 1);
          p[0] = drawn < middle ? drawn : drawn + 1;
        }
        const double room = a[1] - a[2];
        p[1] = a[4] != 0 ? index_of(u[0], room + 1) : std::floor(room / 2);
        p[2] = a[4] != 0 ? index_of(u[1], room + 1) : std::floor(room / 2);
        break;
      }
      case OpKind::jitter: {
        double v[4];
        draws.block(k, op.shared, 1, v);
        p[0] = on;
        p[1] = index_of(u[1], 24);
        for (int i = 0; i < 4; ++i) p[2 + i] = on ? between(v[i], a[1 + 2 * i], a[2 + 2 * i]) : (i < 3 ? 1.0 : 0.0);
        break;
      }
      case OpKind::blur: p[0] = on ? between(u[1], a[1], a[2]) : 0.0; break;
      case OpKind::rotate: p[0] = on ? between(u[1], a[1], a[2]) : 0.0; break;
      case OpKind::affine: {
        double v[4];
        draws.block(k, op.shared, 1, v);
        const double x = a[3] * geometry.window_width, y = a[4] * geometry.window_height;
        p[0] = on ? between(u[1], a[1], a[2]) : 0.0;
        p[1] = on ? std::nearbyint(between(u[2], -x, x)) : 0.0;
        p[2] = on ? std::nearbyint(between(u[3], -y, y)) : 0.0;
        p[3] = on ? between(v[0], a[5], a[6]) : 1.0;
        p[4] = on ? between(v[1], a[7], a[8]) : 0.0;
        p[5] = on ? between(v[2], a[9], a[10]) : 0.0;
        break;
      }
      case OpKind::perspective: {
        const double H = geometry.window_height, W = geometry.window_width;
        const double rows = std::floor(a[1] * std::floor(H / 2)) + 1,
                     columns = std::floor(a[1] * std::floor(W / 2)) + 1;
        double v[8];
        draws.block(k, op.shared, 1, v);
        draws.block(k, op.shared, 2, v + 4);
        for (int i = 0; i < 4; ++i) {
          const bool right = i == 1 || i == 2, lower = i >= 2;
          const double x = on ? index_of(v[2 * i], columns) : 0.0, y = on ? index_of(v[2 * i + 1], rows) : 0.0;
          p[2 * i] = right ? W - 1 - x : x;
          p[2 * i + 1] = lower ? H - 1 - y : y;
        }
        break;
      }
      case OpKind::automatic: {
        const Automatic policy = Automatic(int(a[0]));
        double v[4];
        draws.block(k, op.shared, 1, v);
        Choice which = Choice(int(index_of(u[0], double(int(Choice::invert)))));
        double at = a[1] < 0 ? index_of(u[1], a[2]) : a[1];
        bool applied = true;
        if (policy == Automatic::timm) {
          which = Choice(1 + int(index_of(u[0], double(int(Choice::count)) - 1)));  // all but the identity
          const double normal = std::sqrt(-2 * std::log(v[0])) * std::cos(2 * 3.14159265358979323846 * v[1]);
          at = a[9] < 0 ? at * v[0] : std::fmin(std::fmax(at + a[9] * normal, 0), a[2] - 1);
          applied = u[3] < a[8];
        } else if (policy >= Automatic::imagenet) {
          const int step = int(a[10]);  // both steps are of the sub-policy that is drawn for the first
          double first[4];
          draws.block(k - step, op.shared, 0, first);
          const SubPolicy& drawn = kSubPolicies[int(policy) - int(Automatic::imagenet)][int(index_of(first[1], 25))];
          which = drawn[step].which;
          at = drawn[step].magnitude;
          applied = u[3] < drawn[step].p;
        }
        bool is_signed = false;
        if (!applied) which = Choice::identity;
        p[0] = double(int(which));
        p[1] = value_of(which, policy, at / (a[2] - 1), geometry.window_height, geometry.window_width, is_signed);
        if (is_signed && u[2] < 0.5) p[1] = -p[1];
        const bool random = Interpolation(int(a[3])) == Interpolation::random;
        p[2] = random ? double(int(v[2] < 0.5 ? Interpolation::bilinear : Interpolation::bicubic)) : a[3];
        break;
      }
      case OpKind::erase: {
        p[0] = p[1] = p[2] = p[3] = 0;
        for (int attempt = 1; on && attempt <= 10; ++attempt) {
          double v[4];
          draws.block(k, op.shared, attempt, v);
          const double H = geometry.window_height, W = geometry.window_width;
          const double area = H * W * between(v[0], a[1], a[2]);
          const double ratio = std::exp(between(v[1], std::log(a[3]), std::log(a[4])));
          const double eh = std::nearbyint(std::sqrt(area * ratio)), ew = std::nearbyint(std::sqrt(area / ratio));
          if (!(eh >= 1 && ew >= 1 && eh < H && ew < W)) continue;
          p[0] = index_of(v[2], H - eh + 1);
          p[1] = index_of(v[3], W - ew + 1);
          p[2] = eh;
          p[3] = ew;
          break;
        }
        break;
      }
      default: p[0] = on; break;
    }
    geometry.apply(op, p);
    p += kOpColumns[int(op.kind)];
  }
}

}  // namespace fastssl

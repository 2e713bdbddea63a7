// One view by one block: resample, then step after step over an image in the block's memory. Sums have the order that
// they have on the CPU, and nothing is contracted (-fmad=false): the same bits.
#pragma once
#include "augment/axis.h"
#include "augment/steps.h"
#include "block.h"
#include "core/half.h"

namespace fastssl {
namespace cuda {

constexpr int kMaxSteps = 48;
constexpr int64_t kLanes = 16;  // of the sum of a row's greys: kStep in ../cpu/view.h
constexpr int64_t kBlurTaps = 2 * 4096 + 1;

struct PlainStep {
  StepKind kind;
  float a;
  double sigma;
  int64_t taps, box[4];
  float fill[3];
  Warp warp;
};

// Plain bytes: made on the host, read by the block.
struct ViewTask {
  int64_t offset, row_stride, channel_stride, pixel;  // of the image in the buffer, in bytes
  int64_t channels;
  Axis rows, columns;
  int64_t steps;
  PlainStep step[kMaxSteps];
};

struct ViewsProblem {
  const uint8_t* images = nullptr;
  const ViewTask* tasks = nullptr;
  uint8_t* scratch = nullptr;
  void* out = nullptr;
  int64_t first = 0, height = 0, width = 0, taps = 0, widest = 0;
  int32_t dtype = 0;  // float, bfloat16, half
  bool channels_last = false;
  float mean[3], scale[3];
};

// A block's memory, in this order.
struct ViewMemory {
  int64_t *row_first, *column_first;
  double* sums;  // [height] greys
  int *row_taps, *column_taps, *count;
  float *row_weights, *column_weights, *table, *blur, *middle, *image, *plane;
  int64_t bytes = 0;
  FASTSSL_HOST_DEVICE ViewMemory(const ViewsProblem& p, uint8_t* memory) {
    take(memory, row_first, p.height);
    take(memory, column_first, p.width);
    take(memory, sums, p.height + 1);
    take(memory, row_taps, p.height);
    take(memory, column_taps, p.width);
    take(memory, count, 3 * 256);
    take(memory, row_weights, p.height * p.taps);
    take(memory, column_weights, p.width * p.taps);
    take(memory, table, 3 * 256);
    take(memory, blur, kBlurTaps);
    take(memory, middle, p.height * p.widest * 3);
    take(memory, image, 3 * p.height * p.width);
    take(memory, plane, 3 * p.height * (p.width > 2 ? p.width : 2));
  }

 private:
  template <class T>
  FASTSSL_HOST_DEVICE void take(uint8_t* memory, T*& part, int64_t n) {
    part = reinterpret_cast<T*>(memory + bytes);
    bytes += (n * int64_t(sizeof(T)) + 15) / 16 * 16;
  }
};
FASTSSL_HOST_DEVICE inline int64_t view_bytes(const ViewsProblem& p) { return ViewMemory(p, nullptr).bytes; }

FASTSSL_DEVICE void fill_taps(const Axis& axis, int64_t i, int64_t most, int64_t* first, int* taps, float* weights) {
  int64_t begin;
  double center, total = 0;
  const int64_t n = axis.taps(i, begin, center);
  for (int64_t k = 0; k < n; ++k) total += axis.weight(begin + k, center);
  for (int64_t k = 0; k < n; ++k)
    weights[i * most + k] = float(axis.weight(begin + k, center) / total * axis.factor(i));
  first[i] = axis.from + begin;
  taps[i] = int(n);
}

// What changes a pixel by itself.
FASTSSL_DEVICE void change(const PlainStep& s, float mean, const float* table, int64_t y, int64_t x, float* c) {
  const auto each = [&](auto value) {
    for (int k = 0; k < 3; ++k) c[k] = value(c[k], k);
  };
  switch (s.kind) {
    case StepKind::brightness: each([&](float v, int) { return brightened(v, s.a); }); break;
    case StepKind::contrast: each([&](float v, int) { return contrasted(v, s.a, mean); }); break;
    case StepKind::saturation: saturation(c[0], c[1], c[2], s.a); break;
    case StepKind::hue: hue(c[0], c[1], c[2], s.a); break;
    case StepKind::gray: grayscale(c[0], c[1], c[2]); break;
    case StepKind::solarize: each([&](float v, int) { return solarized(v, s.a); }); break;
    case StepKind::solarize_add: each([&](float v, int) { return solarize_added(v, s.a); }); break;
    case StepKind::posterize: each([&](float v, int) { return posterized(v, s.a); }); break;
    case StepKind::invert: each([&](float v, int) { return 1.f - v; }); break;
    case StepKind::autocontrast:
      each([&](float v, int k) { return stretched(v, table[2 * k], table[2 * k + 1]); });
      break;
    case StepKind::project: project(c[0], c[1], c[2]); break;
    case StepKind::erase:
      if (y >= s.box[0] && y < s.box[0] + s.box[2] && x >= s.box[1] && x < s.box[1] + s.box[3])
        each([&](float, int k) { return s.fill[k]; });
      break;
    case StepKind::equalize: each([&](float v, int k) { return table[k * 256 + int(byte_of(v))]; }); break;
    default: break;
  }
}

FASTSSL_DEVICE void write_view(const ViewsProblem& p, int64_t view, int64_t y, int64_t x, const float* c) {
  for (int k = 0; k < 3; ++k) {
    const float v = (c[k] - p.mean[k]) * p.scale[k];
    const int64_t at =
        p.channels_last ? ((view * p.height + y) * p.width + x) * 3 + k : ((view * 3 + k) * p.height + y) * p.width + x;
    if (p.dtype == 0) {
      static_cast<float*>(p.out)[at] = v;
    } else {
      static_cast<uint16_t*>(p.out)[at] = p.dtype == 1 ? float_to_bf16(v) : float_to_f16(v);
    }
  }
}

FASTSSL_DEVICE void make_view(const Block& block, const ViewsProblem& p) {
  const int64_t view = p.first + block.index, height = p.height, width = p.width, pixels = height * width;
  const ViewTask& task = p.tasks[view];
  const ViewMemory w(p, p.scratch + block.index * view_bytes(p));
  const uint8_t* source = p.images + task.offset;
  const int64_t left = task.columns.from, span = task.columns.length, channels = task.channels == 1 ? 1 : 3;
  block.phase([&](int thread) {
    for (int64_t i = thread; i < height; i += block.threads)
      fill_taps(task.rows, i, p.taps, w.row_first, w.row_taps, w.row_weights);
    for (int64_t i = thread; i < width; i += block.threads)
      fill_taps(task.columns, i, p.taps, w.column_first, w.column_taps, w.column_weights);
  });
  block.phase([&](int thread) {
    for (int64_t q = thread; q < height * span; q += block.threads) {
      const int64_t y = q / span, x = q % span;
      const float* weights = w.row_weights + y * p.taps;
      for (int64_t c = 0; c < channels; ++c) {
        const uint8_t* at =
            source + w.row_first[y] * task.row_stride + (left + x) * task.pixel + c * task.channel_stride;
        float sum = float(at[0]) * weights[0];
        for (int k = 1; k < w.row_taps[y]; ++k) sum += float(at[k * task.row_stride]) * weights[k];
        w.middle[(y * span + x) * channels + c] = sum;
      }
    }
  });
  block.phase([&](int thread) {
    for (int64_t q = thread; q < pixels; q += block.threads) {
      const int64_t y = q / width, x = q % width;
      const float* weights = w.column_weights + x * p.taps;
      for (int64_t c = 0; c < 3; ++c) {
        const float* at = w.middle + (y * span + w.column_first[x] - left) * channels + (channels == 3 ? c : 0);
        float sum = at[0] * weights[0];
        for (int k = 1; k < w.column_taps[x]; ++k) sum += at[k * channels] * weights[k];
        w.image[c * pixels + q] = sum;
      }
    }
  });

  int64_t next = 0;   // the first step that is still to do
  bool done = false;  // step `next` has what it needs of the image
  while (true) {
    // All steps up to the next that needs the whole image, pixel by pixel.
    int64_t end = next + done;
    while (end < task.steps && !needs_image(task.step[end].kind)) ++end;
    const bool last = end == task.steps;
    block.phase([&](int thread) {
      const float mean = done ? float(w.sums[height] / double(pixels)) : 0.f;
      for (int64_t q = thread; q < pixels; q += block.threads) {
        const int64_t y = q / width, x = q % width;
        float c[3] = {w.image[q], w.image[pixels + q], w.image[2 * pixels + q]};
        for (int64_t k = next; k < end; ++k) change(task.step[k], mean, w.table, y, x, c);
        if (last) {
          write_view(p, view, y, x, c);
        } else {
          for (int k = 0; k < 3; ++k) w.image[k * pixels + q] = c[k];
        }
      }
    });
    if (last) return;
    const PlainStep& s = task.step[end];
    next = end;
    done = true;
    if (s.kind == StepKind::contrast) {
      block.phase([&](int thread) {
        for (int64_t y = thread; y < height; y += block.threads) {
          float lanes[kLanes] = {};
          for (int64_t x = 0; x < width; ++x) {
            const float* at = w.image + y * width + x;
            lanes[x % kLanes] += gray_of(at[0], at[pixels], at[2 * pixels]);
          }
          double total = 0;
          for (float v : lanes) total += double(v);
          w.sums[y] = total;
        }
      });
      block.phase([&](int thread) {
        if (thread) return;
        double total = 0;
        for (int64_t y = 0; y < height; ++y) total += w.sums[y];
        w.sums[height] = total;
      });
    } else if (s.kind == StepKind::equalize) {
      block.phase([&](int thread) {
        for (int b = thread; b < 3 * 256; b += block.threads) w.count[b] = 0;
      });
      block.phase([&](int thread) {
        for (int64_t q = thread; q < 3 * pixels; q += block.threads)
          add(w.count + q / pixels * 256 + int(byte_of(w.image[q])), 1);
      });
      block.phase([&](int thread) {
        if (thread < 3) equalizing(w.count + thread * 256, pixels, w.table + thread * 256);
      });
    } else if (s.kind == StepKind::autocontrast) {
      // The smallest and largest value of each row, then of each channel, and its span.
      block.phase([&](int thread) {
        for (int64_t q = thread; q < 3 * height; q += block.threads) {
          const float* at = w.image + q * width;
          float low = at[0], high = at[0];
          for (int64_t x = 1; x < width; ++x) {
            low = smaller(at[x], low);
            high = larger(at[x], high);
          }
          w.plane[2 * q] = low;
          w.plane[2 * q + 1] = high;
        }
      });
      block.phase([&](int thread) {
        if (thread >= 3) return;
        const float* at = w.plane + 2 * thread * height;
        float low = at[0], high = at[1];
        for (int64_t y = 1; y < height; ++y) {
          low = smaller(at[2 * y], low);
          high = larger(at[2 * y + 1], high);
        }
        w.table[2 * thread] = low;
        w.table[2 * thread + 1] = high - low;
      });
    } else if (s.kind == StepKind::sharpness) {
      block.phase([&](int thread) {
        for (int64_t q = thread; q < 3 * pixels; q += block.threads) w.plane[q] = w.image[q];
      });
      block.phase([&](int thread) {
        const auto three = [&](const float* at) { return (at[-1] + at[0]) + at[1]; };
        for (int64_t q = thread; q < 3 * pixels; q += block.threads) {
          const int64_t x = q % width, y = q % pixels / width;
          if (x == 0 || y == 0 || x == width - 1 || y == height - 1) continue;
          const float* at = w.plane + q;
          w.image[q] = sharpened(at[0], three(at - width), three(at), three(at + width), s.a);
        }
      });
      ++next;
      done = false;
    } else if (s.kind == StepKind::blur) {
      const int64_t radius = blur_radius(s.taps, s.sigma), taps = 2 * radius + 1;
      block.phase([&](int thread) {
        if (thread) return;
        double total = 0;
        for (int64_t k = 0; k < taps; ++k) total += gaussian(k - radius, s.sigma);
        for (int64_t k = 0; k < taps; ++k) w.blur[k] = float(gaussian(k - radius, s.sigma) / total);
      });
      block.phase([&](int thread) {
        for (int64_t q = thread; q < 3 * pixels; q += block.threads) {
          const int64_t x = q % width;
          const float* line = w.image + q - x;
          float sum = line[x] * w.blur[radius];
          for (int64_t k = 1; k <= radius; ++k)
            sum += (line[reflected(x - k, width)] + line[reflected(x + k, width)]) * w.blur[radius + k];
          w.plane[q] = sum;
        }
      });
      block.phase([&](int thread) {
        for (int64_t q = thread; q < 3 * pixels; q += block.threads) {
          const int64_t c = q / pixels, y = q % pixels / width, x = q % width;
          float sum = 0;
          for (int64_t k = 0; k < taps; ++k)
            sum += w.plane[c * pixels + reflected(y + k - radius, height) * width + x] * w.blur[k];
          w.image[q] = sum;
        }
      });
      ++next;
      done = false;
    } else {  // warp
      block.phase([&](int thread) {
        for (int64_t q = thread; q < 3 * pixels; q += block.threads) w.plane[q] = w.image[q];
      });
      block.phase([&](int thread) {
        for (int64_t q = thread; q < pixels; q += block.threads) {
          float sx, sy;
          warped_place(s.warp, float(q % width), q / width, width, height, sx, sy);
          const WarpedPixel pixel(s.warp, sx, sy, width, height);
          for (int64_t c = 0; c < 3; ++c)
            w.image[c * pixels + q] = warped_value(pixel, w.plane + c * pixels, width, width, height, s.fill[c]);
        }
      });
      ++next;
      done = false;
    }
  }
}

}  // namespace cuda
}  // namespace fastssl

// From uint8 images to the views of a batch.
#pragma once
#include <cstdint>
#include <vector>

#include "axis.h"
#include "core/buffer.h"
#include "core/types.h"
#include "program.h"

namespace fastssl {

struct SourceImage {
  const uint8_t* data = nullptr;
  // As many channels as the view has; for one or three also 1 (grey), 3 or 4 (alpha is left out).
  int64_t height = 0, width = 0, channels = 0;
  // Bytes between rows and channels; pixels of a row lie side by side, either whole or a channel at a time.
  int64_t row_stride = 0, channel_stride = 0;
  bool planar = false;
};

struct ViewOutput {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t channels = 3, height = 0, width = 0;  // three channels are colours, others are augmented one by one
  bool channels_last = false;
  const float *mean = nullptr, *std = nullptr;  // of each channel
};

// Resampling along one axis: output i is the sum of weights[i * taps + k] * input[first[i] + k].
struct AxisTable {
  int64_t taps = 0;
  std::vector<int64_t> first;
  std::vector<float> weights;
};
void fill_axis(AxisTable& table, const Axis& axis);

// One worker's memory, reused from view to view.
struct ViewScratch {
  AxisTable rows, columns;
  std::vector<float> block, image, plane, line;
  std::vector<uint8_t> grey;
  std::vector<const float*> pointers;
};

struct ViewTask {
  SourceImage source;
  const Program* program;
  const double* params;
  ViewOutput out;
};

struct AugmentTable {
  void (*view)(const ViewTask&, ViewScratch&);
};

// Draws view `view` of n images: [n, columns].
void sample_views(const Program& program, const int64_t* sizes, uint64_t seed, uint64_t epoch, const int64_t* ids,
                  int64_t n, uint32_t view, double* out);

// `serial`: on the calling thread alone, for callers that are many threads themselves.
// The check of one sample's parameters against its image and the views' size, and the two axes of its resize.
void check_view(const Program& program, const double* params, int64_t height, int64_t width, int64_t view_height,
                int64_t view_width, int64_t sample);
inline Axis rows_axis(const Geometry& g, int64_t height) {
  return {int64_t(g.top), int64_t(g.height), int64_t(g.frame_height), int64_t(g.y), height, g.flip_y,
          g.bicubic,      1.f / 255.f};
}
inline Axis columns_axis(const Geometry& g, int64_t width) {
  return {int64_t(g.left), int64_t(g.width), int64_t(g.frame_width), int64_t(g.x), width, g.flip_x, g.bicubic, 1.f};
}

// Throws std::invalid_argument that names the sample where parameters do not fit its image.
void augment(const Program& program, const std::vector<SourceImage>& sources, const double* params, ViewOutput out,
             int64_t out_stride, bool serial);

}  // namespace fastssl

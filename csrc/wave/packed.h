// Weights in whole cache lines, as the products of a step read them.
#pragma once
#include <algorithm>
#include <vector>

#include "core/types.h"
#include "step.h"

namespace fastssl {

inline int64_t padded(int64_t n) { return ceil_div(n, kWaveLane) * kWaveLane; }

class PackedWeights {
 public:
  // A matrix [inputs][outputs] with a bias [outputs]; its inputs and outputs consist of parts, each of which is padded.
  WaveMatrix matrix(const float* weights, const float* bias, const std::vector<int64_t>& inputs,
                    const std::vector<int64_t>& outputs) {
    int64_t columns = 0, stride = 0, rows = 0;
    for (int64_t part : outputs) columns += part, stride += padded(part);
    for (int64_t part : inputs) rows += padded(part);
    const auto spread = [&](const float* from, float* to) {
      for (int64_t part : outputs) {
        std::copy_n(from, size_t(part), to);
        from += part, to += padded(part);
      }
    };
    float* to = zeros((rows + 1) * stride);
    spread(bias, to);
    int64_t row = 1;
    for (int64_t part : inputs) {
      for (int64_t i = 0; i < part; ++i, weights += columns) spread(weights, to + (row + i) * stride);
      row += padded(part);
    }
    return {to + stride, to, rows, stride};
  }

  // Rows [count][width], each padded.
  const float* rows(const float* from, int64_t count, int64_t width) {
    float* to = zeros(count * padded(width));
    for (int64_t k = 0; k < count; ++k) std::copy_n(from + k * width, size_t(width), to + k * padded(width));
    return to;
  }

 private:
  float* zeros(int64_t count) {
    stored_.emplace_back(size_t(count), 0.f);
    return stored_.back().data();
  }

  std::vector<std::vector<float>> stored_;
};

}  // namespace fastssl

// One step of WaveNet for a few rows: queues of past activations instead of the whole network (Paine et al. 2016).
#pragma once
#include <cstdint>
#include <vector>

namespace fastssl {

constexpr int64_t kWaveLane = 16;  // rows of matrices and of activations are padded with zeros to whole cache lines
constexpr int kWaveRows = 4;       // rows that share the loads of the weights

// Output vectors of a product: weights [inputs][stride], one row per input, and a bias [stride].
struct WaveMatrix {
  const float* weights;
  const float* bias;
  int64_t inputs, stride;
};

struct WaveLayer {
  WaveMatrix gate;  // of the activation `dilation` steps ago, then of the present one; outputs: tanh part, sigmoid part
  WaveMatrix out;   // residual part, skip part
  int64_t dilation;
};

struct WaveNet {
  int64_t levels, width, skip;                       // as the network has them
  int64_t padded_levels, padded_width, padded_skip;  // multiples of kWaveLane
  const float* embed;                                // [levels][padded_width]
  std::vector<WaveLayer> layers;
  WaveMatrix middle, last;
};

// The rows of a group between two steps.
struct WaveState {
  int rows = 0;
  int64_t position = 0;
  std::vector<int32_t> previous;                             // the last code of each row
  std::vector<std::vector<float>> queues;                    // per layer [dilation][rows][padded_width], a ring
  std::vector<float> x, gates, mixed, sums, middle, logits;  // [rows][...] of the step
};

struct WaveTable {
  // Feeds the previous codes; fills `logits` [rows][padded_levels] if `predict`.
  void (*step)(const WaveNet& net, WaveState& state, bool predict);
  // The code that a uniform number in (0, 1) draws from softmax(logits * scale); scale 0: the most probable one.
  int32_t (*draw)(const float* logits, int64_t levels, float scale, double uniform);
};

}  // namespace fastssl

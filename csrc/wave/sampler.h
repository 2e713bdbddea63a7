// Rows that WaveNet samples, or whose next codes it predicts, step by step.
#pragma once
#include <memory>
#include <vector>

#include "packed.h"

namespace fastssl {

// Weights of a network, [inputs][outputs] each, without padding.
struct WaveWeights {
  int64_t levels, width, skip;
  std::vector<int64_t> dilations;
  const float *embed, *gates, *gate_biases, *outs, *out_biases, *middle, *middle_bias, *last, *last_bias;
};

class WaveSampler {
 public:
  WaveSampler(const WaveWeights& weights, int64_t rows);
  int64_t rows() const { return rows_; }
  int64_t levels() const { return net_.levels; }
  int64_t position() const { return position_; }
  // Goes on for `steps` steps: the first `given` of `codes` [rows][steps] are read, the others are drawn and written.
  // Row r of step t is drawn with the counter (seed, t, r). `logits` [rows][steps][levels] are filled unless null.
  void run(int32_t* codes, int64_t steps, int64_t given, float temperature, uint64_t seed, float* logits);

 private:
  std::unique_ptr<WaveState> state(int rows) const;

  PackedWeights packed_;
  WaveNet net_;
  int64_t rows_, position_ = 0;
  std::vector<std::unique_ptr<WaveState>> groups_;
};

}  // namespace fastssl

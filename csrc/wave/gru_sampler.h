// Rows that WaveRNN samples, or whose next codes it predicts, step by step.
#pragma once
#include "gru.h"
#include "packed.h"

namespace fastssl {

// Weights of a network, [inputs][outputs] each, without padding; outputs of the gates: halves x gates x units.
struct GruWeights {
  int64_t values, half;  // of a part of a code; units of half the state
  const float *recurrent, *recurrent_bias, *inputs, *inputs_bias, *middles, *middle_biases, *lasts, *last_biases;
};

class GruSampler {
 public:
  GruSampler(const GruWeights& weights, int64_t rows);
  int64_t rows() const { return rows_; }
  int64_t values() const { return net_.values; }
  int64_t position() const { return position_; }
  // Goes on for `steps` steps: the first `given` of `codes` [rows][steps] are read, the others are drawn and written.
  // Part k of row r at step t is drawn with the counter (seed, 2 t + k, r). `logits` [rows][steps][2][values] are
  // filled unless null.
  void run(int32_t* codes, int64_t steps, int64_t given, float temperature, uint64_t seed, float* logits);

 private:
  PackedWeights packed_;
  GruNet net_;
  int64_t rows_, position_ = 0;
  std::vector<GruState> groups_;
};

}  // namespace fastssl

// One step of WaveRNN for a few rows: a gated recurrent layer, whose halves predict the two parts of a code.
#pragma once
#include "step.h"

namespace fastssl {

constexpr int kParts = 2;   // coarse and fine
constexpr int kGates = 3;   // reset, update, new
constexpr int kInputs = 3;  // both parts of the last code, the coarse part of this one

struct GruNet {
  int64_t values, half;                // of a part; units of half the state
  int64_t padded_values, padded_half;  // multiples of kWaveLane
  float scale;                         // a part p is the input p * scale - 1
  WaveMatrix recurrent;                // of both halves; outputs: the gates of the first half, then of the second
  WaveMatrix inputs;                   // of kInputs inputs (with padding), the same outputs
  WaveMatrix middle[kParts], last[kParts];
};

// The rows of a group between two steps.
struct GruState {
  int rows = 0;
  std::vector<int32_t> previous;                        // the last code of each row
  std::vector<float> state, recurrent, middle, logits;  // [rows][...]
};

struct GruTable {
  // What the gates get of the state before the step.
  void (*recur)(const GruNet& net, GruState& state);
  // Makes the half of the state that predicts part `k`, given the coarse parts [rows] for k = 1; fills `logits`
  // [rows][padded_values] if `predict`.
  void (*part)(const GruNet& net, GruState& state, int k, const int32_t* coarse, bool predict);
};

}  // namespace fastssl

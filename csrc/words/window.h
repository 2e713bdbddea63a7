// One window of Word2Vec: a small product of rows, and the gradient of its loss added to them.
#pragma once
#include <cstdint>
#include <vector>

namespace fastssl {

// Rows of the tables are padded with zeros to whole cache lines.
constexpr int64_t kRowFloats = 16;

// What a window of some size needs besides its rows.
struct WindowScratch {
  std::vector<float> scores, targets, weights, changes, mean;
};

// -sum_cj v_c w_j log sigma(+-x_c . y_j), + for targets, over rows x_c of `in` and y_j of `out`.
struct Window {
  float* in;  // rows of `stride` floats
  float* out;
  int64_t stride;
  const int32_t* inputs;       // rows of `in`, all different
  const float* input_weights;  // how often each is in the window
  int32_t n_inputs;
  const int32_t* outputs;  // rows of `out`, all different
  const float* targets;    // 1 or 0 per output
  const float* weights;    // per output
  int32_t n_outputs;
  float rate;
  bool mean;  // one score per output, with the mean of the inputs
};

struct WordTable {
  // Takes a step of gradient descent on the loss of a window; returns the loss before it if `measured`, else 0.
  double (*step)(const Window& window, WindowScratch& scratch, bool measured);
  // row += factor * sum_k (copies[k] - row), of `n` floats, a multiple of kRowFloats.
  void (*merge)(float* row, const float* const* copies, int count, float factor, int64_t n);
};

}  // namespace fastssl

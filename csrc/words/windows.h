// The windows of a stretch of text, with what they compare.
#pragma once
#include <cstdint>
#include <vector>

#include "sampling.h"

namespace fastssl {

struct Text {
  const int32_t* ids;  // words; anything outside of [0, words) ends a sentence
  int64_t size;
  int64_t words;
};

struct WindowOptions {
  int32_t window, negatives;
  bool cbow, shared;  // shared: the words of a window have the same noise, from a pool of its neighbourhood
  uint64_t seed;
  const float* keep;        // [words] probabilities
  const AliasTable* noise;  // null: hierarchical softmax
  const HuffmanTree* tree;
};

// Windows one after the other: inputs are rows of the first table, outputs of the second.
struct Windows {
  std::vector<int32_t> inputs, outputs;
  std::vector<float> input_weights;     // how often each is in the window
  std::vector<float> targets, weights;  // per output
  std::vector<int64_t> input_ends, output_ends;
  int64_t size() const { return int64_t(input_ends.size()); }
  void clear();
};

// Noise for the windows of a stretch of text: few rows of the output table that are used several times while they are
// in the caches. Each draw has the distribution of the noise; draws of one stretch are not independent.
class NoisePool {
 public:
  static constexpr int64_t kBlock = 256;  // positions
  static constexpr uint32_t kSize = 128;  // a power of two
  void move_to(const WindowOptions& options, uint32_t epoch, int64_t position);
  static uint32_t place(uint32_t draw) { return draw & (kSize - 1); }
  const int32_t* words() const { return words_; }

 private:
  int64_t block_ = -1;
  int32_t words_[kSize];
};

// Finds the windows whose centres are at positions [begin, end) of the text.
class WindowFinder {
 public:
  void find(const Text& text, const WindowOptions& options, uint32_t epoch, int64_t begin, int64_t end, Windows& to);

 private:
  struct Kept {
    int32_t word;
    int64_t position, sentence;
  };
  std::vector<Kept> kept_;
};

}  // namespace fastssl

// What is drawn in Word2Vec, by counter: which words of the text are kept, windows, and words of noise.
#pragma once
#include <cstdint>
#include <vector>

#include "core/philox.h"

namespace fastssl {

// Draws from a discrete distribution in constant time (Walker's alias method).
class AliasTable {
 public:
  // Weights >= 0 and finite, at least one above 0.
  explicit AliasTable(const std::vector<double>& weights);
  int64_t size() const { return int64_t(entries_.size()); }
  int32_t draw(uint32_t place, uint32_t coin) const {
    const auto k = uint32_t((uint64_t(place) * entries_.size()) >> 32);
    return coin < entries_[k].threshold ? int32_t(k) : entries_[k].other;
  }

 private:
  struct Entry {
    uint32_t threshold;
    int32_t other;
  };
  std::vector<Entry> entries_;
};

// Huffman's binary tree over words: inner nodes on the way from the root to each word, and where it turns.
struct HuffmanTree {
  std::vector<int64_t> begins;  // of each word's way; one more at the end
  std::vector<int32_t> nodes;   // 0 to words - 2
  std::vector<float> codes;     // 0 or 1
  explicit HuffmanTree(const std::vector<double>& counts);
};

// Numbers of one position of the text in one epoch, four at a time. What is drawn does not depend on threads, segments
// or where a run was resumed.
class PositionDraws {
 public:
  // The last word of the counter: 0 is which words are kept, then the draws of windows, then those of pools of noise.
  static constexpr uint32_t kWindow = 1, kPool = 1u << 31;

  PositionDraws(uint64_t seed, uint32_t epoch, uint64_t position, uint32_t stream = kWindow)
      : philox_{{uint32_t(seed), uint32_t(seed >> 32)}},
        counter_{uint32_t(position), uint32_t(position >> 32), epoch, stream} {}
  uint32_t next() {
    if (left_ == 0) {
      philox_(counter_, numbers_);
      ++counter_[3];
      left_ = 4;
    }
    return numbers_[4 - left_--];
  }

 private:
  Philox philox_;
  uint32_t counter_[4];
  uint32_t numbers_[4];
  int left_ = 0;
};

}  // namespace fastssl

// Scaled dot-product attention of one head (Vaswani et al., 2017), computed in fp32.
#pragma once
#include "core/types.h"

namespace fastssl {

// Rows of a head: tokens, whose features lie side by side.
struct Tokens {
  const void* data = nullptr;
  int64_t count = 0, stride = 0;
};
struct Gradient {
  void* data = nullptr;
  int64_t stride = 0;
};

// exp2(score - shift) factor is a probability; scores in units of log 2.
struct Softmax {
  float shift, factor;
};

struct Head {
  Tokens query, key, value;
  DType dtype;  // of all that is read and written: f32 or bf16
  int64_t depth, value_depth;
  float scale;  // of the scores
  bool causal;  // query l sees keys up to l
  // One row per query: whether it sees a key, or what is added to the score; null: all are seen.
  const uint8_t* visible = nullptr;
  const float* added = nullptr;
  int64_t mask_row = 0, mask_column = 0;  // strides
  const uint8_t* kept = nullptr;          // [query][key]: dropout; null: none
  float kept_scale = 1;
  Softmax* rows = nullptr;  // [query]: written by the forward pass
  // Forward: the result. Backward: its gradient, and those to write.
  Gradient out;
  Tokens out_gradient;
  Gradient query_gradient, key_gradient, value_gradient;
};

struct AttentionTable {
  void (*forward)(const Head& head, float* scratch);
  void (*backward)(const Head& head, float* scratch);
};

constexpr int64_t kQueryBlocks = 4;  // of 32 queries, which are computed at once

// Floats of scratch.
constexpr int64_t attention_scratch(int64_t keys, int64_t depth, int64_t value_depth, bool backward) {
  const int64_t kb = ceil_div(keys, kBlock) * kBlock, db = ceil_div(depth, kBlock) * kBlock;
  const int64_t vb = ceil_div(value_depth, kBlock) * kBlock, qb = kQueryBlocks * kBlock;
  const int64_t forward = kb * (db + vb) + qb * (db + vb + kb);
  return backward ? kb * 3 * (db + vb) + qb * (3 * db + 2 * vb + 3 * kb) : forward;
}

}  // namespace fastssl

// Operations on single elements: masks of dropout as torch's CPU generator draws them, products with them, and GELU.
#pragma once
#include "core/types.h"

namespace fastssl {

// The state of a Mersenne Twister (MT19937): Matsumoto and Nishimura, ACM Transactions on Modeling and Computer
// Simulation 8 (1998).
constexpr int64_t kTwisterWords = 624;
constexpr int64_t kTwisterPadding = 16;
constexpr int64_t kTwisterDraws = kTwisterWords / 2;  // of 53 bits, from two words each

struct ElementwiseTable {
  void (*twist)(uint32_t* state);  // to the next one
  // kept[k]: whether draw k of `count`, an integer below 2^53 from words of a state, is below `bound`. Up to
  // kTwisterPadding words behind them are read.
  void (*draw)(const uint32_t* words, int64_t count, uint64_t bound, uint8_t* kept);
  // out = x * scale where kept, x * 0 elsewhere, in the arithmetic of torch.
  void (*scale)(const void* x, DType dtype, const uint8_t* kept, double scale, int64_t count, void* out);
  // x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, and its derivative; of f32 or bf16.
  void (*gelu)(const void* x, DType dtype, int64_t count, void* out);
  void (*gelu_backward)(const void* grad, const void* x, DType dtype, int64_t count, void* out);
};

}  // namespace fastssl

// Dropout over the threads of the pool; the same bits for any number of them, and as torch's.
#pragma once
#include "kernels.h"

namespace fastssl {

// torch's generator as `Generator.get_state` gives it: at::CPUGeneratorImplState, whose normal draws follow.
struct Twister {
  uint64_t seed;
  int32_t left;  // words of the state that are not used yet, and 1
  int32_t seeded;
  uint64_t next;  // the first of them
  uint64_t words[kTwisterWords];
};

// kept[k] = whether `probability` is above the k-th number in [0, 1) that the generator draws.
void draw_kept(Twister& generator, double probability, int64_t count, uint8_t* kept);

// out = x * scale where kept, x * 0 elsewhere.
void scale_kept(const void* x, DType dtype, const uint8_t* kept, double scale, int64_t count, void* out);

}  // namespace fastssl

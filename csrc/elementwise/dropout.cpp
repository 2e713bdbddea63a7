#include "dropout.h"

#include <algorithm>
#include <cmath>

#include "core/isa.h"
#include "pieces.h"

namespace fastssl {

void draw_kept(Twister& generator, double probability, int64_t count, uint8_t* kept) {
  const ElementwiseTable& kernels = *isa().elementwise;
  const auto bound = uint64_t(std::ceil(std::ldexp(probability, 53)));
  const int64_t rest = generator.left - 1, odd = rest % 2;
  const int64_t first = std::min(count, rest / 2);  // draws from the state as it is
  uint32_t words[kTwisterWords + kTwisterPadding] = {};
  std::copy_n(generator.words, kTwisterWords, words);
  kernels.draw(words + generator.next, first, bound, kept);
  const int64_t states = ceil_div(count - first, kTwisterDraws);
  if (states == 0) {
    generator.next += uint64_t(2 * count), generator.left -= int32_t(2 * count);
    return;
  }
  // Each thread makes all states up to its last one, which takes a fifth of the time, and draws from its own.
  in_pieces(states * kTwisterDraws, [&](int64_t begin, int64_t end) {
    uint32_t state[kTwisterWords], drawn[1 + kTwisterWords + kTwisterPadding] = {};
    std::copy_n(words, kTwisterWords, state);
    const int64_t from = ceil_div(begin, kTwisterDraws), to = ceil_div(end, kTwisterDraws);
    if (from == to) return;  // the state of the piece before
    for (int64_t k = 0; k < to; ++k) {
      drawn[0] = state[kTwisterWords - 1];  // an odd one is the first word of the next draw
      kernels.twist(state);
      if (k < from) continue;
      std::copy_n(state, kTwisterWords, drawn + odd);
      const int64_t at = first + k * kTwisterDraws;
      kernels.draw(drawn, std::min(kTwisterDraws, count - at), bound, kept + at);
    }
    if (to == states) {
      std::copy_n(state, kTwisterWords, generator.words);
      const int64_t used = 2 * (count - first - (states - 1) * kTwisterDraws) - odd;
      generator.next = uint64_t(used), generator.left = int32_t(kTwisterWords - used + 1);
    }
  });
}

void scale_kept(const void* x, DType dtype, const uint8_t* kept, double scale, int64_t count, void* out) {
  in_pieces(count, [&](int64_t begin, int64_t end) {
    isa().elementwise->scale(at(x, dtype, begin), dtype, kept + begin, scale, end - begin, at(out, dtype, begin));
  });
}

}  // namespace fastssl

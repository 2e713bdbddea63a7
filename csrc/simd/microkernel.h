// The one inner loop: acc[r][v] += a[k, r] * b[k, lanes v]. Scores, gradients of x and gradients of y are
// this loop with other strides.
#pragma once
#include "simd.h"

namespace fastssl {
namespace FASTSSL_ISA {

constexpr int64_t kSquare = kBlock * kBlock / 2;  // words of 32 x 32 values of bf16

struct NoSetup {
  ~NoSetup() {}  // no warning of a variable that nothing reads
};

// Operand kinds. Run: words that 32 contracted elements take. Pairs: words are two values of bf16. Setup: lives while
// products are computed.
template <class T>
struct Plain {
  using Acc = T;
  using Word = T;
  using Setup = NoSetup;
  static constexpr int kRun = int(kBlock);
  static constexpr bool kPairs = false, kTiles = false;
  static FASTSSL_INLINE Vec<T> load_b(const Word* p) { return load<T>(p); }
  static FASTSSL_INLINE Vec<T> mac(Vec<T> acc, Word a, Vec<T> b) { return acc + a * b; }
};

// Pairs of bf16 in one 32-bit word, summed in fp32.
struct Bf16Words {
  using Acc = float;
  using Word = uint32_t;
  static constexpr int kRun = int(kBlock) / 2;
  static constexpr bool kPairs = true;
};

#ifdef FASTSSL_BF16_PAIRS
// One instruction does two multiply-adds a lane.
struct Bf16Pairs : Bf16Words {
  using Setup = NoSetup;
  static constexpr bool kTiles = false;
  static FASTSSL_INLINE Words load_b(const Word* p) {
    Words v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static FASTSSL_INLINE Vec<float> mac(Vec<float> acc, Word a, Words b) { return bf16_dot(acc, Words{} + a, b); }
};
#endif

// Two panels of four runs (32 KiB) stay in L1 while all micro-tiles of a block pass over them.
constexpr int64_t kPanelRuns = 4;

template <class K, int R>
using Micro = Vec<typename K::Acc>[R][kVectors];

// A micro-tile in memory: rows of a block of 32 lanes.
template <class K, int R>
FASTSSL_INLINE void load_micro(Micro<K, R>& acc, const typename K::Acc* p) {
  using T = typename K::Acc;
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kVectors; ++v) acc[r][v] = load<T>(p + r * kBlock + v * kWidth<T>);
}
template <class K, int R>
FASTSSL_INLINE void store_micro(typename K::Acc* p, const Micro<K, R>& acc) {
  using T = typename K::Acc;
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kVectors; ++v) store<T>(p + r * kBlock + v * kWidth<T>, acc[r][v]);
}

template <class K, int kStrideK, int kStrideR, int R>
FASTSSL_INLINE void step(Micro<K, R>& acc, const typename K::Word* a, const typename K::Word* b, int k) {
  const auto* bk = b + k * int(kBlock);
  const auto b0 = K::load_b(bk), b1 = K::load_b(bk + kWidth<typename K::Acc>);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const auto w = a[k * kStrideK + r * kStrideR];
    acc[r][0] = K::mac(acc[r][0], w, b0);
    acc[r][1] = K::mac(acc[r][1], w, b1);
  }
}

// Asks for memory that is wanted after these products while they are computed.
class Prefetcher {
 public:
  Prefetcher() = default;
  explicit Prefetcher(Span span) : span_(span) {}
  explicit Prefetcher(const PrefetchPlan& soon) : next_(soon.spans), last_(soon.spans + PrefetchPlan::kSpans) {}

  FASTSSL_INLINE void operator()() {
    if (span_.at >= span_.end) {
      if (next_ == last_) return;
      span_ = *next_++;
      if (span_.at >= span_.end) return;
    }
#pragma GCC unroll 8
    for (int k = 0; k < kLines; ++k) __builtin_prefetch(span_.at + 64 * k, 0, 2);
    span_.at += 64 * kLines;
  }

 private:
  static constexpr int kLines = 8;  // a run; hundreds of cycles (tiles: 70), a line from memory takes as long
  Span span_;
  const Span* next_ = nullptr;
  const Span* last_ = nullptr;
};
struct Nothing {
  FASTSSL_INLINE void operator()() {}
};

// `runs` whole runs, `a_step` and `b_step` words apart, then `tail` words of one more; ahead() before each run.
template <class K, int kStrideK, int kStrideR, int R, class Prefetch = Nothing>
FASTSSL_INLINE void multiply(Micro<K, R>& acc, const typename K::Word* a, int64_t a_step, const typename K::Word* b,
                             int64_t b_step, int64_t runs, int tail, Prefetch&& ahead = {}) {
  for (int64_t run = 0; run < runs; ++run, a += a_step, b += b_step) {
    ahead();
#pragma GCC unroll 4
    for (int k = 0; k < K::kRun; ++k) step<K, kStrideK, kStrideR, R>(acc, a, b, k);
  }
  for (int k = 0; k < tail; ++k) step<K, kStrideK, kStrideR, R>(acc, a, b, k);
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

// A block of threads in phases: on a GPU real threads and barriers, on the host loops, so that the arithmetic that
// ships is the arithmetic that the tests run. What lives longer than a phase lies in memory; a thread's variables do
// not.
#pragma once
#include <cstdint>

#include "core/philox.h"

#ifdef __CUDACC__
#define FASTSSL_DEVICE __device__ inline
#else
#include <vector>
#define FASTSSL_DEVICE inline
#endif

namespace fastssl {
namespace cuda {

#ifdef __CUDACC__

struct Block {
  int64_t index;
  int threads;
  // f(thread) for every thread, then a barrier.
  template <class F>
  __device__ void phase(F&& f) const {
    f(int(threadIdx.x));
    __syncthreads();
  }
};

__device__ inline void add(int* to, int value) { atomicAdd(to, value); }
__device__ inline void least(unsigned long long* to, unsigned long long value) { atomicMin(to, value); }
__device__ inline void most(unsigned long long* to, unsigned long long value) { atomicMax(to, value); }

#else

// Threads run one after the other, in an order drawn anew for every phase: what depends on it is a race.
struct Block {
  int64_t index;
  int threads;
  uint32_t seed;
  mutable uint32_t phases = 0;
  template <class F>
  void phase(F&& f) const {
    std::vector<int> order(static_cast<size_t>(threads));
    for (int t = 0; t < threads; ++t) order[size_t(t)] = t;
    uint32_t state = (seed ^ uint32_t(index) * 2654435761u ^ ++phases * 40503u) | 1u;
    for (int t = threads; t-- > 1 && seed;) {
      state = state * 1664525u + 1013904223u;
      const int other = int((uint64_t(state) * uint64_t(t + 1)) >> 32);
      const int kept = order[size_t(t)];
      order[size_t(t)] = order[size_t(other)];
      order[size_t(other)] = kept;
    }
    for (int t : order) f(t);
  }
};

inline void add(int* to, int value) { *to += value; }
inline void least(unsigned long long* to, unsigned long long value) { *to = value < *to ? value : *to; }
inline void most(unsigned long long* to, unsigned long long value) { *to = value > *to ? value : *to; }

#endif

// [begin, end) of n things for one thread of many: neighbours go together, so that their order is that of the threads.
struct Share {
  int64_t begin, end;
  FASTSSL_HOST_DEVICE Share(int64_t n, int thread, int threads)
      : begin(n * thread / threads), end(n * (thread + 1) / threads) {}
};

FASTSSL_HOST_DEVICE inline int64_t power_of_two(int64_t n) {
  int64_t p = 1;
  while (p < n) p *= 2;
  return p;
}

// Floats as integers in the same order; NaN above everything.
FASTSSL_HOST_DEVICE inline uint32_t ordered(float x) {
  union {
    float f;
    uint32_t u;
  } bits;
  bits.f = x;
  if (x != x) return 0xFFFFFFFFu;
  if (x == 0) bits.u = 0;  // -0 is 0
  return bits.u & 0x80000000u ? ~bits.u : bits.u | 0x80000000u;
}

// Sorts `size` (a power of two) keys, ascending.
FASTSSL_DEVICE void bitonic_sort(const Block& block, uint64_t* keys, int64_t size) {
  for (int64_t width = 2; width <= size; width *= 2)
    for (int64_t step = width / 2; step > 0; step /= 2)
      block.phase([=](int thread) {
        for (int64_t q = thread; q < size / 2; q += block.threads) {
          const int64_t low = q / step * step * 2 + q % step, high = low + step;
          const bool up = (low & width) == 0;
          const uint64_t a = keys[low], b = keys[high];
          if ((a > b) == up) {
            keys[low] = b;
            keys[high] = a;
          }
        }
      });
}

}  // namespace cuda
}  // namespace fastssl

// Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011): random numbers by counter.
// The numbers of one draw depend on its key and counter alone, so any thread, worker or device can make them.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define FASTSSL_HOST_DEVICE __host__ __device__
#else
#define FASTSSL_HOST_DEVICE
#endif

namespace fastssl {

struct Philox {
  uint32_t key[2];

  FASTSSL_HOST_DEVICE void operator()(const uint32_t counter[4], uint32_t out[4]) const {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round) {
      const uint64_t a = uint64_t(0xD2511F53u) * c0, b = uint64_t(0xCD9E8D57u) * c2;
      c0 = uint32_t(b >> 32) ^ c1 ^ k0;
      c1 = uint32_t(b);
      c2 = uint32_t(a >> 32) ^ c3 ^ k1;
      c3 = uint32_t(a);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
  }
};

// In (0, 1), never an end.
FASTSSL_HOST_DEVICE inline double uniform_of(uint32_t bits) { return (double(bits) + 0.5) * (1.0 / 4294967296.0); }

}  // namespace fastssl

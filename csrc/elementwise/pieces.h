// Loops over elements.
#pragma once
#include "core/parallel.h"

namespace fastssl {

// f(begin, end) over pieces of [0, count), without the floating-point mode of kernels: torch's results keep subnormals.
template <class F>
void in_pieces(int64_t count, F&& f) {
  constexpr int64_t kTask = 1 << 15;  // elements that are worth a thread's while
  if (count <= kTask || num_threads() == 1) {
    f(int64_t(0), count);
    return;
  }
  pool_started.store(true, std::memory_order_relaxed);
  torch::stable::parallel_for(0, count, kTask, f);
}

// Element `k`.
inline const void* at(const void* data, DType dtype, int64_t k) {
  return static_cast<const char*>(data) + k * (dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2);
}
inline void* at(void* data, DType dtype, int64_t k) {
  return const_cast<void*>(at(static_cast<const void*>(data), dtype, k));
}

}  // namespace fastssl

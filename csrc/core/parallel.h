// Loops over the threads of torch's pool.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>

#include "float_mode.h"
#include "types.h"

namespace fastssl {

// f(worker) on each of `workers` threads, in the floating-point mode of kernels. All work of the kernels passes here.
template <class F>
void on_workers(int64_t workers, F&& f) {
  if (workers <= 1) {
    const FlushSubnormals mode;
    f(int64_t(0));
    return;
  }
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    const FlushSubnormals mode;
    for (int64_t worker = begin; worker < end; ++worker) f(worker);
  });
}

// f(worker, k) for k in [0, n), on at most `most` threads: workers take the next k when they are free.
template <class F>
void parallel_tasks(int64_t n, F&& f, int64_t most = INT64_MAX) {
  std::atomic<int64_t> next{0};
  on_workers(std::min<int64_t>({n, most, int64_t(torch::stable::get_num_threads())}), [&](int64_t worker) {
    for (int64_t k; (k = next.fetch_add(1, std::memory_order_relaxed)) < n;) f(worker, k);
  });
}

// f(worker, row) over rows in pieces that are worth a thread's while.
template <class F>
void parallel_rows(int64_t n, int64_t depth, F&& f) {
  const int64_t piece = std::max<int64_t>(kBlock, 16384 / std::max<int64_t>(depth, 1));
  parallel_tasks(ceil_div(n, piece), [&](int64_t worker, int64_t k) {
    for (int64_t row = k * piece; row < std::min(n, (k + 1) * piece); ++row) f(worker, row);
  });
}

}  // namespace fastssl

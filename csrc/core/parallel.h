// Loops over the threads of torch's pool.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "float_mode.h"
#include "types.h"

namespace fastssl {

using Clock = std::chrono::steady_clock;

// Whether the threads of the pool arrive too late to help. A region ends when its last thread has come, and while other
// processes hold the cores that takes a time slice (3 ms) or several, whatever there was to do: 256 rows took 31 ms
// instead of 0.9 beside two busy processes. So when a region took longer than all its threads worked (and waking them
// is no explanation), the regions that follow begin on the calling thread, for kMemory times as long, and call the
// others if they are not done after kAlone.
class Crowding {
 public:
  static constexpr Clock::duration kAlone = std::chrono::milliseconds(5);
  static bool crowded() { return Clock::now().time_since_epoch().count() < until_.load(std::memory_order_relaxed); }
  static void region_took(Clock::duration elapsed, Clock::duration worked) {
    if (elapsed > worked + kWaking) assume(kMemory * elapsed);
  }
  static void assume(Clock::duration time) {
    until_.store((Clock::now() + time).time_since_epoch().count(), std::memory_order_relaxed);
  }
  // A thread that waits within a region for another one does not work.
  static thread_local Clock::duration waited;

 private:
  static constexpr Clock::duration kWaking = std::chrono::microseconds(200);
  static constexpr int kMemory = 32;
  static std::atomic<Clock::rep> until_;
};

inline thread_local Clock::duration Crowding::waited{};
inline std::atomic<Clock::rep> Crowding::until_{};

// Whether a region has run on several threads in this process.
inline std::atomic<bool> pool_started{false};

// The threads that a loop may take: torch's number, but 1 in a process that was forked after OpenMP's pool had been
// started. Its threads exist in the parent alone, and the child's first region would wait for them forever.
int64_t num_threads();

// f(worker) on each of `workers` threads, in the floating-point mode of kernels. All work of the kernels passes here.
template <class F>
void on_workers(int64_t workers, F&& f) {
  if (workers <= 1) {
    const FlushSubnormals mode;
    f(int64_t(0));
    return;
  }
  pool_started.store(true, std::memory_order_relaxed);
  const auto start = Clock::now();
  std::atomic<Clock::rep> worked{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    const FlushSubnormals mode;
    const auto began = Clock::now() - Crowding::waited;
    for (int64_t worker = begin; worker < end; ++worker) f(worker);
    worked.fetch_add((Clock::now() - Crowding::waited - began).count(), std::memory_order_relaxed);
  });
  Crowding::region_took(Clock::now() - start, Clock::duration(worked.load(std::memory_order_relaxed)));
}

// work_until(worker, deadline) on at most `workers` threads, until left() is false or the deadline is over.
template <class Left, class F>
void share_work(int64_t workers, Clock::time_point deadline, Left&& left, F&& work_until) {
  if (workers > 1 && Crowding::crowded()) {
    on_workers(1, [&](int64_t worker) { work_until(worker, std::min(deadline, Clock::now() + Crowding::kAlone)); });
    if (!left()) return;
  }
  on_workers(workers, [&](int64_t worker) { work_until(worker, deadline); });
}

// f(worker, k) for k in [0, n), on at most `most` threads: workers take the next k when they are free.
template <class F>
void parallel_tasks(int64_t n, F&& f, int64_t most = INT64_MAX) {
  std::atomic<int64_t> next{0};
  share_work(
      std::min({n, most, num_threads()}), Clock::time_point::max(),
      [&] { return next.load(std::memory_order_relaxed) < n; },
      [&](int64_t worker, Clock::time_point deadline) {
        for (int64_t k; Clock::now() < deadline && (k = next.fetch_add(1, std::memory_order_relaxed)) < n;)
          f(worker, k);
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

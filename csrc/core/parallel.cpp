#include "parallel.h"

#ifndef _WIN32
#include <pthread.h>
#include <sys/stat.h>
#endif

namespace fastssl {
namespace {

std::atomic<bool> pool_lost{false};

#ifndef _WIN32
// Threads of this process, 0 where the system does not say.
int64_t running_threads() {
  struct stat tasks;
  return stat("/proc/self/task", &tasks) == 0 ? int64_t(tasks.st_nlink) - 2 : 0;
}

// torch's own operations may have started the pool: any thread since this library was loaded may be one of it.
const int64_t threads_at_load = running_threads();
bool losing = false;

[[maybe_unused]] const int registered =
    pthread_atfork([] { losing = pool_lost.load() || pool_started.load() || running_threads() > threads_at_load; },
                   nullptr, [] { pool_lost.store(losing); });
#endif

}  // namespace

int64_t num_threads() {
  return pool_lost.load(std::memory_order_relaxed) ? 1 : std::max<int64_t>(torch::stable::get_num_threads(), 1);
}

}  // namespace fastssl

#include "interrupt.h"

#include <atomic>
#include <chrono>

namespace fastssl {
namespace {

std::atomic<int (*)()> interrupt_check{nullptr};

}  // namespace

void set_interrupt_check(int (*check)()) { interrupt_check.store(check); }

void poll_interrupt() {
  // A check needs Python's lock, which other threads may hold for milliseconds: ten a second are enough.
  thread_local auto last = std::chrono::steady_clock::now();
  const auto now = std::chrono::steady_clock::now();
  if (now - last < std::chrono::milliseconds(100)) return;
  last = now;
  const auto check = interrupt_check.load();
  if (check && check() != 0) throw Interrupted();
}

}  // namespace fastssl

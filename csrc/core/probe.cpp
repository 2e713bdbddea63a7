#include "probe.h"

#include <torch/csrc/stable/ops.h>

#include <chrono>

#include "float_mode.h"
#include "isa.h"
#include "parallel.h"

namespace fastssl {

std::vector<bool> float_modes(int threads) {
  std::vector<char> flushes(static_cast<size_t>(threads), 0);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) flushes[size_t(k)] = FlushSubnormals::is_set();
  });
  return {flushes.begin(), flushes.end()};
}

void set_float_modes(const std::vector<bool>& flushes) {
  const std::vector<char> modes(flushes.begin(), flushes.end());
  torch::stable::parallel_for(0, int64_t(modes.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) FlushSubnormals::set(modes[size_t(k)] != 0);
  });
}

void assume_crowded(double seconds) {
  Crowding::assume(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)));
}

double fma_rate(int threads, double seconds) {
  const auto& table = isa();
  std::vector<double> rate(static_cast<size_t>(threads), 0.0);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const auto start = std::chrono::steady_clock::now();
      double flops = 0, passed = 0;
      while (passed < seconds) {
        flops += table.fma_loop(100000);
        passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      }
      rate[size_t(k)] = flops / passed;
    }
  });
  double total = 0;
  for (double r : rate) total += r;
  return total;
}

}  // namespace fastssl

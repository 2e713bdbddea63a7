#include "density.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/buffer.h"
#include "core/isa.h"
#include "core/parallel.h"

namespace fastssl {

namespace {

template <class T>
const DensityTable<T>& density_kernels() {
  return of_type<T>(*isa().density);
}

// Rows that share one pass over the weights.
constexpr int64_t kLanes = 32, kFewLanes = 16, kMostBlocks = 4;
constexpr double kWorthThreads = 1 << 18;  // multiply-adds

// The states of some blocks of rows, a row per lane.
template <class T>
class Chains {
 public:
  Chains(const GibbsProblem<T>& p, int64_t lanes, int64_t first_block, int64_t blocks)
      : p_(p),
        lanes_(lanes),
        blocks_(blocks),
        first_(first_block * lanes),
        rows_(std::min(p.rows - first_, blocks * lanes)),
        v_(blocks * p.dimensions * lanes),
        h_(blocks * p.hidden * lanes, false),
        keys_(size_t(blocks * 2 * lanes)) {
    for (int64_t r = 0; r < rows_; ++r) {
      T* lane = v_.data() + at(r, p.dimensions);
      const T* x = p.visible + (first_ + r) * p.dimensions;
      for (int64_t d = 0; d < p.dimensions; ++d) {
        within_ &= x[d] >= 0 && x[d] <= 1;
        lane[d * lanes] = x[d];
      }
      uint32_t* key = keys_.data() + at(r, 2);
      key[0] = uint32_t(p.keys[first_ + r]);
      key[lanes] = uint32_t(uint64_t(p.keys[first_ + r]) >> 32);
    }
  }
  bool within() const { return within_; }

  // Part `part` of `parts` of the units of one side, given the other side: hidden ones in even halves of steps.
  void half_step(int64_t half, int64_t part, int64_t parts) {
    const bool hidden = half % 2 == 0;
    const int64_t inputs = hidden ? p_.dimensions : p_.hidden, outputs = hidden ? p_.hidden : p_.dimensions;
    const int64_t share = ceil_div(ceil_div(outputs, parts), kDrawUnits) * kDrawUnits;
    const int64_t begin = std::min(outputs, part * share), end = std::min(outputs, begin + share);
    if (begin == end) return;
    Buffer<T> scratch(inputs * kTileUnits, false);
    density_kernels<T>().half_step({hidden ? v_.data() : h_.data(), hidden ? h_.data() : v_.data(), blocks_, lanes_,
                                    ceil_div(rows_ - (blocks_ - 1) * lanes_, kFewLanes) * kFewLanes, inputs, outputs,
                                    begin, end, p_.weight, hidden ? 1 : p_.dimensions, hidden ? p_.dimensions : 1,
                                    scratch.data(), hidden ? p_.hidden_bias : p_.visible_bias, keys_.data(),
                                    uint32_t(half), p_.normal && !hidden ? Units::normal : Units::binary});
  }
  void write(T* out) const {
    for (int64_t r = 0; r < rows_; ++r) {
      const T* lane = v_.data() + at(r, p_.dimensions);
      T* to = out + (first_ + r) * p_.dimensions;
      for (int64_t d = 0; d < p_.dimensions; ++d) to[d] = lane[d * lanes_];
    }
  }

 private:
  int64_t at(int64_t row, int64_t units) const { return row / lanes_ * units * lanes_ + row % lanes_; }

  const GibbsProblem<T>& p_;
  const int64_t lanes_, blocks_, first_, rows_;
  Buffer<T> v_, h_;
  std::vector<uint32_t> keys_;  // [block][2][lanes]
  bool within_ = true;
};

}  // namespace

template <class T>
bool gibbs(const GibbsProblem<T>& p, T* out) {
  const int64_t threads = num_threads();
  // A row's bits do not depend on how many there are.
  const int64_t lanes = p.rows > kFewLanes ? kLanes : kFewLanes;
  const int64_t blocks = ceil_div(p.rows, lanes), tasks = ceil_div(blocks, kMostBlocks * kLanes / lanes);
  const double work = double(p.rows) * double(p.dimensions) * double(p.hidden);
  const bool few = work * double(p.steps) < kWorthThreads;
  // Threads share the units where there are not enough rows for them, and the work between two halves is worth it.
  const bool by_units = tasks < threads && work > kWorthThreads;
  std::atomic<bool> within{true};
  const auto run = [&](int64_t, int64_t task) {
    const int64_t begin = task * blocks / tasks, count = (task + 1) * blocks / tasks - begin;
    Chains<T> chains(p, lanes, begin, count);
    if (!chains.within() && !p.normal) within.store(false, std::memory_order_relaxed);
    for (int64_t half = 2 * p.first; half < 2 * (p.first + p.steps); ++half) {
      if (by_units)
        parallel_tasks(threads, [&](int64_t, int64_t part) { chains.half_step(half, part, threads); });
      else
        chains.half_step(half, 0, 1);
    }
    chains.write(out);
  };
  if (by_units)
    for (int64_t task = 0; task < tasks; ++task) run(0, task);
  else
    parallel_tasks(tasks, run, few ? 1 : INT64_MAX);
  return within.load(std::memory_order_relaxed);
}

template <class T>
void nade_forward(const Nade<T>& p, T* visible, int64_t rows, const int64_t* keys, double* losses, T* slopes, T* last) {
  const DensityTable<T>& kernels = density_kernels<T>();
  parallel_tasks(ceil_div(rows, kNadeRows), [&](int64_t, int64_t group) {
    const int64_t row = group * kNadeRows, count = std::min(rows - row, kNadeRows);
    Buffer<T> scratch(kNadeRows * p.hidden, false), own(last ? 0 : kNadeRows * p.hidden, false);
    kernels.nade_rows(p, visible + row * p.dimensions, count, keys ? keys + row : nullptr, losses + row,
                      slopes ? slopes + row * p.dimensions : nullptr, last ? last + row * p.hidden : own.data(),
                      scratch.data());
  });
}

template <class T>
void nade_backward(const Nade<T>& p, const T* visible, int64_t rows, const T* slopes, const T* last, T* weight,
                   T* output, T* hidden_bias) {
  const DensityTable<T>& kernels = density_kernels<T>();
  parallel_tasks(p.hidden / kNadeUnits, [&](int64_t, int64_t block) {
    kernels.nade_units(p, visible, rows, slopes, last, block * kNadeUnits, weight, output, hidden_bias);
  });
}

template bool gibbs(const GibbsProblem<float>&, float*);
template bool gibbs(const GibbsProblem<double>&, double*);
template void nade_forward(const Nade<float>&, float*, int64_t, const int64_t*, double*, float*, float*);
template void nade_forward(const Nade<double>&, double*, int64_t, const int64_t*, double*, double*, double*);
template void nade_backward(const Nade<float>&, const float*, int64_t, const float*, const float*, float*, float*,
                            float*);
template void nade_backward(const Nade<double>&, const double*, int64_t, const double*, const double*, double*, double*,
                            double*);

}  // namespace fastssl

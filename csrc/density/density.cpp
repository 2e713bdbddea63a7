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
  if constexpr (sizeof(T) == sizeof(float)) {
    return isa().density->f32;
  } else {
    return isa().density->f64;
  }
}

// Rows that share one pass over the weights.
constexpr int64_t kLanes = 32, kFewLanes = 16, kMostBlocks = 4;
constexpr int64_t kFewSparse = 32, kColumns = 64;

}  // namespace

template <class T>
bool gibbs(const GibbsProblem<T>& p, T* out) {
  const DensityTable<T>& kernels = density_kernels<T>();
  const int64_t threads = std::max<int64_t>(torch::stable::get_num_threads(), 1);
  // A row's bits do not depend on how many there are.
  const int64_t lanes = p.rows > kFewLanes ? kLanes : kFewLanes;
  const int64_t blocks = ceil_div(p.rows, lanes);
  const int64_t tasks = std::max(std::min(threads, blocks), ceil_div(blocks, kMostBlocks * kLanes / lanes));
  // Images of mostly black pixels: their rows of weights side by side, a copy that pays for itself from some rows on.
  const int64_t padded = ceil_div(p.hidden, kTileUnits) * kTileUnits;
  const int64_t total = p.rows * p.dimensions;
  const bool sparse = p.rows >= kFewSparse && p.hidden >= kTileUnits &&
                      3 * (total - std::count(p.visible, p.visible + total, T(0))) < total;
  Buffer<T> rows_of_inputs(sparse ? p.dimensions * padded : 0, false);
  if (sparse)
    parallel_tasks(ceil_div(p.dimensions, kColumns), [&](int64_t, int64_t k) {
      kernels.transpose(p.weight, p.hidden, p.dimensions, k * kColumns, std::min(p.dimensions, (k + 1) * kColumns),
                        rows_of_inputs.data(), padded);
    });
  std::atomic<bool> within{true};
  const double work = double(p.rows) * double(p.dimensions) * double(p.hidden) * double(p.steps);
  parallel_tasks(
      tasks,
      [&](int64_t, int64_t task) {
        const int64_t begin = task * blocks / tasks, count = (task + 1) * blocks / tasks - begin;
        if (count == 0) return;
        bool good = true;
        Buffer<T> v(count * p.dimensions * lanes), h(count * p.hidden * lanes, false);
        Buffer<T> scratch(std::max(p.dimensions, padded) * kTileUnits, false);
        std::vector<uint32_t> keys(size_t(count * 2 * lanes));
        const int64_t row = begin * lanes, rows = std::min(p.rows - row, count * lanes);
        for (int64_t r = 0; r < rows; ++r) {
          T* lane = v.data() + r / lanes * p.dimensions * lanes + r % lanes;
          const T* x = p.visible + (row + r) * p.dimensions;
          for (int64_t d = 0; d < p.dimensions; ++d) {
            good &= x[d] >= 0 && x[d] <= 1;
            lane[d * lanes] = x[d];
          }
          uint32_t* key = keys.data() + r / lanes * 2 * lanes + r % lanes;
          key[0] = uint32_t(p.keys[row + r]);
          key[lanes] = uint32_t(uint64_t(p.keys[row + r]) >> 32);
        }
        if (!good && !p.normal) within.store(false, std::memory_order_relaxed);
        const int64_t last = ceil_div(rows - (count - 1) * lanes, kFewLanes) * kFewLanes;
        for (int64_t step = p.first; step < p.first + p.steps; ++step) {
          HalfStep<T> s{v.data(),
                        h.data(),
                        count,
                        lanes,
                        last,
                        p.dimensions,
                        p.hidden,
                        p.weight,
                        1,
                        p.dimensions,
                        scratch.data(),
                        rows_of_inputs.data(),
                        padded,
                        p.hidden_bias,
                        keys.data(),
                        uint32_t(2 * step),
                        Units::binary};
          kernels.half_step(s);
          s = {h.data(),
               v.data(),
               count,
               lanes,
               last,
               p.hidden,
               p.dimensions,
               p.weight,
               p.dimensions,
               1,
               scratch.data(),
               nullptr,
               0,
               p.visible_bias,
               keys.data(),
               uint32_t(2 * step + 1),
               p.normal ? Units::normal : Units::binary};
          kernels.half_step(s);
        }
        for (int64_t r = 0; r < rows; ++r) {
          const T* lane = v.data() + r / lanes * p.dimensions * lanes + r % lanes;
          T* to = out + (row + r) * p.dimensions;
          for (int64_t d = 0; d < p.dimensions; ++d) to[d] = lane[d * lanes];
        }
      },
      work < 1 << 18 ? 1 : INT64_MAX);
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

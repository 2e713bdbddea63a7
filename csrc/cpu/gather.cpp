#include "gather.h"

#include <algorithm>
#include <numeric>

#include "../common/half.h"
#include "buffer.h"
#include "schedule.h"

namespace fastssl {
namespace {

void write_row(void* out, DType dtype, int64_t row, int64_t depth, const double* values) {
  for (int64_t k = 0; k < depth; ++k) {
    const int64_t at = row * depth + k;
    switch (dtype) {
      case DType::f32: static_cast<float*>(out)[at] = float(values[k]); break;
      case DType::f64: static_cast<double*>(out)[at] = values[k]; break;
      case DType::f16: static_cast<uint16_t*>(out)[at] = float_to_f16(float(values[k])); break;
      case DType::bf16: static_cast<uint16_t*>(out)[at] = float_to_bf16(float(values[k])); break;
    }
  }
}

}  // namespace

void gather_dot_forward(const GatherProblem& p, double* out) {
  const IsaTable& table = isa();
  parallel_rows(p.x.n, p.depth * p.picks, [&](int64_t, int64_t i) {
    for (int64_t k = 0; k < p.picks; ++k)
      out[i * p.picks + k] = table.dot(&p.x, 1, i, 1.0, &p.table, 1, p.indices[i * p.picks + k], 1.0, p.depth);
  });
  poll_interrupt();
}

void gather_dot_backward(const GatherProblem& p, const double* grad, void* grad_x, void* grad_table) {
  const IsaTable& table = isa();
  Buffer<double> sums(int64_t(torch::stable::get_num_threads()) * p.depth);
  auto sum_of = [&](int64_t worker) {
    double* sum = sums.data() + worker * p.depth;
    std::fill(sum, sum + p.depth, 0.0);
    return sum;
  };
  if (grad_x) {
    parallel_rows(p.x.n, p.depth * p.picks, [&](int64_t worker, int64_t i) {
      double* sum = sum_of(worker);
      for (int64_t k = 0; k < p.picks; ++k)
        table.add_row(&p.table, 1, p.indices[i * p.picks + k], grad[i * p.picks + k], p.depth, sum);
      write_row(grad_x, p.x.dtype, i, p.depth, sum);
    });
    poll_interrupt();
  }
  if (!grad_table) return;
  // Picks by table row: each row's sum is one task's, in the order of the picks.
  std::vector<int64_t> offset(size_t(p.table.n) + 1, 0);
  const int64_t total = p.x.n * p.picks;
  for (int64_t q = 0; q < total; ++q) ++offset[size_t(p.indices[q]) + 1];
  std::partial_sum(offset.begin(), offset.end(), offset.begin());
  std::vector<int64_t> pick(static_cast<size_t>(total)), next(offset.begin(), offset.end() - 1);
  for (int64_t q = 0; q < total; ++q) pick[size_t(next[size_t(p.indices[q])]++)] = q;
  parallel_rows(p.table.n, p.depth, [&](int64_t worker, int64_t row) {
    double* sum = sum_of(worker);
    for (int64_t q = offset[size_t(row)]; q < offset[size_t(row) + 1]; ++q)
      table.add_row(&p.x, 1, pick[size_t(q)] / p.picks, grad[pick[size_t(q)]], p.depth, sum);
    write_row(grad_table, p.table.dtype, row, p.depth, sum);
  });
  poll_interrupt();
}

}  // namespace fastssl

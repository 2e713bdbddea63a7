#include "gather.h"

#include <algorithm>
#include <numeric>

#include "core/buffer.h"
#include "core/isa.h"
#include "schedule.h"

namespace fastssl {
namespace {

// Gradients of the rows of `to`: row r is the sum of weight[q] times row partner[q] of `from`, q in [offset[r],
// offset[r + 1]).
void sum_partners(const Source& to, const Source& from, int64_t depth, const std::vector<int64_t>& offset,
                  const std::vector<int32_t>& partner, const double* weight, void* out) {
  GradientEpilogue<double> f;
  f.sources = &to;
  f.partner_sources = &from;
  f.n_sources = f.n_partner_sources = 1;
  f.depth = depth;
  f.partner_offset = offset.data();
  f.partner = partner.data();
  f.partner_weight = weight;
  f.out = &out;
  run_gradient_epilogue(isa().pairs_f64->gradient_epilogue, f, to.n, offset.back() / std::max<int64_t>(to.n, 1));
  poll_interrupt();
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
  const int64_t total = p.x.n * p.picks;
  if (grad_x) {
    std::vector<int64_t> offset(size_t(p.x.n) + 1);
    for (int64_t i = 0; i <= p.x.n; ++i) offset[size_t(i)] = i * p.picks;
    sum_partners(p.x, p.table, p.depth, offset, {p.indices, p.indices + total}, grad, grad_x);
  }
  if (!grad_table) return;
  // Picks by table row: each row's sum is one task's, in the order of the picks.
  std::vector<int64_t> offset(size_t(p.table.n) + 1, 0);
  for (int64_t q = 0; q < total; ++q) ++offset[size_t(p.indices[q]) + 1];
  std::partial_sum(offset.begin(), offset.end(), offset.begin());
  std::vector<int64_t> next(offset.begin(), offset.end() - 1);
  std::vector<int32_t> partner(static_cast<size_t>(total));
  std::vector<double> weight(static_cast<size_t>(total));
  for (int64_t q = 0; q < total; ++q) {
    const size_t at = size_t(next[size_t(p.indices[q])]++);
    partner[at] = int32_t(q / p.picks);
    weight[at] = grad[q];
  }
  sum_partners(p.table, p.x, p.depth, offset, partner, weight.data(), grad_table);
}

}  // namespace fastssl

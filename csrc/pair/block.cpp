#include "dense.h"

namespace fastssl {
namespace {

template <class T>
void run_forward(const PairProblem& p, Keep keep, T* kept, const BlockSums& out) {
  Engine<T> e(p, isa());
  e.pack(true, false);
  DenseSums<T> sums(e, out.y && !p.self_pairs());
  sums.add(e.grid, keep, kept);
  const bool sigmoid = e.epilogue == kSigmoid;
  parallel_rows(e.n, e.depth, [&](int64_t, int64_t i) {
    const int64_t j = e.positive[i];
    out.x[i] = sigmoid ? sums.row_sum[i] : sums.row_lse(i);
    if (sigmoid) out.other[i] = sums.row_aux[i];
    out.score[i] = j < 0 ? 0.0 : p.scale * e.dot(i, j) + e.bias_at(j);
  });
  for (int64_t j = 0; j < sums.col_sum.size(); ++j) out.y[j] = sums.col_lse(j);
}

template <class T>
void run_backward(const PairProblem& p, Keep keep, const T* kept, const BlockWeights& weights,
                  const PairGradients& out) {
  Engine<T> e(p, isa());
  e.pack(keep != Keep::tiles, true);
  const bool running = e.epilogue == kSoftmaxRunningMax, sigmoid = e.epilogue == kSigmoid;
  SideWeights<T> rows, cols;
  rows.allocate(e.grid.x_blocks * kBlock, running);
  for (int64_t i = 0; i < e.n; ++i) {
    if (sigmoid)
      rows.weight[i] = T(weights.x[i]);
    else
      rows.set(i, weights.x[i], weights.x_lse[i]);
  }
  if (weights.y && !p.self_pairs()) {
    cols.allocate(e.grid.y_blocks * kBlock, running);
    for (int64_t j = 0; j < e.m; ++j) cols.set(j, weights.y[j], weights.y_lse[j]);
  }
  rows.allocate_floor(e.grid.x_blocks * kBlock, running);
  if (!p.self_pairs()) cols.allocate_floor(e.grid.y_blocks * kBlock, running);
  for (int64_t i = 0; weights.partner && i < e.n; ++i)
    if (e.positive[i] >= 0) rows.set_floor(i, weights.partner[i], e.m);
  const bool want_y = any_wanted(out.y), want_x = any_wanted(out.x) || (out.scale && !want_y);
  Buffer<T> grad_x, grad_y;
  if (want_x) grad_x.allocate(e.x_numel());
  if (want_y) grad_y.allocate(e.y_numel());
  if (want_x || want_y)
    dense_gradients(e, e.grid, keep, kept, rows, cols, grad_x.data(), grad_y.data(), static_cast<double*>(nullptr));
  std::vector<double> none(size_t(weights.partner ? 0 : e.n), 0.0);
  const double* partner = weights.partner ? weights.partner : none.data();
  InputGradients<T> gradients{e, partner};
  gradients.wide = true;
  if (want_x) gradients.x(grad_x.data(), nullptr, out.x.data(), out.scale);
  if (want_y)
    gradients.y(grad_y.data(), nullptr, Partners(e.n, e.m, e.positive.data(), partner), out.y.data(), out.scale);
  if (out.scale) *out.scale = gradients.scale_gradient();
}

}  // namespace

void pair_block_forward(const PairProblem& p, Keep keep, void* kept, const BlockSums& out) {
  clear_kept_rest(p, keep, kept);
  with_element(p, [&](auto t) {
    using T = decltype(t);
    run_forward<T>(p, kept_as<T>(p, keep), static_cast<T*>(kept), out);
  });
}

void pair_block_backward(const PairProblem& p, Keep keep, const void* kept, const BlockWeights& weights,
                         const PairGradients& out) {
  with_element(p, [&](auto t) {
    using T = decltype(t);
    run_backward<T>(p, kept_as<T>(p, keep), static_cast<const T*>(kept), weights, out);
  });
}

}  // namespace fastssl

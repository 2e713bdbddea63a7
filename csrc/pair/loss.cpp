#include "loss.h"

#include "dense.h"

namespace fastssl {
namespace {

template <class T>
void run_forward(const PairProblem& p, Keep keep, T* kept, double* stats_out, double* loss) {
  Engine<T> e(p, isa());
  const int64_t n = e.n;
  e.pack(true, keep == Keep::attention);
  const DenseSums<T> sums(e, keep, kept, p.symmetric && !p.self_pairs());

  const Stats s = layout(p, stats_out);
  const double unit = e.softmax() ? kLog2e : 1.0;
  if (p.loss == Loss::sup_con) positive_means(e, s.row_gap);
  parallel_rows(n, e.depth, [&](int64_t, int64_t i) {
    const int64_t j = e.positive[i];
    if (p.loss == Loss::sup_con && j < 0) {
      s.row_lse[i] = sums.row_lse(i);
      loss[i] = alone(s, i) ? 0.0 : kLn2 * s.row_lse[i] - s.row_gap[i];
      return;
    }
    if (j < 0) {  // ignored
      s.row_lse[i] = s.row_gap[i] = loss[i] = 0;
      return;
    }
    const double score = (p.scale * e.dot(i, j) + e.bias_at(j)) * unit;
    if (e.epilogue == kSigmoid) {
      s.row_lse[i] = sums.row_aux[i];
      s.row_gap[i] = 1.0 / (1.0 + std::exp(score));  // sigmoid(-score)
      loss[i] = sums.row_sum[i] + (score > 0 ? std::log1p(std::exp(-score)) : std::log1p(std::exp(score)) - score);
      return;
    }
    s.row_lse[i] = log2_add(sums.row_lse(i), score, &s.row_gap[i]);
    // log(1 + sum of negatives / e_pos): no cancellation where the loss is small
    loss[i] = -std::log1p(-s.row_gap[i]);
    if (s.row_gap[i] > 0.5) loss[i] = kLn2 * (s.row_lse[i] - score);
    if (p.symmetric) {
      s.col_lse[j] = log2_add(sums.col_lse(j), score, &s.col_gap[j]);
      double other = -std::log1p(-s.col_gap[j]);
      if (s.col_gap[j] > 0.5) other = kLn2 * (s.col_lse[j] - score);
      loss[i] = 0.5 * (loss[i] + other);
    }
  });
  int64_t valid = 0;
  for (int64_t i = 0; i < n; ++i) valid += p.loss == Loss::sup_con || e.positive[i] >= 0;
  *s.valid = double(valid);
}

template <class T>
void run_backward(const PairProblem& p, Keep keep, const T* kept, const double* stats, const double* grad,
                  const PairGradients& out) {
  Engine<T> e(p, isa());
  const int64_t n = e.n, m = e.m;
  const Stats s = layout(p, const_cast<double*>(stats));
  const bool want_y = any_wanted(out.y), want_x = any_wanted(out.x) || (out.scale && !want_y);
  const bool bias_per_col = out.bias && p.bias.size() != 1;
  // Attention serves a bounded softmax and x alone; anything else recomputes its tiles.
  if (keep == Keep::attention && (want_y || bias_per_col)) keep = Keep::nothing;
  e.pack(keep != Keep::tiles, true);
  const bool running = e.epilogue == kSoftmaxRunningMax;
  const bool attention = keep == Keep::attention && !running;

  // Weights of the dense pairs. a: the upstream gradient of each row's loss.
  std::vector<double> a(size_t(n), 0.0);
  const double mean = *s.valid > 0 ? 1.0 / *s.valid : 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double g = p.reduction == Reduction::none ? grad[i] : grad[0] * (p.reduction == Reduction::mean ? mean : 1.0);
    const bool counts = p.loss == Loss::sup_con ? !alone(s, i) : e.positive[i] >= 0;
    a[size_t(i)] = counts ? g * (p.symmetric ? 0.5 : 1.0) : 0.0;
  }
  SideWeights<T> rows, cols;
  rows.allocate(e.grid.x_blocks * kBlock, running);
  std::vector<double> dense_weight;
  if (e.epilogue == kSigmoid) {
    for (int64_t i = 0; i < n; ++i) rows.weight[i] = T(a[size_t(i)]);
  } else {
    for (int64_t i = 0; i < n; ++i) rows.set(i, a[size_t(i)], s.row_lse[i]);
    if (attention) {
      dense_weight.resize(size_t(n));
      for (int64_t i = 0; i < n; ++i) dense_weight[size_t(i)] = a[size_t(i)] * std::exp2(-s.row_lse[i]);
    }
    if (p.symmetric && !p.self_pairs()) {
      cols.allocate(e.grid.y_blocks * kBlock, running);
      for (int64_t j = 0; j < m; ++j) cols.set(j, a[size_t(j)], s.col_lse[j]);
    }
  }

  // Positives: coefficient of y_j in row i's gradient, and of x_i in row j's.
  std::vector<double> x_coefficient(size_t(n), 0.0);
  rows.allocate_floor(e.grid.x_blocks * kBlock, running);
  if (!p.self_pairs()) cols.allocate_floor(e.grid.y_blocks * kBlock, running);
  std::vector<double> y_total(running && !p.self_pairs() ? size_t(m) : 0, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t j = e.positive[i];
    if (j < 0) {
      if (p.loss == Loss::sup_con) rows.set_floor(i, a[size_t(i)], m);  // the softmax's weights add up to it
      continue;
    }
    double c = a[size_t(i)] * s.row_gap[i];
    if (p.self_pairs()) c += a[size_t(j)] * s.row_gap[j];
    if (p.symmetric) c += a[size_t(j)] * s.col_gap[j];
    x_coefficient[size_t(i)] = -c;
    rows.set_floor(i, c, m);
    if (!y_total.empty()) y_total[size_t(j)] += std::fabs(c);
  }
  for (size_t j = 0; j < y_total.size(); ++j) cols.set_floor(int64_t(j), y_total[j], n);

  Buffer<T> grad_x, grad_y;
  Buffer<double> col_total;
  if ((want_x || (p.self_pairs() && want_y)) && !attention) grad_x.allocate(e.x_numel());
  if (want_y && !p.self_pairs()) grad_y.allocate(e.y_numel());
  if (bias_per_col) col_total.allocate(e.grid.y_blocks * kBlock);
  if (!attention && (grad_x.data() || grad_y.data() || bias_per_col))
    dense_gradients(e, keep, kept, rows, cols, grad_x.data(), grad_y.data(), col_total.data());
  if (p.loss == Loss::sup_con && grad_x.data()) add_positive_means(e, a.data(), grad_x.data());

  InputGradients<T> gradients{e, x_coefficient.data()};
  if (want_x || (p.self_pairs() && out.scale))
    gradients.x(attention ? kept : grad_x.data(), attention ? dense_weight.data() : nullptr, out.x.data(), out.scale);
  if (!p.self_pairs() && (want_y || bias_per_col)) {
    const Partners partners(n, m, e.positive.data(), x_coefficient.data());
    if (want_y) gradients.y(grad_y.data(), partners, out.y.data(), out.scale);
    for (int64_t j = 0; bias_per_col && j < m; ++j) {
      double total = col_total[j];
      for (int64_t q = partners.offset[size_t(j)]; q < partners.offset[size_t(j) + 1]; ++q)
        total += partners.weight[size_t(q)];
      out.bias[j] = total;
    }
  }
  if (out.scale) *out.scale = gradients.scale_gradient();
  if (out.bias && !bias_per_col) {
    double total = 0;
    if (e.epilogue == kSigmoid)
      for (int64_t i = 0; i < n; ++i) total += a[size_t(i)] * (s.row_lse[i] - s.row_gap[i]);
    out.bias[0] = total;  // a softmax does not see a constant
  }
}

}  // namespace

int64_t stats_numel(const PairProblem& p) { return 2 * p.n() + (p.symmetric ? 2 * p.m() : 0) + 1; }

int64_t kept_numel(const PairProblem& p, Keep keep) {
  switch (keep) {
    case Keep::nothing: return 0;
    case Keep::tiles: return Grid::kept_numel(p.n(), p.m(), p.self_pairs());
    case Keep::attention: return ceil_div(p.n(), kBlock) * ceil_div(p.depth, kBlock) * kBlock * kBlock;
  }
  return 0;
}

void pair_loss_forward(const PairProblem& p, Keep keep, void* kept, double* stats, double* loss) {
  clear_kept_rest(p, keep, kept);
  with_element(p, [&](auto t) {
    using T = decltype(t);
    run_forward<T>(p, kept_as<T>(p, keep), static_cast<T*>(kept), stats, loss);
  });
}

void pair_loss_backward(const PairProblem& p, Keep keep, const void* kept, const double* stats, const double* grad,
                        const PairGradients& out) {
  with_element(p, [&](auto t) {
    using T = decltype(t);
    run_backward<T>(p, kept_as<T>(p, keep), static_cast<const T*>(kept), stats, grad, out);
  });
}

}  // namespace fastssl

#include "pair_loss.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "pair_engine.h"

namespace fastssl {
namespace {

template <class T>
void run_forward(const PairProblem& p, Keep keep, T* kept, double* stats_out, double* loss) {
  Engine<T> e(p, isa());
  const int64_t n = e.n, m = e.m;
  const bool attention = keep == Keep::attention;
  e.pack(true, attention);
  // Statistics of the dense pairs: sums, and maxima where a running maximum is needed.
  Buffer<double> lane_sum(n), row_sum(p.self_pairs() || !p.symmetric ? 0 : m), lane_aux(n), row_aux(row_sum.size());
  const bool running = e.epilogue == kSoftmaxRunningMax, columns = p.self_pairs() || p.symmetric;
  for (int64_t i = 0; running && i < n; ++i) lane_aux[i] = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; running && j < row_aux.size(); ++j) row_aux[j] = -std::numeric_limits<double>::infinity();

  // The one-sided loss whose y needs no gradient: sum_j e_ij y_j is all that its backward will want.
  Buffer<T> ones;
  if (attention) {
    ones.allocate(e.grid.x_blocks * kBlock);
    std::fill(ones.data(), ones.data() + ones.size(), T(1));
  }
  Scratch<T> scratch(e.grid, keep != Keep::tiles, false, attention && e.pairs);
  for_each_tile(e.grid, e.depth, [&](int64_t worker, int64_t I, int64_t J) {
    Tile<T> t = e.tile(I, J);
    scratch.bind(t, worker);
    if (keep == Keep::tiles) t.e = kept + e.grid.kept_offset(I, J);
    t.lane_sum = lane_sum.data();
    t.lane_aux = lane_aux.data();
    if (columns) {
      t.row_sum = p.self_pairs() ? lane_sum.data() : row_sum.data();
      t.row_aux = p.self_pairs() ? lane_aux.data() : row_aux.data();
    }
    e.table.forward[e.epilogue](t);
    if (keep == Keep::tiles && t.triangular) e.clear_unvisited(t);
    if (attention && !running) {
      Weights<T> w;
      scratch.bind(w, worker);
      w.lane_weight = ones.data();
      w.grad_x = kept;
      e.table.backward[e.epilogue](t, w);
    }
  });

  const Stats s = layout(p, stats_out);
  const double minus_infinity = -std::numeric_limits<double>::infinity();
  auto lse = [&](double sum, double maximum) {  // log2
    if (sum == 0) return minus_infinity;
    return (running ? maximum : 0.0) + std::log2(sum);
  };
  const double unit = e.softmax() ? kLog2e : 1.0;
  if (p.loss == Loss::sup_con) positive_means(e, s.lane_gap);
  parallel_rows(n, e.depth, [&](int64_t, int64_t i) {
    const int64_t j = e.positive[i];
    if (p.loss == Loss::sup_con && j < 0) {
      s.lane_lse[i] = lse(lane_sum[i], lane_aux[i]);
      loss[i] = alone(s, i) ? 0.0 : kLn2 * s.lane_lse[i] - s.lane_gap[i];
      return;
    }
    if (j < 0) {  // ignored
      s.lane_lse[i] = s.lane_gap[i] = loss[i] = 0;
      return;
    }
    const double score = (p.scale * e.dot(i, j) + e.bias_at(j)) * unit;
    if (e.epilogue == kSigmoid) {
      s.lane_lse[i] = lane_aux[i];
      s.lane_gap[i] = 1.0 / (1.0 + std::exp(score));  // sigmoid(-score)
      loss[i] = lane_sum[i] + (score > 0 ? std::log1p(std::exp(-score)) : std::log1p(std::exp(score)) - score);
      return;
    }
    s.lane_lse[i] = log2_add(lse(lane_sum[i], lane_aux[i]), score, &s.lane_gap[i]);
    // log(1 + sum of negatives / e_pos): no cancellation where the loss is small
    loss[i] = -std::log1p(-s.lane_gap[i]);
    if (s.lane_gap[i] > 0.5) loss[i] = kLn2 * (s.lane_lse[i] - score);
    if (p.symmetric) {
      s.row_lse[j] = log2_add(lse(row_sum[j], row_aux[j]), score, &s.row_gap[j]);
      double other = -std::log1p(-s.row_gap[j]);
      if (s.row_gap[j] > 0.5) other = kLn2 * (s.row_lse[j] - score);
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
  auto wanted = [](const std::vector<void*>& v) {
    return std::any_of(v.begin(), v.end(), [](void* q) { return q != nullptr; });
  };
  const bool want_y = wanted(out.y), want_x = wanted(out.x) || (out.scale && !want_y);
  const bool bias_per_row = out.bias && p.bias.size() != 1;
  // Attention serves a bounded softmax and x alone; anything else recomputes its tiles.
  if (keep == Keep::attention && (want_y || bias_per_row)) keep = Keep::nothing;
  e.pack(keep != Keep::tiles, true);
  const bool running = e.epilogue == kSoftmaxRunningMax;
  const bool attention = keep == Keep::attention && !running;

  // Weights of the dense pairs. a: the upstream gradient of each row's loss.
  const int64_t x_padded = e.grid.x_blocks * kBlock, y_padded = e.grid.y_blocks * kBlock;
  std::vector<double> a(size_t(n), 0.0);
  const double mean = *s.valid > 0 ? 1.0 / *s.valid : 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double g = p.reduction == Reduction::none ? grad[i] : grad[0] * (p.reduction == Reduction::mean ? mean : 1.0);
    const bool counts = p.loss == Loss::sup_con ? !alone(s, i) : e.positive[i] >= 0;
    a[size_t(i)] = counts ? g * (p.symmetric ? 0.5 : 1.0) : 0.0;
  }
  Buffer<T> lane_weight(x_padded), lane_lse, row_weight, row_lse;
  auto weight = [&](double upstream, double lse_value, T& w, T* l) {
    if (running) {
      // What T cannot hold of the log-sum goes into the weight: at 144 bits, half a unit is 8e-6 of each probability.
      const bool empty = upstream == 0 || lse_value == -std::numeric_limits<double>::infinity();
      *l = empty ? T(1e30) : T(lse_value);  // 2^(score - 1e30) is 0, while 2^score may overflow
      w = empty ? T(0) : T(upstream * std::exp2(double(*l) - lse_value));
    } else {
      w = upstream == 0 ? T(0) : T(upstream * std::exp2(-lse_value));
    }
  };
  if (running) lane_lse.allocate(x_padded);
  std::vector<double> dense_weight;
  if (e.epilogue == kSigmoid) {
    for (int64_t i = 0; i < n; ++i) lane_weight[i] = T(a[size_t(i)]);
  } else {
    T unused{};
    for (int64_t i = 0; i < n; ++i)
      weight(a[size_t(i)], s.lane_lse[i], lane_weight[i], running ? &lane_lse[i] : &unused);
    if (attention) {
      dense_weight.resize(size_t(n));
      for (int64_t i = 0; i < n; ++i) dense_weight[size_t(i)] = a[size_t(i)] * std::exp2(-s.lane_lse[i]);
    }
    if (p.symmetric && !p.self_pairs()) {
      row_weight.allocate(y_padded);
      if (running) row_lse.allocate(y_padded);
      for (int64_t j = 0; j < m; ++j)
        weight(a[size_t(j)], s.row_lse[j], row_weight[j], running ? &row_lse[j] : &unused);
    }
  }

  const int64_t x_numel = e.grid.x_blocks * e.depth_blocks * kBlock * kBlock;
  const int64_t y_numel = e.grid.y_blocks * e.depth_blocks * kBlock * kBlock;
  Buffer<T> grad_x, grad_y;
  Buffer<double> row_total;
  if ((want_x || (p.self_pairs() && want_y)) && !attention) grad_x.allocate(x_numel);
  if (want_y && !p.self_pairs()) grad_y.allocate(y_numel);
  if (bias_per_row) row_total.allocate(y_padded);

  if (!attention && (grad_x.data() || grad_y.data() || bias_per_row)) {
    Scratch<T> scratch(e.grid, keep != Keep::tiles, keep == Keep::tiles, e.pairs);
    for_each_tile(e.grid, e.depth, [&](int64_t worker, int64_t I, int64_t J) {
      Tile<T> t = e.tile(I, J);
      scratch.bind(t, worker);
      if (keep == Keep::tiles) {
        t.e = const_cast<T*>(kept) + e.grid.kept_offset(I, J);
      } else {
        e.table.forward[e.epilogue](t);
      }
      Weights<T> w;
      scratch.bind(w, worker);
      w.lane_weight = lane_weight.data();
      w.lane_lse = lane_lse.data();
      w.row_weight = p.self_pairs() ? lane_weight.data() : row_weight.data();
      w.row_lse = p.self_pairs() ? lane_lse.data() : row_lse.data();
      w.grad_x = grad_x.data();
      w.grad_y = p.self_pairs() ? grad_x.data() : grad_y.data();
      w.row_total = row_total.data();
      e.table.backward[e.epilogue](t, w);
    });
  }

  // Positives: coefficient of y_j in row i's gradient, and of x_i in row j's.
  std::vector<double> x_coefficient(size_t(n), 0.0);
  if (p.loss == Loss::sup_con && grad_x.data()) add_positive_means(e, a.data(), grad_x.data());
  for (int64_t i = 0; i < n; ++i) {
    const int64_t j = e.positive[i];
    if (j < 0) continue;
    double c = a[size_t(i)] * s.lane_gap[i];
    if (p.self_pairs()) c += a[size_t(j)] * s.lane_gap[j];
    if (p.symmetric) c += a[size_t(j)] * s.row_gap[j];
    x_coefficient[size_t(i)] = -c;
  }

  Buffer<double> projection;
  const auto& y = e.y_sources();
  const int64_t workers = torch::stable::get_num_threads();
  Buffer<double> row_scratch(workers * 2 * e.depth);
  auto run_finish = [&](Finish<T>& f, int64_t rows) {
    f.depth = e.depth;
    f.normalize = p.normalize;
    f.scale = p.scale;
    parallel_rows(rows, e.depth, [&](int64_t worker, int64_t row) {
      e.table.finish(f, row, row_scratch.data() + worker * 2 * e.depth);
    });
  };
  if (want_x || (p.self_pairs() && out.scale)) {
    Finish<T> f;
    f.sources = p.x.data();
    f.n_sources = int64_t(p.x.size());
    f.inverse_norm = e.x_inverse.data();
    f.dense = attention ? kept : grad_x.data();
    f.dense_weight = attention ? dense_weight.data() : nullptr;
    f.partner_sources = y.data();
    f.n_partner_sources = int64_t(y.size());
    f.partner_inverse_norm = p.normalize ? (p.self_pairs() ? e.x_inverse.data() : e.y_inverse.data()) : nullptr;
    f.partner = e.positive.data();
    f.partner_weight = x_coefficient.data();
    f.out = out.x.data();
    if (out.scale) {
      projection.allocate(n);
      f.projection = projection.data();
    }
    run_finish(f, n);
  }
  std::vector<int64_t> offset;
  std::vector<int32_t> partner;
  std::vector<double> y_coefficient;
  if (!p.self_pairs() && (want_y || bias_per_row)) {  // the same pairs, seen from y
    offset.assign(size_t(m) + 1, 0);
    for (int64_t i = 0; i < n; ++i)
      if (e.positive[i] >= 0) ++offset[size_t(e.positive[i]) + 1];
    std::partial_sum(offset.begin(), offset.end(), offset.begin());
    partner.resize(size_t(offset.back()));
    y_coefficient.resize(partner.size());
    std::vector<int64_t> next(offset.begin(), offset.end() - 1);
    for (int64_t i = 0; i < n; ++i) {
      if (e.positive[i] < 0) continue;
      const size_t at = size_t(next[size_t(e.positive[i])]++);
      partner[at] = int32_t(i);
      y_coefficient[at] = x_coefficient[size_t(i)];
    }
  }
  if (want_y && !p.self_pairs()) {
    Finish<T> f;
    f.sources = p.y.data();
    f.n_sources = int64_t(p.y.size());
    f.inverse_norm = e.y_inverse.data();
    f.dense = grad_y.data();
    f.partner_sources = p.x.data();
    f.n_partner_sources = int64_t(p.x.size());
    f.partner_inverse_norm = p.normalize ? e.x_inverse.data() : nullptr;
    f.partner_offset = offset.data();
    f.partner = partner.data();
    f.partner_weight = y_coefficient.data();
    f.out = out.y.data();
    if (out.scale && !projection.data()) {
      projection.allocate(m);
      f.projection = projection.data();
    }
    run_finish(f, m);
  }
  if (out.scale) {
    // sum_ij G_ij x_i . y_j = sum_i x_i . (sum_j G_ij y_j); x against itself counts each pair twice.
    double total = 0;
    for (int64_t i = 0; i < projection.size(); ++i) total += projection[i];
    *out.scale = p.self_pairs() ? total / 2 : total;
  }
  if (out.bias && p.bias.size() == 1) {
    double total = 0;
    if (e.epilogue == kSigmoid)
      for (int64_t i = 0; i < n; ++i) total += a[size_t(i)] * (s.lane_lse[i] - s.lane_gap[i]);
    out.bias[0] = total;  // a softmax does not see a constant
  } else if (out.bias) {
    for (int64_t j = 0; j < m; ++j) {
      double total = row_total[j];
      for (int64_t q = offset[size_t(j)]; q < offset[size_t(j) + 1]; ++q) total += y_coefficient[size_t(q)];
      out.bias[j] = total;
    }
  }
}

}  // namespace

// One block of pairs costs nothing in fp64, and libraries sum products that small in an order that errs less
// than one fp32 chain does.
bool tiny(const PairProblem& p) { return std::max(p.n(), p.m()) <= kBlock; }

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
  const Grid grid(p.n(), p.m(), p.self_pairs());
  const int64_t used = keep != Keep::tiles || tiny(p) ? 0 : grid.kept_end();
  const int64_t size = p.dtype == DType::f64 ? 8 : 4;
  if (kept) std::memset(static_cast<char*>(kept) + used * size, 0, size_t((kept_numel(p, keep) - used) * size));
  if (p.dtype == DType::f64) {
    run_forward<double>(p, keep, static_cast<double*>(kept), stats, loss);
  } else if (tiny(p)) {
    run_forward<double>(p, Keep::nothing, nullptr, stats, loss);
  } else {
    run_forward<float>(p, keep, static_cast<float*>(kept), stats, loss);
  }
}

void pair_loss_backward(const PairProblem& p, Keep keep, const void* kept, const double* stats, const double* grad,
                        const PairGradients& out) {
  if (p.dtype == DType::f64) {
    run_backward<double>(p, keep, static_cast<const double*>(kept), stats, grad, out);
  } else if (tiny(p)) {
    run_backward<double>(p, Keep::nothing, nullptr, stats, grad, out);
  } else {
    run_backward<float>(p, keep, static_cast<const float*>(kept), stats, grad, out);
  }
}

}  // namespace fastssl

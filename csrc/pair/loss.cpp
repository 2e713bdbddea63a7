#include "loss.h"

#include "core/half.h"

#include "gradients.h"

namespace fastssl {
namespace {

// The losses of rows [first, last), whose sums are complete.
template <class T>
void close_rows(const Engine<T>& e, const DenseSums<T>& sums, const Stats& s, int64_t first, int64_t last,
                double* loss) {
  const PairProblem& p = e.p;
  const double unit = e.softmax() ? kLog2e : 1.0;
  parallel_rows(last - first, e.depth, [&](int64_t, int64_t row) {
    const int64_t i = first + row, j = e.positive[i];
    if (p.positives == Positives::classes && j < 0) {
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
    if (p.closing == Closing::decoupled || p.closing == Closing::log_sum) {
      s.row_lse[i] = sums.row_lse(i);
      s.row_gap[i] = p.closing == Closing::decoupled;
      loss[i] = kLn2 * (p.closing == Closing::decoupled ? s.row_lse[i] - score : s.row_lse[i]);
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
}

template <class T>
double counted(const Engine<T>& e) {
  int64_t valid = 0;
  for (int64_t i = 0; i < e.n; ++i) valid += e.p.positives == Positives::classes || e.positive[i] >= 0;
  return double(valid);
}

template <class T>
void forward(const Engine<T>& e, Keep keep, T* kept, double* stats, double* loss) {
  DenseSums<T> sums(e, e.p.symmetric && !e.p.self_pairs());
  sums.add(e.grid, keep, kept);
  const Stats s = layout(e.p, stats);
  if (e.p.positives == Positives::classes) positive_means(e, s.row_gap);
  close_rows(e, sums, s, 0, e.n, loss);
  *s.valid = counted(e);
}

// f(out, elements, pointer of the sources' gradients) for the inputs, in the order in which they are kept.
template <class F>
void for_each_input(const PairProblem& p, F&& f) {
  int64_t at = 0;
  for (int side = 0; side < 2; ++side)
    for (size_t k = 0; k < (side ? p.y : p.x).size(); ++k) {
      const int64_t count = (side ? p.y : p.x)[k].n * p.depth;
      f(side, k, at, count);
      at += count;
    }
}

// How many blocks of rows are kept at once while gradients are made with the loss: all, where rows need each other's
// sums; else as many as fit a quarter of the memory budget, in strips of one size, of one tile at least.
template <class T>
int64_t blocks_per_strip(const Engine<T>& e) {
  const int64_t all = std::max<int64_t>(e.grid.x_blocks, 1);
  if (e.p.self_pairs() || e.p.symmetric) return all;
  const int64_t block = std::max<int64_t>(e.grid.y_blocks, 1) * kBlock * kBlock * int64_t(sizeof(T));
  const int64_t most = std::max<int64_t>(buffer_pool::limit() / 4 / block, kMaxTileBlocks);
  return ceil_div(all, ceil_div(all, most));
}

// The loss, and the products of its gradients for an upstream gradient of 1; without a place for them, the gradients.
template <class T>
void forward_with_gradients(const Engine<T>& e, const Products<T>& products, const PairGradients& out, double* stats,
                            double* loss) {
  const PairProblem& p = e.p;
  const Stats s = layout(p, stats);
  *s.valid = counted(e);
  if (p.positives == Positives::classes) positive_means(e, s.row_gap);
  const int64_t blocks = blocks_per_strip(e), all = e.grid.x_blocks;
  const Buffer<T> kept(blocks >= all ? Grid::kept_numel(e.n, e.m, p.self_pairs()) : e.grid.strip(0, blocks).kept_end(),
                       false);
  DenseSums<T> sums(e, p.symmetric && !p.self_pairs());
  const double one = 1;
  Backward<T> gradients(e, Keep::tiles, stats, &one, out, products);
  for (int64_t at = 0; at < all; at += blocks) {
    const Grid strip = e.grid.strip(at, blocks);
    const int64_t first = strip.x_begin * kBlock, last = std::min(first + strip.x_blocks * kBlock, e.n);
    sums.add(strip, Keep::tiles, kept.data());
    close_rows(e, sums, s, first, last, loss);
    gradients.add(strip, first, last, Keep::tiles, kept.data());
  }
  if (!products.x) gradients.finish(nullptr, true);
}

template <class T>
void run_forward(const PairProblem& p, Keep keep, void* kept, double* stats, double* loss) {
  Engine<T> e(p, isa());
  const bool gradients = keep == Keep::gradients || keep == Keep::products;
  e.pack(true, gradients || keep == Keep::attention);
  if (!gradients) return forward<T>(e, keep, static_cast<T*>(kept), stats, loss);
  PairGradients out;
  if (keep == Keep::products) {
    return forward_with_gradients<T>(e, Products<T>(e, static_cast<T*>(kept), stats), out, stats, loss);
  }
  for_each_input(p, [&](int side, size_t, int64_t at, int64_t) {
    (side ? out.y : out.x).push_back(static_cast<char*>(kept) + at * (p.dtype == DType::f64 ? 8 : 4));
  });
  double* const own = stats + stats_numel(p, Keep::nothing);
  if (p.scale_learns) out.scale = own;
  if (!p.bias.empty()) out.bias = own + 1;
  forward_with_gradients<T>(e, {}, out, stats, loss);
}

template <class T>
void run_backward(const PairProblem& p, Keep keep, const T* kept, const double* stats, const double* grad,
                  const PairGradients& out) {
  Engine<T> e(p, isa());
  // Attention serves a bounded softmax and x alone; anything else recomputes its tiles.
  if (keep == Keep::attention && (any_wanted(out.y) || (out.bias && p.bias.size() != 1))) keep = Keep::nothing;
  const bool products = keep == Keep::products;
  e.pack(keep != Keep::tiles && !products, !products);
  Products<T> at;
  if (products) at = Products<T>(e, const_cast<T*>(kept), const_cast<double*>(stats));
  Backward<T> gradients(e, keep, stats, grad, out, at);
  if (!products) gradients.add(e.grid, 0, e.n, keep, kept);
  gradients.finish(kept, false);
}

template <class From, class To, class F>
void scaled(const void* from, void* to, int64_t count, double factor, F&& convert) {
  const From* a = static_cast<const From*>(from);
  To* b = static_cast<To*>(to);
  constexpr int64_t kPiece = 1 << 16;
  parallel_tasks(ceil_div(count, kPiece), [&](int64_t, int64_t k) {
    for (int64_t i = k * kPiece; i < std::min(count, (k + 1) * kPiece); ++i) b[i] = convert(a[i] * From(factor));
  });
}

// Kept gradients, times the upstream gradient.
void scale_gradients(const PairProblem& p, const void* kept, const double* own, double grad, const PairGradients& out) {
  for_each_input(p, [&](int side, size_t k, int64_t at, int64_t count) {
    void* const to = (side ? out.y : out.x)[k];
    if (!to) return;
    const void* const from = static_cast<const char*>(kept) + at * (p.dtype == DType::f64 ? 8 : 4);
    switch (p.dtype) {
      case DType::f64: return scaled<double, double>(from, to, count, grad, [](double v) { return v; });
      case DType::f32: return scaled<float, float>(from, to, count, grad, [](float v) { return v; });
      case DType::f16: return scaled<float, uint16_t>(from, to, count, grad, [](float v) { return float_to_f16(v); });
      case DType::bf16: return scaled<float, uint16_t>(from, to, count, grad, [](float v) { return float_to_bf16(v); });
    }
  });
  if (out.scale) *out.scale = own[0] * grad;
  for (size_t j = 0; out.bias && j < p.bias.size(); ++j) out.bias[j] = own[1 + j] * grad;
}

}  // namespace

int64_t stats_numel(const PairProblem& p, Keep keep) {
  const int64_t biases = int64_t(p.bias.size());
  const int64_t own = keep == Keep::gradients ? 1 + biases : keep == Keep::products && biases > 1 ? biases : 0;
  return 2 * p.n() + (p.symmetric ? 2 * p.m() : 0) + 1 + own;
}
double counted_rows(const PairProblem& p, const double* stats) { return *layout(p, const_cast<double*>(stats)).valid; }

int64_t kept_numel(const PairProblem& p, Keep keep) {
  switch (keep) {
    case Keep::nothing: return 0;
    case Keep::tiles: return Grid::kept_numel(p.n(), p.m(), p.self_pairs());
    case Keep::attention: return ceil_div(p.n(), kBlock) * ceil_div(p.depth, kBlock) * kBlock * kBlock;
    case Keep::gradients: return (p.n() + (p.self_pairs() ? 0 : p.m())) * p.depth;
    case Keep::products:
      return (ceil_div(p.n(), kBlock) + ceil_div(p.m(), kBlock)) * ceil_div(p.depth, kBlock) * kBlock * kBlock;
  }
  return 0;
}

void pair_loss_forward(const PairProblem& p, Keep keep, void* kept, double* stats, double* loss) {
  clear_kept_rest(p, keep, kept);
  std::fill(stats + stats_numel(p, Keep::nothing), stats + stats_numel(p, keep), 0.0);
  with_element(p, [&](auto t) {
    using T = decltype(t);
    run_forward<T>(p, kept_as<T>(p, keep), kept, stats, loss);
  });
}

void pair_loss_backward(const PairProblem& p, Keep keep, const void* kept, const double* stats, const double* grad,
                        const PairGradients& out) {
  if (keep == Keep::gradients) return scale_gradients(p, kept, stats + stats_numel(p, Keep::nothing), grad[0], out);
  with_element(p, [&](auto t) {
    using T = decltype(t);
    run_backward<T>(p, kept_as<T>(p, keep), static_cast<const T*>(kept), stats, grad, out);
  });
}

}  // namespace fastssl

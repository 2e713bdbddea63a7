// The passes over all tiles that losses and blocks of losses share: sums of the dense pairs, their gradients, and the
// O(N D) end of these. Only pair_loss.cpp and pair_block.cpp include this.
#pragma once
#include <algorithm>
#include <numeric>

#include "engine.h"
#include "running_max.h"

namespace fastssl {
namespace {

// Kept tiles of more than this are written past the caches, which would read every line before it is overwritten.
constexpr int64_t kStreamedBytes = int64_t(32) << 20;

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// Sums of the shorter side of a grid, which each of its parts makes apart: elements [first, first + count) of `out`.
template <class T>
struct PartSums {
  T* const out;
  const int64_t parts, first, count;
  Buffer<T> apart;  // [parts, count]; one part: none

  PartSums(T* sums, int64_t n_parts, int64_t begin, int64_t numel, T value = 0)
      : out(sums), parts(sums ? n_parts : 1), first(begin), count(numel) {
    if (parts == 1) return;
    apart.allocate(parts * count);
    if (value != 0) std::fill(apart.data(), apart.data() + apart.size(), value);
  }
  T* of(int64_t part) const { return parts == 1 ? out : apart.data() + part * count - first; }
  void add() const {
    if (parts == 1) return;
    constexpr int64_t kPiece = 1 << 14;
    parallel_tasks(ceil_div(count, kPiece), [&](int64_t, int64_t k) {
      for (int64_t part = 0; part < parts; ++part)
        for (int64_t i = k * kPiece; i < std::min(count, (k + 1) * kPiece); ++i) out[first + i] += of(part)[first + i];
    });
  }
};

// Sums of the dense pairs per lane and per row, with running maxima where they are needed.
template <class T>
struct DenseSums {
  const Engine<T>& e;
  Buffer<double> row_sum, col_sum, row_aux, col_aux;
  const bool running;

  DenseSums(const Engine<T>& engine, bool columns)
      : e(engine),
        row_sum(e.n),
        col_sum(columns ? e.m : 0),
        row_aux(e.n),
        col_aux(col_sum.size()),
        running(e.epilogue == kSoftmaxRunningMax) {
    for (auto* aux : {&row_aux, &col_aux})
      for (int64_t i = 0; running && i < aux->size(); ++i) (*aux)[i] = kMinusInfinity;
  }

  // Forward pass over all tiles. attention: also sum_j e_ij y_j of the one-sided loss whose y needs no gradient, which
  // is all that its backward pass will want; it goes to kept.
  void add(const Grid& grid, Keep keep, T* kept) {
    const bool self = e.p.self_pairs(), columns = col_sum.size() > 0, attention = keep == Keep::attention;
    Buffer<T> ones;
    if (attention) {
      ones.allocate(e.grid.x_blocks * kBlock);
      std::fill(ones.data(), ones.data() + ones.size(), T(1));
    }
    Scratch<T> scratch(grid, keep != Keep::tiles, false, attention && e.pairs);
    const int64_t parts = grid.x_parts();
    const int64_t first = grid.x_begin * kBlock, rows = std::min(grid.x_blocks * kBlock, e.n - first);
    const Side by_row(row_sum, row_aux, running, parts, first, rows);
    const Side by_col(col_sum, col_aux, running, grid.y_parts(), 0, col_sum.size());
    const PartSums<T> attended(attention ? kept : nullptr, parts, 0, e.x_numel());
    const bool streams = keep == Keep::tiles && grid.kept_end() * int64_t(sizeof(T)) > kStreamedBytes;
    for_each_tile(grid, e.depth, [&](const TileTask& task) {
      const auto [worker, part, I, J, next_I, next_J] = task;
      Tile<T> t = e.tile(grid, I, J);
      scratch.bind(t, worker);
      if (keep == Keep::tiles) t.e = kept + grid.kept_offset(I, J);
      t.streams = streams;
      if (next_I >= 0) e.lanes_of(e.tile(grid, next_I, next_J), t.soon);
      t.row_sum = by_row.sum.of(part);
      t.row_aux = by_row.aux.of(part);
      if (self || columns) {
        t.col_sum = (self ? by_row : by_col).sum.of(part);
        t.col_aux = (self ? by_row : by_col).aux.of(part);
      }
      e.table.forward[e.epilogue](t);
      if (keep == Keep::tiles && t.triangular) e.clear_unvisited(t);
      if (attention && !running) {
        Weights<T> w;
        scratch.bind(w, worker);
        w.row_weight = ones.data();
        w.grad_x = attended.of(part);
        e.table.backward[e.epilogue](t, w);
      }
    });
    attended.add();
    by_row.add();
    by_col.add();
  }
  double row_lse(int64_t i) const { return lse(row_sum[i], row_aux[i]); }
  double col_lse(int64_t j) const { return lse(col_sum[j], col_aux[j]); }

 private:
  // The sums of one side, and those that the parts of a grid make of it.
  struct Side {
    const bool running;
    const PartSums<double> sum, aux;

    Side(const Buffer<double>& sums, const Buffer<double>& others, bool runs, int64_t parts, int64_t first,
         int64_t count)
        : running(runs),
          sum(sums.data(), parts, first, count),
          aux(others.data(), parts, first, count, runs ? kMinusInfinity : 0.0) {}
    void add() const {
      if (!running) {
        sum.add();
        aux.add();
      } else if (sum.parts > 1) {
        for (int64_t part = 0; part < sum.parts; ++part)
          for (int64_t i = sum.first; i < sum.first + sum.count; ++i)
            add_shifted(aux.out[i], sum.out[i], aux.of(part)[i], sum.of(part)[i]);
      }
    }
  };
  double lse(double sum, double maximum) const {  // log2
    return sum == 0 ? kMinusInfinity : (running ? maximum : 0.0) + std::log2(sum);
  }
};

// Half a unit in the last place, relative: 2^-25 in fp32.
template <class T>
constexpr double kHalfUnit = double(std::numeric_limits<T>::epsilon()) / 4;

// The weight of the exponentials of a row, 0 where nothing was summed.
inline double bounded_weight(double upstream, double lse) {
  return upstream == 0 || lse == kMinusInfinity ? 0.0 : upstream * std::exp2(-lse);
}

// What turns the exponentials of one side into gradients: the upstream gradient over the sum of each row.
//
// floor: a pair's weight up to it leaves no trace in the gradient of that row. `total` is a weight that enters the
// gradient at any rate, that of the row's positive: all `terms` together that stay out are at most half a unit in the
// last place of it.
template <class T>
struct SideWeights {
  Buffer<T> weight, lse, floor;

  void allocate(int64_t padded, bool running) {
    weight.allocate(padded);
    if (running) lse.allocate(padded);
  }
  void allocate_floor(int64_t padded, bool running) {
    if (running) floor.allocate(padded);
  }
  void set_floor(int64_t i, double total, int64_t terms) {
    if (floor.data()) floor[i] = T(std::fabs(total) * kHalfUnit<T> / double(std::max<int64_t>(terms, 1)));
  }
  void set(int64_t i, double upstream, double lse_value) {
    if (lse.data()) {
      // What T cannot hold of the log-sum goes into the weight: at 144 bits, half a unit is 8e-6 of each probability.
      // Where T rounds up by more than T's exponentials reach, those of all lower scores are 0.
      const bool empty = upstream == 0 || lse_value == kMinusInfinity;
      lse[i] = empty ? T(1e30) : T(lse_value);  // 2^(score - 1e30) is 0, while 2^score may overflow
      const double rest = double(lse[i]) - lse_value;
      weight[i] = empty ? T(0) : T(upstream * std::exp2(rest > 64 ? 0 : rest));
    } else {
      weight[i] = T(bounded_weight(upstream, lse_value));
    }
  }
};

// Backward pass over all tiles, to blocked gradients; null: not wanted. col_total: sums of G per row of y.
template <class T>
void dense_gradients(const Engine<T>& e, const Grid& grid, Keep keep, const T* kept, const SideWeights<T>& rows,
                     const SideWeights<T>& cols, T* grad_x, T* grad_y, double* col_total) {
  const bool self = e.p.self_pairs();
  Scratch<T> scratch(grid, keep != Keep::tiles, keep == Keep::tiles, e.pairs);
  const int64_t area = e.depth_blocks * kBlock * kBlock;
  const PartSums<T> of_x(grad_x, grid.x_parts(), grid.x_begin * area, grid.x_blocks * area);
  const PartSums<T> of_y(self ? nullptr : grad_y, grid.y_parts(), 0, e.y_numel());
  const PartSums<double> totals(col_total, grid.y_parts(), 0, e.m);
  for_each_tile(grid, e.depth, [&](const TileTask& task) {
    const auto [worker, part, I, J, next_I, next_J] = task;
    Tile<T> t = e.tile(grid, I, J);
    scratch.bind(t, worker);
    if (keep == Keep::tiles) {
      t.e = const_cast<T*>(kept) + grid.kept_offset(I, J);
    } else {
      e.rows_of(t, t.soon);
      e.table.forward[e.epilogue](t);
    }
    Weights<T> w;
    if (next_I >= 0 && keep == Keep::tiles) {
      const Tile<T> next = e.tile(grid, next_I, next_J);
      const char* first = reinterpret_cast<const char*>(kept + grid.kept_offset(next_I, next_J));
      w.soon.spans[0] = {first, first + (next.j1 - next.j0) * kBlock * kBlock * int64_t(sizeof(T))};
      e.rows_of(next, w.soon, 1);
    } else if (next_I >= 0) {
      e.lanes_of(e.tile(grid, next_I, next_J), w.soon);
    }
    scratch.bind(w, worker);
    w.row_weight = rows.weight.data();
    w.row_lse = rows.lse.data();
    w.col_weight = self ? rows.weight.data() : cols.weight.data();
    w.col_lse = self ? rows.lse.data() : cols.lse.data();
    w.row_floor = rows.floor.data();
    w.col_floor = self ? rows.floor.data() : cols.floor.data();
    w.grad_x = of_x.of(part);
    w.grad_y = self ? grad_x : of_y.of(part);
    w.col_total = totals.of(part);
    e.table.backward[e.epilogue](t, w);
  });
  of_x.add();
  of_y.add();
  totals.add();
}

inline bool any_wanted(const std::vector<void*>& targets) {
  return std::any_of(targets.begin(), targets.end(), [](void* q) { return q != nullptr; });
}

// The pairs (i, positive[i]) seen from y: a CSR table with the gradient of each pair's score.
struct Partners {
  std::vector<int64_t> offset;
  std::vector<int32_t> row;
  std::vector<double> weight;
  Partners(int64_t n, int64_t m, const int32_t* positive, const double* x_weight) : offset(size_t(m) + 1, 0) {
    for (int64_t i = 0; i < n; ++i)
      if (positive[i] >= 0) ++offset[size_t(positive[i]) + 1];
    std::partial_sum(offset.begin(), offset.end(), offset.begin());
    row.resize(size_t(offset.back()));
    weight.resize(row.size());
    std::vector<int64_t> next(offset.begin(), offset.end() - 1);
    for (int64_t i = 0; i < n; ++i) {
      if (positive[i] < 0) continue;
      const size_t at = size_t(next[size_t(positive[i])]++);
      row[at] = int32_t(i);
      weight[at] = x_weight[i];
    }
  }
};

// From blocked sums to the gradients of the inputs and of the scale. x_weight: gradient of the score of (i,
// positive[i]).
template <class T>
struct InputGradients {
  const Engine<T>& e;
  const double* x_weight;
  Buffer<double> projection = {};
  bool wide = false;

  void run(GradientEpilogue<T>& f, int64_t rows, double* scale) {
    if (scale && !projection.data()) {
      projection.allocate(rows);
      f.projection = projection.data();
    }
    f.depth = e.depth;
    f.normalize = e.p.normalize;
    f.scale = e.p.scale;
    f.wide = wide;
    run_gradient_epilogue(e.table.gradient_epilogue, f, rows);
  }
  // dense_weight: per row, null: 1.
  void x(const T* dense, const double* dense_weight, void* const* out, double* scale) {
    const auto& y = e.y_sources();
    GradientEpilogue<T> f;
    f.sources = e.p.x.data();
    f.n_sources = int64_t(e.p.x.size());
    f.inverse_norm = e.x_inverse.data();
    f.dense = dense;
    f.dense_weight = dense_weight;
    f.partner_sources = y.data();
    f.n_partner_sources = int64_t(y.size());
    f.partner_inverse_norm = !(e.p.normalize > 0) ? nullptr
                             : e.p.self_pairs()   ? e.x_inverse.data()
                                                  : e.y_inverse.data();
    f.partner = e.positive.data();
    f.partner_weight = x_weight;
    f.out = out;
    run(f, e.n, scale);
  }
  void y(const T* dense, const double* dense_weight, const Partners& partners, void* const* out, double* scale) {
    GradientEpilogue<T> f;
    f.dense_weight = dense_weight;
    f.sources = e.p.y.data();
    f.n_sources = int64_t(e.p.y.size());
    f.inverse_norm = e.y_inverse.data();
    f.dense = dense;
    f.partner_sources = e.p.x.data();
    f.n_partner_sources = int64_t(e.p.x.size());
    f.partner_inverse_norm = e.p.normalize > 0 ? e.x_inverse.data() : nullptr;
    f.partner_offset = partners.offset.data();
    f.partner = partners.row.data();
    f.partner_weight = partners.weight.data();
    f.out = out;
    run(f, e.m, scale);
  }
  // sum_ij G_ij x_i . y_j = sum_i x_i . (sum_j G_ij y_j); x against itself counts each pair twice.
  double scale_gradient() const {
    double total = 0;
    for (int64_t i = 0; i < projection.size(); ++i) total += projection[i];
    return e.p.self_pairs() ? total / 2 : total;
  }
};

}  // namespace
}  // namespace fastssl

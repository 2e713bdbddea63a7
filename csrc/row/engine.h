// Strips over the pool of threads: up to 256 rows of x against all of y are scored, looked at row by row, and turned
// into gradients, in three phases. Chunks of columns are cut alike for any number of threads, and their shares of
// dL/dx are added in order: the same bits always. Only row_loss.cpp includes this.
#pragma once
#include <cmath>
#include <cstring>

#include "core/buffer.h"
#include "core/interrupt.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "loss.h"
#include "pair/schedule.h"

namespace fastssl {
namespace {

constexpr int64_t kArea = kBlock * kBlock;
// Most scores of one strip, in elements: 256 rows as long as y has no more than 65,536 (64 MiB of floats).
constexpr int64_t kStripNumel = int64_t(16) << 20;

template <class T>
class RowEngine {
 public:
  const RowProblem p;
  const PairTable<T>& table;
  const RowTable<T>& rows;
  const int64_t n, m, depth, depth_blocks, x_blocks, y_blocks;
  const int64_t strip_blocks, chunk_blocks, chunks;
  Buffer<T> x_lanes, x_rows, y_rows, x_square, y_square;
  Buffer<double> x_inverse, y_inverse;

  RowEngine(const RowProblem& problem, const IsaTable& isa)
      : p(problem),
        table(pick<PairTable<T>>(isa)),
        rows(pick<RowTable<T>>(isa)),
        n(problem.n()),
        m(problem.m()),
        depth(problem.depth),
        depth_blocks(ceil_div(depth, kBlock)),
        x_blocks(ceil_div(n, kBlock)),
        y_blocks(ceil_div(m, kBlock)),
        strip_blocks(rows_per_strip(y_blocks)),
        chunk_blocks(std::max<int64_t>(1, ceil_div(y_blocks, y_blocks >= 64 ? 16 : 4))),
        chunks(ceil_div(y_blocks, chunk_blocks)) {
    if (p.metric != Metric::given) pack();
  }
  static int64_t rows_per_strip(int64_t y_blocks) {
    return std::clamp<int64_t>(kStripNumel / std::max<int64_t>(1, y_blocks * kArea), 1, kMaxTileBlocks);
  }
  int64_t strips() const { return ceil_div(x_blocks, strip_blocks); }

  Strip<T> strip(int64_t k, bool upper) const {
    Strip<T> t;
    t.x = {x_lanes.data(), x_rows.data(), n, depth, nullptr};
    t.y = {nullptr, p.same ? x_rows.data() : y_rows.data(), m, depth, nullptr};
    t.i0 = k * strip_blocks;
    t.i1 = std::min(t.i0 + strip_blocks, x_blocks);
    t.first = upper ? t.i0 * kBlock : 0;
    t.same = p.same;
    t.x_square = x_square.data();
    t.y_square = p.same ? x_square.data() : y_square.data();
    t.stride = (y_blocks * kBlock - t.first) * kBlock;
    return t;
  }
  // Where strip k starts among kept scores.
  int64_t kept_offset(int64_t k, bool upper) const {
    const int64_t before = k * strip_blocks;
    const int64_t left_out = upper ? strip_blocks * strip_blocks * k * (k - 1) / 2 : 0;
    return (before * y_blocks - left_out) * kArea;
  }
  int64_t strip_numel() const { return std::min(strip_blocks, x_blocks) * y_blocks * kArea; }

  int64_t most(const Strip<T>& t) const {
    return (t.i1 - t.i0) * (y_blocks - t.first / kBlock) * kArea * depth < 3000000 ? 1 : INT64_MAX;
  }
  // f(chunk, j0, j1) over the blocks of y that the strip looks at.
  template <class F>
  void for_each_chunk(const Strip<T>& t, F&& f) const {
    const int64_t first = t.first / kBlock, first_chunk = first / chunk_blocks;
    parallel_tasks(
        chunks - first_chunk,
        [&](int64_t, int64_t k) {
          const int64_t chunk = first_chunk + k, j0 = std::max(first, chunk * chunk_blocks);
          f(chunk, j0, std::min((chunk + 1) * chunk_blocks, y_blocks));
        },
        most(t));
  }

  void score(const Strip<T>& t) const {
    if (p.metric == Metric::given) return turn(t, p.x.data, false);
    for_each_chunk(t, [&](int64_t, int64_t j0, int64_t j1) { rows.score[int(p.metric)](t, j0, j1); });
  }
  // f(lane block): what is done with the rows of a strip.
  template <class F>
  void for_each_block(const Strip<T>& t, F&& f) const {
    parallel_tasks(t.i1 - t.i0, [&](int64_t, int64_t k) { f(t.i0 + k); }, most(t));
  }

  // Gradients, blocked; `same` adds both sides to the first.
  struct Gradients {
    Buffer<T> x, y, shares;
    Buffer<double> x_weight, y_weight, weight_shares;  // sums of the weights of distances
    bool want_x = false, want_y = false;
  };
  void start(Gradients& g, bool want_x, bool want_y) const {
    g.want_x = want_x;
    g.want_y = want_y && !p.same;
    if (want_x) {
      g.x.allocate(x_blocks * depth_blocks * kArea);
      g.shares.allocate(chunks * strip_blocks * depth_blocks * kArea, false);
    }
    if (g.want_y) g.y.allocate(y_blocks * depth_blocks * kArea);
    if (weighted()) {
      g.x_weight.allocate(x_blocks * kBlock);
      g.weight_shares.allocate(chunks * strip_blocks * kBlock, false);
      if (!p.same) g.y_weight.allocate(y_blocks * kBlock);
    }
  }
  bool weighted() const { return p.metric == Metric::sqeuclidean || p.metric == Metric::euclidean; }

  // A tile of dL/ds and of the scores where the strip has them; pairwise reads them from its matrices.
  RowWeights<T> tile_weights(const Strip<T>& t, int64_t block, int64_t jb) const {
    const int64_t at = (block - t.i0) * t.stride + (jb * kBlock - t.first) * kBlock;
    RowWeights<T> w;
    w.g = const_cast<T*>(t.g) + at;
    w.from = w.g;
    w.s = t.s + at;
    w.metric = p.metric;
    return w;
  }

  // dL/ds of a strip becomes its part of the gradients. fetch(block, j0, j1) says where dL/ds of a tile is, just before
  // it is weighed and multiplied, all while it is in the cache.
  template <class F>
  void accumulate(const Strip<T>& strip, Gradients& g, F&& fetch) const {
    const int64_t size = depth_blocks * kArea, share = strip_blocks * size, lanes = strip_blocks * kBlock;
    for_each_chunk(strip, [&](int64_t chunk, int64_t j0, int64_t j1) {
      Strip<T> t = strip;
      if (g.want_x) {
        t.grad_x = g.shares.data() + chunk * share;
        std::memset(t.grad_x, 0, size_t((t.i1 - t.i0) * size) * sizeof(T));
      }
      t.grad_y = p.same ? (g.want_x ? g.x.data() : nullptr) : g.y.data();
      double* row_sum = weighted() ? g.weight_shares.data() + chunk * lanes : nullptr;
      double* column_sum = p.same ? g.x_weight.data() : g.y_weight.data();
      if (row_sum) std::memset(row_sum, 0, size_t(lanes) * sizeof(double));
      T columns[kMaxTileBlocks * kBlock];
      for (int64_t j = j0; j < j1; j += kMaxTileBlocks) {
        const int64_t end = std::min(j + kMaxTileBlocks, j1);
        for (int64_t block = t.i0; block < t.i1; ++block) {
          RowWeights<T> w = fetch(block, j, end);
          if (!row_sum) continue;
          w.count = std::min(end * kBlock, m) - j * kBlock;
          w.row_sum = row_sum + (block - t.i0) * kBlock;
          w.column_sum = columns;
          rows.weigh(w);
          for (int64_t k = 0; k < w.count; ++k) column_sum[j * kBlock + k] += double(columns[k]);
        }
        rows.accumulate[int(p.metric)](t, j, end);
      }
    });
    const int64_t first_chunk = strip.first / kBlock / chunk_blocks;
    for_each_block(strip, [&](int64_t block) {
      const int64_t at = block - strip.i0;
      for (int64_t chunk = first_chunk; chunk < chunks; ++chunk) {
        for (int64_t l = 0; g.weight_shares.data() && l < kBlock; ++l)
          g.x_weight[block * kBlock + l] += g.weight_shares[chunk * lanes + at * kBlock + l];
        if (!g.want_x) continue;
        const T* part = g.shares.data() + chunk * share + at * size;
        T* sum = g.x.data() + block * size;
        for (int64_t k = 0; k < size; ++k) sum[k] += part[k];
      }
    });
  }
  // From blocked sums to gradients of the inputs.
  void finish(Gradients& g, void* out_x, void* out_y) const {
    if (out_x) finish_side(p.x, x_inverse, g.x, g.x_weight, out_x);
    if (out_y && !p.same) finish_side(p.y, y_inverse, g.y, g.y_weight, out_y);
  }

  // Between a strip and the rows of a matrix [n, m]: scores that are given, or their gradient (a contiguous one).
  void turn(const Strip<T>& t, const void* matrix, bool to_matrix) const {
    p.x.dtype == DType::f64 ? turn_as<double>(t, matrix, to_matrix) : turn_as<float>(t, matrix, to_matrix);
  }

 private:
  template <class V>
  void turn_as(const Strip<T>& t, const void* matrix, bool to_matrix) const {
    const int64_t row_stride = to_matrix ? m : p.x.row_stride, column_stride = to_matrix ? 1 : p.x.col_stride;
    for_each_chunk(t, [&](int64_t, int64_t j0, int64_t j1) {
      for (int64_t block = t.i0; block < t.i1; ++block)
        for (int64_t l = 0; l < kBlock; ++l) {
          const int64_t i = block * kBlock + l, end = std::min(j1 * kBlock, m);
          T* s = const_cast<T*>(to_matrix ? t.g : t.s) + (block - t.i0) * t.stride + l;
          V* row = static_cast<V*>(const_cast<void*>(matrix)) + i * row_stride;
          if (to_matrix) {
            for (int64_t j = j0 * kBlock; i < n && j < end; ++j) row[j] = V(s[j * kBlock]);
          } else {
            for (int64_t j = j0 * kBlock; j < j1 * kBlock; ++j)
              s[j * kBlock] = i < n && j < end ? T(row[j * column_stride]) : T(0);
          }
        }
    });
  }
  template <class Table>
  static const Table& pick(const IsaTable& isa) {
    if constexpr (std::is_same_v<Table, PairTable<double>>)
      return *isa.pairs_f64;
    else if constexpr (std::is_same_v<Table, PairTable<float>>)
      return *isa.pairs_f32;
    else if constexpr (std::is_same_v<Table, RowTable<double>>)
      return *isa.rows_f64;
    else
      return *isa.rows_f32;
  }
  void pack() {
    auto side = [&](const Source& source, int64_t blocks, Buffer<T>* lanes, Buffer<T>& packed, Buffer<double>& inverse,
                    Buffer<T>& square) {
      if (lanes) lanes->allocate(blocks * kBlock * depth, false);
      packed.allocate(blocks * depth_blocks * kArea, false);
      inverse.allocate(blocks * kBlock);
      if (weighted()) square.allocate(blocks * kBlock);
      const int64_t per_task = std::max<int64_t>(1, 512 / std::max<int64_t>(depth, 1));
      parallel_tasks(ceil_div(blocks, per_task), [&](int64_t, int64_t k) {
        for (int64_t b = k * per_task; b < std::min(blocks, (k + 1) * per_task); ++b) {
          Packed out;
          out.lanes = lanes ? lanes->data() : nullptr;
          out.rows = packed.data();
          out.inverse_norm = inverse.data();
          table.pack(&source, 1, b, depth, p.normalize, 1.0, out);
          for (int64_t r = 0; square.data() && r < kBlock; ++r) {
            const T* row = packed.data() + (b * depth_blocks * kBlock + r) * kBlock;
            double sum = 0;
            for (int64_t d = 0; d < depth; ++d) {
              const double v = double(row[d / kBlock * kArea + d % kBlock]);
              sum += v * v;
            }
            square[b * kBlock + r] = T(sum);
          }
        }
      });
    };
    side(p.x, x_blocks, &x_lanes, x_rows, x_inverse, x_square);
    if (!p.same) side(p.y, y_blocks, nullptr, y_rows, y_inverse, y_square);
  }

  void finish_side(const Source& source, const Buffer<double>& inverse, const Buffer<T>& dense,
                   const Buffer<double>& weight, void* out) const {
    GradientEpilogue<T> f;
    f.sources = f.partner_sources = &source;
    f.n_sources = f.n_partner_sources = 1;
    f.depth = depth;
    f.normalize = p.normalize;
    f.inverse_norm = inverse.data();
    f.dense = dense.data();
    std::vector<int32_t> itself;
    if (weight.data()) {  // the part of a distance's gradient along the row itself
      itself.resize(size_t(source.n));
      for (int64_t i = 0; i < source.n; ++i) itself[size_t(i)] = int32_t(i);
      f.partner = itself.data();
      f.partner_weight = weight.data();
      f.partner_inverse_norm = p.normalize > 0 ? inverse.data() : nullptr;
    }
    f.out = &out;
    run_gradient_epilogue(table.gradient_epilogue, f, source.n);
  }
};

}  // namespace
}  // namespace fastssl

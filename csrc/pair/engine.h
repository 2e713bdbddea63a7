// The engine's view of a problem: operands packed, partners found, the epilogue chosen, memory for the workers.
// Only pair_loss.cpp and pair_block.cpp include this.
#pragma once
#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "core/buffer.h"
#include "core/isa.h"
#include "loss.h"
#include "schedule.h"

namespace fastssl {
namespace {

constexpr double kLog2e = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;
// 2^48 times any number of rows is far from fp32's limits on both sides, also as the inverse of a sum.
constexpr double kBound = 48;

// Statistics, one segment of n or m doubles each.
struct Stats {
  double *row_lse, *row_gap, *col_lse, *col_gap, *valid;
};
// row_lse: log2 of the whole softmax denominator (decoupled: without the positive; sigmoid: the sum of sigmoids);
// row_gap: 1 - probability of the positive, computed without cancellation (decoupled: 1), what the loss falls by with
// the positive's score; col_*: the same for the columns of a symmetric loss;
// valid: how many rows count in the mean.
inline Stats layout(const PairProblem& p, double* s) {
  const int64_t n = p.n(), m = p.symmetric ? p.m() : 0;
  return {s, s + n, s + 2 * n, s + 2 * n + m, s + 2 * n + 2 * m};
}

// Rows with equal ids, in order of first appearance: a CSR table.
struct Groups {
  std::vector<int64_t> offset{0};
  std::vector<int32_t> member;
  int64_t count() const { return int64_t(offset.size()) - 1; }
  int64_t size(int64_t k) const { return offset[size_t(k) + 1] - offset[size_t(k)]; }
  const int32_t* members(int64_t k) const { return member.data() + offset[size_t(k)]; }
};
inline Groups group_by_id(const int64_t* ids, int64_t n) {
  std::unordered_map<int64_t, int64_t> index;
  std::vector<int64_t> group(static_cast<size_t>(n)), count;
  for (int64_t i = 0; i < n; ++i) {
    const auto it = index.emplace(ids[i], int64_t(count.size())).first;
    if (it->second == int64_t(count.size())) count.push_back(0);
    ++count[size_t(group[size_t(i)] = it->second)];
  }
  Groups g;
  for (int64_t c : count) g.offset.push_back(g.offset.back() + c);
  g.member.resize(size_t(n));
  std::vector<int64_t> next(g.offset.begin(), g.offset.end() - 1);
  for (int64_t i = 0; i < n; ++i) g.member[size_t(next[size_t(group[size_t(i)])]++)] = int32_t(i);
  return g;
}

// Classes: a row without positives (its mean is NaN) that is itself sound contributes nothing.
inline bool alone(const Stats& s, int64_t i) { return std::isnan(s.row_gap[i]) && !std::isnan(s.row_lse[i]); }

// One block of pairs costs nothing in fp64, and libraries sum products that small in an order that errs less
// than one fp32 chain does.
inline bool tiny(const PairProblem& p) { return std::max(p.n(), p.m()) <= kBlock; }

// f(T{}) with the element type that a problem is computed in.
template <class F>
void with_element(const PairProblem& p, F&& f) {
  if (p.dtype == DType::f64 || tiny(p)) {
    f(double{});
  } else {
    f(float{});
  }
}
// Tiles that are kept have the type of the result, which tiny problems are not computed in: they keep nothing.
template <class T>
Keep kept_as(const PairProblem& p, Keep keep) {
  return p.dtype != DType::f64 && std::is_same_v<T, double> && keep != Keep::gradients ? Keep::nothing : keep;
}
// What no tile writes must not be garbage: kept tiles leave as a tensor.
inline void clear_kept_rest(const PairProblem& p, Keep keep, void* kept) {
  const Grid grid(p.n(), p.m(), p.self_pairs());
  if (keep == Keep::gradients) return;  // all of it is written
  const int64_t used = keep != Keep::tiles || tiny(p) ? 0 : grid.kept_end();
  const int64_t size = p.dtype == DType::f64 ? 8 : 4;
  if (kept) std::memset(static_cast<char*>(kept) + used * size, 0, size_t((kept_numel(p, keep) - used) * size));
}

inline int64_t level2_cache() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t size = int64_t(sysconf(_SC_LEVEL2_CACHE_SIZE));
  if (size > 0) return size;
#endif
  return int64_t(1) << 20;
}

// The engine's own view of a problem, for one element type.
template <class T>
struct Engine {
  const PairProblem& p;
  const PairTable<T>& table;
  const IsaTable& isa_table;
  const bool pairs;  // bf16 words
  const int64_t n, m, depth, depth_blocks;
  const Grid grid;
  Buffer<char> x_lanes, y_lanes, x_rows, y_rows, y_natural;
  Buffer<double> x_inverse, y_inverse, x_norm, y_norm;
  Buffer<float> x_factor, y_factor;
  Buffer<int32_t> self, positive, x_ids, y_ids;
  Buffer<T> bias;
  Epilogue epilogue = kSoftmaxBounded;
  Tile<T> prototype;

  static const PairTable<T>& choose(const PairProblem& p, const IsaTable& isa) {
    if constexpr (std::is_same_v<T, double>) {
      return *isa.pairs_f64;
    } else {
      return uses_pairs(p, isa) ? *isa.pairs_bf16 : *isa.pairs_f32;
    }
  }
  static bool uses_pairs(const PairProblem& p, const IsaTable& isa) {
    if (!std::is_same_v<T, float> || !isa.pairs_bf16) return false;
    for (const auto* side : {&p.x, &p.y})
      for (const Source& s : *side)
        if (s.dtype != DType::bf16) return false;
    return true;
  }

  Engine(const PairProblem& problem, const IsaTable& isa)
      : p(problem),
        table(choose(problem, isa)),
        isa_table(isa),
        pairs(uses_pairs(problem, isa)),
        n(problem.n()),
        m(problem.m()),
        depth(problem.depth),
        depth_blocks(ceil_div(problem.depth, kBlock)),
        grid(problem.n(), problem.m(), problem.self_pairs()) {
    if (!softmax()) epilogue = kSigmoid;
    find_partners();
    if (!p.x_same.empty()) number_ids();
  }

  bool softmax() const { return !p.sigmoid(); }

  Groups groups;  // rows by class

  void find_partners() {
    const int64_t padded = grid.x_blocks * kBlock;
    positive.allocate(padded);
    if (p.self_pairs()) number_rows();
    if (p.positives == Positives::classes) {
      // Two rows of a class are each other's only positive: NT-Xent's form, exact for small losses, serves them.
      groups = group_by_id(p.ids, n);
      for (int64_t i = 0; i < padded; ++i) positive[i] = -1;
      for (int64_t k = 0; k < groups.count(); ++k) {
        if (groups.size(k) != 2) continue;
        const int32_t first = groups.members(k)[0], second = groups.members(k)[1];
        positive[first] = second;
        positive[second] = first;
      }
      return;
    }
    for (int64_t i = 0; i < padded; ++i) {
      int64_t partner = i;
      if (p.positives == Positives::halves) partner = i < n / 2 ? i + n / 2 : i - n / 2;
      if (p.positives == Positives::targets && i < n) partner = !p.ids || p.ids[i] == p.ignore_index ? -1 : p.ids[i];
      positive[i] = i < n ? int32_t(partner) : -1;
    }
  }

  void number_rows() {
    self.allocate(positive.size());
    for (int64_t i = 0; i < self.size(); ++i) self[i] = i < n ? int32_t(i) : -1;
  }

  // Ids by number, in order of first appearance.
  void number_ids() {
    std::unordered_map<int64_t, int32_t> numbers;
    const auto fill = [&](const std::vector<int64_t>& ids, Buffer<int32_t>& out, int64_t blocks) {
      out.allocate(blocks * kBlock);
      for (size_t i = 0; i < ids.size(); ++i)
        out[int64_t(i)] = numbers.emplace(ids[i], int32_t(numbers.size())).first->second;
    };
    fill(p.x_same, x_ids, grid.x_blocks);
    fill(p.y_same, y_ids, grid.y_blocks);
  }

  // Packs both sides. Lanes of x carry the scale, so that scores leave the multiplication finished. Neither: the
  // lengths of rows alone, if they are divided by them.
  void pack(bool lanes, bool rows) {
    if (!lanes && !rows && !(p.normalize > 0)) return;
    const double unit = softmax() ? kLog2e : 1.0, c = p.scale * unit;
    const bool split = p.self_pairs() && !pairs;  // one operand on both sides: each carries the root
    auto side = [&](const std::vector<Source>& sources, int64_t blocks, double factor, Buffer<char>& lane_buffer,
                    Buffer<char>& row_buffer, Buffer<double>& inverse, Buffer<double>& norm, Buffer<float>& factors,
                    bool is_x, bool is_y) {
      const int64_t padded = blocks * kBlock;
      Packed out;
      if (lanes && (is_x || !table.tiles)) {
        lane_buffer.allocate(padded * lane_bytes(), false);
        out.lanes = lane_buffer.data();
      }
      if (lanes && is_y && table.tiles) {
        y_natural.allocate(padded * row_bytes(), false);
        out.natural = y_natural.data();
      }
      if (rows) {
        row_buffer.allocate(padded * row_bytes(), false);
        out.rows = row_buffer.data();
      }
      inverse.allocate(padded);
      norm.allocate(padded);
      if (pairs) factors.allocate(padded);
      out.inverse_norm = inverse.data();
      out.norm = norm.data();
      out.lane_factor = factors.data();
      const int64_t per_task = std::max<int64_t>(1, 512 / std::max<int64_t>(depth, 1));
      parallel_tasks(ceil_div(blocks, per_task), [&](int64_t, int64_t k) {
        for (int64_t b = k * per_task; b < std::min(blocks, (k + 1) * per_task); ++b)
          table.pack(sources.data(), int64_t(sources.size()), b, depth, p.normalize, factor, out);
      });
    };
    side(p.x, grid.x_blocks, pairs ? 1.0 : (split ? std::sqrt(c) : c), x_lanes, x_rows, x_inverse, x_norm, x_factor,
         true, p.self_pairs());
    if (!p.self_pairs()) side(p.y, grid.y_blocks, 1.0, y_lanes, y_rows, y_inverse, y_norm, y_factor, false, true);

    Tile<T>& t = prototype;
    t.x = {x_lanes.data(), x_rows.data(), n, depth, x_factor.data()};
    t.y = p.self_pairs() ? t.x : Operand{y_lanes.data(), y_rows.data(), m, depth, y_factor.data()};
    t.y.natural = y_natural.data();
    t.scale = T(c);
    t.self = self.data();
    t.positive = positive.data();
    t.x_ids = x_ids.data();
    t.y_ids = p.self_pairs() ? t.x_ids : y_ids.data();
    if (!p.bias.empty()) {
      bias.allocate(grid.y_blocks * kBlock);
      for (int64_t j = 0; j < m; ++j) bias[j] = T(bias_at(j) * unit);
      t.bias = bias.data();
    }
    choose_epilogue(c);
  }

  double bias_at(int64_t j) const { return p.bias.empty() ? 0.0 : p.bias[p.bias.size() == 1 ? 0 : size_t(j)]; }
  double x_inv(int64_t i) const { return p.normalize > 0 ? x_inverse[i] : 1.0; }
  double y_inv(int64_t j) const { return p.normalize > 0 ? (p.self_pairs() ? x_inverse[j] : y_inverse[j]) : 1.0; }

  // |score| <= |scale| max|x| max|y| + max|bias| (Cauchy-Schwarz). NaN fails the comparison and takes the
  // path that carries it to the result.
  void choose_epilogue(double c) {
    if (!softmax()) return;
    auto largest = [&](const Buffer<double>& norm, int64_t rows) {
      double top = 0;
      for (int64_t i = 0; i < rows; ++i) top = !(norm[i] <= top) ? norm[i] : top;
      return p.normalize > 0 && std::isfinite(top) ? 1.0 : top;
    };
    const double x = largest(x_norm, n), y = p.self_pairs() ? x : largest(y_norm, m);
    double offset = 0;
    for (double b : p.bias) offset = !(std::fabs(b) <= offset) ? std::fabs(b) : offset;
    epilogue = std::fabs(c) * x * y + offset * kLog2e <= kBound ? kSoftmaxBounded : kSoftmaxRunningMax;
  }

  // A tile of the grid or of a strip of it.
  Tile<T> tile(const Grid& g, int64_t I, int64_t J) const {
    Tile<T> t = prototype;
    t.i0 = g.x_begin + I * g.x_tile;
    t.i1 = std::min(t.i0 + g.x_tile, g.x_begin + g.x_blocks);
    t.j0 = J * g.y_tile;
    t.j1 = std::min(t.j0 + g.y_tile, g.y_blocks);
    t.triangular = g.triangular && I == J;
    return t;
  }
  // The operands of a tile as memory; y first: the first lanes meet all of it.
  void lanes_of(const Tile<T>& t, PrefetchPlan& soon, int at = 0) const {
    operands(t, prototype.x.lanes, table.tiles ? prototype.y.natural : prototype.y.lanes, lane_bytes(), soon, at);
  }
  void rows_of(const Tile<T>& t, PrefetchPlan& soon, int at = 0) const {
    operands(t, prototype.x.rows, prototype.y.rows, row_bytes(), soon, at);
  }
  // What a row takes in each layout.
  int64_t row_bytes() const { return depth_blocks * kBlock * (pairs ? 2 : int64_t(sizeof(T))); }
  int64_t lane_bytes() const {
    if (table.tiles) return row_bytes();
    return pairs ? (depth + 1) / 2 * 4 : depth * int64_t(sizeof(T));
  }
  // Not more than a quarter of L2: this tile needs the rest.
  void operands(const Tile<T>& t, const void* x, const void* y, int64_t bytes_per_row, PrefetchPlan& soon,
                int at) const {
    int64_t room = level2_cache() / 4;
    const auto add = [&](const void* from, int64_t first, int64_t last) {
      const char* begin = static_cast<const char*>(from) + first * kBlock * bytes_per_row;
      const int64_t bytes = std::min((last - first) * kBlock * bytes_per_row, room);
      soon.spans[at++] = {begin, begin + bytes};
      room -= bytes;
    };
    add(y, t.j0, t.j1);
    add(x, t.i0, t.i1);
  }
  // Kept tiles leave this call as a tensor: what no tile visits must not be garbage.
  void clear_unvisited(const Tile<T>& t) const {
    const int64_t rows = (t.j1 - t.j0) * kBlock * kBlock;
    for (int64_t i = 0; i < t.i1 - t.i0; ++i)
      std::fill(t.e + i * rows + std::min(rows, (i + 1) * kBlock * kBlock), t.e + (i + 1) * rows, T(0));
  }
  int64_t x_numel() const { return grid.x_blocks * depth_blocks * kBlock * kBlock; }
  int64_t y_numel() const { return grid.y_blocks * depth_blocks * kBlock * kBlock; }
  const std::vector<Source>& y_sources() const { return p.self_pairs() ? p.x : p.y; }

  // Dot product of pair (i, j), in double.
  double dot(int64_t i, int64_t j) const {
    const auto& y = y_sources();
    return isa_table.dot(p.x.data(), int64_t(p.x.size()), i, x_inv(i), y.data(), int64_t(y.size()), j, y_inv(j), depth);
  }
};

constexpr int64_t kTileNumel = kMaxTileBlocks * kBlock * kMaxTileBlocks * kBlock;
constexpr int64_t kRowScratch = kMaxTileBlocks * kBlock * 16;

// Tile-sized memory of each worker.
template <class T>
struct Scratch {
  int64_t numel;
  Buffer<T> e, g, pairs, rows;
  Scratch(const Grid& grid, bool with_e, bool with_g, bool with_pairs)
      : numel(grid.x_tile * grid.y_tile * kBlock * kBlock) {
    const int64_t workers = num_threads();
    if (with_e) e.allocate(workers * numel, false);
    if (with_g) g.allocate(workers * numel, false);
    if (with_pairs) pairs.allocate(workers * numel / 2, false);
    rows.allocate(workers * kRowScratch, false);
  }
  void bind(Tile<T>& t, int64_t worker) {
    if (e.data()) t.e = e.data() + worker * numel;
    t.scratch = rows.data() + worker * kRowScratch;
  }
  void bind(Weights<T>& w, int64_t worker) {
    w.g = (g.data() ? g.data() : e.data()) + worker * numel;  // a recomputed tile is weighed in place
    if (pairs.data()) w.g_pairs = pairs.data() + worker * numel / 2;
  }
};

// log2(2^a + 2^b), and the share of a in it; NaN where b is what a share of 0 would hide: NaN, or infinite.
inline double log2_add(double a, double b, double* share) {
  if (a == -std::numeric_limits<double>::infinity() || !(b < std::numeric_limits<double>::infinity())) {
    *share = b - b;
    return b;
  }
  const double d = a - b;
  *share = 1.0 / (1.0 + std::exp2(-d));
  return d > 0 ? a + std::log1p(std::exp2(-d)) * kLog2e : b + std::log1p(std::exp2(d)) * kLog2e;
}

// Classes: a sum over positives of dot products is linear, so class sums replace the N x N matrix.
// mean_score[i] = mean over p in P(i) of s_ip in natural units; NaN where P(i) is empty.
template <class T>
void positive_means(const Engine<T>& e, double* mean_score) {
  parallel_tasks(e.groups.count(), [&](int64_t, int64_t k) {
    const int64_t size = e.groups.size(k);
    const int32_t* members = e.groups.members(k);
    if (size == 1) mean_score[members[0]] = std::numeric_limits<double>::quiet_NaN();
    if (size <= 2) return;
    std::vector<double> sum(size_t(e.depth), 0.0);
    const auto* x = e.p.x.data();
    const int64_t ns = int64_t(e.p.x.size());
    for (int64_t q = 0; q < size; ++q) e.isa_table.add_row(x, ns, members[q], e.x_inv(members[q]), e.depth, sum.data());
    for (int64_t q = 0; q < size; ++q) {
      const int64_t i = members[q];
      const double all = e.isa_table.dot_row(x, ns, i, e.x_inv(i), e.depth, sum.data());
      mean_score[i] = e.p.scale * (all - e.dot(i, i)) / double(size - 1);
    }
  });
}

// Its gradient, added to the dense one: -[w_i (C - x_i) + (sum_k w_k x_k - w_i x_i)], w_i = a_i / |P(i)|.
template <class T>
void add_positive_means(const Engine<T>& e, const double* a, T* dense) {
  parallel_tasks(e.groups.count(), [&](int64_t, int64_t k) {
    const int64_t size = e.groups.size(k);
    const int32_t* members = e.groups.members(k);
    if (size <= 2) return;
    const double per = 1.0 / double(size - 1);
    std::vector<double> sum(size_t(e.depth), 0.0), weighted(size_t(e.depth), 0.0), own(size_t(e.depth));
    const auto* x = e.p.x.data();
    const int64_t ns = int64_t(e.p.x.size());
    for (int64_t q = 0; q < size; ++q) {
      const int64_t i = members[q];
      e.isa_table.add_row(x, ns, i, e.x_inv(i), e.depth, sum.data());
      e.isa_table.add_row(x, ns, i, e.x_inv(i) * a[i] * per, e.depth, weighted.data());
    }
    for (int64_t q = 0; q < size; ++q) {
      const int64_t i = members[q];
      std::fill(own.begin(), own.end(), 0.0);
      e.isa_table.add_row(x, ns, i, e.x_inv(i), e.depth, own.data());
      T* row = dense + (i / kBlock * e.depth_blocks * kBlock + i % kBlock) * kBlock;
      for (int64_t d = 0; d < e.depth; ++d)
        row[d / kBlock * kBlock * kBlock + d % kBlock] -=
            T(a[i] * per * (sum[size_t(d)] - 2 * own[size_t(d)]) + weighted[size_t(d)]);
    }
  });
}

}  // namespace
}  // namespace fastssl

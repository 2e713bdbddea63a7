// The pair gradient: a kept or recomputed tile becomes G, and G is used at once for both operands.
#pragma once
#include "forward.h"
#include "sparse.h"

namespace fastssl {
namespace FASTSSL_ISA {

// f(first, count) for every run of true among flags[0], flags[step], ...
template <class F>
FASTSSL_INLINE void for_each_run(const bool* flags, int64_t step, int64_t count, F&& f) {
  for (int64_t k = 0; k < count;) {
    if (!flags[k * step]) {
      ++k;
      continue;
    }
    int64_t end = k;
    while (end < count && flags[end * step]) ++end;
    f(k, end - k);
    k = end;
  }
}

// A tile of scores whose log-sums are close to each other, both sides' weights relative to one shift: one exponential a
// pair instead of two. What falls below the exponential's range must be below all floors.
template <class T>
struct OneShift {
  bool holds = false;
  T shift = 0;
  T lanes[kMaxTileBlocks * kBlock], rows[kMaxTileBlocks * kBlock];

  void take(const Tile<T>& t, const Weights<T>& w) {
    if (sizeof(T) != 4 || !w.col_weight) return;
    constexpr T kInfinity = T(__builtin_inf());
    T low = kInfinity, high = -kInfinity, floor = kInfinity;
    const auto look = [&](const T* weight, const T* lse, const T* floors, int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        if (weight[i] == 0) continue;
        low = lse[i] < low ? lse[i] : low;
        high = lse[i] > high ? lse[i] : high;
        floor = floors[i] < floor ? floors[i] : floor;
      }
    };
    const int64_t i0 = t.i0 * kBlock, i1 = t.i1 * kBlock, j0 = t.j0 * kBlock, j1 = t.j1 * kBlock;
    look(w.row_weight, w.row_lse, w.row_floor, i0, i1);
    look(w.col_weight, w.col_lse, w.col_floor, j0, j1);
    if (!(low <= high && high - low <= T(kSpread))) return;
    shift = (low + high) / 2;
    T most = 0;
    const auto fill = [&](const T* weight, const T* lse, int64_t first, int64_t last, T* to) {
      for (int64_t i = first; i < last; ++i) {
        const T factor = weight[i] == 0 ? T(0) : weight[i] * T(__builtin_exp2(double(shift - lse[i])));
        const T size = factor < 0 ? -factor : factor;
        most = size <= most ? most : size;
        to[i - first] = factor;
      }
    };
    fill(w.row_weight, w.row_lse, i0, i1, lanes);
    fill(w.col_weight, w.col_lse, j0, j1, rows);
    holds = 2 * most * T(0x1p-126) <= floor && most < T(0x1p60);
  }

 private:
  static constexpr double kSpread = 60;  // bits
};

// From what a tile kept to G, for the lanes of one block.
template <class T, bool kScores>
struct Weigh {
  Vec<T> weight[kBlockVectors<T>], lse[kBlockVectors<T>];
  const T *col_weight, *col_lse;

  FASTSSL_INLINE Weigh(const Weights<T>& w, int64_t i) : col_weight(w.col_weight), col_lse(w.col_lse) {
    for (int v = 0; v < kBlockVectors<T>; ++v) {
      weight[v] = load<T>(w.row_weight + i + v * kWidth<T>);
      if (kScores) lse[v] = load<T>(w.row_lse + i + v * kWidth<T>);
    }
  }
  FASTSSL_INLINE Vec<T> operator()(Vec<T> e, int v, int64_t j) const {
    if constexpr (kScores) {
      Vec<T> g = weight[v] * exp2v(e - lse[v]);
      if (col_weight) g += col_weight[j] * exp2v(e - col_lse[j]);
      return g;
    } else {
      return e * (col_weight ? weight[v] + col_weight[j] : weight[v]);
    }
  }
};
template <class T>
struct WeighByOneShift {
  Vec<T> lanes[kBlockVectors<T>];
  const T* rows;
  T shift;

  FASTSSL_INLINE WeighByOneShift(const OneShift<T>& one, const Tile<T>& t, int64_t ib)
      : rows(one.rows - t.j0 * kBlock), shift(one.shift) {
    for (int v = 0; v < kBlockVectors<T>; ++v) lanes[v] = load<T>(one.lanes + (ib - t.i0) * kBlock + v * kWidth<T>);
  }
  FASTSSL_INLINE Vec<T> operator()(Vec<T> e, int v, int64_t j) const {
    // Two rows without weights may have any score: 0 times what the exponential makes of it has to be 0.
    const Vec<T> x = e - shift;
    return exp2v(x > T(120) ? splat<T>(T(120)) : x) * (lanes[v] + rows[j]);
  }
};

// Which blocks of a tile enter the two products. Where rows are well separated (a trained model at a low temperature)
// most weights are far below the rounding of the sums that they would enter.
struct TileSides {
  TileBlocks x, y;
};

// Finds that out while the weights of one lane block are made.
template <class K>
struct Sparsity {
  using T = typename K::Acc;
  const Tile<T>& t;
  const Weights<T>& w;
  TileSides& sides;
  const int64_t i, ib;

  FASTSSL_INLINE Sparsity(const Tile<T>& tile, const Weights<T>& weights, TileSides& blocks, int64_t lane_block)
      : t(tile), w(weights), sides(blocks), i(lane_block - tile.i0), ib(lane_block) {}
  FASTSSL_INLINE void add(const Vec<T>* g, int64_t j) {
    const int64_t jb = j / kBlock - t.j0, r = j % kBlock;
    const T* floor = w.row_floor + ib * kBlock;
    sides.x.bits[i][jb].row[r] =
        counted<T>(g, [&](int v) __attribute__((always_inline)) { return load<T>(floor + v * kWidth<T>); });
    sides.y.bits[i][jb].row[r] = counted<T>(g, [&](int) __attribute__((always_inline)) { return w.col_floor[j]; });
    if (r < kBlock - 1) return;
    const bool pairwise = !K::kPairs;  // rows of pairs cannot be added one by one
    w.grad_x ? sides.x.close(i, jb, pairwise) : sides.x.skip(i, jb);
    w.grad_y && !(t.triangular && ib == j / kBlock) ? sides.y.close(i, jb, pairwise) : sides.y.skip(i, jb);
  }
};

struct NotCounted {
  template <class... Any>
  FASTSSL_INLINE explicit NotCounted(Any&&...) {}
};

// G of one lane block; ``weigh(e, v, j)`` gives it for a vector of lanes.
template <class K, bool kScores, class W>
void weigh_rows_by(const W& weigh, const Tile<typename K::Acc>& t, const Weights<typename K::Acc>& w, int64_t ib,
                   [[maybe_unused]] TileSides& sides) {
  using T = typename K::Acc;
  constexpr int kW = kWidth<T>, kV = kBlockVectors<T>;
  const int64_t rows = (t.j1 - t.j0) * kBlock, first = t.j0 * kBlock, end = col_end(t, ib) * kBlock;
  const T* e = tile_column(t, ib, first);
  const int64_t before = (ib - t.i0) * rows;
  T* acc = w.col_total ? col_accumulator(t, first) : nullptr;
  [[maybe_unused]] Vec<T> even[kV];  // a row, until its neighbour is there
  [[maybe_unused]] alignas(64) uint32_t untransposed[K::kTiles ? kSquare : 1];
  [[maybe_unused]] std::conditional_t<kScores, Sparsity<K>, NotCounted> sparsity(t, w, sides, ib);
  for (int64_t j = first; j < end; ++j, e += kBlock) {
    Vec<T> g[kV];
    for (int v = 0; v < kV; ++v) g[v] = weigh(load<T>(e + v * kW), v, j);
    if constexpr (kScores) sparsity.add(g, j);
    if (acc) {
      Vec<T> sum = g[0];
      for (int v = 1; v < kV; ++v) sum += g[v];
      store<T>(acc, load<T>(acc) + sum);
      acc += kW;
    }
    if constexpr (!K::kPairs) {
      for (int v = 0; v < kV; ++v) store<T>(w.g + (before + j - first) * kBlock + v * kW, g[v]);
    }
#ifdef FASTSSL_BF16_PAIRS
    if constexpr (K::kPairs) {
      const int64_t r = (j - first) % kBlock, square = (before + j - first - r) / kBlock * kSquare;
      const auto put = [](uint32_t* to, Words words) { __builtin_memcpy(to, &words, sizeof words); };
      // The operands are raw rows: each product carries the factor of the row it is multiplied with.
      if (w.grad_y) {
        Vec<float> lanes[kV];
        for (int v = 0; v < kV; ++v) lanes[v] = g[v] * load<float>(t.x.lane_factor + ib * kBlock + v * kW);
        uint32_t* const to = reinterpret_cast<uint32_t*>(w.g) + square + r * K::kRun;
        for (int v = 0; v < kV; v += 2) put(to + v * (kW / 2), bf16_neighbours(lanes + v));
      }
      if (!w.grad_x) continue;
      for (int v = 0; v < kV; ++v) g[v] *= t.y.lane_factor[j];
      if (r % 2 == 0) {
        for (int v = 0; v < kV; ++v) even[v] = g[v];
        continue;
      }
      uint32_t* const pairs = static_cast<uint32_t*>(w.g_pairs) + square;
      uint32_t* const to = (K::kTiles ? untransposed : pairs) + r / 2 * kBlock;
      for (int v = 0; v < kV; ++v) put(to + v * kW, bf16_pairs(even[v], g[v]));
      if constexpr (K::kTiles)
        for (int64_t l = 0; r == kBlock - 1 && l < kBlock; l += K::kRun)
          transpose_words<K>(untransposed + l, kBlock, pairs + l * K::kRun, K::kRun);
    }
#endif
  }
}

template <class K, bool kScores>
void weigh_rows(const Tile<typename K::Acc>& t, const Weights<typename K::Acc>& w, int64_t ib, TileSides& sides,
                const OneShift<typename K::Acc>& one) {
  using T = typename K::Acc;
  if constexpr (kScores)
    if (one.holds) return weigh_rows_by<K, kScores>(WeighByOneShift<T>(one, t, ib), t, w, ib, sides);
  weigh_rows_by<K, kScores>(Weigh<T, kScores>(w, ib * kBlock), t, w, ib, sides);
}

template <class K, int kStrideK, int kStrideR, class Prefetch = Nothing>
FASTSSL_INLINE void accumulate_block(typename K::Acc* grad, const typename K::Word* a, int64_t a_step,
                                     const typename K::Word* b, int64_t b_step, int64_t runs, Prefetch&& ahead = {}) {
  using T = typename K::Acc;
  if constexpr (K::kTiles) {
    multiply_tiles<K, true>(grad, a, a_step, b, b_step, runs, ahead);
  } else {
    for (int l = 0; l < kBlock; l += kLanes<T>) {
      for_row_groups([&](auto rows, int r) __attribute__((always_inline)) {
        constexpr int R = decltype(rows)::value;
        // The sums are wanted when the products are done; they come from beyond L2 and nothing else asks for them
        // early.
        for (int q = 0; q < R; ++q)
          for (int v = 0; v < kVectors; v += kVectorsPerLine)
            __builtin_prefetch(grad + (r + q) * kBlock + l + v * kWidth<T>, 1, 3);
        Micro<K, R> acc = {};
        multiply<K, kStrideK, kStrideR, R>(acc, a + r * kStrideR, a_step, b + l, b_step, runs, 0, ahead);
        for (int q = 0; q < R; ++q)
          for (int v = 0; v < kVectors; ++v) {
            T* p = grad + (r + q) * kBlock + l + v * kWidth<T>;
            store<T>(p, load<T>(p) + acc[q][v]);
          }
      });
    }
  }
}

template <class K, bool kScores>
void backward(const Tile<typename K::Acc>& t, const Weights<typename K::Acc>& w) {
  using W = typename K::Word;
  using T = typename K::Acc;
  constexpr int64_t kRunWords = K::kPairs ? kSquare : kBlock * kBlock;  // one 32 x 32 block
  constexpr int64_t kPanel = K::kTiles ? kMaxTileBlocks : kPanelRuns;
  const typename K::Setup setup;
  const int64_t depth_blocks = (t.x.depth + kBlock - 1) / kBlock, rows = t.j1 - t.j0;
  [[maybe_unused]] constexpr int64_t area = kBlock * kBlock;
  [[maybe_unused]] const int64_t size = depth_blocks * area;
  const W* g_x = static_cast<const W*>(K::kPairs ? w.g_pairs : static_cast<const void*>(w.g));
  if (w.col_total) clear_col_accumulators<T>(t, 0);
  TileSides sides;
  OneShift<T> one;
  if constexpr (kScores) one.take(t, w);
  // f(first, count) for the blocks of one row or column of blocks, [begin, end), that are multiplied, kPanel at a time.
  const auto in_panels = [&](const bool* flags, int64_t step, int64_t begin, int64_t end,
                             auto&& f) __attribute__((always_inline)) {
    const auto panels = [&](int64_t from, int64_t to) __attribute__((always_inline)) {
      for (int64_t b = from; b < to; b += kPanel) f(b, to - b < kPanel ? to - b : kPanel);
    };
    if constexpr (kScores) {
      for_each_run(flags, step, end - begin, [&](int64_t k, int64_t count) __attribute__((always_inline)) {
        panels(begin + k, begin + k + count);
      });
    } else {
      panels(begin, end);
    }
  };
  for (int64_t ib = t.i0; ib < t.i1; ++ib) {
    weigh_rows<K, kScores>(t, w, ib, sides, one);
    if (!w.grad_x) continue;
    // A kept tile comes from memory: the next lanes' share of it while these are multiplied.
    Prefetcher ahead;
    if (ib + 1 < t.i1) {
      const char* at = reinterpret_cast<const char*>(tile_column(t, ib + 1, t.j0 * kBlock));
      ahead = Prefetcher(Span{at, at + (col_end(t, ib + 1) - t.j0) * kBlock * kBlock * int64_t(sizeof(T))});
    }
    in_panels(sides.x.dense[ib - t.i0], 1, t.j0, col_end(t, ib),
              [&](int64_t jb, int64_t count) __attribute__((always_inline)) {
                for (int64_t db = 0; db < depth_blocks; ++db)
                  accumulate_block<K, int(kBlock), 1>(
                      w.grad_x + (ib * depth_blocks + db) * kBlock * kBlock,
                      g_x + ((ib - t.i0) * rows + (jb - t.j0)) * kRunWords, kRunWords,
                      static_cast<const W*>(t.y.rows) + (jb * depth_blocks + db) * kRunWords, depth_blocks * kRunWords,
                      count, ahead);
              });
    if constexpr (kScores && !K::kPairs)
      for (int64_t jb = t.j0; jb < col_end(t, ib); ++jb)
        if (sides.x.few[ib - t.i0][jb - t.j0])
          accumulate_few<T>(w.grad_x + ib * size, static_cast<const T*>(t.y.rows) + jb * size,
                            sides.x.bits[ib - t.i0][jb - t.j0].transposed(),
                            w.g + ((ib - t.i0) * rows + (jb - t.j0)) * area, 1, kBlock, depth_blocks);
  }
  for (int64_t j = t.j0 * kBlock; w.col_total && j < t.j1 * kBlock && j < t.y.n; ++j)
    w.col_total[j] += hsum<T>(load<T>(col_accumulator(t, j)));
  if (w.grad_y) {
    Prefetcher ahead(w.soon);
    const W* g = reinterpret_cast<const W*>(w.g);
    for (int64_t jb = t.j0; jb < t.j1; ++jb) {
      const int64_t first = t.triangular ? jb + 1 : t.i0;  // the diagonal block went to grad_x whole
      if (first >= t.i1) continue;
      in_panels(&sides.y.dense[first - t.i0][jb - t.j0], kMaxTileBlocks, first, t.i1,
                [&](int64_t ib, int64_t count) __attribute__((always_inline)) {
                  for (int64_t db = 0; db < depth_blocks; ++db)
                    accumulate_block<K, 1, K::kRun>(
                        w.grad_y + (jb * depth_blocks + db) * kBlock * kBlock,
                        g + ((ib - t.i0) * rows + (jb - t.j0)) * kRunWords, rows * kRunWords,
                        static_cast<const W*>(t.x.rows) + (ib * depth_blocks + db) * kRunWords,
                        depth_blocks * kRunWords, count, ahead);
                });
      if constexpr (kScores && !K::kPairs)
        for (int64_t ib = first; ib < t.i1; ++ib)
          if (sides.y.few[ib - t.i0][jb - t.j0])
            accumulate_few<T>(w.grad_y + jb * size, static_cast<const T*>(t.x.rows) + ib * size,
                              sides.y.bits[ib - t.i0][jb - t.j0], w.g + ((ib - t.i0) * rows + (jb - t.j0)) * area,
                              kBlock, 1, depth_blocks);
    }
  }
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

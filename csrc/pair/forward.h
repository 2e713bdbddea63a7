// The reduction: score tiles, their epilogue, and the row and column statistics.
#pragma once
#include <type_traits>

#include "relation.h"
#include "running_max.h"
#include "simd/tiles.h"
#include "tile.h"

namespace fastssl {
namespace FASTSSL_ISA {

template <class T>
FASTSSL_INLINE T* tile_column(const Tile<T>& t, int64_t ib, int64_t j) {
  return t.e + ((ib - t.i0) * (t.j1 - t.j0) * kBlock + (j - t.j0 * kBlock)) * kBlock;
}
template <class T>
FASTSSL_INLINE T* col_accumulator(const Tile<T>& t, int64_t j) {
  return t.scratch + (j - t.j0 * kBlock) * kWidth<T>;
}

// Scores of one 32 x 32 block. The epilogue is a pass of its own over these 4 KiB: between
// micro-tiles it would drain the multiply-add pipeline (AVX2, D = 128: 75 % of the peak, 85 % like this).
template <class K, class Prefetch = Nothing>
FASTSSL_INLINE void score_block(const Tile<typename K::Acc>& t, int64_t ib, int64_t jb, typename K::Acc* out,
                                Prefetch&& ahead = {}) {
  using T = typename K::Acc;
  using W = typename K::Word;
  if constexpr (K::kTiles) {
    const int64_t runs = (t.x.depth + kBlock - 1) / kBlock;
    multiply_tiles<K, false>(out, static_cast<const W*>(t.y.natural) + jb * runs * kSquare, kSquare,
                             static_cast<const W*>(t.x.lanes) + ib * runs * kSquare, kSquare, runs, ahead);
  } else {
    const int64_t words = K::kPairs ? (t.x.depth + 1) / 2 : t.x.depth;
    const W* a = static_cast<const W*>(t.y.lanes) + jb * words * kBlock;
    const W* b = static_cast<const W*>(t.x.lanes) + ib * words * kBlock;
    constexpr int64_t kStep = K::kRun * kBlock;
    constexpr int64_t kPanel = kPanelRuns * K::kRun;
    for (int64_t w = 0; w < words; w += kPanel) {
      const int64_t n = words - w < kPanel ? words - w : kPanel;
      for (int l = 0; l < kBlock; l += kLanes<T>) {
        for_row_groups([&](auto rows, int r) __attribute__((always_inline)) {
          constexpr int R = decltype(rows)::value;
          T* p = out + r * kBlock + l;
          Micro<K, R> acc = {};
          if (w > 0) load_micro<K, R>(acc, p);
          multiply<K, int(kBlock), 1, R>(acc, a + w * kBlock + r, kStep, b + w * kBlock + l, kStep, n / K::kRun,
                                         int(n % K::kRun), ahead);
          store_micro<K, R>(p, acc);
        });
      }
    }
  }
}

// What is left between the product and the score: the factors of bf16 rows, the bias of row j.
template <class K>
struct ScoreEnd {
  using T = typename K::Acc;
  const T* bias;
  const float* row_factor;
  T scale;
  Vec<T> lanes[kBlockVectors<T>];

  FASTSSL_INLINE ScoreEnd(const Tile<T>& t, int64_t i) : bias(t.bias), row_factor(t.y.lane_factor), scale(t.scale) {
    if constexpr (K::kPairs)
      for (int v = 0; v < kBlockVectors<T>; ++v) lanes[v] = load<T>(t.x.lane_factor + i + v * kWidth<T>);
  }
  FASTSSL_INLINE Vec<T> operator()(Vec<T> s, int v, int64_t j) const {
    if constexpr (K::kPairs) s *= lanes[v] * (row_factor[j] * scale);
    if (bias) s += bias[j];
    return s;
  }
};

template <class T>
FASTSSL_INLINE int64_t col_end(const Tile<T>& t, int64_t ib) {
  return t.triangular ? (ib + 1 < t.j1 ? ib + 1 : t.j1) : t.j1;
}

template <class T>
void clear_col_accumulators(const Tile<T>& t, T value) {
  for (int64_t k = 0; k < (t.j1 - t.j0) * kBlock * kWidth<T>; k += kWidth<T>) store<T>(t.scratch + k, splat<T>(value));
}

// Epilogues: from score to what the tile keeps and what is summed.
template <class T>
struct Bounded {  // |score| <= 48 in units of log 2: no shift is needed, no underflow is possible
  static constexpr bool kAux = false;
  static FASTSSL_INLINE Vec<T> apply(Vec<T> s, Vec<T>& sum, Vec<T>&, IVec<T> keep, bool masked) {
    Vec<T> e = exp2_in_range(s);
    if (masked) e = keep ? e : Vec<T>{};
    sum = e;
    return e;
  }
};
template <class T>
struct Sigmoid {  // keeps sigmoid(s), sums softplus(s) and sigmoid(s)
  static constexpr bool kAux = true;
  static FASTSSL_INLINE Vec<T> apply(Vec<T> s, Vec<T>& sum, Vec<T>& aux, IVec<T> keep, bool masked) {
    const Vec<T> magnitude = s < T(0) ? -s : s;
    const Vec<T> e = exp_minus(magnitude);
    const Vec<T> inverse = T(1) / (e + T(1));
    Vec<T> sigmoid = s < T(0) ? e * inverse : inverse;
    Vec<T> softplus = log1pv(e) + (s < T(0) ? Vec<T>{} : s);
    if (masked) {
      sigmoid = keep ? sigmoid : Vec<T>{};
      softplus = keep ? softplus : Vec<T>{};
    }
    sum = softplus;
    aux = sigmoid;
    return sigmoid;
  }
};

// f(std::bool_constant...) with the values of flags: the loops inside are made for each combination.
template <class F>
FASTSSL_INLINE void with_flags(F&& f) {
  f();
}
template <class F, class... Flags>
FASTSSL_INLINE void with_flags(F&& f, bool flag, Flags... others) {
  if (flag) {
    with_flags([&](auto... rest) __attribute__((always_inline)) { f(std::true_type{}, rest...); }, others...);
  } else {
    with_flags([&](auto... rest) __attribute__((always_inline)) { f(std::false_type{}, rest...); }, others...);
  }
}

// Sums over the rows of a block, per lane.
template <class T>
struct RowSums {
  Vec<T> sum[kBlockVectors<T>] = {}, aux[kBlockVectors<T>] = {};

  FASTSSL_INLINE void add(const RowSums& other) {
    for (int v = 0; v < kBlockVectors<T>; ++v) {
      sum[v] += other.sum[v];
      aux[v] += other.aux[v];
    }
  }
};

// The epilogue of one block, from its scores s to the tile. Everything that a row does not change is in a local
// variable: stores to the tile might alias the tile's description, which would be read again for every row (a fifth of
// the pass with AVX-512).
template <class K, template <class> class Epi, bool kMasked, bool kRows, bool kStream>
FASTSSL_INLINE RowSums<typename K::Acc> reduce_block(const Tile<typename K::Acc>& t, int64_t ib, int64_t jb,
                                                     const typename K::Acc* s) {
  using T = typename K::Acc;
  constexpr int kW = kWidth<T>, kV = kBlockVectors<T>;
  const int64_t i = ib * kBlock;
  const auto finish = ScoreEnd<K>(t, i);
  T* e = tile_column(t, ib, jb * kBlock);
  T* acc = col_accumulator(t, jb * kBlock);
  RowSums<T> part;
  for (int64_t j = jb * kBlock; j < (jb + 1) * kBlock; ++j, e += kBlock, s += kBlock, acc += kW) {
    Vec<T> row{};
    for (int v = 0; v < kV; ++v) {
      IVec<T> keep{};
      if (kMasked) keep = takes_part(t, i + v * kW, j);
      Vec<T> sum, aux;
      const Vec<T> out = Epi<T>::apply(finish(load<T>(s + v * kW), v, j), sum, aux, keep, kMasked);
      kStream ? stream(e + v * kW, out) : store<T>(e + v * kW, out);
      part.sum[v] += sum;
      if (Epi<T>::kAux) part.aux[v] += aux;
      if (kRows) row += sum;
    }
    if (kRows) store<T>(acc, load<T>(acc) + row);
  }
  return part;
}

template <class K, template <class> class Epi>
void forward(const Tile<typename K::Acc>& t) {
  using T = typename K::Acc;
  constexpr int kW = kWidth<T>;
  const typename K::Setup setup;
  const TileMask<T> mask(t);
  const bool rows = t.col_sum != nullptr;
  if (rows) clear_col_accumulators<T>(t, 0);
  alignas(64) T block[kBlock * kBlock];
  Prefetcher ahead(t.soon);
  for (int64_t ib = t.i0; ib < t.i1; ++ib) {
    const int64_t i = ib * kBlock;
    RowSums<T> total;
    for (int64_t jb = t.j0, end = col_end(t, ib); jb < end; ++jb) {
      score_block<K>(t, ib, jb, block, ahead);
      // Sums of 32, then of blocks: rounding grows with the logarithm of the length.
      with_flags(
          [&](auto masked, auto counts, auto streams) __attribute__((always_inline)) {
            total.add(reduce_block<K, Epi, decltype(masked)::value, decltype(counts)::value, decltype(streams)::value>(
                t, ib, jb, block));
          },
          mask.flagged[ib - t.i0][jb - t.j0], rows && !(t.triangular && ib == jb), t.streams);
    }
    for (int64_t l = 0; t.row_sum && l < kBlock && i + l < t.x.n; ++l) {
      t.row_sum[i + l] += total.sum[l / kW][l % kW];
      if (Epi<T>::kAux && t.row_aux) t.row_aux[i + l] += total.aux[l / kW][l % kW];
    }
  }
  if (t.streams) stream_end();
  if (!rows) return;
  for (int64_t j = t.j0 * kBlock; j < t.j1 * kBlock && j < t.y.n; ++j)
    t.col_sum[j] += hsum<T>(load<T>(col_accumulator(t, j)));
}

// Scores that are out of range of one shift: a running maximum for every lane and row. The tile keeps scores.
//
// Where only lanes are summed (a vocabulary) the maximum runs from block to block, while the scores are in the first
// cache.
template <class K, bool kStream>
void forward_running_max_of_rows(const Tile<typename K::Acc>& t) {
  using T = typename K::Acc;
  constexpr int kW = kWidth<T>, kV = kBlockVectors<T>;
  const typename K::Setup setup;
  const TileMask<T> mask(t);
  alignas(64) T block[kBlock * kBlock];
  Prefetcher ahead(t.soon);
  for (int64_t ib = t.i0; ib < t.i1; ++ib) {
    const int64_t i = ib * kBlock;
    const auto finish = ScoreEnd<K>(t, i);
    Vec<T> top[kV], total[kV] = {};
    for (auto& v : top) v = splat<T>(T(kMaskedScore));
    for (int64_t jb = t.j0, end = col_end(t, ib); jb < end; ++jb) {
      score_block<K>(t, ib, jb, block, ahead);
      const bool masked = mask.flagged[ib - t.i0][jb - t.j0];
      Vec<T> before[kV], part[kV] = {};
      for (int v = 0; v < kV; ++v) before[v] = top[v];
      for (int64_t r = 0; r < kBlock; ++r)
        for (int v = 0; v < kV; ++v) {
          T* at = block + r * kBlock + v * kW;
          Vec<T> score = finish(load<T>(at), v, jb * kBlock + r);
          if (masked) score = takes_part(t, i + v * kW, jb * kBlock + r) ? score : splat<T>(T(kMaskedScore));
          store<T>(at, score);
          top[v] = vmax<T>(score, top[v]);
        }
      T* e = tile_column(t, ib, jb * kBlock);
      for (int64_t r = 0; r < kBlock; ++r)
        for (int v = 0; v < kV; ++v) {
          const Vec<T> score = load<T>(block + r * kBlock + v * kW);
          kStream ? stream(e + r * kBlock + v * kW, score) : store<T>(e + r * kBlock + v * kW, score);
          part[v] += exp2v(score - top[v]);
        }
      for (int v = 0; v < kV; ++v) {
        if (any<T>(top[v] != before[v])) total[v] *= exp2v(before[v] - top[v]);
        total[v] += part[v];
      }
    }
    for (int64_t l = 0; l < kBlock && i + l < t.x.n; ++l)
      add_shifted(t.row_aux[i + l], t.row_sum[i + l], double(top[l / kW][l % kW]), double(total[l / kW][l % kW]));
  }
  if (kStream) stream_end();
}

template <class K>
void forward_running_max(const Tile<typename K::Acc>& t) {
  using T = typename K::Acc;
  constexpr int kW = kWidth<T>;
  const TileMask<T> mask(t);
  const bool rows = t.col_sum != nullptr, lanes = t.row_sum != nullptr;
  if (lanes && !rows)
    return t.streams ? forward_running_max_of_rows<K, true>(t) : forward_running_max_of_rows<K, false>(t);
  const typename K::Setup setup;
  T col_maximum[kMaxTileBlocks * kBlock];
  Vec<T> row_maximum[kMaxTileBlocks][kBlockVectors<T>];
  if (rows) clear_col_accumulators<T>(t, T(kMaskedScore));
  for (int64_t ib = t.i0; ib < t.i1; ++ib) {
    auto& top = row_maximum[ib - t.i0];
    const auto finish = ScoreEnd<K>(t, ib * kBlock);
    for (auto& v : top) v = splat<T>(T(kMaskedScore));
    for (int64_t jb = t.j0, end = col_end(t, ib); jb < end; ++jb) {
      score_block<K>(t, ib, jb, tile_column(t, ib, jb * kBlock));
      const bool masked = mask.flagged[ib - t.i0][jb - t.j0];
      const bool count_cols = rows && !(t.triangular && ib == jb);
      T* e = tile_column(t, ib, jb * kBlock);
      T* acc = col_accumulator(t, jb * kBlock);
      for (int64_t j = jb * kBlock; j < (jb + 1) * kBlock; ++j, e += kBlock, acc += kW) {
        Vec<T> row = splat<T>(T(kMaskedScore));
        for (int v = 0; v < kBlockVectors<T>; ++v) {
          const int64_t i = ib * kBlock + v * kW;
          Vec<T> score = finish(load<T>(e + v * kW), v, j);
          if (masked) score = takes_part(t, i, j) ? score : splat<T>(T(kMaskedScore));
          store<T>(e + v * kW, score);
          top[v] = vmax<T>(score, top[v]);
          row = vmax<T>(score, row);
        }
        if (count_cols) store<T>(acc, vmax<T>(row, load<T>(acc)));
      }
    }
  }
  if (!lanes && !rows) return;
  if (rows) {
    for (int64_t j = 0; j < (t.j1 - t.j0) * kBlock; ++j) col_maximum[j] = hmax<T>(load<T>(t.scratch + j * kW));
    clear_col_accumulators<T>(t, 0);
  }
  for (int64_t ib = t.i0; ib < t.i1; ++ib) {
    const auto& top = row_maximum[ib - t.i0];
    Vec<T> total[kBlockVectors<T>] = {};
    for (int64_t jb = t.j0, end = col_end(t, ib); jb < end; ++jb) {
      Vec<T> part[kBlockVectors<T>] = {};
      const bool count_cols = rows && !(t.triangular && ib == jb);
      const T* e = tile_column(t, ib, jb * kBlock);
      T* acc = col_accumulator(t, jb * kBlock);
      for (int64_t j = jb * kBlock; j < (jb + 1) * kBlock; ++j, e += kBlock, acc += kW) {
        Vec<T> row{};
        for (int v = 0; v < kBlockVectors<T>; ++v) {
          const Vec<T> s = load<T>(e + v * kW);
          part[v] += exp2v(s - top[v]);
          if (count_cols) row += exp2v(s - col_maximum[j - t.j0 * kBlock]);
        }
        if (count_cols) store<T>(acc, load<T>(acc) + row);
      }
      for (int v = 0; v < kBlockVectors<T>; ++v) total[v] += part[v];
    }
    for (int64_t l = 0; lanes && l < kBlock && ib * kBlock + l < t.x.n; ++l)
      add_shifted(t.row_aux[ib * kBlock + l], t.row_sum[ib * kBlock + l], double(top[l / kW][l % kW]),
                  double(total[l / kW][l % kW]));
  }
  for (int64_t j = t.j0 * kBlock; rows && j < t.j1 * kBlock && j < t.y.n; ++j)
    add_shifted(t.col_aux[j], t.col_sum[j], double(col_maximum[j - t.j0 * kBlock]),
                double(hsum<T>(load<T>(col_accumulator(t, j)))));
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl

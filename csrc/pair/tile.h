// Tiles of the pair matrix, as the kernels of an instruction set see them.
#pragma once
#include "core/types.h"

namespace fastssl {

// Most blocks on one side of a tile. 256 x 256 floats of scores (256 KiB) and the two operands' rows at
// D = 128 stay inside a 1 MiB L2 cache.
constexpr int64_t kMaxTileBlocks = 8;

// A tile: lane blocks [i0, i1) of x against row blocks [j0, j1) of y. T is float or double.
template <class T>
struct Tile {
  Operand x, y;
  int64_t i0 = 0, i1 = 0, j0 = 0, j1 = 0;
  bool triangular = false;  // x == y and i0 == j0: only blocks j <= i are visited
  // Score: dot product (its scale folded into x.lanes, or given here for bf16) + bias per row of y.
  T scale = 1;
  const T* bias = nullptr;
  // Relation: pairs left out of the dense sums, as one index of y per lane (-1: none).
  const int32_t* self = nullptr;
  const int32_t* positive = nullptr;
  // And pairs of equal numbers: one per lane, one per row of y; null: none.
  const int32_t* x_ids = nullptr;
  const int32_t* y_ids = nullptr;
  // Tile buffer, [lane block][row of y][32].
  T* e = nullptr;
  bool streams = false;  // e is written past the caches
  PrefetchPlan soon;
  T* scratch = nullptr;  // row accumulators, 32 * kMaxTileBlocks * 16 values
  // Statistics, added to (indexed from the first row of the operand); null when nobody asks.
  double* row_sum = nullptr;
  double* col_sum = nullptr;
  double* row_aux = nullptr;  // running maximum (softmax), sum of sigmoids (sigmoid)
  double* col_aux = nullptr;
};

// What turns a tile buffer into gradients: G = e * (row_weight + col_weight) for tiles of exponentials,
// G = row_weight 2^(e - row_lse) + col_weight 2^(e - col_lse) for tiles of scores.
template <class T>
struct Weights {
  const T* row_weight = nullptr;
  const T* col_weight = nullptr;
  const T* row_lse = nullptr;
  const T* col_lse = nullptr;
  // Tiles of scores: |G| up to this is left out of the gradient of that row (SideWeights in pair_dense.h).
  const T* row_floor = nullptr;
  const T* col_floor = nullptr;
  T* g = nullptr;           // scratch for the weighted tile
  void* g_pairs = nullptr;  // bf16 only: the same, paired along the rows of y (matrix tiles: transposed)
  T* grad_x = nullptr;      // blocked like Operand::rows; null: not wanted
  T* grad_y = nullptr;
  double* col_total = nullptr;  // sum of G over lanes, per row of y (bias gradient)
  PrefetchPlan soon;
};

// The O(N D) end of a backward pass, one row: dense gradient + sparse partners, scale, normalisation.
template <class T>
struct GradientEpilogue {
  const Source* sources = nullptr;  // the rows the gradient is for
  int64_t n_sources = 0, depth = 0;
  double normalize = 0;  // see PairProblem
  const double* inverse_norm = nullptr;
  const T* dense = nullptr;              // blocked; null: partners only
  const double* dense_weight = nullptr;  // per row; null: 1
  // Partners of row r: entries [offset[r], offset[r + 1]), or entry r where offset is null.
  const Source* partner_sources = nullptr;
  int64_t n_partner_sources = 0;
  const double* partner_inverse_norm = nullptr;
  const int64_t* partner_offset = nullptr;
  const int32_t* partner = nullptr;  // -1: none
  const double* partner_weight = nullptr;
  double scale = 1;
  void* const* out = nullptr;    // per source, contiguous, its dtype; null: not wanted
  bool wide = false;             // 16-bit sources get fp32 gradients
  double* projection = nullptr;  // per row: x_hat . (gradient before the scale)
};
constexpr int64_t epilogue_scratch(int64_t depth) { return 2 * ((depth + kBlock - 1) / kBlock * kBlock); }

enum Epilogue : int { kSoftmaxBounded = 0, kSoftmaxRunningMax = 1, kSigmoid = 2, kEpilogues = 3 };

template <class T>
struct PairTable {
  void (*forward[kEpilogues])(const Tile<T>&);
  void (*backward[kEpilogues])(const Tile<T>&, const Weights<T>&);
  // Packs one block of 32 rows. `factor` multiplies what goes to lanes.
  void (*pack)(const Source* sources, int64_t n_sources, int64_t block, int64_t depth, double normalize, double factor,
               const Packed& out);
  // One row; scratch holds epilogue_scratch(depth) doubles.
  void (*gradient_epilogue)(const GradientEpilogue<T>&, int64_t row, double* scratch);
  bool tiles = false;  // multiplies matrix tiles: scores read y.natural and whole runs of x.lanes
};

}  // namespace fastssl

// Rows of the pair matrix: the losses whose term for one row needs that whole row of scores (its negatives'
// log-sum-exp, its sorted distances, its histogram). As tile.h, this is the border between the schedule and the
// kernels of an instruction set: plain structs and function pointers only.
#pragma once
#include "core/types.h"
#include "table.h"

namespace fastssl {

constexpr int kMetrics = kMetricValues - 1;  // that are computed: all but `given`
inline bool is_distance(Metric m) { return m != Metric::dot; }

// Lane blocks [i0, i1) of x against rows of y from `first` on: all the scores of up to 256 rows at once.
template <class T>
struct Strip {
  Operand x, y;  // x.lanes, x.rows and y.rows are used
  int64_t i0 = 0, i1 = 0;
  int64_t first = 0;            // first row of y, a multiple of kBlock
  bool same = false;            // x == y: a row's distance to itself is 0
  const T* x_square = nullptr;  // squared lengths, for Euclidean distances
  const T* y_square = nullptr;
  T* s = nullptr;      // [lane block][row of y - first][32]
  int64_t stride = 0;  // elements from one lane block to the next
  // The two products of a gradient.
  const T* g = nullptr;
  T* grad_x = nullptr;  // [lane block - i0][depth block][32][32], this column chunk's share
  T* grad_y = nullptr;  // blocked like Operand::rows
};

// One lane block of a strip, as a row loss sees it.
template <class T>
struct RowTask {
  const T* s = nullptr;  // [column - first][32]
  T* g = nullptr;        // backward: dL/ds, same layout
  int64_t i = 0, n = 0, m = 0, first = 0;
  // Relation: equal ids are positive pairs, others negative; or two bit planes of the lane block ([column], bit =
  // lane).
  const int32_t* x_ids = nullptr;
  const int32_t* y_ids = nullptr;
  const uint32_t* positive_bits = nullptr;
  const uint32_t* negative_bits = nullptr;
  int64_t self_offset = -1;  // row i of x is row (self_offset + i) % m of y and no partner of it; -1: it is not in y
  bool upper = false;        // pairs i < j only
  const double* params = nullptr;
  const double* row_value = nullptr;  // [n]: a threshold of each row (margin loss); [m]: log-sums of columns (lifted)
  int sweep = 0;
  double* out = nullptr;         // [n][outputs]
  const double* grad = nullptr;  // [n][outputs]
  double* grad_row = nullptr;    // [n]
  double* grad_scale = nullptr;  // [n][2], for params[0] and params[1]
};

// dL/ds of distances becomes the weight of the two products, with its sums. Some columns of one lane block.
template <class T>
struct RowWeights {
  T* g = nullptr;           // [column][32]: the weights
  const T* from = nullptr;  // dL/ds, from_step elements from one column to the next
  const T* s = nullptr;     // the scores, s_step elements
  int64_t from_step = kBlock, s_step = kBlock;
  int64_t count = 0;
  Metric metric = Metric::dot;
  double* row_sum = nullptr;  // [32], added to
  T* column_sum = nullptr;    // [count]
};

// The k best columns of each row of a lane block, kept while strips of columns pass by.
template <class T>
struct Selection {
  const T* s = nullptr;  // [column - begin][32]
  int64_t i = 0, n = 0, begin = 0, end = 0, k = 0;
  bool largest = false, exclude_self = false;
  T* value = nullptr;  // [row - i][k], a heap with the worst on top
  int64_t* index = nullptr;
  int64_t* count = nullptr;  // [row - i]
};

// Whether (a, i) ranks behind (b, j): NaN behind everything, equal values by column.
template <class T>
bool ranks_behind(bool largest, T a, int64_t i, T b, int64_t j) {
  if (a != a || b != b) return a != a && (b == b || i > j);
  if (a != b) return largest ? a < b : a > b;
  return i > j;
}

template <class T>
struct RowTable {
  void (*score[kMetrics])(const Strip<T>&, int64_t j0, int64_t j1);       // blocks [j0, j1) of y
  void (*accumulate[kMetrics])(const Strip<T>&, int64_t j0, int64_t j1);  // dL/dx and dL/dy of the same
  void (*forward[kRowLossValues])(const RowTask<T>&);
  void (*backward[kRowLossValues])(const RowTask<T>&);
  void (*weigh)(const RowWeights<T>&);
  void (*select)(const Selection<T>&);
};

}  // namespace fastssl

// Dot products of rows with rows picked by index, without gathering them.
#pragma once
#include "core/types.h"

namespace fastssl {

struct GatherProblem {
  Source x, table;                   // [n, depth], [rows, depth]
  const int64_t* indices = nullptr;  // [n, picks], in [0, rows)
  int64_t picks = 0, depth = 0;
};

// out[i, k] = x_i . table[indices[i, k]]
void gather_dot_forward(const GatherProblem& p, double* out);
// grad [n, picks]; gradients contiguous, in the dtypes of x and table; null: not wanted.
void gather_dot_backward(const GatherProblem& p, const double* grad, void* grad_x, void* grad_table);

}  // namespace fastssl

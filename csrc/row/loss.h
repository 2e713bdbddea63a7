// Losses, matrices and selections over whole rows of scores, strip by strip: the host side of rows.h.
#pragma once
#include <vector>

#include "task.h"

namespace fastssl {

// Two sets of rows and how they are compared.
struct RowProblem {
  Source x, y;
  bool same = false;  // y is x
  int64_t depth = 0;
  double normalize = 0;  // see PairProblem
  Metric metric = Metric::dot;
  DType dtype = DType::f32;

  int64_t n() const { return x.n; }
  int64_t m() const { return same ? x.n : y.n; }
};

// What a loss over rows needs besides.
struct RowLossProblem : RowProblem {
  RowLoss loss = RowLoss::lse;
  const int64_t* x_ids = nullptr;
  const int64_t* y_ids = nullptr;          // null: x_ids
  const int32_t* positive_bits = nullptr;  // [lane blocks][m]
  const int32_t* negative_bits = nullptr;
  std::vector<double> row_value;  // empty or [n] ([m]: see RowTask)
  double params[kRowParams] = {};
  int64_t self_offset = -1;  // see RowTask
  bool upper = false, keep = false;

  int64_t outputs() const { return kRowOutputs[int(loss)]; }
  // Written for each row: the loss's outputs, then how many positives and negatives it has.
  int64_t columns() const { return outputs() + 2; }
};

// Elements of kept scores: an upper bound that does not depend on how strips are cut.
int64_t row_kept_numel(const RowLossProblem& p);

void row_loss_forward(const RowLossProblem& p, void* kept, double* out);

struct RowGradients {
  void* x = nullptr;
  void* y = nullptr;            // unused where y is x
  double* row_value = nullptr;  // [n]
  double* params = nullptr;     // [2]
};
void row_loss_backward(const RowLossProblem& p, const void* kept, const double* out, const double* grad,
                       const RowGradients& gradients);

// The matrix of scores itself, contiguous [n, m], and its gradient.
void pairwise_forward(const RowProblem& p, void* out);
void pairwise_backward(const RowProblem& p, const Source& grad, const void* out, const RowGradients& gradients);

// The k best columns of each row, best first.
void nearest(const RowProblem& p, int64_t k, bool largest, bool exclude_self, void* values, int64_t* indices);

}  // namespace fastssl

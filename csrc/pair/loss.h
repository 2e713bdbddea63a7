// Losses over pairs of rows: which pairs are positive and the epilogue of a score are data (PairProblem), from which
// one engine makes the loss of each row and the gradients.
#pragma once
#include <cstdint>
#include <vector>

#include "table.h"
#include "tile.h"

namespace fastssl {

struct PairProblem {
  Positives positives = Positives::diagonal;
  Closing closing = Closing::cross_entropy;
  Reduction reduction = Reduction::mean;
  std::vector<Source> x, y;  // y empty: x against itself
  int64_t depth = 0;
  double normalize = 0;  // rows are divided by their length, or by this where it is larger; 0: they are not
  bool symmetric = false;
  double scale = 1;
  bool scale_learns = false;
  std::vector<double> bias;      // per row of y, or one value
  const int64_t* ids = nullptr;  // targets or classes
  // Rows of equal ids are not negatives of each other. Empty: all are. y_same: unused for x against itself.
  std::vector<int64_t> x_same, y_same;
  int64_t ignore_index = -100;
  DType dtype = DType::f32;

  bool self_pairs() const { return y.empty(); }
  // Every pair is a binary question; else each row is a softmax over its pairs.
  bool sigmoid() const { return closing == Closing::sigmoid_loss; }
  int64_t n() const {
    int64_t rows = 0;
    for (const auto& s : x) rows += s.n;
    return rows;
  }
  int64_t m() const {
    int64_t rows = 0;
    for (const auto& s : y.empty() ? x : y) rows += s.n;
    return rows;
  }
};

// Doubles that backward needs: see pair_loss.cpp.
int64_t stats_numel(const PairProblem& p, Keep keep);
double counted_rows(const PairProblem& p, const double* stats);  // in a mean
int64_t kept_numel(const PairProblem& p, Keep keep);

void pair_loss_forward(const PairProblem& p, Keep keep, void* kept, double* stats, double* loss);

struct PairGradients {
  std::vector<void*> x, y;  // one per source, null: not wanted
  double* scale = nullptr;
  double* bias = nullptr;  // as many as PairProblem::bias
};
// grad: one value, or one per row where reduction is none.
void pair_loss_backward(const PairProblem& p, Keep keep, const void* kept, const double* stats, const double* grad,
                        const PairGradients& out);

// A block of the pair matrix of a loss whose rows live in several places: what its rows and columns add to their
// softmax sums, and its share of the gradients once these are known everywhere. Rows against themselves leave each
// row's pair with itself out; the pair (i, ids[i]) of a row's one positive is no part of the sums.
struct BlockSums {
  double* x = nullptr;      // [n] log2 of the sum; sigmoid: sum of softplus(score)
  double* y = nullptr;      // [m] the same by columns; null: not wanted, and unused for rows against themselves
  double* other = nullptr;  // [n] sigmoid: sum of sigmoid(score)
  double* score = nullptr;  // [n] of the positive pairs, in natural units; 0 where there is none
};
void pair_block_forward(const PairProblem& p, Keep keep, void* kept, const BlockSums& out);

struct BlockWeights {
  const double* x = nullptr;      // [n] upstream gradient of each row's log-sum (sigmoid: of its sum)
  const double* x_lse = nullptr;  // [n] its log2 over all blocks; unused for sigmoid
  const double* y = nullptr;      // [m] by columns, or null; unused for rows against themselves
  const double* y_lse = nullptr;
  const double* partner = nullptr;  // [n] gradient of the score of (i, ids[i]), both directions of it
};
// Gradients are fp32 or fp64, never 16 bits: those of several blocks are added.
void pair_block_backward(const PairProblem& p, Keep keep, const void* kept, const BlockWeights& weights,
                         const PairGradients& out);

}  // namespace fastssl

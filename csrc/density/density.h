// Gibbs sampling and NADE over the threads of the pool; the same bits for any number of them.
#pragma once
#include "kernels.h"

namespace fastssl {

template <class T>
struct GibbsProblem {
  const T* visible;  // [rows][dimensions]
  int64_t rows, dimensions, hidden;
  const T* weight;  // [hidden][dimensions]
  const T* visible_bias;
  const T* hidden_bias;
  const int64_t* keys;  // [rows]
  int64_t steps, first;
  bool normal;
};

// Returns whether all visible units were in [0, 1], or are normal.
template <class T>
bool gibbs(const GibbsProblem<T>& p, T* out);

// Losses [rows]; slopes [rows][dimensions] and last [rows][hidden] for backward. With `keys`, draws `visible` instead.
template <class T>
void nade_forward(const Nade<T>& p, T* visible, int64_t rows, const int64_t* keys, double* losses, T* slopes, T* last);

// `slopes` times the gradients of the losses come first. The gradients begin as zeros.
template <class T>
void nade_backward(const Nade<T>& p, const T* visible, int64_t rows, const T* slopes, const T* last, T* weight,
                   T* output, T* hidden_bias);

}  // namespace fastssl

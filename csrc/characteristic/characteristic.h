// Empirical characteristic functions over the threads of the pool; the same bits for any number of them.
#pragma once
#include <cstdint>

namespace fastssl {

// Columns of x, [views][rows][columns], at t = 0, step, ..., (knots - 1) step.
template <class T>
struct Characteristic {
  const T* x;
  int64_t views, rows, columns;
  double step;
  int64_t knots;
};

// out [views][2][knots][columns]: the sums of cos(t x) and sin(t x) over rows.
template <class T>
void characteristic_sums(const Characteristic<T>& p, double* out);

// out, as x: gradients of the values from those of the sums, `grad` [views][2][knots][columns].
template <class T>
void characteristic_gradients(const Characteristic<T>& p, const double* grad, T* out);

}  // namespace fastssl

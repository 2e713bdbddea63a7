// Sums of an empirical characteristic function: of exp(i t x) over rows, at t = 0, step, 2 step, ...
#pragma once
#include <cstdint>

namespace fastssl {

constexpr int64_t kSketchColumns = 64;  // of a task
constexpr int64_t kSketchRows = 64;     // that are summed in T before they are added in double

// Columns of values; at most kSketchColumns of them.
template <class T>
struct Sketch {
  const T* x;  // [rows][stride]
  int64_t rows, stride, columns;
  double step;
  int64_t knots;
};

template <class T>
struct CharacteristicTable {
  // Adds cos(k step x) to sums[k] and sin(k step x) to sums[knots + k], [2 knots][sums_stride].
  // `scratch`: [2 knots][kSketchColumns].
  void (*sums)(const Sketch<T>& p, T* scratch, double* sums, int64_t sums_stride);
  // The gradient of each value, out [rows][stride]: the sum over k of by_sine[k] sin(k step x) + by_cosine[k]
  // cos(k step x). `weights`: by_sine and by_cosine, [2 knots][kSketchColumns].
  void (*gradients)(const Sketch<T>& p, const T* weights, T* out);
};

struct CharacteristicTables {
  CharacteristicTable<float> f32;
  CharacteristicTable<double> f64;
};

}  // namespace fastssl

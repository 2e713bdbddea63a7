#include "characteristic.h"

#include <algorithm>

#include "core/buffer.h"
#include "core/interrupt.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "kernels.h"

namespace fastssl {

namespace {

template <class T>
const CharacteristicTable<T>& kernels() {
  return of_type<T>(*isa().characteristic);
}

// Rows of a task; at most kMostParts of them, so that their sums take little memory beside x.
constexpr int64_t kTaskRows = 256, kMostParts = 16;

// A block of columns of some rows of one view.
struct Task {
  int64_t view, part, row, rows, column, columns;
};

template <class T>
class Tasks {
 public:
  explicit Tasks(const Characteristic<T>& p, int64_t most_parts)
      : p_(p),
        height_(ceil_div(std::max(kTaskRows, ceil_div(p.rows, most_parts)), kSketchRows) * kSketchRows),
        parts_(ceil_div(p.rows, height_)),
        blocks_(ceil_div(p.columns, kSketchColumns)) {}
  int64_t count() const { return p_.views * parts_ * blocks_; }
  int64_t parts() const { return parts_; }
  Task operator[](int64_t k) const {
    const int64_t column = k % blocks_ * kSketchColumns, part = k / blocks_ % parts_, row = part * height_;
    return {k / blocks_ / parts_,
            part,
            row,
            std::min(height_, p_.rows - row),
            column,
            std::min(kSketchColumns, p_.columns - column)};
  }
  Sketch<T> sketch(const Task& t) const {
    return {
        p_.x + (t.view * p_.rows + t.row) * p_.columns + t.column, t.rows, p_.columns, t.columns, p_.step, p_.knots};
  }

 private:
  const Characteristic<T>& p_;
  const int64_t height_, parts_, blocks_;
};

}  // namespace

template <class T>
void characteristic_sums(const Characteristic<T>& p, double* out) {
  const Tasks<T> tasks(p, kMostParts);
  const int64_t of_view = 2 * p.knots * p.columns, all = p.views * of_view;
  std::fill_n(out, all, 0.0);
  if (tasks.count() == 0) return;
  Buffer<double> others((tasks.parts() - 1) * all);  // of all parts but the first
  Buffer<T> scratch(num_threads() * 2 * p.knots * kSketchColumns, false);
  parallel_tasks(tasks.count(), [&](int64_t worker, int64_t k) {
    const Task t = tasks[k];
    double* to = t.part == 0 ? out : others.data() + (t.part - 1) * all;
    kernels<T>().sums(tasks.sketch(t), scratch.data() + worker * 2 * p.knots * kSketchColumns,
                      to + t.view * of_view + t.column, p.columns);
  });
  poll_interrupt();
  parallel_rows(all, tasks.parts(), [&](int64_t, int64_t i) {
    for (int64_t part = 1; part < tasks.parts(); ++part) out[i] += others[(part - 1) * all + i];
  });
}

template <class T>
void characteristic_gradients(const Characteristic<T>& p, const double* grad, T* out) {
  const Tasks<T> tasks(p, INT64_MAX);
  const int64_t of_worker = 2 * p.knots * kSketchColumns;
  Buffer<T> weights(num_threads() * of_worker);
  parallel_tasks(tasks.count(), [&](int64_t worker, int64_t k) {
    const Task t = tasks[k];
    T* by_sine = weights.data() + worker * of_worker;
    T* by_cosine = by_sine + p.knots * kSketchColumns;
    const double* by_sums = grad + t.view * 2 * p.knots * p.columns + t.column;
    for (int64_t knot = 0; knot < p.knots; ++knot)
      for (int64_t c = 0; c < t.columns; ++c) {
        by_sine[knot * kSketchColumns + c] = T(-double(knot) * p.step * by_sums[knot * p.columns + c]);
        by_cosine[knot * kSketchColumns + c] = T(double(knot) * p.step * by_sums[(p.knots + knot) * p.columns + c]);
      }
    kernels<T>().gradients(tasks.sketch(t), by_sine, out + (t.view * p.rows + t.row) * p.columns + t.column);
  });
  poll_interrupt();
}

template void characteristic_sums<float>(const Characteristic<float>& p, double* out);
template void characteristic_sums<double>(const Characteristic<double>& p, double* out);
template void characteristic_gradients<float>(const Characteristic<float>& p, const double* grad, float* out);
template void characteristic_gradients<double>(const Characteristic<double>& p, const double* grad, double* out);

}  // namespace fastssl

// Operators of empirical characteristic functions. Python names what is wrong with arguments; what could crash is
// checked again here.
#include <torch/csrc/stable/library.h>

#include "characteristic/characteristic.h"
#include "tensors.h"

namespace fastssl {
namespace {

template <class T>
Characteristic<T> problem_of(const Tensor& x, double step, int64_t knots) {
  return {data<T>(x), x.size(0), x.size(1), x.size(2), step, knots};
}
void check_values(const Tensor& x, int64_t knots) {
  check_floats(x);
  STD_TORCH_CHECK(x.is_cpu() && x.dim() == 3, "fastssl: expected CPU tensors [views, rows, columns]");
  STD_TORCH_CHECK(knots >= 1 && knots <= 1 << 16, "fastssl: knots out of range");
}

Tensor characteristic_op(Tensor x, double step, int64_t knots) {
  check_values(x, knots);
  x = dense(x);
  Tensor out = empty({x.size(0), 2, knots, x.size(2)}, ScalarType::Double);
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    characteristic_sums<T>(problem_of<T>(x, step, knots), mutable_data<double>(out));
  });
  return out;
}

Tensor characteristic_backward_op(Tensor grad, Tensor x, double step, int64_t knots, int64_t needs) {
  check_values(x, knots);
  x = dense(x), grad = dense(grad);
  check_dense(grad, ScalarType::Double, {x.size(0), 2, knots, x.size(2)});
  Tensor out = empty({x.size(0), x.size(1), x.size(2)}, x.scalar_type());
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    characteristic_gradients<T>(problem_of<T>(x, step, knots), data<double>(grad), mutable_data<T>(out));
  });
  (void)needs;  // there is one gradient
  return out;
}

}  // namespace
}  // namespace fastssl

STABLE_TORCH_LIBRARY_FRAGMENT(fastssl, m) {
  m.def("characteristic(Tensor x, float step, int knots) -> Tensor");
  m.def("characteristic_backward(Tensor grad, Tensor x, float step, int knots, int needs) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fastssl, CPU, m) {
  m.impl("characteristic", TORCH_BOX(&fastssl::characteristic_op));
  m.impl("characteristic_backward", TORCH_BOX(&fastssl::characteristic_backward_op));
}

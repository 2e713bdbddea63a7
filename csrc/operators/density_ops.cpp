// Operators of early models of binary data. Python names what is wrong with arguments; what could crash is checked
// again here.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "core/buffer.h"
#include "density/density.h"
#include "tensors.h"

namespace fastssl {
namespace {

Tensor gibbs_op(Tensor visible, Tensor weight, Tensor visible_bias, Tensor hidden_bias, Tensor keys, int64_t steps,
                int64_t first, bool normal) {
  STD_TORCH_CHECK(visible.dim() == 2 && weight.dim() == 2, "fastssl: expected matrices");
  STD_TORCH_CHECK(steps >= 1 && first >= 0 && first + steps <= INT64_C(1) << 31, "fastssl: steps out of range");
  visible = dense(visible), weight = dense(weight), visible_bias = dense(visible_bias),
  hidden_bias = dense(hidden_bias);
  const int64_t rows = visible.size(0), dimensions = visible.size(1), hidden = weight.size(0);
  const ScalarType dtype = weight.scalar_type();
  check_dense(visible, dtype, {rows, dimensions});
  check_dense(weight, dtype, {hidden, dimensions});
  check_dense(visible_bias, dtype, {dimensions});
  check_dense(hidden_bias, dtype, {hidden});
  const int64_t* key = ids_of(keys, "keys", rows);
  Tensor out = empty({rows, dimensions}, dtype);
  with_type(weight, [&](auto zero) {
    using T = decltype(zero);
    const bool within = gibbs<T>({data<T>(visible), rows, dimensions, hidden, data<T>(weight), data<T>(visible_bias),
                                  data<T>(hidden_bias), key, steps, first, normal},
                                 mutable_data<T>(out));
    STD_TORCH_CHECK(within, "fastssl: visible units outside [0, 1]");
  });
  return out;
}

// Weights with hidden units padded by zeros to whole groups, as the kernels take them.
template <class T>
class PaddedNade {
 public:
  PaddedNade(const Tensor& weight, const Tensor& output, const Tensor& bias, const Tensor& hidden_bias)
      : hidden(weight.size(1)), padded(ceil_div(hidden, kNadeUnits) * kNadeUnits) {
    const int64_t dimensions = weight.size(0);
    problem = {dimensions,
               padded,
               rows_of(weight, weights_),
               rows_of(output, outputs_),
               data<T>(bias),
               rows_of(hidden_bias, biases_)};
  }
  const int64_t hidden, padded;
  Nade<T> problem;

 private:
  const T* rows_of(const Tensor& t, Buffer<T>& copy) {
    if (hidden == padded) return data<T>(t);
    const int64_t rows = t.numel() / std::max<int64_t>(hidden, 1);
    copy.allocate(rows * padded);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(data<T>(t) + r * hidden, hidden, copy.data() + r * padded);
    return copy.data();
  }
  Buffer<T> weights_, outputs_, biases_;
};

void check_nade(const Tensor& weight, const Tensor& output, const Tensor& bias, const Tensor& hidden_bias) {
  check_floats(weight);
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) >= 1, "fastssl: expected weights [dimensions, hidden]");
  const ScalarType dtype = weight.scalar_type();
  check_dense(weight, dtype, {weight.size(0), weight.size(1)});
  check_dense(output, dtype, {weight.size(0), weight.size(1)});
  check_dense(bias, dtype, {weight.size(0)});
  check_dense(hidden_bias, dtype, {weight.size(1)});
}

std::tuple<Tensor, Tensor, Tensor> nade_op(Tensor visible, Tensor weight, Tensor output, Tensor bias,
                                           Tensor hidden_bias) {
  visible = dense(visible), weight = dense(weight), output = dense(output), bias = dense(bias),
  hidden_bias = dense(hidden_bias);
  check_nade(weight, output, bias, hidden_bias);
  const ScalarType dtype = weight.scalar_type();
  const int64_t rows = visible.size(0), dimensions = weight.size(0);
  check_dense(visible, dtype, {rows, dimensions});
  const int64_t padded = ceil_div(weight.size(1), kNadeUnits) * kNadeUnits;
  Tensor losses = empty({rows}, dtype), slopes = empty({rows, dimensions}, dtype), last = empty({rows, padded}, dtype);
  with_type(weight, [&](auto zero) {
    using T = decltype(zero);
    const PaddedNade<T> padding(weight, output, bias, hidden_bias);
    std::vector<double> values(size_t(rows), 0.0);
    // Not drawn, so that visible units are not written to.
    nade_forward<T>(padding.problem, const_cast<T*>(data<T>(visible)), rows, nullptr, values.data(),
                    mutable_data<T>(slopes), mutable_data<T>(last));
    std::copy(values.begin(), values.end(), mutable_data<T>(losses));
  });
  return {losses, slopes, last};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> nade_backward_op(Tensor grad, Tensor slopes, Tensor last, Tensor visible,
                                                            Tensor weight, Tensor output, Tensor bias,
                                                            Tensor hidden_bias, int64_t needs) {
  visible = dense(visible), weight = dense(weight), output = dense(output), bias = dense(bias),
  hidden_bias = dense(hidden_bias);
  check_nade(weight, output, bias, hidden_bias);
  const ScalarType dtype = weight.scalar_type();
  const int64_t rows = visible.size(0), dimensions = weight.size(0), hidden = weight.size(1);
  check_dense(visible, dtype, {rows, dimensions});
  check_dense(slopes, dtype, {rows, dimensions});
  check_dense(last, dtype, {rows, ceil_div(hidden, kNadeUnits) * kNadeUnits});
  const std::vector<double> upstream = values(grad);
  STD_TORCH_CHECK(int64_t(upstream.size()) == rows, "fastssl: gradient of the wrong size");
  Tensor by_weight = empty({dimensions, hidden}, dtype), by_output = empty({dimensions, hidden}, dtype);
  Tensor by_bias = empty({dimensions}, dtype), by_hidden = empty({hidden}, dtype);
  with_type(weight, [&](auto zero) {
    using T = decltype(zero);
    const PaddedNade<T> padding(weight, output, bias, hidden_bias);
    Buffer<T> scaled(rows * dimensions, false);
    std::vector<double> sums(size_t(dimensions), 0.0);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < dimensions; ++d) {
        const double slope = double(data<T>(slopes)[r * dimensions + d]) * upstream[size_t(r)];
        scaled[r * dimensions + d] = T(slope);
        sums[size_t(d)] += slope;
      }
    std::copy(sums.begin(), sums.end(), mutable_data<T>(by_bias));
    const bool direct = padding.hidden == padding.padded;
    Buffer<T> weights(direct ? 0 : dimensions * padding.padded), outputs(direct ? 0 : dimensions * padding.padded);
    Buffer<T> biases(padding.padded);
    T* w = direct ? mutable_data<T>(by_weight) : weights.data();
    T* o = direct ? mutable_data<T>(by_output) : outputs.data();
    if (direct) std::fill_n(w, dimensions * hidden, T(0)), std::fill_n(o, dimensions * hidden, T(0));
    nade_backward<T>(padding.problem, data<T>(visible), rows, scaled.data(), data<T>(last), w, o, biases.data());
    std::copy_n(biases.data(), hidden, mutable_data<T>(by_hidden));
    for (int64_t d = 0; !direct && d < dimensions; ++d) {
      std::copy_n(w + d * padding.padded, hidden, mutable_data<T>(by_weight) + d * hidden);
      std::copy_n(o + d * padding.padded, hidden, mutable_data<T>(by_output) + d * hidden);
    }
  });
  (void)needs;  // all gradients are made in one pass
  return {by_weight, by_output, by_bias, by_hidden};
}

Tensor nade_sample_op(Tensor weight, Tensor output, Tensor bias, Tensor hidden_bias, Tensor keys) {
  weight = dense(weight), output = dense(output), bias = dense(bias), hidden_bias = dense(hidden_bias);
  check_nade(weight, output, bias, hidden_bias);
  const int64_t* key = ids_of(keys, "keys", -1);
  const int64_t rows = keys.size(0);
  Tensor out = empty({rows, weight.size(0)}, weight.scalar_type());
  with_type(weight, [&](auto zero) {
    using T = decltype(zero);
    const PaddedNade<T> padding(weight, output, bias, hidden_bias);
    std::vector<double> losses(size_t(rows), 0.0);
    nade_forward<T>(padding.problem, mutable_data<T>(out), rows, key, losses.data(), nullptr, nullptr);
  });
  return out;
}

}  // namespace
}  // namespace fastssl

STABLE_TORCH_LIBRARY_FRAGMENT(fastssl, m) {
  m.def(
      "gibbs(Tensor visible, Tensor weight, Tensor visible_bias, Tensor hidden_bias, Tensor keys, int steps, int "
      "first, "
      "bool normal) -> Tensor");
  m.def(
      "nade(Tensor visible, Tensor weight, Tensor output, Tensor bias, Tensor hidden_bias) -> (Tensor, Tensor, "
      "Tensor)");
  m.def(
      "nade_backward(Tensor grad, Tensor slopes, Tensor last, Tensor visible, Tensor weight, Tensor output, Tensor "
      "bias, "
      "Tensor hidden_bias, int needs) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("nade_sample(Tensor weight, Tensor output, Tensor bias, Tensor hidden_bias, Tensor keys) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fastssl, CPU, m) {
  m.impl("gibbs", TORCH_BOX(&fastssl::gibbs_op));
  m.impl("nade", TORCH_BOX(&fastssl::nade_op));
  m.impl("nade_backward", TORCH_BOX(&fastssl::nade_backward_op));
  m.impl("nade_sample", TORCH_BOX(&fastssl::nade_sample_op));
}

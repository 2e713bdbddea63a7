// Dot products with picked rows, for noise-contrastive estimation and negative sampling.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "core/buffer.h"
#include "pair/gather.h"
#include "tensors.h"

namespace fastssl {
namespace {

GatherProblem parse(const Tensor& x, const Tensor& table, const Tensor& indices) {
  GatherProblem p;
  STD_TORCH_CHECK(x.dim() == 2 && x.size(1) >= 1, "fastssl: expected rows of at least one feature");
  p.depth = x.size(1);
  p.x = source_of(x, p.depth);
  p.table = source_of(table, p.depth);
  STD_TORCH_CHECK(indices.is_cpu() && indices.scalar_type() == ScalarType::Long && indices.dim() == 2 &&
                      indices.is_contiguous() && indices.size(0) == p.x.n,
                  "fastssl: indices must be contiguous int64 [rows, picks]");
  STD_TORCH_CHECK(p.x.n < INT32_MAX && p.table.n < INT32_MAX, "fastssl: too many rows");
  p.indices = static_cast<const int64_t*>(indices.const_data_ptr());
  p.picks = indices.size(1);
  for (int64_t q = 0; q < indices.numel(); ++q)
    STD_TORCH_CHECK(p.indices[q] >= 0 && p.indices[q] < p.table.n, "fastssl: index ", p.indices[q],
                    " is outside of a table of ", p.table.n, " rows");
  return p;
}

Tensor forward(Tensor x, Tensor table, Tensor indices) {
  const GatherProblem p = parse(x, table, indices);
  Tensor out = empty({p.x.n, p.picks}, p.x.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float);
  Buffer<double> values(out.numel());
  gather_dot_forward(p, values.data());
  for (int64_t q = 0; q < values.size(); ++q) write(out, q, values[q]);
  return out;
}

std::tuple<Tensor, Tensor> backward(Tensor grad, Tensor x, Tensor table, Tensor indices, int64_t needs) {
  const GatherProblem p = parse(x, table, indices);
  STD_TORCH_CHECK(grad.is_cpu() && grad.dim() == 2 && grad.size(0) == p.x.n && grad.size(1) == p.picks,
                  "fastssl: gradient of the wrong size");
  Buffer<double> upstream(p.x.n * p.picks);
  for (int64_t i = 0; i < p.x.n; ++i)
    for (int64_t k = 0; k < p.picks; ++k)
      upstream[i * p.picks + k] = read(grad.const_data_ptr(), dtype_of(grad), i * grad.stride(0) + k * grad.stride(1));
  Tensor gx = gradient_like(x, needs & 1, x.scalar_type()), gt = gradient_like(table, needs & 2, x.scalar_type());
  gather_dot_backward(p, upstream.data(), needs & 1 ? gx.mutable_data_ptr() : nullptr,
                      needs & 2 ? gt.mutable_data_ptr() : nullptr);
  return {gx, gt};
}

}  // namespace
}  // namespace fastssl

STABLE_TORCH_LIBRARY_FRAGMENT(fastssl, m) {
  m.def("gather_dot(Tensor x, Tensor table, Tensor indices) -> Tensor");
  m.def("gather_dot_backward(Tensor grad, Tensor x, Tensor table, Tensor indices, int needs) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(fastssl, CPU, m) {
  m.impl("gather_dot", TORCH_BOX(&fastssl::forward));
  m.impl("gather_dot_backward", TORCH_BOX(&fastssl::backward));
}

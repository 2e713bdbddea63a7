// Operations on single elements of tensors of one layout.
#include <torch/csrc/stable/library.h>

#include "elementwise/dropout.h"
#include "elementwise/gelu.h"
#include "tensors.h"

namespace fastssl {
namespace {

void check_layout(const Tensor& like, const Tensor& t) {
  STD_TORCH_CHECK(t.is_cpu() && t.dim() == like.dim(), "fastssl: expected CPU tensors of one shape");
  for (int64_t k = 0; k < t.dim(); ++k)
    STD_TORCH_CHECK(t.size(k) == like.size(k) && (t.size(k) == 1 || t.stride(k) == like.stride(k)),
                    "fastssl: expected tensors of one layout");
}

// An empty tensor; an error if the given one has gaps or shares elements, which this one does not.
Tensor dense_like(const Tensor& x) {
  Tensor out = torch::stable::empty_like(x);
  check_layout(out, x);
  return out;
}

Tensor scale_kept_op(Tensor x, Tensor kept, double scale) {
  Tensor out = dense_like(x);
  check_layout(x, kept);
  STD_TORCH_CHECK(kept.scalar_type() == ScalarType::Bool, "fastssl: expected a mask of booleans");
  scale_kept(x.const_data_ptr(), dtype_of(x), static_cast<const uint8_t*>(kept.const_data_ptr()), scale, x.numel(),
             out.mutable_data_ptr());
  return out;
}

DType gelu_dtype(const Tensor& x) {
  const DType dtype = dtype_of(x);
  STD_TORCH_CHECK(dtype == DType::f32 || dtype == DType::bf16, "fastssl: expected float32 or bfloat16");
  return dtype;
}

Tensor gelu_op(Tensor x) {
  Tensor out = dense_like(x);
  gelu(x.const_data_ptr(), gelu_dtype(x), x.numel(), out.mutable_data_ptr());
  return out;
}

Tensor gelu_backward_op(Tensor grad, Tensor x) {
  Tensor out = dense_like(x);
  check_layout(x, grad);
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "fastssl: expected tensors of one dtype");
  gelu_backward(grad.const_data_ptr(), x.const_data_ptr(), gelu_dtype(x), x.numel(), out.mutable_data_ptr());
  return out;
}

}  // namespace
}  // namespace fastssl

STABLE_TORCH_LIBRARY_FRAGMENT(fastssl, m) {
  m.def("scale_kept(Tensor x, Tensor kept, float scale) -> Tensor");
  m.def("gelu(Tensor x) -> Tensor");
  m.def("gelu_backward(Tensor grad, Tensor x) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fastssl, CPU, m) {
  m.impl("scale_kept", TORCH_BOX(&fastssl::scale_kept_op));
  m.impl("gelu", TORCH_BOX(&fastssl::gelu_op));
  m.impl("gelu_backward", TORCH_BOX(&fastssl::gelu_backward_op));
}

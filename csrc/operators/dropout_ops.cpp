// Products with masks of dropout.
#include <torch/csrc/stable/library.h>

#include "dropout/dropout.h"
#include "tensors.h"

namespace fastssl {
namespace {

Tensor scale_kept_op(Tensor x, Tensor kept, double scale) {
  STD_TORCH_CHECK(x.is_cpu() && kept.is_cpu() && kept.scalar_type() == ScalarType::Bool,
                  "fastssl: expected CPU tensors and a mask of booleans");
  STD_TORCH_CHECK(x.sizes().size() == kept.sizes().size(), "fastssl: a mask of another shape");
  Tensor out = torch::stable::empty_like(x);
  for (int64_t k = 0; k < x.dim(); ++k)
    STD_TORCH_CHECK(x.size(k) == kept.size(k) &&
                        (x.size(k) == 1 || (x.stride(k) == kept.stride(k) && x.stride(k) == out.stride(k))),
                    "fastssl: a mask of another layout");
  scale_kept(x.const_data_ptr(), dtype_of(x), static_cast<const uint8_t*>(kept.const_data_ptr()), scale, x.numel(),
             out.mutable_data_ptr());
  return out;
}

}  // namespace
}  // namespace fastssl

STABLE_TORCH_LIBRARY_FRAGMENT(fastssl, m) { m.def("scale_kept(Tensor x, Tensor kept, float scale) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(fastssl, CPU, m) { m.impl("scale_kept", TORCH_BOX(&fastssl::scale_kept_op)); }

// Gaussian error linear units (Hendrycks and Gimpel, 2016) by a tanh, over the threads of the pool. Of f32 and bf16.
#pragma once
#include "core/types.h"

namespace fastssl {

void gelu(const void* x, DType dtype, int64_t count, void* out);
void gelu_backward(const void* grad, const void* x, DType dtype, int64_t count, void* out);

}  // namespace fastssl

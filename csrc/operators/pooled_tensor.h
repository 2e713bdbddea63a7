// Idle memory as a tensor.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "core/buffer_pool.h"

namespace fastssl {

torch::stable::Tensor new_pooled(const torch::stable::Tensor& like, int64_t numel, torch::headeronly::ScalarType dtype);

}  // namespace fastssl

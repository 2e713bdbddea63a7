// Idle memory as a tensor.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "core/buffer_pool.h"

namespace fastssl {

torch::stable::Tensor new_pooled(const torch::stable::Tensor& like, const std::vector<int64_t>& sizes,
                                 torch::headeronly::ScalarType dtype);

}  // namespace fastssl

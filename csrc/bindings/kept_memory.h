// Memory for kept tiles. Fresh pages of a hundred MiB cost the kernel as much time as a third of the forward pass,
// so the last block is kept for the next call, as far as the memory budget allows.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace fastssl {

torch::stable::Tensor new_kept(const torch::stable::Tensor& like, int64_t numel, torch::headeronly::ScalarType dtype);

// How many idle bytes may be held; frees what is above.
void set_idle_limit(int64_t bytes);
int64_t idle_bytes();

}  // namespace fastssl

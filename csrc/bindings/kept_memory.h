// Memory for kept tiles, matrices and views. Fresh pages of a hundred MiB cost the kernel as much time as a third of a
// forward pass, so blocks that were given back wait for the next call, as far as the memory budget allows.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace fastssl {

constexpr size_t kKeptSmallest = size_t(4) << 20;  // below it malloc reuses its own memory

// At least `bytes`, which becomes what there is.
void* take(size_t& bytes);
void give_back(void* data, void* bytes);

torch::stable::Tensor new_kept(const torch::stable::Tensor& like, int64_t numel, torch::headeronly::ScalarType dtype);

// How many idle bytes may be held; frees what is above.
void set_idle_limit(int64_t bytes);
int64_t idle_bytes();

}  // namespace fastssl

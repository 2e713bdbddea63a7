// Memory of kept tiles, matrices, views and large scratch. Fresh pages of a hundred MiB cost the kernel as much time as
// a third of a forward pass, so blocks that were given back wait for the next call, as far as the memory budget allows.
#pragma once
#include <cstddef>
#include <cstdint>

#include "memory.h"

namespace fastssl {

namespace buffer_pool {

constexpr size_t kSmallest = size_t(4) << 20;  // below it malloc reuses its own memory

// At least `bytes`, which becomes what there is. The content is whatever was left there.
void* acquire(size_t& bytes);
void release(void* data, void* bytes);

// How many idle bytes may be held; frees what is above.
void set_limit(int64_t bytes);
int64_t limit();
int64_t idle_bytes();

}  // namespace buffer_pool

}  // namespace fastssl

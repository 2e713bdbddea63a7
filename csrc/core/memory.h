// Aligned memory, on every platform.
#pragma once
#include <cstddef>

namespace fastssl {

constexpr size_t kHugePage = size_t(2) << 20;

// `bytes` is a multiple of `alignment`, a power of two. Throws std::bad_alloc.
void* new_aligned(size_t alignment, size_t bytes);
void delete_aligned(void* p);

// Page faults cost as much as the arithmetic on large scratch: asks for 2 MiB pages on the whole ones inside, where the
// platform has them.
void advise_huge_pages(void* p, size_t bytes);

}  // namespace fastssl

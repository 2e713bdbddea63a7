#include "memory.h"

#include <cstdint>
#include <cstdlib>
#include <new>
#ifdef __linux__
#include <sys/mman.h>
#elif defined(_WIN32)
#include <malloc.h>
#endif

namespace fastssl {

void* new_aligned(size_t alignment, size_t bytes) {
#ifdef _WIN32
  void* const p = _aligned_malloc(bytes, alignment);
#else
  void* const p = std::aligned_alloc(alignment, bytes);
#endif
  if (!p) throw std::bad_alloc();
  return p;
}

void delete_aligned(void* p) {
#ifdef _WIN32
  _aligned_free(p);
#else
  std::free(p);
#endif
}

void advise_huge_pages([[maybe_unused]] void* p, [[maybe_unused]] size_t bytes) {
#ifdef __linux__
  const uintptr_t begin = (uintptr_t(p) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (uintptr_t(p) + bytes) / kHugePage * kHugePage;
  if (p && end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace fastssl

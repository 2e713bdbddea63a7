// Cache-line aligned scratch memory, zeroed, in huge pages where it is large.
#pragma once
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace fastssl {

constexpr size_t kHugePage = size_t(2) << 20;

// Page faults cost as much as the arithmetic on large scratch: ask for 2 MiB pages on the whole ones inside.
inline void advise_huge_pages(void* p, size_t bytes) {
  const uintptr_t begin = (uintptr_t(p) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (uintptr_t(p) + bytes) / kHugePage * kHugePage;
  if (p && end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t n, bool zeroed = true) { allocate(n, zeroed); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  // `zeroed` = false where every value is written before it is read.
  void allocate(int64_t n, bool zeroed = true) {
    std::free(data_);
    data_ = nullptr;
    size_ = n;
    if (n == 0) return;
    const size_t wanted = size_t(n) * sizeof(T), alignment = wanted >= kHugePage ? kHugePage : 64;
    const size_t bytes = (wanted + alignment - 1) / alignment * alignment;
    data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
    if (!data_) throw std::bad_alloc();
    advise_huge_pages(data_, bytes);
    if (zeroed) std::memset(static_cast<void*>(data_), 0, wanted);
  }
  T* data() const { return data_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace fastssl

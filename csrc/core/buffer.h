// Cache-line aligned scratch memory; what is large comes from memory that earlier calls gave back.
#pragma once
#include <cstdint>
#include <cstring>

#include "buffer_pool.h"

namespace fastssl {

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t n, bool zeroed = true) { allocate(n, zeroed); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(); }

  // `zeroed` = false where every value is written before it is read.
  void allocate(int64_t n, bool zeroed = true) {
    release();
    size_ = n;
    if (n == 0) return;
    const size_t wanted = size_t(n) * sizeof(T);
    if (wanted >= kHugePage) {
      taken_ = wanted;
      data_ = static_cast<T*>(buffer_pool::acquire(taken_));
    } else {
      data_ = static_cast<T*>(new_aligned(64, (wanted + 63) / 64 * 64));
    }
    if (zeroed) std::memset(static_cast<void*>(data_), 0, wanted);
  }
  T* data() const { return data_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  void release() {
    if (taken_) {
      buffer_pool::release(data_, reinterpret_cast<void*>(taken_));
    } else {
      delete_aligned(data_);
    }
    data_ = nullptr;
    size_ = 0;
    taken_ = 0;
  }
  T* data_ = nullptr;
  int64_t size_ = 0;
  size_t taken_ = 0;  // bytes of idle memory; 0: from new_aligned
};

}  // namespace fastssl

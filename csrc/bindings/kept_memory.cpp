#include "kept_memory.h"

#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <mutex>
#include <new>

#include "../cpu/buffer.h"

// In torch since 2.11; the extension asks for 2.10, so the symbol may be missing at run time.
extern "C" __attribute__((weak)) AOTITorchError
torch_from_blob(void* data, int64_t ndim, const int64_t* sizes_ptr, const int64_t* strides_ptr, int64_t storage_offset,
                int32_t dtype, int32_t device_type, int32_t device_index, AtenTensorHandle* ret, int32_t layout,
                const uint8_t* opaque_metadata, int64_t opaque_metadata_size, void (*deleter)(void* data, void* ctx),
                void* deleter_ctx);

namespace fastssl {
namespace {

constexpr size_t kSmallest = size_t(4) << 20;  // below it malloc reuses its own memory

struct Idle {
  std::mutex lock;
  void* data = nullptr;
  size_t bytes = 0;
  size_t limit = size_t(256) << 20;
};
Idle& idle() {
  static Idle* const instance = new Idle;  // outlives every tensor
  return *instance;
}

void give_back(void* data, void* bytes) {
  Idle& spare = idle();
  const std::lock_guard<std::mutex> guard(spare.lock);
  const size_t size = reinterpret_cast<size_t>(bytes);
  if (size <= spare.limit && size > spare.bytes) {
    std::swap(spare.data, data);
    spare.bytes = size;
  }
  std::free(data);
}

void* take(size_t& bytes) {
  Idle& spare = idle();
  const std::lock_guard<std::mutex> guard(spare.lock);
  if (spare.data && spare.bytes >= bytes && spare.bytes / 2 <= bytes) {
    void* data = spare.data;
    bytes = spare.bytes;
    spare.data = nullptr;
    spare.bytes = 0;
    return data;
  }
  void* data = std::aligned_alloc(kHugePage, bytes);
  if (!data) throw std::bad_alloc();
  advise_huge_pages(data, bytes);
  return data;
}

}  // namespace

torch::stable::Tensor new_kept(const torch::stable::Tensor& like, int64_t numel, torch::headeronly::ScalarType dtype) {
  const size_t size = dtype == torch::headeronly::ScalarType::Double ? 8 : 4;
  size_t bytes = (size_t(numel) * size + kHugePage - 1) / kHugePage * kHugePage;
  if (bytes < kSmallest || !&torch_from_blob) return torch::stable::new_empty(like, {numel}, dtype);
  void* data = take(bytes);
  const int64_t stride = 1;
  AtenTensorHandle handle;
  const auto status = torch_from_blob(data, 1, &numel, &stride, 0,
                                      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
                                      aoti_torch_device_type_cpu(), -1, &handle, aoti_torch_layout_strided(), nullptr,
                                      0, give_back, reinterpret_cast<void*>(bytes));
  if (status != AOTI_TORCH_SUCCESS) {
    std::free(data);
    throw std::bad_alloc();
  }
  return torch::stable::Tensor(handle);
}

void set_idle_limit(int64_t bytes) {
  Idle& spare = idle();
  const std::lock_guard<std::mutex> guard(spare.lock);
  spare.limit = size_t(bytes);
  if (spare.bytes > spare.limit) {
    std::free(spare.data);
    spare.data = nullptr;
    spare.bytes = 0;
  }
}

int64_t idle_bytes() {
  Idle& spare = idle();
  const std::lock_guard<std::mutex> guard(spare.lock);
  return int64_t(spare.bytes);
}

}  // namespace fastssl

#include "kept_memory.h"

#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "../cpu/buffer.h"

// In torch since 2.11; the extension asks for 2.10, so the symbol may be missing at run time.
extern "C" __attribute__((weak)) AOTITorchError
torch_from_blob(void* data, int64_t ndim, const int64_t* sizes_ptr, const int64_t* strides_ptr, int64_t storage_offset,
                int32_t dtype, int32_t device_type, int32_t device_index, AtenTensorHandle* ret, int32_t layout,
                const uint8_t* opaque_metadata, int64_t opaque_metadata_size, void (*deleter)(void* data, void* ctx),
                void* deleter_ctx);

namespace fastssl {
namespace {

struct Block {
  void* data;
  size_t bytes;
};
struct Idle {
  std::mutex lock;
  std::vector<Block> blocks;  // the latest last
  size_t bytes = 0, limit = size_t(256) << 20;

  void keep_within_limit() {
    while (bytes > limit) {
      std::free(blocks.front().data);
      bytes -= blocks.front().bytes;
      blocks.erase(blocks.begin());
    }
  }
};
Idle& idle() {
  static Idle* const instance = new Idle;  // outlives every tensor
  return *instance;
}

}  // namespace

void give_back(void* data, void* bytes) {
  Idle& spare = idle();
  const std::lock_guard<std::mutex> guard(spare.lock);
  spare.blocks.push_back({data, reinterpret_cast<size_t>(bytes)});
  spare.bytes += reinterpret_cast<size_t>(bytes);
  spare.keep_within_limit();
}

void* take(size_t& bytes) {
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  {
    Idle& spare = idle();
    const std::lock_guard<std::mutex> guard(spare.lock);
    size_t best = spare.blocks.size();
    for (size_t k = 0; k < spare.blocks.size(); ++k) {
      const size_t size = spare.blocks[k].bytes;
      if (size >= bytes && size / 2 <= bytes && (best == spare.blocks.size() || size <= spare.blocks[best].bytes))
        best = k;
    }
    if (best < spare.blocks.size()) {
      void* data = spare.blocks[best].data;
      bytes = spare.blocks[best].bytes;
      spare.bytes -= bytes;
      spare.blocks.erase(spare.blocks.begin() + int64_t(best));
      return data;
    }
  }
  void* data = std::aligned_alloc(kHugePage, bytes);
  if (!data) throw std::bad_alloc();
  advise_huge_pages(data, bytes);
  return data;
}

torch::stable::Tensor new_kept(const torch::stable::Tensor& like, int64_t numel, torch::headeronly::ScalarType dtype) {
  const size_t size = dtype == torch::headeronly::ScalarType::Double ? 8 : 4;
  size_t bytes = size_t(numel) * size;
  if (bytes < kKeptSmallest || !&torch_from_blob) return torch::stable::new_empty(like, {numel}, dtype);
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
  spare.keep_within_limit();
}

int64_t idle_bytes() {
  Idle& spare = idle();
  const std::lock_guard<std::mutex> guard(spare.lock);
  return int64_t(spare.bytes);
}

}  // namespace fastssl

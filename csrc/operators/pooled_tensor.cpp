#include "pooled_tensor.h"

#include <torch/csrc/stable/ops.h>

#include <new>

#ifndef _WIN32
// In torch since 2.11; the extension asks for 2.10, so the symbol may be missing at run time.
extern "C" __attribute__((weak)) AOTITorchError
torch_from_blob(void* data, int64_t ndim, const int64_t* sizes_ptr, const int64_t* strides_ptr, int64_t storage_offset,
                int32_t dtype, int32_t device_type, int32_t device_index, AtenTensorHandle* ret, int32_t layout,
                const uint8_t* opaque_metadata, int64_t opaque_metadata_size, void (*deleter)(void* data, void* ctx),
                void* deleter_ctx);
#endif

namespace fastssl {

torch::stable::Tensor new_pooled(const torch::stable::Tensor& like, const std::vector<int64_t>& sizes,
                                 torch::headeronly::ScalarType dtype) {
#ifdef _WIN32  // a symbol that may be missing cannot be linked
  return torch::stable::new_empty(like, sizes, dtype);
#else
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t k = sizes.size() - 1; k > 0; --k) strides[k - 1] = strides[k] * sizes[k];
  const bool narrow = dtype == torch::headeronly::ScalarType::Half || dtype == torch::headeronly::ScalarType::BFloat16;
  const size_t size = dtype == torch::headeronly::ScalarType::Double ? 8 : narrow ? 2 : 4;
  size_t bytes = size_t(sizes[0] * strides[0]) * size;
  if (bytes < buffer_pool::kSmallest || !&torch_from_blob) return torch::stable::new_empty(like, sizes, dtype);
  void* data = buffer_pool::acquire(bytes);
  AtenTensorHandle handle;
  const auto status = torch_from_blob(data, int64_t(sizes.size()), sizes.data(), strides.data(), 0,
                                      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
                                      aoti_torch_device_type_cpu(), -1, &handle, aoti_torch_layout_strided(), nullptr,
                                      0, buffer_pool::release, reinterpret_cast<void*>(bytes));
  if (status != AOTI_TORCH_SUCCESS) {
    delete_aligned(data);
    throw std::bad_alloc();
  }
  return torch::stable::Tensor(handle);
#endif
}

}  // namespace fastssl

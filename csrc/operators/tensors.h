// Between torch's tensors (stable ABI) and the kernels' plain structs.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <optional>
#include <vector>

#include "core/types.h"
#include "pooled_tensor.h"

namespace fastssl {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::Double: return DType::f64;
    case ScalarType::Half: return DType::f16;
    case ScalarType::BFloat16: return DType::bf16;
    default: STD_TORCH_CHECK(false, "fastssl: expected a floating point tensor of 16, 32 or 64 bits");
  }
}

inline double read(const void* data, DType dtype, int64_t at) {
  switch (dtype) {
    case DType::f32: return double(static_cast<const float*>(data)[at]);
    case DType::f64: return static_cast<const double*>(data)[at];
    case DType::f16: return double(float(static_cast<const c10::Half*>(data)[at]));
    case DType::bf16: return double(float(static_cast<const c10::BFloat16*>(data)[at]));
  }
  return 0;
}

// An empty contiguous CPU tensor, straight from the allocator: through the dispatcher it takes three times as long.
inline Tensor empty(std::initializer_list<int64_t> sizes, ScalarType dtype) {
  constexpr size_t kMost = 4;
  STD_TORCH_CHECK(sizes.size() <= kMost, "fastssl: too many dimensions");
  int64_t strides[kMost], step = 1;
  for (size_t k = sizes.size(); k-- > 0; step *= sizes.begin()[k]) strides[k] = step;
  AtenTensorHandle handle;
  const auto status = aoti_torch_empty_strided(int64_t(sizes.size()), sizes.begin(), strides,
                                               torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
                                               aoti_torch_device_type_cpu(), -1, &handle);
  STD_TORCH_CHECK(status == AOTI_TORCH_SUCCESS, "fastssl: out of memory");
  return Tensor(handle);
}

// A contiguous vector of int64 on the CPU; count < 0: of any length.
inline const int64_t* ids_of(const Tensor& t, const char* name, int64_t count) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Long && t.dim() == 1 && t.is_contiguous() &&
                      (count < 0 || t.size(0) == count),
                  "fastssl: ", name, " must be contiguous int64 [rows]");
  return static_cast<const int64_t*>(t.const_data_ptr());
}

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* mutable_data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline void check_dense(const Tensor& t, ScalarType dtype, std::initializer_list<int64_t> sizes) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == dtype && t.is_contiguous() && t.dim() == int64_t(sizes.size()),
                  "fastssl: expected contiguous CPU tensors of one dtype");
  for (int64_t k = 0; k < t.dim(); ++k)
    STD_TORCH_CHECK(t.size(k) == sizes.begin()[k], "fastssl: tensors of the wrong size");
}

inline void check_floats(const Tensor& t) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double,
                  "fastssl: expected float32 or float64");
}
// f(float()) or f(double()).
template <class F>
void with_type(const Tensor& t, F&& f) {
  check_floats(t);
  t.scalar_type() == ScalarType::Double ? f(double()) : f(float());
}

// A vector or a single value, as doubles.
inline std::vector<double> values(const Tensor& t) {
  STD_TORCH_CHECK(t.is_cpu(), "fastssl: expected CPU tensors");
  STD_TORCH_CHECK(t.dim() <= 1, "fastssl: expected a tensor of at most one dimension");
  const int64_t count = t.numel(), stride = t.dim() == 1 ? t.stride(0) : 1;
  std::vector<double> v(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) v[size_t(i)] = read(t.const_data_ptr(), dtype_of(t), i * stride);
  return v;
}

// Rows whose features lie side by side, copied where they do not: kernels read rows several times, and a transposed
// matrix has a cache line for every feature.
inline Tensor rows_of(const Tensor& t) {
  return t.dim() != 2 || t.stride(1) == 1 || t.size(1) <= 1 ? t : torch::stable::contiguous(t);
}
inline MaybeTensor rows_of(const MaybeTensor& t) { return t ? MaybeTensor(rows_of(*t)) : t; }

inline Source source_of(const Tensor& t, int64_t depth) {
  STD_TORCH_CHECK(t.is_cpu(), "fastssl: expected CPU tensors");
  STD_TORCH_CHECK(t.dim() == 2, "fastssl: expected matrices, got a tensor of ", t.dim(), " dimensions");
  STD_TORCH_CHECK(t.size(1) == depth, "fastssl: feature sizes differ: ", t.size(1), " and ", depth);
  return {t.const_data_ptr(), dtype_of(t), t.size(0), t.stride(0), t.stride(1)};
}

// Element `at` of a contiguous tensor.
inline void write(Tensor& t, int64_t at, double v) {
  void* data = t.mutable_data_ptr();
  switch (dtype_of(t)) {
    case DType::f32: static_cast<float*>(data)[at] = float(v); break;
    case DType::f64: static_cast<double*>(data)[at] = v; break;
    case DType::f16: static_cast<c10::Half*>(data)[at] = c10::Half(float(v)); break;
    case DType::bf16: static_cast<c10::BFloat16*>(data)[at] = c10::BFloat16(float(v)); break;
  }
}

// The place of a wanted gradient: a tensor like `t`, or an empty one. pooled: of memory of the pool, where the call has
// little else of it; gradients beside kept tiles would take their place there.
inline Tensor gradient_like(const MaybeTensor& t, bool wanted, ScalarType otherwise, bool pooled = false) {
  if (!t || !wanted) return empty({0}, otherwise);
  if (t->dim() == 2 && pooled) return new_pooled(*t, {t->size(0), t->size(1)}, t->scalar_type());
  if (t->dim() == 2) return empty({t->size(0), t->size(1)}, t->scalar_type());
  return t->dim() == 1 ? empty({t->size(0)}, t->scalar_type()) : empty({}, t->scalar_type());
}

}  // namespace fastssl

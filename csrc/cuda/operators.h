// The operators of csrc/cuda: on a GPU (launch.cu) and, for tests, as loops on the host
// (csrc/operators/cuda_on_host.cpp). Whoever includes this says where tensors live and how a kernel is launched:
//   constexpr bool kOnHost;  template <class Problem> void launch(kernel, problem, blocks)
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

#include "rows.h"
#include "view.h"

namespace fastssl {
namespace cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline void check_place(const Tensor& t) {
  STD_TORCH_CHECK(t.is_cpu() == kOnHost, "fastssl: expected all tensors on one device");
}
template <class T>
const T* vector_of(const MaybeTensor& t, ScalarType dtype, int64_t numel) {
  if (!t) return nullptr;
  check_place(*t);
  STD_TORCH_CHECK(t->scalar_type() == dtype && t->is_contiguous() && t->numel() == numel, "fastssl: expected ", numel,
                  " contiguous values");
  return static_cast<const T*>(t->const_data_ptr());
}
inline Tensor like(const Tensor& s, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(s, sizes, dtype);
}
inline void check_scores(const Tensor& s) {
  check_place(s);
  STD_TORCH_CHECK(s.dim() == 2 && s.scalar_type() == ScalarType::Float && (s.stride(1) == 1 || s.size(1) <= 1),
                  "fastssl: scores must be float32 rows");
  STD_TORCH_CHECK(s.size(1) < INT32_MAX, "fastssl: too many columns");
}

// Rows first .. of n rows of scores: [2, rows] sums and counts, or with `grad` [rows] dL/ds [rows, m].
inline Tensor sorted_rows_of(int64_t loss, Tensor s, MaybeTensor x_ids, MaybeTensor y_ids, MaybeTensor positive_bits,
                             MaybeTensor negative_bits, int64_t first, int64_t n, int64_t self_offset, Tensor params,
                             MaybeTensor grad) {
  check_scores(s);
  RowsProblem p;
  p.rows = s.size(0);
  p.m = s.size(1);
  p.n = n;
  p.first = first;
  p.stride = s.stride(0);
  p.s = static_cast<const float*>(s.const_data_ptr());
  STD_TORCH_CHECK(loss == 0 || loss == 1, "fastssl: unknown loss ", loss);
  STD_TORCH_CHECK(first >= 0 && first + p.rows <= n, "fastssl: rows out of range");
  STD_TORCH_CHECK(self_offset >= -1, "fastssl: rows of x are not rows of y");
  STD_TORCH_CHECK(positive_bits ? bool(negative_bits) : x_ids && y_ids, "fastssl: a relation needs ids or bits");
  p.loss = SortedLoss(loss);
  p.x_ids = vector_of<int64_t>(x_ids, ScalarType::Long, n);
  p.y_ids = vector_of<int64_t>(y_ids, ScalarType::Long, p.m);
  p.positive_bits = vector_of<int32_t>(positive_bits, ScalarType::Int, (n + 31) / 32 * p.m);
  p.negative_bits = vector_of<int32_t>(negative_bits, ScalarType::Int, (n + 31) / 32 * p.m);
  p.self_offset = self_offset;
  p.params = vector_of<float>(params, ScalarType::Float, kSortedParams);
  p.grad = vector_of<double>(grad, ScalarType::Double, p.rows);
  Tensor out = grad ? like(s, {p.rows, p.m}, ScalarType::Float) : like(s, {2, p.rows}, ScalarType::Double);
  if (p.rows == 0) return out;
  STD_TORCH_CHECK(p.m >= 1, "fastssl: expected at least one column");
  Tensor scratch = like(s, {p.rows, scratch_words(p.m)}, ScalarType::Long);
  p.scratch = static_cast<uint64_t*>(scratch.mutable_data_ptr());
  if (grad) {
    p.g = static_cast<float*>(out.mutable_data_ptr());
  } else {
    p.out = static_cast<double*>(out.mutable_data_ptr());
  }
  launch<SortedRows>(p, p.rows, s);
  return out;
}

// itself: the column that row 0 must not select, row i: itself + i; -1: all may be.
inline std::tuple<Tensor, Tensor> select_rows_of(Tensor s, int64_t k, bool largest, int64_t itself) {
  check_scores(s);
  SelectProblem p;
  p.rows = s.size(0);
  p.m = s.size(1);
  p.k = k;
  p.stride = s.stride(0);
  p.largest = largest;
  p.itself = itself;
  p.s = static_cast<const float*>(s.const_data_ptr());
  STD_TORCH_CHECK(k >= 1 && k <= p.m - (itself >= 0), "fastssl: k must be from 1 to the number of columns");
  Tensor values = like(s, {p.rows, k}, ScalarType::Float), indices = like(s, {p.rows, k}, ScalarType::Long);
  if (p.rows == 0) return {values, indices};
  Tensor scratch = like(s, {p.rows, select_words(k)}, ScalarType::Long);
  p.scratch = static_cast<uint64_t*>(scratch.mutable_data_ptr());
  p.values = static_cast<float*>(values.mutable_data_ptr());
  p.indices = static_cast<int64_t*>(indices.mutable_data_ptr());
  launch<SelectRows>(p, p.rows, s);
  return {values, indices};
}

// Views of images that lie in one buffer: `tasks` [B, sizeof(ViewTask)] bytes from augment_tasks.
inline Tensor make_views_of(Tensor images, Tensor tasks, int64_t height, int64_t width, int64_t dtype,
                            bool channels_last, double m0, double m1, double m2, double s0, double s1, double s2,
                            int64_t most_taps, int64_t widest) {
  check_place(images);
  check_place(tasks);
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Byte && images.is_contiguous(), "fastssl: expected uint8 images");
  STD_TORCH_CHECK(tasks.scalar_type() == ScalarType::Byte && tasks.dim() == 2 && tasks.is_contiguous() &&
                      tasks.size(1) == int64_t(sizeof(ViewTask)),
                  "fastssl: tasks of another build");
  STD_TORCH_CHECK(dtype >= 0 && dtype <= 2 && height >= 1 && width >= 1 && height <= 65535 && width <= 65535 &&
                      most_taps >= 1 && most_taps <= 1 << 24 && widest >= 1 && widest <= 1 << 24,
                  "fastssl: views of this size or dtype cannot be made");
  const int64_t n = tasks.size(0);
  const ScalarType type = dtype == 0 ? ScalarType::Float : (dtype == 1 ? ScalarType::BFloat16 : ScalarType::Half);
  Tensor out = channels_last ? like(images, {n, height, width, 3}, type) : like(images, {n, 3, height, width}, type);
  if (n == 0) return out;
  ViewsProblem p;
  p.images = static_cast<const uint8_t*>(images.const_data_ptr());
  p.tasks = static_cast<const ViewTask*>(tasks.const_data_ptr());
  p.out = out.mutable_data_ptr();
  p.dtype = int32_t(dtype);
  p.height = height;
  p.width = width;
  p.channels_last = channels_last;
  const double mean[3] = {m0, m1, m2}, std[3] = {s0, s1, s2};
  for (int c = 0; c < 3; ++c) {
    p.mean[c] = float(mean[c]);
    p.scale[c] = 1.f / float(std[c]);
  }
  p.taps = most_taps;
  p.widest = widest;
  // As many views at a time as fit a fixed memory.
  const int64_t bytes = view_bytes(p), batch = std::max<int64_t>(1, std::min<int64_t>(n, (int64_t(1) << 29) / bytes));
  Tensor scratch = like(images, {batch, bytes}, ScalarType::Byte);
  p.scratch = static_cast<uint8_t*>(scratch.mutable_data_ptr());
  for (p.first = 0; p.first < n; p.first += batch) launch<MakeViews>(p, std::min(batch, n - p.first), images);
  return out;
}

}  // namespace cuda
}  // namespace fastssl

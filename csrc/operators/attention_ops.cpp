// Scaled dot-product attention and its gradients. Python names what is wrong with arguments; what could crash is
// checked again here.
#include <torch/csrc/stable/library.h>

#include "attention/attention.h"
#include "tensors.h"

namespace fastssl {
namespace {

struct Sizes {
  int64_t batch, heads, queries, keys, depth, value_depth;
};

// [batch, heads, tokens, features], features side by side.
void check_tokens(const Tensor& t, const Sizes& n, int64_t tokens, int64_t features, ScalarType dtype) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == dtype && t.dim() == 4 && t.size(0) == n.batch &&
                      t.size(1) == n.heads && t.size(2) == tokens && t.size(3) == features &&
                      (features <= 1 || t.stride(3) == 1),
                  "fastssl: expected CPU tensors [batch, heads, tokens, features] of one dtype");
}

Sizes sizes_of(const Tensor& query, const Tensor& key, const Tensor& value) {
  STD_TORCH_CHECK(query.dim() == 4 && key.dim() == 4 && value.dim() == 4,
                  "fastssl: expected [batch, heads, tokens, features]");
  const Sizes n = {query.size(0), query.size(1), query.size(2), key.size(2), query.size(3), value.size(3)};
  const ScalarType dtype = query.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::BFloat16, "fastssl: expected float32 or bfloat16");
  STD_TORCH_CHECK(n.keys >= 1 && n.depth >= 1 && n.value_depth >= 1, "fastssl: expected keys and features");
  check_tokens(query, n, n.queries, n.depth, dtype);
  check_tokens(key, n, n.keys, n.depth, dtype);
  check_tokens(value, n, n.keys, n.value_depth, dtype);
  return n;
}

const char* at(const Tensor& t, int64_t batch, int64_t head) {
  const int64_t size = t.scalar_type() == ScalarType::Bool ? 1 : t.scalar_type() == ScalarType::Float ? 4 : 2;
  return static_cast<const char*>(t.const_data_ptr()) + (batch * t.stride(0) + head * t.stride(1)) * size;
}
Tokens tokens_of(const Tensor& t, int64_t batch, int64_t head) { return {at(t, batch, head), t.size(2), t.stride(2)}; }
Gradient gradient_of(Tensor& t, int64_t batch, int64_t head) {
  return {const_cast<char*>(at(t, batch, head)), t.stride(2)};
}
Gradient gradient_of(MaybeTensor& t, int64_t batch, int64_t head) {  // one that is not wanted: null
  return t ? gradient_of(*t, batch, head) : Gradient{};
}

// One problem per head; f adds what a pass has of its own.
template <class F>
std::vector<Head> heads_of(const Tensor& query, const Tensor& key, const Tensor& value, const MaybeTensor& mask,
                           const MaybeTensor& kept, double kept_scale, double scale, bool causal, Tensor& rows, F&& f) {
  const Sizes n = sizes_of(query, key, value);
  check_dense(rows, ScalarType::Float, {n.batch, n.heads, n.queries, 2});
  const bool added = mask && mask->scalar_type() == ScalarType::Float;
  if (mask)
    STD_TORCH_CHECK(mask->is_cpu() && (added || mask->scalar_type() == ScalarType::Bool) && mask->dim() == 4 &&
                        mask->size(0) == n.batch && mask->size(1) == n.heads && mask->size(2) == n.queries &&
                        mask->size(3) == n.keys,
                    "fastssl: expected a mask [batch, heads, queries, keys] of booleans or float32");
  if (kept) check_dense(*kept, ScalarType::Bool, {n.batch, n.heads, n.queries, n.keys});
  std::vector<Head> heads;
  heads.reserve(size_t(n.batch * n.heads));
  for (int64_t b = 0; b < n.batch; ++b)
    for (int64_t h = 0; h < n.heads; ++h) {
      Head head;
      head.query = tokens_of(query, b, h), head.key = tokens_of(key, b, h), head.value = tokens_of(value, b, h);
      head.dtype = dtype_of(query), head.depth = n.depth, head.value_depth = n.value_depth;
      head.scale = float(scale), head.causal = causal;
      if (mask) {
        head.mask_row = mask->stride(2), head.mask_column = mask->stride(3);
        if (added) head.added = reinterpret_cast<const float*>(at(*mask, b, h));
        if (!added) head.visible = reinterpret_cast<const uint8_t*>(at(*mask, b, h));
      }
      if (kept) head.kept = reinterpret_cast<const uint8_t*>(at(*kept, b, h)), head.kept_scale = float(kept_scale);
      head.rows = reinterpret_cast<Softmax*>(mutable_data<float>(rows)) + (b * n.heads + h) * n.queries;
      f(head, b, h);
      heads.push_back(head);
    }
  return heads;
}

// The result goes to `out`, of any layout; returns what the backward pass needs of each query.
Tensor forward(Tensor query, Tensor key, Tensor value, MaybeTensor mask, MaybeTensor kept, double kept_scale,
               double scale, bool causal, Tensor out) {
  const Sizes n = sizes_of(query, key, value);
  check_tokens(out, n, n.queries, n.value_depth, query.scalar_type());
  Tensor rows = empty({n.batch, n.heads, n.queries, 2}, ScalarType::Float);
  attention_forward(heads_of(query, key, value, mask, kept, kept_scale, scale, causal, rows,
                             [&](Head& head, int64_t b, int64_t h) { head.out = gradient_of(out, b, h); }));
  return rows;
}

void backward(Tensor grad, Tensor query, Tensor key, Tensor value, MaybeTensor mask, MaybeTensor kept,
              double kept_scale, double scale, bool causal, Tensor rows, MaybeTensor query_grad, MaybeTensor key_grad,
              MaybeTensor value_grad) {
  const Sizes n = sizes_of(query, key, value);
  const ScalarType dtype = query.scalar_type();
  check_tokens(grad, n, n.queries, n.value_depth, dtype);
  if (query_grad) check_tokens(*query_grad, n, n.queries, n.depth, dtype);
  if (key_grad) check_tokens(*key_grad, n, n.keys, n.depth, dtype);
  if (value_grad) check_tokens(*value_grad, n, n.keys, n.value_depth, dtype);
  attention_backward(
      heads_of(query, key, value, mask, kept, kept_scale, scale, causal, rows, [&](Head& head, int64_t b, int64_t h) {
        head.out_gradient = tokens_of(grad, b, h);
        head.query_gradient = gradient_of(query_grad, b, h);
        head.key_gradient = gradient_of(key_grad, b, h);
        head.value_gradient = gradient_of(value_grad, b, h);
      }));
}

}  // namespace
}  // namespace fastssl

STABLE_TORCH_LIBRARY_FRAGMENT(fastssl, m) {
  m.def(
      "attention(Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor? kept, float kept_scale, float scale, "
      "bool causal, Tensor(a!) out) -> Tensor");
  m.def(
      "attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor? kept, "
      "float kept_scale, float scale, bool causal, Tensor rows, Tensor(a!)? query_grad, "
      "Tensor(b!)? key_grad, Tensor(c!)? value_grad) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(fastssl, CPU, m) {
  m.impl("attention", TORCH_BOX(&fastssl::forward));
  m.impl("attention_backward", TORCH_BOX(&fastssl::backward));
}

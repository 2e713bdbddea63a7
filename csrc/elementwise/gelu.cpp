#include "gelu.h"

#include "core/isa.h"
#include "kernels.h"
#include "pieces.h"

namespace fastssl {

namespace {

const char* at(const void* data, int64_t bytes) { return static_cast<const char*>(data) + bytes; }
char* at(void* data, int64_t bytes) { return static_cast<char*>(data) + bytes; }

}  // namespace

void gelu(const void* x, DType dtype, int64_t count, void* out) {
  const int64_t size = size_of(dtype);
  in_pieces(count, [&](int64_t begin, int64_t end) {
    isa().elementwise->gelu(at(x, begin * size), dtype, end - begin, at(out, begin * size));
  });
}

void gelu_backward(const void* grad, const void* x, DType dtype, int64_t count, void* out) {
  const int64_t size = size_of(dtype);
  in_pieces(count, [&](int64_t begin, int64_t end) {
    isa().elementwise->gelu_backward(at(grad, begin * size), at(x, begin * size), dtype, end - begin,
                                     at(out, begin * size));
  });
}

}  // namespace fastssl

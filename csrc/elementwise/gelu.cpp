#include "gelu.h"

#include "core/isa.h"
#include "kernels.h"
#include "pieces.h"

namespace fastssl {

void gelu(const void* x, DType dtype, int64_t count, void* out) {
  in_pieces(count, [&](int64_t begin, int64_t end) {
    isa().elementwise->gelu(at(x, dtype, begin), dtype, end - begin, at(out, dtype, begin));
  });
}

void gelu_backward(const void* grad, const void* x, DType dtype, int64_t count, void* out) {
  in_pieces(count, [&](int64_t begin, int64_t end) {
    isa().elementwise->gelu_backward(at(grad, dtype, begin), at(x, dtype, begin), dtype, end - begin,
                                     at(out, dtype, begin));
  });
}

}  // namespace fastssl

// The CUDA kernels on the host, block by block and thread by thread in an order drawn anew: what the tests run.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "cuda/rows.h"
#include "cuda/view.h"

namespace fastssl {
namespace cuda {
namespace {

constexpr bool kOnHost = true;
constexpr int kHostThreads = 37;  // not a power of two: no kernel may count on a number of threads

struct SortedRows {
  using Problem = RowsProblem;
  static void run(const Block& block, const Problem& p) { sorted_rows(block, p); }
};
struct SelectRows {
  using Problem = SelectProblem;
  static void run(const Block& block, const Problem& p) { select(block, p); }
};
struct MakeViews {
  using Problem = ViewsProblem;
  static void run(const Block& block, const Problem& p) { make_view(block, p); }
};

// FASTSSL_SHIM_SEED=0: threads in their order.
uint32_t seed() {
  const char* given = std::getenv("FASTSSL_SHIM_SEED");
  return given ? uint32_t(std::strtoul(given, nullptr, 10)) : 1u;
}

template <class Kernel, class AnyTensor>
void launch(const typename Kernel::Problem& problem, int64_t blocks, const AnyTensor&) {
  for (int64_t k = 0; k < blocks; ++k) Kernel::run(Block{k, kHostThreads, seed()}, problem);
}

}  // namespace
}  // namespace cuda
}  // namespace fastssl

#include "cuda/operators.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fastssl, m) {
  m.def(
      "sorted_rows(int loss, Tensor s, Tensor? x_ids, Tensor? y_ids, Tensor? positive_bits, Tensor? negative_bits, "
      "int first, int n, int self_offset, Tensor params, Tensor? grad) -> Tensor");
  m.def("select_rows(Tensor s, int k, bool largest, int itself) -> (Tensor, Tensor)");
  m.def(
      "make_views(Tensor images, Tensor tasks, int height, int width, int dtype, bool channels_last, float m0, "
      "float m1, float m2, float s0, float s1, float s2, int most_taps, int widest) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fastssl, CPU, m) {
  m.impl("sorted_rows", TORCH_BOX(&fastssl::cuda::sorted_rows_of));
  m.impl("select_rows", TORCH_BOX(&fastssl::cuda::select_rows_of));
  m.impl("make_views", TORCH_BOX(&fastssl::cuda::make_views_of));
}

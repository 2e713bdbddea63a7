// The CUDA kernels as torch operators, through torch's stable ABI; what they compute stands in rows.h and view.h.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>

#include "rows.h"
#include "view.h"

namespace fastssl {
namespace cuda {

constexpr bool kOnHost = false;

struct SortedRows {
  using Problem = RowsProblem;
  static __device__ void run(const Block& block, const Problem& p) { sorted_rows(block, p); }
};
struct SelectRows {
  using Problem = SelectProblem;
  static __device__ void run(const Block& block, const Problem& p) { select(block, p); }
};
struct MakeViews {
  using Problem = ViewsProblem;
  static __device__ void run(const Block& block, const Problem& p) { make_view(block, p); }
};

template <class Kernel>
__global__ void __launch_bounds__(kThreads) kernel(const __grid_constant__ typename Kernel::Problem problem) {
  Kernel::run(Block{int64_t(blockIdx.x), int(blockDim.x)}, problem);
}

// The stream that torch works on, from the library that torch has loaded: a build needs no CUDA build of torch.
using StreamOf = int32_t (*)(int32_t, void**);
inline StreamOf stream_lookup() {
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  return reinterpret_cast<StreamOf>(dlsym(library ? library : RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
}

template <class Kernel, class Tensor>
void launch(const typename Kernel::Problem& problem, int64_t blocks, const Tensor& on);

}  // namespace cuda
}  // namespace fastssl

#include "operators.h"

namespace fastssl {
namespace cuda {

template <class Kernel, class AnyTensor>
void launch(const typename Kernel::Problem& problem, int64_t blocks, const AnyTensor& on) {
  static const StreamOf stream_of = stream_lookup();
  STD_TORCH_CHECK(stream_of, "fastssl: torch has no CUDA streams");
  const int32_t device = on.get_device_index();
  void* stream = nullptr;
  STD_TORCH_CHECK(stream_of(device, &stream) == 0, "fastssl: torch has no CUDA stream for device ", device);
  int before = 0;
  cudaGetDevice(&before);
  cudaSetDevice(device);
  kernel<Kernel><<<unsigned(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(problem);
  const cudaError_t status = cudaGetLastError();
  cudaSetDevice(before);
  STD_TORCH_CHECK(status == cudaSuccess, "fastssl: ", cudaGetErrorString(status));
}

}  // namespace cuda
}  // namespace fastssl

STABLE_TORCH_LIBRARY_IMPL(fastssl, CUDA, m) {
  m.impl("sorted_rows", TORCH_BOX(&fastssl::cuda::sorted_rows_of));
  m.impl("select_rows", TORCH_BOX(&fastssl::cuda::select_rows_of));
  m.impl("make_views", TORCH_BOX(&fastssl::cuda::make_views_of));
}

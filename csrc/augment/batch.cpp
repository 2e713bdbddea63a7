#include "batch.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "core/interrupt.h"
#include "core/isa.h"
#include "core/parallel.h"

namespace fastssl {

void check_view(const Program& program, const double* p, int64_t height, int64_t width, int64_t view_height,
                int64_t view_width, int64_t sample) {
  const auto fail = [&](const std::string& what) {
    throw std::invalid_argument("params: sample " + std::to_string(sample) + ": " + what);
  };
  Geometry g(height, width);
  for (int64_t k = 0; k < program.size; ++k) {
    const Op& op = program.ops[k];
    for (int64_t c = 0; c < kOpColumns[int(op.kind)]; ++c)
      if (!(std::fabs(p[c]) <= 1e7)) fail("a value is not finite");
    if (op.kind == OpKind::jitter &&
        (p[1] < 0 || p[1] >= 24 || std::fabs(p[5]) > 0.5 || std::min({p[2], p[3], p[4]}) < 0))
      fail("colour factors must be >= 0, the order 0 to 23 and hue between -1/2 and 1/2");
    if (op.kind == OpKind::blur && p[0] < 0) fail("sigma must be >= 0");
    if (op.kind == OpKind::erase && std::min({p[0], p[1], p[2], p[3]}) < 0)
      fail("an erased box must not begin outside of the view");
    if (op.kind == OpKind::affine && !(p[3] > 0)) fail("a scale must be > 0");
    if (op.kind == OpKind::automatic && !(p[0] >= 0 && p[0] < double(int(Choice::count)) && p[0] == std::floor(p[0])))
      fail("there is no operation " + std::to_string(p[0]));
    if (op.kind == OpKind::automatic) {
      const Choice which = Choice(int(p[0]));
      const bool factor = which >= Choice::brightness && which <= Choice::sharpness;
      if ((factor && p[1] < -1) || (which == Choice::posterize && !(p[1] >= 0 && p[1] <= 8)))
        fail("factors must be >= 0, that is values >= -1, and bits 0 to 8");
      if (p[2] != 0 && p[2] != 1 && p[2] != 2)
        fail("the interpolation must be 0 (bilinear), 1 (nearest) or 2 (bicubic)");
    }
    g.apply(op, p);
    p += kOpColumns[int(op.kind)];
  }
  if (!g.valid(double(height), double(width)))
    fail("the crop does not fit the image of " + std::to_string(height) + " x " + std::to_string(width) + " pixels");
  if (int64_t(g.window_height) != view_height || int64_t(g.window_width) != view_width)
    fail("the views have other sizes");
}

void sample_views(const Program& program, const int64_t* sizes, uint64_t seed, uint64_t epoch, const int64_t* ids,
                  int64_t n, uint32_t view, double* out) {
  constexpr int64_t kPiece = 256;  // draws that are worth a thread's while
  const int64_t columns = program.columns();
  parallel_tasks(ceil_div(n, kPiece), [&](int64_t, int64_t piece) {
    for (int64_t k = piece * kPiece; k < std::min(n, (piece + 1) * kPiece); ++k)
      sample_view(program, sizes[2 * k], sizes[2 * k + 1], Draws(seed, epoch, uint64_t(ids[k]), view),
                  out + k * columns);
  });
}

void augment(const Program& program, const std::vector<SourceImage>& sources, const double* params, ViewOutput out,
             int64_t out_stride, bool serial) {
  const int64_t n = int64_t(sources.size()), columns = program.columns();
  const int64_t bytes = out.dtype == DType::f32 ? 4 : 2;
  const auto task_of = [&](int64_t k) {
    ViewTask task{sources[size_t(k)], &program, params + k * columns, out};
    task.out.data = static_cast<char*>(out.data) + k * out_stride * bytes;
    return task;
  };
  for (int64_t k = 0; k < n; ++k) {
    const SourceImage& source = sources[size_t(k)];
    check_view(program, params + k * columns, source.height, source.width, out.height, out.width, k);
  }
  const AugmentTable& table = *isa().augment;
  advise_huge_pages(out.data, size_t(n * out_stride * bytes));
  std::vector<ViewScratch> scratch(static_cast<size_t>(num_threads()));
  // In rounds, so that Ctrl-C is heard within a moment.
  const int64_t round = 64 * int64_t(scratch.size());
  for (int64_t begin = 0; begin < n; begin += round) {
    parallel_tasks(
        std::min(round, n - begin),
        [&](int64_t worker, int64_t k) { table.view(task_of(begin + k), scratch[size_t(worker)]); },
        serial ? 1 : INT64_MAX);
    poll_interrupt();
  }
}

}  // namespace fastssl

// Augmentation on numpy arrays: no tensor operator, since nothing here has a gradient.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "augment/batch.h"
#include "bindings/signals.h"
#include "core/buffer_pool.h"
#include "core/interrupt.h"
#include "core/isa.h"
#include "cuda/view.h"

namespace py = pybind11;

namespace fastssl {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;
using Integers = py::array_t<int64_t, py::array::c_style>;
using Bytes = py::array_t<uint8_t>;  // any strides; other dtypes are refused by the caller

Program program_of(const Doubles& rows) {
  if (rows.ndim() != 2 || rows.shape(1) != 2 + kOpArguments || rows.shape(0) > kMaxOps)
    throw std::invalid_argument("program: expected at most " + std::to_string(kMaxOps) + " operations of " +
                                std::to_string(2 + kOpArguments) + " numbers");
  Program p;
  p.size = rows.shape(0);
  for (int64_t k = 0; k < p.size; ++k) {
    const double kind = rows.at(k, 0);
    if (!(kind >= 0 && kind < double(int(OpKind::count)))) throw std::invalid_argument("program: unknown operation");
    p.ops[k].kind = OpKind(int(kind));
    p.ops[k].shared = rows.at(k, 1) != 0;
    for (int i = 0; i < kOpArguments; ++i) {
      p.ops[k].a[i] = rows.at(k, 2 + i);
      if (!(p.ops[k].a[i] >= -1e7 && p.ops[k].a[i] <= 1e7))
        throw std::invalid_argument("program: a value is not finite");
    }
    const Op& op = p.ops[k];
    if (op.kind == OpKind::blur && !(op.a[3] >= 1 && op.a[3] <= 4095 && int64_t(op.a[3]) % 2 == 1))
      throw std::invalid_argument("program: the size of a blur must be odd");
    if (op.kind == OpKind::posterize && !(op.a[1] >= 0 && op.a[1] <= 8))
      throw std::invalid_argument("program: bits must be 0 to 8");
    if (op.kind == OpKind::automatic && !(op.a[2] >= 2 && op.a[1] < op.a[2]))
      throw std::invalid_argument("program: expected at least two magnitudes, and one of them");
    if (op.kind == OpKind::automatic &&
        !(op.a[0] >= 0 && op.a[0] < double(int(Automatic::count)) && (op.a[10] == 0 || (op.a[10] == 1 && k > 0))))
      throw std::invalid_argument("program: expected a known policy, and its first step before its second");
    if (op.kind == OpKind::tile && !(op.a[0] >= 1)) throw std::invalid_argument("program: an empty grid");
  }
  return p;
}

Doubles sample(const Doubles& program_rows, const Integers& sizes, uint64_t seed, uint64_t epoch, const Integers& ids,
               uint32_t view) {
  const Program program = program_of(program_rows);
  const int64_t n = ids.size(), columns = program.columns();
  if (sizes.ndim() != 2 || sizes.shape(0) != n || sizes.shape(1) != 2 || ids.ndim() != 1)
    throw std::invalid_argument("sizes: expected [B, 2] for ids [B]");
  if (view >= 0xFFFFu) throw std::invalid_argument("view: expected less than 65,535");
  for (int64_t k = 0; k < 2 * n; ++k)
    if (sizes.data()[k] < 1 || sizes.data()[k] > 10000000)
      throw std::invalid_argument("sizes: sample " + std::to_string(k / 2) + " is empty or too large");
  Doubles out({n, columns});
  sample_views(program, sizes.data(), seed, epoch, ids.data(), n, view, out.mutable_data());
  return out;
}

// One image, as [H, W, C] (or [C, H, W] where `planar`), for views of `channels`.
SourceImage source_of(const uint8_t* data, const int64_t* shape, const int64_t* strides, bool planar,
                      int64_t channels) {
  SourceImage s;
  s.data = data;
  s.planar = planar;
  s.height = shape[planar ? 1 : 0];
  s.width = shape[planar ? 2 : 1];
  s.channels = shape[planar ? 0 : 2];
  s.row_stride = strides[planar ? 1 : 0];
  s.channel_stride = strides[planar ? 0 : 2];
  const int64_t pixel = strides[planar ? 2 : 1];
  if (channels == 1 || channels == 3) {
    if (s.channels != 1 && s.channels != 3 && s.channels != 4)
      throw std::invalid_argument("images: expected 1, 3 or 4 channels");
  } else if (s.channels != channels) {
    throw std::invalid_argument("images: expected " + std::to_string(channels) + " channels, got " +
                                std::to_string(s.channels));
  }
  if (s.height < 1 || s.width < 1) throw std::invalid_argument("images: an image is empty");
  if (s.width > 1 && pixel != (planar ? 1 : s.channels))
    throw std::invalid_argument("images: pixels of a row must lie side by side");
  if (!planar && s.channels > 1 && s.channel_stride != 1)
    throw std::invalid_argument("images: channels must lie side by side");
  return s;
}

DType dtype_of(const std::string& name) {
  return name == "float32" ? DType::f32 : (name == "bfloat16" ? DType::bf16 : DType::f16);
}

// In memory that earlier arrays gave back where there is some: fresh pages are slow.
py::array new_array(const py::dtype& type, const std::vector<py::ssize_t>& shape) {
  size_t bytes = size_t(type.itemsize());
  for (const py::ssize_t length : shape) bytes *= size_t(length);
  if (bytes < buffer_pool::kSmallest) return py::array(type, shape);
  struct Owned {
    void* data;
    size_t bytes;
  };
  void* data = buffer_pool::acquire(bytes);
  const py::capsule owner(new Owned{data, bytes}, [](void* p) {
    const std::unique_ptr<Owned> owned(static_cast<Owned*>(p));
    buffer_pool::release(owned->data, reinterpret_cast<void*>(owned->bytes));
  });
  return py::array(type, shape, data, owner);
}

// [n, height, width, channels] or [n, channels, height, width]; halves as their bits.
py::array new_views(int64_t n, int64_t channels, int64_t height, int64_t width, DType dtype, bool channels_last) {
  if (n < 0 || height < 1 || width < 1 || height > 65535 || width > 65535)
    throw std::invalid_argument("height, width: expected 1 to 65535");
  if (channels < 1 || channels > 65535) throw std::invalid_argument("channels: expected 1 to 65535");
  const py::dtype type = dtype == DType::f32 ? py::dtype::of<float>() : py::dtype::of<int16_t>();
  const std::vector<py::ssize_t> shape = channels_last ? std::vector<py::ssize_t>{n, height, width, channels}
                                                       : std::vector<py::ssize_t>{n, channels, height, width};
  return new_array(type, shape);
}

py::array apply(const Doubles& program_rows, const std::vector<Bytes>& arrays, bool planar, const Doubles& params,
                const std::string& dtype, bool channels_last, const std::vector<float>& mean,
                const std::vector<float>& std, int64_t height, int64_t width, bool serial, const py::object& given) {
  const Program program = program_of(program_rows);
  const int64_t channels = int64_t(mean.size());
  if (channels < 1 || std.size() != mean.size())
    throw std::invalid_argument("mean, std: expected one value per channel");
  std::vector<SourceImage> sources;
  for (const Bytes& a : arrays) {
    if (a.ndim() == 3) {
      sources.push_back(source_of(a.data(), a.shape(), a.strides(), planar, channels));
    } else if (a.ndim() == 4) {
      for (int64_t k = 0; k < a.shape(0); ++k)
        sources.push_back(source_of(a.data() + k * a.strides(0), a.shape() + 1, a.strides() + 1, planar, channels));
    } else {
      throw std::invalid_argument("images: expected 3 or 4 dimensions");
    }
  }
  const int64_t n = int64_t(sources.size());
  if (params.ndim() != 2 || params.shape(0) != n || params.shape(1) != program.columns())
    throw std::invalid_argument("params: expected " + std::to_string(n) + " rows of " +
                                std::to_string(program.columns()));
  ViewOutput view;
  view.dtype = dtype_of(dtype);
  view.height = height;
  view.width = width;
  view.channels_last = channels_last;
  view.channels = channels;
  view.mean = mean.data();
  view.std = std.data();
  py::array out =
      given.is_none() ? new_views(n, channels, height, width, view.dtype, channels_last) : given.cast<py::array>();
  const int64_t bytes = view.dtype == DType::f32 ? 4 : 2;
  if (!(out.flags() & py::array::c_style) || !out.writeable() || out.itemsize() != bytes ||
      out.size() != n * channels * height * width)
    throw std::invalid_argument("out: expected contiguous memory for " + std::to_string(n) + " views");
  view.data = out.mutable_data();
  const double* drawn = params.data();
  try {
    py::gil_scoped_release unlock;
    augment(program, sources, drawn, view, channels * height * width, serial);
  } catch (const Interrupted&) {
    raise_again();
  }
  return out;
}

// What a GPU's blocks need to know of n images, each [height, width, channels] in bytes: [n, bytes of a task], the most
// taps of a resize and the widest crop. layout [n, 7]: offset, height, width, channels, bytes between rows, channels,
// pixels.
py::tuple tasks(const Doubles& program_rows, const Integers& layout, const Doubles& params, int64_t height,
                int64_t width) {
  const Program program = program_of(program_rows);
  const int64_t n = params.ndim() == 2 ? params.shape(0) : -1;
  if (n < 0 || params.shape(1) != program.columns())
    throw std::invalid_argument("params: expected rows of " + std::to_string(program.columns()));
  if (layout.ndim() != 2 || layout.shape(0) != n || layout.shape(1) != 7)
    throw std::invalid_argument("layout: expected [B, 7]");
  py::array_t<uint8_t> out({n, int64_t(sizeof(cuda::ViewTask))});
  int64_t taps = 1, widest = 1;
  for (int64_t k = 0; k < n; ++k) {
    const int64_t* at = layout.data() + 7 * k;
    const double* p = params.data() + k * program.columns();
    if (at[1] < 1 || at[2] < 1 || (at[3] != 1 && at[3] != 3 && at[3] != 4))
      throw std::invalid_argument("images: expected 1, 3 or 4 channels, and pixels");
    check_view(program, p, at[1], at[2], height, width, k);
    Geometry g(at[1], at[2]);
    std::vector<Step> steps = resolve(program, p, g);
    clip_boxes(steps, height, width);
    if (steps.size() > size_t(cuda::kMaxSteps))
      throw std::invalid_argument("program: more than " + std::to_string(cuda::kMaxSteps) + " steps on a GPU");
    cuda::ViewTask task = {};
    task.offset = at[0];
    task.channels = at[3];
    task.row_stride = at[4];
    task.channel_stride = at[5];
    task.pixel = at[6];
    task.rows = rows_axis(g, height);
    task.columns = columns_axis(g, width);
    task.steps = int64_t(steps.size());
    for (size_t q = 0; q < steps.size(); ++q) {
      cuda::PlainStep& s = task.step[q];
      s.kind = steps[q].kind;
      s.a = steps[q].a;
      s.sigma = steps[q].sigma;
      s.taps = steps[q].taps;
      std::copy(steps[q].box, steps[q].box + 4, s.box);
      std::copy(steps[q].fill, steps[q].fill + 3, s.fill);
      s.warp = steps[q].warp;
    }
    taps = std::max({taps, task.rows.most_taps(), task.columns.most_taps()});
    widest = std::max(widest, task.columns.length);
    std::memcpy(out.mutable_data() + k * int64_t(sizeof task), &task, sizeof task);
  }
  return py::make_tuple(out, taps, widest);
}

}  // namespace

void bind_augment(py::module_& m) {
  m.def("augment_tasks", tasks, py::arg("program"), py::arg("layout"), py::arg("params"), py::arg("height"),
        py::arg("width"), "What a GPU needs to make the views of the drawn parameters, as bytes.");
  m.def("augment_sample", sample, py::arg("program"), py::arg("sizes"), py::arg("seed"), py::arg("epoch"),
        py::arg("ids"), py::arg("view"), "Draws the parameters of one view for each sample: float64 [B, columns].");
  m.def(
      "new_bytes",
      [](int64_t bytes) {
        if (bytes < 0) throw std::invalid_argument("bytes: expected a number >= 0");
        return new_array(py::dtype::of<uint8_t>(), {py::ssize_t(bytes)});
      },
      py::arg("bytes"), "Memory, from what earlier arrays and views gave back where there is some.");
  m.def("augment_apply", apply, py::arg("program"), py::arg("images").noconvert(), py::arg("planar"), py::arg("params"),
        py::arg("dtype"), py::arg("channels_last"), py::arg("mean"), py::arg("std"), py::arg("height"),
        py::arg("width"), py::arg("serial"), py::arg("out") = py::none(),
        "Makes the views of the drawn parameters, of as many channels as there are means.");
}

}  // namespace fastssl

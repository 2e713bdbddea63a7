// Launches of compiled GPU kernels, a list at a time: from Python each one takes longer than kernels of few rows run.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#ifdef __linux__
#include <dlfcn.h>
#endif

namespace py = pybind11;

namespace fastssl {
namespace {

// What is needed of CUDA's driver, of the library that torch has loaded: nothing is linked.
struct Driver {
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                void**) = nullptr;
  int (*current_context)(void**) = nullptr;
  int (*set_context)(void*) = nullptr;
  int (*primary_context)(void**, int) = nullptr;
  int (*text_of)(int, const char**) = nullptr;

  Driver() {
#ifdef __linux__
    void* const library = dlopen("libcuda.so.1", RTLD_LAZY);
    if (!library) return;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
    };
    find(current_context, "cuCtxGetCurrent");
    find(set_context, "cuCtxSetCurrent");
    find(primary_context, "cuDevicePrimaryCtxRetain");
    find(text_of, "cuGetErrorString");
    if (current_context && set_context && primary_context && text_of) find(launch, "cuLaunchKernel");
#endif
  }

  static const Driver& get() {
    static const Driver driver;
    return driver;
  }

  void check(int status, const char* what) const {
    if (status == 0) return;
    const char* text = nullptr;
    text_of(status, &text);
    throw std::runtime_error(std::string("fastssl: ") + what + ": CUDA error " + std::to_string(status) + " (" +
                             (text ? text : "unknown") + ")");
  }

  // A thread that has not used the device yet, such as one of autograd's, has no context.
  void use(int device) const {
    void* context = nullptr;
    check(current_context(&context), "asking for the context");
    if (context) return;
    check(primary_context(&context, device), "taking the context of a device");
    check(set_context(context), "setting the context");
  }
};

struct Pointer {
  size_t parameter, base;
  int64_t offset;  // in bytes
};

struct Launch {
  void* function;
  std::array<unsigned, 3> grid;
  unsigned threads, shared;
  std::vector<uint64_t> parameters;  // those that are no pointers; numbers of fewer bits come first in memory
  std::vector<Pointer> pointers;
};

// Kernels that are launched one after the other. What they point to is given anew with each call.
class Launches {
 public:
  explicit Launches(size_t bases) : bases_(bases) {
    if (!Driver::get().launch) throw std::runtime_error("fastssl: CUDA's driver (libcuda.so.1) cannot be loaded");
  }

  void add(uint64_t function, std::array<unsigned, 3> grid, unsigned threads, unsigned shared,
           std::vector<uint64_t> parameters, const std::vector<std::tuple<size_t, size_t, int64_t>>& pointers) {
    Launch made{reinterpret_cast<void*>(function), grid, threads, shared, std::move(parameters), {}};
    if (made.parameters.size() > kMost) throw std::invalid_argument("parameters: too many");
    for (const auto& [parameter, base, offset] : pointers) {
      if (parameter >= made.parameters.size() || base >= bases_) throw std::invalid_argument("pointers: out of range");
      made.pointers.push_back({parameter, base, offset});
    }
    launches_.push_back(std::move(made));
  }

  void operator()(const std::vector<uint64_t>& bases, uint64_t stream, int device) const {
    if (bases.size() != bases_) throw std::invalid_argument("bases: expected " + std::to_string(bases_));
    const Driver& driver = Driver::get();
    py::gil_scoped_release unlock;  // a full queue makes the caller wait
    driver.use(device);
    uint64_t values[kMost];
    void* addresses[kMost];
    for (size_t k = 0; k < kMost; ++k) addresses[k] = values + k;
    for (const Launch& l : launches_) {
      for (size_t k = 0; k < l.parameters.size(); ++k) values[k] = l.parameters[k];
      for (const Pointer& p : l.pointers) values[p.parameter] = bases[p.base] + uint64_t(p.offset);
      const auto& g = l.grid;
      driver.check(driver.launch(l.function, g[0], g[1], g[2], l.threads, 1, 1, l.shared,
                                 reinterpret_cast<void*>(stream), addresses, nullptr),
                   "launching a kernel");
    }
  }

 private:
  static constexpr size_t kMost = 96;
  const size_t bases_;
  std::vector<Launch> launches_;
};

}  // namespace

void bind_launches(py::module_& m) {
  py::class_<Launches>(m, "Launches", "Compiled GPU kernels that are launched one after the other.")
      .def(py::init<size_t>(), py::arg("bases"))
      .def("add", &Launches::add, py::arg("function"), py::arg("grid"), py::arg("threads"), py::arg("shared"),
           py::arg("parameters"), py::arg("pointers"),
           "A kernel; pointers: which parameter is which of the bases, and how many bytes behind it.")
      .def("__call__", &Launches::operator(), py::arg("bases"), py::arg("stream"), py::arg("device"));
}

}  // namespace fastssl

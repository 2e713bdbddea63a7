// The Python module: what is no tensor operator. The kernels and operators are a library that knows no Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/signals.h"
#include "core/buffer_pool.h"
#include "core/interrupt.h"
#include "core/isa.h"
#include "core/probe.h"

namespace py = pybind11;

namespace {

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const auto* table : fastssl::usable_isas()) names.emplace_back(table->name);
  return names;
}

}  // namespace

namespace fastssl {
void bind_augment(py::module_& m);   // augment.cpp
void bind_draws(py::module_& m);     // draws.cpp
void bind_files(py::module_& m);     // files.cpp
void bind_launches(py::module_& m);  // launches.cpp
void bind_wave(py::module_& m);      // wave.cpp
void bind_words(py::module_& m);     // words.cpp
}  // namespace fastssl

PYBIND11_MODULE(_C, m) {
  m.doc() = "fastssl: compiled kernels";
  fastssl::set_interrupt_check(fastssl::python_asks_to_stop);
  m.def("take_raised", fastssl::take_raised,
        "The exception of the signal handler that has interrupted a kernel, once, or None.");
  fastssl::bind_augment(m);
  fastssl::bind_draws(m);
  fastssl::bind_files(m);
  fastssl::bind_launches(m);
  fastssl::bind_wave(m);
  fastssl::bind_words(m);
  m.def("usable_isas", isa_names, "Instruction sets that this CPU can run, slowest first.");
  m.def(
      "multiplies_bf16", [] { return fastssl::isa().pairs_bf16 != nullptr; },
      "Whether the instruction set in use multiplies bf16 rows as they are.");
  m.def("isa", [] { return std::string(fastssl::isa().name); }, "The instruction set in use.");
  m.def(
      "select_isa",
      [](const std::string& name) {
        if (const char* why = fastssl::select_isa(name.c_str())) throw std::invalid_argument(name + ": " + why);
      },
      py::arg("name"));
  m.def("set_pool_limit", fastssl::buffer_pool::set_limit, py::arg("bytes"),
        "How much memory that was given back may wait for the next call.");
  m.def("pool_bytes", fastssl::buffer_pool::idle_bytes, "Memory that was given back and waits for the next call.");
  m.def("float_modes", fastssl::float_modes, py::arg("threads"),
        "Whether subnormal numbers are flushed to zero on threads of torch's pool, the calling thread first.");
  m.def("set_float_modes", fastssl::set_float_modes, py::arg("flushes"),
        "Flushes subnormal numbers to zero, or not, on as many threads of torch's pool, the calling thread first.");
  m.def("assume_crowded", fastssl::assume_crowded, py::arg("seconds"),
        "For this time parallel regions begin on the calling thread, as if others had come too late.");
  m.def("fma_rate", fastssl::fma_rate, py::arg("threads"), py::arg("seconds") = 0.2,
        py::call_guard<py::gil_scoped_release>(),
        "Floating point operations a second of a loop of multiply-adds on registers.");
}

// The samplers of WaveNet and WaveRNN on numpy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "wave/gru_sampler.h"
#include "wave/sampler.h"

namespace py = pybind11;

namespace fastssl {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Codes = py::array_t<int32_t, py::array::c_style>;

const float* checked(const Floats& array, const char* name, const std::vector<int64_t>& shape) {
  bool right = array.ndim() == py::ssize_t(shape.size());
  for (size_t k = 0; right && k < shape.size(); ++k) right = array.shape(py::ssize_t(k)) == shape[k];
  if (!right) {
    std::string text;
    for (int64_t n : shape) text += (text.empty() ? "" : ", ") + std::to_string(n);
    throw std::invalid_argument(std::string(name) + ": expected floats [" + text + "]");
  }
  return array.data();
}

// Checks what a sampler goes on with; `shape` is that of the logits of a step.
template <class S>
void run_checked(S& sampler, const std::vector<int64_t>& shape, int64_t levels, Codes codes, int64_t given,
                 float temperature, uint64_t seed, std::optional<Floats> logits) {
  if (codes.ndim() != 2 || codes.shape(0) != sampler.rows() || !codes.writeable())
    throw std::invalid_argument("codes: expected writeable int32 [" + std::to_string(sampler.rows()) + ", steps]");
  const int64_t steps = codes.shape(1);
  if (given < 0 || given > steps) throw std::invalid_argument("given: expected 0 to the number of steps");
  if (!(temperature >= 0) || !std::isfinite(temperature))
    throw std::invalid_argument("temperature: expected a finite number >= 0");
  for (int64_t r = 0; r < sampler.rows(); ++r)
    for (int64_t t = 0; t < given; ++t)
      if (codes.at(r, t) < 0 || codes.at(r, t) >= levels)
        throw std::invalid_argument("codes: expected 0 to " + std::to_string(levels - 1));
  float* into = nullptr;
  if (logits) {
    std::vector<int64_t> whole{sampler.rows(), steps};
    whole.insert(whole.end(), shape.begin(), shape.end());
    checked(*logits, "logits", whole);
    into = logits->mutable_data();
  }
  int32_t* to = codes.mutable_data();
  py::gil_scoped_release unlock;
  sampler.run(to, steps, given, temperature, seed, into);
}

class Sampler {
 public:
  Sampler(const Floats& embed, const Floats& gates, const Floats& gate_biases, const Floats& outs,
          const Floats& out_biases, const Floats& middle, const Floats& middle_bias, const Floats& last,
          const Floats& last_bias, const std::vector<int64_t>& dilations, int64_t rows) {
    if (embed.ndim() != 2 || middle.ndim() != 2 || dilations.empty() || rows < 1)
      throw std::invalid_argument("embed, middle: expected matrices, at least one layer and one row");
    const auto depth = int64_t(dilations.size());
    const int64_t levels = embed.shape(0), width = embed.shape(1), skip = middle.shape(0);
    if (levels < 2 || levels > 256) throw std::invalid_argument("embed: expected 2 to 256 levels");
    for (int64_t d : dilations)
      if (d < 1 || d > 1 << 20) throw std::invalid_argument("dilations: expected 1 to 2^20");
    sampler_ = std::make_unique<WaveSampler>(
        WaveWeights{levels, width, skip, dilations, checked(embed, "embed", {levels, width}),
                    checked(gates, "gates", {depth, 2 * width, 2 * width}),
                    checked(gate_biases, "gate_biases", {depth, 2 * width}),
                    checked(outs, "outs", {depth, width, width + skip}),
                    checked(out_biases, "out_biases", {depth, width + skip}), checked(middle, "middle", {skip, skip}),
                    checked(middle_bias, "middle_bias", {skip}), checked(last, "last", {skip, levels}),
                    checked(last_bias, "last_bias", {levels})},
        rows);
  }

  void run(Codes codes, int64_t given, float temperature, uint64_t seed, std::optional<Floats> logits) {
    const int64_t levels = sampler_->levels();
    run_checked(*sampler_, {levels}, levels, codes, given, temperature, seed, logits);
  }

  int64_t position() const { return sampler_->position(); }

 private:
  std::unique_ptr<WaveSampler> sampler_;
};

class PartsSampler {
 public:
  PartsSampler(const Floats& recurrent, const Floats& recurrent_bias, const Floats& inputs, const Floats& inputs_bias,
               const Floats& middles, const Floats& middle_biases, const Floats& lasts, const Floats& last_biases,
               int64_t rows) {
    if (lasts.ndim() != 3 || rows < 1)
      throw std::invalid_argument("lasts: expected 3 dimensions, and at least one row");
    const int64_t half = lasts.shape(1), values = lasts.shape(2), gates = kParts * kGates * half;
    if (values < 2 || values > 256) throw std::invalid_argument("lasts: expected 2 to 256 values");
    sampler_ = std::make_unique<GruSampler>(
        GruWeights{values, half, checked(recurrent, "recurrent", {kParts * half, gates}),
                   checked(recurrent_bias, "recurrent_bias", {gates}), checked(inputs, "inputs", {kInputs, gates}),
                   checked(inputs_bias, "inputs_bias", {gates}), checked(middles, "middles", {kParts, half, half}),
                   checked(middle_biases, "middle_biases", {kParts, half}),
                   checked(lasts, "lasts", {kParts, half, values}),
                   checked(last_biases, "last_biases", {kParts, values})},
        rows);
  }

  void run(Codes codes, int64_t given, float temperature, uint64_t seed, std::optional<Floats> logits) {
    const int64_t values = sampler_->values();
    run_checked(*sampler_, {kParts, values}, values * values, codes, given, temperature, seed, logits);
  }

  int64_t position() const { return sampler_->position(); }

 private:
  std::unique_ptr<GruSampler> sampler_;
};

}  // namespace

void bind_wave(py::module_& m) {
  py::class_<Sampler>(m, "WaveSampler", "Rows of codes that WaveNet draws or predicts, step by step, on queues.")
      .def(py::init<const Floats&, const Floats&, const Floats&, const Floats&, const Floats&, const Floats&,
                    const Floats&, const Floats&, const Floats&, const std::vector<int64_t>&, int64_t>(),
           py::arg("embed").noconvert(), py::arg("gates").noconvert(), py::arg("gate_biases").noconvert(),
           py::arg("outs").noconvert(), py::arg("out_biases").noconvert(), py::arg("middle").noconvert(),
           py::arg("middle_bias").noconvert(), py::arg("last").noconvert(), py::arg("last_bias").noconvert(),
           py::arg("dilations"), py::arg("rows"))
      .def("run", &Sampler::run, py::arg("codes").noconvert(), py::arg("given"), py::arg("temperature"),
           py::arg("seed"), py::arg("logits").noconvert() = py::none(),
           "Goes on for the steps of codes [rows, steps]: reads the first `given`, draws and writes the others.")
      .def_property_readonly("position", &Sampler::position, "Number of steps so far.");
  py::class_<PartsSampler>(m, "GruSampler", "Rows of codes that WaveRNN draws or predicts, step by step.")
      .def(py::init<const Floats&, const Floats&, const Floats&, const Floats&, const Floats&, const Floats&,
                    const Floats&, const Floats&, int64_t>(),
           py::arg("recurrent").noconvert(), py::arg("recurrent_bias").noconvert(), py::arg("inputs").noconvert(),
           py::arg("inputs_bias").noconvert(), py::arg("middles").noconvert(), py::arg("middle_biases").noconvert(),
           py::arg("lasts").noconvert(), py::arg("last_biases").noconvert(), py::arg("rows"))
      .def("run", &PartsSampler::run, py::arg("codes").noconvert(), py::arg("given"), py::arg("temperature"),
           py::arg("seed"), py::arg("logits").noconvert() = py::none(),
           "Goes on for the steps of codes [rows, steps]: reads the first `given`, draws and writes the others.")
      .def_property_readonly("position", &PartsSampler::position, "Number of steps so far.");
}

}  // namespace fastssl

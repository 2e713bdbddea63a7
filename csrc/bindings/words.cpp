// Word2Vec on numpy arrays: the tables are changed in place, so nothing here is a tensor operator.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "words/train.h"
#include "words/vocabulary.h"
#include "words/window.h"

namespace py = pybind11;

namespace fastssl {
namespace {

using Ids = py::array_t<int32_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

template <class T>
py::array_t<T> array_of(const std::vector<T>& values) {
  return py::array_t<T>(py::ssize_t(values.size()), values.data());
}

// Counts the words of texts and numbers them.
class Counter {
 public:
  Ids add_text(const std::string& text, const py::bytes& letters) {
    const std::string_view is_letter = letters;  // not copied: it is longer than many a text
    std::vector<int32_t> numbers;
    {
      py::gil_scoped_release unlock;
      number_words(text, is_letter, counter_, numbers);
    }
    return array_of(numbers);
  }
  Ids add_words(const std::vector<py::str>& words) {
    std::vector<int32_t> numbers;
    numbers.reserve(words.size());
    for (const py::str& word : words) {
      py::ssize_t size = 0;
      const char* text = PyUnicode_AsUTF8AndSize(word.ptr(), &size);
      if (!text) throw py::error_already_set();
      numbers.push_back(counter_.add({text, size_t(size)}));
    }
    return array_of(numbers);
  }
  std::vector<std::string> words() const {
    std::vector<std::string> all;
    for (int64_t k = 0; k < counter_.size(); ++k) all.emplace_back(counter_.word(k));
    return all;
  }
  py::array_t<int64_t> counts() const {
    std::vector<int64_t> all;
    for (int64_t k = 0; k < counter_.size(); ++k) all.push_back(counter_.count(k));
    return array_of(all);
  }

 private:
  WordCounter counter_;
};

std::vector<double> weights_of(const Doubles& given, const char* name) {
  std::vector<double> weights(given.data(), given.data() + given.size());
  double total = 0;
  for (double w : weights) {
    if (!(w >= 0) || !std::isfinite(w))
      throw std::invalid_argument(std::string(name) + ": expected finite values >= 0");
    total += w;
  }
  if (!(total > 0)) throw std::invalid_argument(std::string(name) + ": expected a value above 0");
  return weights;
}

// A text, what is drawn from it, and, with tables, their training. Arrays are kept alive and not copied.
class Words {
 public:
  Words(Ids ids, Floats keep, const Doubles& counts, double power, bool tree, int32_t window, int32_t negatives,
        bool cbow, bool shared, uint64_t seed)
      : ids_(std::move(ids)), keep_(std::move(keep)) {
    const int64_t words = keep_.size();
    if (ids_.ndim() != 1 || keep_.ndim() != 1) throw std::invalid_argument("ids, keep: expected one dimension");
    if (words < 1 || words >= INT32_MAX || counts.size() != words)
      throw std::invalid_argument("counts: expected one per word, and at least one word");
    if (window < 1 || window > 1 << 15) throw std::invalid_argument("window: expected 1 to 32,768");
    if (negatives < 0 || negatives > 1 << 15) throw std::invalid_argument("negatives: expected 0 to 32,768");
    for (int64_t k = 0; k < ids_.size(); ++k)
      if (ids_.data()[k] < -1 || ids_.data()[k] >= words)
        throw std::invalid_argument("ids: expected -1 to " + std::to_string(words - 1) + ", got " +
                                    std::to_string(ids_.data()[k]));
    std::vector<double> weights = weights_of(counts, "counts");
    if (tree) {
      tree_ = std::make_unique<HuffmanTree>(weights);
    } else {
      for (double& w : weights) w = std::pow(w, power);
      noise_ = std::make_unique<AliasTable>(weights);
    }
    text_ = {ids_.data(), ids_.size(), words};
    options_ = {window, negatives, cbow, shared, seed, keep_.data(), noise_.get(), tree_.get()};
  }

  void set_tables(Floats in, Floats out, uint32_t epochs, double rate, double least_rate, bool reproducible,
                  int64_t segment_positions) {
    const int64_t rows = tree_ ? std::max<int64_t>(text_.words - 1, 1) : text_.words;
    if (in.ndim() != 2 || out.ndim() != 2 || in.shape(0) != text_.words || out.shape(0) != rows ||
        in.shape(1) != out.shape(1) || in.shape(1) < 1 || in.shape(1) % kRowFloats != 0)
      throw std::invalid_argument("tables: expected rows for all words, of a multiple of 16 numbers");
    if (!in.writeable() || !out.writeable()) throw std::invalid_argument("tables: expected writeable arrays");
    if (!std::isfinite(rate) || !std::isfinite(least_rate) || rate < 0 || least_rate < 0)
      throw std::invalid_argument("rate: expected finite rates >= 0");
    if (epochs < 1 || segment_positions < 1 || segment_positions > 1 << 20)
      throw std::invalid_argument("epochs: expected at least one");
    in_ = std::move(in), out_ = std::move(out);
    trainer_ = std::make_unique<WordTrainer>(
        text_, TableView{in_.mutable_data(), in_.shape(0)}, TableView{out_.mutable_data(), out_.shape(0)}, in_.shape(1),
        TrainingOptions{options_, epochs, float(rate), float(least_rate), reproducible}, segment_positions);
  }

  py::tuple train(uint32_t epoch, int64_t begin, int64_t steps) {
    if (!trainer_) throw std::invalid_argument("tables: set them before training");
    if (begin < 0 || begin % trainer_->step_positions() != 0)
      throw std::invalid_argument("begin: expected a multiple of " + std::to_string(trainer_->step_positions()));
    Progress p;
    {
      py::gil_scoped_release unlock;
      p = trainer_->train(epoch, begin, steps);
    }
    return py::make_tuple(p.position, p.loss, p.terms);
  }

  py::tuple windows(uint32_t epoch, int64_t begin, int64_t end) {
    if (begin < 0 || end < begin || end > text_.size) throw std::invalid_argument("begin, end: expected positions");
    Windows found;
    {
      py::gil_scoped_release unlock;
      WindowFinder().find(text_, options_, epoch, begin, end, found);
    }
    return py::make_tuple(array_of(found.inputs), array_of(found.input_weights), array_of(found.input_ends),
                          array_of(found.outputs), array_of(found.output_ends), array_of(found.targets),
                          array_of(found.weights));
  }

 private:
  Ids ids_;
  Floats keep_, in_, out_;
  std::unique_ptr<AliasTable> noise_;
  std::unique_ptr<HuffmanTree> tree_;
  Text text_;
  WindowOptions options_;
  std::unique_ptr<WordTrainer> trainer_;
};

}  // namespace

void bind_words(py::module_& m) {
  py::class_<Counter>(m, "WordCounter", "Counts the words of texts and numbers them as they are first seen.")
      .def(py::init<>())
      .def("add_text", &Counter::add_text, py::arg("text"), py::arg("letters"),
           "Numbers of the words of a text, -1 at line breaks; letters: a bit per code point; those behind have none.")
      .def("add_words", &Counter::add_words, py::arg("words"))
      .def("words", &Counter::words)
      .def("counts", &Counter::counts);
  py::class_<Words>(m, "Words", "The windows of a text of words, and Word2Vec's training on them.")
      .def(py::init<Ids, Floats, const Doubles&, double, bool, int32_t, int32_t, bool, bool, uint64_t>(),
           py::arg("ids").noconvert(), py::arg("keep").noconvert(), py::arg("counts"), py::arg("power"),
           py::arg("tree"), py::arg("window"), py::arg("negatives"), py::arg("cbow"), py::arg("shared"),
           py::arg("seed"))
      .def("set_tables", &Words::set_tables, py::arg("inputs").noconvert(), py::arg("outputs").noconvert(),
           py::arg("epochs"), py::arg("rate"), py::arg("least_rate"), py::arg("reproducible"),
           py::arg("segment_positions"))
      .def("train", &Words::train, py::arg("epoch"), py::arg("begin"), py::arg("steps"),
           "Trains on some steps: position reached, loss of the pairs that were measured, their number.")
      .def("windows", &Words::windows, py::arg("epoch"), py::arg("begin"), py::arg("end"),
           "Windows with centres at these positions: inputs, their weights, ends, outputs, their ends, targets, "
           "weights.");
}

}  // namespace fastssl

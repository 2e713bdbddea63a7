// Uniform draws by counter as NumPy arrays, the spans of text that T5 cuts out by them,
// and masks of dropout by torch's generator.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/philox.h"
#include "elementwise/dropout.h"

namespace py = pybind11;

namespace fastssl {
namespace {

using Integers = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

// The numbers of one item, keyed by (seed, epoch, id, view): four for each block of the counter.
class Stream {
 public:
  Stream(uint64_t seed, uint32_t epoch, int64_t id, uint32_t view)
      : philox_{{uint32_t(seed), uint32_t(seed >> 32)}},
        counter_{view << 16, epoch, uint32_t(id), uint32_t(uint64_t(id) >> 32)} {}
  void operator()(int64_t block, uint32_t out[4]) const {
    const uint32_t counter[4] = {counter_[0] | uint32_t(block), counter_[1], counter_[2], counter_[3]};
    philox_(counter, out);
  }

 private:
  Philox philox_;
  uint32_t counter_[4];
};

void check_blocks(int64_t block, int64_t count) {
  if (count < 0 || block < 0 || block + (count + 3) / 4 > 0x10000)
    throw std::invalid_argument("count: expected at most four numbers for each of the blocks that remain");
}

// [n, count] in (0, 1), keyed by (seed, epoch, id, view, block); each block of the counter yields four numbers.
py::array_t<double> uniform(uint64_t seed, uint32_t epoch, const Integers& ids, uint32_t view, int64_t block,
                            int64_t count) {
  if (ids.ndim() != 1) throw std::invalid_argument("ids: expected [B]");
  check_blocks(block, count);
  const int64_t n = ids.shape(0);
  py::array_t<double> made({n, count});
  const int64_t* id = ids.data();
  double* out = made.mutable_data();
  py::gil_scoped_release unlock;
  for (int64_t row = 0; row < n; ++row, out += count) {
    const Stream stream(seed, epoch, id[row], view);
    uint32_t bits[4];
    for (int64_t k = 0; k < count; k += 4) {
      stream(block + k / 4, bits);
      for (int64_t j = 0; j < std::min<int64_t>(4, count - k); ++j) out[k + j] = uniform_of(bits[j]);
    }
  }
  return made;
}

// A uniform partition of `total` into `parts` positive numbers: its parts - 1 cuts are the places of the smallest of
// total - 1 numbers, of equal ones the first.
class Partition {
 public:
  void operator()(const Stream& stream, int64_t block, int64_t total, int64_t parts, int64_t* out) {
    const int64_t places = total - 1, cuts = parts - 1;
    if (cuts > 0) choose(stream, block, places, cuts);
    int64_t part = 0, before = 0;
    for (size_t word = 0; part < cuts; ++word) {
      for (uint64_t left = chosen_[word]; left; left &= left - 1, ++part) {
        const int64_t end = int64_t(64 * word) + __builtin_ctzll(left) + 1;
        out[part] = end - before;
        before = end;
      }
    }
    if (parts > 0) out[cuts] = total - before;
  }

 private:
  // A bit for each of the places: whether its number is among the smallest.
  void choose(const Stream& stream, int64_t block, int64_t places, int64_t cuts) {
    keys_.resize(size_t(places + 4));
    // A little more than the share that is needed: that too few numbers are below the bound is rare.
    const double share = (double(cuts) + 3 * std::sqrt(double(cuts)) + 3) / double(places);
    int64_t found = 0;
    for (uint32_t bound = share < 1 ? uint32_t(share * UINT32_MAX) : UINT32_MAX; found < cuts; bound = UINT32_MAX) {
      found = 0;
      for (int64_t k = 0; k < places; k += 4) {
        uint32_t bits[4];
        stream(block + k / 4, bits);
        for (int64_t j = 0; j < std::min<int64_t>(4, places - k); ++j) {
          keys_[size_t(found)] = uint64_t(bits[j]) << 32 | uint64_t(k + j);
          found += bits[j] <= bound;
        }
      }
    }
    std::nth_element(keys_.begin(), keys_.begin() + (cuts - 1), keys_.begin() + found);
    chosen_.assign(size_t(places / 64 + 1), 0);
    for (int64_t k = 0; k < cuts; ++k)
      chosen_[(keys_[size_t(k)] & UINT32_MAX) / 64] |= uint64_t(1) << (keys_[size_t(k)] % 64);
  }

  std::vector<uint64_t> keys_, chosen_;
};

// Starts and lengths [n, S] of `spans` [n] spans with `noise` [n] tokens of `lengths` [n], uniform among all of them:
// the lengths by the numbers from `block` on, those of the kept tokens between them by the numbers from `other` on.
py::tuple noise_spans(uint64_t seed, uint32_t epoch, const Integers& ids, uint32_t view, int64_t block, int64_t other,
                      const Integers& lengths, const Integers& noise, const Integers& spans) {
  const int64_t n = ids.size();
  if (lengths.size() != n || noise.size() != n || spans.size() != n)
    throw std::invalid_argument("lengths, noise, spans: expected [B]");
  const int64_t *length = lengths.data(), *taken = noise.data(), *count = spans.data();
  int64_t width = 0;
  for (int64_t row = 0; row < n; ++row) {
    const int64_t kept = length[row] - taken[row];
    if (taken[row] < 0 || kept < 0 || count[row] < 0 || count[row] > taken[row] || (taken[row] > 0 && count[row] == 0))
      throw std::invalid_argument("spans: expected at least one token in each of " + std::to_string(count[row]));
    check_blocks(block, taken[row]);
    check_blocks(other, kept);
    width = std::max(width, count[row]);
  }
  py::array_t<int64_t> starts({n, width}), inside({n, width});
  int64_t *start = starts.mutable_data(), *within = inside.mutable_data();
  const int64_t* id = ids.data();
  {
    py::gil_scoped_release unlock;
    Partition partition;
    std::fill(within, within + n * width, 0);
    for (int64_t row = 0; row < n; ++row, start += width, within += width) {
      const Stream stream(seed, epoch, id[row], view);
      const int64_t kept = length[row] - taken[row];
      std::fill(start, start + width, 0);
      partition(stream, block, taken[row], count[row], within);
      partition(stream, other, kept, std::min(count[row], kept), start);
      for (int64_t k = 0, place = 0; k < width; ++k) {
        place += start[k];
        start[k] = place;
        place += within[k];
      }
    }
  }
  return py::make_tuple(starts, inside);
}

// Rows `values` at `offsets` without their spans, each of which leaves its mark, and the marks with their spans; both
// with the last token of the row. Mark k of a row is first - k.
py::tuple cut_spans(const Integers& values, const Integers& offsets, const Integers& starts, const Integers& lengths,
                    int64_t first) {
  const int64_t n = offsets.size() - 1;
  if (n < 0 || starts.ndim() != 2 || lengths.ndim() != 2 || starts.shape(0) != n || lengths.shape(0) != n ||
      starts.shape(1) != lengths.shape(1))
    throw std::invalid_argument("starts, lengths: expected [B, S]");
  const int64_t width = starts.shape(1), *bounds = offsets.data(), *begin = starts.data(), *each = lengths.data();
  py::array_t<int64_t> kept_ends(n + 1), cut_ends(n + 1);
  int64_t *kept_end = kept_ends.mutable_data(), *cut_end = cut_ends.mutable_data();
  kept_end[0] = cut_end[0] = 0;
  for (int64_t row = 0; row < n; ++row) {
    const int64_t *start = begin + row * width, *length = each + row * width;
    int64_t spans = 0, cut = 0, place = 0;
    for (int64_t k = 0; k < width; ++k) {
      if (length[k] <= 0) continue;
      if (start[k] < place) throw std::invalid_argument("starts: expected spans one after the other");
      place = start[k] + length[k];
      ++spans;
      cut += length[k];
    }
    const int64_t size = bounds[row + 1] - bounds[row];
    if (size < 1 || place >= size || bounds[row] < 0 || bounds[row + 1] > values.size())
      throw std::invalid_argument("starts: expected spans before the end of each row");
    kept_end[row + 1] = kept_end[row] + size - cut + spans;
    cut_end[row + 1] = cut_end[row] + cut + spans + 1;
  }
  py::array_t<int64_t> kept(kept_end[n]), cut(cut_end[n]);
  int64_t *to_kept = kept.mutable_data(), *to_cut = cut.mutable_data();
  const int64_t* from = values.data();
  {
    py::gil_scoped_release unlock;
    for (int64_t row = 0; row < n; ++row) {
      const int64_t *start = begin + row * width, *length = each + row * width, *text = from + bounds[row];
      int64_t place = 0, mark = first;
      for (int64_t k = 0; k < width; ++k) {
        if (length[k] <= 0) continue;
        to_kept = std::copy(text + place, text + start[k], to_kept);
        place = start[k] + length[k];
        *to_kept++ = *to_cut++ = mark--;
        to_cut = std::copy(text + start[k], text + place, to_cut);
      }
      to_kept = std::copy(text + place, from + bounds[row + 1], to_kept);
      *to_cut++ = from[bounds[row + 1] - 1];
    }
  }
  return py::make_tuple(kept, kept_ends, cut, cut_ends);
}

Twister& twister_of(const py::object& state) {
  if (state.attr("nbytes").cast<size_t>() < sizeof(Twister))
    throw std::invalid_argument("generator: expected a generator of the CPU");
  auto& twister = *reinterpret_cast<Twister*>(state.attr("data_ptr")().cast<uintptr_t>());
  if (twister.left < 1 || twister.left > kTwisterWords || twister.next + uint64_t(twister.left - 1) > kTwisterWords)
    throw std::invalid_argument("generator: a state of another layout");
  return twister;
}

// Into `count` bytes at `kept`, under Python's lock. An operation of torch that has given it up may draw in the
// meantime: then all is drawn again, behind it.
void draw_of_torch(const py::object& generator, double probability, uintptr_t kept, int64_t count) {
  if (!(probability >= 0 && probability <= 1)) throw std::invalid_argument("probability: expected 0 to 1");
  for (;;) {
    const py::object state = generator.attr("get_state")();
    Twister& twister = twister_of(state);
    const Twister before = twister;
    draw_kept(twister, probability, count, reinterpret_cast<uint8_t*>(kept));
    const py::object now = generator.attr("get_state")();
    if (std::memcmp(&twister_of(now), &before, sizeof before) != 0) continue;
    generator.attr("set_state")(state);
    return;
  }
}

}  // namespace

void bind_draws(py::module_& m) {
  m.def("uniform", uniform, py::arg("seed"), py::arg("epoch"), py::arg("ids"), py::arg("view"), py::arg("block"),
        py::arg("count"), "Uniform draws in (0, 1) by counter: float64 [B, count].");
  m.def(
      "draw_kept", draw_of_torch, py::arg("generator"), py::arg("probability"), py::arg("kept"), py::arg("count"),
      "Whether each of `count` draws of a generator of torch is below `probability`, as bytes at the address `kept`.");
  m.def("noise_spans", noise_spans, py::arg("seed"), py::arg("epoch"), py::arg("ids"), py::arg("view"),
        py::arg("block"), py::arg("other"), py::arg("lengths"), py::arg("noise"), py::arg("spans"),
        "Starts and lengths [B, S] of random spans.");
  m.def("cut_spans", cut_spans, py::arg("values"), py::arg("offsets"), py::arg("starts"), py::arg("lengths"),
        py::arg("first"), "Rows with marks for their spans, and the marks with the spans.");
}

}  // namespace fastssl

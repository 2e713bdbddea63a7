// A step of WaveNet on one instruction set. Compiled several times.
#include "step.h"

#include <algorithm>

#include "product.h"

namespace fastssl {
namespace FASTSSL_ISA {
namespace {

// tanh(a) sigmoid(b) with one division.
FASTSSL_INLINE V gate(V a, V b) {
  const V ea = exp_minus(magnitude(a) * 2.f), eb = exp_minus(magnitude(b));
  const V high = (1.f - ea) * (b < 0.f ? eb : splat(1.f));
  return (a < 0.f ? -high : high) / ((1.f + ea) * (1.f + eb));
}

template <int R>
void step_rows(const WaveNet& net, WaveState& s, bool predict) {
  const int64_t width = net.padded_width, skip = net.padded_skip;
  // The input of a gate: the activation some steps ago, then the present one.
  float* x = s.x.data();
  for (int r = 0; r < R; ++r)
    std::copy_n(net.embed + s.previous[size_t(r)] * width, size_t(width), x + r * 2 * width + width);
  std::fill(s.sums.begin(), s.sums.end(), 0.f);
  for (size_t k = 0; k < net.layers.size(); ++k) {
    const WaveLayer& layer = net.layers[k];
    float* slot = s.queues[k].data() + s.position % layer.dilation * R * width;
    for (int r = 0; r < R; ++r) {
      float* past = slot + r * width;
      float* row = x + r * 2 * width;
      for (int64_t d = 0; d < width; d += kW) {
        store<float>(row + d, load<float>(past + d));
        store<float>(past + d, load<float>(row + width + d));
      }
    }
    product<R>(layer.gate, x, 2 * width, s.gates.data());
    for (int r = 0; r < R; ++r) {
      float* g = s.gates.data() + r * 2 * width;
      for (int64_t d = 0; d < width; d += kW) store<float>(g + d, gate(load<float>(g + d), load<float>(g + width + d)));
    }
    product<R>(layer.out, s.gates.data(), 2 * width, s.mixed.data());
    for (int r = 0; r < R; ++r) {
      const float* m = s.mixed.data() + r * (width + skip);
      float* row = x + r * 2 * width + width;
      for (int64_t d = 0; d < width; d += kW) store<float>(row + d, load<float>(row + d) + load<float>(m + d));
      float* sum = s.sums.data() + r * skip;
      for (int64_t d = 0; d < skip; d += kW) store<float>(sum + d, load<float>(sum + d) + load<float>(m + width + d));
    }
  }
  ++s.position;
  if (!predict) return;
  const auto relu = [](std::vector<float>& values) {
    for (size_t d = 0; d < values.size(); d += kW) store<float>(&values[d], vmax<float>(load<float>(&values[d]), V{}));
  };
  relu(s.sums);
  product<R>(net.middle, s.sums.data(), skip, s.middle.data());
  relu(s.middle);
  product<R>(net.last, s.middle.data(), skip, s.logits.data());
}

void step(const WaveNet& net, WaveState& state, bool predict) {
  with_count<kWaveRows>(state.rows, [&](auto n) { step_rows<decltype(n)::value>(net, state, predict); });
}

int32_t draw(const float* logits, int64_t levels, float scale, double uniform) {
  const int64_t best = std::max_element(logits, logits + levels) - logits;
  if (scale == 0.f) return int32_t(best);
  constexpr int64_t kMost = 256;
  float weights[kMost];
  double sums[kMost / kWaveLane];  // of kWaveLane weights each
  const V most = splat(logits[best]);
  double total = 0;
  for (int64_t first = 0; first < levels; first += kWaveLane) {  // the padding of `logits` is readable
    for (int64_t d = first; d < first + kWaveLane; d += kW)
      store<float>(weights + d, exp_minus((most - load<float>(logits + d)) * scale));
    double sum = 0;
    for (int64_t d = first; d < std::min(first + kWaveLane, levels); ++d) sum += double(weights[d]);
    sums[first / kWaveLane] = sum;
    total += sum;
  }
  double left = uniform * total;
  int64_t first = 0;
  for (; first + kWaveLane < levels && left >= sums[first / kWaveLane]; first += kWaveLane)
    left -= sums[first / kWaveLane];
  const int64_t end = std::min(first + kWaveLane, levels);
  for (int64_t d = first; d < end; ++d) {
    left -= double(weights[d]);
    if (left < 0) return int32_t(d);
  }
  return int32_t(end - 1);
}

}  // namespace
}  // namespace FASTSSL_ISA

extern const WaveTable FASTSSL_JOIN(wave_, FASTSSL_ISA);
const WaveTable FASTSSL_JOIN(wave_, FASTSSL_ISA) = {FASTSSL_ISA::step, FASTSSL_ISA::draw};

}  // namespace fastssl

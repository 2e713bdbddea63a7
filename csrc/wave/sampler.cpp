#include "sampler.h"

#include <algorithm>
#include <cmath>

#include "core/isa.h"
#include "core/parallel.h"
#include "core/philox.h"

namespace fastssl {

WaveSampler::WaveSampler(const WaveWeights& w, int64_t rows) : rows_(rows) {
  net_.levels = w.levels, net_.width = w.width, net_.skip = w.skip;
  net_.padded_levels = padded(w.levels), net_.padded_width = padded(w.width), net_.padded_skip = padded(w.skip);
  net_.embed = packed_.rows(w.embed, w.levels, w.width);
  for (size_t k = 0; k < w.dilations.size(); ++k) {
    const auto n = int64_t(k);
    const int64_t width = w.width, outputs = width + w.skip;
    const WaveMatrix gate =
        packed_.matrix(w.gates + n * 4 * width * width, w.gate_biases + n * 2 * width, {width, width}, {width, width});
    const WaveMatrix out =
        packed_.matrix(w.outs + n * width * outputs, w.out_biases + n * outputs, {width}, {width, w.skip});
    net_.layers.push_back({gate, out, w.dilations[k]});
  }
  net_.middle = packed_.matrix(w.middle, w.middle_bias, {w.skip}, {w.skip});
  net_.last = packed_.matrix(w.last, w.last_bias, {w.skip}, {w.levels});
  // As many groups as threads, at most kWaveRows rows each: what a row draws does not depend on its group.
  const int64_t threads = num_threads();
  const int64_t groups = std::max(ceil_div(rows, int64_t(kWaveRows)), std::min(rows, threads));
  for (int64_t g = 0, first = 0; g < groups; ++g) {
    const int64_t end = rows * (g + 1) / groups;
    groups_.push_back(state(int(end - first)));
    first = end;
  }
}

std::unique_ptr<WaveState> WaveSampler::state(int rows) const {
  auto s = std::make_unique<WaveState>();
  const auto n = size_t(rows);
  s->rows = rows;
  s->previous.assign(n, int32_t(net_.levels / 2));
  for (const WaveLayer& layer : net_.layers)
    s->queues.emplace_back(size_t(layer.dilation * net_.padded_width) * n, 0.f);
  s->x.assign(n * size_t(2 * net_.padded_width), 0.f);
  s->gates.assign(n * size_t(2 * net_.padded_width), 0.f);
  s->mixed.assign(n * size_t(net_.padded_width + net_.padded_skip), 0.f);
  s->sums.assign(n * size_t(net_.padded_skip), 0.f);
  s->middle.assign(n * size_t(net_.padded_skip), 0.f);
  s->logits.assign(n * size_t(net_.padded_levels), 0.f);
  return s;
}

void WaveSampler::run(int32_t* codes, int64_t steps, int64_t given, float temperature, uint64_t seed, float* logits) {
  const WaveTable& kernels = *isa().wave;
  const Philox philox{{uint32_t(seed), uint32_t(seed >> 32)}};
  const float scale = temperature > 0 ? 1.f / temperature : 0.f;
  parallel_tasks(int64_t(groups_.size()), [&](int64_t, int64_t g) {
    WaveState& s = *groups_[size_t(g)];
    const int64_t first = rows_ * g / int64_t(groups_.size());
    for (int64_t t = 0; t < steps; ++t) {
      kernels.step(net_, s, t >= given || logits);
      for (int r = 0; r < s.rows; ++r) {
        const int64_t row = first + r;
        const float* l = s.logits.data() + r * net_.padded_levels;
        if (logits) std::copy_n(l, size_t(net_.levels), logits + (row * steps + t) * net_.levels);
        int32_t& code = codes[row * steps + t];
        if (t >= given) {
          const uint32_t counter[4] = {0, uint32_t(position_ + t), uint32_t(row), uint32_t(row >> 32)};
          uint32_t bits[4];
          philox(counter, bits);
          code = kernels.draw(l, net_.levels, scale, uniform_of(bits[0]));
        }
        s.previous[size_t(r)] = code;
      }
    }
  });
  position_ += steps;
}

}  // namespace fastssl

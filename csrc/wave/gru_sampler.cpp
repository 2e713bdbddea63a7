#include "gru_sampler.h"

#include <algorithm>

#include "core/isa.h"
#include "core/parallel.h"
#include "core/philox.h"

namespace fastssl {

GruSampler::GruSampler(const GruWeights& w, int64_t rows) : rows_(rows) {
  const int64_t half = w.half, values = w.values;
  const std::vector<int64_t> gates(kParts * kGates, half);
  net_.values = values, net_.half = half;
  net_.padded_values = padded(values), net_.padded_half = padded(half);
  net_.scale = 2.f / float(values - 1);
  net_.recurrent = packed_.matrix(w.recurrent, w.recurrent_bias, {half, half}, gates);
  net_.inputs = packed_.matrix(w.inputs, w.inputs_bias, {kInputs}, gates);
  for (int k = 0; k < kParts; ++k) {
    net_.middle[k] = packed_.matrix(w.middles + k * half * half, w.middle_biases + k * half, {half}, {half});
    net_.last[k] = packed_.matrix(w.lasts + k * half * values, w.last_biases + k * values, {half}, {values});
  }
  // As many groups as threads, at most kWaveRows rows each: what a row draws does not depend on its group.
  const int64_t threads = num_threads();
  const int64_t groups = std::max(ceil_div(rows, int64_t(kWaveRows)), std::min(rows, threads));
  for (int64_t g = 0, first = 0; g < groups; ++g) {
    const int64_t end = rows * (g + 1) / groups;
    const auto n = size_t(end - first);
    GruState s;
    s.rows = int(n);
    s.previous.assign(n, int32_t(values * values / 2));
    s.state.assign(n * size_t(kParts * net_.padded_half), 0.f);
    s.recurrent.assign(n * size_t(kParts * kGates * net_.padded_half), 0.f);
    s.middle.assign(n * size_t(net_.padded_half), 0.f);
    s.logits.assign(n * size_t(net_.padded_values), 0.f);
    groups_.push_back(std::move(s));
    first = end;
  }
}

void GruSampler::run(int32_t* codes, int64_t steps, int64_t given, float temperature, uint64_t seed, float* logits) {
  const GruTable& kernels = *isa().gru;
  const auto draw = isa().wave->draw;
  const Philox philox{{uint32_t(seed), uint32_t(seed >> 32)}};
  const float scale = temperature > 0 ? 1.f / temperature : 0.f;
  const int64_t values = net_.values;
  parallel_tasks(int64_t(groups_.size()), [&](int64_t, int64_t g) {
    GruState& s = groups_[size_t(g)];
    const int64_t first = rows_ * g / int64_t(groups_.size());
    int32_t parts[kParts][kWaveRows] = {};
    for (int64_t t = 0; t < steps; ++t) {
      kernels.recur(net_, s);
      for (int k = 0; k < kParts; ++k) {
        kernels.part(net_, s, k, parts[0], t >= given || logits);
        for (int r = 0; r < s.rows; ++r) {
          const int64_t row = first + r, place = row * steps + t;
          const float* l = s.logits.data() + r * net_.padded_values;
          if (logits) std::copy_n(l, size_t(values), logits + (place * kParts + k) * values);
          if (t < given) {
            parts[k][r] = int32_t(k ? codes[place] % values : codes[place] / values);
          } else {
            const uint32_t counter[4] = {0, uint32_t(kParts * (position_ + t) + k), uint32_t(row), uint32_t(row >> 32)};
            uint32_t bits[4];
            philox(counter, bits);
            parts[k][r] = draw(l, values, scale, uniform_of(bits[0]));
          }
        }
      }
      for (int r = 0; r < s.rows; ++r) {
        const int32_t code = s.previous[size_t(r)] = int32_t(parts[0][r] * values + parts[1][r]);
        if (t >= given) codes[(first + r) * steps + t] = code;
      }
    }
  });
  position_ += steps;
}

}  // namespace fastssl

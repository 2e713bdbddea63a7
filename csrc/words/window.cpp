// Windows of Word2Vec on one instruction set. Compiled several times.
#include "window.h"

#include <algorithm>

#include "simd/simd.h"

namespace fastssl {
namespace FASTSSL_ISA {
namespace {

// Scores of a tile stay in registers: inputs x outputs of a window at a time.
constexpr int kTileInputs = kManyRegisters ? 4 : 3, kTileOutputs = kManyRegisters ? 6 : 3;
constexpr int kW = kWidth<float>;
using V = Vec<float>;

// Sums of the lanes of N vectors, one after the other.
template <int N>
FASTSSL_INLINE void sums(const V* v, float* to) {
#if defined(__GNUC__) && !defined(__clang__)
  // Pairs of vectors are added half to half until one vector holds a sum per lane.
  constexpr int kGroups = (N + kW - 1) / kW;
#pragma GCC unroll 4
  for (int g = 0; g < kGroups; ++g) {
    V row[kW];
#pragma GCC unroll 16
    for (int r = 0; r < kW; ++r) row[r] = g * kW + r < N ? v[g * kW + r] : V{};
#pragma GCC unroll 4
    for (int half = kW / 2; half > 0; half /= 2) {
      const IVec<float> second = (iota<float>() & half) != 0;
      const IVec<float> low = second ? iota<float>() - half + kW : iota<float>();
      const IVec<float> high = second ? iota<float>() + kW : iota<float>() + half;
#pragma GCC unroll 16
      for (int r = 0; r < half; ++r) {
        const V a = row[r], b = row[r + half];
        row[r] = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
      }
    }
    if (g * kW + kW <= N) {
      store<float>(to + g * kW, row[0]);
    } else {
      float last[kW];
      store<float>(last, row[0]);
      for (int r = 0; r < N - g * kW; ++r) to[g * kW + r] = last[r];
    }
  }
#else
  for (int r = 0; r < N; ++r) to[r] = hsum<float>(v[r]);
#endif
}

template <int I, int O>
FASTSSL_INLINE void score_tile(const float* const* x, const float* const* y, int64_t stride, float* to, int64_t step) {
  V acc[I * O] = {};
  for (int64_t d = 0; d < stride; d += kW) {
    V b[O];
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o) b[o] = load<float>(y[o] + d);
#pragma GCC unroll 4
    for (int i = 0; i < I; ++i) {
      const V a = load<float>(x[i] + d);
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) acc[i * O + o] += a * b[o];
    }
  }
  float sum[I * O];
  sums<I * O>(acc, sum);
  for (int i = 0; i < I; ++i)
    for (int o = 0; o < O; ++o) to[i * step + o] = sum[i * O + o];
}

// y_o += sum_i g_io x_i, and the rows of `change` (or, in the last group of outputs of a window, x) += sum_o g_io y_o.
template <int O>
FASTSSL_INLINE void update_tile(const Window& w, const float* g, int64_t step, const int32_t* outputs, float* change,
                                bool first, bool last) {
  float* y[O];
  for (int o = 0; o < O; ++o) y[o] = w.out + outputs[o] * w.stride;
  for (int64_t d = 0; d < w.stride; d += kW) {
    V b[O], moved[O] = {};
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o) b[o] = load<float>(y[o] + d);
    for (int i = 0; i < w.n_inputs; ++i) {
      float* x = w.in + w.inputs[i] * w.stride + d;
      float* kept = change + i * w.stride + d;
      const V a = load<float>(x);
      V own = first ? V{} : load<float>(kept);
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) {
        const V by = splat(g[i * step + o]);
        moved[o] += by * a;
        own += by * b[o];
      }
      store<float>(last ? x : kept, last ? a + own : own);
    }
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o) store<float>(y[o] + d, b[o] + moved[o]);
  }
}

// Scores become the weights of the rows in the gradient step; returns the loss if it is wanted. Targets and weights are
// padded as scores are.
double weigh(const Window& w, const float* targets, const float* weights, float* scores, int64_t step, bool measured) {
  double loss = 0;
  for (int64_t i = 0; i < w.n_inputs; ++i) {
    const float own = w.input_weights[i], rate = w.rate * own;
    for (int64_t o = 0; o < step; o += kW) {
      float* at = scores + i * step + o;
      const V s = load<float>(at), target = load<float>(targets + o), weight = load<float>(weights + o);
      const V size = s < 0.f ? -s : s, e = exp_minus(size);
      const V sigma = (s < 0.f ? e : splat(1.f)) / (e + 1.f);
      store<float>(at, (target - sigma) * weight * rate);
      if (!measured) continue;
      const V z = target > 0.f ? -s : s;
      loss += double(own) * double(hsum<float>(((z > 0.f ? z : V{}) + log1pv(e)) * weight));
    }
  }
  return loss;
}

double step_of(const Window& given, WindowScratch& scratch, bool measured) {
  Window w = given;
  if (w.n_inputs == 0 || w.n_outputs == 0) return 0;
  const int64_t step = (w.n_outputs + kW - 1) / kW * kW;
  const int32_t zero = 0;
  const float once = 1.f;
  float total = 0;
  if (w.mean) {  // the mean takes the place of the inputs
    scratch.mean.assign(size_t(w.stride), 0.f);
    float* mean = scratch.mean.data();
    for (int i = 0; i < w.n_inputs; ++i) total += w.input_weights[i];
    for (int i = 0; i < w.n_inputs; ++i) {
      const float* x = w.in + w.inputs[i] * w.stride;
      const float share = w.input_weights[i] / total;
      for (int64_t d = 0; d < w.stride; d += kW)
        store<float>(mean + d, load<float>(mean + d) + load<float>(x + d) * share);
    }
    w.in = mean, w.inputs = &zero, w.input_weights = &once, w.n_inputs = 1;
  }
  if (int64_t(scratch.scores.size()) < w.n_inputs * step) scratch.scores.resize(size_t(w.n_inputs * step));
  const bool several = w.n_outputs > kTileOutputs;
  if ((several || w.mean) && int64_t(scratch.changes.size()) < w.n_inputs * w.stride)
    scratch.changes.resize(size_t(w.n_inputs * w.stride));
  scratch.targets.assign(size_t(step), 0.f);
  scratch.weights.assign(size_t(step), 0.f);  // of the padding: 0
  std::copy(w.targets, w.targets + w.n_outputs, scratch.targets.begin());
  std::copy(w.weights, w.weights + w.n_outputs, scratch.weights.begin());
  float* scores = scratch.scores.data();
  for (int32_t o = 0; o < w.n_outputs; o += kTileOutputs) {
    const float* y[kTileOutputs];
    const int outputs = std::min<int>(kTileOutputs, w.n_outputs - o);
    for (int k = 0; k < outputs; ++k) y[k] = w.out + w.outputs[o + k] * w.stride;
    for (int32_t i = 0; i < w.n_inputs; i += kTileInputs) {
      const float* x[kTileInputs];
      const int inputs = std::min<int>(kTileInputs, w.n_inputs - i);
      for (int k = 0; k < inputs; ++k) x[k] = w.in + w.inputs[i + k] * w.stride;
      with_count<kTileInputs>(inputs, [&](auto ni) {
        with_count<kTileOutputs>(outputs, [&](auto no) {
          score_tile<decltype(ni)::value, decltype(no)::value>(x, y, w.stride, scores + i * step + o, step);
        });
      });
    }
  }
  const double loss = weigh(w, scratch.targets.data(), scratch.weights.data(), scores, step, measured);
  for (int32_t o = 0; o < w.n_outputs; o += kTileOutputs) {
    const int outputs = std::min<int>(kTileOutputs, w.n_outputs - o);
    const bool last = o + outputs == w.n_outputs && !w.mean;
    with_count<kTileOutputs>(outputs, [&](auto no) {
      update_tile<decltype(no)::value>(w, scores + o, step, w.outputs + o, scratch.changes.data(), o == 0, last);
    });
  }
  if (w.mean) {  // d mean / d input is the input's share
    for (int i = 0; i < given.n_inputs; ++i) {
      float* x = given.in + given.inputs[i] * w.stride;
      const float share = given.input_weights[i] / total;
      for (int64_t d = 0; d < w.stride; d += kW)
        store<float>(x + d, load<float>(x + d) + load<float>(scratch.changes.data() + d) * share);
    }
  }
  return loss;
}

void merge(float* row, const float* const* copies, int count, float factor, int64_t n) {
  for (int64_t d = 0; d < n; d += kW) {
    const V before = load<float>(row + d);
    V change{};
    for (int k = 0; k < count; ++k) change += load<float>(copies[k] + d) - before;
    store<float>(row + d, before + change * factor);
  }
}

}  // namespace
}  // namespace FASTSSL_ISA

extern const WordTable FASTSSL_JOIN(words_, FASTSSL_ISA);
const WordTable FASTSSL_JOIN(words_, FASTSSL_ISA) = {FASTSSL_ISA::step_of, FASTSSL_ISA::merge};

}  // namespace fastssl

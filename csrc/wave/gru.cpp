// A step of WaveRNN on one instruction set. Compiled several times.
#include "gru.h"

#include "product.h"

namespace fastssl {
namespace FASTSSL_ISA {
namespace {

FASTSSL_INLINE V sigmoid(V a) {
  const V e = exp_minus(magnitude(a));
  return (a < 0.f ? e : splat(1.f)) / (1.f + e);
}

FASTSSL_INLINE V hyperbolic_tangent(V a) {
  const V e = exp_minus(magnitude(a) * 2.f);
  const V t = (1.f - e) / (1.f + e);
  return a < 0.f ? -t : t;
}

template <int R>
void recur_rows(const GruNet& net, GruState& s) {
  product<R>(net.recurrent, s.state.data(), kParts * net.padded_half, s.recurrent.data());
}

template <int R>
void part_rows(const GruNet& net, GruState& s, int k, const int32_t* coarse, bool predict) {
  const int64_t half = net.padded_half, gates = kGates * half;
  const WaveMatrix& in = net.inputs;
  for (int r = 0; r < R; ++r) {
    const int64_t code = s.previous[size_t(r)];
    const auto input = [&](int64_t part) { return splat(float(part) * net.scale - 1.f); };
    const V x0 = input(code / net.values), x1 = input(code % net.values), x2 = input(k ? coarse[r] : 0);
    float* state = s.state.data() + (r * kParts + k) * half;
    const float* before = s.recurrent.data() + (r * kParts + k) * gates;
    for (int64_t d = 0; d < half; d += kW) {
      const auto given = [&](int gate) {
        const int64_t at = k * gates + gate * half + d;
        V sum = load<float>(in.bias + at) + x0 * load<float>(in.weights + at);
        sum += x1 * load<float>(in.weights + in.stride + at);
        return sum + x2 * load<float>(in.weights + 2 * in.stride + at);
      };
      const V reset = sigmoid(given(0) + load<float>(before + d));
      const V update = sigmoid(given(1) + load<float>(before + half + d));
      const V made = hyperbolic_tangent(given(2) + reset * load<float>(before + 2 * half + d));
      store<float>(state + d, made + update * (load<float>(state + d) - made));
    }
  }
  if (!predict) return;
  product<R>(net.middle[k], s.state.data() + k * half, kParts * half, s.middle.data());
  for (size_t d = 0; d < s.middle.size(); d += kW)
    store<float>(&s.middle[d], vmax<float>(load<float>(&s.middle[d]), V{}));
  product<R>(net.last[k], s.middle.data(), half, s.logits.data());
}

void recur(const GruNet& net, GruState& state) {
  with_count<kWaveRows>(state.rows, [&](auto n) { recur_rows<decltype(n)::value>(net, state); });
}

void part(const GruNet& net, GruState& state, int k, const int32_t* coarse, bool predict) {
  with_count<kWaveRows>(state.rows, [&](auto n) { part_rows<decltype(n)::value>(net, state, k, coarse, predict); });
}

}  // namespace
}  // namespace FASTSSL_ISA

extern const GruTable FASTSSL_JOIN(gru_, FASTSSL_ISA);
const GruTable FASTSSL_JOIN(gru_, FASTSSL_ISA) = {FASTSSL_ISA::recur, FASTSSL_ISA::part};

}  // namespace fastssl

// Kernels of early models on one instruction set. Compiled several times.
#include "kernels.h"

#include <algorithm>
#include <cmath>

#include "core/philox.h"
#include "simd/simd.h"

namespace fastssl {
namespace FASTSSL_ISA {
namespace {

template <class T>
FASTSSL_INLINE Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> e = exp_minus(x < T(0) ? -x : x);
  return (x < T(0) ? e : splat(T(1))) / (e + T(1));
}

// Philox4x32-10 with a key per lane, a register of lanes at a time.
typedef uint64_t Pairs __attribute__((vector_size(kVectorBytes)));
constexpr int kWords = kVectorBytes / 4;

FASTSSL_INLINE Pairs multiply_even(Words x, uint32_t by) {
#if FASTSSL_VECTOR_BYTES == 64
  return (Pairs)_mm512_mul_epu32((__m512i)x, _mm512_set1_epi32(int(by)));
#elif FASTSSL_VECTOR_BYTES == 32
  return (Pairs)_mm256_mul_epu32((__m256i)x, _mm256_set1_epi32(int(by)));
#elif defined(FASTSSL_X86)
  return (Pairs)_mm_mul_epu32((__m128i)x, _mm_set1_epi32(int(by)));
#elif defined(FASTSSL_NEON)
  return (Pairs)vmull_n_u32(vmovn_u64((uint64x2_t)x), by);
#else
  return ((Pairs)x & 0xFFFFFFFFull) * uint64_t(by);
#endif
}
FASTSSL_INLINE void multiply(Words x, uint32_t by, Words& high, Words& low) {
  const Pairs even = multiply_even(x, by), odd = multiply_even((Words)((Pairs)x >> 32), by);
  low = (Words)((even & 0xFFFFFFFFull) | (odd << 32));
  high = (Words)((even >> 32) | (odd & 0xFFFFFFFF00000000ull));
}
FASTSSL_INLINE void draw(uint32_t block, uint32_t stream, Words k0, Words k1, Words out[4]) {
  Words c0 = Words{} + block, c1 = Words{} + stream, c2{}, c3{};
  for (int round = 0; round < 10; ++round) {
    Words a_high, a_low, b_high, b_low;
    multiply(c0, 0xD2511F53u, a_high, a_low);
    multiply(c2, 0xCD9E8D57u, b_high, b_low);
    c0 = b_high ^ c1 ^ k0;
    c1 = b_low;
    c2 = a_high ^ c3 ^ k1;
    c3 = a_low;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

// 24 bits: the same numbers in float and double, none an end of (0, 1).
template <class T>
FASTSSL_INLINE Vec<T> uniform_of(const uint32_t* words) {
  int32_t high[kWidth<T>];
  for (int i = 0; i < kWidth<T>; ++i) high[i] = int32_t(words[i] >> 8);
  return (load_as<Vec<T>>(high) + T(0.5)) * T(1.0 / 16777216.0);
}

constexpr int kTileOutputs = kManyRegisters ? 11 : 6;

// Outputs first to first + R, of V registers of lanes. `packed`: their weights as [input][R]; else rows of the weights,
// whose inputs lie side by side.
template <class T, int R, int V, bool kPacked>
FASTSSL_INLINE void multiply_tile(const HalfStep<T>& s, const T* packed, const T* from, T* to, int64_t first) {
  Vec<T> acc[R][V] = {};
  const T* row[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) row[r] = s.weight + (first + r) * s.output_stride;
  for (int64_t k = 0; k < s.inputs; ++k, from += s.lanes) {
    Vec<T> b[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) b[v] = load<T>(from + v * kWidth<T>);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const T w = kPacked ? packed[k * R + r] : row[r][k];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[r][v] += w * b[v];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store<T>(to + (first + r) * s.lanes + v * kWidth<T>, acc[r][v]);
}

template <class T, int R, bool kPacked>
void multiply_rows(const HalfStep<T>& s, int64_t first) {
  if constexpr (kPacked) {
    T* to = s.scratch;
    const T* from = s.weight + first;
    for (int64_t k = s.inputs; k > 0; --k, to += R, from += s.input_stride) __builtin_memcpy(to, from, R * sizeof(T));
  }
  for (int64_t block = 0; block < s.blocks; ++block) {
    const T* from = s.from + block * s.inputs * s.lanes;
    T* to = s.to + block * s.outputs * s.lanes;
    const int64_t lanes = block + 1 < s.blocks ? s.lanes : s.last_lanes;
    int64_t lane = 0;
    for (; lane + kVectors * kWidth<T> <= lanes; lane += kVectors * kWidth<T>)
      multiply_tile<T, R, kVectors, kPacked>(s, s.scratch, from + lane, to + lane, first);
    for (; lane < lanes; lane += kWidth<T>)
      multiply_tile<T, R, 1, kPacked>(s, s.scratch, from + lane, to + lane, first);
  }
}

template <class T, bool kPacked>
void multiply_units(const HalfStep<T>& s) {
  if (s.end - s.begin < kTileOutputs) {
    for (int64_t r = s.begin; r < s.end; ++r) multiply_rows<T, 1, kPacked>(s, r);
  } else {  // the last tile begins early enough to end with the last unit
    for (int64_t r = s.begin; r < s.end; r += kTileOutputs)
      multiply_rows<T, kTileOutputs, kPacked>(s, r + kTileOutputs <= s.end ? r : s.end - kTileOutputs);
  }
}

template <class T>
void draw_units(const HalfStep<T>& s, T* units, const uint32_t* keys) {
  alignas(64) uint32_t words[4][64];
  for (int64_t first = s.begin; first < s.end; first += kDrawUnits) {
    for (int64_t lane = 0; lane < s.lanes; lane += kWords) {
      Words k0, k1, out[4];
      __builtin_memcpy(&k0, keys + lane, sizeof k0);
      __builtin_memcpy(&k1, keys + s.lanes + lane, sizeof k1);
      draw(uint32_t(first / kDrawUnits), s.stream, k0, k1, out);
      for (int j = 0; j < 4; ++j) __builtin_memcpy(words[j] + lane, &out[j], sizeof k0);
    }
    const int64_t count = std::min(s.end - first, kDrawUnits);
    for (int64_t j = 0; j < count; ++j) {
      T* row = units + (first + j) * s.lanes;
      const T bias = s.bias[first + j];
      if (s.units == Units::binary) {
        for (int64_t lane = 0; lane < s.lanes; lane += kWidth<T>) {
          const Vec<T> p = sigmoid<T>(load<T>(row + lane) + bias), u = uniform_of<T>(words[j] + lane);
          store<T>(row + lane, u < p ? splat(T(1)) : Vec<T>{});
        }
      } else {  // Box and Muller: a pair of uniform numbers gives a pair of normal ones
        for (int64_t lane = 0; lane < s.lanes; ++lane) {
          const double a = (double(words[j / 2 * 2][lane] >> 8) + 0.5) / 16777216.0;
          const double b = (double(words[j / 2 * 2 + 1][lane] >> 8) + 0.5) / 16777216.0;
          const double radius = std::sqrt(-2.0 * std::log(a)), angle = 6.283185307179586476925286766559 * b;
          row[lane] += bias + T(radius * (j % 2 ? std::sin(angle) : std::cos(angle)));
        }
      }
    }
  }
}

template <class T>
void half_step(const HalfStep<T>& s) {
  // Weights of neighbouring outputs that lie side by side are read in steps of a row: they are packed first.
  s.output_stride == 1 ? multiply_units<T, true>(s) : multiply_units<T, false>(s);
  for (int64_t block = 0; block < s.blocks; ++block)
    draw_units(s, s.to + block * s.outputs * s.lanes, s.key_words + block * 2 * s.lanes);
}

// NADE.

template <class T>
FASTSSL_INLINE T softplus(T x) {
  return (x > 0 ? x : T(0)) + std::log1p(std::exp(x > 0 ? -x : x));
}

// Logits of `rows` rows: their hidden units times a row of the output weights.
template <class T, int Rows>
FASTSSL_INLINE void dot_rows(const T* output, const T* units, int64_t hidden, T* to) {
  Vec<T> acc[Rows] = {};
  for (int64_t j = 0; j < hidden; j += kWidth<T>) {
    const Vec<T> w = load<T>(output + j);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) acc[r] += w * load<T>(units + r * hidden + j);
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) to[r] = hsum<T>(acc[r]);
}

template <class T>
void nade_rows(const Nade<T>& p, T* visible, int64_t rows, const int64_t* keys, double* losses, T* slopes, T* last,
               T* scratch) {
  const int64_t n = p.hidden;
  for (int64_t j = 0; j < n; j += kWidth<T>) {
    const Vec<T> a = load<T>(p.hidden_bias + j), h = sigmoid<T>(a);
    for (int64_t r = 0; r < rows; ++r) store<T>(last + r * n + j, a);
    for (int64_t r = 0; r < rows; ++r) store<T>(scratch + r * n + j, h);
  }
  for (int64_t r = 0; r < rows; ++r) losses[r] = 0;
  uint32_t words[kNadeRows][4];
  T logits[kNadeRows];
  for (int64_t d = 0; d < p.dimensions; ++d) {
    const T* output = p.output + d * n;
    if (rows == kNadeRows)
      dot_rows<T, kNadeRows>(output, scratch, n, logits);
    else
      for (int64_t r = 0; r < rows; ++r) dot_rows<T, 1>(output, scratch + r * n, n, logits + r);
    for (int64_t r = 0; r < rows; ++r) {
      const T logit = logits[r] + p.bias[d], e = std::exp(logit < 0 ? logit : -logit);
      const T sigma = (logit < 0 ? e : T(1)) / (1 + e);
      T& v = visible[r * p.dimensions + d];
      if (keys) {
        if (d % 4 == 0) {
          const uint32_t counter[4] = {uint32_t(d / 4), 0, 0, 0};
          Philox{{uint32_t(keys[r]), uint32_t(uint64_t(keys[r]) >> 32)}}(counter, words[r]);
        }
        v = (double(words[r][d % 4] >> 8) + 0.5) / 16777216.0 < double(sigma) ? T(1) : T(0);
      } else {
        losses[r] += double((logit > 0 ? logit : T(0)) + std::log1p(e)) - double(v) * double(logit);
        slopes[r * p.dimensions + d] = sigma - v;
      }
      if (v == 0) continue;  // nothing changes
      const T* w = p.weight + d * n;
      T* a = last + r * n;
      T* h = scratch + r * n;
      for (int64_t j = 0; j < n; j += kWidth<T>) {
        const Vec<T> sum = load<T>(a + j) + v * load<T>(w + j);
        store<T>(a + j, sum);
        store<T>(h + j, sigmoid<T>(sum));
      }
    }
  }
}

// Backward, from the last dimension to the first, for R rows: their hidden units h, and the sum t of
// slope * output weight since h has last changed, stay in registers; the activations a and their gradients s change
// only where a visible unit is not 0.
template <class T, int R>
void nade_group(const Nade<T>& p, const T* visible, const T* slopes, const T* last, int64_t unit, T* weight, T* output,
                T* hidden_bias) {
  constexpr int kV = 2 < kNadeUnits / kWidth<T> ? 2 : int(kNadeUnits / kWidth<T>);
  for (int64_t u = unit; u < unit + kNadeUnits; u += kV * kWidth<T>) {
    Vec<T> a[R][kV], h[R][kV], t[R][kV] = {}, s[R][kV] = {};
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kV; ++v) {
        a[r][v] = load<T>(last + r * p.hidden + u + v * kWidth<T>);
        h[r][v] = sigmoid<T>(a[r][v]);
      }
    for (int64_t d = p.dimensions - 1; d >= 0; --d) {
      const T* w = p.weight + d * p.hidden + u;
      T* gw = weight + d * p.hidden + u;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const T x = visible[r * p.dimensions + d];
        if (x == 0) continue;
        for (int v = 0; v < kV; ++v) {
          s[r][v] += t[r][v] * h[r][v] * (T(1) - h[r][v]);
          t[r][v] = Vec<T>{};
          store<T>(gw + v * kWidth<T>, load<T>(gw + v * kWidth<T>) + x * s[r][v]);
          a[r][v] -= x * load<T>(w + v * kWidth<T>);
          h[r][v] = sigmoid<T>(a[r][v]);
        }
      }
      const T* o = p.output + d * p.hidden + u;
      T* go = output + d * p.hidden + u;
      Vec<T> own[kV], sum[kV];
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) own[v] = load<T>(o + v * kWidth<T>), sum[v] = load<T>(go + v * kWidth<T>);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const T slope = slopes[r * p.dimensions + d];
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) {
          sum[v] += slope * h[r][v];
          t[r][v] += slope * own[v];
        }
      }
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) store<T>(go + v * kWidth<T>, sum[v]);
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < kV; ++v) {
        T* to = hidden_bias + u + v * kWidth<T>;
        store<T>(to, load<T>(to) + s[r][v] + t[r][v] * h[r][v] * (T(1) - h[r][v]));
      }
  }
}

template <class T>
void nade_units(const Nade<T>& p, const T* visible, int64_t rows, const T* slopes, const T* last, int64_t unit,
                T* weight, T* output, T* hidden_bias) {
  constexpr int kGroup = 4;
  int64_t r = 0;
  for (; r + kGroup <= rows; r += kGroup)
    nade_group<T, kGroup>(p, visible + r * p.dimensions, slopes + r * p.dimensions, last + r * p.hidden, unit, weight,
                          output, hidden_bias);
  for (; r < rows; ++r)
    nade_group<T, 1>(p, visible + r * p.dimensions, slopes + r * p.dimensions, last + r * p.hidden, unit, weight,
                     output, hidden_bias);
}

}  // namespace
}  // namespace FASTSSL_ISA

extern const DensityTables FASTSSL_JOIN(density_, FASTSSL_ISA);
const DensityTables FASTSSL_JOIN(density_, FASTSSL_ISA) = {
    {FASTSSL_ISA::half_step<float>, FASTSSL_ISA::nade_rows<float>, FASTSSL_ISA::nade_units<float>},
    {FASTSSL_ISA::half_step<double>, FASTSSL_ISA::nade_rows<double>, FASTSSL_ISA::nade_units<double>}};

}  // namespace fastssl

// The kernels of one instruction set, behind one table. Compiled several times with other flags.
#include "augment/batch.h"
#include "core/isa.h"
#include "pair/backward.h"
#include "pair/gradient_epilogue.h"
#include "row/extreme.h"
#include "row/fast_ap.h"
#include "row/hinge.h"
#include "row/lifted.h"
#include "row/ranked_list.h"
#include "row/select.h"
#include "row/semihard.h"
#include "row/softplus.h"
#include "row/triplet.h"
#include "simd/pack.h"

namespace fastssl {
namespace FASTSSL_ISA {
namespace {

template <class T>
constexpr PairTable<T> pair_table() {
  using K = Plain<T>;
  return {{forward<K, Bounded>, forward_running_max<K>, forward<K, Sigmoid>},
          {backward<K, false>, backward<K, true>, backward<K, false>},
          pack<T>,
          gradient_epilogue<T>};
}

#define FASTSSL_FORWARD(name) name##_forward<T>
#define FASTSSL_BACKWARD(name) name##_backward<T>
// In the order of Metric.
template <class T>
constexpr RowTable<T> row_table() {
  return {{score<T, Metric::dot>, score<T, Metric::sqeuclidean>, score<T, Metric::euclidean>,
           score<T, Metric::manhattan>, score<T, Metric::chebyshev>},
          {accumulate_products<T>, accumulate_products<T>, accumulate_products<T>, accumulate_signs<T, false>,
           accumulate_signs<T, true>},
          {FASTSSL_ROW_LOSSES(FASTSSL_FORWARD)},
          {FASTSSL_ROW_LOSSES(FASTSSL_BACKWARD)},
          weigh<T>,
          select<T>};
}

// The roof: independent multiply-adds on registers, enough of them to hide the latency.
double fma_loop(int64_t iterations) {
  constexpr int kChains = 12;
  Vec<float> acc[kChains];
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) acc[c] = splat(float(c) * 1e-3f);
  const Vec<float> a = splat(0.999f), b = splat(1e-3f);
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) acc[c] = acc[c] * a + b;
  }
  float sum = 0;
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) sum += hsum<float>(acc[c]);
  volatile float sink = sum;
  (void)sink;
  return double(iterations) * kChains * kWidth<float> * 2;
}

}  // namespace
}  // namespace FASTSSL_ISA

extern const AugmentTable FASTSSL_JOIN(augment_, FASTSSL_ISA);
extern const WordTable FASTSSL_JOIN(words_, FASTSSL_ISA);
extern const DensityTables FASTSSL_JOIN(density_, FASTSSL_ISA);
extern const CharacteristicTables FASTSSL_JOIN(characteristic_, FASTSSL_ISA);
extern const WaveTable FASTSSL_JOIN(wave_, FASTSSL_ISA);
extern const GruTable FASTSSL_JOIN(gru_, FASTSSL_ISA);
extern const ElementwiseTable FASTSSL_JOIN(elementwise_, FASTSSL_ISA);
extern const AttentionTable FASTSSL_JOIN(attention_, FASTSSL_ISA);

const IsaTable& FASTSSL_JOIN(isa_, FASTSSL_ISA)() {
  static const PairTable<float> pairs_f32 = FASTSSL_ISA::pair_table<float>();
  static const PairTable<double> pairs_f64 = FASTSSL_ISA::pair_table<double>();
  static const RowTable<float> rows_f32 = FASTSSL_ISA::row_table<float>();
  static const RowTable<double> rows_f64 = FASTSSL_ISA::row_table<double>();
  static const IsaTable table = {FASTSSL_TEXT(FASTSSL_ISA),
                                 &pairs_f32,
                                 &pairs_f64,
                                 nullptr,  // bf16_pairs.cpp
                                 FASTSSL_ISA::dot,
                                 FASTSSL_ISA::add_row,
                                 FASTSSL_ISA::dot_row,
                                 FASTSSL_ISA::fma_loop,
                                 &rows_f32,
                                 &rows_f64,
                                 &FASTSSL_JOIN(augment_, FASTSSL_ISA),
                                 &FASTSSL_JOIN(words_, FASTSSL_ISA),
                                 &FASTSSL_JOIN(density_, FASTSSL_ISA),
                                 &FASTSSL_JOIN(characteristic_, FASTSSL_ISA),
                                 &FASTSSL_JOIN(wave_, FASTSSL_ISA),
                                 &FASTSSL_JOIN(gru_, FASTSSL_ISA),
                                 &FASTSSL_JOIN(elementwise_, FASTSSL_ISA),
                                 &FASTSSL_JOIN(attention_, FASTSSL_ISA)};
  return table;
}

}  // namespace fastssl
